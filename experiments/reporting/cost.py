"""What a method came to against what it took, and answers against how many may be drawn: pictures
for the page alone."""

from __future__ import annotations

import re

from experiments.reporting import charts, framing, scoreboards, style
from experiments.reporting.charts import Drawing, Key, Panel
from experiments.reporting.framing import Curve, Frame
from experiments.reporting.schema import Json, RunResult, Summary

PASS = re.compile(r"pass_(\d+)")


def picture(result: RunResult) -> Drawing | None:
    """The metric that ranks against seconds of training and against tokens, both a seed; nothing
    for a single method."""
    board = scoreboards.of_result(result)
    metric = board.metric(board.rank_by)
    rows = []
    for name, m in result.methods.items():
        scores = m.metrics.get(metric.name)
        if scores is not None and m.seconds > 0:
            seeds = scores.of or len(scores.seeds)
            row = {"method": name, "y": scores.iqm, **_ends(scores)}
            row |= {"seconds": m.seconds / seeds, "tokens": m.tokens / seeds}
            rows.append(row | {"compile": m.compile_seconds})
    if len(rows) < 2:
        return None
    title = charts.plain(metric.label)
    panels = [_panel(result, rows, "seconds", "training, seconds per seed", title)]
    if len({row["tokens"] for row in rows}) > 1:
        panels.append(_panel(result, rows, "tokens", "tokens learned from, per seed", title))
    keys = [Key("95% interval", line="-")] if result.seeds > 1 else []
    return Drawing("cost", panels=panels, keys=keys)


def _ends(scores: Summary) -> dict[str, float]:
    return {"low": scores.ci95[0], "high": scores.ci95[1]} if scores.ci95 else {}


def _frame(rows: style.Rows) -> Frame | None:
    curves = {
        row["method"]: Curve([row["y"]], [row.get("low", row["y"])], [row.get("high", row["y"])])
        for row in rows
    }
    return framing.frame(curves, log=False)


def _panel(result: RunResult, rows: style.Rows, field: str, x_title: str, y_title: str) -> Panel:
    looks = charts.looks(style.looks(result.methods))
    seen = _frame(rows)
    x = charts.axis(field, x_title, log=True)
    y = charts.axis("y", y_title, domain=(seen.low, seen.high) if seen else None)
    x["axis"] = {"format": "~s" if field == "tokens" else "~g"}
    for row in rows:
        if seen and row["method"] in seen.beyond:
            edge = seen.edge(row["y"])
            said = f"{row['method']} {row['y']:.3g}"
            row |= {"edge": edge, "beyond": "up" if edge == seen.high else "down", "said": said}
    shown = [
        charts.words("method", "method"),
        charts.tip("y", y_title),
        charts.tip("seconds", "seconds per seed"),
        charts.tip("tokens", "tokens per seed"),
        charts.tip("compile", "seconds to compile"),
    ]
    layers = [
        *_with_bars(x, y, looks, shown),
        *charts.arrows(x, {**y, "field": "edge"}, looks, shown),
    ]
    description = f"{y_title} of each method against {x_title}"
    return Panel("", charts.view(description, layers, height=300), charts.columns(rows))


def _with_bars(x: Json, y: Json, looks: charts.Looks, shown: list[Json]) -> list[Json]:
    return [
        {
            "transform": [{"filter": "isValid(datum.low)"}],
            "mark": {"type": "rule", "strokeWidth": 1.3, "clip": True},
            "encoding": {
                "x": x,
                "y": {**y, "field": "low"},
                "y2": {"field": "high"},
                "color": looks.colour,
            },
        },
        {
            "transform": [{"filter": "!datum.beyond"}],
            "mark": {"type": "point", "filled": True, "size": 110, "opacity": 1},
            "encoding": {
                "x": x,
                "y": y,
                "color": looks.colour,
                "shape": looks.shape,
                "tooltip": shown,
            },
        },
    ]


def pass_at_k(result: RunResult) -> Drawing | None:
    """pass@k against k: `accuracy` is k = 1; nothing where no answers are checked."""
    rows = []
    for name, m in result.methods.items():
        known = {int(found[1]): m.metrics[n] for n in m.metrics if (found := PASS.fullmatch(n))}
        if known and "accuracy" in m.metrics:
            known[1] = m.metrics["accuracy"]
        rows += [
            {"method": name, "k": k, "y": scores.iqm, **_ends(scores)}
            for k, scores in sorted(known.items())
        ]
    ticks = sorted({row["k"] for row in rows})
    if len(ticks) < 2:
        return None
    looks = charts.looks(style.looks(result.methods))
    x, y = charts.axis("k", "k, answers drawn", log=True), charts.axis("y", "pass@k")
    x["axis"] = {"values": ticks}
    x["scale"]["domain"] = [ticks[0] * 0.9, ticks[-1] * 1.1]
    shown = [charts.words("method", "method"), charts.tip("k", "k"), charts.tip("y", "pass@k")]
    line = {
        "mark": {"type": "line", "strokeWidth": 2},
        "encoding": {"x": x, "y": y, "color": looks.colour, "strokeDash": looks.dash},
    }
    layers = [line, *_with_bars(x, y, looks, shown)]
    view = charts.view("pass@k of each method against k", layers, height=300)
    keys = [Key("95% interval", line="-")] if result.seeds > 1 else []
    return Drawing("pass_at_k", panels=[Panel("", view, charts.columns(rows))], keys=keys)
