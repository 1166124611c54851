"""The table of SFT as inverse RL, and its picture, a panel for each of the three experiments."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from experiments.figures.common.base import Picture, Row
from experiments.reporting import style

COOLED = "cooled_sft"  # SFT at the temperature that gives it the entropy of reverse KL's student
ENDS = ("low", "high")
LINES = ("-", "--", ":", "-.")  # of the policy classes, in turn
STYLES = {
    "sft": ("forward_kl", "s"),
    "reverse_kl": ("reverse_kl", "o"),
    "airl": ("reverse_kl", "^"),
}
BETWEEN = {"js": ("o", -0.17), "gail": ("^", 0.17)}  # marker, and how far below its line
DIVERSE = {
    "entropy": "entropy",
    "distinct_expected": "distinct strings",
    "cross_entropy": "coverage risk",
    "mode_b": "mode B share",
}
TITLES = DIVERSE | {"valid": "valid strings", "expert_nll": "likelihood risk"}


def position(x: dict, sft: dict, reverse: dict) -> dict:
    """Where a measure lies between SFT's, 0, and reverse KL's, 1; exact ones only, which chance
    does not make equal."""
    return {key: (x[key] - sft[key]) / (reverse[key] - sft[key]) for key in TITLES}


def row(name: str, key: str, result: dict) -> Row:
    """A measure: each method, what reverse KL's student has more than SFT's and how sure that is,
    and where JS lies."""
    differences, positions = result["differences"], result.get("position", {})
    ahead, cooled = (differences[f"reverse_kl - {other}"][key] for other in ("sft", COOLED))
    table = {"class": name, "measure": key}
    table |= {who: of[key]["iqm"] for who, of in result["students"].items()}
    table |= {"reverse_kl - sft": ahead["iqm"]} | dict(zip(ENDS, ahead["ci95"]))
    table |= {"- cooled": cooled["iqm"]}
    return table | {f"{who} position": x[key]["iqm"] for who, x in positions.items() if key in x}


def panel_rows(values: dict[str, Any]) -> list[Row]:
    """What the second and the third panel show beside the table: SFT at each temperature, and how
    sure JS's place is."""
    rows = []
    for name, result in values["classes"].items():
        for T, of in result["sft_at_temperature"].items():
            row = {"class": name, "temperature": T}
            rows.append(row | {key: of[key]["iqm"] for key in ("entropy", "valid")})
        for who, of in result.get("position", {}).items():
            for key, x in of.items():
                row = {"class": name, "student": who, "measure": key, "position": x["iqm"]}
                rows.append(row | dict(zip(ENDS, x["ci95"])))
    return rows


def draw(values: dict[str, Any], curve: list[Row]) -> Picture:
    """Loss and divergence over training; validity against entropy; where JS lies."""
    style.use()
    figure, axes = plt.subplots(1, 3, figsize=(6.8, 3.4), layout="constrained")
    looks = dict(zip(values["classes"], LINES))
    _training(axes[0], looks, curve)
    _plane(axes[1], looks, values)
    _positions(axes[2], values)
    handles = _legend(looks)
    figure.legend(handles=handles, loc="outside lower center", ncols=5, columnspacing=1.2)
    return figure


def _legend(looks: dict[str, str]) -> list[Line2D]:
    points: dict[str, dict[str, Any]] = {
        who: {"color": style.colour(d), "marker": m} for who, (d, m) in STYLES.items()
    }
    points |= {who: {"color": style.colour("js"), "marker": m} for who, (m, _) in BETWEEN.items()}
    points["expert"] = {"color": style.EXPERT, "marker": "*", "markersize": 9}
    handles = [
        # pyrefly: ignore[bad-argument-type]
        Line2D([], [], linestyle="", label=who, **{"markersize": 5.5, **look})
        for who, look in points.items()
    ]
    handles[0].set(linestyle="-", linewidth=1.1, label="sft, cooler along the line")
    bar: dict[str, Any] = {
        "linestyle": "",
        "marker": "|",
        "markersize": 9,
        "label": "js, best of its class",
    }
    handles.append(Line2D([], [], color=style.EXPERT, **bar))
    for name, line in looks.items():
        label = f"class {name} (open)" if name == "full" else f"class {name}"
        # pyrefly: ignore[bad-argument-type]
        handles.append(Line2D([], [], color=style.OTHER, linestyle=line, label=label))
    return handles


