"""The methods: hyperparameter groups (one file, one group of flags each) and the names that `--methods` takes.

A group is a frozen dataclass whose fields are flags, among them `learning_rate`, with

    reusable                           whether a batch may serve several optimiser steps
    check(divergence, **fixed)         raises `UsageError` for values that cannot be
    claim(divergence, **fixed)         what it minimises, a `Claim`
    build(kit, divergence, **fixed)    the `Objective`, from values alone
"""

from __future__ import annotations

import difflib
from typing import Any, NamedTuple

from fdiv import divergences
from fdiv.objectives.adversarial import Adversarial
from fdiv.objectives.distill import Distill
from fdiv.objectives.max_likelihood import MaxLikelihood
from fdiv.objectives.policy_gradient import PolicyGradient
from fdiv.types import Claim, Kit, Objective, UsageError

GROUPS: dict[str, type] = {
    "max_likelihood": MaxLikelihood,
    "distill": Distill,
    "policy_gradient": PolicyGradient,
    "adversarial": Adversarial,
}


class Method(NamedTuple):
    """What a name stands for: its group, its divergence (`{}` is filled by NAME:ARGUMENT), and what the name fixes."""

    group: str
    divergence: str | None
    fixed: dict[str, Any] = {}
    default: str | None = None  # the argument where none is written; None: it must be


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
}


class Resolved(NamedTuple):
    """A method name, read."""

    name: str
    group: str
    divergence: str | None
    fixed: dict[str, Any]

    def check(self, hyperparameters: Any) -> None:
        """Raise `UsageError` for hyperparameters (an instance of the group's dataclass) that this method cannot have."""
        hyperparameters.check(self.divergence, **self.fixed)

    def build(self, hyperparameters: Any, kit: Kit) -> Objective:
        """The objective, from an instance of the group's dataclass."""
        self.check(hyperparameters)
        return hyperparameters.build(kit, self.divergence, **self.fixed)

    def claim(self, hyperparameters: Any) -> Claim:
        """What it minimises."""
        return hyperparameters.claim(self.divergence, **self.fixed)


def resolve(name: str) -> Resolved:
    """`sft`, `gail`, `alpha_irl:0.3`, `adversarial:hellinger2` ... Raises `UsageError` with the nearest names."""
    base, colon, argument = name.strip().partition(":")
    base = base.lower().replace("-", "_")
    if base not in METHODS:
        near = difflib.get_close_matches(base, METHODS, n=3, cutoff=0.4) or sorted(METHODS)
        raise UsageError("methods", name, "there is no method of that name.", f"The nearest: {', '.join(near)}.")
    method = METHODS[base]
    takes_argument = "{}" in (method.divergence or "")
    if colon and not takes_argument:
        raise UsageError("methods", name, f"{base} takes no argument.", f"Write {base}, or adversarial:NAME for another f.")
    argument = argument or method.default
    if takes_argument and not argument:
        raise UsageError("methods", name, f"{base} needs a divergence.", f"Write, for instance, {base}:hellinger2.")
    divergence = method.divergence.format(argument) if method.divergence else None
    if divergence is not None:
        divergence = divergences.parse(divergence).name
    return Resolved(f"{base}:{argument}" if colon else base, method.group, divergence, method.fixed)
