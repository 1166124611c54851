"""Learning curves: the IQM over seeds against tokens learned from, a panel a metric."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from experiments.reporting import scoreboards, style, wording
from experiments.reporting.schema import HistoryLine, RunResult
from experiments.reporting.scoreboards import Scoreboard
from fdiv import statistics

FLOOR = 1e-5  # gaps below this are sampling noise and rounding
LOGARITHMIC = ("gap", "js", "js_token")


def picture(result: RunResult, history: Sequence[HistoryLine], folder: Path) -> str:
    """The panels that the task's scoreboard names, of those that were measured."""
    style.use()
    board = scoreboards.of_result(result)
    lines = _lines(result, history)
    panels = _panels(board, lines)
    if not panels:
        return ""
    size = (3.1 * len(panels), 2.7)
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, layout="constrained")
    rows: style.Rows = []
    for axis, panel in zip(axes[0], panels):
        for name, method in result.methods.items():
            band = _band([line for line in lines if line["method"] == name], panel)
            rows += [{"method": name, "metric": panel, **point} for point in band]
            _draw_band(axis, band, style.look(method), panel)
        _dress(axis, panel, board, result)
    style.legend(figure, result.methods)
    return style.save(figure, folder, "learning_curves", rows)


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


def _band(lines: Sequence[HistoryLine], metric: str) -> style.Rows:
    """{update, tokens, iqm, low, high} at each update where the metric is finite on some seed."""
    points = []
    there = [line for line in lines if line.get(metric) is not None and np.isfinite(line[metric])]
    for update in sorted({line["update"] for line in there}):
        here = [line for line in there if line["update"] == update]
        values = [line[metric] for line in here]
        low, high = statistics.interval(values)
        tokens = float(np.mean([line["tokens"] for line in here]))
        middle = statistics.iqm(values)
        points.append({"update": update, "tokens": tokens, "iqm": middle, "low": low, "high": high})
    return points


def _draw_band(axis: Axes, band: style.Rows, look: style.Line, panel: str) -> None:
    if not band:
        return
    x = np.array([point["tokens"] for point in band])
    middle, low, high = (np.array([point[key] for point in band]) for key in ("iqm", "low", "high"))
    if panel == "gap":
        middle, low, high = (np.maximum(v, FLOOR) for v in (middle, low, high))
    colour = look["color"]
    axis.plot(x, middle, color=colour, linestyle=look["linestyle"])
    axis.plot(x[-1], middle[-1], color=colour, marker=look["marker"], markersize=5, clip_on=False)
    axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)


def _dress(axis: Axes, panel: str, board: Scoreboard, result: RunResult) -> None:
    axis.set_title(board.metric(panel).label)
    axis.set_xlabel("tokens learned from, per seed")
    axis.ticklabel_format(axis="x", style="sci", scilimits=(0, 3))
    if panel in LOGARITHMIC:
        axis.set_yscale("log")
    if panel in ("js", "js_token"):
        style.plain_ticks(axis.yaxis)
    if panel == "gap":
        axis.set_ylim(bottom=FLOOR)
    elif _has_line(panel, result):
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
