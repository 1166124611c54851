"""Demonstrations or preferences: `python -m experiments.figures demos_vs_preferences [--labels N --noise E ...]`.

The rlhf task (reward valid, beta .1) learned from N demonstrations of the optimum or from N comparisons, as many labels for
every method, some of them wrong: a share of the demonstrations is the reference's instead of the optimum's, a share of the
comparisons is turned round. With a spread, people also disagree more where two strings begin differently (e^spread times the
temperature) and less where they begin alike, so that one Bradley-Terry temperature fits neither.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Literal

import jax
import matplotlib.pyplot as plt
import numpy as np

from experiments import style
from experiments.config import Config, replace
from experiments.figures import trained
from experiments.figures.base import Check, Figure, Result, near
from fdiv import exact, objectives, statistics
from fdiv.benchmarks import Rewarded
from fdiv.checks import at_least, one_of, share
from fdiv.objectives import GROUPS
from fdiv.policies import Architecture
from fdiv.types import UsageError

DRAWN = 20_000  # comparisons, to see how many are right
MEASURES = {"regret": "regret", "reward": "expected reward", "tv": "total variation to the optimum"}


@dataclasses.dataclass(frozen=True)
class Flags:
    """The same task from demonstrations and from comparisons, at one budget of labels."""

    labels: int = 4096
    """Demonstrations, or comparisons, of each run."""
    noise: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4)
    """Shares of the labels that are wrong."""
    spreads: tuple[float, ...] = (0.0, 1.5)
    """How much noisier comparisons are whose strings begin differently, in logs."""
    methods: tuple[str, ...] = ("sft", "gail", "dpo", "ipo", "bt_rloo", "bt_var_rloo")
    """What learns."""
    reward: Literal["valid", "table"] = "table"
    """What strings earn: 1 if valid, or a number of each string's own."""
    beta: float = 0.3
    """Weight of the KL from the reference."""
    reward_model: Literal["independent", "markov", "markov_t", "full"] = "full"
    """What reward models (and gail's discriminator) read: a number for each state of this class and token, added up."""
    updates: int = 400
    """Updates of 256 strings."""
    seeds: int = 5
    """Runs of each."""


def make(flags: Flags) -> Result:
    """Every method on all noises, spreads and seeds side by side."""
    names = _check(flags)
    cells = list(itertools.product(flags.spreads, flags.noise))
    school = trained.train(_config(flags, names), [_task(flags, e, s) for s, e in cells])
    shape = (len(flags.spreads), len(flags.noise), flags.seeds)
    last = {name: {k: v[-1].reshape(shape) for k, v in c.metrics.items()} for name, c in school.courses.items()}
    first = next(iter(school.courses.values())).metrics
    values: dict = {"start": {k: float(first[k][0].mean()) for k in MEASURES}, "cells": {}}
    rows, curve = [], []
    for name, ((i, spread), (j, noise)) in itertools.product(
        names, itertools.product(enumerate(flags.spreads), enumerate(flags.noise))
    ):
        found = {k: statistics.summarise(last[name][k][i, j]) for k in MEASURES}
        values["cells"].setdefault(name, {}).setdefault(f"{spread:g}", {})[f"{noise:g}"] = {
            k: x._asdict() for k, x in found.items()
        }
        ends = {f"{k}_{end}": x for k, c in found.items() for end, x in zip(("low", "high"), c.ci95)}
        rows.append({"method": name, "spread": spread, "noise": noise} | {k: c.iqm for k, c in found.items()})
        curve.append(rows[-1] | ends)
    return Result(values, _checks(flags, names, last), rows, _picture(flags, names, curve, values["start"]), curve)


def _check(flags: Flags) -> list[str]:
    for field in ("labels", "updates", "seeds"):
        at_least(field, getattr(flags, field), 1)
    for field in ("noise", "spreads", "methods"):
        kept = getattr(flags, field)
        if not kept or len(set(kept)) < len(kept):
            raise UsageError(field, kept, "is empty or holds one twice.", "Give each once.")
    for e in flags.noise:
        share("noise", e)
    one_of("reward_model", flags.reward_model, Literal["independent", "markov", "markov_t", "full"])
    return [objectives.resolve(name).name for name in flags.methods]


def _task(flags: Flags, noise: float = 0.0, spread: float = 0.0) -> Rewarded:
    return Rewarded(reward=flags.reward, beta=flags.beta, flips=noise, slips=noise, spread=spread)


