"""The picture of `beyond_three`: gap against demonstrations, quality, diversity and modes over
temperatures, stability."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure

from experiments.figures.beyond_three.numbers import FAR
from experiments.figures.beyond_three.students import Plan
from experiments.figures.common.base import Picture, Row
from experiments.reporting import style

FLOOR, CEILING = 1e-5, 30.0  # gaps beyond are drawn at the edge
SFT = {"color": "#333333", "marker": "s", "linestyle": "--", "linewidth": 1.8, "markersize": 4}
MARKERS = "osD^vPX*<>hd"
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
STEPS = (
    {"marker": "o", "s": 16},
    {"marker": "^", "s": 15, "alpha": 0.65},
    {"marker": "x", "s": 14, "linewidths": 1.0},
)


def draw(plan: Plan, values: dict[str, dict], truth: dict[str, float]) -> Picture:
    """Eight panels; the upper five share a legend."""
    style.use()
    sizes = {"font.size": 8, "axes.labelsize": 8, "axes.titlesize": 8.5, "legend.fontsize": 7}
    plt.rcParams.update(sizes)
    names = list(values["distill"])
    looks = _looks(names)
    figure = plt.figure(figsize=(6.8, 9.0), layout="constrained")
    # pyrefly: ignore[not-iterable]
    upper, middle, lower = figure.subfigures(3, 1, height_ratios=[2.6, 2.8, 3.6])
    left, right = upper.subplots(1, 2, sharey=True)
    adversarial, distilled, sft = (values[source] for source in ("adversarial", "distill", "sft"))
    title = "a  adversarial: demonstrations alone"
    _efficiency(left, plan, adversarial, sft, looks, title)
    title = "b  distilled: the expert's probabilities too"
    _efficiency(right, plan, distilled, sft, looks, title)
    left.set_ylabel("gap to the best of the class\n(nats per string, over f''(1))")
    panels = middle.subplots(1, 3, sharex=True)
    for axis, measure in zip(panels, ("valid", "valid_over_sft", "mode_share")):
        _temperatures(axis, values, looks, measure, None if "over" in measure else truth)
    panels[0].set(title="c  adversarial over temperatures", ylabel="share of valid strings")
    panels[1].set(title="d  over SFT at equal entropy", ylabel="valid strings, more than SFT's")
    panels[2].set(title="e  the minor mode", ylabel="mode B's share, of the expert's")
    handles = left.get_legend_handles_labels()
    spacing = {"ncols": 5, "columnspacing": 1.2, "handlelength": 2.6}
    middle.legend(*handles, loc="outside lower center", **spacing)
    _stability(lower, plan, values["adversarial"], names, looks)
    return figure


def lines(source: str, name: str, of: dict) -> list[Row]:
    """Every number of the picture."""
    who = {"source": source, "divergence": name}
    rows = []
    for n, measures in of["demos"].items():
        ends = {
            f"{m}_{end}": x
            for m, s in measures.items()
            for end, x in zip(("low", "high"), s["ci95"])
        }
        rows.append(who | {"demos": int(n)} | {m: s["iqm"] for m, s in measures.items()} | ends)
    rows += [
        who | {"temperature": float(t)} | measures for t, measures in of["temperature"].items()
    ]
    for rate, x in of["stability"].items():
        plain = {key: value for key, value in x.items() if key != "gap"}
        rows += [
            who | {"rate": float(rate), "seed": i, "gap": gap} | plain
            for i, gap in enumerate(x["gap"]["seeds"])
        ]
    return rows


def _looks(names: list[str]) -> dict[str, dict[str, Any]]:
    """One colour per divergence, one marker and line per member of a family."""
    looks, members = {}, {}
    for name in names:
        i = members[family] = members.get(family := name.partition(":")[0], -1) + 1
        looks[name] = {
            "color": style.colour(name),
            "marker": MARKERS[i % 12],
            "linestyle": LINES[i % 5],
            "markersize": 3.5,
        }
    return looks


def _efficiency(axis: Axes, plan: Plan, values: dict, sft: dict, looks: dict, title: str) -> None:
    gap = lambda of: [
        float(np.clip(of["demos"][str(n)]["gap"]["iqm"], FLOOR, CEILING)) for n in plan.demos
    ]
    lines = {name: gap(of) for name, of in values.items()} | {"SFT": gap(sft["forward_kl"])}
    for name, line in lines.items():
        axis.plot(plan.demos, line, label=name, **({"linewidth": 1.1} | looks.get(name, SFT)))
        apart = [
            abs(np.log(line[-1] / other[-1])) for rival, other in lines.items() if rival != name
        ]
        if min(apart, default=1.0) > np.log(1.35):  # a name where there is room for it
            at = (plan.demos[-1], line[-1])
            axis.annotate(
                name,
                at,
                (5, -2),
                textcoords="offset points",
                fontsize=7,
                color=looks.get(name, SFT)["color"],
            )
    axis.set(xscale="log", yscale="log", xlabel="demonstrations N", title=title)
    axis.set_xticks(plan.demos, [str(n) for n in plan.demos])
    axis.xaxis.set_minor_locator(ticker.NullLocator())


def _temperatures(
    axis: Axes, values: dict, looks: dict, measure: str, truth: dict[str, float] | None
) -> None:
    """Adversarial students: each line runs over temperatures, warmer to the right; as trained they
    have the marker."""
    students = values["adversarial"] | ({"SFT": values["sft"]["forward_kl"]} if truth else {})
    for name, of in students.items():
        look = {"linewidth": 0.9} | looks.get(name, SFT) | {"marker": ""}
        axis.plot(*zip(*((x["entropy"], x[measure]) for x in of["temperature"].values())), **look)
        last = list(of["demos"].values())[-1]
        own = last[measure] if truth else of["over_sft_at_equal_entropy"]["valid"]
        point = {key: look[key] for key in ("color",)} | {"marker": looks.get(name, SFT)["marker"]}
        axis.plot(last["entropy"]["iqm"], own["iqm"], markersize=5, zorder=4, linestyle="", **point)
    if truth:
        star = (truth["entropy"], truth["valid"] if measure == "valid" else 1.0)
        axis.plot(*star, "*", color=style.EXPERT, markersize=8, zorder=5)
        axis.annotate("expert", star, (5, 2), textcoords="offset points", fontsize=7)
    else:
        axis.axhline(0, **dict[str, Any](SFT, marker="", zorder=1))
        beside = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        axis.annotate("SFT", (1, 0), (-2, 3), fontsize=7, ha="right", **beside)
    axis.set_xlabel("entropy (nats)")


def _stability(figure: SubFigure, plan: Plan, values: dict, names: list[str], looks: dict) -> None:
    gaps, peaks, wobbles = figure.subplots(1, 3, sharey=True, width_ratios=[2.3, 1, 1])
    for i, rate in enumerate(plan.rates):
        shift = 0.27 * (i - (len(plan.rates) - 1) / 2)
        mark = {"clip_on": False} | STEPS[i % len(STEPS)]
        for y, name in enumerate(names):
            of, colour = values[name]["stability"][f"{rate:g}"], looks[name]["color"]
            seeds = np.clip(np.nan_to_num(of["gap"]["seeds"], nan=np.inf), 1e-3, CEILING)
            gaps.scatter(seeds, np.full(len(seeds), y + shift), color=colour, **mark)
            peaks.scatter(of["peak_over_median"], y + shift, color=colour, **mark)
            wobbles.scatter(max(of["wobble"], 1e-7), y + shift, color=colour, **mark)
        gaps.scatter([], [], color=style.OTHER, label=f"policy's step {rate:g}", **mark)
    gaps.axvline(FAR, color=style.EXPERT, linewidth=0.8, linestyle=":")
    unit = "nats over f''(1);\nat the edge: that or more"
    gaps.set(xscale="log", xlabel=f"gap of each seed, N = {plan.demos[-1]} ({unit})")
    gaps.set(xlim=(1e-3, CEILING), ylim=(len(names) - 0.5, -0.6))
    gaps.set_title("f  adversarial: right of the line a seed is stuck")
    gaps.set_yticks(range(len(names)), names)
    peaks.set(xscale="log", xlabel="largest gradient\nover the median", title="g  bursts")
    wobbles.set(xscale="log", xlabel="wobble of JS in the\nlast quarter (nats)", title="h  wobble")
    for axis in (gaps, peaks, wobbles):
        axis.tick_params(axis="y", length=0)
        axis.grid(False, axis="y")
        for y in range(1, len(names)):
            axis.axhline(y - 0.5, color="#DDDDDD", linewidth=0.5, zorder=0)
    figure.legend(loc="outside lower center", ncols=len(plan.rates))
