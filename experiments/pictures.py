"""The pictures of a head-to-head, each saved as PDF, PNG and the CSV behind it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments import style
from fdiv import statistics

Rows = list[dict[str, Any]]
TITLES = {
    "forward_kl": "forward KL (nats)", "reverse_kl": "reverse KL (nats)", "js": "Jensen-Shannon (nats)", "tv": "total variation",
    "valid": "share of valid strings", "entropy": "entropy (nats)", "likelihood": "expert's NLL of the policy's strings (nats)",
    "validation_nll": "validation NLL (nats per token)", "js_token": "JS per token, own prefixes (nats)", "gap": "gap to the class optimum (nats)",
    "reverse_kl_token": "reverse KL per token, own prefixes (nats)", "self_bleu": "self-BLEU", "distinct_2": "distinct 2-grams",
    "forward_kl_token_expert": "forward KL per token, expert's prefixes (nats)",
}  # fmt: skip


def save(figure: Any, folder: Path, name: str, rows: Rows) -> str:
    """Write NAME.pdf, .png and .csv; return the picture as SVG for the report."""
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


def legend(figure: Any, results: Mapping[str, Any]) -> None:
    """One entry a method under the whole figure."""
    handles = [plt.Line2D([], [], label=name, markersize=5, **style.look(m)) for name, m in results["methods"].items()]
    figure.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=min(7, len(handles)))


# --- learning curves -----------------------------------------------------------------------------------------------


def curves(results: Mapping[str, Any], history: Rows, folder: Path) -> str:
    """IQM over seeds with its 95% band against tokens learned from, one panel a metric."""
    style.use()
    exact = bool(results["class_optimum"])
    panels = ["gap", "js", "valid", "entropy"] if exact else ["validation_nll", "js_token", "likelihood", "entropy"]
    table = [line | _gap(line, results) for line in history if line["method"] in results["methods"]]
    panels = [panel for panel in panels if any(panel in line for line in table)]
    figure, axes = plt.subplots(1, len(panels), figsize=(3.1 * len(panels), 2.7), squeeze=False, layout="constrained")
    rows: Rows = []
    for axis, panel in zip(axes[0], panels):
        for name, method in results["methods"].items():
            band = _band([line for line in table if line["method"] == name and panel in line], panel)
            rows += [{"method": name, "metric": panel, **point} for point in band]
            _draw_band(axis, band, style.look(method), panel)
        _dress(axis, panel, results)
    legend(figure, results)
    return save(figure, folder, "learning_curves", rows)


def _gap(line: dict[str, Any], results: Mapping[str, Any]) -> dict[str, float]:
    """A method's distance to the best of the class at a point of its curve."""
    method = results["methods"][line["method"]]
    return {"gap": line["own"] - method["best"]} if method.get("best") is not None and "own" in line else {}


def _band(lines: Rows, metric: str) -> Rows:
    points = []
    for update in sorted({line["update"] for line in lines}):
        here = [line for line in lines if line["update"] == update]
        values = [line[metric] for line in here if line[metric] is not None and np.isfinite(line[metric])]
        if values:
            low, high = statistics.bootstrap(values, repetitions=500)
            tokens = float(np.mean([line["tokens"] for line in here]))
            points.append({"update": update, "tokens": tokens, "iqm": statistics.iqm(values), "low": low, "high": high})
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
    axis.plot(x[-1], middle[-1], color=look["color"], marker=look["marker"], markersize=5, clip_on=False)
    axis.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)


def _dress(axis: Any, panel: str, results: Mapping[str, Any]) -> None:
    axis.set_title(TITLES.get(panel, panel))
    axis.set_xlabel("tokens learned from, per seed")
    axis.ticklabel_format(axis="x", style="sci", scilimits=(0, 3))
    if panel == "gap":
        axis.set_yscale("log")
        axis.set_ylim(bottom=FLOOR)
    elif panel in results["expert"] and panel not in ("js",):
        axis.axhline(results["expert"][panel], color=style.EXPERT, linewidth=0.9, linestyle=(0, (1, 2)))
        axis.annotate(
            "expert", (1, results["expert"][panel]), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7
        )


# --- planes --------------------------------------------------------------------------------------------------------


def quality_diversity(results: Mapping[str, Any], sweep: Rows, folder: Path) -> str:
    """Diversity against quality at the end of training, with the SFT policy swept over temperatures."""
    exact = bool(results["class_optimum"])
    x, y = ("entropy", "valid") if exact and "valid" in results["expert"] else ("entropy", "likelihood")
    return _plane(results, x, y, folder, "quality_diversity", sweep)


