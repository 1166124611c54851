"""Reward against divergence from the reference: the exact frontier, and how far from it each method
ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from experiments import escapes
from experiments.evaluation.frontier import FrontierPoint, at_own_weight, overspent
from experiments.reporting import charts, framing, scoreboards, style
from experiments.reporting.charts import Drawing, Key, Panel
from experiments.reporting.framing import Curve
from experiments.reporting.schema import MethodResult, RunResult, paired
from fdiv import statistics

X, Y = "divergence_to_reference", "reward"
Methods = dict[str, MethodResult]


def picture(result: RunResult, folder: Path) -> Drawing | None:
    """Left the plane with the frontier, right each method's distance from it, by seed; nothing
    where no frontier is known."""
    methods = {
        k: m
        for k, m in result.methods.items()
        if {X, Y} <= set(m.metrics) and paired(m.metrics[X], m.metrics[Y])
    }
    if not result.frontier or not methods:
        return None
    style.use()
    figure, (plane, bars) = plt.subplots(
        1, 2, figsize=(9.2, 3.9), layout="constrained", width_ratios=(1.35, 1)
    )
    beyond = {
        name: [overspent(a, b, result.frontier) for _, a, b in paired(m.metrics[X], m.metrics[Y])]
        for name, m in methods.items()
    }
    divergence = scoreboards.of_result(result).metric(X)
    all_looks = style.looks(result.methods)
    looks = {name: all_looks[name] for name in methods}
    seen = _draw_plane(plane, methods, looks, result.frontier)
    plane.set(xlabel=divergence.label, ylabel="expected reward")
    _draw_distances(bars, methods, looks, beyond)
    over = f"{divergence.short} beyond what its reward needs (nats)"
    bars.set_xlabel(over)
    style.legend(figure, methods, others=_others(result.seeds))
    rows = [{"what": "frontier", **point._asdict()} for point in result.frontier]
    rows += [
        {"what": name, "seed": i, X: a, Y: b, "overspent": c}
        for name, m in methods.items()
        for (i, a, b), c in zip(paired(m.metrics[X], m.metrics[Y]), beyond[name])
    ]
    svg = style.save(figure, folder, "frontier", rows)
    titles = (charts.plain(divergence.label), "expected reward", over)
    panels = [
        _plane_panel(methods, result, charts.looks(looks), titles, seen),
        _distance_panel(methods, beyond, charts.looks(looks), titles),
    ]
    return Drawing("frontier", svg, panels, _keys(result.seeds))


def _others(seeds: int) -> list[Artist]:
    """What a legend has beside the methods."""
    star = {"marker": "*", "markersize": 11, "markerfacecolor": "none", "color": style.EXPERT}
    line = {"linestyle": "-", "linewidth": 1.2, "color": style.EXPERT}
    dots = [style.key("a seed", **style.SEED)] if seeds > 1 else []
    return [style.key("frontier", **line), style.key("optimum at this beta", **star), *dots]


def _keys(seeds: int) -> list[Key]:
    """The same in the page."""
    dots = [Key("a seed", ".")] if seeds > 1 else []
    star = Key("optimum at this run's beta", "*", colour=charts.INK, hollow=True)
    return [Key("frontier", line="-", colour=charts.INK), star, *dots]


def _draw_plane(
    axis: Axes,
    methods: Methods,
    looks: Mapping[str, style.Line],
    points: Sequence[FrontierPoint],
) -> tuple[float, float]:
    """The frontier and the methods; answers from where to where the divergence is shown."""
    axis.plot(
        [point.divergence_to_reference for point in points],
        [point.reward for point in points],
        color=style.EXPERT,
        linewidth=1.2,
    )
    best = at_own_weight(points)
    star = {"marker": "*", "markersize": 13, "markerfacecolor": "none"}
    axis.plot(best.divergence_to_reference, best.reward, color=style.EXPERT, **star)
    low, high = _seen(methods, best)
    for name, m in methods.items():
        x, y = m.metrics[X], m.metrics[Y]
        both = paired(x, y)
        if x.iqm > high:
            said = f"{name} ({x.iqm:.3g}, {y.iqm:.3g})"
            style.arrow(axis, (high, y.iqm), "right", looks[name]["color"], said)
            continue
        _mark(axis, looks[name], [a for _, a, _ in both], [b for _, _, b in both], (x.iqm, y.iqm))
    axis.set_xlim(low, high)
    return low, high


def _seen(methods: Methods, best: FrontierPoint) -> tuple[float, float]:
    """From where to where the divergence is shown: as far as the methods go, but for one that
    alone goes far beyond."""
    places = {name: m.metrics[X].iqm for name, m in methods.items()}
    curves = {name: Curve([0.0, x], [], []) for name, x in places.items()}
    frame = framing.frame(curves, log=False, also=[best.divergence_to_reference])
    near = [x for name, x in places.items() if frame is None or name not in frame.beyond]
    most = max([best.divergence_to_reference, *near])
    most = most if most > 0 else 1.0  # nobody has left the reference, and it is best to stay
    return -0.03 * most, 1.2 * most


def _draw_distances(
    axis: Axes,
    methods: Methods,
    looks: Mapping[str, style.Line],
    beyond: dict[str, list[float]],
) -> None:
    for place, name in enumerate(methods):
        seeds = beyond[name]
        _mark(axis, looks[name], seeds, [place] * len(seeds), (statistics.iqm(seeds), place))
    axis.set(yticks=range(len(methods)), yticklabels=[escapes.label(name) for name in methods])
    axis.invert_yaxis()
    axis.axvline(0, color=style.EXPERT, linewidth=0.8)
    axis.set_xscale("symlog", linthresh=1e-2)
    axis.set_xlim(-2e-3, 2 * max([0.02, *(x for seeds in beyond.values() for x in seeds)]))


def _mark(
    axis: Axes,
    look: style.Line,
    x: Sequence[float],
    y: Sequence[float],
    middle: tuple[float, float],
) -> None:
    """Seeds as dots, their IQM as the method's own mark."""
    axis.plot(x, y, linestyle="", marker=".", markersize=4, alpha=0.5, color=look["color"])
    axis.plot(
        *middle,
        linestyle="",
        marker=look["marker"],
        markersize=7,
        color=look["color"],
        markeredgecolor="white",
    )


