"""What a sweep will cost, from the measured pace of each method: rough, and said so."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from experiments.sweep.plan import parsed

SECONDS = 1.0  # of updates measured
START = 10.0  # for the imports, evaluations and files of a run, where nothing better is known


def estimate(lines: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """(seconds of all lines one after another, seconds of the longest) on this machine's devices.

    Each method is timed where it first appears; elsewhere its time goes with strings per update and updates.
    """
    paces: dict[tuple, tuple[float, float]] = {}
    costs = []
    for line in lines:
        config, cost = parsed(line["preset"], line["flags"], f"line {line['line']}"), START
        for method in config.methods:
            kind = (line["preset"], config.policy.name, method)
            if kind not in paces:
                paces[kind] = _pace(config, method)
            compiling, pace = paces[kind]
            cost += compiling + pace * config.seeds * config.batch_size * config.updates
        costs.append(cost)
    return sum(costs), max(costs)


def _pace(config: Any, name: str) -> tuple[float, float]:
    """(seconds to compile, seconds per string learned from) of one method."""
    import jax
    import jax.numpy as jnp

    from experiments import config as configs
    from experiments import devices, speed, training

    devices.use_compile_cache(config.cache)
    task, kit, lanes, keys, start = speed._setup(config, devices.lanes(config.seeds, config.devices))
    method, chosen = configs.resolve(config)[config.methods.index(name)]
    objective, rates = method.build(chosen, kit), jnp.full(config.seeds, config.learning_rate)
    rows = training.demonstrations(config, task, keys, method.reads)
    lane = lanes.put(training.begin(config, objective, config.updates, keys, start, rates, rows))
    program = training.build(config, task, objective, config.updates, lanes, lane, method.reads)
    count, spent, done = 1, 0.0, 0
    while spent < SECONDS and done < config.updates:
        began = time.perf_counter()
        lane, _ = jax.block_until_ready(program.advance(lane, jnp.int32(count)))
        spent, done, count = time.perf_counter() - began, count, 2 * count
    return program.compile_seconds, spent / done / (config.seeds * config.batch_size)
