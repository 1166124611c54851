"""The methods by name: `METHODS` holds a value for each, `resolve` reads `NAME[:ARGUMENT]`.

A method is a frozen dataclass (`fdiv.types.Method`); a new one is a file with its class and an
entry here."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, TypeGuard

from fdiv import divergences
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
from fdiv.types import Method, UsageError, is_hidden

METHODS: dict[str, Method] = {
    "sft": MaxLikelihood(),
    "forward_kl": PolicyGradient(divergence="forward_kl"),
    "reverse_kl": PolicyGradient(divergence="reverse_kl"),
    "js": PolicyGradient(divergence="js"),
    "policy_gradient": PolicyGradient(),
    "gail": Adversarial(divergence="js"),
    "airl": Adversarial(divergence="reverse_kl", structured=True),
    "fairl": Adversarial(divergence="forward_kl", published="fairl"),
    "alpha_irl": Adversarial(divergence="alpha:0.5"),
    "relativistic": Adversarial(divergence="js", training="pairs", reward_form="relative"),
    "adversarial": Adversarial(),
    "distill": Distill(divergence="js"),
    "dagger": Distill(divergence="forward_kl", policy_prefixes=1.0),
    "reinforce": Reinforce(),
    "rloo": Rloo(),
    "grpo": Grpo(),
    "grpo_std": Grpo(std=True),
    "ppo": Ppo(),
    "dpo": Dpo(),
    "f_dpo": Dpo(divergence=""),
    "ipo": Ipo(),
    "kto": Kto(),
    "simpo": Simpo(),
    "fdpg": Fdpg(divergence="js"),
    "spin": Spin(),
    "iq_learn": IqLearn(),
    "bt_rloo": LearnedReward(follower=Rloo()),
    "bt_grpo": LearnedReward(follower=Grpo()),
    "bt_ppo": LearnedReward(follower=Ppo()),
    "bt_var_rloo": LearnedReward(follower=Rloo(), noise=True),
    "classifier_rloo": LearnedReward(follower=Rloo(), reads="demos"),
}
# the divergence of NAME:ARGUMENT; where none is written it is the method's own, and "" is none
ARGUMENTS: dict[str, str] = {
    "policy_gradient": "{}",
    "adversarial": "{}",
    "alpha_irl": "alpha:{}",
    "relativistic": "{}",
    "spin": "{}",
    "distill": "{}",
    "dagger": "{}",
    "f_dpo": "{}",
    "fdpg": "{}",
}


def kinds() -> dict[str, type[Method]]:
    """The classes of all methods, those imported by a user among them, by their `kind`."""
    table: dict[str, type[Method]] = {}
    for method in METHODS.values():
        table.setdefault(method.kind, type(method))
    return table


def canonical(name: str) -> str:
    """The name as tables and folders have it: `Alpha-IRL:0.3` is `alpha_irl:0.3`. Raises
    `UsageError` with the nearest names."""
    base, colon, argument = name.strip().partition(":")
    base = base.lower().replace("-", "_")
    if base not in METHODS:
        near = difflib.get_close_matches(base, METHODS, n=3, cutoff=0.4) or sorted(METHODS)
        raise UsageError(
            "methods", name, "there is no method of that name.", f"The nearest: {', '.join(near)}."
        )
    return f"{base}:{argument}" if colon else base


def resolve(name: str, **fields: Any) -> Method:
    """`sft`, `gail`, `alpha_irl:0.3`, `adversarial:hellinger2`, `grpo:k3-loss` ... as a method,
    with other values of some `fields`. Raises `UsageError` with the nearest names."""
    base, _, argument = canonical(name).partition(":")
    method = METHODS[base]
    if base in ARGUMENTS:
        method = _of_divergence(name, method, ARGUMENTS[base], argument)
    elif argument and method.charges:
        method = dataclasses.replace(method, penalty=_penalty(name, argument))
    elif ":" in name:
        fix = f"Write {base}, or adversarial:NAME for another f."
        raise UsageError("methods", name, f"{base} takes no argument.", fix)
    return dataclasses.replace(method, **fields)


def needs_argument(name: str) -> bool:
    """Whether a name of `METHODS` says nothing without NAME:ARGUMENT."""
    return name in ARGUMENTS and METHODS[name].divergence == ""


def merged(name: str, method: Method, given: Mapping[str, Method]) -> Method:
    """A named method with the user's hyperparameters: `given` has an instance of each kind.

    A field that the name fixes, hidden or set to other than its default, stays as it is; the user
    may say the same, and nothing else. Raises `UsageError` where another value is given."""
    user, values = given[method.kind], {}
    for field in dataclasses.fields(method):
        own: object = getattr(method, field.name)
        if _is_method(own):
            values[field.name] = merged(name, own, given)
        elif not is_hidden(field):
            asked = getattr(user, field.name)
            if own != field.default and asked not in (field.default, own):
                problem = f"{name} fixes it at {own!r}."
                raise UsageError(field.name, asked, problem, "Drop it, or use another method.")
            values[field.name] = asked if own == field.default else own
    return dataclasses.replace(method, **values)


def parts(method: Method) -> dict[str, Method]:
    """The method and those that it is made of, by their kinds."""
    values: list[object] = [getattr(method, field.name) for field in dataclasses.fields(method)]
    return {part.kind: part for part in (method, *values) if _is_method(part)}


def _is_method(value: object) -> TypeGuard[Method]:
    """`isinstance` with a protocol looks through all of its attributes, so most values are told
    apart before that."""
    return dataclasses.is_dataclass(value) and isinstance(value, Method)


def kinds_of(method: Method) -> tuple[str, ...]:
    """The kinds of the method and of those that it is made of."""
    return tuple(parts(method))


def describe() -> dict[str, str]:
    """Every name with what its argument is (`distill[:F]`) -> the first line of its class's
    text."""
    table = {}
    for name, method in METHODS.items():
        argument = ":F" if needs_argument(name) else "[:F]" if name in ARGUMENTS else ""
        argument = "[:PENALTY]" if method.charges else argument
        table[name + argument] = (type(method).__doc__ or "").strip().partition("\n")[0]
    return table


def _of_divergence(name: str, method: Method, pattern: str, argument: str) -> Method:
    """The method with the divergence of its argument, or with its own."""
    if not argument and not method.divergence:
        problem = f"{name.strip().partition(':')[0]} needs a divergence."
        fix = f"Write, for instance, {name.strip().partition(':')[0]}:hellinger2."
        raise UsageError("methods", name, problem, fix)
    wanted = pattern.format(argument) if argument else method.divergence or ""
    whole = isinstance(method, Distill)  # what sums over the vocabulary asks for no f
    try:
        divergence = (divergences.over_vocabulary if whole else divergences.parse)(wanted)
    except UsageError as error:
        raise UsageError("methods", name, error.problem, error.fix) from error
    return dataclasses.replace(method, divergence=divergence.name)


def _penalty(name: str, argument: str) -> Penalty:
    """`k3-loss`, `k2-loss-string`: how a method of that name estimates and places its penalty."""
    parts = argument.split("-")
    if not 2 <= len(parts) <= 3:
        problem, fix = (
            "says no estimator and placement.",
            "Write, for instance, grpo:k3-loss or rloo:k2-loss-string.",
        )
        raise UsageError("methods", name, problem, fix)
    words: list[Any] = [*parts]  # checked below
    penalty = Penalty(*words)
    try:
        penalty.check()
    except UsageError as error:
        raise error.under("penalty") from error
    return penalty
