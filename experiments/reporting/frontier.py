"""Reward against divergence from the reference: the exact frontier, and how far from it each method
ended."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from experiments.assemble import Task
from experiments.reporting import pictures, style
from fdiv import divergences, exact, regularised, statistics

BETAS = np.geomspace(1e-3, 1e3, 121)  # times the task's own


def points(task: Task) -> list[dict[str, float]]:
    """The frontier of the task's divergence, from least spent to most; nothing where there is no
    known reference."""
    regulariser = task.mdp.regulariser
    if task.space is None or regulariser is None or regulariser.reference is None:
        return []
    with jax.enable_x64(True):
        ref = exact.known_law(task.space, regulariser.reference)
        rewards = jnp.asarray(task.mdp.score(task.space.sequences), float)
        betas = regulariser.beta * BETAS[::-1]
        spent, reward = regularised.frontier(
            divergences.parse(regulariser.divergence), rewards, ref.string, jnp.asarray(betas)
        )
    return [
        {"beta": float(b), "spent": float(x), "reward": float(y)}
        for b, x, y in zip(betas, spent, reward)
    ]


def overspent(spent: float, reward: float, frontier: list[dict[str, float]]) -> float:
    """How much more of the divergence a policy has spent than its reward needs, in nats."""
    x, y = (
        np.maximum.accumulate(np.array([row[key] for row in frontier]))
        for key in ("spent", "reward")
    )
    return float(spent - np.interp(reward, y, x))


def picture(results: Mapping[str, Any], folder: Path) -> str:
    """Left the plane with the frontier, right each method's distance from it, by seed."""
    style.use()
    line = results["frontier"]
    methods = {
        k: m for k, m in results["methods"].items() if {"spent", "reward"} <= set(m["metrics"])
    }
    figure, (plane, bars) = plt.subplots(
        1, 2, figsize=(9.2, 3.9), layout="constrained", width_ratios=(1.35, 1)
    )
    x, y = ([row[key] for row in line] for key in ("spent", "reward"))
    plane.plot(x, y, color=style.EXPERT, linewidth=1.2)
    best = line[len(line) // 2]  # at the task's own weight
    plane.plot(
        best["spent"],
        best["reward"],
        marker="*",
        markersize=13,
        color=style.EXPERT,
        markerfacecolor="none",
    )
    rows: list[dict[str, Any]] = [{"what": "frontier", **row} for row in line]
    for place, (name, m) in enumerate(methods.items()):
        spent, reward = m["metrics"]["spent"], m["metrics"]["reward"]
        beyond = [overspent(a, b, line) for a, b in zip(spent["seeds"], reward["seeds"])]
        _mark(plane, m, spent["seeds"], reward["seeds"], (spent["iqm"], reward["iqm"]))
        _mark(bars, m, beyond, [place] * len(beyond), (statistics.iqm(beyond), place))
        seeds = enumerate(zip(spent["seeds"], reward["seeds"], beyond))
        rows += [
            {"what": name, "seed": i, "spent": a, "reward": b, "overspent": c}
            for i, (a, b, c) in seeds
        ]
    most = max([best["spent"], *(m["metrics"]["spent"]["iqm"] for m in methods.values())])
    what = results["benchmark"]["divergence"]
    plane.set(
        xlabel=f"{what} spent (nats)", ylabel="expected reward", xlim=(-0.03 * most, 1.2 * most)
    )
    bars.set(
        yticks=range(len(methods)),
        yticklabels=list(methods),
        xlabel="spent beyond what its reward needs (nats)",
    )
    bars.invert_yaxis()
    bars.axvline(0, color=style.EXPERT, linewidth=0.8)
    bars.set_xscale("symlog", linthresh=1e-2)
    bars.set_xlim(-2e-3, 2 * max([0.02, *(row["overspent"] for row in rows if "overspent" in row)]))
    handles = [
        plt.Line2D([], [], label=k, **(style.look(m) | {"linestyle": ""}))
        for k, m in methods.items()
    ]
    handles.append(plt.Line2D([], [], color=style.EXPERT, linewidth=1.2, label="frontier"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)))
    return pictures.save(figure, folder, "frontier", rows)


def _mark(
    axis: Any, method: Mapping[str, Any], x: list, y: list, middle: tuple[float, float]
) -> None:
    """Seeds as dots, their IQM as the method's own mark."""
    look = style.look(method)
    axis.plot(x, y, linestyle="", marker=".", markersize=4, alpha=0.5, color=look["color"])
    axis.plot(
        *middle,
        linestyle="",
        marker=look["marker"],
        markersize=7,
        color=look["color"],
        markeredgecolor="white",
    )
