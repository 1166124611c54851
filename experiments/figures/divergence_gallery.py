"""The family on one plate, as f, witness, reward and perspective: `python -m experiments.figures
divergence_gallery`.

What a critic learns (`f'(u)`) and what a policy maximises (`u f' - f`) against the log-ratio s =
log u, and where along a line D_f(p||q) is made up (`q f(p/q)`) for a p of two bumps under a broad
q. A member added to the family appears by itself."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from experiments.figures.common.base import Check, Figure, Picture, Result
from experiments.reporting import style
from fdiv import divergences
from fdiv.types import Divergence

RATIOS = np.linspace(-3, 3, 241)  # s
LINE = np.linspace(-4, 4, 321)  # x
MARKS = (-2.0, -1.0, 0.0, 1.0, 2.0)  # log-ratios whose values are kept
PANELS = {  # column -> (title, axis below, limits, ticks)
    "f": ("f(u)", "log-ratio s = log u", (-0.3, 4), (0, 2, 4)),
    "witness": ("witness f'(u)", "log-ratio s = log u", (-4, 4), (-3, 0, 3)),
    "reward": ("reward u f'(u) \N{MINUS SIGN} f(u)", "log-ratio s = log u", (-4, 4), (-3, 0, 3)),
    "perspective": ("perspective q f(p/q)", "x", (-0.03, 0.4), (0, 0.2, 0.4)),
}


@dataclasses.dataclass(frozen=True)
class Flags:
    """The family takes no flags."""


def make(flags: Flags) -> Result:
    """Every member at its example parameter."""
    values, curves, violations = members()
    columns = [
        (f"{what} at s = {s:g}", what, i)
        for what in ("f", "witness", "reward")
        for i, s in enumerate(MARKS)
        if abs(s) == 1
    ]
    rows = [
        {"divergence": d} | {title: numbers[what][i] for title, what, i in columns}
        for d, numbers in values.items()
    ]
    points = [
        {"divergence": d, "function": what, "at": x, "value": y}
        for d, lines in curves.items()
        for what, (xs, ys) in lines.items()
        for x, y in zip(xs, ys)
    ]
    checks = []
    for d, laws in violations.items():
        for law, most in laws.items():
            detail = f"off by at most {max(most, 0):.1e}"
            checks.append(Check(f"{d}: {law}", most <= 1e-12, detail))
    return Result({"s": list(MARKS), "members": values}, checks, rows, _picture(curves), points)


Curves = dict[str, dict[str, tuple[np.ndarray, list[float]]]]  # member -> panel -> x, y


def members() -> tuple[dict[str, dict], Curves, dict[str, dict[str, float]]]:
    """Each member's values at the marks, its curves, and by how much each law fails."""

    @jax.jit
    def of_each(marks, ratios):
        family = divergences.every().values()
        return {
            d.name: (_at(d, marks), _at(d, ratios), _where(d), _violations(d, ratios))
            for d in family
        }

    with jax.enable_x64(True):
        names = [d.name for d in divergences.every().values()]
        numbers = jax.tree.map(lambda x: np.asarray(x).tolist(), of_each(np.array(MARKS), RATIOS))
    values, curves, violations = {}, {}, {}
    for name in names:  # jax sorts the keys of a dict
        values[name], on_ratios, on_line, violations[name] = numbers[name]
        curves[name] = {what: (RATIOS, y) for what, y in on_ratios.items()}
        curves[name]["perspective"] = (LINE, on_line)
    return values, curves, violations


def _f(d: Divergence, s: jax.Array) -> jax.Array:
    return d.perspective(s, jnp.zeros_like(s))  # q = 1


def _at(d: Divergence, s: jax.Array) -> dict[str, jax.Array]:
    return {"f": _f(d, s), "witness": d.witness(s), "reward": d.reward(s)}


def _where(d: Divergence) -> jax.Array:
    return d.perspective(*map(jnp.asarray, _laws_on_line()))


def _laws_on_line() -> tuple[np.ndarray, np.ndarray]:
    """log p, of two bumps, and log q, broad, on the line."""

    def normal(mean: float, std: float) -> np.ndarray:
        return -0.5 * ((LINE - mean) / std) ** 2 - math.log(std * math.sqrt(2 * math.pi))

    log_p = np.logaddexp(math.log(0.6) + normal(-1.3, 0.5), math.log(0.4) + normal(1.4, 0.5))
    return log_p, normal(0.0, 1.2)


