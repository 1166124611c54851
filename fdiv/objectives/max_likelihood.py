"""Maximum likelihood: SFT, behaviour cloning.

    loss = -E_{x ~ p} log q(x) = D(p||q) + H(p),   D the sequence-level forward KL.

The only method that needs neither the policy's samples nor the expert's law. Sources: Pomerleau
1991 (behaviour cloning); Ghasemipour et al. 2019 (arXiv 1911.02256) for the view as forward KL."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from fdiv import prefixes
from fdiv import tokens as tk
from fdiv.checks import buildable
from fdiv.ranges import check_ranges, ranged
from fdiv.types import Claim, Components, Level, Look, Method, Model, Objective, Policy


@dataclasses.dataclass(frozen=True)
class MaxLikelihood(Method):
    """Maximum likelihood of the demonstrations (SFT)."""

    kind: ClassVar = "max_likelihood"
    reusable = True
    look = Look("s", "-", "likelihood")
    aggregate: tk.Aggregate = "string"
    """How strings of different lengths weigh: string (the law of whole strings), token, string_mean
    or constant."""
    learning_rate: float | None = ranged(None, above=0)
    """Learning rate of the policy, in place of the one common to all methods."""

    def check(self) -> None:
        check_ranges(self)

    def build(self, components: Components) -> Objective:
        buildable(self, components)
        return max_likelihood(
            components.policy, components.mdp.vocab, self.aggregate, components.mdp.horizon
        )

    def claim(self) -> Claim:
        exact = self.aggregate in ("string", "constant")
        sentence = "Minimises sequence forward_kl" + (
            " exactly." if exact else ", strings reweighted by their length."
        )
        return Claim(
            "forward_kl", Level.sequence, sentence + " The expert's samples are all it needs."
        )

    def variants(self) -> Sequence[Mapping[str, Any]]:
        return [{"aggregate": name} for name in ("token", "string_mean", "constant")]


def max_likelihood(
    policy: Policy, vocab: int, aggregate: tk.Aggregate = "string", horizon: int | None = None
) -> Objective:
    """The objective on a batch of demonstrations; `horizon` is what `constant` divides by."""

    def prepare(key, params, aux, batch):
        return aux, tk.normalise(batch, aggregate, horizon), {"tokens": batch.mask.sum()}

    def loss(params, aux, batch):
        return prefixes.likelihood_loss(Model(policy, params), batch, vocab), {}

    return Objective(lambda key, params: (), prepare, loss)
