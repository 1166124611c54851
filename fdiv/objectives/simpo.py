"""SimPO: mean log-probs per token, no reference, and a margin.

    loss = E[ -log sigmoid(beta (log q(chosen) / |chosen| - log q(rejected) / |rejected| - margin))
    ]

The margin is gamma / beta, nats per token. Without one, and under Bradley-Terry preferences in r,
the loss is least where log q(x) = |x| (r(x) / beta + c), c such that q sums to one: a law of
rewards and lengths that knows no reference. With one, preferences count for more than they are, no
law of strings fits all of them, and the minimiser has no closed form. Source: Meng, Xia & Chen 2024
(arXiv 2405.14734)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jax import Array
from jax.nn import softplus

from fdiv.checks import buildable
from fdiv.comparisons import NO_RETURN, compared, regulariser
from fdiv.ranges import check_ranges, ranged
from fdiv.types import Claim, Components, Look, Method, Objective


@dataclasses.dataclass(frozen=True)
class Simpo(Method):
    """Simple preference optimisation."""

    kind: ClassVar = "simpo"
    reusable = True
    look = Look("p", "--", "preferences, no reference", "#9A9A00")
    reads = "pairs"
    margin: float = ranged(0.5, least=0)
    """How far ahead the chosen string is to be, in nats per token (gamma / beta)."""
    learning_rate: float | None = ranged(None, above=0)
    """Learning rate of the policy, in place of the one common to all methods."""

    def check(self) -> None:
        check_ranges(self)

    def build(self, components: Components) -> Objective:
        buildable(self, components)
        return simpo(components, self.margin)

    def claim(self) -> Claim:
        sentence = (
            "SimPO: log q per token follows r / beta at margin 0, and more than that with "
            "one; it knows no reference, so "
        )
        return Claim(
            "reverse_kl",
            "return",
            sentence + "not ref exp(r / beta), and no divergence's gradient on the way.",
            aside=NO_RETURN,
        )


def simpo(components: Components, margin: float = 0.5) -> Objective:
    """The objective on a batch of comparisons."""
    beta = regulariser(components.mdp).beta

    def per_token(log_q: Array, log_ref: Array, size: Array) -> Array:
        return log_q / jnp.maximum(size, 1)

    return compared(
        components, per_token, lambda ahead: softplus(-beta * (ahead - margin)), referenced=False
    )
