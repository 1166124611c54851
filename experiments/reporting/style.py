"""How pictures look: one colour per divergence throughout the project, one marker per source of the
log-ratio."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib import ticker
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.typing import LineStyleType

from experiments import escapes
from experiments.reporting.schema import MethodResult
from experiments.storage import whole
from fdiv.types import Look

Rows = list[dict[str, Any]]  # of the CSV behind a picture

COLOURS = {
    "forward_kl": "#0072B2",
    "reverse_kl": "#D55E00",
    "js": "#009E73",
    "alpha": "#CC79A7",
    "hellinger2": "#56B4E9",
    "tv": "#555555",
    "jeffreys": "#E69F00",
    "pearson_chi2": "#8C564B",
    "neyman_chi2": "#9A9A00",
    "gjs": "#44AA99",
    "skew_kl": "#332288",
    "skew_reverse_kl": "#882255",
    "log_d": "#7F3C8D",
}
OTHER = "#777777"
EXPERT = "#000000"


def colour(divergence: str) -> str:
    """Of a divergence by the name that `parse` takes; of several, joined by commas, the first's."""
    return COLOURS.get(divergence.partition(",")[0].partition(":")[0], OTHER)


def method_colour(method: MethodResult) -> str:
    """Of a method: its divergence's, or its own where it maximises a return."""
    return look(method)["color"]


class Line(TypedDict):
    """How a method is drawn, as matplotlib's `plot` takes it."""

    color: str
    marker: str
    linestyle: LineStyleType


def look(method: MethodResult) -> Line:
    """Colour, marker and line of a method that has been run."""
    return look_of(method.look, method.minimises, of_return=method.level == "return")


def look_of(look: Look, minimises: str, of_return: bool = False) -> Line:
    """The same from a method's own look: its divergence has the colour, but where it maximises a
    return the method has."""
    return Line(
        color=(look.colour or OTHER) if of_return else colour(minimises),
        marker=look.marker,
        linestyle=cast(LineStyleType, look.line),
    )


def use() -> None:
    """Readable at the width of a column, and the same in vector and raster."""
    plt.rcParams.update(
        {
            "figure.dpi": 110,
            "savefig.dpi": 220,
            "savefig.bbox": "tight",
            "font.size": 9,
            "axes.titlesize": 10,
            "axes.labelsize": 9,
            "legend.fontsize": 8,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "grid.linewidth": 0.6,
            "lines.linewidth": 1.6,
            "lines.markersize": 6,
            "svg.fonttype": "none",
            "pdf.fonttype": 42,
            "font.family": "DejaVu Sans",
            "legend.frameon": False,
        }
    )


def save(figure: Figure, folder: Path, name: str, rows: Rows) -> str:
    """Write NAME.pdf, .png and .csv; return the picture as SVG for the report."""
    figure.canvas.draw()
    figure.set_layout_engine("none")  # laid out once: what follows only draws
    for suffix in ("pdf", "png"):
        with whole.draft(folder / f"{name}.{suffix}") as place:
            figure.savefig(place)
    vector = io.StringIO()
    figure.savefig(vector, format="svg")
    plt.close(figure)
    whole.write_text(folder / f"{name}.csv", _comma_separated(rows))
    text = vector.getvalue()
    return text[text.index("<svg") :]


def _comma_separated(rows: Rows) -> str:
    names = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO(newline="")
    lines = [names, *([row.get(name, "") for name in names] for row in rows)]
    csv.writer(text).writerows(map(escapes.csv_cell, line) for line in lines)
    return text.getvalue()


def legend(figure: Figure, methods: dict[str, MethodResult], stars: Sequence[str] = ()) -> None:
    """One entry a method, and one a star, under the whole figure."""
    handles = [
        plt.Line2D([], [], label=escapes.label(name), markersize=5, **look(m))
        for name, m in methods.items()
    ]
    handles += [
        plt.Line2D(
            [],
            [],
            label=escapes.label(f"best {name}"),
            color=colour(name),
            marker="*",
            markersize=9,
            markerfacecolor="none",
            linestyle="",
        )
        for name in stars
    ]
    columns = 5 if stars else min(7, len(handles))
    figure.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        ncols=columns,
        columnspacing=1.2,
        handlelength=2.8,
    )


class _Plain(ticker.LogFormatter):
    """0.4 rather than 4e-01, at those ticks that have room for a number."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def plain_ticks(side: Axis) -> None:
    """Numbers on a logarithmic axis as people write them."""
    side.set_major_formatter(ticker.FormatStrFormatter("%g"))
    side.set_tick_params(which="minor", pad=5)  # in line with the numbers at longer ticks
    side.set_minor_formatter(_Plain(labelOnlyBase=False, minor_thresholds=(1.5, 0.5)))
