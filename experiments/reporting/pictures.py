"""The pictures of a head-to-head, each saved as PDF, PNG and the CSV behind it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import ticker

from experiments.reporting import style
from fdiv import statistics

Rows = list[dict[str, Any]]
TITLES = {
    "forward_kl": "forward KL (nats)",
    "reverse_kl": "reverse KL (nats)",
    "js": "Jensen-Shannon (nats)",
    "tv": "total variation",
    "reward": "expected reward",
    "spent": "divergence from the reference (nats)",
    "valid": "share of valid strings",
    "entropy": "entropy (nats)",
    "likelihood": "expert's NLL of the policy's strings (nats)",
    "validation_nll": "validation NLL (nats per token)",
    "js_token": "JS per token, own prefixes (nats)",
    "gap": "gap to the class optimum (nats)",
    "reverse_kl_token": "reverse KL per token, own prefixes (nats)",
    "self_bleu": "self-BLEU",
    "distinct_2": "distinct 2-grams",
    "forward_kl_token_expert": "forward KL per token, expert's prefixes (nats)",
    "greedy_accuracy": "greedy accuracy",
    "accuracy": "accuracy",
    "penalty": "divergence from the start (nats)",
    "way_entropy": "entropy of right ways (nats)",
}


def save(figure: Any, folder: Path, name: str, rows: Rows) -> str:
    """Write NAME.pdf, .png and .csv; return the picture as SVG for the report."""
    figure.canvas.draw()
    figure.set_layout_engine("none")  # laid out once: what follows only draws
    figure.savefig(folder / f"{name}.pdf")
    figure.savefig(folder / f"{name}.png")
    vector = io.StringIO()
    figure.savefig(vector, format="svg")
    plt.close(figure)
    with (folder / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    text = vector.getvalue()
    return text[text.index("<svg") :]


def legend(figure: Any, results: Mapping[str, Any], stars: Sequence[str] = ()) -> None:
    """One entry a method, and one a star, under the whole figure."""
    handles = [
        plt.Line2D([], [], label=name, markersize=5, **style.look(m))
        for name, m in results["methods"].items()
    ]
    hollow = {"marker": "*", "linestyle": "", "markerfacecolor": "none", "markersize": 9}
    handles += [
        plt.Line2D([], [], label=f"best {name}", color=style.colour(name), **hollow)
        for name in stars
    ]
    columns = 5 if stars else min(7, len(handles))
    figure.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        ncols=columns,
        columnspacing=1.2,
        handlelength=2.8,
    )


# --- learning curves ------------------------------------------------------------------------------


def curves(results: Mapping[str, Any], history: Rows, folder: Path) -> str:
    """IQM over seeds with its 95% band against tokens learned from, one panel a metric."""
    style.use()
    exact = bool(results["class_optimum"])
    returns = (
        ["gap", "reward", "spent", "entropy"]
        if results["frontier"]
        else ["gap", "js", "valid", "entropy"]
    )
    verified = ["greedy_accuracy", "accuracy", "penalty", "way_entropy", "entropy"]
    sampled = (
        verified if _verified(results) else ["validation_nll", "js_token", "likelihood", "entropy"]
    )
    panels = returns if exact else sampled
    table = [line | _gap(line, results) for line in history if line["method"] in results["methods"]]
    panels = [panel for panel in panels if any(line.get(panel) is not None for line in table)]
    figure, axes = plt.subplots(
        1, len(panels), figsize=(3.1 * len(panels), 2.7), squeeze=False, layout="constrained"
    )
    rows: Rows = []
    for axis, panel in zip(axes[0], panels):
        for name, method in results["methods"].items():
            band = _band(
                [line for line in table if line["method"] == name and line.get(panel) is not None],
                panel,
            )
            rows += [{"method": name, "metric": panel, **point} for point in band]
            _draw_band(axis, band, style.look(method), panel)
        _dress(axis, panel, results)
    legend(figure, results)
    return save(figure, folder, "learning_curves", rows)


def _verified(results: Mapping[str, Any]) -> bool:
    """Whether answers were checked."""
    return "greedy_accuracy" in results["start"]


def _gap(line: dict[str, Any], results: Mapping[str, Any]) -> dict[str, float]:
    """A method's distance to the best of the class at a point of its curve."""
    method = results["methods"][line["method"]]
    return (
        {"gap": line["own"] - method["best"]}
        if method.get("best") is not None and line.get("own") is not None
        else {}
    )


def _band(lines: Rows, metric: str) -> Rows:
    points = []
    for update in sorted({line["update"] for line in lines}):
        here = [line for line in lines if line["update"] == update]
        values = [
            line[metric] for line in here if line[metric] is not None and np.isfinite(line[metric])
        ]
        if values:
            low, high = statistics.bootstrap(values, repetitions=500)
            tokens = float(np.mean([line["tokens"] for line in here]))
            points.append(
                {
                    "update": update,
                    "tokens": tokens,
                    "iqm": statistics.iqm(values),
                    "low": low,
                    "high": high,
                }
            )
    return points


