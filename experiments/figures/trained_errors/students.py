"""The students of `trained_errors`: every method at one length, trained as `compare` trains them
and measured exactly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from experiments.config import Config, group, make_config, replace
from experiments.figures.common import classes, trained
from experiments.figures.trained_errors.errors import Errors, Walk, enumerated, table, walk
from experiments.figures.trained_errors.flags import Flags
from fdiv.benchmarks import TwoTemplate
from fdiv.policies import Architecture

RATES = {"markov": 0.05, "transformer": 0.02}


class StudentErrors(NamedTuple):
    """One method's students, all seeds of them, at one length."""

    errors: Errors  # by enumeration, [seeds, T]
    ends: Errors  # the last of them, as `exact.divergence` has it, [seeds]
    walk: Walk  # by dynamic programming
    logged: dict[str, np.ndarray]  # as `compare` logs it, name -> [seeds]
    tables: np.ndarray  # the chains they are, [seeds, states, V]


def train_students(flags: Flags, horizon: int) -> Iterator[tuple[str, StudentErrors]]:
    """Every method at one length, from the same starts on the same demonstrations."""
    config = _config(flags, horizon)
    configs = {"": config}
    if flags.distilled:
        distilled = replace(config, methods=tuple(f"distill:{d}" for d in flags.distilled))
        for own in flags.shares:
            own_group = group("distill", policy_prefixes=own)
            configs[f"@{own:g}"] = replace(distilled, distill=own_group)
    language = _language(flags, horizon)
    with jax.enable_x64(True):
        world = classes.enumerated(language.build())
    for suffix, each in configs.items():
        school = trained.train(each)
        policy = school.components.policy
        for name, course in school.courses.items():
            with jax.enable_x64(True):
                errors, ends = enumerated(world, policy, course.params)
                tables = table(policy, course.params, flags.vocab, flags.order)
            by_walk = walk(language, tables, horizon)
            logged = {key: x[-1] for key, x in course.metrics.items()}
            yield name + suffix, StudentErrors(errors, ends, by_walk, logged, tables)


def _language(flags: Flags, horizon: int) -> TwoTemplate:
    return TwoTemplate(flags.vocab, horizon, flags.weight, flags.noise)


def _config(flags: Flags, horizon: int) -> Config:
    policy = Architecture("markov", flags.order)
    if flags.policy == "transformer":
        shape = {"layers": 1, "width": 16, "heads": 2, "kv_heads": 1, "window": flags.order}
        policy = Architecture("transformer", **shape)
    return make_config(
        benchmark=_language(flags, horizon),
        policy=policy,
        learning_rate=RATES[flags.policy],
        evaluations=1,
        methods=flags.methods,
        seeds=flags.seeds,
        updates=flags.updates,
        batch_size=flags.batch_size,
    )
