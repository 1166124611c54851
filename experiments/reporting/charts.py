"""Pictures for a browser: Vega-Lite specifications as plain data, drawn by the library in the page.

A panel is one chart with its numbers. Its rows say in `method` whose they are, and the page hides
the methods that its reader switches off. Colours are names of CSS variables, so that light, dark
and print are a matter of the page's style."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib import colors

from experiments.reporting import style
from experiments.reporting.schema import Json

DIGITS = 5  # significant, of numbers in the page; files have all of them
PAPER, NIGHT = "#FFFFFF", "#161B22"  # what is drawn upon
CONTRAST = 3.2  # of marks and lines against it; WCAG asks for 3
DASHES = {"-": [1, 0], "--": [6, 3], "-.": [7, 3, 1.5, 3], ":": [1.5, 2.5]}
PADDING = 14  # pixels that an axis goes on past its numbers
INK, SOFT, LINE = "var(--ink)", "var(--soft)", "var(--line)"


@dataclasses.dataclass(frozen=True)
class Panel:
    """One chart: a title, a specification without data, and the data by column. `learning` panels
    can change their axes; `floor` is what is shown of smaller values where they are logarithmic."""

    title: str
    spec: Json
    columns: dict[str, list[Any]]
    learning: bool = False


class Key(NamedTuple):
    """An entry of a chart's legend beside the methods: a mark or a line, and what it is."""

    label: str
    marker: str = ""
    line: str = ""
    colour: str = SOFT
    hollow: bool = False


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A picture in both forms. `file` names it in `figures/` where it is a file as well."""

    file: str
    svg: str = ""
    panels: list[Panel] = dataclasses.field(default_factory=list)
    keys: list[Key] = dataclasses.field(default_factory=list)
    stacked: bool = False  # panels under each other, of one x


# --- colours --------------------------------------------------------------------------------------


def paint(colour: str) -> str:
    """The variable that a colour has in the page."""
    return f"var(--c-{colors.to_hex(colour)[1:].upper()})"


def painted(page: str) -> dict[str, tuple[str, str]]:
    """Name of each variable that a page uses -> its colour on white and on dark."""
    names = sorted(set(re.findall(r"--c-([0-9A-F]{6})", page)))
    return {f"--c-{n}": (seen_on(f"#{n}", PAPER), seen_on(f"#{n}", NIGHT)) for n in names}


def seen_on(colour: str, ground: str) -> str:
    """The colour, lightened or darkened until it can be told from the ground."""
    end, own = (0.0 if _luminance(ground) > 0.5 else 1.0), colors.to_rgb(colour)
    mixed = (style.mixed(own, end, step / 20) for step in range(21))
    return next(hue for hue in mixed if contrast(hue, ground) >= CONTRAST)


def contrast(a: str, b: str) -> float:
    """Ratio of luminances, from 1 to 21, as WCAG 2 has it."""
    high, low = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    linear = [
        x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in colors.to_rgb(colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


# --- marks ----------------------------------------------------------------------------------------


def _polygon(corners: int, turn: float, inner: float = 1.0) -> str:
    """A regular polygon, or a star whose inner corners are so far out, turned by a part of a
    circle."""
    count = corners if inner == 1 else 2 * corners
    points = []
    for i in range(count):
        angle, radius = 2 * math.pi * (i / count + turn), inner if inner != 1 and i % 2 else 1.0
        points.append(f"{radius * math.sin(angle):.3f},{-radius * math.cos(angle):.3f}")
    return f"M{'L'.join(points)}Z"


def _plus(turned: bool) -> str:
    """A plus sign with thick arms."""
    arm, end = 0.34, 0.95
    corners = [(arm, end), (arm, arm), (end, arm), (end, -arm), (arm, -arm), (arm, -end)]
    corners += [(-x, -y) for x, y in corners]
    if turned:
        corners = [((x - y) * math.sqrt(0.5), (x + y) * math.sqrt(0.5)) for x, y in corners]
    return f"M{'L'.join(f'{x:.3f},{y:.3f}' for x, y in corners)}Z"


MARKS = {  # of matplotlib -> a path between -1 and 1, as Vega and SVG take it
    "o": "M0.85,0A0.85,0.85,0,1,1,-0.85,0A0.85,0.85,0,1,1,0.85,0Z",
    ".": "M0.4,0A0.4,0.4,0,1,1,-0.4,0A0.4,0.4,0,1,1,0.4,0Z",
    "s": "M-0.8,-0.8L0.8,-0.8L0.8,0.8L-0.8,0.8Z",
    "D": "M0,-1L1,0L0,1L-1,0Z",
    "^": "M0,-0.9L0.95,0.8L-0.95,0.8Z",
    "v": "M0,0.9L0.95,-0.8L-0.95,-0.8Z",
    "<": "M-0.9,0L0.8,0.95L0.8,-0.95Z",
    ">": "M0.9,0L-0.8,0.95L-0.8,-0.95Z",
    "P": _plus(turned=False),
    "X": _plus(turned=True),
    "p": _polygon(5, 0.0),
    "h": _polygon(6, 0.0),
    "H": _polygon(6, 1 / 12),
    "8": _polygon(8, 1 / 16),
    "d": "M0,-1L0.6,0L0,1L-0.6,0Z",
    "*": _polygon(5, 0.0, inner=0.42),
}


def mark(marker: str) -> str:
    """The path of a mark; a circle for one that has none."""
    return MARKS.get(marker, MARKS["o"])


class Looks(NamedTuple):
    """Scales that give each method its colour, mark and line."""

    colour: Json
    shape: Json
    dash: Json


def looks(lines: Mapping[str, style.Line]) -> Looks:
    """Of the methods of a run; their legend is the page's."""
    names = list(lines)
    scale = lambda values: {
        "field": "method",
        "type": "nominal",
        "legend": None,
        "scale": {"domain": names, "range": values},
    }
    return Looks(
        scale([paint(line["color"]) for line in lines.values()]),
        scale([mark(line["marker"]) for line in lines.values()]),
        scale([DASHES.get(str(line["linestyle"]), DASHES["-"]) for line in lines.values()]),
    )


