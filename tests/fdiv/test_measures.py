"""Metrics and statistics: unbiased, with the error bars they say, and equal to independent
arithmetic."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import EVERY, law, random_models
from scipy import stats

from fdiv import discriminator, divergences, exact, metrics, statistics
from fdiv import tokens as tk
from fdiv.rollout import sampler
from fdiv.types import Components, Regulariser, Sequences, TokenMDP


def strings(*rows):
    width = max(map(len, rows))
    tokens = np.array([[*row, *[-1] * (width - len(row))] for row in rows])
    return Sequences(tokens, tokens >= 0, np.ones(len(rows)))


@pytest.mark.parametrize("spec", EVERY)
def test_two_sided_estimates_are_unbiased_and_know_their_error(spec):
    """On three symbols: 400 estimates from 200 draws a side average to the divergence; their spread
    is what they say."""
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    draw, s, d = np.random.default_rng(0), np.log(p / q), divergences.parse(spec)
    real, own = (s[draw.choice(3, (400, 200), p=x)].astype(np.float32) for x in (p, q))
    # not as one program: operations are compiled once for all members
    pairs = jax.vmap(lambda a, b: metrics.two_sided(d, a, b))(real, own)
    values, errors = (np.asarray(x, np.float64) for x in pairs)
    truth = np.sum(d.perspective(np.log(p), np.log(q)))
    assert abs(values.mean() - truth) < 4 * values.std() / 20 + 1e-5
    assert errors.mean() == pytest.approx(values.std(), rel=0.2, abs=1e-6)


@pytest.mark.wide
def test_sampled_metrics_agree_with_the_exact_ones():
    """The same names, within five of their own standard errors, on strings of varying length."""
    space, expert, policy, params = random_models("ending", scale=0.5)
    params = jnp.asarray(params, jnp.float32)
    n, rollout = 20_000, sampler(space.horizon, space.eos)
    answer = jax.jit(lambda key: rollout(key, *expert, tk.empty_prompts(n))[0])
    count = lambda x: x.mask.sum(1).astype(jnp.float32)
    mdp = TokenMDP(space.vocab, space.horizon, space.eos, None, None, None, expert, {"size": count})
    family = [divergences.parse(name) for name in divergences.logged()]
    components = Components(policy, mdp, rollout)
    sampled = jax.jit(lambda *x: metrics.sampled_metrics(family, components, *x)[0])
    found = sampled(jax.random.key(2), params, *(answer(jax.random.key(seed)) for seed in (0, 1)))

    @jax.jit
    def measured(params):
        p, q = law(space, *expert), law(space, policy, params)
        return metrics.exact_metrics(family, space, p, q, mdp.statistics), p

    truth, p = measured(params)
    assert set(truth) <= set(found)
    for name, value in truth.items():
        assert abs(float(found[name] - value)) < 5 * float(found[f"{name}_stderr"]) + 1e-5, name
    length = exact.expectation(p, jnp.asarray(space.sequences.mask.sum(1)))
    assert float(found["validation_nll"]) == pytest.approx(
        float(truth["cross_entropy"] / length), rel=0.02
    )


def test_every_level_at_once_is_each_level_by_itself():
    space, expert, policy, params = random_models("ending", scale=0.5)
    family = [divergences.parse(name) for name in divergences.logged()]

    p, q = law(space, *expert), law(space, policy, params)
    # not as one program: operations are compiled once for all members
    found = metrics.exact_metrics(family, space, p, q, {})
    each = {
        d.name + suffix: exact.divergence(d, space, p, q, level)
        for d in family
        for suffix, level in metrics.LEVELS.items()
    }
    assert len(each) == len(family) * len(metrics.LEVELS)
    for name, value in each.items():
        assert float(found[name]) == pytest.approx(float(value), rel=1e-6), name


@pytest.mark.usefixtures("double")
def test_a_divergence_of_ones_own_may_have_another_type():
    space, expert, policy, params = random_models("ending", scale=0.5)
    tv = divergences.parse("tv")
    narrow = lambda *logs: tv.perspective(*logs).astype(jnp.float32)
    family = [divergences.parse("js"), tv, tv._replace(name="own", perspective=narrow)]
    p, q = law(space, *expert), law(space, policy, params)
    found = jax.jit(lambda p, q: metrics.exact_metrics(family, space, p, q, {}))(p, q)
    assert found["js"].dtype == jnp.result_type(float)
    for suffix in metrics.LEVELS:
        assert float(found["own" + suffix]) == pytest.approx(float(found["tv" + suffix]), rel=1e-6)


def test_standard_errors_by_hand():
    """Of 1 and 4: s = 3 / sqrt(2), so 3 / 2. Per token of strings of 1 and 2 tokens the ratio is
    5 / 3; what is left of them is -2 / 3 and 2 / 3, with an error of 2 / 3, over a mean length of
    1.5."""
    nll = jnp.array([1.0, 4.0])
    found = metrics.averages({"a": nll})
    assert (float(found["a"]), float(found["a_stderr"])) == pytest.approx((2.5, 1.5))
    x = jax.tree.map(jnp.asarray, strings([0], [0, 1]))
    found = metrics.per_token("b", nll, x)
    assert (float(found["b"]), float(found["b_stderr"])) == pytest.approx((5 / 3, 4 / 9))
    assert set(found) == {"b", "b_stderr"}


def test_what_each_string_adds_has_the_mean_and_the_error():
    """Of a ratio of sums too: 5 / 3 - 4 / 9 and 5 / 3 + 4 / 9."""
    nll, x = jnp.array([1.0, 4.0]), jax.tree.map(jnp.asarray, strings([0], [0, 1]))
    found = metrics.averages({"a": nll}, each=True) | metrics.per_token("b", nll, x, each=True)
    assert found["b_each"].tolist() == pytest.approx([11 / 9, 19 / 9])
    for name in "ab":
        each = np.asarray(found[f"{name}_each"])
        error = each.std(ddof=1) / 2**0.5
        own = float(found[name]), float(found[f"{name}_stderr"])
        assert own == pytest.approx((each.mean(), error)), name


def test_returns_by_hand():
    """Two strings with rewards 1 and 0, equally likely under the reference, beta = .5: at
    q = (3/4, 1/4) the KL is .75 log 1.5 + .25 log .5 = .130812 and the return .75 - .5 x .130812 =
    .684594; the most is .5 log((e^2 + 1) / 2) = .716890, so the regret is .032296. The other KL is
    .5 log(2/3) + .5 log 2 = .143841."""
    law = lambda *chances: SimpleNamespace(string=jnp.log(jnp.array(chances)))
    score = lambda x: jnp.array([1.0, 0.0])
    best = jax.nn.log_softmax(jnp.array([2.0, 0.0]))  # ref exp(r / beta)
    space = SimpleNamespace(sequences=None)
    for divergence, charged in (("reverse_kl", 0.130812), ("forward_kl", 0.143841)):
        task = SimpleNamespace(score=score, regulariser=Regulariser(divergence, 0.5))
        found = metrics.return_metrics(space, task, best, law(0.5, 0.5), law(0.75, 0.25))
        assert float(found["divergence_to_reference"]) == pytest.approx(charged, abs=1e-5)
        assert float(found["kl_to_reference"]) == pytest.approx(0.130812, abs=1e-5)
        wanted = 0.75 - 0.5 * charged
        assert float(found["regularised_return"]) == pytest.approx(wanted, abs=1e-5)
        if divergence == "reverse_kl":
            assert float(found["regret"]) == pytest.approx(0.032296, abs=1e-5)


def test_diversity_by_hand():
    x = strings([0, 1, 0, 1], [0, 1, 2])  # bigrams 01 10 01 | 01 12: three of five are distinct
    assert metrics.distinct_n(x, 1) == pytest.approx(3 / 7)
    assert metrics.distinct_n(x, 2) == pytest.approx(3 / 5)
    assert metrics.self_bleu(strings([0, 1, 2, 3], [0, 1, 2, 3])) == pytest.approx(1)
    assert metrics.self_bleu(strings([0, 1], [2, 3])) == 0
    # 0101 against 012: unigrams 2/4, bigrams (1+1)/(3+1), none longer counted: (0+1)/(2+1),
    # (0+1)/(1+1); no penalty
    wanted = (0.5 * 0.5 * (1 / 3) * 0.5) ** 0.25
    # 012 against 0101: 2/3, (1+1)/(2+1), (0+1)/(1+1), (0+1)/(0+1); shorter, so times e^(1 - 4/3)
    other = ((2 / 3) * (2 / 3) * 0.5 * 1) ** 0.25 * np.exp(1 - 4 / 3)
    assert metrics.self_bleu(x) == pytest.approx((wanted + other) / 2)


def test_health_of_a_discriminator_by_hand():
    real, fake = (
        jnp.array([[2.0], [-1.0], [11.0], [3.0]]),
        jnp.array([[-2.0], [-12.0], [1.0], [-3.0]]),
    )
    found = jax.jit(discriminator.health)(real, fake, jnp.full((4, 1), 5.0))
    assert float(found["d_accuracy"]) == pytest.approx((3 / 4 + 3 / 4) / 2)
    assert float(found["d_accuracy_train"]) == pytest.approx((1 + 3 / 4) / 2)
    assert float(found["d_saturated"]) == pytest.approx((1 / 4 + 1 / 4) / 2)
    # labels drawn with the chance the logit says: calibrated
    draw = np.random.default_rng(0)
    s = 2 * draw.standard_normal(200_000).astype(np.float32)
    label = draw.random(len(s)) < 1 / (1 + np.exp(-s))
    health = jax.jit(discriminator.health)(s[label], s[~label], s[label])
    assert float(health["d_calibration"]) < 0.01


def test_a_judge_of_length_alone():
    sized = lambda *n: strings(*([0] * k for k in (*n, 6)))._replace(weight=jnp.ones(len(n) + 1))
    as_jax = lambda x: jax.tree.map(jnp.asarray, x)
    long, short = as_jax(sized(*[5] * 40)), as_jax(sized(*[2] * 40))
    assert float(discriminator.length_accuracy(long, short, long)) > 0.95
    assert float(discriminator.length_accuracy(long, long, long)) == pytest.approx(0.5, abs=0.03)


def test_iqm_and_its_percentile_bootstrap():
    scores = np.array([0.0, 1, 2, 3, 4, 5, 6, 100])
    assert statistics.iqm(scores) == pytest.approx((2 + 3 + 4 + 5) / 4)
    # of the four in the middle, 2 3 4 8, the mean is 4.25 and the median 3.5
    assert statistics.iqm([100.0, 9, 8, 4, 3, 2, 1, 0]) == 4.25
    low, high = statistics.bootstrap(scores)
    assert 1.0 < low < 3.0 and 4.0 < high < 60  # of its resamples few hold 100 three times
    assert (low, high) == statistics.bootstrap(scores)  # seeded


def test_the_iqm_and_students_t_are_those_of_scipy_to_the_bit():
    """Of any number of scores, broken ones among them."""
    draw = np.random.default_rng(0)
    for count in (1, 2, 3, 4, 5, 8, 33):
        rows = draw.standard_normal((12, count)) * 10 ** draw.uniform(-5, 5)
        rows[0, 0], rows[1, -1], rows[2, 0] = np.nan, np.inf, -np.inf
        found = np.array([statistics.iqm(row) for row in rows])
        np.testing.assert_array_equal(found, stats.trim_mean(rows, 0.25, axis=1))
    for freedom in (1, 2, 4, 30):
        assert statistics._quantile(freedom) == float(stats.t.ppf(0.975, freedom))
    assert np.isnan(statistics.iqm([]))


def test_the_tails_of_a_percentile_bootstrap():
    """Of two seeds 0 and 1 the resamples' means are 0, .5 and 1 with chances 1/4, 1/2 and 1/4: the
    middle 40 % are all .5, the middle 60 % reach both ends."""
    within = lambda share: statistics.bootstrap([0.0, 1], statistics.mean, confidence=share)
    assert within(0.4) == (0.5, 0.5)
    assert within(0.6) == (0.0, 1.0)


@pytest.mark.parametrize("scores, t", [((1.0, 2), 12.7062), ((1.0, 2, 6), 4.3027)])
def test_of_two_or_three_seeds_the_interval_is_students(scores, t):
    """Nothing is cut from so few, so it is mean +- t s / sqrt(n); t of 1 and of 2 degrees of
    freedom."""
    half = t * np.std(scores, ddof=1) / len(scores) ** 0.5
    low, high = statistics.interval(scores)
    assert (low, high) == pytest.approx((np.mean(scores) - half, np.mean(scores) + half), rel=1e-4)


def test_of_five_seeds_the_interval_is_studentised():
    """t of 4 degrees of freedom is 2.7764; the standard error is that of all 5^5 resamples."""
    scores = np.array([0.1, 0.4, 0.5, 0.9, 2.0])
    resamples = np.array(list(itertools.product(scores, repeat=5)))
    error = np.sort(resamples, axis=1)[:, 1:4].mean(1).std()
    low, high = statistics.interval(scores)
    middle = (0.4 + 0.5 + 0.9) / 3
    half = 2.7764 * error
    assert (low, high) == pytest.approx((middle - half, middle + half), rel=0.01)
    moved = statistics.interval(7 - 3 * scores)  # the same about the same scores elsewhere
    assert moved == pytest.approx((7 - 3 * high, 7 - 3 * low), rel=1e-3)


def test_of_several_benchmarks_each_counts_its_few_seeds():
    """Of two seeds the resamples of each benchmark have half the variance of its seeds, however
    many scores all benchmarks have: sqrt(2) times the standard deviation over the 4 x 4 resamples,
    of whose four scores the least and the greatest are cut."""
    scores = np.array([[0.0, 0.0], [1.0, 3.0]])  # [seeds, benchmarks]
    each = [itertools.product(column, repeat=2) for column in scores.T]
    resamples = np.array([np.sort([*a, *b]) for a, b in itertools.product(*each)])
    error = resamples[:, 1:3].mean(1).std() * 2**0.5
    assert statistics.standard_error(scores) == pytest.approx(error, rel=0.03)


def test_one_seed_gives_no_interval():
    assert np.isnan(statistics.summarise([3.0]).ci95).all()
    assert np.isnan(statistics.interval(np.ones((1, 4)))).all()
    assert statistics.interval([3.0, 3.0]) == (3.0, 3.0)


def test_stratified_resampling_keeps_each_task_apart():
    """Scores that differ between tasks and not between runs have no uncertainty."""
    apart = np.array([[0.0, 10.0]] * 5)
    assert statistics.bootstrap(apart, statistics.mean) == (5.0, 5.0)
    assert statistics.interval(apart) == (5.0, 5.0)


def test_paired_differences_and_probability_of_improvement():
    a, b = np.array([1.0, 2, 3, 4]), np.array([0.5, 1.5, 2.5, 3.5])
    assert statistics.paired_difference(a, b).ci95 == (0.5, 0.5)
    wins = sum((x > y) + 0.5 * (x == y) for x, y in itertools.product(a, b)) / 16
    assert statistics.probability_of_improvement(a, b)[0] == pytest.approx(wins)
    # of 1-1, 1-3, 2-1 and 2-3 one is won and one is a tie
    assert statistics.probability_of_improvement([1.0, 2], [1.0, 3])[0] == 0.375
    with pytest.raises(ValueError, match="same seeds"):
        statistics.paired_difference(a, b[:2])


def test_a_win_of_every_seed_is_no_certainty():
    """The lower end theta solves (1 - theta)^2 = 1.96^2 V(theta); with three seeds each V is
    theta (1 - theta) (5 - 6 / ((2 - theta) (1 + theta))) / 9, and theta .5015 fits: .2485 and
    3.8415 x .25 x (5 - 2.6667) / 9 = .2490."""
    chance, (low, high) = statistics.probability_of_improvement([3.0, 4, 5], [0.0, 1, 2])
    assert (chance, high) == (1.0, 1.0)
    assert low == pytest.approx(0.5015, abs=1e-3)


TIES = {  # two methods' seeds -> whether they can be told apart
    "paired noise that both share": ([1.0, 5, 9], [0.9, 4.9, 8.9], True),
    "the same spread, not shared": ([1.0, 5, 9], [9.0, 1, 4.9], False),
    "one seed": ([1.0], [2.0], False),
    "equal but for rounding": ([0.1, 0.1, 0.1], [0.1 + 1e-9] * 3, False),
    "exact and apart": ([0.1, 0.1, 0.1], [0.2, 0.2, 0.2], True),
    "unequal numbers, far apart": ([0.1, 0.2, 0.15, 0.12], [0.8, 0.9, 0.85], True),
    "unequal numbers, close": ([0.1, 0.2, 0.15, 0.12], [0.1, 0.2, 0.3], False),
}


@pytest.mark.parametrize("name", TIES)
def test_only_differences_beyond_their_error_count(name):
    a, b, apart = TIES[name]
    assert statistics.distinguishable(a, b) is apart
    assert statistics.distinguishable(b, a) is apart


def test_a_users_own_divergence_is_logged(monkeypatch):
    """And what is logged of the project's own family stays, in its order."""
    assert divergences.logged() == (
        *("forward_kl", "reverse_kl", "js", "gjs:0.1", "gjs:0.9", "skew_kl:0.1"),
        *("skew_reverse_kl:0.1", "hellinger2", "tv", "pearson_chi2", "neyman_chi2"),
        *("jeffreys", "alpha:0.5", "log_d"),
    )
    own = divergences.Entry(divergences.js, divergences.Card("f", "here", ""))
    monkeypatch.setitem(divergences.FAMILY, "my_own", own)
    assert divergences.logged()[-1] == "my_own"
