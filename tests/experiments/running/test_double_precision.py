"""With JAX_ENABLE_X64=1 every preset's program is traced to its end: no number's type follows from
a default that the switch changes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from language_models import random_tensors, spec_of
from pretrained_models import made

from experiments import assemble, cli
from experiments import config as configs
from experiments.data import hidden
from experiments.devices import Devices
from experiments.devices.seeds import SeedLayout
from experiments.evaluation.evaluator import Evaluator, judging_keys
from experiments.running import program, runs, teacher
from experiments.running.runs import Runs
from fdiv.lm import model, weights
from fdiv.lm.hidden import Hidden
from fdiv.rollout import sampler
from fdiv.types import Sequences

# that every divergence keeps to single precision is a law of tests/fdiv/test_divergences.py
pytestmark = pytest.mark.usefixtures("few_logged")

METHODS = {  # preset -> methods of it, one of each way to learn
    "two-template": ("gail",),
    "markov": ("js",),
    "rlhf": ("ppo", "dpo"),
    "rlhf-markov": ("kto",),
    "preferences": ("ipo",),
    "demos-vs-preferences": ("airl", "bt_rloo"),
    "arithmetic": ("grpo",),
    "text": ("sft",),
}


class Traced(SeedLayout):
    """Compiles nothing: a program is only traced, and gives the shapes of what it would."""

    def compile(self, function, *arguments, shared=(), donate=(), seldom=False):
        axes = tuple(None if i in shared else 0 for i in range(len(arguments)))
        shapes = jax.eval_shape(jax.vmap(function, in_axes=axes), *arguments)
        return lambda *given: shapes, 0.0


def test_every_preset_is_in_a_table():
    assert {*METHODS, *PRETRAINED} == set(cli.presets())


@pytest.mark.parametrize("preset", METHODS)
@pytest.mark.few(1)
def test_a_preset_trains_in_double_precision(preset, double, monkeypatch):
    given = cli.presets()[preset][1]
    small = {"batch_size": 16, "updates": 2, "seeds": 1, "demos": min(given.budget.demos, 16)}
    small |= {name: one_layer(getattr(given, name)) for name in ("policy", "scorer")}
    trace(configs.replace(given, methods=METHODS[preset], **small), monkeypatch)


def one_layer(architecture):
    """A transformer's layers are unrolled, and all of one type."""
    layers = 1 if architecture.name == "transformer" else None
    return dataclasses.replace(architecture, layers=layers)


PRETRAINED = {
    "lm": ("policy_gradient:reverse_kl", "gail"),
    "lm-arithmetic": ("ppo",),
    "lm-preferences": ("dpo",),
    "lm-context": ("distill:reverse_kl",),
    "lm-cluster": ("distill:js",),
}


@pytest.mark.wide
@pytest.mark.parametrize("preset", PRETRAINED)
def test_a_pretrained_preset_trains_in_double_precision(preset, double, monkeypatch, tmp_path):
    """With a tiny model that reads bytes in the place of the preset's and of its teacher's, on one
    device; behind three tokens in the place of a message, which bytes cannot be."""
    folder = str(made(tmp_path / "model", monkeypatch))
    given = cli.presets()[preset][1]
    left_out = ("1",) if given.policy.without_layers else None
    policy = dataclasses.replace(given.policy, path=folder, without_layers=left_out)
    teacher, told = given.benchmark.teacher, given.benchmark.teacher_system
    teacher = folder if teacher and "/" in teacher else teacher
    length = {"prompt_length": 24, "horizon": min(given.benchmark.horizon, 40)}
    text = dataclasses.replace(
        given.benchmark, tokenizer=Path("bytes"), teacher=teacher, teacher_system=None, **length
    )
    if told is not None:
        monkeypatch.setattr(hidden, "of", lambda *of: Hidden((5, 6, 7), 1))
    small = {"batch_size": 8, "updates": 2, "seeds": 1, "warm_up": 0, "devices": Devices()}
    config = configs.replace(
        given, policy=policy, benchmark=text, methods=PRETRAINED[preset], **small
    )
    layout, task, components, start = trace(config, monkeypatch)
    if preset == "lm-context":  # what measures it takes as long to trace as all else
        Evaluator(config.evaluation, judging_keys(0, 1), task, components, layout, start)


def trace(config, monkeypatch):
    """Every method's program to its end; what else it takes to trace what measures them."""
    monkeypatch.setattr(program, "_memory_bytes", lambda compiled: 0)
    reading = assemble.data(config)
    config = assemble.fitted(config, reading)
    task = assemble.task(config, reading)
    task = task._replace(
        mdp=task.mdp._replace(expert=teacher.untrained(config, task) or task.mdp.expert)
    )
    components, keys = assemble.components(config, task), assemble.seed_keys(config, 1)
    start, layout = runs.starts(config, task, components, keys), Traced(1, jax.devices()[:1])
    tokens = task.mdp.demos(keys[0], 2).tokens
    assert tokens.dtype == np.int32
    for method in configs.resolve(config).values():
        objective = assemble.build(config, method, components)
        rows = runs.fixed_rows(config.budget, task.mdp, keys, method.reads)
        own = Runs(keys, start, jnp.full(1, 0.1), rows)
        train_state = program.begin(config, objective, own)
        program.build(config, task, objective, layout, train_state, method.reads)
    return layout, task, components, start


def test_a_pretrained_policy_of_single_precision_samples(double):
    """What it has read is kept in JAX's default type, which is wider than its parameters."""
    spec = spec_of("smollm2")
    params = weights.load(spec, weights.Arrays(random_tensors(spec)))
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    tokens = jnp.ones((2, 3), jnp.int32)
    prompts = Sequences(tokens, jnp.zeros(tokens.shape, bool), jnp.ones(2))
    drawn = lambda key: sampler(4, 0)(key, model.policy(spec), params, prompts)
    strings, log_q = jax.eval_shape(drawn, jax.random.key(0))
    assert strings.tokens.shape == log_q.shape == (2, 7)
