"""The known expert of a text benchmark: a larger transformer trained by likelihood once, and kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments import checkpoints, lasting, processes, training
from experiments.assemble import Task
from experiments.devices import cache_folder
from experiments.lanes import Lanes
from experiments.stopping import StopFlag
from experiments.text_files import Reading
from fdiv.benchmarks import Text
from fdiv.objectives.max_likelihood import max_likelihood
from fdiv.policies import Architecture
from fdiv.types import Kit, Model, Policy

LEARNING_RATE = 2e-3
CLIP = 1.0
VERSION = 3  # raise it when a change of code changes what is trained


def get(
    config: Any, reading: Reading, task: Task, say: Callable[[str], None], saves: lasting.Saves, stop: StopFlag
) -> Model | None:
    """The teacher for these rows and sizes: from the cache, or trained now. None where teacher_updates is 0.

    Raises `Interrupted` where it is stopped, saved on the way to `saves`.
    """
    if not config.benchmark.teacher_updates:
        return None
    policy = _policy(config.benchmark, task)
    own = _own_config(config)
    keys = jax.random.split(jax.random.key(config.seed + 7), 1)
    kit = Kit(policy, task.mdp, None)
    lanes = Lanes(1, jax.local_devices()[:1])
    objective = max_likelihood(policy, task.mdp.vocab)
    lane = training.begin(
        own, objective, own.updates, keys, training.starts(own, task, kit, keys), jnp.full(1, LEARNING_RATE), ()
    )

    folder = _folder(config, reading, own)
    kept = checkpoints.restore(folder, lane)
    lacking = kept is None or kept[1]["update"] != own.updates
    if not processes.any_of(lacking):  # several processes train it in step, each for itself
        say(f"Teacher: kept from an earlier run, {kept[1]['loss']:.3f} nats per byte in training.")
        return Model(policy, jax.tree.map(lambda x: x[0], kept[0].state.params))

    lane, start = lasting.resume(saves, lane)
    program = training.build(own, task, objective, own.updates, lanes, lane)
    loss = float("nan")
    for point in lasting.run(saves, stop, program, lane, start, points=20):
        if point.metrics and "loss" in point.metrics:
            loss = float(point.metrics["loss"][0]) * own.batch_size * point.update / max(1.0, float(point.tokens[0]))
            say(f"Teacher: {point.update} of {own.updates} updates, {loss:.3f} nats per byte, {point.seconds:.0f} s.")
    if jax.process_index() == 0:  # which alone writes saves
        _keep(folder, own.updates, point.lane, {"update": own.updates, "loss": loss})
    return Model(policy, jax.tree.map(lambda x: x[0], point.lane.state.params))


def _keep(folder: Path, updates: int, lane: Any, about: dict[str, Any]) -> None:
    """Whole or not at all: other runs may train the same teacher at this moment, and one of them is enough."""
    draft = folder.with_name(f"draft-{folder.name}-{platform.node()}-{os.getpid()}")
    draft.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.save(draft, updates, lane, about)
    try:
        draft.rename(folder)
    except OSError:
        shutil.rmtree(draft)


def untrained(config: Any, task: Task) -> Model:
    """The teacher before its first update."""
    policy = _policy(config.benchmark, task)
    return Model(policy, policy.init(jax.random.key(config.seed)))


def _policy(benchmark: Text, task: Task) -> Policy:
    architecture = Architecture("transformer", layers=benchmark.teacher_layers, width=benchmark.teacher_width)
    return architecture.policy(task.mdp.vocab, task.length)


def _own_config(config: Any) -> Any:
    """The teacher's training: the run's config with the teacher's own length, step and clipping."""
    plain = {"demos": 0, "epochs": 1, "minibatches": 1, "accumulate": 1, "schedule": "cosine", "clip": CLIP}
    return dataclasses.replace(config, updates=config.benchmark.teacher_updates, batch_size=32, **plain)


def _folder(config: Any, reading: Reading, own: Any) -> Path:
    benchmark = {k: v for k, v in dataclasses.asdict(config.benchmark).items() if k not in ("path",)}
    key = {"benchmark": benchmark, "rows": reading.digest(), "seed": config.seed, "batch": own.batch_size, "version": VERSION}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:16]
    return cache_folder(config.cache) / "teachers" / digest
