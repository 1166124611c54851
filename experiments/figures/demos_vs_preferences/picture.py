"""Demonstrations or preferences: how many labels are right, and the picture."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import matplotlib.pyplot as plt
import numpy as np

from experiments.figures.common.base import Check, Picture, Row, near
from experiments.reporting import style
from fdiv import exact, objectives
from fdiv.benchmarks import Rewarded
from fdiv.checks import present

PAIRS = 20_000  # comparisons, to see how many are right


def labels_are_right(task: Rewarded) -> Check:
    """How often the string of higher reward is chosen, where rewards differ: drawn, and by
    enumeration."""
    mdp = task.build()
    with jax.enable_x64(True):
        space = exact.enumerate_strings(mdp.vocab, mdp.horizon, mdp.eos)
        q = np.exp(
            np.asarray(
                exact.law(
                    space, *present(present(mdp.regulariser, "penalty").reference, "reference")
                ).string
            )
        )
        r, first = (
            np.asarray(present(mdp.score, "score")(space.sequences)),
            space.sequences.tokens[:, 0],
        )
        chance = np.asarray(task.preference(r[:, None], r[None], first[:, None] != first[None]))
        weight = q[:, None] * q[None] * (r[:, None] > r[None])
    expected = float((weight * chance).sum() / weight.sum())
    better, worse = (
        np.asarray(present(mdp.score, "score")(x))
        for x in present(mdp.pairs, "comparisons")(jax.random.key(0), PAIRS)
    )
    differ = better != worse
    right, error = float((better > worse)[differ].mean()), 0.5 / differ.sum() ** 0.5
    name = f"right labels at noise {task.flips:g}, spread {task.spread:g}"
    return near(name, right, expected, 4 * error)


def draw(
    spreads: Sequence[float], names: list[str], rows: list[Row], start: dict[str, float]
) -> Picture:
    """Regret against the share of wrong labels, a panel a spread."""
    style.use()
    shape = {"figsize": (6.8, 3.1), "sharey": True, "layout": "constrained", "squeeze": False}
    figure, axes = plt.subplots(1, len(spreads), **shape)
    for axis, spread in zip(axes[0], spreads):
        for name in names:
            mine = [row for row in rows if row["method"] == name and row["spread"] == spread]
            resolved = objectives.resolve(name)
            look = style.look_of(
                resolved.look,
                resolved.divergence or "forward_kl",
                of_return=bool(resolved.look.colour),
            )
            if name == "bt_var_rloo":
                look |= {"linestyle": "-", "marker": "D"}
            columns = ("noise", "regret", "regret_low", "regret_high")
            x, middle, low, high = (np.array([row[k] for row in mine]) for k in columns)
            bars = np.abs(np.stack([middle - low, high - middle]))
            look |= {"capsize": 2, "linewidth": 1.3, "markersize": 4.5}
            axis.errorbar(x, middle, bars, label=name, **look)
        axis.axhline(start["regret"], color=style.EXPERT, linewidth=0.8, linestyle=":")
        axis.annotate("the reference", (0, start["regret"]), fontsize=7.5, va="bottom")
        axis.set(xlabel="share of wrong labels", yscale="log")
        axis.set_title(f"spread {spread:g}" if spread else "one temperature")
    axes[0][0].set_ylabel("regret")
    handles = axes[0][0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=min(6, len(names)))
    return figure
