"""Maximum likelihood: SFT, behaviour cloning.

    loss = -E_{x ~ p} log q(x) = D(p||q) + H(p),   D the sequence-level forward KL.

The only method that needs neither the policy's samples nor the expert's law. Sources: Pomerleau
1991 (behaviour cloning); Ghasemipour et al. 2019 (arXiv 1911.02256) for the view as forward KL."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from fdiv import tokens as tk
from fdiv.checks import one_of
from fdiv.types import Claim, Components, Objective, Policy


@dataclasses.dataclass(frozen=True)
class MaxLikelihood:
    """Maximum likelihood of the demonstrations (SFT)."""

    aggregate: tk.Aggregate = "string"
    """How strings of different lengths weigh: string (the law of whole strings), token, string_mean
    or constant."""
    learning_rate: float | None = None
    """Learning rate in place of --learning-rate."""

    def reusable(self) -> bool:
        return True

    def check(self, divergence: str | None) -> None:
        one_of("max_likelihood.aggregate", self.aggregate, tk.Aggregate)

    def build(self, components: Components, divergence: str | None) -> Objective:
        return max_likelihood(components.policy, components.mdp.vocab, self.aggregate)

    def claim(self, divergence: str | None) -> Claim:
        exact = self.aggregate in ("string", "constant")
        said = "Minimises sequence forward_kl" + (
            " exactly." if exact else ", strings reweighted by their length."
        )
        return Claim("forward_kl", "sequence", said + " The expert's samples are all it needs.")


def max_likelihood(policy: Policy, vocab: int, aggregate: tk.Aggregate = "string") -> Objective:
    """The objective on a batch of demonstrations."""

    def prepare(key, params, aux, batch):
        return aux, tk.normalise(batch, aggregate), {"tokens": batch.mask.sum()}

    def loss(params, aux, batch):
        each = tk.log_probs(policy, params, batch, vocab).sum(1)
        return -jnp.sum(batch.weight * each), {}

    return Objective(lambda key, params: (), prepare, loss)
