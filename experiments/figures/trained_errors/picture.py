"""The picture of `trained_errors`: errors and cost against length above, the slope of each method
below."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from experiments.figures.common.base import Picture
from experiments.figures.common.drawing import plain_log
from experiments.reporting import style
from fdiv.objectives import resolve

MEASURES = {"own": "KL(p||q), own prefixes", "reverse": "KL(q||p), own prefixes", "cost": "cost"}


def look(name: str) -> dict[str, Any]:
    """As elsewhere a colour for the divergence and a marker for the source; filled by the share of
    own prefixes."""
    plain, _, own = name.partition("@")
    method = resolve(plain)
    marker, line, *_ = method.look
    fill = {"": "full", "0": "none", "1": "full"}.get(own, "left")
    colour = style.colour(method.divergence or "forward_kl")
    look = {"color": colour, "marker": marker, "linestyle": line, "fillstyle": fill}
    return look | {"markersize": 4.5, "linewidth": 1.2}


def label(name: str) -> str:
    """`distill:js@0.5` for people: of its prefixes half are its own."""
    plain, _, own = name.partition("@")
    return f"{plain}, {float(own):.0%} own" if own else plain


def draw(values: dict[str, Any]) -> Picture:
    """Of the shares of own prefixes the upper panels have the largest, the lower ones all."""
    style.use()
    figure = plt.figure(figsize=(6.8, 6.2), layout="constrained")
    # pyrefly: ignore[not-iterable]
    upper, lower = figure.subfigures(2, 1, height_ratios=(1.2, 1))
    names = list(values["ends"])
    most = max((name.partition("@")[2] for name in names), key=lambda own: float(own or -1))
    error, cost, rolled = upper.subplots(1, 3)
    trained, longer = list(values["expert_cost"]), list(values["rolled"]["sft"]["own"])
    for name in (name for name in names if name.partition("@")[2] in ("", most)):
        _line(error, name, values["ends"][name]["own"])
        _line(cost, name, values["ends"][name]["cost"])
        _line(rolled, name, values["rolled"][name]["over_sft"])
    of_expert = {"color": style.EXPERT, "linewidth": 1.0, "label": "the expert itself"}
    cost.plot(*zip(*values["expert_cost"].items()), **of_expert)
    error.set(yscale="log", title="accumulated error", ylabel="sum of KL(p||q) (nats)")
    cost.set(yscale="log", title="cost", ylabel="positions in error")
    rolled.set(title=f"trained at {longer[0]} tokens only", ylim=(0, None))
    rolled.set_ylabel("accumulated error / sft's")
    for axis, lengths in ((error, trained), (cost, trained), (rolled, longer)):
        axis.set(xscale="log", xlabel="length (tokens)")
        axis.set_xticks(lengths, lengths)
        axis.set_xticks([], minor=True)
    plain_log(error.yaxis)
    cost.yaxis.set_major_formatter("{x:g}")
    handles = cost.get_legend_handles_labels()
    upper.legend(*handles, loc="outside lower center", ncols=4, columnspacing=1.4)
    for axis, (key, title) in zip(lower.subplots(1, 3, sharey=True), MEASURES.items()):
        _forest(axis, values["slopes"], key)
        closed = values["closed_form_slopes"][key]
        axis.axvline(closed, color=style.OTHER, linestyle="--", linewidth=0.9)
        axis.set(title=title)
    label_below = (
        "log-log slope against length (◂ shorter lengths alone, ▸ longer ones); own: "
        "share of prefixes that are its own"
    )
    lower.supxlabel(label_below, fontsize=8)
    return figure


def _line(axis: Axes, name: str, by_length: dict[int, dict[str, Any]]) -> None:
    """Interquartile means joined, their intervals as a band."""
    how = look(name)
    axis.plot(list(by_length), [x["iqm"] for x in by_length.values()], label=label(name), **how)
    low, high = zip(*(x["ci95"] for x in by_length.values()))
    axis.fill_between(list(by_length), low, high, color=how["color"], alpha=0.18, linewidth=0)


def _forest(axis: Axes, slopes: dict[str, Any], key: str) -> None:
    """Slopes with their intervals, method under method."""
    for y, (name, by_part) in enumerate(slopes.items()):
        whole, how = by_part["all"][key]["slope"], look(name) | {"linestyle": "none"}
        bars = np.abs(np.array(whole["ci95"]) - whole["iqm"])[:, None]
        axis.errorbar([whole["iqm"]], [y], xerr=bars, capsize=2, **how)
        small = {"color": how["color"], "markersize": 3, "alpha": 0.55}
        for half, marker in (("short", "<"), ("long", ">")):
            if half in by_part:
                axis.plot([by_part[half][key]["slope"]["iqm"]], [y], marker, **small)
    axis.set_yticks(range(len(slopes)), [label(name) for name in slopes])
    axis.set_ylim(len(slopes) - 0.5, -0.5)
