"""The picture of a sweep: what each method comes to at each value of an axis."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np

from experiments import escapes
from experiments.reporting import charts, framing, merge, schema, style
from experiments.reporting.charts import Drawing, Key, Panel
from experiments.reporting.framing import Frame
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
    methods: dict[str, schema.MethodResult] = {}
    values = [_value(line["point"].get(axis)) for line in lines]
    parts = [merge.Part(sweep.run(line), str(value)) for line, value in zip(lines, values)]
    for part, value, kept in zip(parts, values, merge.distinct(parts)):
        result = part.result()
        for name, seeds in kept.items():
            m = merge.restricted(result.methods[name], seeds, result.seeds)
            if metric in m.metrics:
                methods.setdefault(name, m)
                scores.setdefault(name, {}).setdefault(value, []).append(m.metrics[metric].seeds)
    looks = style.looks(methods)
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
) -> Drawing:
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
    seen = _frame(drawn)
    if seen:
        panel.set_ylim(seen.low, seen.high)
        for name, i in seen.beyond.items():
            point, look = drawn[name].points[i], drawn[name].look
            edge = seen.edge(point.iqm)
            at, towards = (place[point.value], edge), "up" if edge == seen.high else "down"
            style.arrow(panel, at, towards, look["color"], f"{name} {point.iqm:.3g}")
    figure.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=min(4, len(drawn)))
    svg = style.save(figure, folder, "axis", rows)
    logarithmic = panel.get_xscale() == "log"
    chart = _panel(drawn, axis, metric, seen, numeric, logarithmic)
    return Drawing("axis", svg, [chart], [Key("95% interval", line="-")])


def _frame(drawn: dict[str, Curve]) -> Frame | None:
    curves = {
        name: framing.Curve(
            *([getattr(point, end) for point in curve.points] for end in ("iqm", "low", "high"))
        )
        for name, curve in drawn.items()
    }
    return framing.frame(curves, log=False)


def _panel(
    drawn: dict[str, Curve],
    axis: str,
    metric: Metric,
    seen: Frame | None,
    numeric: bool,
    logarithmic: bool,
) -> Panel:
    """The same for the page, in which a method at a value is switched on and off."""
    rows = [
        {"method": f"{name} @ {p.value}", "name": name, "x": p.value, "y": p.iqm}
        | {"low": p.low, "high": p.high, "runs": p.runs}
        for name, curve in drawn.items()
        for p in curve.points
    ]
    looks = charts.looks({name: curve.look for name, curve in drawn.items()})
    looks = charts.Looks(*(scale | {"field": "name", "title": "method"} for scale in looks))
    x = charts.axis("x", axis, log=logarithmic)
    if not numeric:
        values = list(dict.fromkeys(row["x"] for row in rows))
        rows = [row | {"x": str(row["x"])} for row in rows]
        x = {"field": "x", "type": "ordinal", "title": axis, "sort": list(map(str, values))}
    title = charts.plain(metric.label)
    y = charts.axis("y", title, domain=(seen.low, seen.high) if seen else None)
    shown = [
        charts.words("name", "method"),
        charts.words("x", axis),
        charts.tip("y", title),
        charts.tip("low", "interval from"),
        charts.tip("high", "to"),
        charts.tip("runs", "runs"),
    ]
    place = {"x": x, "y": y, "color": looks.colour}
    layers = [
        {
            "mark": {"type": "line", "strokeWidth": 2, "clip": True},
            "encoding": {**place, "strokeDash": looks.dash},
        },
        {
            "transform": [{"filter": "isValid(datum.low)"}],
            "mark": {"type": "rule", "strokeWidth": 1.3, "clip": True},
            "encoding": {**place, "y": {**y, "field": "low"}, "y2": {"field": "high"}},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 90, "opacity": 1, "clip": True},
            "encoding": {**place, "shape": looks.shape, "tooltip": shown},
        },
    ]
    whole = [{"filter": "indexof(hidden, datum.name) < 0"}]  # a method at all values
    view = charts.view(f"{title} of each method over {axis}", layers, whole, height=320)
    return Panel("", view, charts.columns(rows))
