"""What a field of a dataclass may be: its type, and the range that stands at its definition.

    clip: float = ranged(0.2, above=0, below=1)

`check_ranges` holds all fields of an instance to both. A number without a range of its own is
finite all the same, and small enough for single precision, a whole one for 32 bits: NaN and
infinity pass any comparison that is written the wrong way round, and 1e300 is infinite on a
device."""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, TypeVar, Union

from fdiv.types import UsageError, is_hidden

LARGEST_COUNT = 2**31 - 1  # of whole numbers: what 32 bits hold, with a sign
LARGEST_SEED = 2**32 - 1  # a random key keeps 32 bits: 2**32 would give seed 0's numbers
LARGEST, SMALLEST = 1e12, 1e-12  # of real numbers, room for their squares in single precision
# sizes of a task: room for any that is studied, and too few to take long to refuse
MOST_SYMBOLS, LONGEST = 1 << 20, 1 << 16
MOST_LAYERS = 48  # of a network: each is written out in the program, which has to be compiled
MOST_STEPS = 10_000  # within one update, which no signal can interrupt
Value = TypeVar("Value")


class Range(NamedTuple):
    """An interval, and single values outside it that mean something of their own."""

    least: float | None = None
    most: float | None = None
    above: float | None = None  # greater than this
    below: float | None = None  # less than this
    also: tuple[float, ...] = ()

    def problem(self, value: float) -> str:
        """What is wrong with a number, or nothing."""
        if value in self.also:
            return ""
        if math.isnan(value):
            return "is not a number."
        if math.isinf(value):
            return "is not finite."
        if self.least is not None and value < self.least:
            return "is too small."
        if self.above is not None and value <= self.above:
            return "is too small."
        if self.most is not None and value > self.most:
            return "is too large."
        if self.below is not None and value >= self.below:
            return "is too large."
        size = abs(value)
        if self.above == 0 and size < SMALLEST:
            return f"is too small (under {SMALLEST:g})."
        if not isinstance(value, numbers.Integral):
            return f"is too large (over {LARGEST:g})." if size > LARGEST else ""
        return (
            f"is too large (over {LARGEST_COUNT:,})."
            if self.most is None and size > LARGEST_COUNT
            else ""
        )

    def __str__(self) -> str:
        """`at least 1`, `above 0`, `from 0 to 1`, `strictly between 0 and 1`."""
        low, high = self.least, self.most
        if self.above is not None and self.below is not None:
            text = f"strictly between {self.above:g} and {self.below:g}"
        elif low is not None and high is not None:
            text = f"from {_number(low)} to {_number(high)}"
        else:
            ends = (("at least", low), ("above", self.above), ("at most", high))
            text = ", ".join(
                f"{word} {_number(end)}"
                for word, end in (*ends, ("below", self.below))
                if end is not None
            )
        return " or ".join([*(_number(value) for value in self.also), text or "finite"])

    def inside(self, value: float) -> bool:
        """Whether a number may be."""
        return not self.problem(value)


FINITE = Range()


def ranged(
    default: Value,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    also: tuple[float, ...] = (),
) -> Value:
    """A dataclass field with the range of its value, or of each value where it holds several; None
    is no value."""
    own = Range(least, most, above, below, also)
    return dataclasses.field(default=default, metadata={"range": own})


def seed_field(default: int = 0) -> int:
    """A dataclass field that a random key is made from."""
    return ranged(default, least=0, most=LARGEST_SEED)


def range_of(field: dataclasses.Field) -> Range:
    """The range at a field's definition, or the widest."""
    return field.metadata.get("range", FINITE)


@functools.cache
def kinds_of(owner: type) -> dict[str, Any]:
    """The types of a dataclass's fields, resolved; none for a class whose names are not to be found
    from its module."""
    try:
        return typing.get_type_hints(owner)
    except NameError:
        return {}


def alternatives(kind: Any) -> tuple[Any, ...]:
    """The types of a union, or the type alone."""
    return typing.get_args(kind) if typing.get_origin(kind) in (Union, types.UnionType) else (kind,)


def numbers_in(value: Any) -> Iterator[Any]:
    """The numbers that a field's value is or holds."""
    if isinstance(value, tuple):
        for each in value:
            yield from numbers_in(each)
    elif isinstance(value, numbers.Real) and not isinstance(value, bool):
        yield value


def check_ranges(owner: Any) -> None:
    """Raise `UsageError`, naming the field, for the first value of a dataclass instance that is out
    of its range, or of another type than it should be."""
    for field in dataclasses.fields(owner):
        value = getattr(owner, field.name)
        if is_hidden(field):
            continue
        if dataclasses.is_dataclass(value):
            try:
                check_ranges(value)
            except UsageError as error:
                raise error.under(field.name) from error
        else:
            check_value(field.name, value, kinds_of(type(owner)).get(field.name), range_of(field))


def check_value(name: str, value: Any, kind: Any, allowed: Range) -> None:
    """Raise `UsageError` where a value is not of a type (None: any), or a number in it out of
    range."""
    if kind is not None and not any(_fits(value, each) for each in alternatives(kind)):
        choices = any(_choices(each) for each in alternatives(kind))
        problem = "is not a choice." if choices else "is not of its type."
        raise UsageError(name, value, problem, f"Give {described(kind, allowed)}.")
    for number in numbers_in(value):
        if problem := allowed.problem(number):
            fix = f"Give {described(type(number) if kind is None else kind, allowed)}."
            raise UsageError(name, number, problem, fix)


def described(kind: Any, allowed: Range) -> str:
    """A type and its range as people read them."""
    words = []
    for each in alternatives(kind):
        if each is type(None):
            continue
        if each in (int, float):
            words.append(f"a {'whole ' if each is int else ''}number {allowed}")
        elif typing.get_origin(each) is tuple and {int, float} & set(typing.get_args(each)):
            words.append(f"numbers, each {allowed}")
        elif each is bool:
            words.append("True or False")
        elif choices := _choices(each):
            words.append(f"one of {', '.join(map(str, choices))}")
        else:
            words.append(f"a {getattr(each, '__name__', str(each)).lower()}")
    return " or ".join(words)


def _choices(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type; a whole number serves where a real one is asked for."""
    if kind is Any:
        return True
    if kind is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool)
    if choices := _choices(kind):
        return value in choices
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)
        several = len(inner) == 2 and inner[1] is Ellipsis
        return (
            isinstance(value, tuple)
            and (several or len(value) == len(inner))
            and all(_fits(each, inner[0] if several else inner[i]) for i, each in enumerate(value))
        )
    return isinstance(value, kind) if isinstance(kind, type) else True


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
