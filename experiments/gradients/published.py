"""Losses as other codes have them, for the gradient card alone: no command trains with them.

naive_F              policy gradient with -f(u) as the reward, f as textbooks have it: FAIRL's for
                     forward KL, right for reverse KL
relativistic_gan     the relativistic GAN's own reward, log sigmoid(s(y) - s(x)) over demonstrations
                     x, in the place of softplus(s(y) - s(x))
sampled_K_PLACEMENT  K estimated from the one token that was sampled, differentiated as a loss
                     (verl, torchrl, slime; TRL's GRPO towards its reference), earned as a reward
                     (verl's use_kl_in_reward), or a loss times the ratio (TRL's
                     use_bias_correction_kl, slime's use_unbiased_kl)
sampled_k3_straight  the value of k3 with the gradient of k2 (verl's k3+)
sampled_z_score      log p - log q of each sampled token, less the batch's mean over its deviation,
                     as its advantage (PowerOPD's baseline of that name)
top_k_alone          forward KL's terms at the expert's likeliest token without the rest (verl)
top_k_reverse        reverse KL's at the policy's likeliest two (verl's reverse_kl_topk)
top_k_conditional    reverse KL of both laws conditioned on the policy's likeliest two tokens (TRL's
                     SDFT and SDPO without their tail)"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import Array

from fdiv import divergences, pairwise
from fdiv import tokens as tk
from fdiv.checks import present
from fdiv.objectives.distill import distill
from fdiv.objectives.policy_gradient import policy_gradient
from fdiv.penalties import Estimator, Placement, kl_penalty
from fdiv.types import Claim, Components, Level, Method, Objective, hidden


@dataclasses.dataclass(frozen=True)
class Naive(Method):
    """The term -f(u) of a divergence, f as textbooks have it, as the reward of a string."""

    kind: ClassVar = "naive"
    divergence: str = hidden("forward_kl")

    def claim(self) -> Claim:
        return Claim(self.divergence, Level.sequence, "Pays -f(u) in place of u f'(u) - f(u).")

    def build(self, components: Components) -> Objective:
        d = divergences.parse(self.divergence)
        return policy_gradient(components, d._replace(reward=TERMS[self.divergence]))


TERMS = {  # -f(u) of u log u, -log u and (u log u - (u+1) log((u+1)/2)) / 2
    "forward_kl": lambda s: -s * jnp.exp(s),
    "reverse_kl": lambda s: s,
    "js": lambda s: -divergences.js().perspective(s, jnp.zeros_like(s)),
}


@dataclasses.dataclass(frozen=True)
class RelativisticGan(Method):
    """The relativistic GAN's reward, the log-ratio being known."""

    kind: ClassVar = "relativistic_gan"

    def claim(self) -> Claim:
        d, sentence = divergences.js(), "Pays log sigmoid(s(y) - s(x)), x demonstrations."
        measure = functools.partial(pairwise.measured, d)
        return Claim("js", Level.sequence, sentence, how="of pairs", measure=measure)

    def build(self, components: Components) -> Objective:
        policy, expert = components.policy, present(components.mdp.expert, "known expert")
        vocab = components.mdp.vocab

        def paying(reward: Callable[[Array], Array]) -> Objective:
            return policy_gradient(components, divergences.js()._replace(reward=reward))

        def prepare(key, params, aux, batch):
            log_p, log_q = (
                tk.log_probs(*model, batch, vocab).sum(1) for model in (expert, (policy, params))
            )
            weight = tk.normalise(batch).weight

            def reward(s: Array) -> Array:
                real = (log_p - log_q).reshape((1,) * s.ndim + (-1,))
                return jax.nn.log_sigmoid(s[..., None] - real) @ weight

            return paying(reward).prepare(key, params, aux, batch)

        return paying(divergences.js().reward)._replace(prepare=prepare)


@dataclasses.dataclass(frozen=True)
class ZScore(Method):
    """Rewards of tokens, standardised over the batch."""

    kind: ClassVar = "z_score"

    def claim(self) -> Claim:
        sentence = "log p - log q of each sampled token, less its mean, over its deviation."
        return Claim("reverse_kl", Level.token_policy, sentence)

    def build(self, components: Components) -> Objective:
        expert = present(components.mdp.expert, "known expert")
        plain = kl_penalty(components, expert, "k1", "reward", discount=0.0)

        def prepare(key, params, aux, batch):
            aux, x, metrics = plain.prepare(key, params, aux, batch)
            s = x.log_ref - x.log_old
            mass = jnp.where(x.sequences.mask, x.sequences.weight[:, None], 0.0)
            share = mass / mass.sum()
            mean = jnp.sum(share * s)
            deviation = jnp.sqrt(jnp.sum(share * (s - mean) ** 2))
            advantage = jnp.where(x.sequences.mask, (s - mean) / (deviation + 1e-8), 0.0)
            return aux, x._replace(advantages=advantage), metrics

        return plain._replace(prepare=prepare)


