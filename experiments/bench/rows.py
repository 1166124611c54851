"""What was measured of a work at a size: data that JSON keeps, the page prints, the chart draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

MET, MISSED = "met", "missed"


class Want(NamedTuple):
    """A number that is wanted: `what` is one of `Row.measures`."""

    what: str
    value: float
    at_most: bool = False

    def met(self, measured: float) -> bool:
        """Whether a measured number is on the right side."""
        return measured <= self.value if self.at_most else measured >= self.value

    def __str__(self) -> str:
        return f"{self.what} {'<=' if self.at_most else '>='} {self.value:,g}"


WANTED: dict[tuple[str, str], tuple[Want, ...]] = {
    ("sft", "w64"): (Want("of peer", 2.5),),
    ("sampling", "w64"): (Want("of peer", 7.0),),
    ("distill", "w64"): (Want("of peer", 4.0),),
    ("grpo", "w64"): (Want("of peer", 5.0),),
    ("sft", "w256"): (Want("of peer", 1.0), Want("of bound", 0.65)),
    ("sampling", "w256"): (Want("of peer", 3.0), Want("of bound", 0.4)),
    ("distill", "w256"): (Want("of peer", 1.6),),
    ("grpo", "w256"): (Want("of peer", 2.0),),
    ("sft", "smollm2"): (Want("of peer", 1.15),),
    ("sampling", "smollm2"): (Want("of peer", 1.5),),
    ("head", "v49152"): (
        Want("of peer's memory", 1 / 15, at_most=True),
        Want("of peer's time", 1.0, at_most=True),
    ),
    ("gail", "two_template"): (
        Want("of peer", 70.0),
        Want("tokens/s", 2e6),
        Want("js after 5 s", 0.01, at_most=True),
    ),
    ("head_to_head", "cold"): (Want("seconds", 60.0, at_most=True),),
    ("head_to_head", "warm"): (Want("seconds", 30.0, at_most=True),),
}


@dataclasses.dataclass(frozen=True)
class Side:
    """Ours or a peer."""

    name: str
    seconds: tuple[float, ...]  # of an update, one number a repeat
    tokens: float  # of an update; 0 where the work has none
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def median(self) -> float:
        """Seconds of an update."""
        return float(np.median(self.seconds))

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.median

    @property
    def spread(self) -> float:
        """(slowest - fastest) / median."""
        return float(np.ptp(self.seconds)) / self.median


@dataclasses.dataclass(frozen=True)
class Bound:
    """What an update needs, and how long that takes at the machine's own pace."""

    flops: float
    bytes: float
    flops_a_second: float
    bytes_a_second: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Row:
    """A work at a size."""

    work: str
    size: str
    title: str  # of the work
    size_title: str
    ours: Side | None = None
    peer: Side | None = None
    peer_missing: str = ""  # why there is none
    bound: Bound | None = None
    numbers: dict[str, float] = dataclasses.field(default_factory=dict)  # what else was measured
    error: str = ""  # why there is nothing
    when: str = ""
    command: str = ""
    machine: str = ""
    load: float = 0.0  # before it began

    @property
    def ratios(self) -> list[float]:
        """Our tokens a second over the peer's, within each repeat."""
        if self.ours is None or self.peer is None:
            return []
        pairs = zip(self.ours.seconds, self.peer.seconds)
        each = max(self.ours.tokens, 1.0) / max(self.peer.tokens, 1.0)
        return [each * theirs / own for own, theirs in pairs]

    @property
    def measures(self) -> dict[str, float]:
        """All numbers that something may be wanted of."""
        found = dict(self.numbers)
        if self.ours is None:
            return found
        found["seconds"] = self.ours.median
        if self.ours.tokens:
            found["tokens/s"] = self.ours.rate
        if ratios := self.ratios:
            found["of peer"] = float(np.median(ratios))
            found["of peer's time"] = float(np.median([1 / ratio for ratio in ratios]))
        if self.bound is not None:
            found["of bound"] = self.bound.seconds / self.ours.median
            own = self.ours.median
            found["of peak"] = self.bound.flops / own / self.bound.flops_a_second
            found["of bandwidth"] = self.bound.bytes / own / self.bound.bytes_a_second
            if self.peer is not None:
                found["peer of bound"] = self.bound.seconds / self.peer.median
        return found

    @property
    def judged(self) -> list[tuple[Want, str]]:
        """What is wanted, and whether it was met; nothing said where it was not measured."""
        measured = self.measures
        return [
            (
                want,
                (MET if want.met(measured[want.what]) else MISSED) if want.what in measured else "",
            )
            for want in WANTED.get((self.work, self.size), ())
        ]

    def as_dict(self) -> dict[str, Any]:
        """For JSON, the derived numbers among it."""
        wanted = [{"wanted": str(want), "verdict": verdict} for want, verdict in self.judged]
        derived = {"ratios": self.ratios, "measures": self.measures, "wanted": wanted}
        return {**dataclasses.asdict(self), **derived}


def from_dict(plain: dict[str, Any]) -> Row:
    """The row that `as_dict` gave."""
    names = {field.name for field in dataclasses.fields(Row)}
    own = {name: value for name, value in plain.items() if name in names}
    for name in ("ours", "peer"):
        if own.get(name):
            own[name] = Side(**own[name])
            own[name] = dataclasses.replace(own[name], seconds=tuple(own[name].seconds))
    if own.get("bound"):
        own["bound"] = Bound(**own["bound"])
    return Row(**own)


def replaced(rows: Sequence[Row], new: Row) -> list[Row]:
    """The rows with a new one in the place of that of the same work and size, or at the end."""
    same = lambda row: (row.work, row.size) == (new.work, new.size)
    if any(map(same, rows)):
        return [new if same(row) else row for row in rows]
    return [*rows, new]
