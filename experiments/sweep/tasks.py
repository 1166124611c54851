"""Which runs of a sweep are of one task, so that their seeds may be pooled.

What a metric means is decided by the benchmark with its reward and expert, the rows that were read,
imported files, and whether strings were enumerated. Runs that differ there because an axis of the
grid says so are kept apart; those that differ although the grid says nothing (the file was changed
between two lines) are refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from experiments.storage import files
from experiments.sweep import flags
from experiments.sweep.folder import Line, SweepFolder
from fdiv.types import UsageError

AXES = ("preset", "exact_limit")  # beside those of the benchmark
PARTS = ("benchmark", "data", "imports", "exact_limit")  # of what `config.json` keeps
SHOWN = 8  # lines named in an error


def task(sweep: SweepFolder, line: Line) -> dict[str, Any]:
    """What decides the meaning of a run's metrics, as the run has kept it."""
    try:
        kept = files.load(sweep.run(line) / "config.json", lambda data: dict(data["config"]))
    except files.Damaged:
        kept = line["config"]
    return {part: kept.get(part) for part in PARTS}


def axes(sweep: SweepFolder) -> list[str]:
    """The axes of the grid that say which task a run is of."""
    every = dict.fromkeys(axis for line in sweep.lines for axis in line["point"])
    return [axis for axis in every if _of_task(axis)]


def _of_task(axis: str) -> bool:
    given = flags.spelled([f"--{axis.replace('_', '-')}", "0"])
    return any(one.flag in AXES or one.flag.startswith("benchmark.") for one in given)


def apart(sweep: SweepFolder, lines: Sequence[Line]) -> list[str]:
    """The axes by which these runs are of different tasks."""
    of_task = axes(sweep)
    values = {axis: {_key(line["point"].get(axis)) for line in lines} for axis in of_task}
    return [axis for axis in of_task if len(values[axis]) > 1]


def refuse_mixed(sweep: SweepFolder, lines: Sequence[Line]) -> None:
    """Raise `UsageError` where runs that the grid has as one task are of several."""
    of_task = axes(sweep)
    groups: dict[str, dict[str, list[Line]]] = {}
    for line in lines:
        point = _key([line["point"].get(axis) for axis in of_task])
        groups.setdefault(point, {}).setdefault(_key(task(sweep, line)), []).append(line)
    for same in groups.values():
        if len(same) > 1:
            raise _mixed(sweep, same)


def _mixed(sweep: SweepFolder, same: dict[str, list[Line]]) -> UsageError:
    kinds = [json.loads(kind) for kind in same]
    differ = [part for part in PARTS if len({_key(kind[part]) for kind in kinds}) > 1]
    told = "; ".join(
        f"{_lines(own)}: {', '.join(f'{part} {_brief(kind[part])}' for part in differ)}"
        for kind, own in zip(kinds, same.values())
    )
    problem = f"holds runs of different {' and '.join(differ)}, which are no seeds of one method"
    fix = (
        "Run those of one kind again: remove their folders in runs/ and their files in ends/, then "
        "resume."
    )
    return UsageError("dir", str(sweep.path), f"{problem} ({told}).", fix)


def _lines(own: Sequence[Line]) -> str:
    shown = ", ".join(str(line["line"]) for line in own[:SHOWN])
    more = f" and {len(own) - SHOWN} more" if len(own) > SHOWN else ""
    return f"line{'s'[: len(own) > 1]} {shown}{more}"


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else _key(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def versions(sweep: SweepFolder, lines: Sequence[Line]) -> list[str]:
    """The versions of the code, and of JAX, that made these runs."""
    found: dict[str, None] = {}
    for line in lines:
        try:
            data = json.loads((sweep.run(line) / "environment.json").read_bytes())
            found[f"{data.get('commit')} with jax {data['packages']['jax']}"] = None
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            continue  # a run of its numbers all the same
    return list(found)
