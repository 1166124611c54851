"""Finished runs and those under way: `python -m experiments.runs COMMAND`

list [FOLDER]              what lies in a folder (runs), with its state and its size
show RUN                   its table, and how it differs from its preset
diff RUN RUN               fields and results in which two runs differ
compare RUN RUN ... [--out DIR] [--axis FIELD]
                           several runs in one report, their methods side by side
clean RUN ... [--finals] [--yes]
                           give back the disk of checkpoints; results stay"""

from __future__ import annotations

import dataclasses
import datetime
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from experiments import cli
from fdiv.types import UsageError

if TYPE_CHECKING:
    from experiments.running.loading import Run

Runs = Annotated[tuple[Path, ...], tyro.conf.Positional]
LARGE = 1 << 20


@dataclasses.dataclass(frozen=True)
class List:
    """The runs in a folder, whatever their depth."""

    folder: Annotated[Path, tyro.conf.Positional] = Path("runs")
    """Where to look."""


@dataclasses.dataclass(frozen=True)
class Show:
    """The table of a run, its command, and how it differs from its preset."""

    run: Annotated[Path, tyro.conf.Positional]
    """The folder of a run."""


@dataclasses.dataclass(frozen=True)
class Diff:
    """Fields and results in which two runs differ."""

    first: Annotated[Path, tyro.conf.Positional]
    """The folder of a run."""
    second: Annotated[Path, tyro.conf.Positional]
    """Of another."""


@dataclasses.dataclass(frozen=True)
class Compare:
    """Several finished runs of one task in one report."""

    runs: Runs
    """Their folders."""
    out: Path | None = None
    """Where the report goes; none: runs/compared, or the next number that is free."""
    axis: str | None = None
    """The field whose values tell the runs apart, such as batch_size or policy.name; none: the
    names of their folders."""


@dataclasses.dataclass(frozen=True)
class Clean:
    """Delete the checkpoints of finished runs; results, tables and the report stay."""

    runs: Runs
    """Their folders."""
    finals: bool = False
    """The trained policies too: nothing can be sampled, exported or continued then."""
    yes: bool = False
    """Delete; without it what would be deleted is said."""


# --- commands -------------------------------------------------------------------------------------


def list_runs(options: List) -> int:
    """Print a line for each."""
    from experiments.running import loading, trained

    if not options.folder.is_dir():
        raise UsageError("folder", str(options.folder), "is no folder.", "Give one with runs.")
    places = sorted(path.parent for path in options.folder.rglob("config.json"))
    places += sorted(
        p.parent for p in options.folder.rglob("results.json") if p.parent not in places
    )
    rows = []
    for place in places:
        try:
            run = loading.load(place)
            rows.append([str(place), *_line(run)])
        except UsageError as error:
            if (place / "results.json").exists() or trained.is_run(place):
                rows.append([str(place), "", "", "", f"cannot be read: {error.problem}", "", ""])
    titles = ["run", "preset", "methods", "seeds", "state", "begun", "size"]
    caption = f"{len(rows)} runs." if rows else f"No run in {options.folder}."
    _print_rows(titles, rows, caption)
    return 0


def _line(run: Run) -> list[str]:
    began = datetime.datetime.fromtimestamp(_oldest(run.path)).strftime("%Y-%m-%d %H:%M")
    seeds = run.kept.get("config", {}).get("seeds", "")
    names = run.kept.get("config", {}).get("methods") or list(run.method_results)
    done = len(run.method_results)
    state = "complete" if run.complete else f"{done} of {len(names)} methods"
    size = spelled(_size(run.path))
    return [run.preset or "merged", str(len(names)), str(seeds), state, began, size]


def _oldest(path: Path) -> float:
    named = path / "config.json"
    return os.stat(named if named.exists() else path / "results.json").st_mtime


