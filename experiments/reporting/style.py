"""How pictures look: one colour per divergence throughout the project, one marker per source of the
log-ratio."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib import colors, ticker
from matplotlib.artist import Artist
from matplotlib.axes import Axes
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
SPARE = (  # for what has no colour of its own, so that two such methods are not both grey
    *("#AA3377", "#228833", "#4477AA", "#EE6677", "#B5892B", "#00A0A0", "#9467BD", "#5B5B00"),
    *("#C2185B", "#3E7D1E", "#6D4C41", "#1A76B8"),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
LINES = ("-", "--", "-.", ":")
PALEST = 0.55  # how much white the last of several methods that look alike has


def colour(divergence: str) -> str:
    """Of a divergence by the name that `parse` takes; of several, joined by commas, the first's."""
    return COLOURS.get(divergence.partition(",")[0].partition(":")[0], OTHER)


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


def looks(methods: Mapping[str, MethodResult]) -> dict[str, Line]:
    """How the methods of one picture are drawn, no two alike: what has no colour of its own gets
    one that the others leave, and of several that would look the same each is paler than the one
    before, with another mark and line."""
    own = {name: look(method) for name, method in methods.items()}
    spare = _spare_colours([line["color"] for line in own.values()])
    given: dict[str, str] = {}
    for name, method in methods.items():
        if own[name]["color"] == OTHER:
            key = name if method.level == "return" else method.minimises
            given.setdefault(key, next(spare))
            own[name]["color"] = given[key]
    alike: dict[tuple[object, ...], list[str]] = {}
    for name, line in own.items():
        alike.setdefault(tuple(line.values()), []).append(name)
    for names in alike.values():
        for i, name in enumerate(names[1:], 1):
            own[name] = _paler(own[name], i, len(names))
    return own


def _paler(line: Line, i: int, count: int) -> Line:
    """The i-th of so many that would look alike."""
    pale = mixed(colors.to_rgb(line["color"]), 1.0, PALEST * i / (count - 1))
    marks = [line["marker"], *(m for m in MARKERS if m != line["marker"])]
    lines = [line["linestyle"], *(x for x in LINES if x != line["linestyle"])]
    return Line(
        color=pale.upper(),
        marker=marks[i % len(marks)],
        linestyle=cast(LineStyleType, lines[i % len(lines)]),
    )


def mixed(rgb: tuple[float, float, float], end: float, share: float) -> str:
    """A colour with a share of black (`end` 0) or white (1)."""
    red, green, blue = (x + (end - x) * share for x in rgb)
    return colors.to_hex((red, green, blue))


def star_colours(names: Sequence[str], methods: Mapping[str, MethodResult]) -> dict[str, str]:
    """Of the best policies of the class for some divergences: the divergence's, as its methods have
    it, no two the same."""
    own = looks(methods)
    known = {m.minimises: own[n]["color"] for n, m in methods.items() if m.level != "return"}
    chosen = {name: known.get(name.partition(", ")[0], colour(name)) for name in names}
    spare = _spare_colours([*chosen.values(), *(line["color"] for line in own.values())])
    seen: set[str] = set()
    for name, hue in chosen.items():
        if hue == OTHER or hue in seen:
            chosen[name] = next(spare)
        seen.add(chosen[name])
    return chosen


def _spare_colours(taken: Sequence[str]) -> itertools.cycle[str]:
    """Spare colours, the furthest from those that are taken first."""
    used = [colors.to_rgb(hue) for hue in taken if hue != OTHER]
    apart = lambda hue: min(
        (sum((a - b) ** 2 for a, b in zip(colors.to_rgb(hue), other)) for other in used),
        default=0.0,
    )
    return itertools.cycle(sorted(SPARE, key=apart, reverse=True))


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
    figure.draw_without_rendering()
    figure.set_layout_engine(None)  # laid out and measured once: what follows only draws
    margin = plt.rcParams["savefig.pad_inches"]
    box = figure.get_tightbbox().padded(margin)
    for suffix in ("pdf", "png"):
        with whole.draft(folder / f"{name}.{suffix}") as place:
            figure.savefig(place, bbox_inches=box)
    vector = io.StringIO()
    figure.savefig(vector, format="svg", bbox_inches=box)
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


def legend(
    figure: Figure,
    methods: Mapping[str, MethodResult],
    stars: Mapping[str, str] | None = None,
    others: Sequence[Artist] = (),
) -> None:
    """Under the whole figure an entry a method, one a star (name -> its colour), and one for each
    other kind of thing that is drawn."""
    handles: list[Artist] = [
        plt.Line2D([], [], label=escapes.label(name), markersize=5, **line)
        for name, line in looks(methods).items()
    ]
    handles += [
        key(f"best {name}", color=hue, marker="*", markersize=9, markerfacecolor="none")
        for name, hue in (stars or {}).items()
    ]
    handles += others
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = 5 if stars else min(7, len(handles), max(2, 112 // (longest + 6)))
    figure.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        ncols=columns,
        columnspacing=1.2,
        handlelength=2.8,
    )


def key(label: str, **drawn: Any) -> Artist:
    """An entry of a legend, drawn as `plot` draws it."""
    sample = plt.Line2D([], [], label=escapes.label(label), linestyle="")
    sample.set(**drawn)
    return sample


SEED = {"marker": ".", "markersize": 4, "alpha": 0.5, "color": OTHER}  # in a legend
BAND = {"linestyle": "-", "linewidth": 6, "alpha": 0.25, "color": OTHER}
WHISKER = {"marker": "|", "markersize": 9, "color": OTHER}


def arrow(
    axis: Axes, place: tuple[float, float], towards: str, colour: str, said: str, row: int = 0
) -> None:
    """An arrow at the edge of an axis for what lies beyond it, with its name and value, in a row of
    those that stand there."""
    marker = {"up": "^", "down": "v", "left": "<", "right": ">"}[towards]
    axis.plot(*place, color=colour, marker=marker, markersize=6, linestyle="", clip_on=False)
    inward = {"up": (0, -9), "down": (0, 6), "left": (7, 4), "right": (-7, 4)}[towards]
    down = -8 * row if towards != "down" else 8 * row
    axis.annotate(
        escapes.label(said),
        place,
        textcoords="offset points",
        xytext=(inward[0], inward[1] + down),
        ha={"left": "left", "right": "right"}.get(towards, "center"),
        va="top" if towards == "up" else "bottom",
        fontsize=6.5,
        color=colour,
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
