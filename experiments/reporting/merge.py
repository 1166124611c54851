"""Many runs as one head-to-head: a method at each value of an axis is an entry, its runs' seeds are
the entry's seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.reporting import results, tables
from experiments.sweep.folder import Line, SweepFolder

VARIED = "varied"  # stands for a setting that is not the same in all runs


def merge(sweep: SweepFolder, lines: Sequence[Line], axis: str) -> dict[str, Any]:
    """What `results.json` would hold, had all lines been one head-to-head."""
    runs = [json.loads((sweep.run(line) / "results.json").read_text()) for line in lines]
    gathered: dict[str, list[dict[str, Any]]] = {}
    for line, run in zip(lines, runs):
        for method, found in run["methods"].items():
            gathered.setdefault(entry(method, line, axis), []).append(found)
    methods = {name: _gather(found) for name, found in gathered.items()}
    whole = {key: _same([run[key] for run in runs]) for key in ("schema", "benchmark", "policy")}
    whole |= {
        key: _same([run[key] for run in runs])
        for key in ("updates", "batch_size", "demos", "trials")
    }
    seeds = max(
        sum(len(next(iter(m["metrics"].values()))["seeds"]) for m in found)
        for found in gathered.values()
    )
    whole |= {
        "complete": True,
        "seeds": seeds,
        "methods": methods,
        "frontier": _same([run["frontier"] for run in runs], []),
    }
    whole |= {
        "expert": _average([run["expert"] for run in runs]),
        "start": _average([run["start"] for run in runs]),
    }
    optima = set.intersection(*(set(run["class_optimum"]) for run in runs))
    whole["class_optimum"] = {
        name: _average([run["class_optimum"][name] for run in runs]) for name in sorted(optima)
    }
    whole["notes"] = [
        *dict.fromkeys(note for run in runs for note in run["notes"]),
        _note(sweep, lines, axis),
    ]
    _against(whole)
    return whole


def entry(method: str, line: Line, axis: str) -> str:
    """The name under which a method of a line is gathered."""
    value = line["point"].get(axis)
    shown = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return method if axis in ("methods", "") else f"{method} @ {shown}"


def history(
    sweep: SweepFolder, lines: Sequence[Line], axis: str, name: str = "metrics.jsonl"
) -> list[dict[str, Any]]:
    """The lines of a file of all runs, their methods named as the entries are, seeds counted on
    from run to run."""
    found, counted = [], {}
    for line in lines:
        said = [json.loads(text) for text in (sweep.run(line) / name).read_text().splitlines()]
        fresh = {
            method: 1 + max(x["seed"] for x in said if x["method"] == method)
            for method in {x["method"] for x in said}
        }
        for method, seeds in fresh.items():
            key = method if method in ("data", "expert", "start") else entry(method, line, axis)
            before = counted.get(key, 0)
            found += [
                x | {"method": key, "seed": x["seed"] + before}
                for x in said
                if x["method"] == method
            ]
            counted[key] = before + seeds
    return found


def _note(sweep: SweepFolder, lines: Sequence[Line], axis: str) -> str:
    over = f" over {axis}" if axis else ""
    return (
        f"A sweep of {len(sweep.lines)} runs{over}, {len(lines)} of them here; seeds of runs "
        "that share an entry are pooled. "
        "What the class can do at best, and the start, are means over the runs."
    )


def _gather(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One entry from the results of one method in several runs."""
    first = found[0]
    names = [name for name in first["metrics"] if all(name in m["metrics"] for m in found)]
    whole = {
        k: _same([m[k] for m in found])
        for k in ("minimises", "level", "target", "group", "published")
    }
    whole |= {
        "learning_rate": first["learning_rate"],
        **({"look": first["look"]} if "look" in first else {}),
        "best": _same([m["best"] for m in found], None),
        "trials": [],
    }
    whole |= {k: sum(m[k] for m in found) for k in ("seconds", "compile_seconds", "tokens")}
    whole["status"] = "ok" if all(m["status"] == "ok" for m in found) else "diverged"
    whole["reason"] = " ".join(dict.fromkeys(m["reason"] for m in found if m["reason"]))
    whole["alarms"] = list(dict.fromkeys(alarm for m in found for alarm in m["alarms"]))
    whole["metrics"] = {name: _pool([m["metrics"][name] for m in found]) for name in names}
    whole["infinite"] = sorted({name for m in found for name in m["infinite"]})
    whole["gap"] = _gap([m["gap"] for m in found])
    whole["temperatures"] = first["temperatures"] if len(found) == 1 else []
    return whole


def _pool(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return results.summary([x for part in parts for x in part["seeds"]]) | {
        k: True for k in ("estimated",) if k in parts[0]
    }


def _gap(parts: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """Pooled; where each seed ended is only told where all runs have the same local optima."""
    if any(part is None for part in parts):
        return None
    ends, local = (
        [x for part in parts for x in part["ended_in"]],
        _same([part["local_optima"] for part in parts], [0.0]),
    )
    known = all(part["local_optima"] == local for part in parts)
    return _pool(parts) | {"ended_in": ends if known else [0] * len(ends), "local_optima": local}


def _same(values: Sequence[Any], otherwise: Any = VARIED) -> Any:
    """The value that all share; of dictionaries, key by key."""
    if all(value == values[0] for value in values):
        return values[0]
    if all(isinstance(value, dict) for value in values):
        return {key: _same([value.get(key) for value in values], otherwise) for key in values[0]}
    return otherwise


def _average(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {
        k: float(np.mean([row[k] for row in rows]))
        for k in rows[0]
        if all(k in row for row in rows)
    }


def _against(whole: dict[str, Any]) -> None:
    """Each entry against the first, where all have the same seeds."""
    metric, methods = tables.rank_by(whole), whole["methods"]
    counts = {
        len(m["metrics"][metric]["seeds"]) for m in methods.values() if metric in m["metrics"]
    }
    if len(counts) == 1:
        reference = next(iter(methods))
        for name, against in results.compare_with(
            methods, reference, metric, tables.better(metric)
        ).items():
            methods[name]["against"] = against


def write_all(sweep: SweepFolder, lines: Sequence[Line], axis: str, out: Path) -> None:
    """results.json, tables, pictures and report.html of the merged runs in a folder."""
    from experiments.reporting import pictures, report
    from experiments.storage.run_folder import environment, write_json
    from experiments.sweep.axis import picture

    (out / "figures").mkdir(parents=True, exist_ok=True)
    whole = merge(sweep, lines, axis)
    write_json(out / "results.json", whole)
    ranking = tables.ranking(whole)
    for suffix, form in (
        ("md", tables.markdown),
        ("csv", tables.comma_separated),
        ("tex", tables.tex),
    ):
        (out / f"table.{suffix}").write_text(form(ranking))
    sweep_of_sft = next(
        (m["temperatures"] for m in whole["methods"].values() if m["temperatures"]), []
    )
    drawn = pictures.every(whole, history(sweep, lines, axis), sweep_of_sft, out / "figures")
    drawn["axis"] = (
        picture(sweep, lines, axis, tables.rank_by(whole), out / "figures")
        if axis not in ("", "methods")
        else ""
    )
    samples = history(sweep, lines, axis, "samples.jsonl")
    report.write(
        out / "report.html", whole, drawn, samples, environment(), {"axis": axis} if axis else {}
    )
