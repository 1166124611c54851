"""From what was measured to what is reported: `results.json`, its tidy parquet and its tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.evaluation.class_optimum import NEAR, ClassOptimum, ended_in
from fdiv import statistics

SCHEMA = 1


def summary(scores: Any) -> dict[str, Any]:
    """A summary as plain data."""
    found = statistics.summarise(scores)
    return found._asdict() | {"ci95": list(found.ci95)}


def metrics_of(final: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """(summaries of the finite metrics with their standard errors, names of those that are not
    finite on every seed)"""
    found, infinite = {}, []
    for name, seeds in final.items():
        if name.endswith("_stderr"):
            continue
        if not np.all(np.isfinite(seeds)):
            infinite.append(name)
            continue
        found[name] = summary(seeds)
        if f"{name}_stderr" in final:
            found[name] |= {
                "estimated": True,
                "stderr": [float(x) for x in final[f"{name}_stderr"]],
            }
    return found, infinite


def gap_of(own: Any, best: ClassOptimum | None) -> dict[str, Any] | None:
    """Own divergence minus the class's best, seed by seed, and which local optimum each seed ended
    in."""
    if best is None or not np.all(np.isfinite(own)):
        return None
    return summary(np.asarray(own, float) - best.value) | {
        "ended_in": ended_in(np.asarray(own), best),
        "local_optima": best.local,
    }


def describe_ends(gap: Mapping[str, Any] | None) -> str:
    """A sentence on the seeds that ended away from the class's best."""
    if gap is None:
        return ""
    away: dict[str, list[int]] = {}
    for seed, (where, value) in enumerate(zip(gap["ended_in"], gap["seeds"])):
        if where:
            away.setdefault(
                f"local optimum {where + 1} of the class (value {gap['local_optima'][where]:.4f})",
                [],
            ).append(seed)
        elif where is None and value > NEAR:
            away.setdefault("no local optimum of the class that the search has met", []).append(
                seed
            )
    parts = [
        f"seed{'s' if len(s) > 1 else ''} {', '.join(map(str, s))} ended in {place}"
        for place, s in away.items()
    ]
    return "; ".join(parts)


def assemble(
    config: dict[str, Any],
    methods: Mapping[str, dict[str, Any]],
    class_optimum: Mapping[str, Mapping[str, float]],
    expert: Mapping[str, float],
    start: Mapping[str, Any],
    complete: bool,
    notes: list[str],
    frontier: list[dict[str, float]],
) -> dict[str, Any]:
    """The whole of `results.json`."""
    policy = {k: v for k, v in config["policy"].items() if v is not None}
    return {
        "schema": SCHEMA,
        "complete": complete,
        "benchmark": config["benchmark"],
        "policy": policy,
        "seeds": config["seeds"],
        "updates": config["updates"],
        "batch_size": config["batch_size"],
        "demos": config["demos"],
        "trials": config["trials"],
        "frontier": frontier,
        "class_optimum": {name: _finite(row) for name, row in class_optimum.items()},
        "expert": _finite(expert),
        "start": {k: float(np.mean(v)) for k, v in start.items() if np.all(np.isfinite(v))},
        "methods": dict(methods),
        "notes": notes,
    }


def _finite(row: Mapping[str, float]) -> dict[str, float]:
    return {k: float(v) for k, v in row.items() if math.isfinite(v)}


def compare_with(
    methods: Mapping[str, dict[str, Any]], reference: str, metric: str, way: int = -1
) -> dict[str, Any]:
    """Each method against a reference on a metric: paired difference, and chance of being better
    (`way` 1: higher)."""
    scores = {
        name: m["metrics"][metric]["seeds"] for name, m in methods.items() if metric in m["metrics"]
    }
    found = {}
    for name, values in scores.items():
        if name == reference or reference not in scores:
            continue
        difference = statistics.paired_difference(values, scores[reference])
        sides = (values, scores[reference]) if way > 0 else (scores[reference], values)
        chance, interval = statistics.probability_of_improvement(*sides)
        found[name] = {
            "reference": reference,
            "metric": metric,
            "difference": difference._asdict() | {"ci95": list(difference.ci95)},
            "probability_of_improvement": chance,
            "probability_ci95": list(interval),
        }
    return found


def write_parquet(path: Path, results: Mapping[str, Any]) -> None:
    """One line per method, metric and seed."""
    rows = [
        {
            "method": name,
            "minimises": m["minimises"],
            "level": m["level"],
            "status": m["status"],
            "metric": metric,
            "seed": i,
            "value": x,
        }
        for name, m in results["methods"].items()
        for metric, found in [*m["metrics"].items(), *([("gap", m["gap"])] if m["gap"] else [])]
        for i, x in enumerate(found["seeds"])
    ]
    import pyarrow.parquet  # slow to load

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
