"""Flags of a command line that are given twice: a parser would take the last value in silence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from experiments.cli import spelling
from fdiv.types import UsageError

SWITCHED = ("True",)  # what a switch without a word means


class Given(NamedTuple):
    """A flag as it was typed, and the words after it."""

    flag: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join((self.flag, *self.words))


def flags(words: Iterable[str]) -> Iterator[Given]:
    """The flags of a command line in order, `--flag=value` among them."""
    last: Given | None = None
    for word in words:
        if spelling.is_flag(word):
            if last is not None:
                yield last
            flag, equals, value = word.partition("=")
            last = Given(flag, (value,) if equals else ())
        elif last is not None:
            last = Given(last.flag, (*last.words, word))
    if last is not None:
        yield last


def refuse(words: Sequence[str], meant: Callable[[str], Sequence[str]]) -> None:
    """Raise `UsageError` for a flag that has two values, whichever way its name is written. `meant`
    gives the flags that one stands for under their names of today, as `--noise` does for two."""
    known: dict[str, Given] = {}
    for given in flags(words):
        for flag in meant(given.flag):
            before = known.setdefault(flag.replace("-", "_"), given)
            if (before.words or SWITCHED) != (given.words or SWITCHED):
                problem = f"is given twice: {before} and {given}."
                value = " ".join(given.words)
                field = given.flag.removeprefix("--").replace("-", "_")
                raise UsageError(field, value, problem, "Keep one of them.")
