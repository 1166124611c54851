"""Planes: two metrics at the end of training against each other, a mark a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from experiments.reporting import charts, framing, scoreboards, style, wording
from experiments.reporting.charts import Drawing, Key, Panel
from experiments.reporting.schema import Json, MethodResult, Row, RunResult, Summary, paired
from experiments.reporting.scoreboards import Plane, Scoreboard

Place = tuple[float, float]
Star = tuple[str, Row]  # what a policy of the class is best for, and all its metrics
EXPERT, START = ("P", 9), ("s", 6)  # marker, size
GREY = "#999999"
SWEEP = "SFT at temperature"


class Seen(NamedTuple):
    """The ends of both axes."""

    x: Place
    y: Place

    def inside(self, u: float, v: float) -> bool:
        """Whether a point is in the frame."""
        return self.x[0] <= u <= self.x[1] and self.y[0] <= v <= self.y[1]

    def nearest(self, u: float, v: float) -> Place:
        """The point of the frame that is nearest to one."""
        return min(max(u, self.x[0]), self.x[1]), min(max(v, self.y[0]), self.y[1])

    def towards(self, u: float, v: float) -> str:
        """The side past which a point lies."""
        if not self.x[0] <= u <= self.x[1]:
            return "right" if u > self.x[1] else "left"
        return "up" if v > self.y[1] else "down"

    def rows(self, places: Mapping[str, Place]) -> dict[str, int]:
        """The row of the label of each point that lies outside."""
        outside = {name: place for name, place in places.items() if not self.inside(*place)}
        share = lambda value, ends: (value - ends[0]) / (ends[1] - ends[0])
        at = [
            (self.towards(*place), share(edge[0], self.x), share(edge[1], self.y))
            for place in outside.values()
            for edge in [self.nearest(*place)]
        ]
        return dict(zip(outside, framing.rows(at)))


def picture(plane: Plane, result: RunResult, folder: Path) -> Drawing | None:
    """Methods with their intervals, the best of the class, the expert, the start, and the SFT
    policy swept over temperatures; nothing where a metric was not measured."""
    board = scoreboards.of_result(result)
    x, y = plane.x, _y(plane, result)
    if y is None:
        return None
    style.use()
    figure, axis = plt.subplots(figsize=(4.9, 3.9), layout="constrained")
    if plane.log:
        for side, scale in ((axis.xaxis, axis.set_xscale), (axis.yaxis, axis.set_yscale)):
            scale("log")
            style.plain_ticks(side)
    methods = {n: m for n, m in result.methods.items() if {x, y} <= set(m.metrics)}
    looks = style.looks(result.methods)
    stars = _distinct([(n, r) for n, r in result.class_optimum.items() if {x, y} <= set(r)], x, y)
    hues = style.star_colours([name for name, _ in stars], result.methods)
    marked = _landmarks(plane, board, result, x, y)
    ends = [list(zip(_ends(m.metrics[x]), _ends(m.metrics[y]))) for m in methods.values()]
    points = [(m.metrics[x].iqm, m.metrics[y].iqm) for m in methods.values()]
    fixed = [(row[x], row[y]) for _, row in stars]
    fixed += [place for _, place in marked]
    seen = _frame(axis, points + fixed, ends + [[place, place] for place in fixed], plane.log)
    sweep = _temperature_curve(axis, result.temperatures, x, y)
    if plane.alike:
        axis.axline((0, 0), slope=1, color=GREY, linewidth=0.9, linestyle="--", zorder=1)
    rows = [
        *sweep,
        *_optima(axis, stars, hues, x, y),
        *_methods(axis, methods, looks, x, y, seen),
    ]
    for name, place in marked:
        marker, size = START if name == "start" else EXPERT
        axis.plot(*place, color=style.EXPERT, marker=marker, markersize=size, linestyle="")
        axis.annotate(name, place, textcoords="offset points", xytext=(7, 4), fontsize=8)
        rows.append({"what": name, x: place[0], y: place[1]})
    axis.set_xlabel(board.metric(x).label)
    axis.set_ylabel(board.metric(y).label)
    style.legend(figure, methods, hues, _others(plane, result, bool(sweep)))
    svg = style.save(figure, folder, plane.file, rows)
    return Drawing(
        plane.file,
        svg,
        [_panel(plane, result, rows, (x, y), looks, hues, seen)],
        _keys(plane, result, marked, hues, bool(sweep)),
    )


def _others(plane: Plane, result: RunResult, sweep: bool) -> list[Artist]:
    """What a legend has beside methods and stars; the expert and the start have their names."""
    others = []
    if plane.alike:
        others.append(style.key(plane.alike, linestyle="--", linewidth=0.9, color=GREY))
    if result.seeds > 1:
        others += [style.key("a seed", **style.SEED), style.key("95% interval", **style.WHISKER)]
    if sweep:
        line = {"linestyle": "-", "marker": ".", "markersize": 4, "color": GREY}
        others.append(style.key("sft at temperatures", **line))
    return others


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


def _frame(axis: Axes, points: Sequence[Place], ends: Sequence[Sequence[Place]], log: bool) -> Seen:
    """Limits that hold all points but those that would make the others hard to tell apart, and
    their intervals unless these are far longer than the points are apart."""
    scaled = lambda values: np.log(np.maximum(values, 1e-6)) if log else np.asarray(values)
    places, corners = scaled(np.array(points)), scaled(np.array(ends))  # [n, 2], [n, 2, 2]
    limits = []
    for k, side in enumerate((axis.set_xlim, axis.set_ylim)):
        values = places[:, k]
        middle, spread = np.median(values), np.median(np.abs(values - np.median(values)))
        near = np.abs(values - middle) <= max(8 * spread, 1.0)
        if np.ptp(values) <= (3 if log else 5) * np.ptp(values[near]):
            near = np.ones_like(near)
        low, high = values[near].min(), values[near].max()
        most = max(high - low, 0.7 if log else 0.1)
        low = min(low, max(corners[near, :, k].min(), low - most))
        high = max(high, min(corners[near, :, k].max(), high + most))
        room = 0.15 * max(high - low, 0.2 if log else 0.02)
        low, high = low - room, high + room
        low, high = (np.exp(low), np.exp(high)) if log else (low, high)
        limits.append((float(low), float(high)))
        side(*limits[-1])
    return Seen(*limits)


def _methods(
    axis: Axes,
    methods: dict[str, MethodResult],
    looks: Mapping[str, style.Line],
    x: str,
    y: str,
    seen: Seen,
) -> style.Rows:
    """Marks, and arrows for what is outside the frame. Rows: IQMs with the ends of their intervals,
    then seeds."""
    rows = []
    said_in = seen.rows({name: (m.metrics[x].iqm, m.metrics[y].iqm) for name, m in methods.items()})
    for name, m in methods.items():
        a, b, look = m.metrics[x], m.metrics[y], looks[name]
        middle: dict[str, object] = {"what": "IQM", "name": name, x: a.iqm, y: b.iqm}
        for metric, scores in ((x, a), (y, b)):
            if scores.ci95:
                middle |= {f"{metric}_low": scores.ci95[0], f"{metric}_high": scores.ci95[1]}
        rows += [
            middle,
            *({"what": "seed", "name": name, "seed": i, x: u, y: v} for i, u, v in paired(a, b)),
        ]
        if not seen.inside(a.iqm, b.iqm):
            said = f"{name} ({a.iqm:.3g}, {b.iqm:.3g})"
            towards = seen.towards(a.iqm, b.iqm)
            place = seen.nearest(a.iqm, b.iqm)
            style.arrow(axis, place, towards, look["color"], said, said_in[name])
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


def _optima(
    axis: Axes, stars: Sequence[Star], hues: Mapping[str, str], x: str, y: str
) -> style.Rows:
    """The policies of the class that are best for each divergence."""
    hollow = {"marker": "*", "markersize": 14, "markerfacecolor": "none", "linestyle": ""}
    for name, row in stars:
        axis.plot(row[x], row[y], color=hues[name], zorder=4, **hollow)
    return [{"what": "class optimum", "name": name, x: row[x], y: row[y]} for name, row in stars]


def _temperature_curve(axis: Axes, sweep: Sequence[Row], x: str, y: str) -> style.Rows:
    points = [(row[x], row[y], row["temperature"]) for row in sweep if x in row and y in row]
    if points:
        u, v, _ = zip(*points)
        axis.plot(u, v, color=GREY, linewidth=1.1, zorder=1, marker=".", markersize=4)
    for a, b, temperature in points:
        axis.annotate(
            f"{temperature:g}",
            (a, b),
            textcoords="offset points",
            xytext=(3, 4),
            fontsize=6.5,
            color="#666666",
            annotation_clip=True,
        )
    return [{"what": SWEEP, "name": t, x: a, y: b} for a, b, t in points]


# --- in the page ----------------------------------------------------------------------------------


def _keys(
    plane: Plane,
    result: RunResult,
    marked: Sequence[tuple[str, Place]],
    hues: Mapping[str, str],
    sweep: bool,
) -> list[Key]:
    keys = [Key(plane.alike, line="--")] if plane.alike else []
    if result.seeds > 1:
        keys += [Key("a seed", "."), Key("95% interval", line="-")]
    for name, _ in marked:
        keys.append(Key(name, START[0] if name == "start" else EXPERT[0], colour=charts.INK))
    keys += [
        Key(f"best {n}", "*", colour=charts.paint(hue), hollow=True) for n, hue in hues.items()
    ]
    if sweep:
        keys.append(Key("sft at temperatures", ".", "-"))
    return keys


def _panel(
    plane: Plane,
    result: RunResult,
    rows: style.Rows,
    axes: tuple[str, str],
    looks: Mapping[str, style.Line],
    hues: Mapping[str, str],
    seen: Seen,
) -> Panel:
    """The same rows as the file's, each with what it is and whose."""
    board, (x, y) = scoreboards.of_result(result), axes
    titles = [charts.plain(board.metric(name).label) for name in axes]
    scales = [
        charts.axis(field, title, plane.log, ends)
        for field, title, ends in zip("xy", titles, (seen.x, seen.y))
    ]
    table = []
    middles = {row["name"]: (row[x], row[y]) for row in rows if row["what"] == "IQM"}
    said_in = seen.rows(middles)
    for row in rows:
        what, name = row["what"], row.get("name")
        if what not in ("IQM", "seed", SWEEP) and not seen.inside(row[x], row[y]):
            continue
        own: dict[str, Any] = {"kind": what, "name": name or what, "x": row[x], "y": row[y]}
        if what in ("IQM", "seed"):
            own |= {"method": name, "seed": row.get("seed")}
            for side, metric in (("x", x), ("y", y)):
                own |= {f"{side}_{end}": row.get(f"{metric}_{end}") for end in ("low", "high")}
        if what == "IQM" and not seen.inside(row[x], row[y]):
            place = seen.nearest(row[x], row[y])
            own |= {"beyond": seen.towards(row[x], row[y]), "x_edge": place[0], "y_edge": place[1]}
            own |= {"said": f"{name} ({row[x]:.3g}, {row[y]:.3g})", "row": said_in[str(name)]}
        table.append(own)
    description = f"{titles[1]} against {titles[0]}, a mark a method"
    layers = [
        *_layers_of_landmarks(scales, titles, hues),
        *_layers_of_methods(scales, titles, charts.looks(looks)),
        *(_where_alike(scales, seen) if plane.alike else []),
    ]
    return Panel("", charts.view(description, layers, height=340), charts.columns(table))


