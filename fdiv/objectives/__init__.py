"""The methods: hyperparameter groups (one file, one group of flags each) and the names that
`--methods` takes.

A group is a frozen dataclass whose fields are flags, among them `learning_rate`, with

    reads                              "demos", "pairs" or "labels", what its batches are (demos, where it does not say)
    needs                              "scorer", "critic": what of the components it is built from (nothing, where it does not say)
    reusable                           whether a batch may serve several optimiser steps
    check(divergence, **fixed)         raises `UsageError` for values that cannot be
    claim(divergence, **fixed)         what it minimises, a `Claim`
    build(components, divergence, **fixed)    the `Objective`, from values alone
"""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any, NamedTuple

from fdiv import divergences
from fdiv.checks import one_vocabulary
from fdiv.objectives.adversarial import Adversarial
from fdiv.objectives.distill import Distill
from fdiv.objectives.dpo import Dpo
from fdiv.objectives.fdpg import Fdpg
from fdiv.objectives.grpo import Grpo
from fdiv.objectives.ipo import Ipo
from fdiv.objectives.iq_learn import IqLearn
from fdiv.objectives.kto import Kto
from fdiv.objectives.max_likelihood import MaxLikelihood
from fdiv.objectives.policy_gradient import PolicyGradient
from fdiv.objectives.ppo import Ppo
from fdiv.objectives.reinforce import Reinforce, Rloo
from fdiv.objectives.reward_model import LearnedReward
from fdiv.objectives.simpo import Simpo
from fdiv.objectives.spin import Spin
from fdiv.penalties import Penalty
from fdiv.types import Claim, Components, Objective, UsageError

GROUPS: dict[str, type] = {
    "max_likelihood": MaxLikelihood,
    "distill": Distill,
    "policy_gradient": PolicyGradient,
    "adversarial": Adversarial,
    "reinforce": Reinforce,
    "rloo": Rloo,
    "grpo": Grpo,
    "ppo": Ppo,
    "dpo": Dpo,
    "ipo": Ipo,
    "kto": Kto,
    "simpo": Simpo,
    "fdpg": Fdpg,
    "spin": Spin,
    "iq_learn": IqLearn,
    "reward_model": LearnedReward,
}


class Method(NamedTuple):
    """What a name stands for: its group, its divergence (`{}` is filled by NAME:ARGUMENT), and what
    the name fixes."""

    group: str
    divergence: str | None
    fixed: dict[str, Any] = {}
    default: str | None = None  # the argument where none is written; None: it must be
    charges: bool = (
        False  # NAME:ESTIMATOR-PLACEMENT[-string] sets its own penalty in place of the common one
    )


METHODS: dict[str, Method] = {
    "sft": Method("max_likelihood", None),
    "forward_kl": Method("policy_gradient", "forward_kl"),
    "reverse_kl": Method("policy_gradient", "reverse_kl"),
    "js": Method("policy_gradient", "js"),
    "policy_gradient": Method("policy_gradient", "{}"),
    "gail": Method("adversarial", "js"),
    "airl": Method("adversarial", "reverse_kl", {"structured": True}),
    "fairl": Method("adversarial", "forward_kl", {"published": "fairl"}),
    "alpha_irl": Method("adversarial", "alpha:{}", default="0.5"),
    "adversarial": Method("adversarial", "{}"),
    "distill": Method("distill", "{}", default="js"),
    "dagger": Method("distill", "{}", {"policy_prefixes": 1.0}, default="forward_kl"),
    "reinforce": Method("reinforce", None, charges=True),
    "rloo": Method("rloo", None, charges=True),
    "grpo": Method("grpo", None, charges=True),
    "grpo_std": Method("grpo", None, {"std": True}, charges=True),
    "ppo": Method("ppo", None, charges=True),
    "dpo": Method("dpo", "reverse_kl"),
    "f_dpo": Method("dpo", "{}"),
    "ipo": Method("ipo", None),
    "kto": Method("kto", None),
    "simpo": Method("simpo", None),
    "fdpg": Method("fdpg", "{}", default="js"),
    "spin": Method("spin", None),
    "iq_learn": Method("iq_learn", None),
    "bt_rloo": Method("reward_model", None, charges=True),
    "bt_grpo": Method("reward_model", None, {"by": "GRPO"}, charges=True),
    "bt_ppo": Method("reward_model", None, {"by": "PPO"}, charges=True),
    "bt_var_rloo": Method("reward_model", None, {"noise": True}, charges=True),
    "classifier_rloo": Method("reward_model", None, {"reads": "demos"}, charges=True),
}