FLOOR = 1e-5  # gaps below this are sampling noise and rounding


def _draw_band(axis: Any, band: Rows, look: dict[str, Any], panel: str) -> None:
    if not band:
        return
    x = np.array([point["tokens"] for point in band])
    middle, low, high = (np.array([point[key] for point in band]) for key in ("iqm", "low", "high"))
    if panel == "gap":
        middle, low, high = (np.maximum(v, FLOOR) for v in (middle, low, high))
    plain = {k: v for k, v in look.items() if k != "marker"}
    axis.plot(x, middle, **plain)
    axis.plot(
        x[-1], middle[-1], color=look["color"], marker=look["marker"], markersize=5, clip_on=False
    )
    axis.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)


def _dress(axis: Any, panel: str, results: Mapping[str, Any]) -> None:
    axis.set_title("regret" if panel == "gap" and results["frontier"] else TITLES.get(panel, panel))
    axis.set_xlabel("tokens learned from, per seed")
    axis.ticklabel_format(axis="x", style="sci", scilimits=(0, 3))
    if panel in ("gap", "js", "js_token"):
        axis.set_yscale("log")
    if panel in ("js", "js_token"):
        _plain_ticks(axis.yaxis)
    if panel == "gap":
        axis.set_ylim(bottom=FLOOR)
    elif panel in results["expert"] and panel not in ("js",):
        axis.axhline(
            results["expert"][panel], color=style.EXPERT, linewidth=0.9, linestyle=(0, (1, 2))
        )
        axis.annotate(
            "expert",
            (1, results["expert"][panel]),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=7,
        )


# --- planes ---------------------------------------------------------------------------------------


def quality_diversity(results: Mapping[str, Any], sweep: Rows, folder: Path) -> str:
    """Diversity against quality at the end of training, with the SFT policy swept over
    temperatures."""
    exact = bool(results["class_optimum"])
    x, y = (
        ("entropy", "valid")
        if exact and "valid" in results["expert"]
        else ("entropy", "likelihood")
    )
    x, y = ("way_entropy", "accuracy") if _verified(results) else (x, y)
    return _plane(results, x, y, folder, "quality_diversity", sweep)


def divergence_plane(results: Mapping[str, Any], sweep: Rows, folder: Path) -> str:
    """What each method pays in either KL; where answers are checked, what it pays for its
    accuracy."""
    if _verified(results):
        return _plane(results, "penalty", "accuracy", folder, "divergence_divergence", sweep)
    if results["class_optimum"]:
        return _plane(
            results, "forward_kl", "reverse_kl", folder, "divergence_divergence", sweep, log=True
        )
    return _plane(
        results,
        "forward_kl_token_expert",
        "reverse_kl_token",
        folder,
        "divergence_divergence",
        sweep,
        log=True,
    )


def _plane(
    results: Mapping[str, Any],
    x: str,
    y: str,
    folder: Path,
    name: str,
    sweep: Rows,
    log: bool = False,
) -> str:
    style.use()
    figure, axis = plt.subplots(figsize=(4.9, 3.9), layout="constrained")
    if log:
        for side, scale in ((axis.xaxis, axis.set_xscale), (axis.yaxis, axis.set_yscale)):
            scale("log")
            _plain_ticks(side)
    methods = [
        (n, m) for n, m in results["methods"].items() if x in m["metrics"] and y in m["metrics"]
    ]
    stars = _distinct(
        [(n, row) for n, row in results["class_optimum"].items() if x in row and y in row], x, y
    )
    start = results["start"] | {"penalty": 0.0}
    begun = [(start[x], start[y])] if _verified(results) and x in start else []
    ended = [(m["metrics"][x]["iqm"], m["metrics"][y]["iqm"]) for _, m in methods]
    inside = _frame(axis, ended + begun, [(r[x], r[y]) for _, r in stars], log)
    rows = [
        *_temperature_curve(axis, sweep, x, y),
        *_optima(axis, stars, x, y),
        *_points(axis, methods, x, y, inside),
    ]
    if x in results["expert"] and y in results["expert"] and not log:
        at = (results["expert"][x], results["expert"][y])
        axis.plot(*at, marker="P", color=style.EXPERT, markersize=9, linestyle="")
        axis.annotate("expert", at, textcoords="offset points", xytext=(7, 4), fontsize=8)
        rows.append({"what": "expert", x: at[0], y: at[1]})
    for at in begun:
        axis.plot(*at, marker="s", color=style.EXPERT, markersize=6, linestyle="")
        axis.annotate("start", at, textcoords="offset points", xytext=(7, 4), fontsize=8)
        rows.append({"what": "start", x: at[0], y: at[1]})
    axis.set_xlabel(TITLES.get(x, x))
    axis.set_ylabel(TITLES.get(y, y))
    legend(figure, results, [n for n, _ in stars])
    return save(figure, folder, name, rows)


