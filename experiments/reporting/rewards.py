"""The reward that each method's divergence gives a log-ratio, and which log-ratios the policies'
own strings have: a picture for the page alone.

The log-ratio is that which the method's reward is of: log p - log q of whole strings, of tokens or
of prefixes, or where a return is maximised log ref - log q of whole strings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from experiments.reporting import charts, style
from experiments.reporting.charts import Drawing, Key, Panel
from experiments.reporting.schema import Json, MethodResult, RunResult
from fdiv import divergences
from fdiv.objectives.adversarial import fairl
from fdiv.types import UsageError

REACH, POINTS = 6.0, 97  # nats either side of 0
MOST = 6.0  # rewards beyond are not shown: some grow as the ratio itself
BINS = 24
S = "log-ratio s, nats"
SIDE = {"minExtent": 120, "maxExtent": 120}  # so that both panels begin at one place
SIDES = (  # metric of whole strings, its sign as a mean log-ratio, whose strings these are
    ("reverse_kl", -1, "policy"),
    ("forward_kl", 1, "expert"),
)
COUNTED = {"token": "token", "occupancy": "prefix"}  # level -> what a log-ratio is of; else strings


def picture(result: RunResult, samples: Sequence[Json]) -> Drawing | None:
    """Curves of `reward(s)`, and on them the means of s over both sides' strings, where these are
    known; under them where what the policies wrote lies, of the strings of `samples.jsonl`. Nothing
    where no method has a reward that is a function of a log-ratio, or no log-ratio is known."""
    visited = _visited(samples, result.methods)
    rows: style.Rows = []
    for name, m in result.methods.items():
        if name in visited or _means(m):
            rows += _curve(name, m)
    if not rows:
        return None
    looks = charts.looks(style.looks(result.methods))
    panels = [_curves(rows, looks)]
    sides = {row["side"] for row in rows if "side" in row}
    marks = {"policy": "o", "expert": "P"}
    keys = [Key(f"mean of the {x}'s strings", marks[x]) for x in marks if x in sides]
    shown = dict.fromkeys(row["method"] for row in rows)
    if counted := [row for name in shown for row in visited.get(name, [])]:
        panels.append(_histogram(counted, looks))
        keys.append(Key("share of what a policy wrote", line="band"))
    return Drawing("rewards", panels=panels, keys=keys, stacked=True)


def _means(m: MethodResult) -> list[tuple[float, str]]:
    """(mean log-ratio of whole strings, whose strings) where the reward is of whole strings."""
    if m.level != "sequence" or not {"reverse_kl", "forward_kl"} <= set(m.metrics):
        return []
    return [(sign * m.metrics[metric].iqm, side) for metric, sign, side in SIDES]


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


def _visited(samples: Sequence[Json], methods: Mapping[str, MethodResult]) -> dict[str, style.Rows]:
    """Method -> bin by bin the share of what it wrote that is there, all seeds together; what lies
    further out is in the last bin. Nothing of runs that did not keep the log-ratios."""
    found: dict[str, style.Rows] = {}
    for name, m in methods.items():
        lines = [line for line in samples if line["method"] == name]
        ratios = np.array([s for line in lines for s in _ratios(line, m.level)])
        if not ratios.size:
            continue
        counts, ends = np.histogram(np.clip(ratios, -REACH, REACH), BINS, (-REACH, REACH))
        own = {"method": name, "of": COUNTED.get(m.level, "string")}
        found[name] = [
            {**own, "x": float(a), "x_end": float(b), "share": n / ratios.size, "n": int(n)}
            for a, b, n in zip(ends, ends[1:], counts)
            if n
        ]
    return found


def _ratios(line: Json, level: str) -> list[float]:
    """The log-ratios of one string that a reward of that level is of, as far as they are kept."""
    if level in COUNTED:
        return list(line.get("ratios") or [])
    known = line.get("log_ref" if level == "return" else "log_p")
    own = line.get("log_q")
    return [] if known is None or own is None else [known - own]


def _histogram(rows: style.Rows, looks: charts.Looks) -> Panel:
    """A strip a method, the darker the more strings."""
    names = list(dict.fromkeys(row["method"] for row in rows))
    shown = [
        charts.words("method", "method"),
        charts.tip("x", "log-ratio from"),
        charts.tip("x_end", "to"),
        charts.tip("share", "share of them"),
        charts.tip("n", "number"),
        charts.words("of", "each a"),
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
    description = "Log-ratios of what each policy wrote"
    height = 60 + 22 * len(names)
    view = charts.view(description, [layer], height=height)
    return Panel("log-ratios of what the policies wrote", view, charts.columns(rows))


def _curve(name: str, m: MethodResult) -> style.Rows:
    reward = _reward(m)
    if reward is None:
        return []
    grid = np.linspace(-REACH, REACH, POINTS)
    values = reward(grid)
    rows = [
        {"method": name, "x": s, "y": r}
        for s, r in zip(grid.tolist(), values.tolist())
        if np.isfinite(r) and abs(r) <= 2 * MOST
    ]
    for s, side in _means(m):
        r = float(reward(np.array(s)))
        if np.isfinite(r):
            rows.append({"method": name, "side": side, "x": s, "y": r})
    return rows


def _reward(m: MethodResult) -> Callable[[np.ndarray], np.ndarray] | None:
    """What a method is paid for a log-ratio: its divergence's reward, or the one that it was
    published with. None where that is no function of one log-ratio (of pairs, at a temperature), or
    the divergence is of a file that is not imported here."""
    if m.how:
        return None
    try:
        divergence = divergences.parse(m.minimises)
        if m.published is True and m.group == "adversarial":
            divergence = fairl(divergence)
        divergence.reward(jnp.zeros(()))  # of what is no f of the ratio there is none
    except (UsageError, ValueError):
        return None
    return lambda s: np.asarray(divergence.reward(jnp.asarray(s, jnp.float32)), float)
