"""Learning curves: the IQM over seeds against tokens learned from, a panel a metric; in the page
against updates and seconds as well."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from experiments.reporting import charts, framing, scoreboards, style, wording
from experiments.reporting.charts import Drawing, Key, Panel
from experiments.reporting.framing import Curve, Frame
from experiments.reporting.schema import HistoryLine, Json, RunResult
from experiments.reporting.scoreboards import Scoreboard
from fdiv import statistics

FLOOR = 1e-5  # gaps below this are sampling noise and rounding
LOGARITHMIC = ("gap", "js", "js_token", "gradient_norm")
OF_TRAINING = (  # what tells how training itself goes, as far as a run has it
    *("gradient_norm", "bounded_share", "clip_share"),
    *("d_accuracy", "d_saturated", "d_calibration"),
    *("reward_accuracy", "margin"),
)
TOKENS = "tokens learned from, per seed"
Bands = dict[str, style.Rows]  # method -> its points
Ends = Callable[[Sequence[float]], tuple[float, float]]  # of a band


def picture(result: RunResult, history: Sequence[HistoryLine], folder: Path) -> Drawing | None:
    """The panels that the task's scoreboard names, of those that were measured."""
    style.use()
    board = scoreboards.of_result(result)
    lines = _lines(result, history)
    panels = _panels(board, lines)
    if not panels:
        return None
    size = (3.1 * len(panels), 2.7)
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, layout="constrained")
    looks = style.looks(result.methods)
    rows: style.Rows = []
    drawn = []
    for axis, panel in zip(axes[0], panels):
        bands = _bands(lines, panel, result)
        rows += [
            {"method": name, "metric": panel, **point}
            for name, band in bands.items()
            for point in band
        ]
        shown = {name: _floored(band, panel) for name, band in bands.items()}
        frame = _frame(shown, panel, result)
        for name, band in shown.items():
            _draw_band(axis, band, looks[name])
        _dress(axis, panel, board, result)
        _cut(axis, shown, frame, looks, panel)
        drawn.append(_panel(panel, shown, frame, board, result))
    many = result.seeds > 1
    others = [style.key("95% interval", **style.BAND)] if many else []
    if any(_has_line(panel, result) for panel in panels):
        dotted = {"linestyle": (0, (1, 2)), "linewidth": 0.9, "color": style.EXPERT}
        others.append(style.key(f"the {board.expert}'s value", **dotted))
    style.legend(figure, result.methods, others=others)
    svg = style.save(figure, folder, "learning_curves", rows)
    return Drawing("learning_curves", svg, drawn, _keys(panels, board, result))


def training(result: RunResult, history: Sequence[HistoryLine], folder: Path) -> Drawing | None:
    """How training itself went: for the page alone."""
    board = scoreboards.of_result(result)
    lines = _lines(result, history)
    measured = {name for line in lines for name, value in line.items() if value is not None}
    drawn = []
    for name in OF_TRAINING:
        if name in measured and name not in board.curves:
            bands = {n: b for n, b in _bands(lines, name, result, _extent).items() if b}
            drawn.append(_panel(name, bands, _frame(bands, name, result), board, result))
    keys = [Key("from the least to the most of the seeds", line="band")] * (result.seeds > 1)
    return Drawing("training", "", drawn, keys) if drawn else None


def caption(result: RunResult, history: Sequence[HistoryLine]) -> str:
    """What is said under the picture."""
    panels = _panels(scoreboards.of_result(result), _lines(result, history))
    lined = [panel for panel in panels if _has_line(panel, result)]
    return wording.under_curves(result, panels, lined, FLOOR)


def _has_line(panel: str, result: RunResult) -> bool:
    """Whether the expert's own value stands in a panel; where that is logarithmic, it is 0."""
    return panel in result.expert and panel not in LOGARITHMIC


def _lines(result: RunResult, history: Sequence[HistoryLine]) -> list[HistoryLine]:
    """Those of the result's methods, with the gap."""
    return [line | _gap(line, result) for line in history if line["method"] in result.methods]


def _panels(board: Scoreboard, lines: Sequence[HistoryLine]) -> list[str]:
    measured = {name for line in lines for name, value in line.items() if value is not None}
    return board.shown(board.curves, measured)


def _gap(line: HistoryLine, result: RunResult) -> dict[str, float]:
    """A method's distance to the best of the class at a point of its curve."""
    best, own = result.methods[line["method"]].best, line.get("own")
    return {"gap": own - best} if isinstance(best, (int, float)) and own is not None else {}


