"""The alpha-beta divergences, and rewards of their kind: `python -m experiments.figures alpha_beta
[--pairs N]`.

AB(a, b) is a function of p and q, not of p/q, unless a + b = 1. Three things about it. One Gaussian
on a teacher of two modes, over a grid of (a, b): b small covers and b large seeks, whatever a is.
The reward p^a - q^a of one sampled token (PowerOPD) has exactly the gradient of a AB(a, 1) in
expectation; its noise, exactly, beside that of the log-ratio and of what is done to tame it (a
clip, tanh, a z-score): the z-score of a batch turns the sign of many rewards. And ABKD's AB(.2, .7)
is near alpha:.2."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from experiments.figures.common.base import Check, Figure, Picture, Result, Row, near
from experiments.reporting import style
from fdiv import divergences
from fdiv.checks import at_least, between, seeding

POWERS = (0.1, 0.5, 1.0, 5.0, 10.0, 50.0, 100.0, 500.0)  # those of PowerOPD
CHECKED = (0.1, 0.5, 1.0, 5.0)
GRID = (0.1, 0.2, 0.5, 0.7, 1.0, 2.0)
VOCAB = 20  # of random pairs
ANSWERS = 10
TAMED: dict[str, style.LineStyleType] = {  # -> its line
    "log-ratio": "-",
    "clip": "--",
    "tanh": "-.",
    "z-score": ":",
}
ABKD = (0.2, 0.7)
# PowerOPD, Qwen3-0.6B-Base <- 4B, table 4: mean of 7 sets, Avg@8
AVERAGE = {
    "log-ratio": 19.13,
    "clip": 22.49,
    "tanh": 21.06,
    "z-score": 18.25,
    "power 0.1": 24.16,
    "power 1": 24.37,
    "power 5": 25.48,
    "power 500": 25.50,
}


@dataclasses.dataclass(frozen=True)
class Flags:
    """Random pairs of laws."""

    pairs: int = 2000
    """Random pairs."""
    distance: float = 1.0
    """Standard deviation of the policy's logits about the teacher's."""
    peak: float = 3.0
    """Standard deviation of the teacher's logits: how sure it is."""
    seed: int = 0
    """Which pairs."""


def make(flags: Flags) -> Result:
    """Fits over the grid, rewards, ABKD."""
    at_least("pairs", flags.pairs, 1)
    between("distance", flags.distance, 0.01, 5)
    between("peak", flags.peak, 0.01, 20)
    seeding("seed", flags.seed)
    fits = {(a, b): fit(a, b) for a in GRID for b in GRID}
    log_p, log_q = random_pairs(flags)
    rewards = {name: judge(log_p, log_q, r) for name, r in paid(log_p, log_q).items()}
    with jax.enable_x64(True):
        off = {a: _off(log_p[:50], log_q[:50], a) for a in CHECKED}
        abkd, alpha = (slope(name, log_p, log_q) for name in ("ab:0.2,0.7", "alpha:0.2"))
        near_alpha = float(cosine(abkd, alpha).mean())
        one = {a: _same_as_alpha(log_p[:50], log_q[:50], a) for a in (0.2, 0.5, 0.7)}
    rows: list[Row] = [
        {"reward": name, **row, "published Avg@8": AVERAGE.get(name)}
        for name, row in rewards.items()
    ]
    values = {
        "fits": {f"{a:g},{b:g}": row for (a, b), row in fits.items()},
        "rewards": rewards,
        "cosine of ab:0.2,0.7 with alpha:0.2": near_alpha,
    }
    curve = [{"a": a, "b": b, **row} for (a, b), row in fits.items()]
    checks = _checks(fits, rewards, off, one)
    return Result(values, checks, rows, _picture(fits, rewards), [*rows, *curve])


# --- one Gaussian for two modes -------------------------------------------------------------------


