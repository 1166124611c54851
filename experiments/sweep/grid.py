"""A grid as data: which settings a sweep holds. A YAML file, or a Python file that defines `GRID`.

    preset: two-template                          or several, as [two-template, markov]
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

import ast
import difflib
import itertools
import math
import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import cli
from experiments.sweep import scalars
from fdiv.types import UsageError

MOST = 100_000  # points
Point = dict[str, Any]  # flag -> value, "preset" among them


def read(path: Path) -> Mapping[str, Any]:
    """The grid of a file; raises `UsageError` for one that cannot be read. Values of YAML are text
    as it is written, those of Python what they are."""
    if not path.is_file():
        raise UsageError("grid", str(path), "is not a file.", "Give a .yaml or .py file.")
    grid = _of_python(path) if path.suffix == ".py" else scalars.read("grid", path)
    if not isinstance(grid, Mapping):
        raise UsageError(
            "grid",
            str(path),
            "holds no grid.",
            "Give a mapping of blocks (in Python: GRID = {...}).",
        )
    return grid


def _of_python(path: Path) -> Any:
    try:
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Dict):
                _refuse_twice(node)
        return runpy.run_path(str(path)).get("GRID")
    except Exception as error:  # whatever a file of the user's own can raise
        problem = f"cannot be read: {' '.join(str(error).split())}."
        raise UsageError("grid", str(path), problem, "Mend the file.") from error


def _refuse_twice(node: ast.Dict) -> None:
    """Python keeps the last of two values under one key, in silence."""
    lines: dict[str, int] = {}
    for key in node.keys:
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            if _name(key.value) in lines:
                first = f"first in line {lines[_name(key.value)]}"
                raise ValueError(
                    f"the key {key.value!r} is given twice ({first}), line {key.lineno}"
                )
            lines[_name(key.value)] = key.lineno


def expand(grid: Mapping[str, Any]) -> list[Point]:
    """Every point, in order: the last name of a product turns fastest. `preset: [a, b]` is an axis
    as those of a product are, the slowest."""
    for name in grid:
        if name not in {"preset", "flags", "when", "skip", "if", *BLOCKS}:
            near = difflib.get_close_matches(str(name), BLOCKS, n=1) or ["flags"]
            raise UsageError(
                "grid",
                name,
                "is no block of a grid.",
                f"Did you mean {near[0]}? A flag goes under flags.",
            )
    try:
        flags = dict(grid.get("flags") or {})
        _refuse_two_names(flags)
        points = [_over(start, flags) for start in _presets(grid)]
        for name, block in BLOCKS.items():
            if name in grid:
                points = _times(points, block(grid[name]))
        for condition in grid.get("when") or ():
            _refuse_unknown("when", condition["if"], points)
            more = expand(condition)
            points = [
                _over(point, other)
                for point in points
                for other in (more if _fits(point, condition["if"]) else [{}])
            ]
        skips = grid.get("skip") or ()
        for skip in skips:
            _refuse_unknown("skip", skip, points)
        return [point for point in points if not any(_fits(point, skip) for skip in skips)]
    except (TypeError, AttributeError, KeyError, ValueError, RecursionError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            "grid",
            str(error),
            "a block is not of the form that it should have.",
            "See the example.",
        ) from error


def _presets(grid: Mapping[str, Any]) -> list[Point]:
    """A point for each preset that the grid names."""
    if "preset" not in grid:
        return [{}]
    given = grid["preset"]
    names = _values(given) if isinstance(given, (list, tuple)) else [given]
    for name in names:
        if not isinstance(name, str):
            raise UsageError("preset", name, "is no name.", "Give one, or a list of names.")
    return [{"preset": name} for name in names]


def _over(point: Point, other: Point) -> Point:
    """A point with the values of another over its own, whichever way their names are written."""
    names = {_name(name) for name in other}
    return {name: value for name, value in point.items() if _name(name) not in names} | other


def _times(points: list[Point], more: list[Point]) -> list[Point]:
    _refuse_many(len(points) * len(more))
    return [_over(point, other) for point in points for other in more]


def _refuse_many(count: int) -> None:
    if count > MOST:
        raise UsageError("grid", count, "are too many points.", f"Give at most {MOST:,}.")


def _fits(point: Point, wanted: Mapping[str, Any]) -> bool:
    known = {_name(name): value for name, value in point.items()}
    chosen = lambda value: value if isinstance(value, list) else [value]
    return all(
        _name(k) in known and any(_same(known[_name(k)], x) for x in [v, *chosen(v)])
        for k, v in wanted.items()
    )


def _refuse_unknown(block: str, wanted: Mapping[str, Any], points: Sequence[Point]) -> None:
    """Raise `UsageError` for a condition on what no point says: it would never hold, in silence."""
    known = {_name(name): name for point in points for name in point}
    for name in wanted:
        if points and _name(name) not in known:
            near = difflib.get_close_matches(_name(name), known, n=1, cutoff=0) or ["it"]
            problem = "is in no point of the grid, so that this condition never holds."
            fix = f"Did you mean {known.get(near[0], near[0])}? Or give {name} under flags."
            raise UsageError(block, name, problem, fix)


def _same(a: Any, b: Any) -> bool:
    """Whether two values are one however they are written: 1e-3 and 0.001, true and True."""
    words = (str(a), str(b))
    if a == b or words[0] == words[1]:
        return True
    if {word.lower() for word in words} in ({"true"}, {"false"}):
        return True
    try:
        return float(a) == float(b)
    except (TypeError, ValueError):
        return False


def _name(flag: str) -> str:
    """A flag as its field is called today."""
    today = cli.ALIASES.get(f"--{flag}".replace("_", "-"), str(flag)).removeprefix("--")
    return today.replace("-", "_")


def _refuse_two_names(block: Mapping[str, Any]) -> None:
    """Raise `UsageError` for a flag that one block gives under two names."""
    names: dict[str, Any] = {}
    for name in block:
        for flag in cli.meant(f"--{name}".replace("_", "-")):
            first = names.setdefault(flag, name)
            if str(first).replace("-", "_") != str(name).replace("-", "_"):
                problem = f"is given beside {first}, which is the same flag ({flag})."
                raise UsageError("grid", name, problem, "Keep one of them.")


def _product(block: Mapping[str, Sequence]) -> list[Point]:
    _refuse_two_names(block)
    lists = [_values(values) for values in block.values()]
    _refuse_many(math.prod(map(len, lists)))
    return [dict(zip(block, values)) for values in itertools.product(*lists)]


def _zip(block: Mapping[str, Sequence]) -> list[Point]:
    _refuse_two_names(block)
    lengths = {name: len(_values(values)) for name, values in block.items()}
    if len(set(lengths.values())) > 1:
        raise UsageError(
            "zip", lengths, "are lists of different lengths.", "Give as many values of each."
        )
    return [dict(zip(block, values)) for values in zip(*block.values())]


def _list(block: Sequence[Mapping[str, Any]]) -> list[Point]:
    for point in block:
        _refuse_two_names(point)
    return [dict(point) for point in block]


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
    _refuse_two_names(block["of"])
    generator = np.random.default_rng(int(block.get("seed", 0)))
    _refuse_many(int(block["count"]))
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
    bounds = float(low), float(high)
    if not all(map(math.isfinite, bounds)) or bounds[0] > bounds[1]:
        raise UsageError("random", law, "has no bounds to draw between.", "Give [low, high].")
    if kind == "log_uniform" and bounds[0] <= 0:
        raise UsageError("random", law, "has no logarithm of its low.", "Give one above 0.")
    return LAWS[kind](generator, *bounds)


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
    "list": _list,
    "random": _random,
}
