"""What a policy earns by a learned reward and by the true one, as it leaves the reference: where
they part, it over-optimises.

Gao, Schulman & Hilton 2023 (arXiv 2210.10760). A reward model is known up to a constant, so each
learned reward is moved to meet the true one where the policy sets off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from experiments import escapes
from experiments.evaluation.frontier import FrontierPoint, at_own_weight
from experiments.reporting import charts, framing, scoreboards, style
from experiments.reporting.charts import Drawing, Key, Panel
from experiments.reporting.framing import Curve, Frame
from experiments.reporting.schema import HistoryLine, RunResult
from fdiv import statistics

STILL = 1e-6  # nats: a policy that is this close to the reference has not set off
DIVERGENCE = ("divergence_to_reference", "penalty")  # exact, or else of the policy's own batch
REWARD = ("reward", "score")


class Point(NamedTuple):
    """One update of a method: IQMs over seeds."""

    update: int
    divergence: float  # from the reference, nats
    gold: float  # the true reward
    proxy: float  # the learned one


def curves(history: Sequence[HistoryLine]) -> dict[str, list[Point]]:
    """Method -> its points in order, from where the policy set off; methods with a learned reward
    alone."""
    by_method = {}
    for name in dict.fromkeys(line["method"] for line in history if line.get("proxy") is not None):
        lines = [line for line in history if line["method"] == name]
        updates = sorted({line["update"] for line in lines})
        points = [_point([line for line in lines if line["update"] == u]) for u in updates]
        points = [point for point in points if point is not None]
        still = [i for i, point in enumerate(points) if point.divergence <= STILL]
        points = points[still[-1] if still else 0 :]
        if points and points[-1].divergence > STILL:
            moved = points[0].gold - points[0].proxy
            by_method[name] = [point._replace(proxy=point.proxy + moved) for point in points]
    return by_method


def _point(lines: Sequence[HistoryLine]) -> Point | None:
    """One update; exact values where there are any, else those of the policy's own strings."""
    names = [
        exact if lines[0].get(exact) is not None else sampled
        for exact, sampled in (DIVERGENCE, REWARD)
    ]
    values = [
        np.array([line.get(name, np.nan) for line in lines], float) for name in (*names, "proxy")
    ]
    if not all(np.isfinite(v).any() for v in values):
        return None
    return Point(lines[0]["update"], *(statistics.iqm(v[np.isfinite(v)]) for v in values))


def picture(result: RunResult, history: Sequence[HistoryLine], folder: Path) -> Drawing | None:
    """A panel a method: true reward (solid) and learned reward (dashed) against the divergence;
    nothing where no reward was learned."""
    drawn = curves(history)
    if not drawn:
        return None
    style.use()
    figure, axes = plt.subplots(
        1,
        len(drawn),
        figsize=(1.2 + 2.1 * len(drawn), 2.9),
        squeeze=False,
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    best = at_own_weight(result.frontier) if result.frontier else None
    divergence = scoreboards.of_result(result).metric("divergence_to_reference")
    looks = style.looks(result.methods)
    seen = _frame(drawn, best)
    for axis, (name, points) in zip(axes[0], drawn.items()):
        _panel(axis, points, looks[name]["color"], best)
        axis.set(title=escapes.label(name), xlabel=divergence.label)
        if seen and name in seen.beyond:
            point = points[seen.beyond[name] % len(points)]
            value = point.gold if seen.beyond[name] < len(points) else point.proxy
            edge = seen.edge(value)
            place, towards = (point.divergence, edge), "up" if edge == seen.high else "down"
            style.arrow(axis, place, towards, looks[name]["color"], f"{value:.3g}")
    if seen:
        axes[0][0].set_ylim(seen.low, seen.high)
    axes[0][0].set_ylabel("reward")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    rows = [
        {"method": name} | point._asdict() for name, points in drawn.items() for point in points
    ]
    svg = style.save(figure, folder, "overoptimisation", rows)
    keys = [Key("true reward", line="-"), Key("learned reward", line="--")]
    if best:
        keys.append(Key("optimum", "*", colour=charts.INK, hollow=True))
    title = charts.plain(divergence.label)
    panel = _chart(drawn, charts.looks(looks), best, seen, title)
    return Drawing("overoptimisation", svg, [panel], keys)


def _frame(drawn: Mapping[str, Sequence[Point]], best: FrontierPoint | None) -> Frame | None:
    """The rewards that are shown: first all true ones of a method, then all learned ones."""
    values = {n: [p.gold for p in ps] + [p.proxy for p in ps] for n, ps in drawn.items()}
    also = [best.reward] if best else []
    return framing.frame({n: Curve(v, [], []) for n, v in values.items()}, log=False, also=also)


def _panel(axis: Axes, points: Sequence[Point], colour: str, best: FrontierPoint | None) -> None:
    x = [point.divergence for point in points]
    marks = {"color": colour, "marker": "o", "markersize": 3}
    axis.plot(x, [point.gold for point in points], label="true reward", **marks)
    axis.plot(
        x,
        [point.proxy for point in points],
        label="learned reward",
        linestyle="--",
        markerfacecolor="none",
        **marks,
    )
    if best:
        axis.plot(
            best.divergence_to_reference,
            best.reward,
            color=style.EXPERT,
            marker="*",
            markersize=12,
            linestyle="",
            markerfacecolor="none",
            label="optimum",
        )


def _chart(
    drawn: Mapping[str, Sequence[Point]],
    looks: charts.Looks,
    best: FrontierPoint | None,
    seen: Frame | None,
    title: str,
) -> Panel:
    """All methods in one, for the page, where each can be switched off."""
    rows: style.Rows = [
        {"kind": kind, "method": name, "update": p.update, "x": p.divergence, "y": value}
        for name, points in drawn.items()
        for p in points
        for kind, value in (("true", p.gold), ("learned", p.proxy))
    ]
    if best:
        rows.append({"kind": "optimum", "x": best.divergence_to_reference, "y": best.reward})
    domain = (seen.low, seen.high) if seen else None
    place = {"x": charts.axis("x", title), "y": charts.axis("y", "reward", domain=domain)}
    shown = [
        charts.words("method", "method"),
        charts.words("kind", "reward"),
        charts.tip("y", "value"),
        charts.tip("x", title),
        charts.tip("update", "updates"),
    ]
    dash = {
        "field": "kind",
        "type": "nominal",
        "legend": None,
        "scale": {
            "domain": ["true", "learned"],
            "range": [charts.DASHES["-"], charts.DASHES["--"]],
        },
    }
    layers = [
        {
            "transform": [{"filter": "datum.method"}],
            "mark": {"type": "line", "strokeWidth": 2, "clip": True},
            "encoding": {
                **place,
                "color": looks.colour,
                "strokeDash": dash,
                "order": {"field": "update"},
            },
        },
        {
            "transform": [{"filter": "datum.method"}],
            "mark": {"type": "point", "filled": True, "size": 30, "opacity": 1, "clip": True},
            "encoding": {**place, "color": looks.colour, "tooltip": shown},
        },
        {
            "transform": [{"filter": "datum.kind == 'optimum'"}],
            "mark": {
                "type": "point",
                "shape": charts.mark("*"),
                "size": 230,
                "stroke": charts.INK,
                "strokeWidth": 1.5,
            },
            "encoding": {**place, "tooltip": shown[1:4]},
        },
    ]
    description = f"True and learned reward of each method against {title}"
    return Panel("", charts.view(description, layers, height=320), charts.columns(rows))