def divergence(a: float, b: float, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """AB(a, b) over the last axis, as the paper writes it."""
    c = a + b
    return -(p**a * q**b - a / c * p**c - b / c * q**c).sum(-1) / (a * b)


def laws(mean: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Discretised Gaussians on the answers. [..., answers]"""
    z = -0.5 * ((np.arange(ANSWERS) - mean[..., None]) / width[..., None]) ** 2
    z = np.exp(z - z.max(-1, keepdims=True))
    return z / z.sum(-1, keepdims=True)


def modes() -> np.ndarray:
    """The teacher: .6 N(2, .7^2) + .4 N(7, .7^2) on ten answers."""
    a, b = laws(np.array([2.0, 7.0]), np.array([0.7, 0.7]))
    return 0.6 * a + 0.4 * b


def fit(a: float, b: float) -> dict[str, float]:
    """The nearest Gaussian, by two grids of means and widths, one about the best of the other."""
    means, widths, p = np.linspace(0, 9, 181), np.geomspace(0.4, 12, 80), modes()
    for _ in range(2):
        mean, width = np.meshgrid(means, widths, indexing="ij")
        q = laws(mean, width)
        off = divergence(a, b, p, q)
        i, j = np.unravel_index(np.argmin(off), off.shape)
        best = q[i, j]
        means = means[i] + np.linspace(-0.06, 0.06, 61)
        widths = widths[j] * np.exp(np.linspace(-0.05, 0.05, 41))
    y = np.arange(ANSWERS)
    at = float(best @ y)
    spread = float(np.sqrt(best @ (y - at) ** 2))
    return {"mean": at, "std": spread, "second mode": float(best[5:].sum())}


# --- rewards of a sampled token -------------------------------------------------------------------


def random_pairs(flags: Flags) -> tuple[np.ndarray, np.ndarray]:
    """log p and log q of teachers and of policies some way off. [pairs, V] each"""
    draw = np.random.default_rng(flags.seed)
    z, step = draw.standard_normal((2, flags.pairs, VOCAB))
    normalise = lambda x: x - np.log(np.exp(x).sum(1, keepdims=True))
    return normalise(flags.peak * z), normalise(flags.peak * z + flags.distance * step)


def paid(log_p: np.ndarray, log_q: np.ndarray) -> dict[str, np.ndarray]:
    """What each scheme pays for each token. [pairs, V] each; the z-score is that of all tokens,
    as over a batch."""
    s, q = log_p - log_q, np.exp(log_q)
    middle = (q * s).sum() / len(s)
    size = np.sqrt((q * (s - middle) ** 2).sum() / len(s))
    found = {
        "log-ratio": s,
        "clip": np.clip(s, -1, 1),
        "tanh": np.tanh(s),
        "z-score": (s - middle) / size,
    }
    for a in POWERS:
        found[f"power {a:g}"] = np.exp(a * log_p) - np.exp(a * log_q)
    return found


def climb(log_q: np.ndarray, r: np.ndarray) -> np.ndarray:
    """The expected policy gradient in the logits."""
    q = np.exp(log_q)
    return q * (r - (q * r).sum(-1, keepdims=True))


def judge(log_p: np.ndarray, log_q: np.ndarray, r: np.ndarray) -> dict[str, float]:
    """Of a reward: cosine with -grad of reverse KL, noise, and the share of sampled tokens whose
    reward has another sign than the log-ratio.

    Noise is the variance of one token's gradient over the squared length of its mean, over all
    pairs: E|g|^2 = sum over v of q_v r_v^2 |e_v - q|^2, and |e_v - q|^2 = 1 - 2 q_v + |q|^2."""
    q, up = np.exp(log_q), climb(log_q, r)
    square = (q * r**2 * (1 - 2 * q + (q**2).sum(1, keepdims=True))).sum(1)
    mean = (up**2).sum(1)
    turned = np.sign(r) * np.sign(log_p - log_q) < 0
    return {
        "cosine with reverse_kl": float(cosine(up, climb(log_q, log_p - log_q)).mean()),
        "noise": float((square - mean).mean() / mean.mean()),
        "signs turned": float((q * turned).sum() / len(q)),
    }


def cosine(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Row by row, each scaled first: high powers of probabilities are tiny."""
    x, y = (z / np.maximum(np.abs(z).max(-1, keepdims=True), 1e-300) for z in (x, y))
    size = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    return (x * y).sum(-1) / np.maximum(size, 1e-300)


def slope(name: str, log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """Gradient in the policy's logits by automatic differentiation. [pairs, V]"""
    d = divergences.over_vocabulary(name)
    loss = lambda z: d.perspective(jnp.asarray(log_p), jax.nn.log_softmax(z)).sum()
    return np.asarray(jax.jit(jax.grad(loss))(jnp.asarray(log_q)))


def _off(log_p: np.ndarray, log_q: np.ndarray, a: float) -> float:
    """How far the expected gradient of p^a - q^a is from -a grad AB(a, 1)."""
    up = climb(log_q, np.exp(a * log_p) - np.exp(a * log_q))
    return float(np.abs(up + a * slope(f"ab:{a:g},1", log_p, log_q)).max())


def _same_as_alpha(log_p: np.ndarray, log_q: np.ndarray, a: float) -> float:
    """The largest difference of AB(a, 1 - a), as the paper writes it, and alpha:a."""
    own = divergence(a, 1 - a, np.exp(log_p), np.exp(log_q))
    laws = jnp.asarray(log_p), jnp.asarray(log_q)
    other = np.asarray(divergences.parse(f"alpha:{a:g}").perspective(*laws).sum(1))
    return float(np.abs(own - other).max())


def _checks(fits: Mapping, rewards: Mapping, off: Mapping, one: Mapping) -> list[Check]:
    checks = [
        near(f"p^{a:g} - q^{a:g} descends a times ab:{a:g},1", x, 0, 1e-12) for a, x in off.items()
    ]
    checks += [near(f"ab:{a:g},{1 - a:g} is alpha:{a:g}", x, 0, 1e-12) for a, x in one.items()]
    for b, word in ((min(GRID), "covers"), (max(GRID), "seeks")):
        mass = [fits[a, b]["second mode"] for a in GRID]
        holds = min(mass) > 0.3 if word == "covers" else max(mass) < 0.05
        detail = f"{min(mass):.3f} to {max(mass):.3f} on the second mode"
        checks.append(Check(f"b = {b:g} {word}, whatever a", holds, detail))
    turned = rewards["z-score"]["signs turned"]
    none = all(row["signs turned"] == 0 for name, row in rewards.items() if name != "z-score")
    detail = f"{turned:.3f} of the tokens"
    checks.append(Check("the z-score alone turns signs", turned > 0.01 and none, detail))
    return checks


def _picture(fits: Mapping, rewards: Mapping) -> Picture:
    """Where the fits lie; noise and direction of each reward; turned signs."""
    style.use()
    shape = {"figsize": (7.6, 3.0), "width_ratios": (1.15, 1.1, 1), "layout": "constrained"}
    figure, (grid, noise, table) = plt.subplots(1, 3, **shape)
    mass = np.array([[fits[a, b]["second mode"] for a in GRID] for b in GRID])
    image = grid.imshow(mass, cmap="viridis", aspect="auto", origin="lower", vmin=0, vmax=0.45)
    grid.set_xticks(range(len(GRID)), [f"{a:g}" for a in GRID])
    grid.set_yticks(range(len(GRID)), [f"{b:g}" for b in GRID])
    for (i, j), value in np.ndenumerate(mass):
        colour = "white" if value < 0.25 else "black"
        grid.annotate(
            f"{value:.2f}"[1:], (j, i), ha="center", va="center", fontsize=7, color=colour
        )
    x, y = (np.interp(value, GRID, range(len(GRID))) for value in ABKD)
    framed: dict[str, Any] = {"marker": "s", "markerfacecolor": "none", "markersize": 8}
    grid.plot(x, y, color="white", markeredgewidth=1.4, **framed | {"markersize": 15})
    grid.grid(visible=False)
    grid.set(xlabel="a", ylabel="b", title="mass on the smaller mode (.40)")
    figure.colorbar(image, ax=grid, fraction=0.05, pad=0.02)
    powers = [rewards[f"power {a:g}"] for a in POWERS]
    colour, other = style.colour("alpha"), style.colour("reverse_kl")
    noise.plot(POWERS, [row["noise"] for row in powers], "-o", markersize=4, color=colour)
    for name, line_style in TAMED.items():
        noise.axhline(rewards[name]["noise"], color=other, linestyle=line_style, linewidth=1.2)
    noise.set(xscale="log", yscale="log", xlabel="power a", ylabel="noise of one token's gradient")
    names = [*TAMED, *(f"power {a:g}" for a in POWERS)]
    place = np.arange(len(names))
    colours = [other if name in TAMED else colour for name in names]
    table.barh(
        place, [rewards[name]["cosine with reverse_kl"] for name in names], 0.6, color=colours
    )
    table.set_yticks(place, names, fontsize=7.5)
    table.invert_yaxis()
    table.grid(axis="y", visible=False)
    table.set_axisbelow(True)
    table.set(xlabel=r"cosine with $-\nabla$ reverse KL", xlim=(0, 1.02))
    turned = rewards["z-score"]["signs turned"]
    note = {"fontsize": 7, "color": "white", "va": "center"}
    table.annotate(f"turns {turned:.0%} of the signs", (0.04, list(TAMED).index("z-score")), **note)
    handles = [plt.Line2D([], [], color=colour, marker="o", markersize=4, label=r"$p^a - q^a$")]
    handles += [
        plt.Line2D([], [], color=other, linestyle=line_style, label=name)
        for name, line_style in TAMED.items()
    ]
    handles += [plt.Line2D([], [], color=style.OTHER, linestyle="", label="left: ABKD", **framed)]
    figure.legend(handles=handles, loc="outside lower center", ncols=7, columnspacing=1.0)
    return figure


FIGURE = Figure(
    flags=Flags,
    make=make,
    title="Alpha-beta divergences and the rewards of their kind",
    claim=(
        "The reward p^a - q^a descends an alpha-beta divergence exactly; what tames the log-ratio "
        "by a z-score turns the sign of many rewards."
    ),
    source=(
        "Wang et al. 2025 (arXiv 2505.04560), ABKD; PowerOPD (arXiv 2606.17199); Cichocki, Cruces "
        "& Amari 2011"
    ),
)
