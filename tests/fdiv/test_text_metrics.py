"""What is measured of symbols that are pieces of text: bits per byte, and the chance to stop."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdiv import divergences, head, metrics
from fdiv.head import Head, Readout, TopK
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
    more = {"bits_per_byte", "log_stop", "log_stop_expert", "top5_overlap"}
    assert set(of_text) - set(plain) == more | {f"{name}_stderr" for name in more} | {"ece"}
    # token 0 has .5 and is right in 6 of 8 actions
    assert of_text["ece"] == pytest.approx(0.25, rel=1e-5)
    assert of_text["top5_overlap"] == 1  # of four tokens all
    assert all(np.array_equal(of_text[name], plain[name]) for name in plain)
    assert of_text["log_stop"] == pytest.approx(np.log(0.4), rel=1e-5)
    assert of_text["log_stop_expert"] == pytest.approx(np.log(0.4), rel=1e-5)  # .15 + .25


# --- modes sought and covered ---------------------------------------------------------------------

P, Q = np.array([4e-5, 0.1, 0.3, 0.59996]), np.array([0.5, 0.3, 0.19995, 5e-5])
BY_HAND = {
    "precision": Q @ np.log(P),
    "precision_token_expert": Q @ np.log(P),
    "recall": P @ np.log(Q),
    "seeking": Q @ np.log(P) - P @ np.log(Q),
    "entropy_token_expert": -Q @ np.log(Q),
    "off_support": 0.5,  # q's mass on token 0, which p gives .00004
    "dropped_support": 0.59996,  # p's on token 3
}


def modes(p, q, family=()):
    """What is measured of a policy of law q whose expert has law p."""
    policy, teacher = (fixed(jnp.asarray(np.log(x))) for x in (q, p))
    task = mdp(None)._replace(expert=Model(teacher, ()))
    own = Components(policy, task, sampler_of(task))
    args = (jax.random.key(0), (), strings(), strings())
    return metrics.sampled_metrics(family, own, *args)[0], Model(teacher, ())


@pytest.mark.usefixtures("double")
def test_modes_are_sums_over_the_vocabulary():
    """Whatever was drawn: no error is left where every prefix has the same law. Precision less
    recall is what the two KLs and the two entropies are apart."""
    names = ("forward_kl", "reverse_kl")
    measured, teacher = modes(P, Q, [divergences.parse(name) for name in names])
    for name, value in BY_HAND.items():
        assert float(measured[name]) == pytest.approx(value, rel=1e-12), name
        assert float(measured[f"{name}_stderr"]) == pytest.approx(0, abs=1e-12), name
    forward, reverse = ((a * np.log(a / b)).sum() for a, b in ((P, Q), (Q, P)))
    entropies = -P @ np.log(P) + Q @ np.log(Q)
    assert BY_HAND["seeking"] == pytest.approx(forward - reverse + entropies, rel=1e-12)
    # of the expert itself: both are less its entropy, and it seeks nothing
    same, itself = modes(P, P)[0], metrics.modes_of_expert(teacher, strings(), 4)
    for name, value in itself.items():
        assert float(same[name]) == pytest.approx(float(value), rel=1e-12, abs=1e-12), name
    assert float(itself["precision"]) == pytest.approx(P @ np.log(P), rel=1e-12)
    assert float(itself["recall"]) == float(itself["precision"]) and float(itself["seeking"]) == 0
    assert float(itself["off_support"]) == pytest.approx(4e-5)


@pytest.mark.usefixtures("double")
def test_modes_of_a_network_are_those_of_its_laws():
    """Three of ten tokens at a time, in the fused head, against the laws written out."""
    draw = np.random.default_rng(0)
    some = lambda *shape: jnp.asarray(draw.normal(size=shape))
    own, target = (Head(some(2, 5, 3), Readout(3 * some(7, 3))) for _ in range(2))
    q, p = (np.asarray(jax.nn.softmax(x.features @ x.readout.weights.T)) for x in (own, target))
    mask = jnp.asarray(draw.random((2, 5)) < 0.7)
    found = head.divergences(list(metrics.MODES.values()), own, target, mask, chunk=3)
    plain = {
        "precision_token_expert": (q * np.log(p)).sum(-1),
        "recall": (p * np.log(q)).sum(-1),
        "entropy_token_expert": -(q * np.log(q)).sum(-1),
        "off_support": np.where(p < metrics.RARE, q, 0).sum(-1),
        "dropped_support": np.where(q < metrics.RARE, p, 0).sum(-1),
    }
    plain["seeking"] = plain["precision_token_expert"] - plain["recall"]
    assert plain["off_support"].any()
    for name, values in zip(metrics.MODES, found):
        np.testing.assert_allclose(values, np.where(mask, plain[name], 0), rtol=1e-12, atol=1e-14)


def test_a_token_that_is_never_said_adds_nothing():
    log_q, log_p = jnp.log(jnp.array([1.0, 0.0])), jnp.log(jnp.array([0.25, 0.75]))
    sums = {name: float(x.perspective(log_p, log_q).sum()) for name, x in metrics.MODES.items()}
    assert sums["precision_token_expert"] == pytest.approx(np.log(0.25))
    assert sums["recall"] == -np.inf and sums["entropy_token_expert"] == 0
    assert sums["dropped_support"] == 0.75


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
