"""All finished lines of a sweep as one tidy table, and as one head-to-head over an axis of its
grid."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from experiments.reporting import merge, results, schema, scoreboards
from experiments.reporting.pictures import Drawn
from experiments.reporting.schema import RunResult
from experiments.running import trackers
from experiments.sweep import axis as axis_picture
from experiments.sweep import tasks
from experiments.sweep.folder import Line, SweepFolder
from fdiv.types import UsageError

KEY = ("line", "method", "metric", "seed")  # no two rows share it
TRACKED = "tracked.csv"  # where each run's runs at trackers are


def collect(sweep: SweepFolder, axis: str | None, partial: bool) -> int:
    """Write DIR/collected.parquet and the report of an axis; 0, or a `UsageError` while lines are
    missing."""
    lines = [line for line in sweep.lines if _sound(sweep, line)]
    missing = len(sweep.lines) - len(lines)
    if not lines or (missing and not partial):
        problem = f"{missing} of {len(sweep.lines)} lines are not done."
        raise UsageError(
            "dir", str(sweep.path), problem, "Use resume, or collect with --partial True."
        )
    axis = _axis(sweep, axis)
    tasks.refuse_mixed(sweep, lines)
    table = pyarrow.Table.from_pylist(rows(sweep, lines))
    draft = sweep.path / ".collected.draft"
    pyarrow.parquet.write_table(table, draft)
    draft.replace(sweep.path / "collected.parquet")
    out = sweep.path / ("report" if axis in ("", "methods") else f"report-{axis}")
    _report(sweep, lines, axis, out)
    followed = _link(sweep, lines)
    if followed:
        print(f"{followed} runs at trackers: {sweep.path / TRACKED}.")
    print(
        f"{table.num_rows} rows of {len(lines)} runs: {sweep.path / 'collected.parquet'}. "
        f"Report: {out / 'report.html'}"
    )
    return 0


def _sound(sweep: SweepFolder, line: Line) -> bool:
    """Whether a line is done and its results are whole; where they are not, it is open again."""
    if (sweep.end(line) or {}).get("state") != "done":
        return False
    if schema.kept(sweep.run(line) / "results.json") is not None:
        return True
    print(f"Line {line['line']} has no sound results.json and is open again.")
    sweep.open_again(line)
    return False


def parts(sweep: SweepFolder, lines: Sequence[Line], axis: str) -> list[merge.Part]:
    """The runs that are merged: over an axis of settings, a method's entry names its value."""
    shown = [] if axis in ("", "methods") else [axis]
    apart = [name for name in tasks.apart(sweep, lines) if name != axis]
    return [merge.Part(sweep.run(line), _entry(line["point"], shown, apart)) for line in lines]


def _entry(point: Mapping[str, Any], shown: Sequence[str], apart: Sequence[str]) -> str:
    """What is added to a method's name: the value of the axis, and what tells its task apart."""
    words = [str(_plain(point.get(name), as_text=True)) for name in shown]
    return ", ".join(words + [f"{name} {_plain(point.get(name), as_text=True)}" for name in apart])


def merged(sweep: SweepFolder, lines: Sequence[Line], axis: str) -> RunResult:
    """All lines as one head-to-head."""
    over = f" over {axis}" if axis else ""
    note = (
        f"A sweep of {len(sweep.lines)} runs{over}, {len(lines)} of them here; seeds of runs "
        "that share an entry are pooled. "
        "What the class can do at best, and the start, are means over the runs."
    )
    apart = [name for name in tasks.apart(sweep, lines) if name != axis]
    if apart:
        note += f" Runs that differ in {', '.join(apart)} are of different tasks and kept apart."
    pooled = [name for name in _axes(sweep) if name not in (axis, "methods", *apart)]
    if pooled:
        note += f" Pooled over {', '.join(pooled)}."
    if any(tracked(sweep, line) for line in lines):
        note += f" Where each run is at its trackers: {TRACKED}."
    versions = tasks.versions(sweep, lines)
    if len(versions) > 1:
        note += f" They were made by different versions of the code: {', '.join(versions)}."
    return merge.merge(parts(sweep, lines, axis), note)


def tracked(sweep: SweepFolder, line: Line) -> list[dict[str, Any]]:
    """A line's runs at trackers."""
    return [{"line": line["line"], **run} for run in trackers.runs(sweep.run(line))]


def _link(sweep: SweepFolder, lines: Sequence[Line]) -> int:
    """Write DIR/tracked.csv, where each run of a tracker is; how many there are."""
    every = [run for line in lines for run in tracked(sweep, line)]
    if every:
        titles = list(dict.fromkeys(name for run in every for name in run))
        with (sweep.path / TRACKED).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, titles)
            writer.writeheader()
            writer.writerows(every)
    return len(every)


def _report(sweep: SweepFolder, lines: Sequence[Line], axis: str, out: Path) -> None:
    (out / "figures").mkdir(parents=True, exist_ok=True)
    whole, first = merged(sweep, lines, axis), []
    if axis not in ("", "methods"):
        board = scoreboards.of_result(whole)
        metric = board.metric(board.rank_by)
        drawing = axis_picture.picture(sweep, lines, axis, metric, out / "figures")
        first.append(Drawn("Over the axis", axis_picture.CAPTION, drawing))
    merge.write_all(whole, parts(sweep, lines, axis), out, first, axis)


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
    whole = []
    for line in lines:
        point = {f"axis.{axis}": _plain(line["point"].get(axis), words[axis]) for axis in axes}
        places: dict[tuple[str, int], list[str]] = {}
        for run in tracked(sweep, line):
            places.setdefault((run["method"], run["seed"]), []).append(run["where"])
        for row in results.tidy(schema.read(sweep.run(line) / "results.json")):
            own = {"line": line["line"], "preset": line["preset"], **point, **row}
            where = places.get((row["method"], row["seed"]))
            whole.append(own | {"tracked": " ".join(where) if where else None})
    if not any(row["tracked"] for row in whole):
        whole = [{k: v for k, v in row.items() if k != "tracked"} for row in whole]
    return sorted(whole, key=lambda row: tuple(row[name] for name in KEY))


def _plain(value: Any, as_text: bool) -> str | float | None:
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
