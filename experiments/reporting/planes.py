"""Planes: two metrics at the end of training against each other, a mark a method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from experiments import escapes
from experiments.reporting import scoreboards, style, wording
from experiments.reporting.schema import MethodResult, Row, RunResult, Summary, paired
from experiments.reporting.scoreboards import Plane, Scoreboard

Place = tuple[float, float]
Star = tuple[str, Row]  # what a policy of the class is best for, and all its metrics
EXPERT, START = ("P", 9), ("s", 6)  # marker, size
Inside = Callable[[float, float], bool]


def picture(plane: Plane, result: RunResult, folder: Path) -> str:
    """Methods with their intervals, the best of the class, the expert, the start, and the SFT
    policy swept over temperatures; nothing where a metric was not measured."""
    board = scoreboards.of_result(result)
    x, y = plane.x, _y(plane, result)
    if y is None:
        return ""
    style.use()
    figure, axis = plt.subplots(figsize=(4.9, 3.9), layout="constrained")
    if plane.log:
        for side, scale in ((axis.xaxis, axis.set_xscale), (axis.yaxis, axis.set_yscale)):
            scale("log")
            style.plain_ticks(side)
    methods = {n: m for n, m in result.methods.items() if {x, y} <= set(m.metrics)}
    stars = _distinct([(n, r) for n, r in result.class_optimum.items() if {x, y} <= set(r)], x, y)
    marked = _landmarks(plane, board, result, x, y)
    ends = [list(zip(_ends(m.metrics[x]), _ends(m.metrics[y]))) for m in methods.values()]
    points = [(m.metrics[x].iqm, m.metrics[y].iqm) for m in methods.values()]
    fixed = [(row[x], row[y]) for _, row in stars]
    fixed += [place for name, place in marked if name == "start"]
    inside = _frame(axis, points + fixed, ends + [[place, place] for place in fixed], plane.log)
    rows = [
        *_temperature_curve(axis, result.temperatures, x, y),
        *_optima(axis, stars, x, y),
        *_methods(axis, methods, x, y, inside),
    ]
    for name, place in marked:
        marker, size = START if name == "start" else EXPERT
        axis.plot(*place, color=style.EXPERT, marker=marker, markersize=size, linestyle="")
        axis.annotate(name, place, textcoords="offset points", xytext=(7, 4), fontsize=8)
        rows.append({"what": name, x: place[0], y: place[1]})
    axis.set_xlabel(board.metric(x).label)
    axis.set_ylabel(board.metric(y).label)
    style.legend(figure, methods, [name for name, _ in stars])
    return style.save(figure, folder, plane.file, rows)


def caption(plane: Plane, result: RunResult) -> str:
    """What is said under the picture."""
    return wording.under_plane(plane, result, _y(plane, result))


def _y(plane: Plane, result: RunResult) -> str | None:
    """The first of the plane's choices that a method has beside x."""
    both = lambda y: any({plane.x, y} <= set(m.metrics) for m in result.methods.values())
    return next((y for y in plane.y if both(y)), None)


def _landmarks(
    plane: Plane, board: Scoreboard, result: RunResult, x: str, y: str
) -> list[tuple[str, Place]]:
    """The expert, where both axes know it and its divergence from itself is no axis; the start."""
    marked = []
    if x in result.expert and y in result.expert and not plane.log:
        marked.append((board.expert, (result.expert[x], result.expert[y])))
    start = result.start | {"penalty": 0.0}  # the start is the reference of such a run
    if plane.start and x in start and y in start:
        marked.append(("start", (start[x], start[y])))
    return marked