def _where_alike(scales: Sequence[Json], seen: Seen) -> list[Json]:
    """The line on which both axes have the same value, as far as the frame has it."""
    ends = max(seen.x[0], seen.y[0]), min(seen.x[1], seen.y[1])
    x, y = ({**scale, "datum": ends[0]} for scale in scales)
    for end in (x, y):
        del end["field"]
    mark = {"type": "rule", "color": charts.SOFT, "strokeDash": charts.DASHES["--"], "clip": True}
    place = {"x": x, "y": y, "x2": {"datum": ends[1]}, "y2": {"datum": ends[1]}}
    return [{"data": {"values": [{}]}, "mark": mark, "encoding": place}]


def _only(what: str) -> list[Json]:
    return [{"filter": what}]


def _layers_of_methods(
    scales: Sequence[Json], titles: Sequence[str], looks: charts.Looks
) -> list[Json]:
    x, y = scales
    shown = [charts.words("name", "method"), charts.tip("x", titles[0]), charts.tip("y", titles[1])]
    inside = "datum.kind == 'IQM' && !datum.beyond"
    bar = {"type": "rule", "strokeWidth": 1.3, "clip": True}
    span = lambda side, other: {
        side: {**(x if side == "x" else y), "field": f"{side}_low"},
        f"{side}2": {"field": f"{side}_high"},
        other: y if side == "x" else x,
    }
    return [
        {
            "transform": _only("datum.kind == 'seed'"),
            "mark": {"type": "point", "filled": True, "size": 22, "opacity": 0.45, "clip": True},
            "encoding": {
                "x": x,
                "y": y,
                "color": looks.colour,
                "tooltip": [*shown, charts.tip("seed", "seed")],
            },
        },
        *(
            {
                "transform": _only(f"{inside} && isValid(datum.{side}_low)"),
                "mark": bar,
                "encoding": {**span(side, other), "color": looks.colour},
            }
            for side, other in (("x", "y"), ("y", "x"))
        ),
        {
            "transform": _only(inside),
            "mark": {"type": "point", "filled": True, "size": 110, "opacity": 1},
            "encoding": {
                "x": x,
                "y": y,
                "color": looks.colour,
                "shape": looks.shape,
                "tooltip": shown,
            },
        },
        *charts.arrows({**x, "field": "x_edge"}, {**y, "field": "y_edge"}, looks, shown),
    ]


