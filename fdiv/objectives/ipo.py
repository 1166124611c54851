"""IPO: the difference of two log-ratios is to be a fixed number, not as large as can be.

    h    = log q(chosen) / ref(chosen) - log q(rejected) / ref(rejected)
    loss = E[ (h - 1 / (2 tau))^2 ],   tau = beta

The log-ratios of a string's tokens are summed, as in the paper. With `reduction` mean they are
averaged over the string's actions, as TRL does: a fixed number per token then, and at its minimum
log q / ref is |x| times as large.

Over both orders of two strings that is (h - (P(x before y) - 1/2) / tau)^2 and a constant. Where x
and y are two draws of one law, it is least on average at

    q(x) ~ ref(x) e^{P(x) / tau},   P(x) = E_y[ P(x before y) ],

the most of E_q[P] - tau KL(q||ref), whatever preferences are made of; P depends on the law of the
strings compared. Source: Azar et al. 2023 (arXiv 2310.12036)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import jax.numpy as jnp
from jax import Array

from fdiv.checks import buildable
from fdiv.comparisons import NO_RETURN, compared, regulariser
from fdiv.ranges import check_ranges, ranged
from fdiv.types import Claim, Components, Look, Method, Objective

Reduction = Literal["sum", "mean"]


@dataclasses.dataclass(frozen=True)
class Ipo(Method):
    """Identity preference optimisation."""

    kind: ClassVar = "ipo"
    reusable = True
    look = Look("v", "-.", "preferences, fixed margin", "#8C564B")
    reads = "pairs"
    reduction: Reduction = "sum"
    """What is made of a string's log-ratios of tokens: their sum (the paper), or their mean
    (TRL)."""
    learning_rate: float | None = ranged(None, above=0)
    """Learning rate of the policy, in place of the one common to all methods."""

    def check(self) -> None:
        check_ranges(self)

    def build(self, components: Components) -> Objective:
        buildable(self, components)
        return ipo(components, self.reduction)

    def claim(self) -> Claim:
        sentence = (
            "IPO: its population minimiser is ref exp(P / beta), P a string's chance to "
            "win against another of the data; "
        )
        if self.reduction == "mean":
            sentence = (
                "IPO, log-ratios averaged over tokens: log q / ref per token follows P / beta, P a "
                "string's chance to win against another of the data; "
            )
        return Claim(
            "reverse_kl",
            "return",
            sentence + "not ref exp(r / beta), and no divergence's gradient on the way.",
            aside=NO_RETURN,
        )


def ipo(components: Components, reduction: Reduction = "sum") -> Objective:
    """The objective on a batch of comparisons."""
    target = 0.5 / regulariser(components.mdp).beta

    def summed(log_q: Array, log_ref: Array, size: Array) -> Array:
        return log_q - log_ref

    def averaged(log_q: Array, log_ref: Array, size: Array) -> Array:
        return (log_q - log_ref) / jnp.maximum(size, 1)

    score = summed if reduction == "sum" else averaged
    return compared(components, score, lambda margin: (margin - target) ** 2)
