"""Our side of the works that are no language model's: the head over a large vocabulary, GAIL on the
two-template language, the head-to-head of seven methods, and a command's start."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench import measure
from experiments.bench.machine import Gauge
from experiments.bench.rows import Row, Side
from experiments.models import counts

VOCABULARIES = {"v49152": 49_152, "v151936": 151_936}
HEAD = {"tokens": 4096, "timed_tokens": 256, "width": 576}
GAIL_SECONDS = 5.0  # of training, after which GAIL's js is looked at
TASK = {"vocab": 3, "horizon": 6, "weight": 0.6, "noise": 0.1, "batch": 512}  # what a peer is told
STARTS = 3  # with a warm cache


def head(row: Row, gauge: Gauge, repeats: int) -> Row:
    """Fused against plain, both ours: the peer is the way that holds [N, V]."""
    from experiments.running import head_speed

    vocab = VOCABULARIES[row.size]
    options = head_speed.Options(vocabularies=(vocab,), repetitions=repeats, **HEAD)
    pace = gauge()
    ways = head_speed.ways(options)
    measured = {x.way: x for x in head_speed.measure(options, ways, vocab)}
    work = counts.together(counts.head(HEAD["timed_tokens"], vocab, HEAD["width"]))
    side = lambda name, way: Side(
        name, tuple(measured[way].seconds), HEAD["timed_tokens"], {**HEAD, "divergence": "js"}
    )
    fused, plain = measured["fused"].mebibytes, measured["plain"].mebibytes
    return row_with(
        row,
        ours=side("fused", "fused"),
        peer=side("plain JAX, [N, V] in memory", "plain"),
        bound=measure.bound(work, pace),
        numbers={
            "of peer's memory": fused / plain,
            "MiB": fused,
            "peer's MiB": plain,
            "of checkpointed time": float(
                np.median(np.divide(measured["fused"].seconds, measured["checkpointed"].seconds))
            ),
        },
    )


def row_with(row: Row, **fields: Any) -> Row:
    """The row with what was measured."""
    import dataclasses

    return dataclasses.replace(row, **fields)


def gail() -> tuple[Callable[[int], float], dict[str, Any], Callable[[], dict[str, float]]]:
    """Updates of the preset's GAIL on one seed as a function of their number; their settings; and
    what else is measured of it: how near five seconds of training bring it."""
    import jax
    import jax.numpy as jnp

    from experiments import cli
    from experiments.config import replace, resolve
    from experiments.devices import lay_out
    from experiments.running import pace
    from fdiv.policies import Architecture

    default = cli.presets()["two-template"][1]
    whole = Architecture("full")  # tables over whole prefixes, which can be the expert
    config = replace(default, methods=("gail",), seeds=1, policy=whole, scorer=whole)
    setup = pace.set_up(config, lay_out(1, config.devices), default)
    method = resolve(config)["gail"]
    training = pace.training_of(setup, method)
    tokens = config.budget.batch_size * setup.task.length
    state = {"now": training.train_state}

    def step(count: int) -> float:
        state["now"] = jax.block_until_ready(
            training.compiled.advance(state["now"], jnp.int32(count), jnp.bool_(True))
        )
        return float(count * tokens)

    def after() -> dict[str, float]:
        fresh = pace.training_of(setup, method)  # its program is compiled already
        near = _js_after(setup, training.compiled, fresh.train_state)
        return {
            "js after 5 s": near,
            "tokens/s of sampling alone": pace.time_sampling(setup).rate(),
        }

    settings = {"preset": "two-template", "seeds": 1, "policy": "full", "scorer": "full"}
    settings["batch_size"] = config.budget.batch_size
    return step, settings, after


def _js_after(setup: Any, compiled: Any, state: Any) -> float:
    """The exact JS to the expert after some seconds of training."""
    import jax
    import jax.numpy as jnp

    from fdiv import divergences, exact

    mdp = setup.task.mdp
    space = exact.enumerate_strings(mdp.vocab, mdp.horizon, mdp.eos)
    expert = exact.known_law(space, mdp.expert)
    end = time.perf_counter() + GAIL_SECONDS
    while time.perf_counter() < end:
        state = jax.block_until_ready(compiled.advance(state, jnp.int32(100), jnp.bool_(True)))
    params = jax.tree.map(lambda x: x[0], compiled.layout.host(state.learner.params))
    own = exact.law(space, setup.components.policy, params)
    return float(exact.divergence(divergences.parse("js"), space, expert, own))


def head_to_head(row: Row) -> list[Row]:
    """The command with an empty cache folder, then with what it has left there: compiled programs
    and searches of the class."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        taken = []
        for i in range(2):
            began = time.perf_counter()
            flags = ["--out", str(place / f"run-{i}"), "--cache", str(place / "cache"), "--quiet"]
            _run(["-m", "experiments.compare", "two-template", *flags])
            taken.append(time.perf_counter() - began)
    return [
        row_with(row, size=size, size_title=f"{size} cache", ours=Side("compare", (seconds,), 0.0))
        for size, seconds in zip(("cold", "warm"), taken)
    ]


def _run(arguments: list[str]) -> None:
    """A command of ours in a process of its own. Raises `RuntimeError` with its last words."""
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, encoding="utf-8"
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-400:])


def start(row: Row) -> list[Row]:
    """From a command's launch to its first update."""
    from experiments.running import start_up

    command = ["two-template", "--methods", "sft"]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        times = [
            start_up.first_update(command, place / "cache", place / f"run-{i}")
            for i in range(1 + STARTS)
        ]
    taken = [seconds for seconds in times if seconds is not None]
    if len(taken) < len(times):
        raise RuntimeError("a start ended before its first update")
    side = lambda seconds: Side(" ".join(command), tuple(seconds), 0.0)
    return [
        row_with(row, size="cold", size_title="cold cache", ours=side(taken[:1])),
        row_with(row, size="warm", size_title="warm cache", ours=side(taken[1:])),
    ]