def _bands(
    lines: Sequence[HistoryLine],
    metric: str,
    result: RunResult,
    ends: Ends = statistics.interval,
) -> Bands:
    """Method -> {update, tokens, seconds, iqm, low, high} at each update where the metric is finite
    on some seed."""
    at: dict[str, dict[int, list[HistoryLine]]] = {name: {} for name in result.methods}
    for line in lines:
        if line.get(metric) is not None and np.isfinite(line[metric]):
            at[line["method"]].setdefault(line["update"], []).append(line)
    return {
        name: [_point(update, updates[update], metric, ends) for update in sorted(updates)]
        for name, updates in at.items()
    }


def _extent(values: Sequence[float]) -> tuple[float, float]:
    """The least and the most; of one seed there are none."""
    return (min(values), max(values)) if len(values) > 1 else (np.nan, np.nan)


def _point(update: int, lines: Sequence[HistoryLine], metric: str, ends: Ends) -> dict[str, float]:
    values = [line[metric] for line in lines]
    low, high = ends(values)
    mean = lambda name: float(np.mean([line.get(name, 0.0) for line in lines]))
    return {
        "update": update,
        "tokens": mean("tokens"),
        "seconds": mean("seconds"),
        "iqm": statistics.iqm(values),
        "low": low,
        "high": high,
    }


def _floored(band: style.Rows, panel: str) -> style.Rows:
    """What is drawn of a band: gaps are not drawn below their floor."""
    if panel != "gap":
        return band
    ends = ("iqm", "low", "high")
    return [point | {end: max(point[end], FLOOR) for end in ends} for point in band]


def _frame(bands: Bands, panel: str, result: RunResult) -> Frame | None:
    curves = {
        name: Curve(*([point[end] for point in band] for end in ("iqm", "low", "high")))
        for name, band in bands.items()
        if band
    }
    also = [result.expert[panel]] if _has_line(panel, result) else []
    return framing.frame(curves, panel in LOGARITHMIC, also)


# --- as a file ------------------------------------------------------------------------------------


def _draw_band(axis: Axes, band: style.Rows, look: style.Line) -> None:
    if not band:
        return
    x = np.array([point["tokens"] for point in band])
    middle, low, high = (np.array([point[key] for point in band]) for key in ("iqm", "low", "high"))
    colour = look["color"]
    axis.plot(x, middle, color=colour, linestyle=look["linestyle"])
    axis.plot(x[-1], middle[-1], color=colour, marker=look["marker"], markersize=5)
    axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)


def _dress(axis: Axes, panel: str, board: Scoreboard, result: RunResult) -> None:
    axis.set_title(board.metric(panel).label)
    axis.set_xlabel(TOKENS)
    axis.ticklabel_format(axis="x", style="sci", scilimits=(0, 3))
    if panel in LOGARITHMIC:
        axis.set_yscale("log")
    if panel in ("js", "js_token"):
        style.plain_ticks(axis.yaxis)
    if _has_line(panel, result):
        expert = result.expert[panel]
        axis.axhline(expert, color=style.EXPERT, linewidth=0.9, linestyle=(0, (1, 2)))
        axis.annotate(
            board.expert,
            (1, expert),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=7,
        )


def _cut(
    axis: Axes, bands: Bands, frame: Frame | None, looks: Mapping[str, style.Line], panel: str
) -> None:
    """The axis's ends, and an arrow where a method's line leaves it."""
    if frame is None:
        return
    axis.set_ylim(max(frame.low, FLOOR) if panel == "gap" else frame.low, frame.high)
    rows = _label_rows(bands, frame)
    for name, i in frame.beyond.items():
        point = bands[name][i]
        edge = frame.edge(point["iqm"])
        place, said = (point["tokens"], edge), f"{name} {point['iqm']:.3g}"
        towards = "up" if edge == frame.high else "down"
        style.arrow(axis, place, towards, looks[name]["color"], said, rows[name])


def _label_rows(bands: Bands, frame: Frame) -> dict[str, int]:
    """In which row each arrow's label stands."""
    most = max(point["tokens"] for band in bands.values() for point in band) or 1.0
    points = [bands[name][i] for name, i in frame.beyond.items()]
    at = [(str(frame.edge(p["iqm"])), p["tokens"] / most, 0.0) for p in points]
    return dict(zip(frame.beyond, framing.rows(at)))


# --- in the page ----------------------------------------------------------------------------------


def _keys(panels: Sequence[str], board: Scoreboard, result: RunResult) -> list[Key]:
    keys = [Key("95% interval", line="band")] if result.seeds > 1 else []
    if any(_has_line(panel, result) for panel in panels):
        keys.append(Key(f"the {board.expert}'s value", line=":", colour=charts.INK))
    return keys