def _frame(
    axis: Axes, points: Sequence[Place], ends: Sequence[Sequence[Place]], log: bool
) -> Inside:
    """Limits that hold all points not far off, and their intervals unless these are far longer than
    the points are apart; answers whether a point is inside."""
    scaled = lambda values: np.log(np.maximum(values, 1e-6)) if log else np.asarray(values)
    places, corners = scaled(np.array(points)), scaled(np.array(ends))  # [n, 2], [n, 2, 2]
    limits = []
    for k, side in enumerate((axis.set_xlim, axis.set_ylim)):
        values = places[:, k]
        middle, spread = np.median(values), np.median(np.abs(values - np.median(values)))
        near = np.abs(values - middle) <= max(8 * spread, 1.0)
        low, high = values[near].min(), values[near].max()
        most = max(high - low, 0.7 if log else 0.1)
        low = min(low, max(corners[near, :, k].min(), low - most))
        high = max(high, min(corners[near, :, k].max(), high + most))
        room = 0.15 * max(high - low, 0.2 if log else 0.02)
        low, high = low - room, high + room
        limits.append((np.exp(low), np.exp(high)) if log else (low, high))
        side(*limits[-1])
    return lambda u, v: limits[0][0] <= u <= limits[0][1] and limits[1][0] <= v <= limits[1][1]


def _methods(
    axis: Axes, methods: dict[str, MethodResult], x: str, y: str, inside: Inside
) -> style.Rows:
    rows, outside = [], []
    for name, m in methods.items():
        a, b, look = m.metrics[x], m.metrics[y], style.look(m)
        rows += [
            {"what": "method", "name": name, "seed": i, x: u, y: v} for i, u, v in paired(a, b)
        ]
        if not inside(a.iqm, b.iqm):
            outside.append(f"{name} ({a.iqm:.3g}, {b.iqm:.3g})")
            continue
        dots = {"marker": ".", "markersize": 3, "alpha": 0.5, "linestyle": ""}
        _, u, v = zip(*paired(a, b)) if paired(a, b) else ((), (), ())
        axis.plot(u, v, color=look["color"], **dots)
        axis.errorbar(
            a.iqm,
            b.iqm,
            xerr=_around(a),
            yerr=_around(b),
            color=look["color"],
            marker=look["marker"],
            markersize=7,
            linestyle="",
            elinewidth=1,
            zorder=3,
            markeredgecolor="white",
            markeredgewidth=0.6,
        )
    if outside:
        said = "outside the frame: " + ", ".join(outside)
        axis.set_title(escapes.label(said), fontsize=7.5, loc="right", color="#666666", wrap=True)
    return rows


def _around(scores: Summary) -> np.ndarray:
    """How far the interval reaches below and above the IQM. [2, 1]"""
    low, high = _ends(scores)
    return np.abs(np.array([[scores.iqm - low], [high - scores.iqm]]))


def _ends(scores: Summary) -> Place:
    """Of the interval; of one seed, which has none, the value itself."""
    low, high = scores.ci95 or (scores.iqm, scores.iqm)
    return low, high


def _distinct(stars: Sequence[Star], x: str, y: str) -> list[Star]:
    """Class optima by place: twice a divergence has the same minimiser, and one star says so."""
    places: dict[Place, Star] = {}
    for name, row in stars:
        place = (round(row[x], 4), round(row[y], 4))
        places[place] = (f"{places[place][0]}, {name}" if place in places else name, row)
    return list(places.values())


def _optima(axis: Axes, stars: Sequence[Star], x: str, y: str) -> style.Rows:
    """The policies of the class that are best for each divergence."""
    hollow = {"marker": "*", "markersize": 14, "markerfacecolor": "none", "linestyle": ""}
    for name, row in stars:
        axis.plot(row[x], row[y], color=style.colour(name), zorder=4, **hollow)
    return [{"what": "class optimum", "name": name, x: row[x], y: row[y]} for name, row in stars]


def _temperature_curve(axis: Axes, sweep: Sequence[Row], x: str, y: str) -> style.Rows:
    points = [(row[x], row[y], row["temperature"]) for row in sweep if x in row and y in row]
    if points:
        u, v, _ = zip(*points)
        axis.plot(u, v, color="#999999", linewidth=1.1, zorder=1, marker=".", markersize=4)
    for a, b, temperature in points:
        axis.annotate(
            f"{temperature:g}",
            (a, b),
            textcoords="offset points",
            xytext=(3, 4),
            fontsize=6.5,
            color="#888888",
            annotation_clip=True,
        )
    return [{"what": "SFT at temperature", "name": t, x: a, y: b} for a, b, t in points]
