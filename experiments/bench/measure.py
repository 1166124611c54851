"""Ours and a peer in turn, each waiting while the other computes, with the machine's pace beside
them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from experiments.bench import machine
from experiments.bench.machine import Pace
from experiments.bench.rows import Bound
from experiments.models.counts import Counted


class Timed(Protocol):
    """A repeat."""

    @property
    def seconds(self) -> float:
        """Of all its updates."""
        ...

    @property
    def tokens(self) -> float:
        """Of all its updates."""
        ...


Side = Callable[[int], Timed]  # updates -> what they took


class Repeats(NamedTuple):
    """Of one side: seconds of an update in each repeat, and an update's tokens."""

    seconds: tuple[float, ...]
    tokens: float


class Taken(NamedTuple):
    """One repeat of ours."""

    seconds: float
    tokens: float


def timed(step: Callable[[int], float]) -> Callable[[int], Taken]:
    """Our updates as a peer gives its own: how many -> seconds and tokens."""

    def repeat(updates: int) -> Taken:
        began = time.perf_counter()
        tokens = step(updates)
        return Taken(time.perf_counter() - began, tokens)

    return repeat


def in_turn(
    sides: Sequence[Side],
    gauge: Callable[[], Pace],
    repeats: int,
    seconds: float,
) -> tuple[list[Repeats], Pace]:
    """So many repeats of about so many seconds of each side, and the pace of the machine between
    them (medians). Sides have been warmed up; who begins changes from repeat to repeat."""
    counts = [max(1, round(seconds / side(1).seconds)) for side in sides]
    taken: list[list[Timed]] = [[] for _ in sides]
    paces = []
    for i in range(repeats):
        paces.append(gauge())
        order = range(len(sides)) if i % 2 == 0 else reversed(range(len(sides)))
        for j in order:
            taken[j].append(sides[j](counts[j]))
    each = [
        Repeats(tuple(x.seconds / count for x in own), own[0].tokens / count)
        for own, count in zip(taken, counts)
    ]
    pace = Pace(*(float(np.median(column)) for column in zip(*paces)))
    return each, pace


def bound(counted: Counted, pace: Pace) -> Bound:
    """The least time of an update at the machine's pace."""
    least = counted.seconds(pace.flops, pace.bytes, machine.cache())
    return Bound(counted.flops, counted.bytes, pace.flops, pace.bytes, least)
