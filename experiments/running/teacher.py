"""The known expert of a text benchmark: a larger transformer trained by likelihood once, and
kept; or a pretrained model, whose weights are read once a process and lie beside the parameters
that train: programs take them as arguments, for all runs together, and no checkpoint has them."""

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

from experiments.assemble import Task, named_as
from experiments.config import Config, prefixed, replace, teacher_of
from experiments.data.files import Reading
from experiments.devices import Layout, cache_folder, processes
from experiments.devices.seeds import SeedLayout
from experiments.models import pretrained
from experiments.optimiser import Optimiser
from experiments.running import resume, runs, train
from experiments.running.program import TrainState, begin
from experiments.running.runs import Runs
from experiments.storage import checkpoints
from fdiv.benchmarks import Text
from fdiv.objectives.max_likelihood import max_likelihood
from fdiv.policies import Architecture
from fdiv.rollout import sampler
from fdiv.types import Components, Model, Params, Policy, UsageError

TRAINED, BASE = "trained", "base"  # of --benchmark.teacher
LEARNING_RATE = 2e-3
CLIP = 1.0
VERSION = 4  # raise it when a change of code changes what is trained


def wanted(config: Config) -> bool:
    """Whether a run is to train a teacher, or to have one that was."""
    return teacher_of(config) == TRAINED


def identity(config: Config) -> dict[str, str]:
    """What decides a pretrained teacher beside its flag: a digest of its files."""
    kind = teacher_of(config)
    if kind in (None, TRAINED, BASE):  # the policy's own files have one
        return {}
    with named_as("benchmark.teacher", kind):
        return {"teacher_model": pretrained.digest(kind)}


def pretrained_teacher(config: Config, task: Task, layout: Layout | None) -> Model | None:
    """A teacher that is read; None where there is none, and for one that is trained. Raises
    `UsageError` where its tokens are not the policy's."""
    kind = teacher_of(config)
    if kind in (None, TRAINED):
        return None
    if kind == BASE:
        with prefixed(policy=config.policy):
            return _informed(pretrained.base(config.policy, layout), task)
    _check_vocab(kind, pretrained.source(kind).spec.vocab, task)
    try:
        return _informed(pretrained.teacher(kind, layout), task)
    except UsageError as error:
        raise UsageError("benchmark.teacher", kind, error.problem, error.fix) from error


def _informed(teacher: Model, task: Task) -> Model:
    """The teacher behind what it alone reads."""
    if task.hidden is None:
        return teacher
    from fdiv.lm.context import behind

    return teacher._replace(policy=behind(teacher.policy, task.hidden))


def _check_vocab(path: str, vocab: int, task: Task) -> None:
    if vocab == task.mdp.vocab:
        return
    of_bytes = task.mdp.pieces is None
    unit = "bytes and their end" if of_bytes else "tokens"
    problem = f"has a vocabulary of {vocab:,}, and the policy's is {task.mdp.vocab:,} {unit}."
    fix = "Give a teacher over the policy's tokens."
    if of_bytes:
        fix = f"Read text with its tokenizer: --benchmark.tokenizer {path}."
    raise UsageError("benchmark.teacher", path, problem, fix)


def get(
    config: Config,
    reading: Reading,
    task: Task,
    say: Callable[[str], None],
    saves: resume.Saves,
    run_layout: Layout | None = None,
) -> Model | None:
    """The teacher for these rows and sizes: read, from the cache, or trained now. None where there
    is to be none.

    Raises `Interrupted` where it is stopped, saved on the way to `saves`.
    """
    text = config.benchmark
    if not isinstance(text, Text) or not wanted(config):
        expert = pretrained_teacher(config, task, run_layout)
        if expert is not None:
            alone = ""
            if task.hidden is not None:
                count, replaced = len(task.hidden.tokens), task.hidden.replaced
                alone = f" It alone reads {count} tokens before each prompt"
                alone += f", in place of its first {replaced}." if replaced else "."
            say(f"Teacher: {teacher_of(config)}, computed in float32.{alone}")
        return expert
    unit = reading.vocabulary.unit.removesuffix("s")
    policy = _policy(text, task)
    own = _own_config(config, text)
    keys = jax.random.split(jax.random.key(config.budget.seed + 7), 1)
    components = Components(policy, task.mdp, sampler(task.mdp.horizon, task.mdp.eos))
    layout = SeedLayout(1, jax.local_devices()[:1])
    objective = max_likelihood(policy, task.mdp.vocab)
    own_run = Runs(keys, runs.starts(own, task, components, keys), jnp.full(1, LEARNING_RATE))

    place = _folder(config, text, reading, own)
    begun = begin(own, objective, own_run)
    cached = checkpoints.restore(place, begun, resume.lacking(begun))
    # several processes train it in step, each for itself
    lacking = processes.any_of(cached is None or cached[1]["update"] != own.budget.updates)
    if cached is not None and not lacking:
        train_state, about = cached
        say(f"Teacher: kept from an earlier run, {about['loss']:.3f} nats per {unit} in training.")
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
                f"{loss:.3f} nats per {unit}, {progress.seconds:.0f} s."
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


def untrained(
    config: Config, task: Task, layout: Layout | None = None, weights: bool = True
) -> Model | None:
    """The teacher before its first update, and one that is read as it is, or for a check that needs
    no numbers without its `weights`; None where there is to be none."""
    text = config.benchmark
    if not isinstance(text, Text) or teacher_of(config) is None:
        return None
    if not wanted(config):
        return pretrained_teacher(config, task, layout) if weights else _unread(config, task)
    policy = _policy(text, task)
    return Model(policy, policy.init(jax.random.key(config.budget.seed)))


def _unread(config: Config, task: Task) -> Model:
    """A pretrained teacher with the shapes of its weights in their place."""
    from fdiv.lm import model

    kind = teacher_of(config) or ""
    if kind == BASE:
        spec = pretrained.check(config.policy)
    else:
        spec = pretrained.source(kind).spec
        _check_vocab(kind, spec.vocab, task)
    policy = model.policy(spec)
    shapes = jax.eval_shape(policy.init, jax.random.key(0))
    return _informed(Model(policy, shapes), task)


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
        epochs_over_data=None,
        batch_size=32,
        demos=0,
        epochs=1,
        minibatches=1,
        accumulate=1,
        optimiser=Optimiser(learning_rate=LEARNING_RATE, max_grad_norm=CLIP),
    )


def key(config: Config, reading: Reading) -> str:
    """What decides the teacher of these rows, as a short name."""
    text, kind = config.benchmark, teacher_of(config)
    if isinstance(text, Text) and kind == TRAINED:
        return _folder(config, text, reading, _own_config(config, text)).name
    if kind == BASE:
        layers = config.policy.without_layers
        content = [pretrained.digest(pretrained.given_path(config.policy)), config.policy.stored]
        content += [str(layers)]
    else:
        content = [pretrained.digest(kind or "")]
    if isinstance(text, Text) and text.teacher_system is not None:
        content.append(text.teacher_system)
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _folder(config: Config, text: Text, reading: Reading, own: Config) -> Path:
    # the rows have the path's, the tokenizer's and the turns' part in it; widths change no number
    apart = ("path", "tokenizer", "turns", "teacher", "teacher_cache", "buckets")
    apart += ("store", "teacher_system", "rows", "checked", "reward")
    benchmark = {name: x for name, x in dataclasses.asdict(text).items() if name not in apart}
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
