"""The reward that each method's divergence gives a log-ratio, with where the policy's and the
expert's strings lie on average: a picture for the page alone."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from experiments.reporting import charts, style
from experiments.reporting.charts import Drawing, Key, Panel
from experiments.reporting.schema import MethodResult, RunResult
from fdiv import divergences
from fdiv.types import UsageError

REACH, POINTS = 6.0, 97  # nats either side of 0
MOST = 6.0  # rewards beyond are not shown: some grow as the ratio itself
SIDES = (  # metric of whole strings, its sign as a mean log-ratio, whose strings these are
    ("reverse_kl", -1, "policy"),
    ("forward_kl", 1, "expert"),
)


def picture(result: RunResult) -> Drawing | None:
    """Curves of `reward(s)`, and on them the means of s over both sides' strings, which the two KLs
    of whole strings are; nothing where no method minimises a divergence whose reward is known, or
    those are not known."""
    rows: style.Rows = []
    for name, m in result.methods.items():
        if m.level == "return" or not {"reverse_kl", "forward_kl"} <= set(m.metrics):
            continue
        rows += _curve(name, m)
    if not rows:
        return None
    looks = charts.looks(style.looks(result.methods))
    x = charts.axis("x", "log-ratio s = log p - log q, nats", domain=(-REACH, REACH))
    place = {"x": x, "y": charts.axis("y", "reward of s", domain=(-MOST, MOST))}
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
    keys = [Key("mean of the policy's own strings", "o"), Key("mean of the expert's strings", "P")]
    return Drawing("rewards", panels=[Panel("", view, charts.columns(rows))], keys=keys)


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
