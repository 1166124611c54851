"""A method's updates as one compiled program for all its runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.assemble import Task, make_learner
from experiments.config import Config
from experiments.data import on_host
from experiments.data.on_host import Strings
from experiments.devices import Layout, Program
from experiments.models import pretrained
from experiments.running import feed, finite, runs
from experiments.running.runs import Runs
from fdiv.buckets import Buckets
from fdiv.types import LearnerState, Objective

LEARNER, DATA = 1, 2  # folded into a run's key


class TrainState(NamedTuple):
    """All that decides the rest of one run, and what its updates have left behind. Of several runs
    every leaf is [count, ...]."""

    learner: LearnerState
    rate: jax.Array
    data_key: jax.Array
    rows: Any  # its fixed rows [N, ...], or () for new ones at every update
    log: finite.Log


class CompiledMethod(NamedTuple):
    """A method compiled for the layout of its runs."""

    layout: Layout
    advance: Callable  # states, number of updates, whether their logs start anew -> states
    probe: Callable  # states -> the method's own metrics, name -> [count]
    updates: int  # of a whole training
    watched: tuple[str, ...]  # what is looked at for numbers that are not finite
    compile_seconds: float
    memory_bytes: int  # on each device, while it trains
    shares: tuple[str, ...] = ()  # of `finite.SHARES`, those that its log has


class Position(NamedTuple):
    """Where runs stood when they were saved."""

    update: int
    seconds: float  # of training so far
    tokens: np.ndarray  # [count] learned from so far


class Progress(NamedTuple):
    """Where runs stand after some updates."""

    update: int
    seconds: float  # of training so far, without compiling and evaluating
    tokens: np.ndarray  # [count] learned from so far
    metrics: dict[str, np.ndarray] | None  # name -> [count] where runs are evaluated, else None
    train_state: TrainState


def begin(config: Config, objective: Objective, of: Runs) -> TrainState:
    """Runs before their first update, [count, ...]."""

    def one(key, params, rate, rows):
        learner = make_learner(config, objective, rate, config.budget.updates)
        state = learner.init(jax.random.fold_in(key, LEARNER), params)
        log = finite.empty(shares_of(config))
        return TrainState(state, rate, jax.random.fold_in(key, DATA), rows, log)

    return jax.jit(jax.vmap(one))(*of)


def shares_of(config: Config) -> tuple[str, ...]:
    """Which of `finite.SHARES` can be more than 0: of gradients, where they are bounded; of
    actions, where a batch serves several steps, or a loss has dropout, as else q is q_old."""
    bounded = config.optimiser.max_grad_norm > 0
    several = config.budget.epochs * config.budget.minibatches > 1
    moved = several or pretrained.in_training(config.policy) is not None
    return tuple(name for name, own in zip(finite.SHARES, (bounded, moved)) if own)


def build(
    config: Config,
    task: Task,
    objective: Objective,
    layout: Layout,
    train_state: TrainState,
    reads: str = "demos",
    widths: Buckets | None = None,
) -> CompiledMethod:
    """Compile a method for runs such as `train_state`, which is laid out by `layout.put`.

    `advance` gives the buffers of the states that it is called with away."""
    budget, new_rows = config.budget, runs.batches(task.mdp, reads)
    fed = feed.of(budget, new_rows, layout, train_state)
    skip, shares = config.saving.not_finite == "skip", shares_of(config)
    watched: list[tuple[str, ...]] = []  # names, which are known once the update is traced

    def advance(train_state: TrainState, count: jax.Array, fresh: jax.Array, *read: Strings):
        learner = make_learner(config, objective, train_state.rate, budget.updates, widths)

        def one(i, carry):
            state, log = carry
            key = train_state.data_key
            if read:
                batch = on_host.sequences(jax.tree.map(lambda x: x[i], read[0]))
            else:
                batch = runs.batch(budget, new_rows, train_state.rows, key, state.step)
            batch = layout.rows(batch)
            new, metrics = learner.update(state, batch)
            state, log, names = finite.record(log, state, new, metrics, skip, shares)
            watched.append(names)
            return state, log

        log = finite.since_evaluation(train_state.log, fresh)
        state, log = jax.lax.fori_loop(0, count, one, (train_state.learner, log))
        return train_state._replace(learner=state, log=log)

    def probe(train_state: TrainState, *read: Strings):
        state = train_state.learner
        key = jax.random.fold_in(train_state.data_key, -1 - state.step)
        if read:
            batch = on_host.sequences(jax.tree.map(lambda x: x[0], read[0]))
        else:
            batch = runs.drawn(budget, new_rows, train_state.rows, key)
        batch = layout.rows(batch)
        aux, batch, metrics = objective.prepare(key, state.params, state.aux, batch)
        metrics = metrics | objective.loss(state.params, aux, batch)[1]
        logged = (*finite.MEANS, *finite.SHARES, "tokens")
        return {name: value for name, value in metrics.items() if name not in logged}

    one_update = (jnp.int32(1), jnp.bool_(True))
    several, single = ((), ()) if fed is None else ((fed.updates(0),), (fed.probed(train_state),))
    program, seconds = layout.compile(
        advance, train_state, *one_update, *several, shared=(1, 2), donate=(0,)
    )
    probe_program, more = layout.compile(probe, train_state, *single, seldom=task.space is not None)
    memory = _memory_bytes(program)
    both = (program, probe_program) if fed is None else fed.wrapped(program, probe_program)
    took = seconds + more
    return CompiledMethod(layout, *both, budget.updates, watched[-1], took, memory, shares)


def _memory_bytes(compiled: Program) -> int:
    """What a compiled program takes on each device: what it is given, what it gives and what lies
    between."""
    sizes = compiled.memory_analysis()
    if sizes is None:  # on a platform that does not say
        return 0
    given = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return given + sizes.temp_size_in_bytes + sizes.generated_code_size_in_bytes
