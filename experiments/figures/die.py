"""A fair die as the truth, a loaded one as the model: `python -m experiments.figures die [--faces N
--loaded-probability P]`.

With six faces and P(1) = 1/2 the forward KL is .349978 bits, the reverse .423998, js .093285, total
variation 1/3, and the cross-entropy of 2.934940 bits is the entropy of 2.584963 plus the forward
KL."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from experiments.figures.common.base import Check, Figure, Picture, Result, near
from experiments.reporting import style
from fdiv import divergences
from fdiv.checks import at_least, between

DIVERGENCES = {"forward_kl": "forward KL", "reverse_kl": "reverse KL", "js": "Jensen-Shannon"}
MODEL = "#B9BEC6"
MOST_SHOWN = 12  # faces; the others are all alike
BIT = math.log(2.0)  # nats in a bit


@dataclasses.dataclass(frozen=True)
class Flags:
    """A fair die against a die with one loaded face."""

    faces: int = 6
    """Number of faces (at least 2)."""
    loaded_probability: float = 0.5
    """Probability of the loaded face in the model; the others share the rest."""


def make(flags: Flags) -> Result:
    """Every measure in bits, by the family's own perspectives."""
    at_least("faces", flags.faces, 2)
    between("loaded_probability", flags.loaded_probability, 0, 1)
    n, loaded = flags.faces, flags.loaded_probability
    fair, model = np.full(n, 1 / n), np.array([loaded, *[(1 - loaded) / (n - 1)] * (n - 1)])
    nats = {name: _nats(name, fair, model) for name in (*DIVERGENCES, "tv")}
    entropy = float(-np.sum(fair * np.log(fair)))
    values = {
        "forward_bits": nats["forward_kl"] / BIT,
        "reverse_bits": nats["reverse_kl"] / BIT,
        "js_bits": nats["js"] / BIT,
        "tv": nats["tv"],
        "entropy_bits": entropy / BIT,
        "cross_entropy_bits": float(-np.sum(fair * np.log(model))) / BIT,
    }
    rows = [{"measure": name, "value": value} for name, value in values.items()]
    curve = [{"face": i + 1, "fair": p, "model": q} for i, (p, q) in enumerate(zip(fair, model))]
    picture = _picture(fair, model, values)
    return Result(values, _checks(flags, values, fair), rows, picture, [*curve, *rows])


def _nats(name: str, p: np.ndarray, q: np.ndarray) -> float:
    with jax.enable_x64(True):
        return float(divergences.parse(name).perspective(jnp.log(p), jnp.log(q)).sum())


def _checks(flags: Flags, values: dict[str, float], fair: np.ndarray) -> list[Check]:
    """By logarithms to base 2 of the three numbers 1/n, P and (1 - P) / (n - 1)."""
    n, a = flags.faces, flags.loaded_probability
    b, rest, log2 = (1 - a) / (n - 1), n - 1, math.log2
    half_a, half_b = (a + 1 / n) / 2, (b + 1 / n) / 2
    own = -half_a * log2(half_a) - rest * half_b * log2(half_b)  # entropy of the mixture
    closed = {
        "forward_bits": -log2(n) - (log2(a) + rest * log2(b)) / n,
        "reverse_bits": a * log2(a * n) + rest * b * log2(b * n),
        "js_bits": own - (log2(n) - a * log2(a) - rest * b * log2(b)) / 2,
        "tv": abs(a - 1 / n),
        "entropy_bits": log2(n),
        "cross_entropy_bits": -(log2(a) + rest * log2(b)) / n,
    }
    checks = [near(f"{k} in closed form", values[k], x, 1e-10) for k, x in closed.items()]
    gap = values["cross_entropy_bits"] - values["entropy_bits"]
    name = "cross-entropy less entropy is the forward KL"
    checks.append(near(name, gap, values["forward_bits"], 1e-10))
    return checks + [
        near(f"{name} of a fair die to itself", _nats(name, fair, fair), 0.0, 1e-15)
        for name in (*DIVERGENCES, "tv")
    ]


def _picture(fair: np.ndarray, model: np.ndarray, values: dict[str, float]) -> Picture:
    style.use()
    figure, (faces, bits) = plt.subplots(
        1, 2, figsize=(6.8, 2.5), width_ratios=(1, 1.25), layout="constrained"
    )
    count = min(len(fair), MOST_SHOWN)
    face = np.arange(1, count + 1)
    faces.bar(face - 0.2, fair[:count], 0.38, color=style.EXPERT, label="fair (truth)")
    faces.bar(face + 0.2, model[:count], 0.38, color=MODEL, label="loaded (model)")
    label = "face" if count == len(fair) else f"face (the first {count} of {len(fair)})"
    highest = max(model.max(), fair.max())
    faces.set(xlabel=label, ylabel="probability", xticks=face, ylim=(0, 1.25 * highest))
    faces.grid(axis="x", visible=False)
    faces.legend(loc="upper right", borderaxespad=0.1)

    names = ["cross-entropy", *DIVERGENCES.values()]
    widths = [values[f"{key}_bits"] for key in ("cross_entropy", "forward", "reverse", "js")]
    entropy, forward = values["entropy_bits"], values["forward_bits"]
    bits.barh(names[0], entropy, 0.62, color=MODEL)
    bits.barh(names[0], forward, 0.62, left=entropy, color=style.colour("forward_kl"))
    bits.barh(names[1:], widths[1:], 0.62, color=[style.colour(name) for name in DIVERGENCES])
    bits.annotate("entropy", (entropy / 2, 0), ha="center", va="center", fontsize=8)
    for i, width in enumerate(widths):
        beside = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "fontsize": 8}
        bits.annotate(f"{width:.4f}", (width, i), **beside)
    bits.set(xlabel="bits", xlim=(0, 1.2 * max(widths)))
    bits.invert_yaxis()
    bits.grid(axis="y", visible=False)
    for axis in (faces, bits):
        axis.set_axisbelow(True)
    return figure


FIGURE = Figure(
    flags=Flags,
    make=make,
    title="A fair die against a loaded one",
    claim=(
        "A code made for the loaded die costs the forward KL over a fair die's entropy; "
        "the other measures differ from it."
    ),
    source=(
        "Cover & Thomas 2006, Elements of Information Theory, chapter 2 (relative "
        "entropy); Lin 1991 (Jensen-Shannon)"
    ),
)
