"""Where a teacher is kept: by all that decides its numbers."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from language_models import CASES

from experiments import cli
from experiments import config as configs
from experiments.devices import programs
from experiments.running import teacher
from fdiv import divergences, prefixes
from fdiv.lm import model
from fdiv.lm.spec import from_config
from fdiv.types import Model, Sequences


class Rows:
    """Rows of which only the digest is read."""

    def __init__(self, digest: str):
        self.digest = lambda: digest


def folder_of(tmp_path, digest: str = "rows", own: dict | None = None, **flat):
    preset = cli.presets()["text"][1]
    text = dataclasses.replace(preset.benchmark, **(own or {}))
    config = configs.replace(preset, cache=str(tmp_path), benchmark=text, **flat)
    return teacher._folder(config, text, Rows(digest), teacher._own_config(config, text))


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({}, True),
        ({"digest": "other rows"}, False),
        ({"seed": 5}, False),
        ({"own": {"teacher_width": 24}}, False),
        ({"own": {"teacher_updates": 7}}, False),
        ({"updates": 7}, True),  # the run's own, not the teacher's
    ],
)
def test_other_data_seeds_and_sizes_have_teachers_of_their_own(changed, same, tmp_path):
    assert (folder_of(tmp_path, **changed) == folder_of(tmp_path)) is same


def test_a_teachers_weights_are_arguments_of_programs():
    """So there is one copy for all of them, and none in any."""
    sizes = {"vocab_size": 4096, "hidden_size": 96, "num_hidden_layers": 1}
    policy = model.policy(from_config({**CASES["smollm2"], **sizes}))
    shapes = jax.eval_shape(policy.init, jax.random.key(0))
    params = jax.tree.map(lambda of: jnp.zeros(of.shape, of.dtype), shapes)
    x = Sequences(jnp.ones((1, 3), jnp.int32), jnp.array([[False, True, True]]), jnp.ones(1))

    def loss(own):
        target = Model(policy, params)
        d = divergences.parse("js")
        return prefixes.divergence_loss(d, target, Model(policy, own), x, 4096)

    own = programs.opened(jax.jit(loss).trace(params))
    assert any(array is params["params"]["embedding"] for array in own.closed_over)
