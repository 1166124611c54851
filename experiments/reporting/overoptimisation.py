"""What a policy earns by a learned reward and by the true one, as it leaves the reference: where
they part, it over-optimises.

Gao, Schulman & Hilton 2023 (arXiv 2210.10760). A reward model says a number up to a constant, so
each proxy is moved to meet the true reward where the policy sets off."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments.reporting import pictures, style
from fdiv import statistics

STILL = 1e-6  # nats: a policy that has spent less has not set off


def curves(history: pictures.Rows) -> dict[str, pictures.Rows]:
    """Method -> points in order, each {update, spent, gold, proxy}: IQMs over seeds from where the
    policy set off."""
    found = {}
    for name in dict.fromkeys(line["method"] for line in history if line.get("proxy") is not None):
        lines = [line for line in history if line["method"] == name]
        points = [
            _point([line for line in lines if line["update"] == u])
            for u in sorted({line["update"] for line in lines})
        ]
        points = [point for point in points if point is not None]
        still = [i for i, point in enumerate(points) if point["spent"] <= STILL]
        points = points[still[-1] if still else 0 :]
        if points and points[-1]["spent"] > STILL:
            moved = points[0]["gold"] - points[0]["proxy"]
            found[name] = [point | {"proxy": point["proxy"] + moved} for point in points]
    return found


def _point(lines: pictures.Rows) -> dict[str, float] | None:
    """IQMs over seeds at one update; exact values where there are any, else those of the policy's
    own strings."""
    spent, gold = (
        exact if lines[0].get(exact) is not None else drawn
        for exact, drawn in (("spent", "penalty"), ("reward", "score"))
    )
    keys = {"spent": spent, "gold": gold, "proxy": "proxy"}
    values = {
        key: np.array([line.get(name, np.nan) for line in lines], float)
        for key, name in keys.items()
    }
    if not all(np.isfinite(v).any() for v in values.values()):
        return None
    return {"update": lines[0]["update"]} | {
        key: statistics.iqm(v[np.isfinite(v)]) for key, v in values.items()
    }


def picture(results: Mapping[str, Any], history: pictures.Rows, folder: Path) -> str:
    """A panel a method: true reward (solid) and learned reward (dashed) against what is spent; none
    where none was learned."""
    drawn = curves(history)
    if not drawn:
        return ""
    style.use()
    size = (1.2 + 2.1 * len(drawn), 2.9)
    figure, axes = plt.subplots(
        1, len(drawn), figsize=size, squeeze=False, sharex=True, sharey=True, layout="constrained"
    )
    best = results["frontier"][len(results["frontier"]) // 2] if results["frontier"] else None
    for axis, (name, points) in zip(axes[0], drawn.items()):
        colour = style.look(results["methods"][name])["color"]
        spent, gold, proxy = (
            np.array([point[key] for point in points]) for key in ("spent", "gold", "proxy")
        )
        axis.plot(spent, gold, color=colour, marker="o", markersize=3, label="true reward")
        axis.plot(
            spent,
            proxy,
            color=colour,
            marker="o",
            markersize=3,
            linestyle="--",
            markerfacecolor="none",
            label="learned reward",
        )
        if best:
            star = {
                "marker": "*",
                "markersize": 12,
                "linestyle": "",
                "markerfacecolor": "none",
                "label": "optimum",
            }
            axis.plot(best["spent"], best["reward"], color=style.EXPERT, **star)
        axis.set(title=name, xlabel="divergence (nats)")
    axes[0][0].set_ylabel("reward")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    rows = [{"method": name} | point for name, points in drawn.items() for point in points]
    return pictures.save(figure, folder, "overoptimisation", rows)
