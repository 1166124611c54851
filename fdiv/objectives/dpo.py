"""Direct preference optimisation for any f: the policy is its own reward model.

    r^(x) = -beta reward(s),   s = log ref(x) - log q(x) of the whole string
                               (reverse_kl: beta log q(x) / ref(x))
    loss  = E[ -log sigmoid(r^(chosen) - r^(rejected)) ]

At the optimum of E_q[r] - beta D_f(ref||q) r and r^ differ by a constant (`fdiv.regularised`). So
where preferences are Bradley-Terry in r the loss is least there, whichever strings are compared; on
the way there it is another loss than D_f. Sources: Rafailov et al. 2023 (arXiv 2305.18290); Wang et
al. 2023 (f-DPO, arXiv 2309.16240); Mitchell 2023 ("A note on DPO with noisy preferences",
conservative DPO) for smoothed labels."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from jax import Array
from jax.nn import softplus

from fdiv import divergences
from fdiv.checks import buildable
from fdiv.comparisons import compared, regulariser
from fdiv.ranges import check_ranges, ranged
from fdiv.regularised import extended_reward, refuse_unless_kept
from fdiv.types import Claim, Components, Divergence, Look, Method, Objective, hidden


@dataclasses.dataclass(frozen=True)
class Dpo(Method):
    """Direct preference optimisation (dpo, f_dpo)."""

    kind: ClassVar = "dpo"
    reusable = True
    look = Look("s", "-", "preferences, implicit reward", "#4B0092")
    reads = "pairs"
    divergence: str = hidden("reverse_kl")
    label_smoothing: float = ranged(0.0, least=0, below=0.5)
    """Share of labels taken to be the wrong way round (conservative DPO)."""
    learning_rate: float | None = ranged(None, above=0)
    """Learning rate of the policy, in place of the one common to all methods."""

    def check(self) -> None:
        check_ranges(self)
        refuse_unless_kept("methods", divergences.parse(self.divergence))

    def build(self, components: Components) -> Objective:
        buildable(self, components)
        return dpo(components, divergences.parse(self.divergence), self.label_smoothing)

    def claim(self) -> Claim:
        plain = self.divergence == "reverse_kl"
        name, best = (
            ("DPO", "ref exp(r / beta)")
            if plain
            else ("f-DPO", f"that of E[r] - beta {self.divergence}(ref||policy)")
        )
        sentence = (
            f"{name}: its population minimiser under Bradley-Terry labels at temperature 1 "
            f"is {best}; "
        )
        sentence += "no divergence's gradient on the way."
        if self.label_smoothing:
            sentence += (
                f" Biased: labels smoothed by {self.label_smoothing:g} pull rewards together."
            )
        return Claim(self.divergence, "return", sentence)


def dpo(components: Components, d: Divergence, label_smoothing: float = 0.0) -> Objective:
    """The objective on a batch of comparisons."""
    beta = regulariser(components.mdp).beta

    def implicit(log_q: Array, log_ref: Array, size: Array) -> Array:
        return -beta * extended_reward(d, log_ref - log_q)

    def loss(margin: Array) -> Array:
        return (1 - label_smoothing) * softplus(-margin) + label_smoothing * softplus(margin)

    return compared(components, implicit, loss)
