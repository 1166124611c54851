"""How pictures look: one colour per divergence throughout the project, one marker per source of the
log-ratio."""

from __future__ import annotations

from typing import Any

import matplotlib

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
SOURCES = {  # group -> (marker, line, what it says in a legend)
    "max_likelihood": ("s", "-", "likelihood"),
    "policy_gradient": ("o", "-", "known expert"),
    "adversarial": ("^", "--", "discriminator"),
    "distill": ("D", ":", "exact sum over tokens"),
    "reinforce": ("o", "-", "score"),
    "rloo": ("o", "-", "score"),
    "grpo": ("^", "--", "score, in groups"),
    "ppo": ("P", "-", "score, value function"),
    "dpo": ("s", "-", "preferences, implicit reward"),
    "ipo": ("v", "-.", "preferences, fixed margin"),
    "kto": ("D", ":", "labels one at a time"),
    "simpo": ("p", "--", "preferences, no reference"),
    "fdpg": ("h", "-", "score, its target's law"),
    "spin": ("<", "-.", "an older self"),
    "iq_learn": (">", "--", "value function"),
    "reward_model": ("d", "-.", "learned reward"),
}
# group -> colour, where all methods have one divergence and differ in how they follow it
RETURNS = {
    "reinforce": "#0072B2",
    "rloo": "#56B4E9",
    "grpo": "#E69F00",
    "ppo": "#D55E00",
    "dpo": "#4B0092",
    "ipo": "#8C564B",
    "kto": "#CC79A7",
    "simpo": "#9A9A00",
    "fdpg": "#332288",
    "reward_model": "#882255",
    "spin": "#44AA99",
    "iq_learn": "#7F3C8D",
}
# what sets a method apart in its group: another penalty than the common one, or how it is fixed ->
# marker
VARIANTS = {
    "k2-loss": "v",
    "k2-loss-string": "<",
    "k3-loss": "X",
    "k3-loss-string": ">",
    "exact-loss": "s",
    "exact-reward": "p",
    "k3-ratio": "h",
    "k3-ratio-string": "H",
    "k2-reward": "8",
    "k3-reward": "D",
    "std": "d",
    "noise": "D",
    "demos": "s",
    "GRPO": "^",
    "PPO": "P",
}
EXPERT = "#000000"


def colour(divergence: str) -> str:
    """Of a divergence by the name that `parse` takes."""
    return COLOURS.get(divergence.partition(":")[0], OTHER)


def method_colour(method: dict[str, Any]) -> str:
    """Of a method in results.json: its divergence's, or its own where it maximises a return."""
    return (
        RETURNS.get(method["group"], OTHER)
        if method["level"] == "return"
        else colour(method["minimises"])
    )


def look(method: dict[str, Any]) -> dict[str, Any]:
    """Colour, marker and line of a method in results.json; one run as published keeps its colour
    and gets a cross."""
    marker, line, _ = SOURCES.get(method["group"], ("v", "-.", ""))
    marker = VARIANTS.get(method.get("variant") or "", marker)
    return {
        "color": method_colour(method),
        "marker": "X" if method["published"] else marker,
        "linestyle": line,
    }


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
