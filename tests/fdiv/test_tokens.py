"""Strings: prompts, ends, padding, weights. The traps that other codes fell into are named in the
tests."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdiv import estimators
from fdiv import tokens as tk
from fdiv.policies import tabular
from fdiv.types import PAD, Sequences, UsageError

X = PAD
RAGGED = Sequences(  # prompts of 2, 0 and 1 tokens in a width of 2, horizon 3, EOS is 3
    jnp.array([[0, 1, 2, 3, X], [1, 2, 0, X, X], [2, 0, 3, X, X]]),
    jnp.array([[0, 0, 1, 1, 0], [1, 1, 1, 0, 0], [0, 1, 1, 0, 0]], bool),
    jnp.ones(3),
)


def test_prompts_and_append_are_inverse():
    prompts = tk.prompts_of(RAGGED, 3)
    np.testing.assert_array_equal(prompts.tokens, [[0, 1], [X, X], [2, X]])
    whole = tk.append(prompts, jnp.array([[2, 3, X], [1, 2, 0], [0, 3, X]]), eos=3)
    np.testing.assert_array_equal(whole.tokens, RAGGED.tokens)
    np.testing.assert_array_equal(whole.mask, RAGGED.mask)


def test_prompts_lose_padding_on_the_left():
    left = Sequences(
        *(jnp.pad(x, [(0, 0), (3, 0)], constant_values=c) for x, c in zip(RAGGED[:2], (X, False))),
        RAGGED.weight,
    )
    np.testing.assert_array_equal(tk.prompts_of(left, 6).tokens, [[0, 1], [X, X], [2, X]])


def test_eos_is_an_action_and_counts_once_per_finished_string():
    """Trap: EOS lost when pad == eos or outside the mask."""
    actions = jnp.array([[0, 3, 3, 1], [3, 0, 0, 0], [0, 1, 2, 0]])
    strings = tk.completions(actions, eos=3)
    np.testing.assert_array_equal(strings.tokens, [[0, 3, X, X], [3, X, X, X], [0, 1, 2, 0]])
    assert int((strings.mask & (strings.tokens == 3)).sum()) == int(tk.ended(strings, 3).sum()) == 2
    np.testing.assert_array_equal(tk.lengths(strings), [2, 1, 4])


def test_log_probs_of_ragged_prompts_by_hand():
    """Trap: prompt, shift or slot off by one. A table with a law of its own after each symbol, read
    at the right places."""
    automaton = tabular.markov(4, 5, 1)
    policy = tabular.policy(automaton, 4)
    params = jnp.asarray(
        np.random.default_rng(0).standard_normal((automaton.states, 4)), jnp.float32
    )
    row = jax.nn.log_softmax(params)  # row 0 is "before the start", row 1 + v is "after v"
    wanted = [
        [0, 0, row[1 + 1, 2], row[1 + 2, 3], 0],
        [row[0, 1], row[1 + 1, 2], row[1 + 2, 0], 0, 0],
        [0, row[1 + 2, 0], row[1 + 0, 3], 0, 0],
    ]
    np.testing.assert_allclose(
        tk.log_probs(policy, params, RAGGED, 4), np.array(wanted, np.float32), rtol=1e-6
    )
    # the first response token has gradient, the last prompt token none: string 2 asks the rows
    # after 2 and after 0 only
    one = jax.tree.map(lambda x: x[2:], RAGGED)
    slope = jax.grad(lambda p: tk.log_probs(policy, p, one, 4).sum())(params)
    np.testing.assert_array_equal(np.flatnonzero(np.abs(slope).sum(1)), [1, 3])


def test_weights_give_each_average():
    """Closed forms: token values 1, 2 and 3, 4, 5 in two strings, weights 1; horizon 4."""
    mask = jnp.array([[1, 1, 0, 0], [1, 1, 1, 0]], bool)
    values = jnp.array([[1.0, 2, 9, 9], [3, 4, 5, 9]])
    strings = Sequences(jnp.where(mask, 0, X), mask, jnp.ones(2))
    total = lambda how: float(
        jnp.sum(tk.normalise(strings, how).weight[:, None] * jnp.where(mask, values, 0))
    )
    assert total("string") == pytest.approx((3 + 12) / 2)
    assert total("token") == pytest.approx((3 + 12) / 5)
    assert total("string_mean") == pytest.approx((1.5 + 4) / 2)
    assert total("constant") == pytest.approx((3 + 12) / (2 * 4))
    strings = strings._replace(weight=jnp.array([1.0, 3.0]))  # the second counts three times
    assert total("string") == pytest.approx((3 + 3 * 12) / 4)
    assert total("token") == pytest.approx((3 + 3 * 12) / (2 + 3 * 3))
    assert total("string_mean") == pytest.approx((1.5 + 3 * 4) / 4)
    assert total("constant") == pytest.approx((3 + 3 * 12) / (4 * 4))
    with pytest.raises(UsageError, match="string_mean"):
        tk.normalise(strings, "median")


def test_hold_keeps_the_last_value_over_the_absorbing_state():
    mask = jnp.array([[1, 1, 0, 0], [1, 1, 1, 1]], bool)
    held = tk.hold(jnp.array([[1.0, 2, 7, 7], [1, 2, 3, 4]]), mask)
    np.testing.assert_array_equal(held, [[1, 2, 2, 2], [1, 2, 3, 4]])


def test_stretches_change_nothing(monkeypatch):
    """A vocabulary too large for [B, T, V] is read in stretches: same values, same gradients."""
    policy = tabular.policy(tabular.markov(4, 5, 1), 4)
    params = jnp.asarray(np.random.default_rng(1).standard_normal((5, 4)), jnp.float32)
    loss = lambda p: jnp.sum(tk.log_probs(policy, p, RAGGED, 4) ** 2)
    whole = jax.value_and_grad(loss)(params)
    monkeypatch.setattr(tk, "CHUNK_ELEMENTS", 24)  # two columns of 3 x 4 at a time
    parts = jax.value_and_grad(loss)(params)
    np.testing.assert_allclose(whole[0], parts[0], rtol=1e-6)
    np.testing.assert_allclose(whole[1], parts[1], rtol=1e-5, atol=1e-7)


def test_shapes_that_do_not_belong_together_are_refused():
    """Trap: arrays that broadcast by accident. [3, 2] returns do not go with a mask of [3, 3]."""
    mask, weight = jnp.ones((3, 3), bool), jnp.ones(3)
    with pytest.raises(AssertionError):
        estimators.advantages(jnp.ones((3, 2)), mask, weight)
    with pytest.raises(AssertionError):
        estimators.advantages(jnp.ones((3, 3)), mask, jnp.ones(2))
    with pytest.raises(AssertionError):
        scored = estimators.Scored(Sequences(jnp.zeros((3, 3), int), mask, weight), weight)
        estimators.score_function_loss(jnp.zeros((3, 3)), scored)
