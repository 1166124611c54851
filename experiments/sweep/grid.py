"""A grid as data: which settings a sweep holds. A YAML file, or a Python file that defines `GRID`.

    preset: two-template
    flags: {updates: 200, report: false}          what all runs share
    product: {learning_rate: [0.01, 0.1], seed: [0, 1]}
    zip: {batch_size: [64, 128], updates: [400, 200]}
    list: [{policy.name: full}, {policy.name: markov, policy.order: 2}]
    random: {count: 8, seed: 0, of: {max_grad_norm: {log_uniform: [0.1, 10]}}}
    when: [{if: {methods: gail}, product: {adversarial.warmup: [0, 50]}}]
    skip: [{policy.name: full, seed: 1}]

Blocks multiply. Names are those of flags. `if` and `skip` match a point that has all the given
values (a list: one of them)."""

from __future__ import annotations

import difflib
import itertools
import math
import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fdiv.types import UsageError

Point = dict[str, Any]  # flag -> value, "preset" among them


def read(path: Path) -> Mapping[str, Any]:
    """The grid of a file; raises `UsageError` for one that cannot be read."""
    import yaml

    if not path.is_file():
        raise UsageError("grid", str(path), "is not a file.", "Give a .yaml or .py file.")
    try:
        grid = (
            runpy.run_path(str(path)).get("GRID")
            if path.suffix == ".py"
            else yaml.safe_load(path.read_text(encoding="utf-8"))
        )
    except Exception as error:  # whatever a file of the user's own can raise
        raise UsageError(
            "grid", str(path), f"cannot be read: {' '.join(str(error).split())}.", "Mend the file."
        ) from error
    if not isinstance(grid, Mapping):
        raise UsageError(
            "grid",
            str(path),
            "holds no grid.",
            "Give a mapping of blocks (in Python: GRID = {...}).",
        )
    return grid


def expand(grid: Mapping[str, Any]) -> list[Point]:
    """Every point, in order: the last name of a product turns fastest."""
    for name in grid:
        if name not in {"preset", "flags", "when", "skip", "if", *BLOCKS}:
            near = difflib.get_close_matches(name, BLOCKS, n=1) or ["flags"]
            raise UsageError(
                "grid",
                name,
                "is no block of a grid.",
                f"Did you mean {near[0]}? A flag goes under flags.",
            )
    try:
        shared = ({"preset": grid["preset"]} if "preset" in grid else {}) | dict(
            grid.get("flags") or {}
        )
        points = [shared]
        for name, block in BLOCKS.items():
            if name in grid:
                more = block(grid[name])
                points = [point | other for point in points for other in more]
        for condition in grid.get("when", ()):
            more = expand(condition)
            points = [
                point | other
                for point in points
                for other in (more if _fits(point, condition["if"]) else [{}])
            ]
        return [
            point
            for point in points
            if not any(_fits(point, skipped) for skipped in grid.get("skip", ()))
        ]
    except (TypeError, AttributeError, KeyError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            "grid",
            str(error),
            "a block is not of the form that it should have.",
            "See the example.",
        ) from error


def _fits(point: Point, wanted: Mapping[str, Any]) -> bool:
    known = {_name(name): value for name, value in point.items()}
    chosen = lambda value: value if isinstance(value, list) else [value]
    same = lambda a, b: a == b or str(a) == str(b)  # YAML reads 1e-3 as a word
    return all(
        _name(k) in known and any(same(known[_name(k)], x) for x in [v, *chosen(v)])
        for k, v in wanted.items()
    )


def _name(flag: str) -> str:
    return flag.replace("-", "_")


def _product(block: Mapping[str, Sequence]) -> list[Point]:
    return [dict(zip(block, values)) for values in itertools.product(*map(_values, block.values()))]


def _zip(block: Mapping[str, Sequence]) -> list[Point]:
    lengths = {name: len(_values(values)) for name, values in block.items()}
    if len(set(lengths.values())) > 1:
        raise UsageError(
            "zip", lengths, "are lists of different lengths.", "Give as many values of each."
        )
    return [dict(zip(block, values)) for values in zip(*block.values())]


def _values(values: Any) -> Sequence:
    if not isinstance(values, (list, tuple)) or not values:
        raise UsageError(
            "grid",
            values,
            "is not a list of values.",
            "Give at least one, as [a, b]; one for all goes under flags.",
        )
    return values


def _random(block: Mapping[str, Any]) -> list[Point]:
    """`count` points drawn from a seed of their own: one for all combinations of the other
    blocks."""
    generator = np.random.default_rng(block.get("seed", 0))
    return [
        {name: _draw(generator, law) for name, law in block["of"].items()}
        for _ in range(int(block["count"]))
    ]


def _draw(generator: np.random.Generator, law: Any) -> Any:
    if isinstance(law, (list, tuple)):
        return law[int(generator.integers(len(_values(law))))]
    (kind, (low, high)), *more = law.items()
    if kind not in LAWS or more:
        raise UsageError(
            "random",
            law,
            "is no law to draw from.",
            f"Give a list of values, or one of {', '.join(LAWS)}: [low, high].",
        )
    return LAWS[kind](generator, float(low), float(high))


LAWS = {
    "uniform": lambda generator, low, high: float(generator.uniform(low, high)),
    "log_uniform": lambda generator, low, high: float(
        math.exp(generator.uniform(math.log(low), math.log(high)))
    ),
    "integers": lambda generator, low, high: int(
        generator.integers(int(low), int(high), endpoint=True)
    ),
}
BLOCKS = {
    "product": _product,
    "zip": _zip,
    "list": lambda block: [dict(point) for point in block],
    "random": _random,
}
