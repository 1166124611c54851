"""The reward that each method's divergence gives a log-ratio, and which log-ratios the policies'
strings have: a picture for the page alone."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from experiments.reporting import charts, style
from experiments.reporting.charts import Drawing, Key, Panel
from experiments.reporting.schema import Json, MethodResult, RunResult
from fdiv import divergences
from fdiv.types import UsageError

REACH, POINTS = 6.0, 97  # nats either side of 0
MOST = 6.0  # rewards beyond are not shown: some grow as the ratio itself
BINS = 24
S = "log-ratio s = log p - log q, nats"
SIDE = {"minExtent": 120, "maxExtent": 120}  # so that both panels begin at one place
SIDES = (  # metric of whole strings, its sign as a mean log-ratio, whose strings these are
    ("reverse_kl", -1, "policy"),
    ("forward_kl", 1, "expert"),
)


def picture(result: RunResult, samples: Sequence[Json]) -> Drawing | None:
    """Curves of `reward(s)`, and on them the means of s over both sides' strings, which the two KLs
    of whole strings are; under them where the policies' strings of `samples.jsonl` lie. Nothing
    where no method minimises a divergence whose reward is known, or those are not known."""
    rows: style.Rows = []
    for name, m in result.methods.items():
        if m.level == "return" or not {"reverse_kl", "forward_kl"} <= set(m.metrics):
            continue
        rows += _curve(name, m)
    if not rows:
        return None
    looks = charts.looks(style.looks(result.methods))
    panels = [_curves(rows, looks)]
    keys = [Key("mean of the policy's own strings", "o"), Key("mean of the expert's strings", "P")]
    shown = dict.fromkeys(row["method"] for row in rows)
    if visited := _visited(samples, list(shown)):
        panels.append(_histogram(visited, looks))
        keys.append(Key("share of the strings that a policy wrote", line="band"))
    return Drawing("rewards", panels=panels, keys=keys, stacked=True)


def _curves(rows: style.Rows, looks: charts.Looks) -> Panel:
    x = charts.axis("x", S, domain=(-REACH, REACH))
    y = charts.axis("y", "reward of s", domain=(-MOST, MOST), axis=SIDE)
    place = {"x": x, "y": y}
    shown = [
        charts.words("method", "method"),
        charts.words("side", "mean over the strings of the"),
        charts.tip("x", "log-ratio"),
        charts.tip("y", "reward"),
    ]
    whose = {
        "field": "side",
        "type": "nominal",
        "legend": None,
        "scale": {"domain": ["policy", "expert"], "range": [charts.mark("o"), charts.mark("P")]},
    }
    layers = [
        {
            "transform": [{"filter": "!datum.side"}],
            "mark": {"type": "line", "strokeWidth": 2, "clip": True},
            "encoding": {
                **place,
                "color": looks.colour,
                "strokeDash": looks.dash,
                "tooltip": [shown[0]],
            },
        },
        {
            "transform": [{"filter": "datum.side"}],
            "mark": {"type": "point", "filled": True, "size": 90, "opacity": 1, "clip": True},
            "encoding": {**place, "color": looks.colour, "shape": whose, "tooltip": shown},
        },
    ]
    view = charts.view("Reward of each method against the log-ratio", layers, height=300)
    return Panel("rewards", view, charts.columns(rows))


def _visited(samples: Sequence[Json], methods: Sequence[str]) -> style.Rows:
    """Method and bin -> the share of its strings there, all seeds together; what lies further out
    is in the last bin. Nothing of runs that did not keep the expert's log-probs."""
    rows: style.Rows = []
    for name in methods:
        own = [line for line in samples if line["method"] == name and "log_p" in line]
        ratios = [line["log_p"] - line["log_q"] for line in own if line.get("log_q") is not None]
        counts, ends = np.histogram(np.clip(ratios, -REACH, REACH), BINS, (-REACH, REACH))
        rows += [
            {
                "method": name,
                "x": float(a),
                "x_end": float(b),
                "share": n / len(ratios),
                "n": int(n),
            }
            for a, b, n in zip(ends, ends[1:], counts)
            if n
        ]
    return rows


def _histogram(rows: style.Rows, looks: charts.Looks) -> Panel:
    """A strip a method, the darker the more strings."""
    names = list(dict.fromkeys(row["method"] for row in rows))
    shown = [
        charts.words("method", "method"),
        charts.tip("x", "log-ratio from"),
        charts.tip("x_end", "to"),
        charts.tip("share", "share of its strings"),
        charts.tip("n", "strings"),
    ]
    y = {"field": "method", "type": "nominal", "title": "method", "sort": names, "axis": SIDE}
    layer = {
        "mark": {"type": "rect", "clip": True},
        "encoding": {
            "x": charts.axis("x", S, domain=(-REACH, REACH)),
            "x2": {"field": "x_end"},
            "y": y,
            "color": looks.colour,
            "opacity": {
                "field": "share",
                "type": "quantitative",
                "legend": None,
                "scale": {"domain": [0, 0.5], "range": [0.12, 1], "clamp": True},
            },
            "tooltip": shown,
        },
    }
    description = "Log-ratios of the strings that each policy wrote"
    height = 60 + 22 * len(names)
    view = charts.view(description, [layer], height=height)
    return Panel("log-ratios of the policies' own strings", view, charts.columns(rows))


def _curve(name: str, m: MethodResult) -> style.Rows:
    try:
        divergence = divergences.parse(m.minimises)
    except (UsageError, ValueError):  # of a file that is not imported here
        return []
    reward = lambda s: np.asarray(divergence.reward(jnp.asarray(s, jnp.float32)), float)
    grid = np.linspace(-REACH, REACH, POINTS)
    values = reward(grid)
    rows = [
        {"method": name, "x": s, "y": r}
        for s, r in zip(grid.tolist(), values.tolist())
        if np.isfinite(r) and abs(r) <= 2 * MOST
    ]
    for metric, sign, side in SIDES:
        s = sign * m.metrics[metric].iqm
        r = float(reward(s))
        if np.isfinite(r):
            rows.append({"method": name, "side": side, "x": s, "y": r})
    return rows