def show(options: Show) -> int:
    """Print it."""
    from experiments.reporting import tables
    from experiments.running import loading
    from experiments.running.console import plain_console

    run = loading.load(options.run)
    console = plain_console()
    console.print(f"{run.path}: {run.preset or 'merged runs'}, {_line(run)[3]}")
    changed = run.kept.get("changed") or {}
    different = ", ".join(f"{name}={value}" for name, value in changed.items())
    console.print(f"Differs from the preset: {different or 'in nothing.'}")
    if command := run.environment.get("command"):
        console.print(f"Command: {command} (commit {run.environment.get('commit')})")
    if run.result is None:
        console.print(f"No results yet; finished: {', '.join(run.method_results) or 'nothing'}.")
        return 0
    console.print(tables.terminal(tables.ranking(run.result), console.width))
    return 0


def diff(options: Diff) -> int:
    """Print them."""
    from experiments import config as configs
    from experiments.reporting import tables
    from experiments.running import loading

    runs = [loading.load(path) for path in (options.first, options.second)]
    kept = [run.kept.get("config", {}) for run in runs]
    titles = ["", str(options.first), str(options.second)]
    fields = configs.difference(*kept)
    rows = [[name, *(_short(value) for value in two)] for name, two in fields.items()]
    _print_rows(titles, rows, f"{len(rows)} fields differ.")
    rows = []
    for name in runs[0].method_results:
        if name not in runs[1].method_results:
            continue
        own, other = (run.method_results[name].metrics for run in runs)
        for metric in own:
            if metric in other and own[metric].seeds != other[metric].seeds:
                values = [tables.interval(m[metric]) for m in (own, other)]
                rows.append([f"{name} {metric}", *values])
    _print_rows(titles, rows, f"{len(rows)} results differ, of the methods that both have.")
    return 0


def _short(value: Any) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def compare(options: Compare) -> int:
    """Write the report and say where."""
    from experiments import config as configs
    from experiments.reporting import merge
    from experiments.reporting.merge import Part
    from experiments.running import loading
    from experiments.storage.run_folder import fresh

    if len(options.runs) < 2:
        fix = "Give two folders at least; show prints one."
        raise UsageError("runs", " ".join(map(str, options.runs)), "is no comparison.", fix)
    runs = [loading.load(path) for path in options.runs]
    for run in runs:
        if run.result is None or not run.complete:
            fix = f"Go on with it: {run.environment.get('command', 'its command')}."
            raise UsageError("run", str(run.path), "has not come to its end.", fix)
    axis = options.axis and options.axis.removeprefix("--").replace("-", "_")
    flat = [configs.flatten(_settings(run)) for run in runs]
    _refuse_other_tasks(runs, flat, axis)
    values = _values(runs, flat, axis)
    out = options.out or fresh(Path("runs/compared"))
    if out.exists() and any(out.iterdir()):
        raise UsageError("out", str(out), "is not empty.", "Give a new folder.")
    (out / "figures").mkdir(parents=True, exist_ok=True)
    parts = [Part(run.path, value) for run, value in zip(runs, values)]
    named = ", ".join(f"{value}: {path}" for path, value in zip(options.runs, values))
    note = f"Runs that were made apart, side by side ({named})."
    whole = merge.merge(parts, f"{note}{_means(runs)}")
    merge.write_all(whole, parts, out, [], axis or "run")
    print(out / "report.html")
    return 0


def _settings(run: Run) -> dict[str, Any]:
    """A run's config; of runs that were merged, what their results say of it."""
    if own := run.kept.get("config"):
        return own
    assert run.result is not None, "it has come to its end"
    return {"benchmark": run.result.benchmark, "policy": run.result.policy}


def _refuse_other_tasks(runs: list[Run], flat: list[dict[str, Any]], axis: str | None) -> None:
    """Raise `UsageError` for runs whose numbers are not of one task."""
    for run, own in zip(runs[1:], flat[1:]):
        for name in {**flat[0], **own}:
            task = name.startswith("benchmark.") or name in ("data", "imports")
            if task and name != axis and flat[0].get(name) != own.get(name):
                problem = f"is {own.get(name)!r} in {run.path}, {flat[0].get(name)!r} in the first."
                fix = f"Give runs of one task, or --axis {name} to set them apart by it."
                raise UsageError(name, own.get(name), problem, fix)


