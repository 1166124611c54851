"""Training one method on all its seeds at once: compile, then stretches of updates with an
evaluation after each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.assemble import Task, embedded, make_learner
from experiments.devices import processes
from experiments.devices.seeds import SeedLayout
from experiments.running import finite
from fdiv.types import Components, LearnerState, Objective, TokenMDP, UsageError

STRETCH_SECONDS = 2.0  # how long a program runs before the screen and Ctrl-C get a turn


class TrainState(NamedTuple):
    """One run: what it is (state), at which learning rate, which demonstrations it sees, and what
    its updates have left."""

    learner: LearnerState
    rate: jax.Array
    data_key: jax.Array
    rows: Any  # its fixed demonstrations [N, T], or () for fresh ones
    log: finite.Log


class CompiledMethod(NamedTuple):
    """A method compiled for its layout."""

    layout: SeedLayout
    advance: Callable  # run, n updates, whether its log starts anew -> run
    probe: Callable  # run -> the method's own metrics
    updates: int
    watched: tuple[str, ...]  # what is looked at for numbers that are not finite
    compile_seconds: float
    memory_bytes: int  # on each device, while it trains


def source(mdp: TokenMDP, reads: str) -> Callable[[jax.Array, int], Any]:
    """Where a method's batches come from. Raises `UsageError` where the task has no comparisons, or
    labels, to give."""
    found = {"demos": mdp.demos, "pairs": mdp.pairs, "labels": mdp.labels or mdp.pairs}[reads]
    if found is None:
        fix = (
            "Use a benchmark with them (rewarded, or text with such columns), or a method "
            "that learns from other data."
        )
        raise UsageError("methods", reads, f"there are no {reads} to learn from here.", fix)
    return found


def demonstrations(config: Any, task: Task, keys: jax.Array, reads: str = "demos") -> Any:
    """Each run's fixed rows, or () where every update draws fresh ones. The same for every method
    that reads such rows."""
    if not config.budget.demos:
        return ()
    rows = source(task.mdp, reads)
    return jax.jit(jax.vmap(lambda key: rows(jax.random.fold_in(key, 3), config.budget.demos)))(
        keys
    )


def starts(config: Any, task: Task, components: Components, keys: jax.Array) -> Any:
    """Each run's initial parameters, the task's reference where the class holds it. The same for
    every method."""
    reference = embedded(config, task)
    if reference is not None:
        return jnp.broadcast_to(reference, (len(keys), *reference.shape))
    return jax.jit(jax.vmap(lambda key: components.policy.init(jax.random.fold_in(key, 0))))(keys)


def draw(config: Any, rows: Callable[[jax.Array, int], Any], kept: Any, key: jax.Array) -> Any:
    """The batch of an update: fresh rows, or some of the fixed ones drawn with replacement."""
    if not config.budget.demos:
        return rows(key, config.budget.batch_size)
    chosen = jax.random.randint(key, config.budget.batch_size, 0, config.budget.demos)
    return jax.tree.map(lambda x: x[chosen], kept)


def begin(
    config: Any,
    objective: Objective,
    updates: int,
    keys: jax.Array,
    params: Any,
    rates: jax.Array,
    rows: Any,
) -> TrainState:
    """The runs before their first update, [count, ...]."""

    def one(key, params, rate, rows):
        state = make_learner(config, objective, rate, updates).init(
            jax.random.fold_in(key, 1), params
        )
        return TrainState(state, rate, jax.random.fold_in(key, 2), rows, finite.empty())

    return jax.jit(jax.vmap(one))(keys, params, rates, rows)


def build(
    config: Any,
    task: Task,
    objective: Objective,
    updates: int,
    layout: SeedLayout,
    train_state: TrainState,
    reads: str = "demos",
) -> CompiledMethod:
    """Compile a method for runs laid out by `layout.put`."""
    rows = source(task.mdp, reads)
    watched: list[tuple[str, ...]] = []  # names, which are known once the update is traced

    def advance(train_state: TrainState, count: jax.Array, fresh: jax.Array):
        learner = make_learner(config, objective, train_state.rate, updates)

        def one(_, carry):
            state, log = carry
            batch = layout.rows(
                draw(
                    config,
                    rows,
                    train_state.rows,
                    jax.random.fold_in(train_state.data_key, state.step),
                )
            )
            new, metrics = learner.update(state, batch)
            state, log, names = finite.record(
                log, state, new, metrics, skip=config.saving.not_finite == "skip"
            )
            watched.append(names)
            return state, log

        state, log = jax.lax.fori_loop(
            0, count, one, (train_state.learner, finite.since_evaluation(train_state.log, fresh))
        )
        return train_state._replace(learner=state, log=log)

    def probe(train_state: TrainState):
        state, key = (
            train_state.learner,
            jax.random.fold_in(train_state.data_key, -1 - train_state.learner.step),
        )
        batch = layout.rows(draw(config, rows, train_state.rows, key))
        metrics = objective.prepare(key, state.params, state.aux, batch)[2]
        return {
            name: value for name, value in metrics.items() if name not in (*finite.MEANS, "tokens")
        }

    advance, seconds = layout.compile(
        advance, train_state, jnp.int32(1), jnp.bool_(True), shared=(1, 2), donate=(0,)
    )
    probe, more = layout.compile(probe, train_state)
    return CompiledMethod(
        layout, advance, probe, updates, watched[-1], seconds + more, _memory_bytes(advance)
    )


def _memory_bytes(compiled: Any) -> int:
    """What a compiled program takes on each device: what it is given, what it gives and what lies
    between."""
    sizes = compiled.memory_analysis()
    given = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return given + sizes.temp_size_in_bytes + sizes.generated_code_size_in_bytes


class Progress(NamedTuple):
    """Where a run stands after a stretch."""

    update: int
    seconds: float  # of training so far, without compiling and evaluating
    tokens: np.ndarray  # [count] learned from so far
    metrics: (
        dict[str, np.ndarray] | None
    )  # evaluated here: name -> [count]; None between evaluations
    train_state: TrainState


def run(
    compiled: CompiledMethod,
    train_state: TrainState,
    evaluate: Callable[[TrainState], dict],
    points: int,
    start: Progress | None = None,
) -> Iterator[Progress]:
    """Train to the end, yielding after every stretch; from `start` (its `train_state` included) where a
    run goes on."""
    done, seconds = (start.update, start.seconds) if start else (0, 0.0)
    early = (
        compiled.updates / points * np.array([0.125, 0.25, 0.5])
    )  # most of a curve happens at its beginning
    stops = np.unique(
        np.concatenate(
            [np.linspace(0, compiled.updates, points + 1), early if points > 1 else []]
        ).astype(int)
    )
    tokens = start.tokens if start else np.zeros(compiled.layout.count)
    before = (
        tokens if done in stops else tokens - compiled.layout.host(train_state.log).tokens
    )  # up to the last evaluation
    if start is None:
        yield Progress(0, 0.0, tokens, evaluate(train_state), train_state)
    pace = None
    while done < compiled.updates:
        left = int(stops[np.searchsorted(stops, done, side="right")]) - done
        count = (
            left
            if pace is None and left < 20
            else min(left, max(1, int(STRETCH_SECONDS / (pace or 0.1))))
        )
        count = processes.first(count)
        began = time.perf_counter()
        train_state = jax.block_until_ready(
            compiled.advance(train_state, jnp.int32(count), jnp.bool_(done in stops))
        )
        spent = time.perf_counter() - began
        pace, done, seconds = spent / count, done + count, seconds + spent
        log = compiled.layout.host(train_state.log)
        tokens, metrics = before + log.tokens, None
        if done in stops:
            means = np.where(log.used > 0, log.sums.T / np.maximum(log.used, 1), np.nan)
            metrics, before = evaluate(train_state) | dict(zip(finite.MEANS, means)), tokens
        yield Progress(done, seconds, tokens, metrics, train_state)
