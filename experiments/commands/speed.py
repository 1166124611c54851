"""How fast each method's update is: `python -m experiments.speed PRESET [flags]` prints a table and
writes nothing.

The limit that a method is held against is sampling alone: as many strings of the same policy, on
the same seeds side by side, and nothing learned from them. A teacher, where the benchmark has one,
is used untrained: its speed is the same. `python -m experiments.speed start [PRESET] [flags]` times
what comes before the first update; `python -m experiments.speed head [flags]` a divergence over a
large vocabulary."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

from experiments import cli
from fdiv.types import UsageError

if TYPE_CHECKING:  # loaded once the command line has been answered
    from experiments.config import Config
    from experiments.running.pace import Timing


def main(preset: str, config: Config) -> int:
    """Time every method of a config and print the table."""
    from experiments import config as configs
    from experiments import devices, validation
    from experiments.running import pace
    from experiments.running.console import print_table

    default = cli.presets()[preset][1]
    validation.check(config, default)
    if config.output.out != default.output.out:
        raise UsageError("out", str(config.output.out), "speed writes nothing.", "Drop it.")
    layout = devices.lay_out(config.budget.seeds, config.devices)
    setup = pace.set_up(config, layout, default)
    limit = pace.time_sampling(setup)
    timings = [
        limit,
        *(
            pace.time_method(setup, name, method)
            for name, method in configs.resolve(config).items()
        ),
    ]
    titles = ["program", "compile s", "ms/update", "spread", "tokens/s", "of sampling"]
    caption = (
        f"{preset}: {config.budget.seeds} seeds x {config.budget.batch_size} strings, "
        f"{limit.tokens:,.0f} tokens an update; "
        f"{layout}. Median of {pace.REPETITIONS} repetitions of {pace.SECONDS:g} s; "
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


if __name__ == "__main__":
    if sys.argv[1:2] == ["start"]:
        from experiments.running import start_up

        sys.exit(start_up.main(sys.argv[2:]))
    if sys.argv[1:2] == ["head"]:
        from experiments.running import head_speed

        sys.exit(head_speed.main(sys.argv[2:]))
    sys.exit(cli.run(main, "experiments.speed"))
