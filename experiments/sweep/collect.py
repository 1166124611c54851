"""All finished lines of a sweep as one tidy table, and as one head-to-head over an axis of its
grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow
import pyarrow.parquet

from experiments.sweep.folder import Line, SweepFolder
from fdiv.types import UsageError

KEY = ("line", "method", "metric", "seed")  # no two rows share it


def collect(sweep: SweepFolder, axis: str | None, partial: bool) -> int:
    """Write DIR/collected.parquet and the report of an axis; 0, or a `UsageError` while lines are
    missing."""
    lines = [line for line in sweep.lines if (sweep.end(line) or {}).get("state") == "done"]
    missing = len(sweep.lines) - len(lines)
    if not lines or (missing and not partial):
        problem = f"{missing} of {len(sweep.lines)} lines are not done."
        raise UsageError(
            "dir", str(sweep.path), problem, "Use resume, or collect with --partial True."
        )
    axis = _axis(sweep, axis)
    table = pyarrow.Table.from_pylist(rows(sweep, lines))
    draft = sweep.path / ".collected.draft"
    pyarrow.parquet.write_table(table, draft)
    draft.replace(sweep.path / "collected.parquet")
    from experiments.reporting.merge import write_all

    out = sweep.path / ("report" if axis in ("", "methods") else f"report-{axis}")
    write_all(sweep, lines, axis, out)
    print(
        f"{table.num_rows} rows of {len(lines)} runs: {sweep.path / 'collected.parquet'}. "
        f"Report: {out / 'report.html'}"
    )
    return 0


def rows(sweep: SweepFolder, lines: Sequence[Line]) -> list[dict[str, Any]]:
    """One row per run, method, metric and seed, with a column for each axis of the grid."""
    axes = _axes(sweep)
    words = {
        axis: any(
            not isinstance(line["point"].get(axis), (int, float, type(None)))
            for line in sweep.lines
        )
        for axis in axes
    }
    found = []
    for line in lines:
        point = {f"axis.{axis}": _plain(line["point"].get(axis), words[axis]) for axis in axes}
        table = pyarrow.parquet.read_table(sweep.run(line) / "results.parquet").to_pylist()
        found += [{"line": line["line"], "preset": line["preset"], **point, **row} for row in table]
    return sorted(found, key=lambda row: tuple(row[name] for name in KEY))


def _plain(value: Any, as_text: bool) -> Any:
    if value is None:
        return None
    return (
        (" ".join(map(str, value)) if isinstance(value, list) else str(value))
        if as_text
        else float(value)
    )


def _axes(sweep: SweepFolder) -> list[str]:
    return list(dict.fromkeys(axis for line in sweep.lines for axis in line["point"]))


def _axis(sweep: SweepFolder, asked: str | None) -> str:
    """The axis asked for, or the grid's first that is not a seed; none in a sweep of one run."""
    axes = _axes(sweep)
    if asked is not None and asked.replace("-", "_") not in (
        known.replace("-", "_") for known in axes
    ):
        raise UsageError(
            "axis", asked, "is no axis of this grid.", f"Give one of {', '.join(axes)}."
        )
    if asked is not None:
        return next(known for known in axes if known.replace("-", "_") == asked.replace("-", "_"))
    return next((axis for axis in axes if axis not in ("seed", "seeds")), "methods")
