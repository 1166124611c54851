"""The picture of a context window: values, the gaps between the levels, and pairs against
strings."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from experiments.figures.common.base import Picture, Row
from experiments.figures.context_window.flags import Flags
from experiments.reporting import style

LINES = {
    "token_expert": ("-", "s", "tokens, expert's prefixes"),
    "token": ("--", "o", "tokens, own prefixes"),
    "occupancy": (":", "D", "occupancy"),
}
MARKERS = {"none": "o", "prefix": "^", "window": "P"}  # by what the discriminator reads
CRITICS = {
    "none": "trained, no critic",
    "prefix": "trained, critic of prefixes",
    "window": "trained, critic of windows",
}
SHIFTS = {"none": 0.0, "prefix": 0.1, "window": 0.0}
LINEAR = 1e-3  # nats below which an axis is linear, so that 0 is on it


def draw(
    flags: Flags, windows: dict[str, dict[str, float]], optima: list[Row], students: list[Row]
) -> Picture:
    """Three panels, one colour for each divergence; black is what cloning with a clock, whose pairs
    are the expert's, loses."""
    style.use()
    figure, (values, gaps, pairs) = plt.subplots(1, 3, figsize=(6.8, 3.7), layout="constrained")
    hollow = {"markersize": 4, "markerfacecolor": "white"}
    for name in flags.divergences:
        best = [row for row in optima if row["minimises"] == name]
        _line(values, best, "sequence", "value", linestyle="-", color=style.colour(name))
        for level, (dash, marker, _) in LINES.items():
            look: dict[str, Any] = {
                "linestyle": dash,
                "marker": marker,
                "color": style.colour(name),
            }
            _line(gaps, best, level, "excess", **look, **hollow)
    for row in students:
        look = _look(row)
        if row["critic"] != "window":
            x = row["window"] + SHIFTS[row["critic"]] + 0.2 * (row["policy"] == "transformer")
            ends = [[row["value"] - row["low"]], [row["high"] - row["value"]]]
            values.errorbar(x, row["value"], ends, capsize=2, linestyle="", **look)
        pairs.plot(row["pairs_tv"], row["reverse_kl"], linestyle="", **look)
    lost = [max(x["lost_clock"], 0.0) for x in windows.values()]
    values.plot(flags.windows, lost, color=style.EXPERT, marker="*", linewidth=1, zorder=1)
    _window_axis(values, flags, "divergence of strings (nats)", "what a window costs")
    _window_axis(gaps, flags, "excess over the best (nats)", "another level's minimiser")
    _pairs(pairs, flags, optima)
    spacing = {"ncols": 3, "columnspacing": 1.4, "handlelength": 2.4}
    figure.legend(handles=_legend(flags, students), loc="outside lower center", **spacing)
    return figure


def _look(row: Row) -> dict[str, Any]:
    """Colour of what is minimised, marker of what the critic reads; a transformer's is hollow."""
    colour = style.colour(row["minimises"])
    face = "white" if row["policy"] == "transformer" else colour
    look = {"color": colour, "marker": MARKERS[row["critic"]], "markersize": 4.5}
    return look | {"markerfacecolor": face}


def _line(axis: Axes, rows: list[Row], level: str, key: str, **look: Any) -> None:
    mine = [row for row in rows if row["level"] == level]
    axis.plot([row["window"] for row in mine], [max(row[key], 0.0) for row in mine], **look)


def _window_axis(axis: Axes, flags: Flags, label: str, title: str) -> None:
    """Windows to the right, nats up, with 0 on the axis and the expert's range marked."""
    axis.axvline(flags.order, color=style.EXPERT, linewidth=0.8, linestyle="--")
    axis.set_yscale("symlog", linthresh=LINEAR, linscale=0.5)
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_locator(FixedLocator([0, 0.001, 0.01, 0.1, 1]))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.set(xlabel="window (tokens)", ylabel=label, title=title)
    axis.set(xticks=flags.windows, ylim=(-LINEAR / 4, 2))
    beside = {"textcoords": "offset points", "va": "top", "fontsize": 8}
    axis.annotate("range", (flags.order, 1.9), (3, 0), **beside)


def _pairs(axis: Axes, flags: Flags, optima: list[Row]) -> None:
    """Each window's best policies, from one divergence to the next."""
    beside = {"textcoords": "offset points", "fontsize": 8}
    for window in flags.windows:
        best = [row for row in optima if row["window"] == window and row["level"] == "sequence"]
        x, y = zip(*sorted((row["pairs_tv"], row["reverse_kl"]) for row in best))
        axis.plot(x, y, color=style.OTHER, linewidth=0.8, zorder=1)
        if window < flags.order:
            axis.annotate(f"window {window}", (x[-1], y[-1]), (6, -9), **beside)
        elif window == flags.order:
            axis.annotate(f"window {window} or more", (x[-1], y[-1]), (6, -3), **beside)
    axis.set(xlabel="tv of (window, token) pairs", ylabel="reverse KL of strings (nats)")
    axis.set_title("pairs against strings")
    axis.margins(0.08)
    axis.set_xlim(right=1.45 * axis.get_xlim()[1])


def _legend(flags: Flags, students: list[Row]) -> list[Line2D]:
    grey: dict[str, Any] = {"color": style.OTHER}
    hollow: dict[str, Any] = {"markerfacecolor": "white"}
    handles = [Line2D([], [], color=style.colour(name), label=name) for name in flags.divergences]
    for dash, marker, label in LINES.values():
        look = {"linestyle": dash, "marker": marker, "markersize": 4, "label": label}
        # pyrefly: ignore[bad-argument-type]
        handles.append(Line2D([], [], **look, **grey, **hollow))
    point: dict[str, Any] = {"linestyle": "", "markersize": 5}
    for critic, label in CRITICS.items():
        if any(row["critic"] == critic for row in students):
            handles.append(Line2D([], [], marker=MARKERS[critic], label=label, **point, **grey))
    if flags.transformers:
        handles.append(Line2D([], [], marker="o", label="transformer", **point, **grey, **hollow))
    star = {"marker": "*", "linewidth": 1, "label": "forward_kl, expert's pairs"}
    return [*handles, Line2D([], [], color=style.EXPERT, **star)]
