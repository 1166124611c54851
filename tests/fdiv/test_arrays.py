"""A divergence of two arrays, f at a ratio, and the best of a class of one's own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fdiv
from fdiv import divergences
from fdiv.benchmarks import TwoTemplate
from fdiv.policies import from_function, tabular
from fdiv.rollout import sampler
from fdiv.types import PAD, Sequences, UsageError

P, Q = [0.7, 0.2, 0.1], [0.5, 0.3, 0.2]
KL = 0.7 * np.log(1.4) + 0.2 * np.log(2 / 3) + 0.1 * np.log(0.5)  # 0.0851 nats


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "made",
    [list, np.float32, np.array, jnp.array],
    ids=["list", "numpy float32", "numpy", "jax"],
)
def test_probabilities_logs_and_logits_are_one_divergence(made):
    p, q = made(P), made(Q)
    log = lambda x: made(np.log(np.asarray(x, np.float64)))
    forms = [
        fdiv.divergence("forward_kl", p, q),
        fdiv.divergence("forward_kl", log(p), log(q), log=True),
        fdiv.divergence("forward_kl", made(np.asarray(log(p)) + 3), log(q), logits=True),
        fdiv.divergence(divergences.parse("forward_kl"), p, q),
    ]
    np.testing.assert_allclose(forms, KL, rtol=2e-6)


def test_batches_are_broadcast_and_types_kept():
    p = np.random.default_rng(0).dirichlet(np.ones(5), size=(2, 3))
    whole = fdiv.divergence("js", p, p[0, 0])
    assert isinstance(whole, np.ndarray) and whole.dtype == np.float64 and whole.shape == (2, 3)
    assert whole[0, 0] == 0 and whole[1, 2] == fdiv.divergence("js", p[1, 2], p[0, 0])
    assert isinstance(fdiv.divergence("tv", jnp.array(P), Q), jax.Array)


@pytest.mark.wide
def test_what_is_traced_has_slopes():
    slope = jax.jit(jax.grad(lambda x: fdiv.divergence("js", x, jnp.array(Q), logits=True)))
    assert np.isfinite(slope(jnp.zeros(3))).all()


def test_no_mass_has_its_own_value():
    assert fdiv.divergence("tv", [1, 0], [0, 1]) == 1
    assert fdiv.divergence("forward_kl", [0.5, 0.5], [1, 0]) == np.inf


@pytest.mark.wide
def test_no_mass_has_a_finite_slope():
    assert np.isfinite(
        jax.grad(lambda p: fdiv.divergence("js", p, jnp.array([0.0, 1.0])))(jnp.array([1.0, 0.0]))
    ).all()


BAD = {  # what is given -> what is said
    "counts": (([7, 2, 1], Q), {}, ["p.sum(-1) = 10.0", "Divide each row by its sum"]),
    "percent": (([0.33, 0.33, 0.33], Q), {}, ["0.99", "has to be 1"]),
    "log-probs": ((np.log(P), Q), {}, ["below 0", "log=True"]),
    "logits": (([1.0, -2.0, 0.5], Q), {}, ["p = -2.0", "logits=True"]),
    "probs as logs": ((np.log(P), Q), {"log": True}, ["q = 0.5", "log=False"]),
    "logits as logs": (([-1.0, -2.0, -3.0], np.log(Q)), {"log": True}, ["p.sum", "logits=True"]),
    "second is wrong": ((P, [0.5, 0.3, 0.3]), {}, ["q.sum(-1) = 1.1"]),
    "one row of many": (([[0.5, 0.5], [0.5, 0.6]], [0.5, 0.5]), {}, ["1.1"]),
    "not a number": (([np.nan, 1.0], [0.5, 0.5]), {}, ["p = nan"]),
    "infinite": (([np.inf, 1.0], [0.5, 0.5]), {"logits": True}, ["p = inf"]),
    "other outcomes": (([0.5, 0.5], Q), {}, ["q.shape = (3,)", "(2,)"]),
    "batches": ((np.full((2, 2), 0.5), np.full((3, 2), 0.5)), {}, ["q.shape", "(2, 2)"]),
    "one number": ((1.0, 1.0), {}, ["no axis of outcomes"]),
    "nothing": (([], []), {}, ["no axis of outcomes"]),
    "ragged": (([[0.5, 0.5], [1.0]], [0.5, 0.5]), {}, ["real numbers"]),
    "words": ((["a", "b"], [0.5, 0.5]), {}, ["real numbers"]),
    "complex": ((np.array([0.5 + 1j, 0.5]), [0.5, 0.5]), {}, ["real numbers"]),
    "none": ((None, [0.5, 0.5]), {}, ["p = None"]),
    "a mask": ((np.ma.array(P, mask=[0, 0, 1]), Q), {}, ["mask would be lost"]),
    "both": ((P, Q), {"log": True, "logits": True}, ["Give one of the two"]),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_law_is_refused_with_what_to_pass(case):
    arrays, how, says = BAD[case]
    with pytest.raises(UsageError) as error:
        fdiv.divergence("js", *arrays, **how)
    assert all(text in str(error.value) for text in says), str(error.value)


@pytest.mark.few(2)
@pytest.mark.parametrize("name", ["forward_kl", "js", "tv", "alpha:0.5"])
def test_f_is_the_formula_less_its_tangent(name):
    formula = {
        "forward_kl": lambda u: u * np.log(u) - u + 1,
        "js": lambda u: (u * np.log(u) - (u + 1) * np.log((u + 1) / 2)) / 2,
        "tv": lambda u: abs(u - 1) / 2,
        "alpha:0.5": lambda u: 2 * (np.sqrt(u) - 1) ** 2,
    }[name]
    u = np.linspace(0.1, 5, 20)
    f = fdiv.parse(name).f
    np.testing.assert_allclose(f(u), formula(u), rtol=1e-5, atol=1e-6)
    assert f(1) == 0 and np.isnan(f(-1.0))


def test_f_at_nothing_is_its_limit():
    assert fdiv.parse("js").f(0) == pytest.approx(np.log(2) / 2)
    assert fdiv.parse("reverse_kl").f(0) == np.inf


def markov_logits(params, tokens):
    """A table by the last token, row 0 before the first: markov by another way."""
    before = jnp.pad(tokens[:, :-1], [(0, 0), (1, 0)], constant_values=PAD)
    return params[before + 1]


@pytest.mark.wide
def test_a_function_is_a_policy_like_any_other():
    """The same params, laws and samples as the table that it is."""
    own = from_function(lambda key: 0.1 * jax.random.normal(key, (4, 3)), markov_logits)
    table = tabular.policy(tabular.markov(3, 5), 3)
    params = jax.random.normal(jax.random.key(1), (4, 3))
    for prompts in ([[], []], [[0, 1], [2, PAD]]):
        tokens = jnp.asarray(prompts, jnp.int32).reshape(2, -1)
        asked = Sequences(tokens, jnp.zeros(tokens.shape, bool), jnp.ones(2))
        draws = [sampler(5, None)(jax.random.key(2), x, params, asked) for x in (own, table)]
        np.testing.assert_array_equal(draws[0][0].tokens, draws[1][0].tokens)
        np.testing.assert_allclose(draws[0][1], draws[1][1], atol=1e-6)


@pytest.mark.wide
def test_the_class_optimum_of_a_policy_of_ones_own():
    mdp = TwoTemplate(vocab=2, horizon=3).build()
    init = lambda key: 0.1 * jax.random.normal(key, (3, 2))
    own = from_function(init, markov_logits)
    best = fdiv.class_optimum("js", mdp, own, starts=3)
    table = fdiv.class_optimum("js", mdp, tabular.policy(tabular.markov(2, 3), 2), starts=3)
    assert best.value == pytest.approx(table.value, abs=1e-6)
    assert 0 < best.value < fdiv.class_optimum("js", mdp, from_function(
        lambda key: jnp.zeros(2), lambda params, x: jnp.broadcast_to(params, (*x.shape, 2))
    ), starts=2).value  # fmt: skip


def test_a_task_without_a_known_expert_has_no_class_optimum():
    mdp = TwoTemplate(vocab=2, horizon=3).build()
    own = from_function(lambda key: jnp.zeros((3, 2)), markov_logits)
    with pytest.raises(UsageError, match=r"mdp\.expert"):
        fdiv.class_optimum("js", mdp._replace(expert=None), own)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_precision_is_forgiven_its_rounding_and_computed_in_double(kind):
    p, q = np.random.default_rng(0).dirichlet(np.ones(300), size=2)
    short = [np.asarray(x).astype(jnp.dtype(kind)) for x in (p, q)]
    value = fdiv.divergence("forward_kl", *short)
    p, q = (x.astype(np.float64) for x in short)
    assert value.dtype == np.float64
    assert value == pytest.approx(float((p * np.log(p / q) - p + q).sum()), abs=1e-12)


def test_no_rows_and_eight_bits_have_divergences_too():
    assert fdiv.divergence("js", np.zeros((0, 3)), Q).shape == (0,)
    assert fdiv.divergence("js", jnp.array([0.5, 0.5], jnp.float8_e4m3fn), [0.5, 0.5]) == 0
    with pytest.raises(UsageError, match="no divergence"):
        fdiv.divergence(None, P, Q)


def class_of(logits, init=lambda key: jnp.zeros((3, 2))):
    return from_function(init, logits)


def by_token(params, tokens):
    """The law of token t + 1 in row t, as language models have it: row t has seen token t."""
    return params[jnp.maximum(tokens, 0)]


MDP = TwoTemplate(vocab=2, horizon=3).build()
FLAT = class_of(lambda params, x: jnp.broadcast_to(params, (*x.shape, 2)))
NO_CLASS = {  # what is searched, how, what is said
    "looks ahead": (class_of(by_token), {}, "law of token 0 with token 0: it looks ahead"),
    "other symbols": (class_of(lambda params, x: jnp.zeros((*x.shape, 5))), {}, "of 2 symbols"),
    "no symbols": (class_of(lambda params, x: jnp.zeros(x.shape)), {}, "logits"),
    "nothing": (class_of(lambda params, x: None), {}, "fails on strings"),
    "an error": (class_of(lambda params, x: {}["x"]), {}, "KeyError: 'x'"),
    "no numbers": (class_of(lambda params, x: jnp.full((*x.shape, 2), jnp.nan)), {}, "nan"),
    "no parameters": (class_of(lambda params, x: x, lambda key: ()), {}, "no parameters"),
    "a function": (by_token, {}, "is no policy"),
    "no starts": (FLAT, {"starts": 0}, "starts = 0"),
    "a level": (FLAT, {"level": "word"}, "level = 'word'"),
}


@pytest.mark.parametrize("case", NO_CLASS)
def test_what_is_no_class_of_policies_has_no_optimum(case):
    policy, more, says = NO_CLASS[case]
    with pytest.raises(UsageError, match=says):
        fdiv.class_optimum("js", MDP, policy, **{"starts": 1, **more})
    with pytest.raises(UsageError, match="is no task"):
        fdiv.class_optimum("js", TwoTemplate(), policy)
