"""The known expert of a text benchmark: a larger transformer trained by likelihood once, and
kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

from experiments.assemble import Task
from experiments.config import Config, replace
from experiments.data.files import Reading
from experiments.devices import cache_folder, processes
from experiments.devices.seeds import SeedLayout
from experiments.optimiser import Optimiser
from experiments.running import resume, runs, train
from experiments.running.program import TrainState, begin
from experiments.running.runs import Runs
from experiments.storage import checkpoints
from fdiv.benchmarks import Text
from fdiv.objectives.max_likelihood import max_likelihood
from fdiv.policies import Architecture
from fdiv.rollout import sampler
from fdiv.types import Components, Model, Params, Policy

LEARNING_RATE = 2e-3
CLIP = 1.0
VERSION = 4  # raise it when a change of code changes what is trained


def wanted(config: Config) -> bool:
    """Whether a run is to have a teacher."""
    return isinstance(config.benchmark, Text) and bool(config.benchmark.teacher_updates)


def get(
    config: Config,
    reading: Reading,
    task: Task,
    say: Callable[[str], None],
    saves: resume.Saves,
) -> Model | None:
    """The teacher for these rows and sizes: from the cache, or trained now. None where
    teacher_updates is 0.

    Raises `Interrupted` where it is stopped, saved on the way to `saves`.
    """
    text = config.benchmark
    if not isinstance(text, Text) or not text.teacher_updates:
        return None
    policy = _policy(text, task)
    own = _own_config(config, text)
    keys = jax.random.split(jax.random.key(config.budget.seed + 7), 1)
    components = Components(policy, task.mdp, sampler(task.mdp.horizon, task.mdp.eos))
    layout = SeedLayout(1, jax.local_devices()[:1])
    objective = max_likelihood(policy, task.mdp.vocab)
    own_run = Runs(keys, runs.starts(own, task, components, keys), jnp.full(1, LEARNING_RATE))

    place = _folder(config, text, reading, own)
    cached = checkpoints.restore(place, begin(own, objective, own_run))
    # several processes train it in step, each for itself
    lacking = processes.any_of(cached is None or cached[1]["update"] != own.budget.updates)
    if cached is not None and not lacking:
        train_state, about = cached
        say(f"Teacher: kept from an earlier run, {about['loss']:.3f} nats per byte in training.")
        return Model(policy, _only(train_state.learner.params))

    training = train.prepare(own, task, objective, layout, own_run, saves=saves)
    loss = float("nan")
    for progress in train.fit(training, stops=train.curve(own.budget.updates, points=20)):
        if progress.metrics and "loss" in progress.metrics:
            loss = (
                float(progress.metrics["loss"][0])
                * own.budget.batch_size
                * progress.update
                / max(1.0, float(progress.tokens[0]))
            )
            say(
                f"Teacher: {progress.update} of {own.budget.updates} updates, "
                f"{loss:.3f} nats per byte, {progress.seconds:.0f} s."
            )
    if jax.process_index() == 0:  # which alone writes saves
        about: checkpoints.About = {"update": own.budget.updates, "loss": loss}
        _keep(place, own.budget.updates, progress.train_state, about)
    return Model(policy, _only(progress.train_state.learner.params))


def _only(params: Params) -> Params:
    """The one run's own."""
    return jax.tree.map(lambda x: x[0], params)


def _keep(folder: Path, updates: int, train_state: TrainState, about: checkpoints.About) -> None:
    """Whole or not at all: other runs may train the same teacher at this moment, and one of them is
    enough."""
    draft = folder.with_name(f"draft-{folder.name}-{platform.node()}-{os.getpid()}")
    draft.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.save(draft, updates, train_state, about)
    try:
        draft.rename(folder)
    except OSError:
        shutil.rmtree(draft)
        if not any(folder.glob("[0-9]*")):  # only damaged ones, which were set aside
            checkpoints.save(folder, updates, train_state, about)


def untrained(config: Config, task: Task) -> Model | None:
    """The teacher before its first update; None where there is to be none."""
    text = config.benchmark
    if not isinstance(text, Text) or not text.teacher_updates:
        return None
    policy = _policy(text, task)
    return Model(policy, policy.init(jax.random.key(config.budget.seed)))


def _policy(benchmark: Text, task: Task) -> Policy:
    architecture = Architecture(
        "transformer", layers=benchmark.teacher_layers, width=benchmark.teacher_width
    )
    return architecture.policy(task.mdp.vocab, task.length)


def _own_config(config: Config, text: Text) -> Config:
    """The teacher's training: the run's config with a length and an optimiser of its own."""
    return replace(
        config,
        updates=text.teacher_updates,
        batch_size=32,
        demos=0,
        epochs=1,
        minibatches=1,
        accumulate=1,
        optimiser=Optimiser(learning_rate=LEARNING_RATE, max_grad_norm=CLIP),
    )


def _folder(config: Config, text: Text, reading: Reading, own: Config) -> Path:
    benchmark = {name: x for name, x in dataclasses.asdict(text).items() if name != "path"}
    key = {
        "benchmark": benchmark,
        "rows": reading.digest(),
        "seed": config.budget.seed,
        "batch": own.budget.batch_size,
        "version": VERSION,
        "format": checkpoints.FORMAT,  # teachers kept in another format are left alone
    }
    if jnp.result_type(float) == jnp.float64:
        key["x64"] = True
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:16]
    return folder(config) / digest


def folder(config: Config) -> Path:
    """Where teachers are kept."""
    return cache_folder(config.output.cache) / "teachers"
