"""Which end each KL fits first: `python -m experiments.figures head_tail [--steps T ... --seeds
N]`.

softmax(logits) is fitted to half a Gaussian (standard deviation 16 at 0, 1.25, ..., 98.75) by Adam
at .2 with exact gradients, from standard normal logits. The head is the first 46 points, the far
tail the rest. At 5 and 10 steps forward KL has the smaller head error and reverse KL the closer
far-tail mass, in 20 of 20 seeds; at 300 both are within 2e-3 of the target in total variation."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from experiments.figures.common.base import Check, Figure, Picture, Result, Row, distinct, near
from experiments.reporting import style
from fdiv import divergences
from fdiv.checks import at_least
from fdiv.types import UsageError

NAMES = ("forward_kl", "reverse_kl")
TITLES = {"head": "head error (TV)", "tail": "far-tail error (mass)"}
RATE, TAIL = 0.2, 46
MOST_STEPS = 20_000
POINTS = np.arange(0, 100, 1.25)
LOG_TARGET = -0.5 * (POINTS / 16) ** 2 - np.log(np.sum(np.exp(-0.5 * (POINTS / 16) ** 2)))
TARGET = np.exp(LOG_TARGET)


@dataclasses.dataclass(frozen=True)
class Flags:
    """The race of two KLs."""

    steps: tuple[int, ...] = (5, 10, 300)
    """Steps after which the fits are compared."""
    seeds: int = 20
    """Random starts."""


def make(flags: Flags) -> Result:
    """Every step of every seed, then the steps asked for."""
    at_least("seeds", flags.seeds, 1)
    distinct("steps", flags.steps)
    for step in flags.steps:
        at_least("steps", step, 1)
        if step > MOST_STEPS:
            raise UsageError("steps", step, "is too many.", f"Give at most {MOST_STEPS}.")
    draws = (np.random.default_rng(seed) for seed in range(flags.seeds))
    starts, longest = (
        np.stack([x.standard_normal(len(POINTS)) for x in draws]),
        max(100, *flags.steps),
    )
    with jax.enable_x64(True):  # [seeds, steps, points]
        laws = {name: np.asarray(fit(name, starts, longest)) for name in NAMES}
    off = {name: errors(laws[name]) for name in NAMES}
    values: dict = {"head_error": {}, "tail_error": {}, "tv": {}, "share": {}}
    titles = {"head": "head_error", "tail": "tail_error", "tv": "tv"}
    rows, checks = [], [_replay(laws, starts)]
    for step in flags.steps:
        at = {name: {key: x[:, step - 1] for key, x in off[name].items()} for name in NAMES}
        forward, reverse = at["forward_kl"], at["reverse_kl"]
        for key, title in titles.items():
            values[title][str(step)] = {name: float(at[name][key].mean()) for name in NAMES}
        better = {
            "head": forward["head"] < reverse["head"],
            "tail": reverse["tail"] < forward["tail"],
        }
        values["share"][str(step)] = {key: float(wins.mean()) for key, wins in better.items()}
        for name in NAMES:
            means = {key: float(x.mean()) for key, x in at[name].items()}
            rows.append({"steps": step, "divergence": name} | means)
        checks += _claims(step, better, {name: at[name]["tv"] for name in NAMES})
    curve = [
        {"step": t, "divergence": name, "error": key}
        | dict(zip(("low", "middle", "high"), map(float, band)))
        for name in NAMES
        for key in TITLES
        for t, band in enumerate(np.quantile(off[name][key], (0.1, 0.5, 0.9), axis=0).T, 1)
    ]
    return Result(values, checks, rows, _picture(laws, curve, min(flags.steps)), [*rows, *curve])


def fit(name: str, starts: np.ndarray, steps: int) -> jax.Array:
    """The fitted law after each step from each start. [seeds, steps, points]"""
    d, tx = divergences.parse(name), optax.adam(RATE)

    @jax.grad
    def slope(logits):
        return d.perspective(jnp.asarray(LOG_TARGET), jax.nn.log_softmax(logits)).sum()

    def step(carry, _):
        logits, opt = carry
        updates, opt = tx.update(slope(logits), opt)
        logits = optax.apply_updates(logits, updates)
        # pyrefly: ignore[bad-argument-type]
        return (logits, opt), jax.nn.softmax(logits)

    def path(start):
        return jax.lax.scan(step, (start, tx.init(start)), None, length=steps)[1]

    return jax.jit(jax.vmap(path))(jnp.asarray(starts))


def errors(law: np.ndarray) -> dict[str, np.ndarray]:
    """Half the absolute error over the head, the difference in far-tail mass, total variation.
    [seeds, steps] each"""
    off = np.abs(law - TARGET)
    tail = np.abs(law[..., TAIL:].sum(-1) - TARGET[TAIL:].sum())
    return {"head": 0.5 * off[..., :TAIL].sum(-1), "tail": tail, "tv": 0.5 * off.sum(-1)}


def _claims(step: int, better: dict[str, np.ndarray], tv: dict[str, np.ndarray]) -> list[Check]:
    """At first each KL is ahead at its own end, in every seed; in the end both arrive."""
    claims = {
        "head": "forward_kl is ahead in the head",
        "tail": "reverse_kl is ahead in the far tail",
    }
    if 5 <= step <= 10:
        tally = {key: f"{wins.sum()} of {wins.size} seeds" for key, wins in better.items()}
        return [
            Check(f"{claim} at {step} steps", bool(better[key].all()), tally[key])
            for key, claim in claims.items()
        ]
    if step >= 300:
        return [
            near(f"total variation of {name} at {step} steps", float(x.max()), 0.0, 2e-3)
            for name, x in tv.items()
        ]
    return []


def _replay(laws: dict[str, np.ndarray], starts: np.ndarray) -> Check:
    """Adam once more, by hand, with the gradients q - p and q (log q/p - KL) of the logits: one
    seed, its first steps."""
    gap = 0.0
    for name, law in laws.items():
        logits, first, second = starts[0].copy(), 0.0, 0.0
        for t in range(1, min(50, law.shape[1]) + 1):
            q = np.exp(logits) / np.exp(logits).sum()
            log_ratio = np.log(q / TARGET)
            forward, reverse = q - TARGET, q * (log_ratio - np.sum(q * log_ratio))
            slope = forward if name == "forward_kl" else reverse
            first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
            size = np.sqrt(second / (1 - 0.999**t)) + 1e-8
            logits = logits - RATE * (first / (1 - 0.9**t)) / size
            after = np.exp(logits) / np.exp(logits).sum()
            gap = max(gap, float(np.abs(law[0, t - 1] - after).max()))
    return near("the first steps by hand", gap, 0.0, 1e-9)


def _picture(laws: dict[str, np.ndarray], curve: list[Row], step: int) -> Picture:
    style.use()
    shape = {"figsize": (6.8, 2.6), "width_ratios": (1.15, 1, 1), "layout": "constrained"}
    figure, axes = plt.subplots(1, 3, **shape)
    axes[0].plot(POINTS, TARGET, color=style.EXPERT, label="target")
    for name, law in laws.items():
        axes[0].plot(POINTS, law[:, step - 1].mean(0), color=style.colour(name), label=name)
        for axis, key in zip(axes[1:], TITLES):
            rows = [r for r in curve if (r["divergence"], r["error"]) == (name, key)]
            low, middle, high = ([r[k] for r in rows] for k in ("low", "middle", "high"))
            steps, colour = np.arange(1, len(middle) + 1), style.colour(name)
            axis.plot(steps, middle, color=colour)
            axis.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
            axis.set(xscale="log", yscale="log", xlabel="Adam steps", title=TITLES[key])
    axes[0].axvspan(POINTS[TAIL], POINTS[-1], color=style.OTHER, alpha=0.12, linewidth=0)
    axes[0].annotate(
        "far tail",
        (POINTS[TAIL:].mean(), TARGET.max() / 3),
        ha="center",
        fontsize=8,
        color=style.OTHER,
    )
    axes[0].set(xlabel="x", ylabel="probability", title=f"mean law after {step} steps")
    axes[0].legend()
    return figure


FIGURE = Figure(
    flags=Flags,
    make=make,
    title="Head and tail first",
    claim=(
        "Early on forward KL has the head right and reverse KL the far tail; trained long "
        "enough, both have all of it."
    ),
    source=(
        "Wu et al. 2024 (arXiv 2404.02657), Rethinking Kullback-Leibler Divergence in "
        "Knowledge Distillation for LLMs"
    ),
)
