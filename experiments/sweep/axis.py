"""The picture of a sweep: what each method comes to at each value of an axis."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments.reporting import pictures, style
from experiments.sweep.folder import Line, SweepFolder
from fdiv import statistics

DECADE = 10.0  # values that span more are drawn on a logarithmic axis


def points(sweep: SweepFolder, lines: Sequence[Line], axis: str, metric: str) -> dict[str, Any]:
    """Method -> (its look, rows of {value, iqm, low, high, runs}); seeds of a value's runs
    resampled run by run."""
    scores: dict[str, dict[Any, list]] = {}
    looks = {}
    for line in lines:
        methods = json.loads((sweep.run(line) / "results.json").read_text())["methods"]
        value = line["point"].get(axis)
        value = (
            value if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)
        )
        for method, found in methods.items():
            if metric in found["metrics"]:
                looks.setdefault(method, style.look(found))
                scores.setdefault(method, {}).setdefault(value, []).append(
                    found["metrics"][metric]["seeds"]
                )
    return {
        method: (looks[method], [_row(value, runs) for value, runs in at.items()])
        for method, at in scores.items()
    }


def _row(value: Any, runs: list[list[float]]) -> dict[str, Any]:
    even = len({len(run) for run in runs}) == 1 and len(runs[0]) > 1
    pooled = (
        np.array(runs).T if even else [x for run in runs for x in run]
    )  # [seeds, runs]: runs are the strata
    low, high = statistics.bootstrap(pooled)
    return {
        "value": value,
        "iqm": statistics.iqm(pooled),
        "low": low,
        "high": high,
        "runs": len(runs),
    }


def picture(sweep: SweepFolder, lines: Sequence[Line], axis: str, metric: str, folder: Path) -> str:
    """IQM and its 95% interval of the metric that ranks, against the axis."""
    style.use()
    found = points(sweep, lines, axis, metric)
    values = list(dict.fromkeys(row["value"] for _, rows in found.values() for row in rows))
    numeric = all(not isinstance(value, str) for value in values)
    place = {value: value if numeric else i for i, value in enumerate(values)}
    figure, panel = plt.subplots(figsize=(4.9, 3.4), layout="constrained")
    for method, (look, rows) in found.items():
        rows.sort(key=lambda row: place[row["value"]])
        x, middle = [place[row["value"]] for row in rows], np.array([row["iqm"] for row in rows])
        spread = np.array(
            [[row["iqm"] - row["low"], row["high"] - row["iqm"]] for row in rows]
        ).T.clip(0)
        panel.errorbar(x, middle, spread, label=method, capsize=3, **look)
    if numeric and min(values) > 0 and max(values) / min(values) >= DECADE:
        panel.set_xscale("log")
    elif not numeric:
        panel.set_xticks(range(len(values)), values)
    panel.set(xlabel=axis, ylabel=pictures.TITLES.get(metric, metric))
    figure.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=min(4, len(found)))
    table = [
        {"method": method, "metric": metric, axis: row.pop("value"), **row}
        for method, (_, rows) in found.items()
        for row in rows
    ]
    return pictures.save(figure, folder, "axis", table)