def _config(flags: Flags, names: list[str]):
    return replace(
        Config(), benchmark=_task(flags), policy=Architecture("full"),
        scorer=Architecture(flags.reward_model), methods=tuple(names), seeds=flags.seeds,
        demos=flags.labels, updates=flags.updates, batch_size=256, evaluations=8, learning_rate=0.02,
        reward_model=GROUPS["reward_model"](reward_updates=max(1, flags.updates // 4)),
    )  # fmt: skip


def _checks(flags: Flags, names: list[str], last: dict) -> list[Check]:
    """No policy beats the optimum; regret is what the return lacks; demonstrations know no spread; labels are as asked."""
    checks = []
    for name in names:
        lowest = float(last[name]["regret"].min())
        checks.append(Check(f"{name}: never above the optimum", lowest > -1e-5, f"least regret {lowest:.4g}"))
        total = last[name]["regret"] + last[name]["regularised_return"]
        checks.append(near(f"{name}: regret and return add up to the optimum", float(np.ptp(total)), 0.0, 1e-5))
    if "sft" in names:
        apart = float(np.ptp(last["sft"]["regret"], axis=0).max())
        checks.append(near("sft: the same whatever the spread of comparisons", apart, 0.0, 1e-6))
    return checks + [_labels(_task(flags, e, s)) for s, e in itertools.product(flags.spreads, flags.noise)]


def _labels(task: Rewarded) -> Check:
    """How often the string of higher reward is chosen, where rewards differ: drawn, and by enumeration."""
    mdp = task.build()
    with jax.enable_x64(True):
        space = exact.enumerate_strings(mdp.vocab, mdp.horizon, mdp.eos)
        q = np.exp(np.asarray(exact.law(space, *mdp.regulariser.reference).string))
        r, first = np.asarray(mdp.score(space.sequences)), space.sequences.tokens[:, 0]
        chance = np.asarray(task.preference(r[:, None], r[None], first[:, None] != first[None]))
        weight = q[:, None] * q[None] * (r[:, None] > r[None])
    wanted = float((weight * chance).sum() / weight.sum())
    better, worse = (np.asarray(mdp.score(x)) for x in mdp.pairs(jax.random.key(0), DRAWN))
    told = better != worse
    found, error = float((better > worse)[told].mean()), 0.5 / told.sum() ** 0.5
    return near(f"right labels at noise {task.flips:g}, spread {task.spread:g}", found, wanted, 4 * error)


def _picture(flags: Flags, names: list[str], rows: list[dict], start: dict[str, float]):
    style.use()
    figure, axes = plt.subplots(1, len(flags.spreads), figsize=(6.8, 3.1), sharey=True, layout="constrained", squeeze=False)
    for axis, spread in zip(axes[0], flags.spreads):
        for name in names:
            mine = [row for row in rows if row["method"] == name and row["spread"] == spread]
            resolved = objectives.resolve(name)
            level = "return" if resolved.group in style.RETURNS else "sequence"
            look = style.look(
                {"group": resolved.group, "level": level, "minimises": resolved.divergence or "forward_kl", "published": False}
            )
            if name == "bt_var_rloo":
                look |= {"linestyle": "-", "marker": "D"}
            x, middle, low, high = (
                np.array([row[k] for row in mine]) for k in ("noise", "regret", "regret_low", "regret_high")
            )
            axis.errorbar(
                x,
                middle,
                np.abs(np.stack([middle - low, high - middle])),
                capsize=2,
                linewidth=1.3,
                markersize=4.5,
                label=name,
                **look,
            )
        axis.axhline(start["regret"], color=style.EXPERT, linewidth=0.8, linestyle=":")
        axis.annotate("the reference", (0, start["regret"]), fontsize=7.5, va="bottom")
        axis.set(xlabel="share of wrong labels", yscale="log", title=f"spread {spread:g}" if spread else "one temperature")
    axes[0][0].set_ylabel("regret")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=min(6, len(names)))
    return figure


FIGURE = Figure(
    flags=Flags,
    make=make,
    title="Demonstrations or preferences",
    claim="What as many demonstrations and comparisons are worth, as more of them are wrong and people disagree unevenly.",
    source="Ziegler et al. 2019 (arXiv 1909.08593); Rafailov et al. 2023 (arXiv 2305.18290); Sun & van der Schaar 2024 "
    "(arXiv 2405.15624)",
    cluster=Flags(labels=2048, noise=tuple(i / 20 for i in range(10)), spreads=(0.0, 0.75, 1.5, 3.0), updates=1500, seeds=20),
)
