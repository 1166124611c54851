"""Many runs as one head-to-head: a method at each value of an axis is an entry, its runs' seeds are
the entry's seeds."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.reporting import pictures, report, results, schema, scoreboards, tables
from experiments.reporting.pictures import Drawn
from experiments.reporting.schema import (
    VARIED,
    Gap,
    Json,
    Kind,
    MethodResult,
    Row,
    RunResult,
    Summary,
)
from experiments.storage import files
from experiments.storage.run_folder import LINES, environment

COMMON = ("data", "expert", "start")  # what is no method's, in samples.jsonl


class Part(NamedTuple):
    """One of the runs that are merged."""

    folder: Path
    value: str  # of the axis, as it is added to the names of methods; "" where nothing is

    def entry(self, method: str) -> str:
        """The name under which a method of this run is gathered."""
        return f"{method} @ {self.value}" if self.value else method

    def result(self) -> RunResult:
        """What the run has left."""
        return schema.read(self.folder / "results.json")


def merge(parts: Sequence[Part], note: str) -> RunResult:
    """What `results.json` would hold, had all runs been one head-to-head; `note` says how they
    came to be merged."""
    runs = [part.result() for part in parts]
    gathered: dict[str, list[tuple[MethodResult, int]]] = {}
    for part, run in zip(parts, runs):
        for method, result in run.methods.items():
            gathered.setdefault(part.entry(method), []).append((result, run.seeds))
    optima = set.intersection(*(set(run.class_optimum) for run in runs))
    notes = dict.fromkeys(note for run in runs for note in run.notes)
    settings = {
        name: _same([getattr(run, name) for run in runs])
        for name in ("benchmark", "policy", "updates", "batch_size", "demos", "trials")
    }
    whole = RunResult(
        complete=True,
        kind=_kind([run.kind for run in runs]),
        **settings,
        seeds=max(sum(seeds for _, seeds in same) for same in gathered.values()),
        frontier=_same([run.frontier for run in runs], []),
        class_optimum={
            name: _average([run.class_optimum[name] for run in runs]) for name in sorted(optima)
        },
        expert=_average([run.expert for run in runs]),
        start=_average([run.start for run in runs]),
        methods={name: _gather(same) for name, same in gathered.items()},
        notes=[*notes, note],
    )
    return _against(whole)


def lines(parts: Sequence[Part], name: str) -> list[Json]:
    """The lines of a .jsonl file of all runs, their methods named as the entries are, seeds counted
    on from run to run."""
    whole, counted = [], {}
    for part in parts:
        rows = schema.history(files.read_lines(part.folder / name, LINES[name]))
        for method in dict.fromkeys(row["method"] for row in rows):
            own = [row for row in rows if row["method"] == method]
            key = method if method in COMMON else part.entry(method)
            before = counted.get(key, 0)
            whole += [row | {"method": key, "seed": row["seed"] + before} for row in own]
            counted[key] = before + 1 + max(row["seed"] for row in own)
    return whole


def _kind(kinds: Sequence[Kind]) -> Kind:
    """The kind that all runs share; of several, the one that asks for least."""
    return max(kinds, key=schema.KINDS.index)


def _gather(runs: Sequence[tuple[MethodResult, int]]) -> MethodResult:
    """One entry from the results of one method in several runs of so many seeds. A run of which no
    seed is finite takes nothing from the others, but is counted."""
    parts, counts = [m for m, _ in runs], [seeds for _, seeds in runs]
    first = parts[0]
    known = dict.fromkeys(name for m in parts for name in m.metrics)
    names = [n for n in known if all(n in m.metrics or n in m.infinite for m in parts)]
    return MethodResult(
        minimises=_same([m.minimises for m in parts]),
        level=_same([m.level for m in parts]),
        target=_same([m.target for m in parts]),
        how=_same([m.how for m in parts]),
        aside=" ".join(dict.fromkeys(m.aside for m in parts if m.aside)),
        group=_same([m.group for m in parts]),
        published=_same([m.published for m in parts]),
        seconds=sum(m.seconds for m in parts),
        compile_seconds=sum(m.compile_seconds for m in parts),
        tokens=sum(m.tokens for m in parts),
        memory_bytes=max(m.memory_bytes for m in parts),
        look=first.look,
        learning_rate=first.learning_rate,
        best=_same([m.best for m in parts], None),
        status="ok" if all(m.status == "ok" for m in parts) else "diverged",
        reason=" ".join(dict.fromkeys(m.reason for m in parts if m.reason)),
        alarms=list(dict.fromkeys(alarm for m in parts for alarm in m.alarms)),
        metrics={name: _pool([m.metrics.get(name) for m in parts], counts) for name in names},
        infinite=sorted({name for m in parts for name in m.infinite}),
        # a run whose class is known and whose gap is not has no finite seed
        gap=None
        if any(m.gap is None and m.best is None for m in parts)
        else _gap([m.gap for m in parts], counts),
        temperatures=first.temperatures if len(parts) == 1 else [],
    )


def _pool(parts: Sequence[Summary | None], counts: Sequence[int]) -> Summary:
    """The seeds of all runs, counted on from run to run."""
    starts = itertools.accumulate(counts, initial=0)
    kept = {
        start + seed: value
        for start, part in zip(starts, parts)
        if part is not None
        for seed, value in part.by_seed().items()
    }
    estimated = any(part.estimated for part in parts if part is not None)
    pooled = dataclasses.replace(results.summary(list(kept.values())), estimated=estimated)
    if len(kept) == sum(counts):
        return pooled
    return dataclasses.replace(pooled, numbers=list(kept), of=sum(counts))


def _gap(parts: Sequence[Gap | None], counts: Sequence[int]) -> Gap | None:
    """Pooled; where each seed ended is only told where all runs have the same local optima."""
    gaps = [part for part in parts if part is not None]
    if not gaps:
        return None
    ends = [x for gap in gaps for x in gap.ended_in]
    local = _same([gap.local_optima for gap in gaps], [0.0])
    known = all(gap.local_optima == local for gap in gaps)
    pooled = _pool(gaps, counts)
    return Gap(**vars(pooled), ended_in=ends if known else [0] * len(ends), local_optima=local)


def _same(values: Sequence[Any], otherwise: Any = VARIED) -> Any:
    """The value that all share; of dictionaries, key by key."""
    first = values[0]
    if all(value == first for value in values):
        return first
    tables = [value for value in values if isinstance(value, dict)]
    if len(tables) < len(values):
        return otherwise
    return {key: _same([table.get(key) for table in tables], otherwise) for key in tables[0]}


def _average(rows: Sequence[Mapping[str, float]]) -> Row:
    return {
        name: float(np.mean([row[name] for row in rows]))
        for name in rows[0]
        if all(name in row for row in rows)
    }


def _against(whole: RunResult) -> RunResult:
    """Each entry against the first, where all have the same seeds."""
    metric = scoreboards.of_result(whole).rank_by
    scores = [m.metrics[metric] for m in whole.methods.values() if metric in m.metrics]
    counts = {len(own.seeds) for own in scores if own.whole}
    return results.compared(whole, next(iter(whole.methods))) if len(counts) == 1 else whole


def write_all(
    whole: RunResult, parts: Sequence[Part], out: Path, first: Sequence[Drawn], axis: str
) -> None:
    """results.json, tables, pictures (after those that are drawn already) and report.html of merged
    runs in a folder with `figures/` in it."""
    schema.write(out / "results.json", whole)
    tables.write(out, tables.ranking(whole))
    samples = lines(parts, "samples.jsonl")
    history = lines(parts, "metrics.jsonl")
    drawn = [*first, *pictures.draw(whole, history, out / "figures", samples)]
    changed = {"axis": axis} if axis else {}
    report.write(out / "report.html", whole, drawn, samples, environment(), changed)
