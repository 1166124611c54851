"""Where each line of a sweep stands, from the files alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from experiments.storage import files, lease
from experiments.storage.run_folder import LINES
from experiments.sweep.folder import Line, SweepFolder, name

ORDER = ("done", "running", "queued", "preempted", "failed", "refused", "not started")
SHOWN = (
    "greedy_accuracy",
    "regret",
    "js",
    "validation_nll",
)  # the metric that ranks a run, whichever it has


class Row(NamedTuple):
    """One line's state, and why."""

    line: int
    state: str
    point: str
    metric: str
    reason: str


def rows(sweep: SweepFolder) -> list[Row]:
    """Every line."""
    from experiments.sweep.slurm import queued

    seen, waiting = lease.read(sweep.leases, sweep.lapse), queued(sweep)
    return [
        _row(sweep, line, seen.get(name(line)), line["line"] in waiting) for line in sweep.lines
    ]


def _row(sweep: SweepFolder, line: Line, seen: lease.Seen | None, waiting: bool) -> Row:
    end = sweep.end(line) or {}
    state, reason = end.get("state"), end.get("reason", "")
    if state in (None, "preempted"):
        if seen and seen.held(sweep.lapse):
            state, reason = (
                "running",
                f"on {seen.holder.get('host', 'a host')}" if seen.holder else "",
            )
        elif state is None and seen and seen.deaths:
            sign = f"no sign for {seen.age:.0f} s" if seen.age >= 0 else "its lease is dated ahead"
            state, reason = "preempted", f"its worker died: {sign}"
        if waiting and state != "running":
            state, reason = (
                "queued",
                f"{reason}{'; ' if reason else ''}{state or 'not started'} so far",
            )
    if state == "done":
        reason = _trouble(sweep.run(line))
    return Row(
        line["line"], state or "not started", words(line["point"]), _metric(sweep.run(line)), reason
    )


def words(point: dict[str, Any]) -> str:
    """A point of the grid in a few words."""
    plain = lambda value: " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return ", ".join(f"{flag} {plain(value)}" for flag, value in point.items())


def _metric(run: Path) -> str:
    """What the run's metrics say last, read from the end of the file."""
    path = run / "metrics.jsonl"
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 20_000))
        texts = file.read().decode(errors="replace").splitlines()
    for text in reversed(texts):
        found = files.split_lines(text.encode() + b"\n", LINES["metrics.jsonl"])
        for _, said in found.good:
            shown = next((f"{m} {said[m]:.4g}" for m in SHOWN if said.get(m) is not None), "")
            return f"{said['method']} {said['update']}: {shown}"
    return ""


def _trouble(run: Path) -> str:
    """Methods of a finished run that diverged, or whose file is damaged."""
    said = ((path.stem, _ended(path)) for path in sorted((run / "methods").glob("*.json")))
    return "; ".join(f"{name} {words}" for name, words in said if words)


def _ended(path: Path) -> str:
    """How a method ended, where not well."""
    try:
        ended = files.load(path, lambda data: (data["status"], f"{data['reason']}"))
    except files.Damaged as error:
        return f"has a damaged file: {error}"
    return "" if ended[0] == "ok" else f"{ended[0]}: {ended[1]}"


def show(found: list[Row], every: bool) -> None:
    """Print the count of each state and, of what is worth a look (or of all), a row each."""
    from rich.console import Console
    from rich.table import Table

    counts = Counter(row.state for row in found)
    console = Console(markup=False, emoji=False, highlight=False)  # names and reasons as they are
    console.print(", ".join(f"{counts[state]} {state}" for state in ORDER if counts[state]))
    worth = [row for row in found if every or row.reason or row.state == "running"]
    if worth:
        table = Table(*Row._fields, box=None, padding=(0, 1), header_style="bold")
        for row in worth:
            table.add_row(str(row.line), *row[1:])
        console.print(table)