class _Plain(ticker.LogFormatter):
    """0.4 rather than 4e-01, at those ticks that have room for a number."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def _plain_ticks(side: Any) -> None:
    side.set_major_formatter(ticker.FormatStrFormatter("%g"))
    side.set_minor_formatter(_Plain(labelOnlyBase=False, minor_thresholds=(1.5, 0.5)))


def _frame(axis: Any, points: list, stars: list, log: bool):
    """Limits that hold the stars and all points not far off; answers whether a point is inside."""
    limits = []
    for k, (points_k, stars_k) in enumerate(zip(zip(*points), zip(*stars) if stars else ((), ()))):
        values = np.array([*points_k, *stars_k], float)
        scale = np.log(np.maximum(values, 1e-6)) if log else values
        middle, spread = np.median(scale), np.median(np.abs(scale - np.median(scale)))
        kept = scale[np.abs(scale - middle) <= max(8 * spread, 1.0)]
        room = 0.15 * max(np.ptp(kept), 0.2 if log else 0.02)
        low, high = kept.min() - room, kept.max() + room
        limits.append((np.exp(low), np.exp(high)) if log else (low, high))
        (axis.set_xlim if k == 0 else axis.set_ylim)(*limits[-1])
    return lambda u, v: limits[0][0] <= u <= limits[0][1] and limits[1][0] <= v <= limits[1][1]


def _points(axis: Any, methods: list, x: str, y: str, inside: Any) -> Rows:
    rows, outside = [], []
    for name, m in methods:
        a, b, look = m["metrics"][x], m["metrics"][y], style.look(m)
        rows += [
            {"what": "method", "name": name, "seed": i, x: u, y: v}
            for i, (u, v) in enumerate(zip(a["seeds"], b["seeds"]))
        ]
        if not inside(a["iqm"], b["iqm"]):
            outside.append(f"{name} ({a['iqm']:.3g}, {b['iqm']:.3g})")
            continue
        axis.plot(
            a["seeds"],
            b["seeds"],
            color=look["color"],
            marker=".",
            markersize=3,
            alpha=0.5,
            linestyle="",
        )
        around = lambda v: np.abs(np.array([[v["iqm"] - v["ci95"][0]], [v["ci95"][1] - v["iqm"]]]))
        axis.errorbar(
            a["iqm"],
            b["iqm"],
            xerr=around(a),
            yerr=around(b),
            color=look["color"],
            marker=look["marker"],
            markersize=7,
            linestyle="",
            elinewidth=1,
            zorder=3,
            markeredgecolor="white",
            markeredgewidth=0.6,
        )
    if outside:
        axis.set_title(
            "outside the frame: " + ", ".join(outside), fontsize=7.5, loc="right", color="#666666"
        )
    return rows


def _distinct(stars: list, x: str, y: str) -> list:
    """Class optima by place: twice a divergence has the same minimiser, and one star says so."""
    places: dict[tuple, tuple[str, dict]] = {}
    for name, row in stars:
        place = (round(row[x], 4), round(row[y], 4))
        places[place] = (f"{places[place][0]}, {name}" if place in places else name, row)
    return list(places.values())


def _optima(axis: Any, stars: list, x: str, y: str) -> Rows:
    """The policies of the class that are best for each divergence."""
    for name, row in stars:
        axis.plot(
            row[x],
            row[y],
            marker="*",
            color=style.colour(name),
            markersize=14,
            markerfacecolor="none",
            linestyle="",
            zorder=4,
        )
    return [{"what": "class optimum", "name": name, x: row[x], y: row[y]} for name, row in stars]


def _temperature_curve(axis: Any, sweep: Rows, x: str, y: str) -> Rows:
    points = [(row[x], row[y], row["temperature"]) for row in sweep if x in row and y in row]
    if points:
        u, v, _heat = zip(*points)
        axis.plot(u, v, color="#999999", linewidth=1.1, zorder=1, marker=".", markersize=4)
        for a, b, t in points:
            axis.annotate(
                f"{t:g}",
                (a, b),
                textcoords="offset points",
                xytext=(3, 4),
                fontsize=6.5,
                color="#888888",
                annotation_clip=True,
            )
    return [{"what": "SFT at temperature", "name": t, x: a, y: b} for a, b, t in points]


def every(
    results: Mapping[str, Any], history: Rows, sweep: Sequence[dict], folder: Path
) -> dict[str, str]:
    """All pictures: name -> SVG."""
    sweep = list(sweep)
    from experiments.reporting import frontier, overoptimisation

    drawn = {"frontier": frontier.picture(results, folder)} if results["frontier"] else {}
    drawn["overoptimisation"] = overoptimisation.picture(results, history, folder)
    return drawn | {
        "learning_curves": curves(results, history, folder),
        "quality_diversity": quality_diversity(results, sweep, folder),
        "divergence_divergence": divergence_plane(results, sweep, folder),
    }