def _means(runs: list[Run]) -> str:
    """What of a merged table is a mean over the runs, where they differ in it."""
    results = [run.result for run in runs if run.result is not None]
    kept = {
        "what the class can do at best": [result.class_optimum for result in results],
        "the start": [result.start for result in results],
        "the expert": [result.expert for result in results],
    }
    differ = [name for name, values in kept.items() if any(x != values[0] for x in values)]
    return f" Means over the runs: {', '.join(differ)}." if differ else ""


def _values(runs: list[Run], flat: list[dict[str, Any]], axis: str | None) -> list[str]:
    """What is added to the names of methods, one for each run."""
    if axis is None:
        return _apart([run.path for run in runs])
    if any(axis not in own for own in flat):
        fix = "Give a field of their config.json, such as batch_size or policy.name."
        raise UsageError("axis", axis, "is no field of these runs.", fix)
    values = [f"{axis}={own[axis]}" for own in flat]
    double = next((i for i, value in enumerate(values) if value in values[:i]), None)
    if double is not None:  # whose seeds would be counted as further ones
        two = f"{runs[values.index(values[double])].path} and {runs[double].path}"
        problem = f"does not tell {two} apart: {values[double]} in both."
        raise UsageError("axis", axis, problem, "Give a field that differs, or leave --axis out.")
    return values


def _apart(paths: list[Path]) -> list[str]:
    """The last names of each path, as few as tell them apart."""
    parts = [path.absolute().parts for path in paths]
    for count in range(1, max(map(len, parts))):
        names = ["/".join(own[-count:]) for own in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{path} ({i})" for i, path in enumerate(paths, 1)]  # one run given twice


def clean(options: Clean) -> int:
    """Delete, or say what would be."""
    from experiments.running import loading
    from experiments.storage import run_lease

    if not options.runs:
        raise UsageError("runs", "", "names no run.", "Give the folders of finished runs.")
    total = 0
    for path in options.runs:
        run = loading.load(path)
        if not run.complete:
            fix = "Its checkpoints are what it goes on from: let it end, or delete its folder."
            raise UsageError("run", str(path), "has not come to its end.", fix)
        places = [
            place
            for place in sorted((path / "checkpoints").glob("*"))
            if options.finals or not place.name.endswith("-final")
        ]
        size = sum(map(_size, places))
        total += size
        if options.yes and places:
            with run_lease.hold(path):
                for place in places:
                    if place.is_dir() and not place.is_symlink():
                        shutil.rmtree(place)
                    else:
                        place.unlink()
        print(f"{path}: {spelled(size)} of checkpoints{' deleted' * options.yes}")
    if not options.yes:
        print(f"{spelled(total)} in all. Add --yes to delete them; results stay.")
    return 0


def _print_rows(titles: list[str], rows: list[list[str]], caption: str) -> None:
    """Lines as wide as they are: a path that is broken cannot be copied."""
    lines = [titles, *rows] if rows else []
    widths = [max(map(len, column)) for column in zip(*lines)]
    for line in lines:
        print("  ".join(map(str.ljust, line, widths)).rstrip())
    print(caption)


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file() and not p.is_symlink())


def spelled(size: int) -> str:
    """A size on disk."""
    return f"{size / LARGE:.1f} MB" if size >= LARGE / 10 else f"{size / 1024:.1f} kB"


COMMANDS: dict[str, tuple[type, Callable[[Any], int]]] = {
    "list": (List, list_runs),
    "show": (Show, show),
    "diff": (Diff, diff),
    "compare": (Compare, compare),
    "clean": (Clean, clean),
}


def main(argv: list[str] | None = None) -> int:
    """The command that is asked for; `USAGE_EXIT` where it cannot be done."""
    argv = list(sys.argv[1:] if argv is None else argv)
    cli.answer_version(argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    if argv[0] not in COMMANDS:
        fix = f"Give one of {', '.join(COMMANDS)}."
        return cli.refused(UsageError("command", argv[0], "is none.", fix))
    options, action = COMMANDS[argv[0]]
    program = f"python -m experiments.runs {argv[0]}"
    return cli.script(program, options, options.__doc__, action, argv[1:])


if __name__ == "__main__":
    sys.exit(main())
