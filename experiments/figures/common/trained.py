"""Students of a head-to-head's methods, trained as `compare` trains them, with their learning
curves in memory: for studies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import assemble, devices, validation
from experiments import config as configs
from experiments.assemble import Task
from experiments.config import Config, Enumerable
from experiments.evaluation.evaluator import Evaluator, judging_keys
from experiments.running import runs as run_starts
from experiments.running import train as loop
from experiments.running.program import TrainState
from experiments.running.runs import Runs
from experiments.running.train import Training
from fdiv.types import Components, Params


class Course(NamedTuple):
    """One method on all its seeds."""

    update: np.ndarray  # [points]
    metrics: dict[str, np.ndarray]  # name -> [points, seeds], as `compare` logs them
    params: Params  # [seeds, ...] at the end


class School(NamedTuple):
    """A task and how each method fared on it."""

    task: Task
    components: Components
    courses: dict[str, Course]


def train(config: Config, data: Sequence[Enumerable] = ()) -> School:
    """Every method of a `compare` config, from the same start on the same data. Raises `UsageError`
    as `compare` does.

    With `data`, other benchmarks of the same law whose fixed demonstrations or comparisons take the
    place of the config's, there is a run for each of them and each seed, in one program: [data,
    seeds] in one row, seeds changing fastest."""
    validation.check(config, config)
    task = assemble.task(config)
    components = assemble.components(config, task)
    methods, seeds = configs.resolve(config), config.budget.seeds
    tasks = [task._replace(mdp=benchmark.build()) for benchmark in data] or [task]
    runs = seeds * len(tasks)
    layout = devices.lay_out(runs, config.devices)
    of_seeds = assemble.seed_keys(config, seeds)
    keys = jnp.tile(of_seeds, len(tasks))
    start = run_starts.starts(config, task, components, keys)
    extra = [method.divergence for method in methods.values() if method.divergence]
    judging = jnp.tile(judging_keys(config.budget.seed, seeds), len(tasks))
    evaluator = Evaluator(
        config.evaluation, judging, task, components, layout, layout.put(start), extra
    )
    courses = {}
    for name, method in methods.items():
        objective = assemble.build(config, method, components)
        rates = jnp.full(runs, method.learning_rate or config.optimiser.learning_rate)
        rows = [run_starts.fixed_rows(config.budget, x.mdp, of_seeds, method.reads) for x in tasks]
        rows = jax.tree.map(lambda *xs: jnp.concatenate(xs), *rows)
        of_method = Runs(keys, start, rates, rows)
        training = loop.prepare(config, task, objective, layout, of_method, method.reads)
        courses[name] = _course(config, training, evaluator)
    return School(task, components, courses)


def _course(config: Config, training: Training, evaluator: Evaluator) -> Course:
    """Train to the end, evaluating on the way as `compare` does."""
    layout = training.layout

    def measure(train_state: TrainState) -> dict[str, np.ndarray]:
        own = layout.host(training.compiled.probe(train_state))
        return evaluator.measure(train_state.learner.params) | own

    updates, points = [], []
    stops = loop.curve(config.budget.updates, config.evaluation.evaluations)
    for progress in loop.fit(training, measure, stops):
        if progress.metrics is not None:
            updates.append(progress.update)
            points.append(progress.metrics)
    metrics = {name: np.stack([point[name] for point in points]) for name in points[0]}
    params = jax.tree.map(np.asarray, layout.get(progress.train_state.learner.params))
    return Course(np.array(updates), metrics, params)