def _panel(
    name: str, bands: Bands, frame: Frame | None, board: Scoreboard, result: RunResult
) -> Panel:
    """One metric. Its transformations read parameters that the page sets: which x, how smooth."""
    metric = board.metric(name)
    rows = []
    label_rows = _label_rows(bands, frame) if frame and frame.beyond else {}
    for method, band in bands.items():
        for i, point in enumerate(band):
            off = frame is not None and frame.beyond.get(method) == i
            up = off and frame is not None and point["iqm"] > frame.high
            flags = {"end": int(i == len(band) - 1), "beyond": ""}
            if off:
                said = f"{method} {point['iqm']:.3g}"
                flags |= {"beyond": "up" if up else "down", "said": said}
                flags["row"] = label_rows[method]
            rows.append({"method": method, **point, **flags})
    expert = result.expert[name] if _has_line(name, result) else None
    layers = _layers(charts.looks(style.looks(result.methods)), metric.title, expert)
    description = f"{metric.title} of each method over training"
    spec = charts.view(description, layers, _transform(), height=220)
    spec["params"] += [
        {"name": "x_field", "value": "tokens"},
        {"name": "x_log", "value": False},
        {"name": "y_log", "value": name in LOGARITHMIC},
        {"name": "y_low", "value": None},
        {"name": "y_high", "value": None},
    ]
    spec["usermeta"] = {
        "logarithmic": name in LOGARITHMIC,
        "domain": [charts.shortened(frame.low), charts.shortened(frame.high)] if frame else None,
    }
    return Panel(charts.plain(metric.label), spec, charts.columns(rows), learning=True)


def _transform() -> list[Json]:
    mean = lambda field, name: {"op": "mean", "field": field, "as": name}
    return [
        {"calculate": "datum[x_field]", "as": "x"},
        {"filter": "!x_log || datum.x > 0"},
        {
            "window": [mean("iqm", "y"), mean("low", "y_below"), mean("high", "y_above")],
            "frame": [0, 0],
            "sort": [{"field": "update"}],
            "groupby": ["method"],
        },
        {"filter": "!y_log || datum.y > 0"},
        {
            "calculate": "isValid(datum.low) ? format(datum.low, '.4~g') + ' to ' + "
            "format(datum.high, '.4~g') : 'one seed'",
            "as": "interval",
        },
        {"calculate": "datum.beyond == 'up' ? y_high : y_low", "as": "y_edge"},
    ]


def _layers(looks: charts.Looks, title: str, expert: float | None) -> list[Json]:
    x, y = charts.axis("x", TOKENS), charts.axis("y", title)
    x["axis"] = {"format": "~s"}
    y["title"] = None
    shown = [
        charts.words("method", "method"),
        charts.tip("y", title),
        charts.words("interval", "band"),
        charts.tip("update", "updates"),
        charts.tip("tokens", "tokens"),
        charts.tip("seconds", "seconds"),
    ]
    band = {"y": {**y, "field": "y_below"}, "y2": {"field": "y_above"}}
    layers: list[Json] = [
        {
            "mark": {"type": "area", "opacity": 0.14, "clip": True},
            "encoding": {"x": x, **band, "color": looks.colour},
        },
        {
            "mark": {"type": "line", "strokeWidth": 2, "clip": True},
            "encoding": {"x": x, "y": y, "color": looks.colour, "strokeDash": looks.dash},
        },
        {
            "transform": [{"filter": "datum.end && inrange(datum.y, [y_low, y_high])"}],
            "mark": {"type": "point", "filled": True, "size": 55, "opacity": 1},
            "encoding": {"x": x, "y": y, "color": looks.colour, "shape": looks.shape},
        },
        *charts.arrows(x, {**y, "field": "y_edge"}, looks, shown),
    ]
    if expert is not None:
        rule = {"type": "rule", "strokeDash": [1.5, 2.5], "color": charts.INK, "clip": True}
        at = {key: value for key, value in y.items() if key != "field"} | {"datum": expert}
        layers.append({"mark": rule, "encoding": {"y": at}})
    hover = {"type": "point", "on": "pointerover", "nearest": True, "clear": "pointerout"}
    layers.append(
        {
            "params": [{"name": "hover", "select": hover}],
            "mark": {"type": "point", "filled": True, "size": 80, "clip": True},
            "encoding": {
                "x": x,
                "y": y,
                "color": looks.colour,
                "opacity": {
                    "condition": {"param": "hover", "empty": False, "value": 1},
                    "value": 0,
                },
                "tooltip": shown,
            },
        }
    )
    return layers
