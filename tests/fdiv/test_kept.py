"""A teacher whose features at fixed rows are kept: the same losses, and none for other strings."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdiv import divergences, kept
from fdiv.benchmarks import TwoTemplate
from fdiv.objectives.distill import distill
from fdiv.policies import transformer
from fdiv.policies.transformer import Shape
from fdiv.types import PAD, Components, Model, Sequences

VOCAB, WHOLE = 7, 9
POLICY = transformer.policy(Shape(layers=1, width=8, heads=2, kv_heads=1), VOCAB)
TEACHER = Model(POLICY, POLICY.init(jax.random.key(5)))
STUDENT = POLICY.init(jax.random.key(6))


def rows():
    """Twelve rows, of which the second is the first again, and the third too but for where its
    answer begins."""
    draw = np.random.default_rng(0)
    size, first = draw.integers(4, WHOLE + 1, (12, 1)), draw.integers(1, 4, (12, 1))
    tokens = draw.integers(0, VOCAB, (12, WHOLE))
    tokens[1:3], size[1:3], first[:2], first[2] = tokens[0], size[0], 2, 1
    column = np.arange(WHOLE)[None]
    mask = (column >= first) & (column < size)
    tokens = np.where(column < size, tokens, PAD)
    return Sequences(*map(jnp.asarray, (tokens, mask, np.linspace(1, 2, 12, dtype=np.float32))))


@functools.cache
def made():
    strings = kept.distinct(rows())
    features = jax.jit(POLICY.trunk)(TEACHER.params, strings.tokens)
    return strings, kept.keep(TEACHER, strings, np.asarray(features)[np.asarray(strings.mask)])


@functools.cache
def loss_of(name):
    mdp = TwoTemplate(vocab=VOCAB, horizon=WHOLE).build()._replace(expert=TEACHER)
    own = made()[1] if name == "kept" else None
    objective = distill(Components(POLICY, mdp, None, kept_expert=own), divergences.parse("js"))
    return jax.jit(jax.value_and_grad(lambda params, x: objective.loss(params, (), x)[0]))


def test_strings_are_kept_once_with_all_their_actions():
    strings = made()[0]
    assert len(strings.tokens) == 10
    where = (strings.tokens == rows().tokens[:1]).all(1).argmax()
    assert (strings.mask[where] == rows().mask[2]).all()


@pytest.mark.parametrize("width", [pytest.param(WHOLE, marks=pytest.mark.wide), 6])
def test_losses_are_those_of_the_teacher_itself(width):
    """In all columns, and cut to those that short rows need; in any order, and some of them."""
    whole = rows()
    short = np.flatnonzero(np.asarray((whole.tokens[:, width:] == PAD).all(1)))
    assert len(short) > 2
    few = jax.tree.map(lambda x: x[short[::-1]], whole)
    batch = few._replace(tokens=few.tokens[:, :width], mask=few.mask[:, :width])
    own, wanted = (loss_of(name)(STUDENT, batch) for name in ("kept", "asked anew"))
    assert wanted[0] > 1e-4
    for a, b in zip(jax.tree.leaves(own), jax.tree.leaves(wanted)):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_a_string_that_is_no_row_has_no_loss():
    """One token of one row changed; and a row cut where it goes on."""
    batch = rows()
    other = batch._replace(tokens=batch.tokens.at[4, 1].set((batch.tokens[4, 1] + 1) % VOCAB))
    assert jnp.isnan(loss_of("kept")(STUDENT, other)[0])
    cut = batch._replace(tokens=batch.tokens[:, :6], mask=batch.mask[:, :6])
    assert jnp.isnan(loss_of("kept")(STUDENT, cut)[0])


def test_what_else_a_policy_does_is_the_models_own():
    own, asked = made()[1], jnp.asarray([3])
    prompts = Sequences(jnp.asarray([[2]]), jnp.zeros((1, 1), bool), jnp.ones(1))
    laws = [
        model.policy.step(model.params, model.policy.start(model.params, prompts, 2), asked)[1]
        for model in (own, TEACHER)
    ]
    assert (laws[0] == laws[1]).all()
