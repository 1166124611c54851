"""Policy gradient towards a known expert, for any f: reverse-KL RL, f-MAX, f-DPG.

    -grad D_f(p||q) = E_{x ~ q}[ sum_k R_k grad log q(action_k | prefix) ],

R from `estimators.returns_to_go`, with `s = log p - log q` of the sampled tokens. Exact in
expectation at the levels sequence, occupancy and token_policy when nothing is discounted. Sources:
Ghasemipour et al. 2019 (f-MAX, arXiv 1911.02256); Go et al. 2023 (f-DPG, arXiv 2302.08215); OPD+
2026 (arXiv 2606.01039), which states it for distillation; `fdiv.state_means` for the baseline
`state`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax.numpy as jnp

from fdiv import divergences, groups, prefixes
from fdiv import tokens as tk
from fdiv.checks import buildable, known_expert, present
from fdiv.estimators import Scored, advantages, returns_to_go, to_actions, to_columns
from fdiv.ranges import check_ranges, ranged
from fdiv.state_means import advantages_of
from fdiv.types import Claim, Components, Divergence, Level, Look, Method, Model, Objective, hidden

Plain = Literal["sequence", "occupancy", "token"]
Baseline = Literal["none", "mean", "leave_one_out", "state"]
LEVELS = {
    "sequence": Level.sequence,
    "occupancy": Level.occupancy,
    "token": Level.token_policy,
}


@dataclasses.dataclass(frozen=True)
class PolicyGradient(Method):
    """Score-function gradient of any f-divergence to a known expert."""

    kind: ClassVar = "policy_gradient"
    look = Look("o", "-", "known expert")
    divergence: str = hidden("")
    level: Plain = "sequence"
    """Which law is compared: sequence, occupancy or token (on the policy's own prefixes)."""
    baseline: Baseline = "leave_one_out"
    """What is subtracted from the returns: none, mean, leave_one_out, or state, which takes exact
    means over the vocabulary (vOPD)."""
    discount: float = ranged(1.0, least=0, most=1)
    """Weight of what follows an action, per token: 1 is the exact gradient, 0 holds later prefixes
    fixed."""
    learning_rate: float | None = ranged(None, above=0)
    """Learning rate of the policy, in place of the one common to all methods."""

    def check(self) -> None:
        check_ranges(self)

    def build(self, components: Components) -> Objective:
        buildable(self, components)
        known_expert(components.mdp, f"policy_gradient:{self.divergence}")
        d = divergences.parse(self.divergence)
        return policy_gradient(components, d, LEVELS[self.level], self.baseline, self.discount)

    def claim(self) -> Claim:
        # e^s is a martingale under the policy: what forward KL would credit later is zero in
        # expectation, discounted or not
        martingale = self.divergence == "forward_kl" and self.level != "token"
        kind = (
            "Unbiased"
            if self.discount == 1 or martingale
            else f"Biased (discount {self.discount:g})"
        )
        shrunk = ", its length shrunk by 1 - 1/batch" if self.baseline == "mean" else ""
        sentence = f"{kind} gradient of {self.level} {self.divergence}{shrunk}"
        return Claim(self.divergence, LEVELS[self.level], f"{sentence}; the expert's law is known.")

    def variants(self) -> Sequence[Mapping[str, Any]]:
        plain = ("none", "mean") if self.divergence == "reverse_kl" else ()
        state = [{"baseline": "state"}]
        if self.divergence == "reverse_kl":
            state += [{"baseline": "state", "discount": 0.0}]
        return [
            {"level": "occupancy"},
            {"level": "token"},
            {"discount": 0.0},
            *({"baseline": name} for name in plain),
            *state,
        ]


def policy_gradient(
    components: Components,
    d: Divergence,
    level: Level = Level.sequence,
    baseline: Baseline = "leave_one_out",
    discount: float = 1.0,
) -> Objective:
    """The objective on a batch of prompts (the prompts of demonstrations; their completions are not
    read)."""
    policy, mdp = components.policy, components.mdp

    def prepare(key, params, aux, batch):
        sequences, log_q = components.rollout(
            key, policy, params, tk.prompts_of(batch, mdp.horizon)
        )
        expert = present(mdp.expert, "known expert")
        log_p = groups.log_probs_of_given(*expert, sequences, mdp.vocab)
        prefix = jnp.cumsum(to_actions(log_p - log_q, sequences.mask, mdp.horizon), axis=1)
        if baseline == "state":
            pair, size = (expert, Model(policy, params)), {"horizon": mdp.horizon}
            size |= {"vocab": mdp.vocab}
            advantage = advantages_of(
                d, level, *pair, sequences, log_p - log_q, **size, discount=discount
            )
        else:
            mask = to_actions(sequences.mask, sequences.mask, mdp.horizon)
            returns = returns_to_go(d, level, prefix, mask, discount)
            advantage = advantages(returns, mask, sequences.weight, baseline)
        scored = Scored(tk.normalise(sequences), to_columns(advantage, sequences.mask))
        return (
            aux,
            scored,
            {
                "tokens": sequences.mask.sum(),
                "log_ratio": jnp.sum(scored.sequences.weight * prefix[:, -1]),
            },
        )

    def loss(params, aux, batch):
        return prefixes.policy_gradient_loss(Model(policy, params), batch, mdp.vocab), {}

    return Objective(lambda key, params: (), prepare, loss)
