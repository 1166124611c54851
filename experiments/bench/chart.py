"""The chart of a page: how many times the peer's speed ours is, and how much of the bound both
reach."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from experiments.bench.rows import Row
from experiments.reporting import style
from experiments.storage import whole

OURS, PEER, WANTED = "#0072B2", "#999999", "#D55E00"
DPI = 110


def draw(path: Path, rows: Sequence[Row]) -> bool:
    """Write the PNG; False, and no file, where no row has a peer."""
    shown = [row for row in rows if row.ratios]
    if not shown:
        return False
    style.use()
    height = 1.2 + 0.34 * len(shown)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, height), sharey=True)
    places = np.arange(len(shown))[::-1]
    _ratios(left, shown, places)
    _shares(right, shown, places)
    left.set_yticks(places, [f"{row.title}\n{row.size_title}" for row in shown], fontsize=6.5)
    figure.tight_layout()
    with whole.draft(path) as place:
        figure.savefig(place, dpi=DPI)
    plt.close(figure)
    return True


def _ratios(axes: Axes, rows: Sequence[Row], places: np.ndarray) -> None:
    """Medians with their range, what is wanted of each, and the peer's own line."""
    middle = np.array([row.measures["of peer"] for row in rows])
    ends = np.array([[min(row.ratios), max(row.ratios)] for row in rows]).T
    axes.barh(places, middle, height=0.6, color=OURS, left=0)
    axes.errorbar(
        middle, places, xerr=np.abs(ends - middle), fmt="none", ecolor="black", elinewidth=1
    )
    for row, place, value in zip(rows, places, middle):
        wanted = [want.value for want, _ in row.judged if want.what == "of peer"]
        for at in wanted:
            axes.plot([at] * 2, [place - 0.42, place + 0.42], color=WANTED, lw=2)
        said = f"{value:,.0f}x" if value >= 100 else f"{value:.3g}x"
        behind = 1.1 * max([*row.ratios, *wanted])
        axes.text(behind, place, said, va="center", fontsize=7)
    axes.axvline(1, color="black", lw=0.8)
    axes.set_xscale("log")
    axes.set_xlim(min(0.5, 0.8 * ends.min()), 3 * ends.max())
    style.plain_ticks(axes.xaxis)
    axes.set_xlabel("times the peer's tokens a second (orange: wanted)")


def _shares(axes: Axes, rows: Sequence[Row], places: np.ndarray) -> None:
    """Of the bound, ours above the peer's."""
    for name, colour, offset, label in (
        ("of bound", OURS, 0.17, "ours"),
        ("peer of bound", PEER, -0.17, "peer"),
    ):
        values = [100 * row.measures.get(name, 0.0) for row in rows]
        axes.barh(places + offset, values, height=0.32, color=colour, label=label)
    for row, place in zip(rows, places):
        for want, _ in row.judged:
            if want.what == "of bound":
                axes.plot([100 * want.value] * 2, [place, place + 0.42], color=WANTED, lw=2)
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of the machine's bound")
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)
