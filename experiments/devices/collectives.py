"""What a compiled program moves between devices, read from its text.

Counted are the bytes that each device sends over its links where an operation of n devices is done
in a ring (Patarasuk & Yuan 2009): (n - 1) / n of the whole array for an all-gather, a
reduce-scatter and an all-to-all, twice that for an all-reduce, all of it for a permutation. What
stands in a loop counts as often as the loop runs, where the compiler says how often; else once."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

BITS = {
    "pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "bf16": 16, "f16": 16,
    "s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64, "c64": 64, "c128": 128,
}  # fmt: skip
SENT: dict[str, Callable[[float, int], float]] = {  # (bytes of the result, n) -> bytes sent
    "all-gather": lambda size, n: size * (n - 1) / n,
    "all-reduce": lambda size, n: 2 * size * (n - 1) / n,
    "reduce-scatter": lambda size, n: size * (n - 1),  # the result is an n-th of the whole
    "all-to-all": lambda size, n: size * (n - 1) / n,
    "collective-permute": lambda size, n: size,
}
COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(SENT)})(?:-start)?\(")
ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]*)\}")
COUNTED = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=\[[\d,]*\](T?)")
MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")
AXIS = re.compile(r"'(\w+)'(?:=(\d+))?")
CALLED = re.compile(r"(?:body|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)")
TRIPS = re.compile(r'known_trip_count\\?":\{\\?"n\\?":\\?"(\d+)')


class Collectives(NamedTuple):
    """Of one run of a program, on each device."""

    bytes: dict[str, float]  # kind -> bytes sent
    count: dict[str, int]  # kind -> operations
    within: float  # bytes sent between devices of one node

    @property
    def total(self) -> float:
        """Bytes sent."""
        return sum(self.bytes.values())


def read(text: str, node: int = 8) -> Collectives:
    """Those of a compiled program's text (`compiled.as_text()`), on nodes of so many devices."""
    lines, entry = _computations(text)
    sent: dict[str, float] = defaultdict(float)
    count: dict[str, int] = defaultdict(int)
    within = 0.0
    for name, times in _runs(lines, entry).items():
        for line in lines[name]:
            if (match := COLLECTIVE.search(line)) is None:
                continue
            kind, (devices, close) = match[2], _group(line, node)
            moved = times * SENT[kind](_size(match[1], "-start(" in line), devices)
            sent[kind] += moved
            count[kind] += times
            within += moved if close else 0.0
    return Collectives(dict(sent), dict(count), within)


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Each computation's lines, and which one is run."""
    lines: dict[str, list[str]] = defaultdict(list)
    name = entry = ""
    for line in text.splitlines():
        if match := COMPUTATION.match(line):
            name = match[1]
            entry = name if line.startswith("ENTRY") else entry
        elif name:
            lines[name].append(line)
    return lines, entry


def _runs(lines: dict[str, list[str]], entry: str) -> dict[str, int]:
    """Computation -> how often it is run."""
    found: dict[str, int] = defaultdict(int)

    def visit(name: str, times: int) -> None:
        found[name] += times
        for line in lines.get(name, ()):
            trips = TRIPS.search(line) if " while(" in line else None
            for called in CALLED.findall(line):
                visit(called, times * (int(trips[1]) if trips else 1))

    visit(entry, 1)
    return {name: times for name, times in found.items() if name in lines}


def _size(shapes: str, started: bool) -> float:
    """Bytes of the result. What a start gives also names its operand: the last array is the
    result."""
    arrays = [BITS.get(kind, 32) / 8 * _product(sizes) for kind, sizes in ARRAY.findall(shapes)]
    return (arrays[-1] if started else sum(arrays)) if arrays else 0.0


def _product(sizes: str) -> float:
    total = 1.0
    for size in filter(None, sizes.split(",")):
        total *= int(size)
    return total


def _group(line: str, node: int) -> tuple[int, bool]:
    """How many devices take part together, and whether they are of one node. Devices are numbered
    node after node. Raises `ValueError` for groups that are written in a way not known here."""
    if match := COUNTED.search(line):
        size = int(match[2])
        return size, not match[3] and size <= node and node % size == 0
    if match := LISTED.search(line):
        devices = [int(x) for x in match[1].split(",") if x]
    elif (match := MESH.search(line)) and ":" not in match[2]:  # along whole axes
        devices = _of_mesh(
            {name: int(size) for name, size in AXIS.findall(match[1])},
            [name for name, _ in AXIS.findall(match[2])],
        )
    else:
        raise ValueError(f"groups of devices cannot be read: {line.strip()[:300]}")
    return len(devices), len({x // node for x in devices}) == 1


def _of_mesh(axes: dict[str, int], along: list[str]) -> list[int]:
    """The devices of the first group along some axes of a mesh."""
    devices, stride = [0], 1
    for name, size in reversed(axes.items()):
        if name in along:
            devices = [x + i * stride for i in range(size) for x in devices]
        stride *= size
    return devices