# --- specifications -------------------------------------------------------------------------------


def view(
    description: str, layers: Sequence[Json], transform: Sequence[Json] = (), height: int = 260
) -> Json:
    """A chart as wide as its place, of the rows whose method is shown."""
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "description": description,
        "width": "container",
        "height": height,
        "autosize": {"type": "fit", "contains": "padding"},
        "params": [{"name": "hidden", "value": []}],
        "transform": [{"filter": "indexof(hidden, datum.method) < 0"}, *transform],
        "layer": list(layers),
        "resolve": {"scale": {"shape": "independent", "stroke": "independent"}},
        "config": CONFIG,
    }


CONFIG: Json = {
    "background": "transparent",
    "font": "system-ui, 'DejaVu Sans', sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": SOFT,
        "titleColor": INK,
        "gridColor": LINE,
        "domainColor": SOFT,
        "tickColor": SOFT,
        "labelFontSize": 11,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelOverlap": True,
        "tickCount": 5,
    },
    "text": {"fill": SOFT, "fontSize": 11},
}


def axis(
    field: str, title: str, log: bool = False, domain: Sequence[float] | None = None, **more: Any
) -> Json:
    """One axis of numbers."""
    scale: Json = {"type": "log"} if log else {"type": "linear", "zero": False}
    scale |= {"nice": False} if domain is not None else {"nice": False, "padding": PADDING}
    if domain is not None:
        scale["domain"] = [shortened(x) for x in domain]
    return {"field": field, "type": "quantitative", "title": title, "scale": scale, **more}


def tip(field: str, title: str) -> Json:
    """A line of what is shown under the pointer."""
    return {"field": field, "title": title, "type": "quantitative", "format": ".4~g"}


def words(field: str, title: str) -> Json:
    """The same of a text."""
    return {"field": field, "title": title, "type": "nominal"}


def arrows(x: Json, y: Json, looks: Looks, shown: Sequence[Json]) -> list[Json]:
    """Layers for what lies beyond an edge: rows whose `beyond` says which, with `said` beside in
    the row `row`."""
    sides = ["up", "down", "left", "right"]
    scale = {"domain": sides, "range": [mark(marker) for marker in "^v<>"]}
    place = {"x": x, "y": y, "color": looks.colour}
    shape = {"field": "beyond", "type": "nominal", "legend": None, "scale": scale}
    only = lambda *names: [{"filter": {"field": "beyond", "oneOf": list(names)}}]
    text = lambda names, **mark: {
        "transform": only(*names),
        "mark": {"type": "text", "fontSize": 10.5, "fill": SOFT, **mark},
        "encoding": {"x": x, "y": y, "text": {"field": "said", "type": "nominal"}},
    }
    return [
        {
            "transform": only(*sides),
            "mark": {"type": "point", "filled": True, "size": 90, "opacity": 1},
            "encoding": {**place, "shape": shape, "tooltip": list(shown)},
        },
        text(["right"], align="right", dx=-10, dy=_row(2), baseline="middle"),
        text(["left"], align="left", dx=10, dy=_row(2), baseline="middle"),
        text(["up"], dy=_row(13), align="center"),
        text(["down"], dy=_row(-11, up=True), align="center"),
    ]


def _row(first: int, up: bool = False) -> Json:
    """How far down a label is drawn: in the row that its datum names."""
    return {"expr": f"{first} {'-' if up else '+'} 12 * (datum.row || 0)"}


def plain(label: str) -> str:
    """A label for matplotlib as text."""
    return label.replace("\\$", "$").strip()


def columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows by column, their numbers as short as the eye needs them; what a row lacks, and what is
    not finite, is null."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [shortened(row.get(name)) for row in rows] for name in names}


def shortened(value: Any) -> Any:
    """A number with few digits; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    if not math.isfinite(value):
        return None
    short = float(f"{value:.{DIGITS}g}")
    return int(short) if short == int(short) and abs(short) < 1e15 else short