class Resolved(NamedTuple):
    """A method name, read."""

    name: str
    group: str
    divergence: str | None
    fixed: dict[str, Any]
    charges: bool = False  # whether a penalty for leaving a reference is part of it

    @property
    def reads(self) -> str:
        """What its batches are: "demos", "pairs" or "labels"."""
        return self.fixed.get("reads") or getattr(GROUPS[self.group], "reads", "demos")

    def check(self, hyperparameters: Any) -> None:
        """Raise `UsageError` for hyperparameters (an instance of the group's dataclass) that this
        method cannot have."""
        hyperparameters.check(self.divergence, **self.fixed)

    def build(self, hyperparameters: Any, components: Components) -> Objective:
        """The objective, from an instance of the group's dataclass."""
        self.check(hyperparameters)
        one_vocabulary(components)
        return hyperparameters.build(components, self.divergence, **self.fixed)

    def reusable(self, hyperparameters: Any) -> bool:
        """Whether a batch may serve several optimiser steps; what the name fixes comes before a
        flag."""
        fixed = {
            name: value for name, value in self.fixed.items() if hasattr(hyperparameters, name)
        }
        return dataclasses.replace(hyperparameters, **fixed).reusable()

    def claim(self, hyperparameters: Any) -> Claim:
        """What it minimises."""
        return hyperparameters.claim(self.divergence, **self.fixed)


def resolve(name: str) -> Resolved:
    """`sft`, `gail`, `alpha_irl:0.3`, `adversarial:hellinger2` ... Raises `UsageError` with the
    nearest names."""
    base, colon, argument = name.strip().partition(":")
    base = base.lower().replace("-", "_")
    if base not in METHODS:
        near = difflib.get_close_matches(base, METHODS, n=3, cutoff=0.4) or sorted(METHODS)
        raise UsageError(
            "methods", name, "there is no method of that name.", f"The nearest: {', '.join(near)}."
        )
    method = METHODS[base]
    takes_argument = "{}" in (method.divergence or "")
    if colon and method.charges:
        return Resolved(
            f"{base}:{argument}",
            method.group,
            None,
            method.fixed | {"penalty": _penalty(name, argument)},
            True,
        )
    if colon and not takes_argument:
        raise UsageError(
            "methods",
            name,
            f"{base} takes no argument.",
            f"Write {base}, or adversarial:NAME for another f.",
        )
    argument = argument or method.default
    if takes_argument and not argument:
        raise UsageError(
            "methods",
            name,
            f"{base} needs a divergence.",
            f"Write, for instance, {base}:hellinger2.",
        )
    divergence = method.divergence.format(argument) if method.divergence else None
    if divergence is not None:
        divergence = divergences.parse(divergence).name
    return Resolved(
        f"{base}:{argument}" if colon else base,
        method.group,
        divergence,
        method.fixed,
        method.charges,
    )


def _penalty(name: str, argument: str) -> Penalty:
    """`k3-loss`, `k2-loss-string`: how a method of that name estimates and places its penalty."""
    parts = argument.split("-")
    if not 2 <= len(parts) <= 3:
        problem, fix = (
            "says no estimator and placement.",
            "Write, for instance, grpo:k3-loss or rloo:k2-loss-string.",
        )
        raise UsageError("methods", name, problem, fix)
    penalty = Penalty(*parts)
    penalty.check()
    return penalty
