"""Distillation from a known expert: any f, summed exactly over the vocabulary at every prefix.

    loss = (1/H) sum_k E_prefix[ sum_v perspective(log p(v | prefix), log q(v | prefix)) ],

prefixes from the expert's strings, the policy's, or a mixture, and held fixed: the effect of q on
later prefixes is dropped. With expert prefixes that loses nothing. Sources: Agarwal et al. 2023
(GKD, arXiv 2306.13649); Ko et al. 2024 (DistiLLM, arXiv 2402.03898); Ross, Gordon & Bagnell 2011
(DAgger) for prefixes of the policy (all of them: `dagger`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from fdiv import divergences, prefixes
from fdiv import tokens as tk
from fdiv.checks import buildable, known_expert, present
from fdiv.ranges import check_ranges, ranged
from fdiv.types import Claim, Components, Divergence, Level, Look, Method, Model, Objective, hidden


@dataclasses.dataclass(frozen=True)
class Distill(Method):
    """Exact sum over the vocabulary of any f-divergence to a known expert."""

    kind: ClassVar = "distill"
    look = Look("D", ":", "exact sum over tokens")
    divergence: str = hidden("")
    policy_prefixes: float = ranged(0.0, least=0, most=1)
    """Share of prefixes sampled from the policy: 0 expert's strings only, 1 on-policy, between a
    mixture of both."""
    learning_rate: float | None = ranged(None, above=0)
    """Learning rate of the policy, in place of the one common to all methods."""

    @property
    def reusable(self) -> bool:
        return self.policy_prefixes == 0

    def check(self) -> None:
        check_ranges(self)

    def build(self, components: Components) -> Objective:
        buildable(self, components)
        known_expert(components.mdp, f"distill:{self.divergence}")
        return distill(
            components, divergences.over_vocabulary(self.divergence), self.policy_prefixes
        )

    def claim(self) -> Claim:
        d, own = self.divergence, self.policy_prefixes
        if own == 0:
            sentence = f"Exact gradient of token-level {d} on the expert's prefixes."
        else:
            sentence = (
                f"Token-level {d}, {own:.0%} of prefixes the policy's own and held fixed: "
                "biased, as it drops the effect on later prefixes."
            )
        if own == 0:
            return Claim(d, Level.token_expert, sentence)
        return Claim(d, Level.token_policy, sentence, own)

    def variants(self) -> Sequence[Mapping[str, Any]]:
        shares = (0.5, 1.0) if self.policy_prefixes == 0 else ()
        return [{"policy_prefixes": share} for share in shares]


def distill(components: Components, d: Divergence, policy_prefixes: float = 0.0) -> Objective:
    """The objective on a batch of demonstrations (on their prompts alone when every prefix is the
    policy's)."""
    policy, mdp = components.policy, components.mdp
    kept = components.kept_expert if policy_prefixes == 0 else None

    def prepare(key, params, aux, batch):
        parts = []
        if policy_prefixes < 1:
            demos = tk.normalise(batch)
            parts.append(demos._replace(weight=(1 - policy_prefixes) * demos.weight))
        if policy_prefixes > 0:
            own = tk.normalise(
                components.rollout(key, policy, params, tk.prompts_of(batch, mdp.horizon))[0]
            )
            parts.append(own._replace(weight=policy_prefixes * own.weight))
        strings = jax.tree.map(lambda *xs: jnp.concatenate(xs), *parts)
        return aux, strings, {"tokens": strings.mask.sum()}

    def loss(params, aux, batch):
        expert, own = kept or present(mdp.expert, "known expert"), Model(policy, params)
        return prefixes.divergence_loss(d, expert, own, batch, mdp.vocab) / mdp.horizon, {}

    return Objective(lambda key, params: (), prepare, loss)