def _violations(d: Divergence, s: jax.Array) -> dict[str, jax.Array]:
    """By how much each law fails: normal, witness = f', reward = u f' - f, convex, a bound that is
    tight at the true ratio."""
    u, zero = jnp.exp(s), jnp.zeros(1)
    slope = jax.grad(lambda x: _f(d, x).sum())(s) / u  # df/du = (df/ds) / u
    logits = np.random.default_rng(0).standard_normal((2, 50))
    p, q = (jax.nn.softmax(jnp.asarray(x)) for x in logits)
    ratio = jnp.log(p / q)
    value = d.perspective(jnp.log(p), jnp.log(q)).sum()
    bound = lambda guess: jnp.sum(p * d.witness(guess)) - jnp.sum(q * d.reward(guess))
    guesses = ratio[None] + np.random.default_rng(1).standard_normal((20, 50))
    at_one = jnp.concatenate([_f(d, zero), d.witness(zero), d.reward(zero)])
    reward = d.reward(s)
    off = {
        "f(1) = f'(1) = 0": jnp.abs(at_one),
        "witness = f'": jnp.abs(slope - d.witness(s)) / (1 + jnp.abs(slope)),
        "reward = u f' - f": jnp.abs(u * slope - _f(d, s) - reward) / (1 + jnp.abs(reward)),
        "f' rises": -jnp.diff(d.witness(s)),
        "E_p[witness] - E_q[reward] = D at the true ratio": jnp.abs(bound(ratio) - value),
        "and at most D elsewhere": jax.vmap(bound)(guesses) - value,
    }
    return {law: jnp.max(x) for law, x in off.items()}


def _picture(curves: Curves) -> Picture:
    style.use()
    size = (7.2, 0.68 * len(curves))
    figure, grid = plt.subplots(len(curves), len(PANELS), figsize=size, squeeze=False)
    for row, (name, lines) in enumerate(curves.items()):
        for axis, (what, (title, below, limits, ticks)) in zip(grid[row], PANELS.items()):
            _background(axis, what, curves)
            axis.plot(*lines[what], color=style.colour(name), linewidth=1.8, zorder=3)
            axis.set(xlim=lines[what][0][[0, -1]], ylim=limits, yticks=ticks)
            axis.tick_params(labelsize=7, length=2, labelbottom=row == len(curves) - 1)
            axis.set_title(title if row == 0 else "", fontsize=8)
            axis.set_xlabel(below if row == len(curves) - 1 else "", fontsize=8)
        look = {"rotation": 0, "ha": "right", "va": "center", "fontsize": 8}
        grid[row][0].set_ylabel(name.replace(":", "\n"), color=style.colour(name), **look)
    corner = grid[0][-1]
    handles = corner.collections + corner.lines[:1]
    corner.legend(handles=handles, loc="upper right", fontsize=6.5, borderaxespad=0)
    figure.subplots_adjust(hspace=0.28, wspace=0.25)
    return figure


def _background(axis: Axes, what: str, curves: Curves) -> None:
    """The other members, thin; behind the perspective the two laws, at half their height."""
    if what == "perspective":
        p, q = (0.5 * np.exp(law) for law in _laws_on_line())
        axis.fill_between(LINE, p, color="#E3E6EA", linewidth=0, label="p / 2")
        axis.plot(LINE, q, color="#8A93A0", linewidth=0.8, linestyle="--", label="q / 2")
    else:
        others = [np.column_stack(lines[what]) for lines in curves.values()]
        axis.add_collection(LineCollection(others, color="#D5D8DD", linewidth=0.5))


FIGURE = Figure(
    flags=Flags,
    make=make,
    title="The family of f-divergences",
    claim=(
        "Each member is three functions: what is measured, what a critic learns, what a "
        "policy maximises; all else follows."
    ),
    source=(
        "Csiszar 1967; Nguyen, Wainwright & Jordan 2010; Nowozin, Cseke & Tomioka 2016 "
        "(arXiv 1606.00709)"
    ),
)
