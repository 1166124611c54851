"""What a run would do and cost, without doing it: `--dry-run`.

Every method is compiled and trained for about a second. Evaluations, the search of class optima and
the report come on top, and are not counted."""

from __future__ import annotations

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments import assemble
from experiments import config as configs
from experiments.assemble import Task
from experiments.config import Config
from experiments.devices import Layout, memory
from experiments.running import footprint, runs, teacher, train
from experiments.running.console import print_table
from experiments.running.runs import Runs
from fdiv.types import Components, Method

SECONDS, MOST = 1.0, 200  # of updates of each method, and how many at most
LINE = 2_000  # bytes of a line of metrics.jsonl
REPORT = 4_000_000  # of tables, pictures and the report


class Cost(NamedTuple):
    """Of one method."""

    name: str
    compile_seconds: float
    seconds: float  # of all its updates
    memory_bytes: int
    saved_bytes: int  # of one save


def show(
    config: Config, default: Config, task: Task, components: Components, layout: Layout
) -> None:
    """Print the config as it was resolved, and the cost of each method and of all."""
    print("\n".join(resolved(config, default)))
    expert = teacher.untrained(config, task, layout)
    if expert is not None:
        task = task._replace(mdp=task.mdp._replace(expert=expert))
        components = components._replace(mdp=task.mdp)
    costs = [
        _cost(config, task, components, layout, name, each)
        for name, each in configs.resolve(config).items()
    ]
    rows = [
        [
            cost.name,
            f"{cost.compile_seconds:.1f} s",
            spelled(cost.seconds),
            memory.spelled(cost.memory_bytes),
        ]
        for cost in costs
    ]
    print_table(["method", "to compile", "to train", "memory"], rows, _in_all(config, task, costs))


def resolved(config: Config, default: Config) -> list[str]:
    """Every field with its value, those that differ from the preset's marked."""
    own, usual = (configs.flatten(configs.as_dict(x)) for x in (config, default))
    return [
        f"{name:<42} {value}{'' if usual.get(name) == value else f'  (preset: {usual.get(name)})'}"
        for name, value in own.items()
        if value is not None or usual.get(name) is not None
    ]


def _cost(
    config: Config,
    task: Task,
    components: Components,
    layout: Layout,
    name: str,
    method: Method,
) -> Cost:
    keys = assemble.seed_keys(config, config.budget.seeds)
    rows = runs.fixed_rows(config.budget, task.mdp, keys, method.reads)
    start = runs.starts(config, task, components, keys)
    rates = jnp.full(config.budget.seeds, config.optimiser.learning_rate)
    objective = assemble.build(config, method, components)
    training = train.prepare(
        config, task, objective, layout, Runs(keys, start, rates, rows), method.reads
    )
    compiled, state = training.compiled, training.train_state
    size = sum(
        leaf.nbytes for leaf in jax.tree.leaves(layout.get(state)) if hasattr(leaf, "nbytes")
    )
    count, took, done, pace = 1, 0.0, 0, 0.0
    while took < SECONDS and done < min(MOST, config.budget.updates):
        began = time.perf_counter()
        state = jax.block_until_ready(compiled.advance(state, jnp.int32(count), jnp.bool_(True)))
        last = time.perf_counter() - began
        took, done, pace = took + last, done + count, last / count
        count = min(max(1, count * 4), max(1, MOST - done))
    whole = pace * config.budget.updates * config.budget.trials
    return Cost(name, compiled.compile_seconds, whole, compiled.memory_bytes, size)


def _in_all(config: Config, task: Task, costs: list[Cost]) -> str:
    strings = 0 if task.space is None else len(task.space.sequences.tokens)
    sizes = footprint.Sizes(task.mdp.vocab, task.length, strings)
    shared = sum(need.bytes for need in footprint.needs(config, sizes))
    lines = len(costs) * config.budget.seeds * (config.evaluation.evaluations + 4) * LINE
    disk = sum(cost.saved_bytes for cost in costs) * (1 + config.saving.keep) + lines + REPORT
    taken = max(shared, *(cost.memory_bytes for cost in costs))
    seconds = sum(cost.compile_seconds + cost.seconds for cost in costs)
    return (
        f"In all about {spelled(seconds)}, {memory.spelled(taken)} of memory and at most "
        f"{memory.spelled(disk)} of disk, measured on this machine as it is now; evaluations, the "
        "search of the class's optima and the report come on top. Nothing was written."
    )


def spelled(seconds: float) -> str:
    """A time in the unit that it is read in."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
