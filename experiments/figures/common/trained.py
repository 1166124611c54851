"""Students of a head-to-head's methods, trained as `compare` trains them, with their learning
curves in memory: for studies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import assemble, devices, validation
from experiments import config as configs
from experiments.assemble import Task
from experiments.evaluation.evaluator import Evaluator
from experiments.running import runs as made
from experiments.running import train as loop
from experiments.running.runs import Runs
from fdiv.types import Components


class Course(NamedTuple):
    """One method on all its seeds."""

    update: np.ndarray  # [points]
    metrics: dict[str, np.ndarray]  # name -> [points, seeds], as `compare` logs them
    params: Any  # [seeds, ...] at the end


class School(NamedTuple):
    """What was taught, and how each method fared."""

    task: Task
    components: Components
    courses: dict[str, Course]


def train(config: Any, data: Sequence[Any] = ()) -> School:
    """Every method of a `compare` config, from the same start on the same data. Raises `UsageError`
    as `compare` does.

    With `data`, other benchmarks of the same law whose fixed demonstrations or comparisons take the
    place of the config's, there is a run for each of them and each seed, in one program: [data,
    seeds] in one row, seeds changing fastest."""
    validation.check(config, config)
    task = assemble.task(config)
    components = assemble.components(config, task)
    runs = config.budget.seeds * max(1, len(data))
    layout = devices.lay_out(runs, config.devices)
    keys = assemble.seed_keys(config, config.budget.seeds)
    given = [task._replace(mdp=benchmark.build()) for benchmark in data] or [task]
    keys, one = jnp.tile(keys, len(given)), keys
    start = made.starts(config, task, components, keys)
    extra = [m.divergence for m in configs.resolve(config).values() if m.divergence]
    evaluator = Evaluator(
        config.evaluation, config.budget.seed, task, components, layout, layout.put(start), extra
    )
    courses = {}
    for name, method in configs.resolve(config).items():
        objective = assemble.build(config, method, components)
        rates = jnp.full(runs, method.learning_rate or config.optimiser.learning_rate)
        kept = [made.fixed_rows(config.budget, task.mdp, one, method.reads) for task in given]
        rows = jax.tree.map(lambda *xs: jnp.concatenate(xs), *kept)
        training = loop.prepare(
            config, task, objective, layout, Runs(keys, start, rates, rows), method.reads
        )
        measure = lambda train_state, compiled=training.compiled: (
            evaluator.measure(train_state.learner.params) | layout.host(compiled.probe(train_state))
        )
        curve = []
        stops = loop.curve(config.budget.updates, config.evaluation.evaluations)
        for progress in loop.fit(training, measure, stops):
            if progress.metrics is not None:
                curve.append((progress.update, progress.metrics))
        found = {key: np.stack([metrics[key] for _, metrics in curve]) for key in curve[0][1]}
        params = jax.tree.map(np.asarray, layout.get(progress.train_state.learner.params))
        courses[name] = Course(np.array([update for update, _ in curve]), found, params)
    return School(task, components, courses)
