"""How pictures look: one colour per divergence throughout the project, one marker per source of the
log-ratio."""

from __future__ import annotations

from typing import Any

import matplotlib

from fdiv.objectives import METHODS
from fdiv.types import Look

matplotlib.use("Agg")
import matplotlib.pyplot as plt

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
    """Of a divergence by the name that `parse` takes."""
    return COLOURS.get(divergence.partition(":")[0], OTHER)


def method_colour(method: dict[str, Any]) -> str:
    """Of a method in results.json: its divergence's, or its own where it maximises a return."""
    own = _look(method).colour or OTHER
    return own if method["level"] == "return" else colour(method["minimises"])


def look(method: dict[str, Any]) -> dict[str, Any]:
    """Colour, marker and line of a method in results.json."""
    own = _look(method)
    return {"color": method_colour(method), "marker": own.marker, "linestyle": own.line}


def _look(method: dict[str, Any]) -> Look:
    """As the run wrote it; results of an older version have the group alone."""
    if "look" in method:
        return Look(**method["look"])
    named = (own.look for own in METHODS.values() if own.kind == method["group"])
    return next(named, Look())


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
