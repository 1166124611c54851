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

    def base(self) -> int | None:
        """What its seeds were drawn from; None for runs that were merged."""
        try:
            return files.load(self.folder / "config.json", lambda kept: kept["config"]["seed"])
        except (FileNotFoundError, files.Damaged):
            return None


def merge(parts: Sequence[Part], note: str) -> RunResult:
    """What `results.json` would hold, had all runs been one head-to-head; `note` says how they
    came to be merged."""
    runs = [part.result() for part in parts]
    gathered: dict[str, list[tuple[MethodResult, int]]] = {}
    drawn: dict[str, list[tuple[int | None, int]]] = {}  # what each seed of an entry was drawn from
    kept = distinct(parts)
    for part, run, own in zip(parts, runs, kept):
        base = part.base()
        for method, seeds in own.items():
            entry, result = part.entry(method), restricted(run.methods[method], seeds, run.seeds)
            gathered.setdefault(entry, []).append((result, len(seeds)))
            drawn.setdefault(entry, []).extend((base, i) for i in seeds)
    twice = sum(len(run.methods) * run.seeds for run in runs) - sum(
        len(seeds) for own in kept for seeds in own.values()
    )
    if twice:
        note += f" Of runs that trained the same seeds again, {twice} were left out."
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
    first, *others = drawn.values()
    return _against(whole) if all(other == first for other in others) else whole


def distinct(parts: Sequence[Part]) -> list[dict[str, list[int]]]:
    """For each run and method the seeds that no run before it has in the same entry.

    What a method does not read, such as another method's options or how many seeds there are,
    leaves its runs what they are: the same seed with every metric the same to the bit is one run
    and not two, which intervals would take for two independent ones."""
    known: dict[str, set[tuple[Any, ...]]] = {}
    kept = []
    for part in parts:
        run, base = part.result(), part.base()
        own: dict[str, list[int]] = {}
        for method, result in run.methods.items():
            before = known.setdefault(part.entry(method), set())
            marks = {i: (base, i, *_values(result, i)) for i in range(run.seeds)}
            told = {i for i, mark in marks.items() if base is not None and len(mark) > 2}
            new = [i for i, mark in marks.items() if i not in told or mark not in before]
            before |= {marks[i] for i in told}
            if new:
                own[method] = new
        kept.append(own)
    return kept


def _values(result: MethodResult, seed: int) -> list[tuple[str, float]]:
    """The metrics of one seed that are finite."""
    each = {name: metric.by_seed().get(seed) for name, metric in result.metrics.items()}
    return [(name, value) for name, value in sorted(each.items()) if value is not None]


def restricted(result: MethodResult, seeds: Sequence[int], of: int) -> MethodResult:
    """A method's result as if it had been run on some of its seeds alone."""
    if len(seeds) == of:
        return result
    only = {name: _some(metric, seeds) for name, metric in result.metrics.items()}
    metrics = {name: metric for name, metric in only.items() if metric is not None}
    gap = None
    if result.gap and (some := _some(result.gap, seeds)):
        ends = dict(zip(result.gap.by_seed(), result.gap.ended_in))
        told = [ends[i] for i in seeds if i in ends]
        gap = Gap(**vars(some), ended_in=told, local_optima=result.gap.local_optima)
    return dataclasses.replace(result, metrics=metrics, gap=gap)


def _some(metric: Summary, seeds: Sequence[int]) -> Summary | None:
    """The same of some seeds, counted anew; None where none of them is finite."""
    values = metric.by_seed()
    place = {seed: i for i, seed in enumerate(values)}
    own = {i: seed for i, seed in enumerate(seeds) if seed in values}
    if not own:
        return None
    errors = metric.stderr and [metric.stderr[place[seed]] for seed in own.values()]
    some = dataclasses.replace(
        results.summary([values[seed] for seed in own.values()]),
        estimated=metric.estimated,
        stderr=errors,
    )
    return (
        some
        if len(own) == len(seeds)
        else dataclasses.replace(some, numbers=list(own), of=len(seeds))
    )


def lines(parts: Sequence[Part], name: str) -> list[Json]:
    """The lines of a .jsonl file of all runs, their methods named as the entries are, the seeds of
    `distinct` counted on from run to run."""
    whole, counted = [], {}
    for part, kept in zip(parts, distinct(parts)):
        rows = schema.history(files.read_lines(part.folder / name, LINES[name]))
        for method in dict.fromkeys(row["method"] for row in rows):
            own = [row for row in rows if row["method"] == method]
            key = method if method in COMMON else part.entry(method)
            before = counted.get(key, 0)
            seeds = sorted({row["seed"] for row in own})
            if method not in COMMON:
                seeds = kept.get(method, [])
            number = {seed: before + i for i, seed in enumerate(seeds)}
            whole += [
                row | {"method": key, "seed": number[row["seed"]]}
                for row in own
                if row["seed"] in number
            ]
            counted[key] = before + len(number)
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
    local = _same([gap.local_optima for gap in gaps], [])
    known = all(gap.local_optima == local for gap in gaps)
    pooled = _pool(gaps, counts)
    return Gap(**vars(pooled), ended_in=ends if known else [None] * len(ends), local_optima=local)


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
