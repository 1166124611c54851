"""The training loop: every method, teacher, learning-rate trial, timing and trained figure is
trained by it.

    training = train.prepare(config, task, objective, layout, Runs(keys, params, rates, rows))
    for progress in train.fit(training, evaluate, train.curve(updates, points)):
        ...  # progress.update, .seconds, .tokens, .metrics (where evaluated), .train_state

`prepare` begins the runs (or takes them from their newest save) and puts them on their devices.
The program is compiled when it is first needed. `fit` trains in stretches of about two seconds, so
that a screen and a signal get their turn, and evaluates at the stops of the curve. The numbers do
not depend on where a stretch ends."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments.assemble import Task
from experiments.config import Config
from experiments.devices import Layout, offload, processes
from experiments.running import finite, program, resume
from experiments.running.program import CompiledMethod, Position, Progress, TrainState
from experiments.running.runs import Runs
from fdiv.benchmarks import own_reward
from fdiv.buckets import Buckets
from fdiv.types import Objective

STRETCH_SECONDS = 2.0
EARLY = (0.125, 0.25, 0.5)  # parts of the first interval: most of a curve happens at its beginning
Evaluate = Callable[[TrainState], dict[str, np.ndarray]]  # states as laid out -> name -> [count]


@dataclasses.dataclass(frozen=True)
class Training:
    """One method on all its runs, ready to be trained, once: `fit` gives `train_state` away."""

    config: Config
    task: Task
    objective: Objective
    layout: Layout
    reads: str
    saves: resume.Saves | None
    widths: Buckets | None
    train_state: TrainState  # laid out, before its first update or where the newest save left it
    start: Position | None  # where that save left it; None before the first update

    @property
    def complete(self) -> bool:
        """Whether a save holds the end already."""
        return self.start is not None and self.start.update == self.config.budget.updates

    @functools.cached_property
    def compiled(self) -> CompiledMethod:
        """The program, compiled when it is first asked for."""
        return program.build(
            self.config,
            self.task,
            self.objective,
            self.layout,
            self.train_state,
            self.reads,
            self.widths,
        )


def prepare(
    config: Config,
    task: Task,
    objective: Objective,
    layout: Layout,
    runs: Runs,
    reads: str = "demos",
    saves: resume.Saves | None = None,
    widths: Buckets | None = None,
) -> Training:
    """Begin `runs` on `layout`, or take them from the newest of `saves`.

    From `config` come the budget (updates, batch size, steps a batch), the optimiser and what an
    update that is not finite does; `reads` says which rows of the task the method learns from
    (demos, pairs or labels), `widths` in which widths these are computed. Raises `UsageError` where
    the task has none of them, at the latest when the program is compiled."""
    if config.optimiser.offload:
        offload.refuse(layout.devices, config.devices.meshed)
    train_state, start = program.begin(config, objective, runs), None
    if saves is not None:
        train_state, start = resume.newest(saves, train_state)
    laid_out = layout.put(train_state)
    return Training(config, task, objective, layout, reads, saves, widths, laid_out, start)


def fit(
    training: Training, evaluate: Evaluate | None = None, stops: Sequence[int] = ()
) -> Iterator[Progress]:
    """Train to the end, yielding after every stretch.

    At the start, at each of `stops` (numbers of updates done) and at the end `progress.metrics`
    holds what `evaluate` gives, with the means of `finite.MEANS` since the stop before; it is None
    in between. With saves, raises `Interrupted` once a stop is asked for and all is saved."""
    updates, saves = training.config.budget.updates, training.saves
    stops = sorted({0, *stops, updates})
    progress = stretches(
        training.compiled,
        training.train_state,
        evaluate or (lambda train_state: {}),
        stops,
        training.start,
    )
    if saves is None:
        return progress
    return resume.saved(progress, saves, training.layout, updates, training.start)


def to_end(training: Training) -> TrainState:
    """The runs at their end, as laid out; nothing is compiled where a save holds them."""
    if training.complete:
        return training.train_state
    *_, progress = fit(training)
    return progress.train_state


def curve(updates: int, points: int) -> list[int]:
    """Where a learning curve of that many points is evaluated: evenly, and early on."""
    even = np.linspace(0, updates, points + 1)
    early = updates / points * np.array(EARLY) if points > 1 else np.zeros(0)
    return [int(x) for x in np.unique(np.concatenate([even, early]).astype(int))]


def stretches(
    compiled: CompiledMethod,
    train_state: TrainState,
    evaluate: Evaluate,
    stops: Sequence[int],
    start: Position | None = None,
) -> Iterator[Progress]:
    """The loop itself: from `train_state`, which stands at `start`, to the last of `stops`, the
    first of which is 0. Yields after every stretch, none of which goes past a stop."""
    done, seconds = (start.update, start.seconds) if start else (0, 0.0)
    tokens = start.tokens if start else np.zeros(compiled.layout.count)
    # tokens up to the last evaluation; the log counts those since
    before = tokens if done in stops else tokens - compiled.layout.host(train_state.log).tokens
    if start is None:
        yield Progress(0, 0.0, tokens, evaluate(train_state), train_state)
    pace = None  # seconds an update
    while done < stops[-1]:
        left = stops[int(np.searchsorted(stops, done, side="right"))] - done
        count = processes.first(_updates_in_a_stretch(left, pace))
        began = time.perf_counter()
        train_state = jax.block_until_ready(
            compiled.advance(train_state, jnp.int32(count), jnp.bool_(done in stops))
        )
        took = time.perf_counter() - began
        pace, done, seconds = took / count, done + count, seconds + took
        own_reward.raise_failed()
        log = compiled.layout.host(train_state.log)
        tokens, metrics = before + log.tokens, None
        if done in stops:
            metrics, before = evaluate(train_state) | finite.means(log, compiled.shares), tokens
        yield Progress(done, seconds, tokens, metrics, train_state)


def _updates_in_a_stretch(left: int, pace: float | None) -> int:
    """At most those left to the next stop; few of them at once before the pace is known."""
    if pace is None and left < 20:
        return left
    return min(left, max(1, int(STRETCH_SECONDS / (pace or 0.1))))
