"""From what was measured to what is reported: parts of `results.json`, and its tidy parquet."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.evaluation.class_optimum import NEAR, ClassOptimum, ended_in
from experiments.reporting import scoreboards
from experiments.reporting.schema import (
    Change,
    Comparison,
    Gap,
    MethodResult,
    Row,
    RunResult,
    Summary,
)
from experiments.storage import whole
from fdiv import statistics
from fdiv.metrics import MODES
from fdiv.types import Level


def summary(scores: np.ndarray | list[float]) -> Summary:
    """A metric's seeds with their IQM, mean and interval."""
    return _plain(statistics.summarise(scores))


def _plain(summary: statistics.Summary) -> Summary:
    known = all(map(math.isfinite, summary.ci95))
    return Summary(summary.iqm, summary.mean, list(summary.ci95) if known else None, summary.seeds)


def sound(scores: np.ndarray | list[float]) -> Summary | None:
    """The same of the seeds that are finite, with their numbers and of how many they are where
    others are not; None where no seed is."""
    values = np.asarray(scores, float)
    kept = np.flatnonzero(np.isfinite(values))
    if not kept.size:
        return None
    own = summary(values[kept])
    if kept.size == values.size:
        return own
    return dataclasses.replace(own, numbers=kept.tolist(), of=values.size)


def metrics_of(final: Mapping[str, np.ndarray]) -> tuple[dict[str, Summary], list[str]]:
    """(summaries over the seeds that are finite, with their standard errors; names of the metrics
    that are not finite on every seed)"""
    summaries, infinite = {}, []
    for name, seeds in final.items():
        if name.endswith("_stderr"):
            continue
        if not np.all(np.isfinite(seeds)):
            infinite.append(name)
        own = sound(seeds)
        if own is None:
            continue
        summaries[name] = own
        if f"{name}_stderr" in final:
            errors = [float(final[f"{name}_stderr"][i]) for i in own.by_seed()]
            known = errors if np.all(np.isfinite(errors)) else None  # one may be beyond float32
            summaries[name] = Summary(
                **vars(summaries[name]) | {"estimated": True, "stderr": known}
            )
    return summaries, infinite


def gap_of(own: np.ndarray, best: ClassOptimum | None) -> Gap | None:
    """Own divergence minus the class's best, seed by seed, and which local optimum each seed ended
    in; of the seeds that are finite."""
    pooled = None if best is None else sound(np.asarray(own, float) - best.value)
    if best is None or pooled is None:
        return None
    kept = np.asarray(own)[list(pooled.by_seed())]
    return Gap(**vars(pooled), ended_in=ended_in(kept, best), local_optima=list(best.local))


def changes(
    minimises: str, start: Mapping[str, np.ndarray], end: Mapping[str, np.ndarray]
) -> list[Change]:
    """What moved since the start [seeds]: a divergence on the policy's own prefixes, and what tells
    seeking modes from covering them, as far as both were estimated and are finite on every
    seed."""
    names = (minimises + Level.token_policy.suffix, "precision", *MODES)
    made = [change(name, start, end) for name in names]
    return [one for one in made if one is not None]


def change(
    name: str, start: Mapping[str, np.ndarray], end: Mapping[str, np.ndarray]
) -> Change | None:
    """One metric of them. The error of the difference of means over n seeds: of sampling, sqrt(sum
    of squared errors) / n, or of the seeds, their differences' standard deviation / sqrt(n),
    whichever is larger. A seed's own error is that of the difference string by string where it is
    known (`NAME_since_stderr`), else of both sides as if they had nothing in common."""
    error = f"{name}_stderr"
    if not all(key in side for key in (name, error) for side in (start, end)):
        return None
    numbers = np.array([[side[key] for key in (name, error)] for side in (start, end)], float)
    if not np.all(np.isfinite(numbers)):
        return None
    (before, after), errors = numbers[:, 0], numbers[:, 1]
    count, paired = before.size, np.asarray(end.get(f"{name}_since_stderr", np.nan), float)
    if np.all(np.isfinite(paired)):
        errors = paired
    sampling = math.sqrt(float(np.sum(errors**2))) / count
    spread = float(np.std(after - before, ddof=1)) / math.sqrt(count) if count > 1 else 0.0
    return Change(name, float(before.mean()), float(after.mean()), max(sampling, spread))


def describe_ends(gap: Gap | None) -> str:
    """A sentence on the seeds that ended away from the class's best; empty where it is not known
    which local optima the class has, as of runs of several classes."""
    if gap is None or not gap.local_optima:
        return ""
    away: dict[str, list[int]] = {}
    for where, (seed, value) in zip(gap.ended_in, gap.by_seed().items()):
        if where:
            place = f"local optimum {where + 1} of the class (value {gap.local_optima[where]:.4f})"
            away.setdefault(place, []).append(seed)
        elif where is None and value > NEAR:
            place = "no local optimum of the class that the search has met"
            away.setdefault(place, []).append(seed)
    parts = [
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))} ended in {place}"
        for place, seeds in away.items()
    ]
    return "; ".join(parts)


def finite(row: Mapping[str, float]) -> Row:
    """A row without what is not finite, which JSON cannot hold."""
    return {name: float(value) for name, value in row.items() if math.isfinite(value)}


def compare_with(
    methods: Mapping[str, MethodResult], reference: str, metric: str, better: int
) -> dict[str, Comparison]:
    """Each method against a reference on a metric: paired difference, and chance of being better
    (`better` 1: higher is)."""
    known = {name: m.metrics[metric] for name, m in methods.items() if metric in m.metrics}
    # a method is not better for the seeds that it lost
    scores = {name: scores.seeds for name, scores in known.items() if scores.whole}
    if reference not in scores:
        return {}
    base = scores.pop(reference)
    comparisons = {}
    for name, values in scores.items():
        sides = (values, base) if better > 0 else (base, values)
        chance, interval = statistics.probability_of_improvement(*sides)
        difference = _plain(statistics.paired_difference(values, base))
        comparisons[name] = Comparison(reference, metric, difference, chance, list(interval))
    return comparisons


def compared(result: RunResult, reference: str) -> RunResult:
    """The same, each method's comparison with a reference on the metric that ranks added."""
    board = scoreboards.of_result(result)
    better = board.metric(board.rank_by).better
    against = compare_with(result.methods, reference, board.rank_by, better)
    methods = {
        name: dataclasses.replace(m, against=against.get(name))
        for name, m in result.methods.items()
    }
    return dataclasses.replace(result, methods=methods)


def write_parquet(path: Path, result: RunResult) -> None:
    """One line per method, metric and seed."""
    import pyarrow.parquet  # slow to load

    with whole.draft(path) as place:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(tidy(result)), place)


def tidy(result: RunResult) -> list[dict[str, Any]]:
    """The lines of results.parquet."""
    return tidy_methods(result.methods)


def tidy_methods(methods: Mapping[str, MethodResult]) -> list[dict[str, Any]]:
    """The same of some methods."""
    return [
        {
            "method": name,
            "minimises": m.objective,
            "level": m.level,
            "status": m.status,
            "metric": metric,
            "seed": i,
            "value": x,
        }
        for name, m in methods.items()
        for metric, scores in [*m.metrics.items(), *([("gap", m.gap)] if m.gap else [])]
        for i, x in scores.by_seed().items()
    ]
