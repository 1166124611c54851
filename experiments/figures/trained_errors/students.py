"""The students of `trained_errors`: every method at one length, trained as `compare` trains them
and measured exactly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.config import GROUPS, make_config, replace
from experiments.figures.common import classes, trained
from experiments.figures.trained_errors.errors import Errors, Walk, enumerated, table, walked
from fdiv.benchmarks import TwoTemplate
from fdiv.policies import Architecture

RATES = {"markov": 0.05, "transformer": 0.02}


class Student(NamedTuple):
    """One method's students, all seeds of them, at one length."""

    errors: Errors  # by enumeration, [seeds, T]
    ends: Errors  # the last of them, as `exact.divergence` has it, [seeds]
    walk: Walk  # by dynamic programming
    logged: dict[str, np.ndarray]  # as `compare` logs it, name -> [seeds]
    tables: np.ndarray  # the chains they are, [seeds, states, V]


def taught(flags: Any, horizon: int) -> Iterator[tuple[str, Student]]:
    """Every method at one length, from the same starts on the same demonstrations."""
    shape = {"layers": 1, "width": 16, "heads": 2, "kv_heads": 1, "window": flags.order}
    config = make_config(
        benchmark=TwoTemplate(flags.vocab, horizon, flags.weight, flags.noise),
        policy=Architecture("transformer", **shape)
        if flags.policy == "transformer"
        else Architecture("markov", flags.order),
        learning_rate=RATES[flags.policy],
        evaluations=1,
        **{field: getattr(flags, field) for field in ("methods", "seeds", "updates", "batch_size")},
    )
    configs = {"": config}
    if flags.distilled:
        distilled = replace(config, methods=tuple(f"distill:{d}" for d in flags.distilled))
        groups = {f"@{own:g}": GROUPS["distill"](policy_prefixes=own) for own in flags.shares}
        configs |= {suffix: replace(distilled, distill=group) for suffix, group in groups.items()}
    with jax.enable_x64(True):
        world = classes.world(config.benchmark.build())
    for suffix, each in configs.items():
        school = trained.train(each)
        for name, course in school.courses.items():
            with jax.enable_x64(True):
                errors, ends = enumerated(world, school.components.policy, course.params)
                tables = table(school.components.policy, course.params, flags.vocab, flags.order)
            logged = {key: x[-1] for key, x in course.metrics.items()}
            yield (
                name + suffix,
                Student(errors, ends, walked(config.benchmark, tables, horizon), logged, tables),
            )
