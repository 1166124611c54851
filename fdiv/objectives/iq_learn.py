"""IQ-Learn: rewards without a discriminator. A policy and a value function are a reward, r = log q
+ V(before) - V(after).

    maximise  E_p[ sum phi(r) ] - E[ sum V(before) - V(after) ],
    phi(r) = r - r^2 / (4 alpha),   V = 0 after the end

Q = log q + V(before) is a soft Q-function and V its logsumexp, so q is the soft optimum under r.
Over strings the second term telescopes to V of the prompt, whosever they are, and so do the V in
the first: what is left is

    loss = -E_p[ log q ] + E[ sum r^2 ] / (4 alpha),

likelihood with a price on rewards; V makes rewards small and needs no alpha. The squares are of
demonstrations (offline), or half of them of the policy's strings, held as drawn (mixed: what is
published for online use), without which nothing is asked of V where demonstrations do not go. Where
the class holds all laws, offline solves

    min over q of  alpha sum_{prefixes} (q - p)^2 / p - H(q)
                   (Neyman chi-square of occupancies, entropy of strings)

with r = 2 alpha (1 - q / p) at the optimum (mixed: 4 alpha (p - q) / (p + q), bounded). The entropy
is a bias: q is flatter than the expert, by O(1 / alpha); at alpha = inf it is behaviour cloning in
any class. Discount 1, as strings end. Sources: Garg et al. 2021 (arXiv 2106.12142); Al-Hafez et al.
2023 (LS-IQ, arXiv 2303.00599) for the square on mixtures."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from fdiv import tokens as tk
from fdiv.checks import buildable, present
from fdiv.ranges import MOST_STEPS, check_ranges, ranged
from fdiv.types import Claim, Components, Level, Look, Method, Objective, Sequences

Data = Literal["offline", "mixed"]


@dataclasses.dataclass(frozen=True)
class IqLearn(Method):
    """Inverse soft-Q learning (IQ-Learn)."""

    kind: ClassVar = "iq_learn"
    needs = ("critic",)
    look = Look(">", "--", "value function", "#7F3C8D")
    data: Data = "offline"
    """Whose rewards are kept small: the demonstrations' (offline), or half of them the policy's own
    (mixed)."""
    alpha: float = ranged(10.0, above=0)
    """Weight of the chi-square against the policy's entropy: more is nearer to the expert, and to
    behaviour cloning."""
    value_learning_rate: float = ranged(0.02, above=0)
    """Learning rate of the value function."""
    value_steps: int = ranged(4, least=1, most=MOST_STEPS)
    """Value steps per update."""
    learning_rate: float | None = ranged(None, above=0)
    """Learning rate of the policy, in place of the one common to all methods."""

    @property
    def reusable(self) -> bool:
        return self.data == "offline"

    def check(self) -> None:
        check_ranges(self)

    def build(self, components: Components) -> Objective:
        buildable(self, components)
        return iq_learn(
            components, self.data, self.alpha, self.value_learning_rate, self.value_steps
        )

    def claim(self) -> Claim:
        whose = "demonstrations" if self.data == "offline" else "demonstrations and own strings"
        sentence = f"Biased: likelihood less the squared rewards of {whose} / {4 * self.alpha:g}"
        aside = "it takes squared rewards off the likelihood; what is shown is forward_kl alone."
        sentence += "; flatter than the expert, by O(1 / alpha)."
        return Claim("forward_kl", Level.sequence, sentence, aside=aside)


class Rewards(NamedTuple):
    """Strings, and what makes rewards of their log-probs. Weights are shares of the squares."""

    sequences: Sequences
    demos: Array  # [B] shares of the likelihood, 0 for the policy's own strings
    fall: Array  # [B, T] V(before) - V(after) of each action


def iq_learn(
    components: Components,
    data: Data = "offline",
    alpha: float = 10.0,
    value_learning_rate: float = 0.02,
    value_steps: int = 4,
) -> Objective:
    """The objective on a batch of demonstrations; the state is the value function's, (params,
    optimiser state)."""
    policy, mdp, critic = components.policy, components.mdp, present(components.critic, "critic")
    tx = components.optimiser(value_learning_rate)

    def fall(value: Any, x: Sequences) -> Array:
        before = jnp.where(x.mask, critic.head(value, critic.trunk(value, x.tokens))[..., 0], 0.0)
        return before - jnp.where(x.mask, jnp.pad(before, [(0, 0), (0, 1)])[:, 1:], 0.0)

    def squares(x: Sequences, log_q: Array, fall: Array) -> Array:
        return jnp.sum(x.weight[:, None] * jnp.where(x.mask, log_q + fall, 0.0) ** 2)

    def init(key, params):
        value = critic.init(key, params)
        return value, tx.init(value)

    def prepare(key, params, aux, batch):
        demos = tk.normalise(batch)
        x, demo_weight = demos, demos.weight
        if data == "mixed":
            own = tk.normalise(
                components.rollout(key, policy, params, tk.prompts_of(batch, mdp.horizon))[0]
            )
            x = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), demos, own)
            x = x._replace(weight=x.weight / 2)
            demo_weight = jnp.concatenate([demos.weight, jnp.zeros_like(own.weight)])
        log_q = tk.log_probs(policy, params, x, mdp.vocab)

        def learn(_, state):
            value, opt = state
            slope = jax.grad(lambda v: 0.5 * squares(x, log_q, fall(v, x)))(value)
            updates, opt = tx.update(slope, opt, value)
            return optax.apply_updates(value, updates), opt

        aux = jax.lax.fori_loop(0, value_steps, learn, aux)
        falls = fall(aux[0], x)
        metrics = {"tokens": x.mask.sum(), "squared_reward": squares(x, log_q, falls)}
        return aux, Rewards(x, demo_weight, falls), metrics

    def loss(params, aux, batch):
        log_q = tk.log_probs(policy, params, batch.sequences, mdp.vocab)
        return -batch.demos @ log_q.sum(1) + squares(batch.sequences, log_q, batch.fall) / (
            4 * alpha
        ), {}

    return Objective(init, prepare, loss)
