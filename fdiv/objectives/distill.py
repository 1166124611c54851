"""Distillation from a known expert: any f, summed exactly over the vocabulary at every prefix.

    loss = (1/H) sum_k E_prefix[ sum_v perspective(log p(v | prefix), log q(v | prefix)) ],

prefixes from the expert's strings, the policy's, or a mixture, and held fixed: the effect of q on
later prefixes is dropped. With expert prefixes that loses nothing. Sources: Agarwal et al. 2023
(GKD, arXiv 2306.13649); Ko et al. 2024 (DistiLLM, arXiv 2402.03898); Ross, Gordon & Bagnell 2011
(DAgger) for prefixes of the policy (all of them: `dagger`)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from fdiv import divergences
from fdiv import tokens as tk
from fdiv.checks import known_expert, share
from fdiv.types import Claim, Components, Divergence, Objective, UsageError


@dataclasses.dataclass(frozen=True)
class Distill:
    """Exact sum over the vocabulary of any f-divergence to a known expert."""

    policy_prefixes: float = 0.0
    """Share of prefixes sampled from the policy: 0 expert's strings only, 1 on-policy, between a
    mixture of both."""
    learning_rate: float | None = None
    """Learning rate in place of --learning-rate."""

    def reusable(self) -> bool:
        return self.policy_prefixes == 0

    def check(self, divergence: str, policy_prefixes: float | None = None) -> None:
        share("distill.policy_prefixes", self.policy_prefixes)
        if policy_prefixes is not None and self.policy_prefixes not in (0, policy_prefixes):
            problem = f"dagger's prefixes are {policy_prefixes:.0%} the policy's."
            raise UsageError(
                "distill.policy_prefixes",
                self.policy_prefixes,
                problem,
                "Drop it, or use distill alone.",
            )

    def build(
        self, components: Components, divergence: str, policy_prefixes: float | None = None
    ) -> Objective:
        known_expert(components.mdp, f"distill:{divergence}")
        own = self.policy_prefixes if policy_prefixes is None else policy_prefixes
        return distill(components, divergences.parse(divergence), own)

    def claim(self, divergence: str, policy_prefixes: float | None = None) -> Claim:
        own = self.policy_prefixes if policy_prefixes is None else policy_prefixes
        if own == 0:
            said = f"Exact gradient of token-level {divergence} on the expert's prefixes."
        else:
            said = (
                f"Token-level {divergence}, {own:.0%} of prefixes the policy's own and held fixed: "
                "biased, as it drops the effect on later prefixes."
            )
        return Claim(divergence, "token", said, own)


def distill(components: Components, d: Divergence, policy_prefixes: float = 0.0) -> Objective:
    """The objective on a batch of demonstrations (on their prompts alone when every prefix is the
    policy's)."""
    policy, mdp = components.policy, components.mdp

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
        whole = jax.tree.map(lambda *xs: jnp.concatenate(xs), *parts)
        return aux, whole, {"tokens": whole.mask.sum()}

    def loss(params, aux, batch):
        expert, expert_params = mdp.expert

        def summed(own, other):
            return d.perspective(expert.head(expert_params, other), policy.head(params, own)).sum(
                -1
            )

        features = (policy.trunk(params, batch.tokens), expert.trunk(expert_params, batch.tokens))
        each = tk.by_stretches(summed, mdp.vocab, *features)
        return jnp.sum(batch.weight[:, None] * jnp.where(batch.mask, each, 0.0)) / mdp.horizon, {}

    return Objective(lambda key, params: (), prepare, loss)
