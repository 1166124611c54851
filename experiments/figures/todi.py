"""What ToDi's loss is, and where it stands in the race of head and tail: `python -m
experiments.figures todi [--pairs N --steps T ...]`.

ToDi weighs the terms of both KLs token by token: sum over v of w p log(p/q) + (1-w) q log(q/p) with
w = sigmoid(s), s = log p - log q, held fixed. Its value is exactly Jeffreys', sum of (p - q) s. Its
gradient is exactly that of another f-divergence, the member `todi`, whose reward goes over from e^s
(forward KL's) where the policy has too little to s (reverse KL's) where it has too much. Both are
held against ToDi's own on random pairs, and in the fit of half a Gaussian of `head_tail` it runs
against forward KL, reverse KL, JS, a skew KL and AKL, at temperatures 1 and 2."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from jax import Array

from experiments.figures import head_tail
from experiments.figures.common.base import Check, Figure, Picture, Result, Row, distinct, near
from experiments.reporting import style
from fdiv import divergences, head, next_token
from fdiv.checks import at_least
from fdiv.types import UsageError

COLOUR = "#0B7A75"  # of todi, which has none elsewhere
DISTANCES = (0.03, 0.1, 0.3, 1.0, 2.0, 3.0)
MEMBERS = ("todi", "jeffreys", "forward_kl", "reverse_kl")
VOCAB = 20  # of the random pairs
BESIDE = {  # where a name stands beside its point
    "todi": ("right", (-6, 2)),
    "akl": ("center", (-2, 8)),
    "reverse_kl": ("right", (-2, -21)),
}
TEMPERATURES = (1.0, 2.0)
TEMPERED: dict[str, Any] = {"linestyle": "", "marker": "o", "color": style.OTHER}
MOST_STEPS = 5_000


@dataclasses.dataclass(frozen=True)
class Flags:
    """Random pairs of laws, and a race."""

    pairs: int = 200
    """Random pairs at each distance."""
    steps: tuple[int, ...] = (5, 10, 100)
    """Steps of the race after which the fits are compared."""
    seeds: int = 10
    """Starts of the race."""


def make(flags: Flags) -> Result:
    """The three gradients, then the race."""
    at_least("pairs", flags.pairs, 1)
    at_least("seeds", flags.seeds, 1)
    distinct("steps", flags.steps)
    for step in flags.steps:
        at_least("steps", step, 1)
        if step > MOST_STEPS:
            raise UsageError("steps", step, "is too many.", f"Give at most {MOST_STEPS}.")
    with jax.enable_x64(True):
        compared = compare(flags.pairs)
        ends = race(flags)
    values = {
        "pairs": dict(zip(map(str, DISTANCES), compared)),
        "race": {f"{name} at {t:g}": row for (name, t), row in ends.items()},
    }
    rows: list[Row] = [{"distance": distance, **row} for distance, row in zip(DISTANCES, compared)]
    race_rows = [
        {"loss": name, "temperature": t}
        | {f"{what} at {n}": row[what][str(n)] for what in ("head", "tail") for n in flags.steps}
        for (name, t), row in ends.items()
    ]
    picture = _picture(compared, ends, flags.steps)
    return Result(values, _checks(compared), rows + race_rows, picture)


# --- the loss, its member and Jeffreys ------------------------------------------------------------


def loss(log_p: Array, log_q: Array) -> Array:
    """ToDi's, over the last axis, its weights held fixed."""
    s = log_p - log_q
    w = jax.lax.stop_gradient(jax.nn.sigmoid(s))
    return jnp.sum(w * jnp.exp(log_p) * s - (1 - w) * jnp.exp(log_q) * s, axis=-1)


def compare(pairs: int) -> list[dict[str, float]]:
    """ToDi's loss against the member todi, Jeffreys and both KLs over random pairs, for each
    distance: the largest errors, and the mean cosines of gradients in logits."""
    p, step = np.random.default_rng(0).standard_normal((2, pairs, VOCAB))
    log_p = np.asarray(jax.nn.log_softmax(p))
    logits = np.stack([p + distance * step for distance in DISTANCES])

    def every(z: Array, lp: Array) -> dict[str, tuple[Array, Array]]:
        members = {name: divergences.parse(name) for name in MEMBERS}
        measured = {"own": loss} | {
            name: lambda lp, lq, d=d: d.perspective(lp, lq).sum() for name, d in members.items()
        }
        return {
            name: jax.value_and_grad(lambda z, m=m: m(lp, jax.nn.log_softmax(z)))(z)
            for name, m in measured.items()
        }

    found = jax.device_get(jax.jit(jax.vmap(jax.vmap(every), (0, None)))(logits, log_p))
    value, slope = found["own"]  # [distances, pairs], and their gradients
    size = lambda x: np.linalg.norm(x, axis=-1)
    off = size(slope - found["todi"][1]) / size(slope)
    table = {"gradient off todi": off.max(1)}
    for name in MEMBERS[1:]:
        other = found[name][1]
        table[f"cosine {name}"] = ((slope * other).sum(-1) / size(slope) / size(other)).mean(1)
    jeffreys = by_hand(log_p, logits)
    table["value off jeffreys"] = np.abs(value - jeffreys).max(1)
    table["todi over jeffreys"] = (found["todi"][0] / jeffreys).mean(1)
    return [{k: float(x[i]) for k, x in table.items()} for i in range(len(DISTANCES))]


