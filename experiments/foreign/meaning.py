"""A configuration of another code: which of its options decide what is minimised, and what that is.

What is said of a code is what its source did at the version that the entry names."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from fdiv.types import UsageError

Value = str | float | int | bool | None
Options = Mapping[str, Value]


class Option(NamedTuple):
    """An option that decides something: its default, and what it may be."""

    default: Value
    choices: tuple[Value, ...] = ()
    least: float | None = None
    most: float | None = None


class Meaning(NamedTuple):
    """What is minimised. Words are this project's: p is the teacher or reference, q the policy."""

    minimises: str  # a divergence, by the name that the card takes, or words
    level: str
    prefixes: str  # whose
    placement: str  # how it is computed and where it stands
    gradient: str  # what the expected gradient is of, exactly
    command: str = ""  # the same here; "" where there is none
    notes: tuple[str, ...] = ()  # where documents and code disagree, and traps


class Foreign(NamedTuple):
    """A configuration class, or a group of options, of another code."""

    source: str  # what was read: package, version, file
    options: Mapping[str, Option]
    meaning: Callable[[Options], Meaning]
    others: frozenset[str] = frozenset()  # options that are known and do not matter to it


def choose(*values: Value) -> Option:
    """One of several, the first by default."""
    return Option(values[0], values)


def number(default: float | None, least: float | None = None, most: float | None = None) -> Option:
    """A number of a range."""
    return Option(default, (), least, most)


def filled(name: str, entry: Foreign, given: Options) -> dict[str, Value]:
    """Every option with its value, given or default. Raises `UsageError` for one that cannot be."""
    values = {key: option.default for key, option in entry.options.items()}
    for key, value in given.items():
        if key in entry.options:
            values[key] = _checked(f"{name}.{key}", entry.options[key], value)
    return values


def unknown(entry: Foreign, given: Options) -> dict[str, str]:
    """Options that are in no list of the entry, and the nearest that is, or nothing."""
    known = [*entry.options, *entry.others]
    nearest = lambda key: difflib.get_close_matches(key, known, n=1, cutoff=0.7)
    return {key: "".join(nearest(key)) for key in given if key not in known}


def _checked(field: str, option: Option, value: Value) -> Value:
    if option.choices:
        if value not in option.choices or isinstance(value, bool) != isinstance(
            next((x for x in option.choices if x == value), value), bool
        ):
            allowed = ", ".join(str(choice) for choice in option.choices)
            raise UsageError(field, value, "is not a choice.", f"Use one of {allowed}.")
        return value
    if value is None and option.default is None:
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UsageError(field, value, "is no number.", "Give a number.")
    low = -math.inf if option.least is None else option.least
    high = math.inf if option.most is None else option.most
    if not low <= value <= high:
        fix = f"Give a number from {low:g} to {high:g}."
        raise UsageError(field, value, "is out of range.", fix)
    return value


# --- what several codes have in common ------------------------------------------------------------

COMPARE = "python -m experiments.compare text --methods"
HELD = "its prefixes held fixed: the effect on later prefixes is dropped"


def jsd(beta: float) -> str:
    """GKD's divergence: b KL(p||m) + (1-b) KL(q||m), m = b p + (1-b) q, and the KLs at its ends,
    which codes treat as cases of their own."""
    return {0.0: "forward_kl", 0.5: "js", 1.0: "reverse_kl"}.get(float(beta), f"gjs:{beta:g}")


def distilled(
    divergence: str, share: float, temperature: float = 1.0, squared: bool = False
) -> tuple[str, str]:
    """(what the gradient is of, the command) of an exact sum over the vocabulary at prefixes of
    which a share is the policy's."""
    hot = temperature != 1
    laws = f" of both laws at temperature {temperature:g}" if hot else ""
    whose = {0.0: "the data's prefixes", 1.0: f"the policy's prefixes, {HELD}"}
    at = whose.get(share, f"prefixes {share:.0%} the policy's, {HELD}")
    scale = f", over {temperature:g}^2 of this command's" if hot and not squared else ""
    flags = f" --distill.temperature {temperature:g}" if hot else ""
    name = "dagger" if share == 1 else "distill"
    if 0 < share < 1:
        flags += f" --distill.policy-prefixes {share:g}"
    return f"token {divergence}{laws} at {at}{scale}", f"{COMPARE} {name}:{divergence}{flags}"


ESTIMATORS = {  # of one sampled token, as a loss that is differentiated: what the gradient is of
    "k1": ("nothing", "zero in expectation: the mean of grad log q is 0"),
    "k2": ("reverse_kl", f"token reverse_kl at the policy's prefixes, {HELD}"),
    "k3": ("forward_kl", f"token forward_kl at the policy's prefixes, {HELD}"),
    "abs": ("tv", "E_q[sign(log q - log p) grad log q]: twice token tv, prefixes held fixed"),
}
REWARDS = {  # the same as a reward of its token
    "k1": ("reverse_kl", f"token reverse_kl at the policy's prefixes, {HELD}"),
    "k2": ("nothing", "no f-divergence's: -s^2/2 does not increase in s for s > 0"),
    "k3": ("nothing", "no f-divergence's: -(e^s - 1 - s) does not increase in s for s > 0"),
    "abs": ("nothing", "no f-divergence's: -|s| does not increase in s for s > 0"),
}