def _layers_of_landmarks(
    scales: Sequence[Json], titles: Sequence[str], hues: Mapping[str, str]
) -> list[Json]:
    """The temperature sweep, the best of the class, the expert and the start."""
    x, y = scales
    shown = [
        charts.words("kind", "what"),
        charts.words("name", "name"),
        charts.tip("x", titles[0]),
        charts.tip("y", titles[1]),
    ]
    place = {"x": x, "y": y}
    swept = _only(f"datum.kind == '{SWEEP}'")
    star = "datum.kind == 'class optimum'"
    named = f"!datum.method && datum.kind != 'class optimum' && datum.kind != '{SWEEP}'"
    layers: list[Json] = [
        {
            "transform": swept,
            "mark": {"type": "line", "color": charts.SOFT, "strokeWidth": 1, "clip": True},
            "encoding": {**place, "order": {"field": "name", "type": "quantitative"}},
        },
        {
            "transform": swept,
            "mark": {
                "type": "point",
                "color": charts.SOFT,
                "filled": True,
                "size": 20,
                "clip": True,
            },
            "encoding": {**place, "tooltip": shown},
        },
        {
            "transform": swept,
            "mark": {"type": "text", "dx": 8, "dy": -7, "clip": True},
            "encoding": {**place, "text": {"field": "name", "type": "nominal"}},
        },
        {
            "transform": _only(star),
            "mark": {"type": "point", "size": 230, "strokeWidth": 1.6, "shape": charts.mark("*")},
            "encoding": {
                **place,
                "stroke": _star_scale(hues),
                "tooltip": shown,
            },
        },
    ]
    for kind, (marker, size) in (("start", START), ("expert", EXPERT)):
        same = "datum.kind == 'start'" if kind == "start" else f"{named} && datum.kind != 'start'"
        layers += [
            {
                "transform": _only(same),
                "mark": {
                    "type": "point",
                    "filled": True,
                    "color": charts.INK,
                    "shape": charts.mark(marker),
                    "size": 16 * size,
                    "opacity": 1,
                    "clip": True,
                },
                "encoding": {**place, "tooltip": shown[1:]},
            },
            {
                "transform": _only(same),
                "mark": {"type": "text", "dx": 9, "dy": -8, "align": "left", "fill": charts.INK},
                "encoding": {**place, "text": {"field": "name", "type": "nominal"}},
            },
        ]
    return layers


def _star_scale(hues: Mapping[str, str]) -> Json:
    """Colours of stars; one that stands for several divergences has the first's."""
    names = list(hues)
    return {
        "field": "name",
        "type": "nominal",
        "legend": None,
        "scale": {"domain": names, "range": [charts.paint(hue) for hue in hues.values()]},
    }
