"""Losses as other codes have them, for the gradient card alone: no command trains with them.

naive_F              policy gradient with -f(u) as the reward, f as textbooks have it: FAIRL's for
                     forward KL, right for reverse KL
sampled_K_PLACEMENT  K estimated from the one token that was sampled, differentiated as a loss
                     (verl, torchrl, slime; TRL's GRPO towards its reference) or earned as a reward
top_k_alone          forward KL's terms at the expert's likeliest token without the rest (verl)
top_k_conditional    reverse KL of both laws conditioned on the policy's likeliest two tokens (TRL's
                     SDFT and SDPO without their tail)"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import Array

from fdiv import divergences
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
    form: Literal["alone", "conditional"] = "alone"

    @property
    def _name(self) -> str:
        return "forward_kl" if self.form == "alone" else "reverse_kl"

    def claim(self) -> Claim:
        return Claim(self._name, Level.token_expert, "The likeliest tokens without the rest.")

    def build(self, components: Components) -> Objective:
        measure = alone if self.form == "alone" else conditional
        return distill(components, divergences.parse(self._name), measure=measure)


def alone(z_q: Array, z_p: Array, k: int = 1) -> Array:
    """sum over the k likeliest tokens of p log(p / q), [..., V] -> [...]."""
    log_q, log_p = jax.nn.log_softmax(z_q), jax.nn.log_softmax(z_p)
    top = jax.lax.top_k(jax.lax.stop_gradient(z_p), k)[1]
    log_q, log_p = (jnp.take_along_axis(x, top, -1) for x in (log_q, log_p))
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def conditional(z_q: Array, z_p: Array, k: int = 2) -> Array:
    """KL of both laws given the policy's k likeliest tokens, [..., V] -> [...]."""
    top = jax.lax.top_k(jax.lax.stop_gradient(z_q), k)[1]
    log_q, log_p = (jax.nn.log_softmax(jnp.take_along_axis(z, top, -1)) for z in (z_q, z_p))
    return jnp.sum(jnp.exp(log_q) * (log_q - log_p), axis=-1)


PUBLISHED: dict[str, Method] = {
    "naive_forward_kl": Naive(divergence="forward_kl"),
    "naive_reverse_kl": Naive(divergence="reverse_kl"),
    "naive_js": Naive(divergence="js"),
    "sampled_k1_loss": Sampled(estimator="k1", placement="loss"),
    "sampled_k2_loss": Sampled(estimator="k2", placement="loss"),
    "sampled_k3_loss": Sampled(estimator="k3", placement="loss"),
    "sampled_k1_reward": Sampled(estimator="k1", placement="reward"),
    "sampled_k3_reward": Sampled(estimator="k3", placement="reward"),
    "sampled_k3_ratio": Sampled(estimator="k3", placement="ratio"),
    "top_k_alone": TopK(form="alone"),
    "top_k_conditional": TopK(form="conditional"),
}
