"""Reward against divergence from the reference: the exact frontier, and how far from it each method
ended."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from experiments import escapes
from experiments.evaluation.frontier import FrontierPoint, at_own_weight, overspent
from experiments.reporting import scoreboards, style
from experiments.reporting.schema import MethodResult, RunResult, paired
from fdiv import statistics

X, Y = "divergence_to_reference", "reward"
Methods = dict[str, MethodResult]


def picture(result: RunResult, folder: Path) -> str:
    """Left the plane with the frontier, right each method's distance from it, by seed; nothing
    where no frontier is known."""
    methods = {
        k: m
        for k, m in result.methods.items()
        if {X, Y} <= set(m.metrics) and paired(m.metrics[X], m.metrics[Y])
    }
    if not result.frontier or not methods:
        return ""
    style.use()
    figure, (plane, bars) = plt.subplots(
        1, 2, figsize=(9.2, 3.9), layout="constrained", width_ratios=(1.35, 1)
    )
    beyond = {
        name: [overspent(a, b, result.frontier) for _, a, b in paired(m.metrics[X], m.metrics[Y])]
        for name, m in methods.items()
    }
    divergence = scoreboards.of_result(result).metric(X)
    _draw_plane(plane, methods, result.frontier)
    plane.set(xlabel=divergence.label, ylabel="expected reward")
    _draw_distances(bars, methods, beyond)
    bars.set_xlabel(f"{divergence.short} beyond what its reward needs (nats)")
    looks = {name: style.look(m) for name, m in methods.items()}
    handles = [
        plt.Line2D(
            [], [], label=escapes.label(k), color=look["color"], marker=look["marker"], linestyle=""
        )
        for k, look in looks.items()
    ]
    handles.append(plt.Line2D([], [], color=style.EXPERT, linewidth=1.2, label="frontier"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)))
    rows = [{"what": "frontier", **point._asdict()} for point in result.frontier]
    rows += [
        {"what": name, "seed": i, X: a, Y: b, "overspent": c}
        for name, m in methods.items()
        for (i, a, b), c in zip(paired(m.metrics[X], m.metrics[Y]), beyond[name])
    ]
    return style.save(figure, folder, "frontier", rows)


def _draw_plane(axis: Axes, methods: Methods, points: Sequence[FrontierPoint]) -> None:
    axis.plot(
        [point.divergence_to_reference for point in points],
        [point.reward for point in points],
        color=style.EXPERT,
        linewidth=1.2,
    )
    best = at_own_weight(points)
    star = {"marker": "*", "markersize": 13, "markerfacecolor": "none"}
    axis.plot(best.divergence_to_reference, best.reward, color=style.EXPERT, **star)
    for m in methods.values():
        x, y = m.metrics[X], m.metrics[Y]
        both = paired(x, y)
        _mark(axis, m, [a for _, a, _ in both], [b for _, _, b in both], (x.iqm, y.iqm))
    most = max([best.divergence_to_reference, *(m.metrics[X].iqm for m in methods.values())])
    most = most if most > 0 else 1.0  # nobody has left the reference, and it is best to stay
    axis.set_xlim(-0.03 * most, 1.2 * most)


def _draw_distances(axis: Axes, methods: Methods, beyond: dict[str, list[float]]) -> None:
    for place, (name, m) in enumerate(methods.items()):
        seeds = beyond[name]
        _mark(axis, m, seeds, [place] * len(seeds), (statistics.iqm(seeds), place))
    axis.set(yticks=range(len(methods)), yticklabels=list(methods))
    axis.invert_yaxis()
    axis.axvline(0, color=style.EXPERT, linewidth=0.8)
    axis.set_xscale("symlog", linthresh=1e-2)
    axis.set_xlim(-2e-3, 2 * max([0.02, *(x for seeds in beyond.values() for x in seeds)]))


def _mark(
    axis: Axes,
    method: MethodResult,
    x: Sequence[float],
    y: Sequence[float],
    middle: tuple[float, float],
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
