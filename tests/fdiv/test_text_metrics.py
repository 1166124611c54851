"""What is measured of symbols that are pieces of text: bits per byte, and the chance to stop."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdiv import metrics
from fdiv.head import TopK
from fdiv.rollout import sampler_of
from fdiv.types import PAD, Components, Model, Pieces, Policy, Sequences, TokenMDP

LAW = np.log([0.5, 0.25, 0.15, 0.1])  # of each token, whatever stands before it
TOKENS = [[3, 0, 1, PAD], [3, 0, 0, 2], [3, 0, 0, 0]]  # a prompt of one token, then actions
MASK = [[False, True, True, False], [False, True, True, True], [False, True, True, True]]
SIZES = [3, 0, 0, 5]


def strings(rows=(0, 1, 2)) -> Sequences:
    pick = jnp.array(rows)
    return Sequences(jnp.array(TOKENS)[pick], jnp.array(MASK)[pick], jnp.ones(len(rows)))


def fixed(law) -> Policy:
    head = lambda params, features: jnp.broadcast_to(law, (*features.shape[:-1], len(law)))
    trunk = lambda params, tokens: jnp.zeros((*tokens.shape, 1))
    step = lambda params, cache, token: (cache, jnp.tile(law, (len(token), 1)))
    return Policy(lambda key: (), trunk, head, lambda *of: (), step)


def mdp(pieces) -> TokenMDP:
    draw = lambda key, n: strings()
    return TokenMDP(4, 3, (1, 2), draw, draw, draw, None, pieces=pieces)


def test_bits_per_byte_are_of_the_answers_bytes():
    """-log2 of what the strings' actions have, over the bytes that they stand for: 3, 6 and 9."""
    nll = np.array([-LAW[0] - LAW[1], -2 * LAW[0] - LAW[2], -3 * LAW[0]])
    measured = metrics.nll_per_unit(jnp.asarray(nll), strings(), mdp(Pieces(jnp.array(SIZES))))
    assert measured["bits_per_byte"] == pytest.approx(nll.sum() / np.log(2) / 18, rel=1e-6)
    assert measured["validation_nll"] == pytest.approx(nll.sum() / 8, rel=1e-6)
    assert set(metrics.nll_per_unit(jnp.asarray(nll), strings(), mdp(None))) == {
        "validation_nll",
        "validation_nll_stderr",
    }


@pytest.mark.parametrize(("eos", "chance"), [(1, 0.25), ((1, 2), 0.4), ((2,), 0.15)])
def test_stopping_is_any_of_the_ends(eos, chance):
    model = Model(fixed(LAW), ())
    values = metrics.log_stop(model, strings(), eos)
    np.testing.assert_allclose(values, np.log(chance), rtol=1e-6)


def test_stopping_counts_where_strings_ended():
    values = jnp.array([-1.0, -2.0, -6.0])
    assert metrics.at_ends("x", values, strings(), (1, 2))["x"] == pytest.approx(-1.5)
    assert metrics.at_ends("x", values, strings(), 2)["x"] == pytest.approx(-2.0)
    assert metrics.at_ends("x", values[2:], strings((2,)), (1, 2))["x"] == pytest.approx(-6.0)


def test_pieces_add_their_metrics_and_nothing_else_changes():
    policy, teacher = fixed(jnp.asarray(LAW)), Model(fixed(jnp.asarray(LAW[::-1].copy())), ())

    def measured(pieces):
        task = mdp(pieces)._replace(expert=teacher)
        own = Components(policy, task, sampler_of(task))
        return metrics.sampled_metrics([], own, jax.random.key(0), (), strings(), strings())[0]

    plain, of_text = measured(None), measured(Pieces(jnp.array(SIZES)))
    more = {"bits_per_byte", "log_stop", "log_stop_expert", "top5_overlap", "precision", "recall"}
    each = {"precision_each", "recall_each"}
    assert set(of_text) - set(plain) == more | {f"{name}_stderr" for name in more} | {"ece"} | each
    # token 0 has .5 and is right in 6 of 8 actions
    assert of_text["ece"] == pytest.approx(0.25, rel=1e-5)
    assert of_text["top5_overlap"] == 1  # of four tokens all
    assert all(float(of_text[name]) == float(plain[name]) for name in plain)
    assert of_text["log_stop"] == pytest.approx(np.log(0.4), rel=1e-5)
    assert of_text["log_stop_expert"] == pytest.approx(np.log(0.4), rel=1e-5)  # .15 + .25


def test_calibration_is_by_bins_of_the_chance():
    """Chances .95, .95 (one right) and .05 (right): (|.5 - .95| 2 + |1 - .05|) / 3."""
    x = Sequences(jnp.array([[0, 1, 2, PAD]]), jnp.array([[True] * 3 + [False]]), jnp.ones(1))
    chances = jnp.array([[[0.95], [0.95], [0.05], [0.9]]])
    top = TopK(jnp.log(chances), jnp.array([[[0], [3], [2], [0]]]), None)
    assert metrics.calibration_error(top, x) == pytest.approx(1.85 / 3, rel=1e-5)


def test_the_overlap_of_the_likeliest():
    """Of two laws' five likeliest, two are the same."""
    first, second = np.zeros(12), np.zeros(12)
    first[[0, 1, 2, 3, 4]], second[[3, 4, 5, 6, 7]] = 5, 5
    one, two = (Model(fixed(jax.nn.log_softmax(jnp.asarray(x))), ()) for x in (first, second))
    shared = metrics.overlap(one, two, strings(), 12) / jnp.asarray(np.sum(MASK, 1))
    np.testing.assert_allclose(shared, 0.4, rtol=1e-6)


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [([0, 3, 0], [0, 3, 0], 1.0), ([0, 3, 3], [3, 0, 3], 2 / 3), ([0], [3], 0.0), ([1], [2], 1.0)],
)
def test_rouge_l_is_of_the_longest_common_subsequence(answer, reference, score):
    """Tokens that are no text do not count: an end alone is an empty answer."""
    rows = [Sequences(np.array([x]), np.ones((1, len(x)), bool), None) for x in (answer, reference)]
    assert metrics.rouge_l(*rows, np.array(SIZES)) == pytest.approx(score)


def test_common_subsequences_of_random_rows():
    draw = np.random.RandomState(0)
    for _ in range(50):
        a, b = (draw.randint(0, 4, draw.randint(0, 70)).tolist() for _ in range(2))
        table = np.zeros((len(a) + 1, len(b) + 1), int)
        for i, x in enumerate(a):
            for j, y in enumerate(b):
                best = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
                table[i + 1, j + 1] = best
        assert metrics._common(a, b) == table[-1, -1]