# --- in the page ----------------------------------------------------------------------------------


def _plane_panel(
    methods: Methods,
    result: RunResult,
    looks: charts.Looks,
    titles: tuple[str, str, str],
    seen: tuple[float, float],
) -> Panel:
    line = [point for point in result.frontier if point.divergence_to_reference <= seen[1]]
    rows = [
        {"kind": "frontier", "x": p.divergence_to_reference, "y": p.reward, "beta": p.beta}
        for p in line
    ]
    best = at_own_weight(result.frontier)
    rows.append({"kind": "optimum", "x": best.divergence_to_reference, "y": best.reward})
    for name, m in methods.items():
        a, b = m.metrics[X], m.metrics[Y]
        rows += [
            {"kind": "seed", "method": name, "seed": i, "x": u, "y": v} for i, u, v in paired(a, b)
        ]
        said = f"{name} ({a.iqm:.3g}, {b.iqm:.3g})"
        far = a.iqm > seen[1]
        beyond = {"x_edge": seen[1], "beyond": "right", "said": said} if far else {}
        rows.append({"kind": "IQM", "method": name, "x": a.iqm, "y": b.iqm, **beyond})
    x, y = charts.axis("x", titles[0], domain=seen), charts.axis("y", titles[1])
    shown = [
        charts.words("method", "method"),
        charts.tip("x", titles[0]),
        charts.tip("y", titles[1]),
    ]
    place, coloured = {"x": x, "y": y}, {"color": looks.colour, "tooltip": shown}
    only = lambda what: [{"filter": what}]
    layers = [
        {
            "transform": only("datum.kind == 'frontier'"),
            "mark": {"type": "line", "color": charts.INK, "strokeWidth": 1.3, "clip": True},
            "encoding": {**place, "order": {"field": "x"}},
        },
        {
            "transform": only("datum.kind == 'optimum'"),
            "mark": {
                "type": "point",
                "shape": charts.mark("*"),
                "size": 230,
                "stroke": charts.INK,
                "strokeWidth": 1.5,
            },
            "encoding": {**place, "tooltip": [charts.words("kind", "what"), *shown[1:]]},
        },
        {
            "transform": only("datum.kind == 'seed'"),
            "mark": {"type": "point", "filled": True, "size": 22, "opacity": 0.45, "clip": True},
            "encoding": {**place, **coloured},
        },
        {
            "transform": only("datum.kind == 'IQM' && !datum.beyond"),
            "mark": {"type": "point", "filled": True, "size": 100, "opacity": 1},
            "encoding": {**place, **coloured, "shape": looks.shape},
        },
        *charts.arrows({**x, "field": "x_edge"}, y, looks, shown),
    ]
    description = f"{titles[1]} against {titles[0]}, with the exact frontier"
    return Panel("", charts.view(description, layers, height=340), charts.columns(rows))


def _distance_panel(
    methods: Methods, beyond: dict[str, list[float]], looks: charts.Looks, titles: Sequence[str]
) -> Panel:
    rows = []
    for name, m in methods.items():
        numbers = [i for i, _, _ in paired(m.metrics[X], m.metrics[Y])]
        rows += [
            {"kind": "seed", "method": name, "seed": i, "x": value}
            for i, value in zip(numbers, beyond[name])
        ]
        rows.append({"kind": "IQM", "method": name, "x": statistics.iqm(beyond[name])})
    x = charts.axis("x", titles[2])
    x["scale"] |= {"type": "symlog", "constant": 0.01, "zero": True}
    y = {"field": "method", "type": "nominal", "title": None, "sort": list(methods)}
    shown = [charts.words("method", "method"), charts.tip("x", titles[2])]
    place = {"x": x, "y": y, "color": looks.colour, "tooltip": shown}
    layers = [
        {
            "transform": [{"filter": "datum.kind == 'seed'"}],
            "mark": {"type": "point", "filled": True, "size": 22, "opacity": 0.45},
            "encoding": place,
        },
        {
            "transform": [{"filter": "datum.kind == 'IQM'"}],
            "mark": {"type": "point", "filled": True, "size": 100, "opacity": 1},
            "encoding": {**place, "shape": looks.shape},
        },
    ]
    description = f"{titles[2]}, by method"
    return Panel("", charts.view(description, layers, height=340), charts.columns(rows))
