"""The picture of a context window: values, the gaps between the levels, and pairs against
strings."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from experiments.reporting import style

LINES = {
    "token_expert": ("-", "s", "tokens, expert's prefixes"),
    "token": ("--", "o", "tokens, own prefixes"),
    "occupancy": (":", "D", "occupancy"),
}
MARKERS = {"none": "o", "prefix": "^", "window": "P"}  # by what the discriminator reads
SHIFTS = {"none": 0.0, "prefix": 0.1, "window": 0.0}
LINEAR = 1e-3  # nats below which an axis is linear, so that 0 is on it


def picture(flags: Any, seen: dict, optima: list[dict], trained: list[dict]):
    """Three panels, one colour for each divergence; black is what cloning with a clock, whose pairs
    are the expert's, loses."""
    style.use()
    figure, (values, gaps, pairs) = plt.subplots(1, 3, figsize=(6.8, 3.7), layout="constrained")
    for name in flags.divergences:
        best = [row for row in optima if row["minimises"] == name]
        _line(values, best, "sequence", "value", name, "-")
        for level, (dash, marker, _) in LINES.items():
            _line(
                gaps,
                best,
                level,
                "excess",
                name,
                dash,
                marker=marker,
                markersize=4,
                markerfacecolor="white",
            )
    for row in trained:
        look = _look(row)
        if row["critic"] != "window":
            x = row["window"] + SHIFTS[row["critic"]] + 0.2 * (row["policy"] == "transformer")
            ends = [[row["value"] - row["low"]], [row["high"] - row["value"]]]
            values.errorbar(x, row["value"], ends, capsize=2, linestyle="", **look)
        pairs.plot(row["pairs_tv"], row["reverse_kl"], linestyle="", **look)
    values.plot(
        flags.windows,
        [max(x["lost_clock"], 0.0) for x in seen.values()],
        color=style.EXPERT,
        marker="*",
        linewidth=1,
        zorder=1,
    )
    for axis, label in (
        (values, "divergence of strings (nats)"),
        (gaps, "excess over the best (nats)"),
    ):
        axis.axvline(flags.order, color=style.EXPERT, linewidth=0.8, linestyle="--")
        axis.set_yscale("symlog", linthresh=LINEAR, linscale=0.5)
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_locator(FixedLocator([0, 0.001, 0.01, 0.1, 1]))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.set(
            xlabel="window (tokens)", ylabel=label, xticks=flags.windows, ylim=(-LINEAR / 4, 2)
        )
        axis.annotate(
            "range", (flags.order, 1.9), (3, 0), textcoords="offset points", va="top", fontsize=8
        )
    values.set_title("what a window costs")
    gaps.set_title("another level's minimiser")
    _pairs(pairs, flags, optima)
    figure.legend(
        handles=_legend(flags, trained),
        loc="outside lower center",
        ncols=3,
        columnspacing=1.4,
        handlelength=2.4,
    )
    return figure


def _look(row: dict) -> dict[str, Any]:
    """Colour of what is minimised, marker of what the critic reads; a transformer's is hollow."""
    colour = style.colour(row["minimises"])
    face = "white" if row["policy"] == "transformer" else colour
    return {
        "color": colour,
        "marker": MARKERS[row["critic"]],
        "markerfacecolor": face,
        "markersize": 4.5,
    }


def _line(
    axis: Any, rows: list[dict], level: str, key: str, name: str, dash: str, **look: Any
) -> None:
    mine = [row for row in rows if row["level"] == level]
    axis.plot(
        [row["window"] for row in mine],
        [max(row[key], 0.0) for row in mine],
        dash,
        color=style.colour(name),
        **look,
    )


def _pairs(axis: Any, flags: Any, optima: list[dict]) -> None:
    """Each window's best policies, from one divergence to the next."""
    for window in flags.windows:
        best = [row for row in optima if row["window"] == window and row["level"] == "sequence"]
        x, y = zip(*sorted((row["pairs_tv"], row["reverse_kl"]) for row in best))
        axis.plot(x, y, color=style.OTHER, linewidth=0.8, zorder=1)
        if window < flags.order:
            axis.annotate(
                f"window {window}", (x[-1], y[-1]), (6, -9), textcoords="offset points", fontsize=8
            )
        elif window == flags.order:
            axis.annotate(
                f"window {window} or more",
                (x[-1], y[-1]),
                (6, -3),
                textcoords="offset points",
                fontsize=8,
            )
    axis.set(
        xlabel="tv of (window, token) pairs",
        ylabel="reverse KL of strings (nats)",
        title="pairs against strings",
    )
    axis.margins(0.08)
    axis.set_xlim(right=1.45 * axis.get_xlim()[1])


def _legend(flags: Any, trained: list[dict]) -> list[Line2D]:
    point = lambda marker, label, **look: Line2D(
        [], [], color=style.OTHER, marker=marker, linestyle="", label=label, **look
    )
    shown = [Line2D([], [], color=style.colour(name), label=name) for name in flags.divergences]
    shown += [
        Line2D(
            [],
            [],
            color=style.OTHER,
            linestyle=dash,
            marker=marker,
            markersize=4,
            markerfacecolor="white",
            label=said,
        )
        for dash, marker, said in LINES.values()
    ]
    said = {
        "none": "trained, no critic",
        "prefix": "trained, critic of prefixes",
        "window": "trained, critic of windows",
    }
    shown += [
        point(MARKERS[c], said[c], markersize=5)
        for c in said
        if any(row["critic"] == c for row in trained)
    ]
    if flags.transformers:
        shown.append(point("o", "transformer", markersize=5, markerfacecolor="white"))
    return [
        *shown,
        Line2D(
            [], [], color=style.EXPERT, marker="*", linewidth=1, label="forward_kl, expert's pairs"
        ),
    ]
