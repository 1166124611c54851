"""How fast each method's update is: `python -m experiments.speed PRESET [flags]` prints a table and
writes nothing.

The limit that a method is held against is sampling alone: as many strings of the same policy, on
the same seeds side by side, and nothing learned from them. A teacher, where the benchmark has one,
is used untrained: its speed is the same. `python -m experiments.speed start [PRESET] [flags]` times
what comes before the first update; `python -m experiments.speed head [flags]` a divergence over a
large vocabulary."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from experiments import cli
from fdiv.types import Components, Method, Params, UsageError

if TYPE_CHECKING:  # loaded once the command line has been answered
    import jax

    from experiments.assemble import Task
    from experiments.config import Config
    from experiments.devices import Layout
    from experiments.running.train import Training

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


def main(preset: str, config: Config) -> int:
    """Time every method of a config and print the table."""
    from experiments import config as configs
    from experiments import devices, validation
    from experiments.running.console import print_table

    default = cli.presets()[preset][1]
    validation.check(config, default)
    if config.output.out != default.output.out:
        raise UsageError("out", str(config.output.out), "speed writes nothing.", "Drop it.")
    layout = devices.lay_out(config.budget.seeds, config.devices)
    setup = set_up(config, layout, default)
    limit = time_sampling(setup)
    timings = [
        limit,
        *(time_method(setup, name, method) for name, method in configs.resolve(config).items()),
    ]
    titles = ["program", "compile s", "ms/update", "spread", "tokens/s", "of sampling"]
    caption = (
        f"{preset}: {config.budget.seeds} seeds x {config.budget.batch_size} strings, "
        f"{limit.tokens:,.0f} tokens an update; "
        f"{layout}. Median of {REPETITIONS} repetitions of {SECONDS:g} s; "
        "spread is (slowest - fastest) / median; of sampling: share of the speed of drawing "
        "strings and learning nothing."
    )
    print_table(titles, [_row(timing, limit) for timing in timings], caption)
    return 0


def _row(timing: Timing, limit: Timing) -> list[str]:
    seconds = np.array(timing.update_seconds)
    return [
        timing.name,
        f"{timing.compile_seconds:.1f}",
        f"{1e3 * np.median(seconds):.3f}",
        f"{np.ptp(seconds) / np.median(seconds):.0%}",
        f"{timing.rate():,.0f}",
        f"{timing.rate() / limit.rate():.2f}",
    ]


def set_up(config: Config, layout: Layout, preset: Config) -> Setup:
    """As a head-to-head makes it, with nothing enumerated and an untrained teacher."""
    from experiments import assemble, footprint
    from experiments.config import replace
    from experiments.running import runs, teacher

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
    import jax.numpy as jnp

    from experiments import assemble
    from experiments.running import runs, train
    from experiments.running.runs import Runs

    config, task, components, layout, keys, start = setup
    objective = assemble.build(config, method, components)
    rates = jnp.full(config.budget.seeds, method.learning_rate or config.optimiser.learning_rate)
    rows = runs.fixed_rows(config.budget, task.mdp, keys, method.reads)
    widths = assemble.widths_of(task, method)
    of = Runs(keys, start, rates, rows)
    return train.prepare(config, task, objective, layout, of, method.reads, widths=widths)


def time_method(setup: Setup, name: str, method: Method, repetitions: int = REPETITIONS) -> Timing:
    """A method's update, compiled and timed."""
    import jax.numpy as jnp

    training = training_of(setup, method)
    compiled = training.compiled

    def run(train_state, count):
        train_state = compiled.advance(train_state, count, jnp.bool_(True))
        return train_state, train_state.log.tokens

    return _time(name, compiled.compile_seconds, run, training.train_state, repetitions)


def time_sampling(setup: Setup) -> Timing:
    """Drawing as many strings, and learning nothing from them."""
    import jax
    import jax.numpy as jnp

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

    return _time("sampling alone", seconds, run, train_state)


def _time(
    name: str, compile_seconds: float, run: Callable, train_state, repetitions: int = REPETITIONS
) -> Timing:
    """Repetitions of about a second each; the runs that fill up the last device count as they
    cost."""
    import jax
    import jax.numpy as jnp

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


if __name__ == "__main__":
    if sys.argv[1:2] == ["start"]:
        from experiments.running import start_up

        sys.exit(start_up.main(sys.argv[2:]))
    if sys.argv[1:2] == ["head"]:
        from experiments.running import head_speed

        sys.exit(head_speed.main(sys.argv[2:]))
    sys.exit(cli.run(main, "experiments.speed"))
