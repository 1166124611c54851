"""The picture of a sweep: what each method comes to at each value of an axis."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np

from experiments import escapes
from experiments.reporting import schema, style
from experiments.reporting.metrics import Metric
from experiments.sweep.folder import Line, SweepFolder
from fdiv import statistics

DECADE = 10.0  # values that span more are drawn on a logarithmic axis
CAPTION = (
    "IQM over all runs and seeds at a value, with its 95% interval where there is more than one."
)
Value = int | float | str


class Point(NamedTuple):
    """A method at one value of the axis."""

    value: Value
    iqm: float
    low: float
    high: float
    runs: int


class Curve(NamedTuple):
    """A method over the axis."""

    look: style.Line
    points: list[Point]


def curves(sweep: SweepFolder, lines: Sequence[Line], axis: str, metric: str) -> dict[str, Curve]:
    """Method -> its curve; a value's runs are kept apart as strata."""
    scores: dict[str, dict[Value, list[list[float]]]] = {}
    looks = {}
    for line in lines:
        result = schema.read(sweep.run(line) / "results.json")
        value = _value(line["point"].get(axis))
        for name, m in result.methods.items():
            if metric in m.metrics:
                looks.setdefault(name, style.look(m))
                scores.setdefault(name, {}).setdefault(value, []).append(m.metrics[metric].seeds)
    return {
        name: Curve(looks[name], [_point(value, runs) for value, runs in at.items()])
        for name, at in scores.items()
    }


def _value(value: object) -> Value:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if number else str(value)


def _point(value: Value, runs: list[list[float]]) -> Point:
    even = len({len(run) for run in runs}) == 1 and len(runs[0]) > 1
    # [seeds, runs]: runs are the strata
    pooled = np.array(runs).T if even else [x for run in runs for x in run]
    low, high = statistics.interval(pooled)
    return Point(value, statistics.iqm(pooled), low, high, len(runs))


def picture(
    sweep: SweepFolder, lines: Sequence[Line], axis: str, metric: Metric, folder: Path
) -> str:
    """IQM and its 95% interval of a metric, against the axis."""
    style.use()
    drawn = curves(sweep, lines, axis, metric.name)
    values = list(dict.fromkeys(point.value for curve in drawn.values() for point in curve.points))
    numbers = [value for value in values if not isinstance(value, str)]
    numeric = len(numbers) == len(values)
    place = dict(zip(values, numbers if numeric else range(len(values))))
    figure, panel = plt.subplots(figsize=(4.9, 3.4), layout="constrained")
    rows: style.Rows = []
    for name, curve in drawn.items():
        points = sorted(curve.points, key=lambda point: place[point.value])
        middle = np.array([point.iqm for point in points])
        ends = np.array([[point.low, point.high] for point in points]).T
        spread = (np.array([[-1], [1]]) * (ends - middle)).clip(0)
        x = [place[point.value] for point in points]
        panel.errorbar(x, middle, spread, label=escapes.label(name), capsize=3, **curve.look)
        for point in points:
            fields = point._asdict()
            rows.append({"method": name, "metric": metric.name, axis: fields.pop("value")} | fields)
    if numeric and min(numbers) > 0 and max(numbers) / min(numbers) >= DECADE:
        panel.set_xscale("log")
    elif not numeric:
        panel.set_xticks(range(len(values)), [escapes.label(str(value)) for value in values])
    panel.set(xlabel=escapes.label(axis), ylabel=metric.label)
    figure.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=min(4, len(drawn)))
    return style.save(figure, folder, "axis", rows)
