"""Demonstrations or preferences: `python -m experiments.figures demos_vs_preferences [--labels N
--noise E ...]`.

The `rlhf` task learned from N demonstrations of the optimum or from N comparisons of the
reference's strings, a share of them wrong. With a spread, people disagree more about some strings
than about others. Results: docs/studies/demos_vs_preferences.md."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Literal

import numpy as np

from experiments.config import Config, group, make_config
from experiments.figures.common import trained
from experiments.figures.common.base import Check, Figure, Result, distinct, near
from experiments.figures.demos_vs_preferences.picture import draw, labels_are_right
from fdiv import objectives, statistics
from fdiv.benchmarks import Rewarded
from fdiv.checks import at_least, one_of, share
from fdiv.policies import Architecture

MEASURES = {"regret": "regret", "reward": "expected reward", "tv": "total variation to the optimum"}
RewardClass = Literal["independent", "markov", "markov_t", "full"]


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
    reward_model: RewardClass = "full"
    """What reward models (and gail's discriminator) read: a number for each state of this class and
    token, added up."""
    updates: int = 400
    """Updates of 256 strings."""
    seeds: int = 5
    """Runs of each."""


def make(flags: Flags) -> Result:
    """Every method on all noises, spreads and seeds side by side."""
    names = _check(flags)
    cells = list(itertools.product(flags.spreads, flags.noise))
    tasks = [_task(flags, noise, spread) for spread, noise in cells]
    courses = trained.train(_config(flags, names), tasks).courses
    shape = (len(flags.spreads), len(flags.noise), flags.seeds)
    last = {
        name: {k: v[-1].reshape(shape) for k, v in course.metrics.items()}
        for name, course in courses.items()
    }
    first = courses[names[0]].metrics
    values: dict = {"start": {k: float(first[k][0].mean()) for k in MEASURES}, "cells": {}}
    rows, curve = [], []
    settings = [*itertools.product(enumerate(flags.spreads), enumerate(flags.noise))]
    for name, ((i, spread), (j, noise)) in itertools.product(names, settings):
        cell = {k: statistics.summarise(last[name][k][i, j]) for k in MEASURES}
        of_spread = values["cells"].setdefault(name, {}).setdefault(f"{spread:g}", {})
        of_spread[f"{noise:g}"] = {k: summary._asdict() for k, summary in cell.items()}
        row = {"method": name, "spread": spread, "noise": noise}
        rows.append(row | {k: summary.iqm for k, summary in cell.items()})
        ends = {}
        for k, summary in cell.items():
            ends |= {f"{k}_low": summary.ci95[0], f"{k}_high": summary.ci95[1]}
        curve.append(rows[-1] | ends)
    picture = draw(flags.spreads, names, curve, values["start"])
    return Result(values, _checks(flags, names, last), rows, picture, curve)


def _check(flags: Flags) -> list[str]:
    for field in ("labels", "updates", "seeds"):
        at_least(field, getattr(flags, field), 1)
    for field in ("noise", "spreads", "methods"):
        distinct(field, getattr(flags, field))
    for e in flags.noise:
        share("noise", e)
    one_of("reward_model", flags.reward_model, RewardClass)
    return [objectives.canonical(name) for name in flags.methods]


def _task(flags: Flags, noise: float = 0.0, spread: float = 0.0) -> Rewarded:
    return Rewarded(reward=flags.reward, beta=flags.beta, flips=noise, slips=noise, spread=spread)


def _config(flags: Flags, names: list[str]) -> Config:
    return make_config(
        benchmark=_task(flags),
        policy=Architecture("full"),
        scorer=Architecture(flags.reward_model),
        methods=tuple(names),
        seeds=flags.seeds,
        demos=flags.labels,
        updates=flags.updates,
        batch_size=256,
        evaluations=8,
        learning_rate=0.02,
        reward_model=group("reward_model", reward_updates=max(1, flags.updates // 4)),
    )


def _checks(flags: Flags, names: list[str], last: dict) -> list[Check]:
    """No policy beats the optimum; regret is what the return lacks; demonstrations know no spread;
    labels are as asked."""
    checks = []
    for name in names:
        lowest = float(last[name]["regret"].min())
        detail = f"least regret {lowest:.4g}"
        checks.append(Check(f"{name}: never above the optimum", lowest > -1e-5, detail))
        apart = float(np.ptp(last[name]["regret"] + last[name]["regularised_return"]))
        about = f"{name}: regret and return add up to the optimum"
        checks.append(near(about, apart, 0.0, 1e-5))
    if "sft" in names:
        apart = float(np.ptp(last["sft"]["regret"], axis=0).max())
        checks.append(near("sft: the same whatever the spread of comparisons", apart, 0.0, 1e-6))
    return checks + [
        labels_are_right(_task(flags, e, s))
        for s, e in itertools.product(flags.spreads, flags.noise)
    ]


FIGURE = Figure(
    flags=Flags,
    make=make,
    title="Demonstrations or preferences",
    claim=(
        "What as many demonstrations and comparisons are worth, as more of them are wrong "
        "and people disagree unevenly."
    ),
    source=(
        "Ziegler et al. 2019 (arXiv 1909.08593); Rafailov et al. 2023 (arXiv 2305.18290); "
        "Sun & van der Schaar 2024 (arXiv 2405.15624)"
    ),
    cluster=Flags(
        labels=2048,
        noise=tuple(i / 20 for i in range(10)),
        spreads=(0.0, 0.75, 1.5, 3.0),
        updates=1500,
        seeds=20,
    ),
)