@dataclasses.dataclass(frozen=True)
class Straight(Method):
    """The value of k3 of each sampled token with the gradient of k2."""

    kind: ClassVar = "sampled_straight"

    def claim(self) -> Claim:
        return Claim("reverse_kl", Level.token_policy, "k3 of each token, differentiated as k2.")

    def build(self, components: Components) -> Objective:
        expert = present(components.mdp.expert, "known expert")
        value, slope = (
            kl_penalty(components, expert, estimator, "loss", discount=0.0)
            for estimator in ("k3", "k2")
        )

        def loss(params, aux, batch):
            seen, moved = (each.loss(params, aux, batch)[0] for each in (value, slope))
            return jax.lax.stop_gradient(seen - moved) + moved, {}

        return value._replace(loss=loss)


@dataclasses.dataclass(frozen=True)
class Sampled(Method):
    """An estimator of reverse KL from the sampled tokens, towards the known expert."""

    kind: ClassVar = "sampled"
    estimator: Estimator = "k1"
    placement: Placement = "loss"

    def claim(self) -> Claim:
        sentence = f"{self.estimator} of each sampled token as a {self.placement}."
        return Claim("reverse_kl", Level.token_policy, sentence)

    def build(self, components: Components) -> Objective:
        expert = present(components.mdp.expert, "known expert")
        return kl_penalty(components, expert, self.estimator, self.placement, discount=0.0)


@dataclasses.dataclass(frozen=True)
class TopK(Method):
    """Likeliest tokens compared without the rest, on the expert's prefixes."""

    kind: ClassVar = "top_k"
    form: Literal["alone", "reverse", "conditional"] = "alone"

    @property
    def _name(self) -> str:
        return "forward_kl" if self.form == "alone" else "reverse_kl"

    def claim(self) -> Claim:
        return Claim(self._name, Level.token_expert, "The likeliest tokens without the rest.")

    def build(self, components: Components) -> Objective:
        measure = {"alone": alone, "reverse": reverse, "conditional": conditional}[self.form]
        return distill(components, divergences.parse(self._name), measure=measure)


def alone(z_q: Array, z_p: Array, k: int = 1) -> Array:
    """sum over the k likeliest tokens of p log(p / q), [..., V] -> [...]."""
    log_q, log_p = jax.nn.log_softmax(z_q), jax.nn.log_softmax(z_p)
    top = jax.lax.top_k(jax.lax.stop_gradient(z_p), k)[1]
    log_q, log_p = (jnp.take_along_axis(x, top, -1) for x in (log_q, log_p))
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def reverse(z_q: Array, z_p: Array, k: int = 2) -> Array:
    """sum over the policy's k likeliest tokens of q log(q / p), [..., V] -> [...]."""
    log_q, log_p = jax.nn.log_softmax(z_q), jax.nn.log_softmax(z_p)
    top = jax.lax.top_k(jax.lax.stop_gradient(z_q), k)[1]
    log_q, log_p = (jnp.take_along_axis(x, top, -1) for x in (log_q, log_p))
    return jnp.sum(jnp.exp(log_q) * (log_q - log_p), axis=-1)


def conditional(z_q: Array, z_p: Array, k: int = 2) -> Array:
    """KL of both laws given the policy's k likeliest tokens, [..., V] -> [...]."""
    top = jax.lax.top_k(jax.lax.stop_gradient(z_q), k)[1]
    log_q, log_p = (jax.nn.log_softmax(jnp.take_along_axis(z, top, -1)) for z in (z_q, z_p))
    return jnp.sum(jnp.exp(log_q) * (log_q - log_p), axis=-1)


PUBLISHED: dict[str, Method] = {
    "naive_forward_kl": Naive(divergence="forward_kl"),
    "naive_reverse_kl": Naive(divergence="reverse_kl"),
    "naive_js": Naive(divergence="js"),
    "relativistic_gan": RelativisticGan(),
    "sampled_k1_loss": Sampled(estimator="k1", placement="loss"),
    "sampled_k2_loss": Sampled(estimator="k2", placement="loss"),
    "sampled_k3_loss": Sampled(estimator="k3", placement="loss"),
    "sampled_k1_reward": Sampled(estimator="k1", placement="reward"),
    "sampled_k3_reward": Sampled(estimator="k3", placement="reward"),
    "sampled_k3_ratio": Sampled(estimator="k3", placement="ratio"),
    "sampled_k3_straight": Straight(),
    "sampled_z_score": ZScore(),
    "top_k_alone": TopK(form="alone"),
    "top_k_reverse": TopK(form="reverse"),
    "top_k_conditional": TopK(form="conditional"),
}
