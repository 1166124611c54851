"""What a figure is: flags in, values, checks, a table and a picture out; and how it is kept on
disk."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from matplotlib.figure import Figure as Picture

from experiments.reporting import style
from experiments.storage.run_folder import write_json
from fdiv.types import UsageError

Flags = TypeVar("Flags")  # a figure's frozen dataclass of flags
Row = dict[str, Any]  # column -> number or word


class Check(NamedTuple):
    """One thing that must hold at these flags, by the figure's own independent arithmetic."""

    name: str
    holds: bool
    detail: str  # the numbers on both sides


class Result(NamedTuple):
    """What a figure comes to at some flags."""

    values: dict[str, Any]  # nested, as its page in the documentation lists them
    checks: list[Check]
    rows: list[Row]  # the table that is printed, and the CSV behind the picture
    picture: Picture
    curve: list[Row] | None = None  # the CSV, where the picture shows more than the table


class Figure(NamedTuple, Generic[Flags]):
    """One known figure or one study: a frozen dataclass of flags and the function that makes it."""

    flags: type[Flags]
    make: Callable[[Flags], Result]
    title: str
    claim: str  # one sentence: what the picture shows
    source: str  # the paper or papers it is known from
    cluster: Flags | None = None  # of a study: the flags for many devices and hours


def near(name: str, value: float, expected: float, tolerance: float) -> Check:
    """|value - expected| <= tolerance, both finite or both the same infinity."""
    same = value == expected or abs(value - expected) <= tolerance
    return Check(name, bool(same), f"{value:.6g} against {expected:.6g}, within {tolerance:g}")


def distinct(field: str, values: Sequence[Any]) -> None:
    """Raises `UsageError` where a flag's values are none or name one twice."""
    if not values or len(set(values)) < len(values):
        raise UsageError(field, values, "is empty or holds one twice.", "Give each once.")


def write_files(key: str, flags: Flags, result: Result, folder: Path) -> str:
    """Write KEY.pdf, .png, .csv and .json; return the picture as SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    svg = style.save(result.picture, folder, key, result.curve or result.rows)
    checks = [{"name": c.name, "pass": c.holds, "detail": c.detail} for c in result.checks]
    # pyrefly: ignore[bad-argument-type]
    plain = json.loads(json.dumps(dataclasses.asdict(flags), default=str))
    content = {"key": key, "flags": plain, "values": finite(result.values), "checks": checks}
    write_json(folder / f"{key}.json", content)
    return svg


def finite(value: Any) -> Any:
    """Plain data for JSON, an infinity as the string "inf" or "-inf", what is not a number as
    null."""
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    if isinstance(value, (bool, int, str)) or value is None:
        return value
    value = float(value)
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return None if math.isnan(value) else value
