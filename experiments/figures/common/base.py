"""What a figure is: flags in, values, checks, a table and a picture out; and how it is kept on
disk."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from experiments.reporting import style
from experiments.storage.run_folder import write_json


class Check(NamedTuple):
    """One thing that must hold at these flags, by the figure's own independent arithmetic."""

    name: str
    holds: bool
    detail: str  # the numbers on both sides


class Result(NamedTuple):
    """What a figure found."""

    values: dict[str, Any]  # nested, as its page in the README lists them
    checks: list[Check]
    rows: list[dict[str, Any]]  # the table that is printed, and the CSV behind the picture
    picture: Any  # a matplotlib figure
    curve: list[dict[str, Any]] | None = (
        None  # the CSV instead of `rows`, where the picture shows more than the table
    )


class Figure(NamedTuple):
    """One known figure: a frozen dataclass of flags and the function that makes it."""

    flags: type
    make: Callable[[Any], Result]
    title: str
    claim: str  # one sentence: what the picture shows
    source: str  # the paper or papers it is known from
    cluster: Any = (
        None  # a study's flags where there are many devices and hours; None: it is no study
    )


def near(name: str, found: float, wanted: float, tolerance: float) -> Check:
    """|found - wanted| <= tolerance, both finite or both the same infinity."""
    same = found == wanted or abs(found - wanted) <= tolerance
    return Check(name, bool(same), f"{found:.6g} against {wanted:.6g}, within {tolerance:g}")


def keep(key: str, flags: Any, result: Result, folder: Path) -> str:
    """Write KEY.pdf, .png, .csv and .json; return the picture as SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    svg = style.save(result.picture, folder, key, result.curve or result.rows)
    checks = [{"name": c.name, "pass": c.holds, "detail": c.detail} for c in result.checks]
    plain = json.loads(json.dumps(dataclasses.asdict(flags), default=str))
    write_json(
        folder / f"{key}.json",
        {"key": key, "flags": plain, "values": finite(result.values), "checks": checks},
    )
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