def by_hand(log_p: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Jeffreys' divergence in numpy, sum of (p - q) log(p/q)."""
    p, q = np.exp(log_p), np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    return ((p - q) * np.log(p / q)).sum(-1)


# --- the race -------------------------------------------------------------------------------------


def measures() -> dict[str, next_token.Measure]:
    """What is fitted, as functions of logits of the policy and of the target."""
    names = ("forward_kl", "reverse_kl", "js", "skew_kl:0.1", "todi")
    found = {name: head.divergence_at(divergences.parse(name)) for name in names}
    kls = (found["forward_kl"], found["reverse_kl"])
    return found | {"akl": next_token.adaptive(*kls)}


def race(flags: Flags) -> dict[tuple[str, float], dict[str, dict[str, float]]]:
    """Mean errors in the head and in the far tail, by loss, temperature and step."""
    draws = [np.random.default_rng(seed) for seed in range(flags.seeds)]
    starts = np.stack([x.standard_normal(len(head_tail.POINTS)) for x in draws])
    found = {}
    for name, measure in measures().items():
        laws = np.asarray(fit(measure, starts, max(flags.steps)))
        for i, t in enumerate(TEMPERATURES):
            off = head_tail.errors(laws[i])
            found[name, t] = {
                what: {str(step): float(off[what][:, step - 1].mean()) for step in flags.steps}
                for what in ("head", "tail", "tv")
            }
    return found


def fit(measure: next_token.Measure, starts: np.ndarray, steps: int) -> Array:
    """The fitted law after each step of Adam at each temperature from each start. [temperatures,
    seeds, steps, points]"""
    tx, target = optax.adam(head_tail.RATE), jnp.asarray(head_tail.LOG_TARGET)

    def path(t: Any, start: Array) -> Array:
        slope = jax.grad(lambda z: next_token.tempered(measure, t)(z, target).sum())

        def step(carry, _):
            z, opt = carry
            updates, opt = tx.update(slope(z), opt)
            z = optax.apply_updates(z, updates)
            # pyrefly: ignore[bad-argument-type]
            return (z, opt), jax.nn.softmax(z)

        return jax.lax.scan(step, (start, tx.init(start)), None, length=steps)[1]

    of_starts = jax.vmap(path, (None, 0))
    return jax.jit(jax.vmap(of_starts, (0, None)))(jnp.array(TEMPERATURES), jnp.asarray(starts))


def _checks(compared: list[dict[str, float]]) -> list[Check]:
    worst = lambda name: max(row[name] for row in compared)
    checks = [
        near(
            "the gradient is the member todi's: relative error",
            worst("gradient off todi"),
            0,
            1e-10,
        ),
        near("the value is Jeffreys'", worst("value off jeffreys"), 0, 1e-12),
    ]
    for i, name in ((0, "nearest"), (-1, "farthest")):
        row = compared[i]
        detail = f"{row['cosine jeffreys']:.6f}"
        checks.append(
            Check(
                f"the gradient is not Jeffreys', {name} pairs: cosine",
                row["cosine jeffreys"] < 1,
                detail,
            )
        )
    return checks


def _picture(compared: list[dict[str, float]], ends: Mapping, steps: tuple[int, ...]) -> Picture:
    """Rewards; cosines of ToDi's gradient; the race at its first steps."""
    style.use()
    shape = {"figsize": (7.4, 2.9), "layout": "constrained"}
    figure, (rewards, cosines, scatter) = plt.subplots(1, 3, **shape)
    s = np.linspace(-4, 2, 200)
    for name in ("forward_kl", "reverse_kl", "jeffreys", "todi"):
        r = np.asarray(divergences.parse(name).reward(jnp.asarray(s)))
        own = {"linewidth": 2.2, "color": COLOUR, "linestyle": (0, (2.5, 1.2))}
        look = own if name == "todi" else {"color": style.colour(name)}
        rewards.plot(s, r, label=name, **look)
        if name != "todi":
            each = [row[f"cosine {name}"] for row in compared]
            cosines.plot(DISTANCES, each, marker="o", markersize=4, **look)
    rewards.set(xlabel=r"log-ratio $s$", ylabel="reward", ylim=(-5, 7))
    rewards.legend(title="divergence", title_fontsize=8)
    cosines.set(xscale="log", xlabel="distance of random laws")
    cosines.set(ylabel="cosine with todi's gradient")
    cosines.set_xticks(DISTANCES, [f"{x:g}" for x in DISTANCES])
    cosines.set_xticks([], minor=True)
    first = str(steps[0])
    for (name, t), row in ends.items():
        colour = {"todi": COLOUR, "akl": style.EXPERT}.get(name) or style.colour(name)
        at = (row["head"][first], row["tail"][first])
        scatter.plot(*at, "o", color=colour, markerfacecolor=colour if t == 1 else "white")
        if t == 1:
            ha, offset = BESIDE.get(name, ("left", (6, 2)))
            look = {"textcoords": "offset points", "fontsize": 7.5, "color": colour, "ha": ha}
            scatter.annotate(name, at, xytext=offset, **look)
    scatter.set(xlabel="head error (TV)", ylabel="far-tail error (mass)")
    scatter.set(ylim=(0.105, None))
    scatter.set_title(f"after {first} steps")
    handles = [
        plt.Line2D([], [], label=f"temperature {t:g}", markerfacecolor=fill, **TEMPERED)
        for t, fill in zip(TEMPERATURES, (style.OTHER, "white"))
    ]
    scatter.legend(handles=handles, loc="lower left", bbox_to_anchor=(-0.02, 0.14))
    return figure


FIGURE = Figure(
    flags=Flags,
    make=make,
    title="What ToDi's loss is the gradient of",
    claim=(
        "ToDi's gradient is exactly an f-divergence's: like forward KL's where the policy has too "
        "little, like reverse KL's where it has too much."
    ),
    source=(
        "Jung et al. 2025 (arXiv 2505.16297), ToDi; Wu et al. 2024 (arXiv 2404.02657), AKL, for "
        "the race"
    ),
)
