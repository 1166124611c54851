"""What a sweep will cost, from the measured pace of each method: rough, and said so."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.config import Config
from experiments.sweep.folder import Line
from experiments.sweep.plan import parsed

START = 10.0  # for the imports, evaluations and files of a run, where nothing better is known


def estimate(lines: Sequence[Line]) -> tuple[float, float]:
    """(seconds of all lines one after another, seconds of the longest) on this machine's devices.

    Each method is timed where it first appears; elsewhere its time goes with strings per update and
    updates."""
    paces: dict[tuple, tuple[float, float]] = {}
    costs = []
    for line in lines:
        config, cost = parsed(line["preset"], line["flags"], f"line {line['line']}"), START
        for method in config.methods:
            kind = (line["preset"], config.policy.name, method)
            if kind not in paces:
                paces[kind] = _pace(config, method)
            compiling, pace = paces[kind]
            cost += (
                compiling
                + pace * config.budget.seeds * config.budget.batch_size * config.budget.updates
            )
        costs.append(cost)
    return sum(costs), max(costs)


def _pace(config: Config, name: str) -> tuple[float, float]:
    """(seconds to compile, seconds per string learned from) of one method, from a second of its
    updates."""
    from experiments import config as configs
    from experiments import devices
    from experiments.running import pace
    from fdiv import objectives

    devices.use_compile_cache(config.output.cache)
    setup = pace.set_up(config, devices.lay_out(config.budget.seeds, config.devices), config)
    name = objectives.canonical(name)
    method = configs.resolve(config)[name]
    timing = pace.time_method(setup, name, method, repetitions=1)
    return timing.compile_seconds, timing.update_seconds[0] / (
        config.budget.seeds * config.budget.batch_size
    )