def divergence_plane(results: Mapping[str, Any], sweep: Rows, folder: Path) -> str:
    """What each method pays in either KL."""
    if results["class_optimum"]:
        return _plane(results, "forward_kl", "reverse_kl", folder, "divergence_divergence", sweep, log=True)
    return _plane(results, "forward_kl_token_expert", "reverse_kl_token", folder, "divergence_divergence", sweep, log=True)


def _plane(results: Mapping[str, Any], x: str, y: str, folder: Path, name: str, sweep: Rows, log: bool = False) -> str:
    style.use()
    figure, axis = plt.subplots(figsize=(4.9, 3.7), layout="constrained")
    if log:
        axis.set_xscale("log")
        axis.set_yscale("log")
    rows = [
        *_temperature_curve(axis, sweep, x, y),
        *_optima(axis, results, x, y),
        *_points(axis, results, x, y),
    ]
    if x in results["expert"] and y in results["expert"] and not log:
        axis.plot(results["expert"][x], results["expert"][y], marker="P", color=style.EXPERT, markersize=9, linestyle="")
        axis.annotate(
            "expert", (results["expert"][x], results["expert"][y]), textcoords="offset points", xytext=(7, 4), fontsize=8
        )
        rows.append({"what": "expert", x: results["expert"][x], y: results["expert"][y]})
    axis.set_xlabel(TITLES.get(x, x))
    axis.set_ylabel(TITLES.get(y, y))
    legend(figure, results)
    return save(figure, folder, name, rows)


def _points(axis: Any, results: Mapping[str, Any], x: str, y: str) -> Rows:
    rows = []
    for name, m in results["methods"].items():
        if x not in m["metrics"] or y not in m["metrics"]:
            continue
        a, b = m["metrics"][x], m["metrics"][y]
        look = style.look(m)
        axis.plot(a["seeds"], b["seeds"], color=look["color"], marker=".", markersize=3, alpha=0.5, linestyle="")
        around = lambda v: np.abs(np.array([[v["iqm"] - v["ci95"][0]], [v["ci95"][1] - v["iqm"]]]))
        axis.errorbar(
            a["iqm"], b["iqm"], xerr=around(a), yerr=around(b), color=look["color"], marker=look["marker"], markersize=7,
            linestyle="", elinewidth=1, zorder=3, markeredgecolor="white", markeredgewidth=0.6,
        )  # fmt: skip
        rows += [
            {"what": "method", "name": name, "seed": i, x: u, y: v} for i, (u, v) in enumerate(zip(a["seeds"], b["seeds"]))
        ]
    return rows


def _optima(axis: Any, results: Mapping[str, Any], x: str, y: str) -> Rows:
    """The policies of the class that are best for each divergence."""
    rows, placed = [], []
    for name, row in results["class_optimum"].items():
        if x not in row or y not in row:
            continue
        axis.plot(
            row[x], row[y], marker="*", color=style.colour(name), markersize=13, markerfacecolor="none", linestyle="", zorder=2
        )
        rows.append({"what": "class optimum", "name": name, x: row[x], y: row[y]})
        placed.append((row[x], row[y], name))
    for i, (u, v, name) in enumerate(sorted(placed, key=lambda p: (p[1], p[0]))):
        axis.annotate(
            f"best {name}",
            (u, v),
            textcoords="offset points",
            xytext=(9, -10 if i % 2 else 7),
            fontsize=6.5,
            color=style.colour(name),
        )
    return rows


def _temperature_curve(axis: Any, sweep: Rows, x: str, y: str) -> Rows:
    points = [(row[x], row[y], row["temperature"]) for row in sweep if x in row and y in row]
    if points:
        u, v, heat = zip(*points)
        axis.plot(u, v, color="#999999", linewidth=1.1, zorder=1, marker=".", markersize=4)
        for at in (0, len(points) - 1):
            axis.annotate(
                f"SFT at {heat[at]:g}", (u[at], v[at]), textcoords="offset points", xytext=(4, 4), fontsize=6.5, color="#777777"
            )
    return [{"what": "SFT at temperature", "name": t, x: a, y: b} for a, b, t in points]


def every(results: Mapping[str, Any], history: Rows, sweep: Sequence[dict], folder: Path) -> dict[str, str]:
    """All pictures: name -> SVG."""
    sweep = list(sweep)
    return {
        "learning_curves": curves(results, history, folder),
        "quality_diversity": quality_diversity(results, sweep, folder),
        "divergence_divergence": divergence_plane(results, sweep, folder),
    }
