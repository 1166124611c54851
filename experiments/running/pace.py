"""How long one update of a method takes, and drawing alone: what `experiments.speed` prints, a
sweep counts its cost by, and `experiments.bench` measures."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import assemble
from experiments.assemble import Task
from experiments.config import Config, replace
from experiments.devices import Layout
from experiments.running import footprint, runs, teacher, train
from experiments.running.runs import Runs
from experiments.running.train import Training
from fdiv.types import Components, Method, Params

REPETITIONS = 5
SECONDS = 1.0  # of updates in one repetition


class Setup(NamedTuple):
    """What every timing starts from."""

    config: Config
    task: Task
    components: Components
    layout: Layout
    keys: jax.Array  # [seeds]
    start: Params  # of each seed


class Timing(NamedTuple):
    """One program, all seeds together."""

    name: str
    compile_seconds: float
    update_seconds: list[float]  # of each repetition
    tokens: float  # per update

    def rate(self) -> float:
        """Median tokens per second."""
        return self.tokens / float(np.median(self.update_seconds))


def set_up(config: Config, layout: Layout, preset: Config) -> Setup:
    """As a head-to-head makes it, with nothing enumerated and an untrained teacher."""
    reading = assemble.data(config)
    task = assemble.task(replace(config, exact_limit=0), reading)
    footprint.refuse(config, preset, task)
    if reading is not None:
        task = task._replace(mdp=task.mdp._replace(expert=teacher.untrained(config, task, layout)))
    components = assemble.components(config, task, layout)
    keys = assemble.seed_keys(config, config.budget.seeds)
    start = runs.starts(config, task, components, keys)
    return Setup(config, task, components, layout, keys, start)


def training_of(setup: Setup, method: Method) -> Training:
    """A method's updates, ready to be compiled and trained once."""
    config, task, components, layout, keys, start = setup
    objective = assemble.build(config, method, components)
    rates = jnp.full(config.budget.seeds, method.learning_rate or config.optimiser.learning_rate)
    rows = runs.fixed_rows(config.budget, task.mdp, keys, method.reads)
    widths = assemble.widths_of(task, method)
    of = Runs(keys, start, rates, rows)
    return train.prepare(config, task, objective, layout, of, method.reads, widths=widths)


def time_method(setup: Setup, name: str, method: Method, repetitions: int = REPETITIONS) -> Timing:
    """A method's update, compiled and timed."""
    training = training_of(setup, method)
    compiled = training.compiled

    def run(train_state, count):
        train_state = compiled.advance(train_state, count, jnp.bool_(True))
        return train_state, train_state.log.tokens

    return _timed(name, compiled.compile_seconds, run, training.train_state, repetitions)


def time_sampling(setup: Setup) -> Timing:
    """Drawing as many strings, and learning nothing from them."""
    config, task, components, layout, keys, start = setup

    def advance(train_state, count):
        key, params = train_state

        def one(i, sums):
            prompts = task.mdp.prompts(jax.random.fold_in(key, 2 * i), config.budget.batch_size)
            strings, log_q = components.rollout(
                jax.random.fold_in(key, 2 * i + 1), components.policy, params, prompts
            )
            # both sums are asked for, so both are computed
            return sums[0] + strings.mask.sum(), sums[1] + log_q.sum()

        tokens, log_q = jax.lax.fori_loop(0, count, one, (jnp.int32(0), jnp.float32(0)))
        return (jax.random.fold_in(key, 0), params), (tokens, log_q)

    train_state = layout.put((keys, start))
    compiled, seconds = layout.compile(advance, train_state, jnp.int32(1), shared=(1,))

    def run(train_state, count):
        train_state, sums = compiled(train_state, count)
        return train_state, sums[0]

    return _timed("sampling alone", seconds, run, train_state)


def _timed(
    name: str, compile_seconds: float, run: Callable, train_state, repetitions: int = REPETITIONS
) -> Timing:
    """Repetitions of about a second each; the runs that fill up the last device count as they
    cost."""

    def timed(train_state, count: int):
        began = time.perf_counter()
        train_state, tokens = jax.block_until_ready(run(train_state, jnp.int32(count)))
        return (
            train_state,
            (time.perf_counter() - began) / count,
            float(np.sum(np.asarray(tokens))) / count,
        )

    train_state, _, _ = timed(train_state, 1)
    train_state, pace, _ = timed(train_state, 3)
    count, times, each = max(1, round(SECONDS / pace)), [], []
    for _ in range(repetitions):
        train_state, seconds, tokens = timed(train_state, count)
        times.append(seconds)
        each.append(tokens)
    return Timing(name, compile_seconds, times, float(np.mean(each)))