def _training(axis: Axes, looks: dict[str, str], curve: list[Row]) -> None:
    ring: dict[str, Any] = {"marker": "o", "markersize": 4.5, "markerfacecolor": "none"}
    ring |= {"color": style.EXPERT, "linestyle": ""}
    dot: dict[str, Any] = {"marker": ".", "color": style.OTHER, "linestyle": ""}
    for name, line in looks.items():
        rows = [row for row in curve if row["class"] == name]
        stops = sorted({row["update"] for row in rows})
        at_stop = [[row for row in rows if row["update"] == n] for n in stops]
        kl, nll = (
            [np.mean([row[key] for row in same]) for same in at_stop]
            for key in ("forward_kl", "nll")
        )
        fresh = [(row["update"], row["minibatch"]) for row in rows if "minibatch" in row]
        if fresh:
            axis.plot(*zip(*fresh), markersize=2.5, alpha=0.5, zorder=1, **dot)
        axis.plot(stops, kl, color=style.colour("forward_kl"), linestyle=line)
        axis.plot(stops, nll, **ring)
    axis.plot([], [], color=style.colour("forward_kl"), label="forward KL")
    axis.plot([], [], label="NLL less entropy", **ring)
    axis.plot([], [], label="one minibatch's", markersize=4, **dot)
    axis.set(xscale="log", xlabel="updates of SFT", ylabel="nats per string")
    axis.set_title("SFT's loss is forward KL")
    ticks = [10**n for n in range(len(str(stops[-1])))]
    axis.set_xticks(ticks, ticks)
    axis.legend(loc="upper right", fontsize=7.5, handlelength=1.2, borderaxespad=0.1)


def _plane(axis: Axes, looks: dict[str, str], values: dict[str, Any]) -> None:
    expert = values["expert"]
    star = {"marker": "*", "markersize": 13, "color": style.EXPERT, "linestyle": ""}
    axis.plot(expert["entropy"], expert["valid"], **star)
    for name, line in looks.items():
        result = values["classes"][name]
        cooled = result["sft_at_temperature"].values()
        path = [[of[key]["iqm"] for of in cooled] for key in ("entropy", "valid")]
        axis.plot(*path, color=style.colour("forward_kl"), linestyle=line, linewidth=1.1)
        for who, (d, marker) in STYLES.items():
            x, y = (result["students"][who][key] for key in ("entropy", "valid"))
            up, across = ([[abs(z["iqm"] - end)] for end in z["ci95"]] for z in (y, x))
            look: dict[str, Any] = {"color": style.colour(d), "marker": marker, "markersize": 5.5}
            look["markerfacecolor"] = "white" if name == "full" else style.colour(d)
            axis.errorbar(x["iqm"], y["iqm"], up, across, **look)
    axis.set(xlabel="entropy (nats)", ylabel="share of valid strings", title="reverse KL and SFT")


def _positions(axis: Axes, values: dict[str, Any]) -> None:
    """Of the first class that lacks the expert; a bar is the exact optimum's position."""
    lacking = [(name, of) for name, of in values["classes"].items() if "position" in of]
    name, result = lacking[0] if lacking else ("", None)
    axis.set_yticks(range(len(TITLES)), TITLES.values())
    axis.set(
        ylim=(len(TITLES) - 0.5, -0.5), xlabel=f"position ({name} class)", title="where JS lies"
    )
    for end in (0, 1):
        axis.axvline(end, color=style.colour(("forward_kl", "reverse_kl")[end]), linewidth=1.3)
    axis.axhline(len(DIVERSE) - 0.5, color=style.OTHER, linewidth=0.8, linestyle=":")
    beside: dict[str, Any] = {
        "xycoords": ("axes fraction", "data"),
        "rotation": 270,
        "va": "center",
    }
    beside |= {"fontsize": 7.5, "color": style.OTHER}
    axis.annotate("diversity", (1.01, (len(DIVERSE) - 1) / 2), **beside)
    axis.annotate("faithfulness", (1.01, (len(DIVERSE) + len(TITLES) - 1) / 2), **beside)
    axis.set_xticks([0, 0.5, 1], ["0\nSFT", "0.5", "1\nreverse KL"])
    if result is None:
        return
    for who, (marker, below) in BETWEEN.items():
        of = [result["position"][who][key] for key in TITLES]
        middle = np.array([x["iqm"] for x in of])
        bars = np.abs(np.array([x["ci95"] for x in of]).T - middle)
        look = {"color": style.colour("js"), "marker": marker, "markersize": 5, "linestyle": ""}
        axis.errorbar(middle, np.arange(len(TITLES)) + below, xerr=bars, **look)
    for i, key in enumerate(TITLES):
        place, height = [result["best_position"][key]] * 2, [i - 0.38, i + 0.38]
        axis.plot(place, height, color=style.EXPERT, linewidth=1)
