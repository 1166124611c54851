"""REINFORCE and RLOO: the policy gradient of a score less what leaving the reference costs.

    loss = -E_{x ~ q}[ sum_k A_k log q(action_k | prefix) ]
    A_k  = score + sum over j >= k of what the penalty pays action j, less a baseline

The baseline is a mean over whole answers (`fdiv.episodes.grouped`): the batch's (reinforce,
Williams 1992), which shrinks the gradient by 1 - 1/n, or that of a prompt's other answers (rloo,
Kool, van Hoof & Welling 2019; Ahmadian et al. 2024, arXiv 2402.14740)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

from fdiv import groups, prefixes
from fdiv import tokens as tk
from fdiv.checks import buildable
from fdiv.episodes import GROUP, grouped, penalty_of, return_claim, stage
from fdiv.estimators import Baseline, Scored, score_function_loss, to_columns
from fdiv.penalties import Drawn, Penalty, marker
from fdiv.ranges import check_ranges, ranged
from fdiv.types import Claim, Components, Look, Method, Model, Objective, hidden


@dataclasses.dataclass(frozen=True)
class Reinforce(Method):
    """REINFORCE."""

    kind: ClassVar = "reinforce"
    charges = True
    penalty: Penalty | None = hidden(None)
    baseline: Literal["none", "mean"] = "mean"
    """What is subtracted from the returns: none, or the mean over the batch."""
    learning_rate: float | None = ranged(None, above=0)
    """Learning rate of the policy, in place of the one common to all methods."""

    @property
    def look(self) -> Look:
        return Look(marker(self.penalty, "o"), "-", "score", "#0072B2")

    def check(self) -> None:
        check_ranges(self)

    def build(self, components: Components) -> Objective:
        buildable(self, components)
        return reinforce(components, penalty_of(self.penalty, components), self.baseline, None)

    def claim(self) -> Claim:
        shrunk = ", the batch's mean as baseline (its length shrunk by 1 - 1/batch)"
        baseline = shrunk if self.baseline == "mean" else ""
        return return_claim(self.penalty, f"Policy gradient{baseline}")


@dataclasses.dataclass(frozen=True)
class Rloo(Method):
    """REINFORCE with a leave-one-out baseline."""

    kind: ClassVar = "rloo"
    charges = True
    penalty: Penalty | None = hidden(None)
    group: int = ranged(GROUP, least=2)
    """Answers to each prompt."""
    learning_rate: float | None = ranged(None, above=0)
    """Learning rate of the policy, in place of the one common to all methods."""

    @property
    def look(self) -> Look:
        return Look(marker(self.penalty, "o"), "-", "score", "#56B4E9")

    def check(self) -> None:
        check_ranges(self)

    def build(self, components: Components) -> Objective:
        buildable(self, components)
        penalty = penalty_of(self.penalty, components)
        return reinforce(components, penalty, "leave_one_out", self.group)

    def claim(self) -> Claim:
        return return_claim(self.penalty, "Policy gradient, the prompt's other answers as baseline")


def reinforce(
    components: Components, penalty: Penalty, baseline: Baseline = "mean", group: int | None = None
) -> Objective:
    """The objective on a batch of prompts; without a `group` every string answers a prompt of its
    own."""
    on = stage(components, penalty)

    def prepare(key, params, aux, batch):
        x = on.play(key, params, aux, batch, group or 1)
        x = x if group else x._replace(groups=x.score.shape[0])  # one baseline for all
        advantage = to_columns(grouped(x, baseline), x.sequences.mask)
        aux, metrics = on.after(aux, x)
        strings = tk.normalise(x.sequences)
        return aux, Drawn(strings, x.log_old, x.log_ref, advantage, x.alike), metrics

    def loss(params, aux, batch):
        own, scored = Model(components.policy, params), Scored(batch.sequences, batch.advantages)
        if not on.in_loss:
            return prefixes.policy_gradient_loss(own, scored, components.mdp.vocab, batch.alike), {}
        log_q = groups.log_probs(*own, batch.sequences, components.mdp.vocab, batch.alike)
        return score_function_loss(log_q, scored) + on.charge(params, aux, batch, log_q), {}

    return Objective(lambda key, params: on.init(params), prepare, loss)
