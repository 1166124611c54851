"""Training one method on all its seeds at once: compile, then stretches of updates with an evaluation after each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.assemble import Task, embedded, make_learner
from experiments.lanes import Lanes
from fdiv.types import Kit, LearnerState, Objective, TokenMDP, UsageError

STRETCH_SECONDS = 2.0  # how long a program runs before the screen and Ctrl-C get a turn


class Lane(NamedTuple):
    """One run: what it is (state), at which learning rate, and which demonstrations it sees."""

    state: LearnerState
    rate: jax.Array
    data_key: jax.Array
    rows: Any  # its fixed demonstrations [N, T], or () for fresh ones


class Program(NamedTuple):
    """A method compiled for its lanes."""

    lanes: Lanes
    advance: Callable  # lane, n updates -> lane, means over them
    probe: Callable  # lane -> the method's own metrics
    updates: int
    compile_seconds: float


def source(mdp: TokenMDP, reads: str) -> Callable[[jax.Array, int], Any]:
    """Where a method's batches come from. Raises `UsageError` where the task has no comparisons, or labels, to give."""
    found = {"demos": mdp.demos, "pairs": mdp.pairs, "labels": mdp.labels or mdp.pairs}[reads]
    if found is None:
        fix = "Use a benchmark with them (rewarded, or text with such columns), or a method that learns from other data."
        raise UsageError("methods", reads, f"there are no {reads} to learn from here.", fix)
    return found


def demonstrations(config: Any, task: Task, keys: jax.Array, reads: str = "demos") -> Any:
    """Each run's fixed rows, or () where every update draws fresh ones. The same for every method that reads such rows."""
    if not config.demos:
        return ()
    rows = source(task.mdp, reads)
    return jax.jit(jax.vmap(lambda key: rows(jax.random.fold_in(key, 3), config.demos)))(keys)


def starts(config: Any, task: Task, kit: Kit, keys: jax.Array) -> Any:
    """Each run's initial parameters, the task's reference where the class holds it. The same for every method."""
    reference = embedded(config, task)
    if reference is not None:
        return jnp.broadcast_to(reference, (len(keys), *reference.shape))
    return jax.jit(jax.vmap(lambda key: kit.policy.init(jax.random.fold_in(key, 0))))(keys)


def draw(config: Any, rows: Callable[[jax.Array, int], Any], kept: Any, key: jax.Array) -> Any:
    """The batch of an update: fresh rows, or some of the fixed ones drawn with replacement."""
    if not config.demos:
        return rows(key, config.batch_size)
    chosen = jax.random.randint(key, config.batch_size, 0, config.demos)
    return jax.tree.map(lambda x: x[chosen], kept)


def begin(config: Any, objective: Objective, updates: int, keys: jax.Array, params: Any, rates: jax.Array, rows: Any) -> Lane:
    """The lanes before their first update, [count, ...]."""

    def one(key, params, rate, rows):
        state = make_learner(config, objective, rate, updates).init(jax.random.fold_in(key, 1), params)
        return Lane(state, rate, jax.random.fold_in(key, 2), rows)

    return jax.jit(jax.vmap(one))(keys, params, rates, rows)


def build(
    config: Any, task: Task, objective: Objective, updates: int, lanes: Lanes, lane: Lane, reads: str = "demos"
) -> Program:
    """Compile a method for lanes laid out by `lanes.put`."""
    rows = source(task.mdp, reads)

    def advance(lane: Lane, count: jax.Array):
        learner = make_learner(config, objective, lane.rate, updates)

        def one(_, carry):
            state, sums = carry
            batch = lanes.rows(draw(config, rows, lane.rows, jax.random.fold_in(lane.data_key, state.step)))
            state, metrics = learner.update(state, batch)
            kept = jnp.stack([jnp.asarray(metrics[name], jnp.float32) for name in KEPT])
            return state, sums + kept

        state, sums = jax.lax.fori_loop(0, count, one, (lane.state, jnp.zeros(len(KEPT))))
        return lane._replace(state=state), dict(zip(KEPT, sums))

    def probe(lane: Lane):
        state, key = lane.state, jax.random.fold_in(lane.data_key, -1 - lane.state.step)
        batch = lanes.rows(draw(config, rows, lane.rows, key))
        metrics = objective.prepare(key, state.params, state.aux, batch)[2]
        return {name: value for name, value in metrics.items() if name not in KEPT}

    advance, seconds = lanes.compile(advance, lane, jnp.int32(1), shared=(1,), donate=(0,))
    probe, more = lanes.compile(probe, lane)
    return Program(lanes, advance, probe, updates, seconds + more)


KEPT = ("loss", "gradient_norm", "tokens")


class Point(NamedTuple):
    """Where a run stands after a stretch."""

    update: int
    seconds: float  # of training so far, without compiling and evaluating
    tokens: np.ndarray  # [count] learned from so far
    metrics: dict[str, np.ndarray] | None  # evaluated here: name -> [count]; None between evaluations
    lane: Lane


def run(
    program: Program, lane: Lane, evaluate: Callable[[Lane], dict], points: int, start: Point | None = None
) -> Iterator[Point]:
    """Train to the end, yielding after every stretch; from `start` (its `lane` included) where a run goes on."""
    done, seconds = (start.update, start.seconds) if start else (0, 0.0)
    tokens = start.tokens if start else np.zeros(program.lanes.count)
    early = program.updates / points * np.array([0.125, 0.25, 0.5])  # most of a curve happens at its beginning
    stops = np.unique(np.concatenate([np.linspace(0, program.updates, points + 1), early if points > 1 else []]).astype(int))
    if start is None:
        yield Point(0, 0.0, tokens, evaluate(lane), lane)
    pace = None
    sums, since = _none(), 0
    while done < program.updates:
        left = int(stops[np.searchsorted(stops, done, side="right")]) - done
        count = left if pace is None and left < 20 else min(left, max(1, int(STRETCH_SECONDS / (pace or 0.1))))
        began = time.perf_counter()
        lane, new = jax.block_until_ready(program.advance(lane, jnp.int32(count)))
        spent = time.perf_counter() - began
        pace, done, seconds = spent / count, done + count, seconds + spent
        new = program.lanes.host(new)
        sums, since = {name: sums[name] + new[name] for name in KEPT}, since + count
        tokens = tokens + new["tokens"]
        metrics = None
        if done in stops:
            metrics = evaluate(lane) | {name: sums[name] / since for name in ("loss", "gradient_norm")}
            sums, since = _none(), 0
        yield Point(done, seconds, tokens, metrics, lane)


def _none() -> dict[str, float]:
    return dict.fromkeys(KEPT, 0.0)
