"""SPIN, self-play fine-tuning: the policy learns to tell demonstrations from strings of an older
self.

    loss = -E_{x ~ p, y ~ old}[ log sigmoid(h(x) - h(y)) ],   h = beta log q / old of whole strings

and old becomes q every so many updates. Of all laws old (p / old)^{1 / beta} has the least loss:
with beta 1 that is the expert, with less it is beyond it, and rounds run to their ends swing ever
wider for beta < 1/2 (the error is multiplied by 1 - 1 / beta). While q is old the expected gradient
is beta / 2 times forward KL's, whatever they are, so that a class that does not hold the expert
comes to rest where likelihood would. Source: Chen et al. 2024 (arXiv 2401.01335)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import softplus

from fdiv import tokens as tk
from fdiv.checks import buildable
from fdiv.comparisons import Compared, log_probs, report
from fdiv.ranges import check_ranges, ranged
from fdiv.types import (
    Claim,
    Components,
    Level,
    Look,
    Method,
    Model,
    Objective,
    Pairs,
    Params,
    Sequences,
)


@dataclasses.dataclass(frozen=True)
class Spin(Method):
    """Self-play fine-tuning (SPIN)."""

    kind: ClassVar = "spin"
    reusable = True
    look = Look("<", "-.", "an older self", "#44AA99")
    beta: float = ranged(1.0, above=0)
    """Weight of the log-ratio to the old policy in what is told apart."""
    refresh: int = ranged(20, least=1)
    """Updates after which the old policy is the policy as it then is."""
    learning_rate: float | None = ranged(None, above=0)
    """Learning rate of the policy, in place of the one common to all methods."""

    def check(self) -> None:
        check_ranges(self)

    def build(self, components: Components) -> Objective:
        buildable(self, components)
        return spin(components, self.beta, self.refresh)

    def claim(self) -> Claim:
        sentence = (
            f"{self.beta / 2:g} times the gradient of sequence forward_kl just after the "
            "old policy is renewed"
        )
        later = (
            ", as at every update."
            if self.refresh == 1
            else "; no divergence's in between, with the same fixed points."
        )
        return Claim("forward_kl", Level.sequence, sentence + later)


class SpinState(NamedTuple):
    old: Params
    step: Array


def spin(components: Components, beta: float = 1.0, refresh: int = 20) -> Objective:
    """The objective on a batch of demonstrations, whose prompts the old policy answers as well."""
    policy, mdp = components.policy, components.mdp

    def margin(log_q: tuple[Array, Array], x: Compared) -> Array:
        demos, samples = (beta * (new - old) for new, old in zip(log_q, x.log_ref))
        return demos - samples

    def prepare(key, params, aux, batch):
        renew = aux.step % refresh == 0
        old = jax.tree.map(lambda new, before: jnp.where(renew, new, before), params, aux.old)
        samples = components.rollout(key, policy, old, tk.prompts_of(batch, mdp.horizon))[0]
        pairs = pair_up(tk.normalise(batch), tk.normalise(samples), components.enumerated)
        x = Compared(pairs, log_probs(components, Model(policy, old), pairs))
        log_q = log_probs(components, Model(policy, params), pairs)
        return SpinState(old, aux.step + 1), x, report(pairs, log_q, margin(log_q, x))

    def loss(params, aux, batch):
        log_q = log_probs(components, Model(policy, params), batch.pairs)
        return batch.pairs.chosen.weight @ softplus(-margin(log_q, batch)), {}

    return Objective(lambda key, params: SpinState(params, jnp.zeros((), jnp.int32)), prepare, loss)


def pair_up(demos: Sequences, samples: Sequences, whole: bool) -> Pairs:
    """Row with row; of whole populations each with each, by the product of their weights."""
    if not whole:
        return Pairs(demos, samples._replace(weight=demos.weight))
    rows, others = demos.tokens.shape[0], samples.tokens.shape[0]
    weight = jnp.outer(demos.weight, samples.weight).ravel()
    demos = jax.tree.map(lambda x: jnp.repeat(x, others, axis=0), demos)
    samples = jax.tree.map(lambda x: jnp.tile(x, (rows, *[1] * (x.ndim - 1))), samples)
    return Pairs(demos._replace(weight=weight), samples._replace(weight=weight))
