"""The study of SFT as inverse RL, at flags of seconds, against sums over strings written out."""

import itertools
import math

import jax
import numpy as np
import pytest
from scipy.optimize import brentq

from experiments.figures import sft_inverse_rl
from experiments.figures.common import classes
from experiments.figures.sft_inverse_rl import checks, picture
from experiments.figures.sft_inverse_rl import students as imitators
from experiments.figures.sft_inverse_rl.students import Student
from fdiv.benchmarks.two_template import TwoTemplate

LANGUAGE = {"vocab": 2, "horizon": 4, "weight": 0.7, "noise": 0.15}
ROWS = np.array(list(itertools.product(range(2), repeat=4)))


def expert():
    """Every string's probability."""
    leaves = (ROWS == 1).sum(1), (ROWS == 0).sum(1)
    each = [0.15**k * 0.85 ** (4 - k) for k in leaves]
    return 0.7 * each[0] + 0.3 * each[1]


def law(table, temperature=1.0):
    """Of every string, from a markov table: row 0 writes the first token, row v + 1 what follows
    v."""
    rows = np.exp(table / temperature)
    rows /= rows.sum(1, keepdims=True)
    before = np.concatenate([np.zeros((len(ROWS), 1), int), ROWS[:, :-1] + 1], axis=1)
    return rows[before, ROWS].prod(1)


def entropy(q):
    return float(-(q * np.log(q)).sum())


def tables(seeds):
    return np.random.default_rng(0).standard_normal((seeds, 3, 2))


@pytest.mark.usefixtures("double")
def test_students_are_measured_as_written_out_and_cooled_to_the_entropy_wanted():
    world, params = classes.enumerated(TwoTemplate(**LANGUAGE).build()), tables(3)
    evaluate = imitators.evaluator(world, "markov", 10)
    measures, p = evaluate(Student(params, np.array([1.0, 0.6, 2.0]))), expert()
    for i, temperature in enumerate((1.0, 0.6, 2.0)):
        q = law(params[i], temperature)
        m = (p + q) / 2
        wanted = {
            "entropy": entropy(q),
            "cross_entropy": -(p * np.log(q)).sum(),
            "expert_nll": -(q * np.log(p)).sum(),
            "forward_kl": (p * np.log(p / q)).sum(),
            "reverse_kl": (q * np.log(q / p)).sum(),
            "js": ((p * np.log(p / m)).sum() + (q * np.log(q / m)).sum()) / 2,
            "mode_b": q[(ROWS != 1).sum(1) <= 1].sum(),
            "distinct_expected": (1 - (1 - q) ** 10).sum() / 10,
        }
        for key, value in wanted.items():
            assert measures[key][i] == pytest.approx(value, abs=1e-9), key
    half = np.array([0.5 * entropy(law(table)) for table in params])
    cooled = imitators.at_entropy(evaluate, params, half)
    for table, temperature, aim in zip(params, cooled.temperature, half):
        over = lambda t, table=table, aim=aim: entropy(law(table, t)) - aim
        assert temperature == pytest.approx(brentq(over, 0.02, 1), abs=1e-6)


def test_a_course_starts_alike_draws_fresh_minibatches_and_keeps_their_losses():
    world = classes.enumerated(TwoTemplate(**LANGUAGE).build())
    components = imitators.components(world, "markov")
    course = imitators.course(components, "sft", [2, 3, 6], seeds=2, batch=5, rate=0.1)
    assert course.params.shape == (3, 2, 3, 2) and course.loss.shape == (2, 2)
    number = {tuple(row): i for i, row in enumerate(ROWS)}
    for point, updates in enumerate((2, 3)):
        for seed in range(2):
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 2), updates)
            rows = [number[tuple(map(int, row))] for row in components.mdp.demos(key, 5).tokens]
            nll = -np.log(law(course.params[point, seed]))[rows].mean()
            assert course.loss[point, seed] == pytest.approx(nll, abs=1e-5)
    other = imitators.course(components, "sft", [1], seeds=2, batch=5, rate=0.0)
    keys = [jax.random.fold_in(jax.random.key(seed), 0) for seed in range(2)]
    start = np.stack([components.policy.init(key) for key in keys])
    np.testing.assert_allclose(other.params[0], start, atol=1e-7)


def test_diversity_counts_whole_strings():
    components = imitators.components(classes.enumerated(TwoTemplate(**LANGUAGE).build()), "markov")
    one = np.array([[0.0, 99.0], [99.0, 0.0], [0.0, 99.0]])  # 1111 and nothing else
    two = np.array([[0.0, 0.0], [99.0, 0.0], [0.0, 99.0]])  # 0000 or 1111
    measures = imitators.diversity(components, 30)(Student(np.stack([one, two]), np.ones(2)))
    np.testing.assert_allclose(measures["distinct"], [1 / 30, 2 / 30])
    assert measures["self_bleu"] == pytest.approx([1, 1])


def test_the_best_of_a_class_is_what_a_scan_finds():
    """One coin for all positions."""
    thetas = np.linspace(0.001, 0.999, 9981)
    q = np.stack([t ** ROWS.sum(1) * (1 - t) ** (4 - ROWS.sum(1)) for t in thetas])
    p = expert()
    with jax.enable_x64(True):
        best = imitators.best(
            classes.enumerated(TwoTemplate(**LANGUAGE).build()), "independent"
        ).params
    values = [(p * np.log(p / q)).sum(1), (q * np.log(q / p)).sum(1)]
    values.append(((p * np.log(2 * p / (p + q))).sum(1) + (q * np.log(2 * q / (p + q))).sum(1)) / 2)
    for table, value in zip(best, values):
        chance = 1 / (1 + math.exp(table[0, 0] - table[0, 1]))
        assert chance == pytest.approx(thetas[value.argmin()], abs=2e-4)


@pytest.mark.wide
def test_the_study_holds_at_other_flags(made, monkeypatch):
    monkeypatch.setattr(imitators, "STARTS", 2)
    monkeypatch.delitem(sft_inverse_rl.METHODS, "airl")  # it takes the longest to compile
    monkeypatch.delitem(picture.STYLES, "airl")
    pairs = [pair for pair in sft_inverse_rl.PAIRS if "airl" not in pair]
    monkeypatch.setattr(sft_inverse_rl, "PAIRS", pairs)
    few = {"seeds": 2, "updates": 6, "batch_size": 8, "samples": 5}
    result = made(sft_inverse_rl, **LANGUAGE, classes=("independent",), **few)
    of_class, p = result.values["classes"]["independent"], expert()
    assert result.values["expert"]["entropy"] == pytest.approx(entropy(p), abs=1e-9)
    share = p @ ROWS.mean(1)  # of token 1: forward KL's best coin
    coin = share ** ROWS.sum(1) * (1 - share) ** (4 - ROWS.sum(1))
    kl = (p * np.log(p / coin)).sum()
    assert of_class["best"]["forward_kl"]["forward_kl"] == pytest.approx(kl, abs=1e-9)
    sft, reverse, js = (of_class["students"][who] for who in ("sft", "reverse_kl", "js"))
    ahead = of_class["differences"]["reverse_kl - sft"]["cross_entropy"]["seeds"]
    apart = np.subtract(reverse["cross_entropy"]["seeds"], sft["cross_entropy"]["seeds"])
    assert ahead == pytest.approx(apart)
    place = (np.array(x["valid"]["seeds"]) - sft["valid"]["seeds"] for x in (js, reverse))
    assert of_class["position"]["js"]["valid"]["seeds"] == pytest.approx(np.divide(*place))
    last = [row["forward_kl"] for row in result.curve if row.get("update") == 6]
    assert last == pytest.approx(sft["forward_kl"]["seeds"], abs=1e-9)
    assert result.values["few_seeds"]


def test_checks_notice_what_is_not_so():
    curve = {key: np.ones((3, 4)) for key in ("forward_kl", "nll", "standard_error")}
    curve["slope"] = np.zeros((3, 4))
    good = checks.follows("c", curve | {"minibatch": np.ones((2, 4))})
    assert all(check.holds for check in good) and len(good) == 3
    wrong = {"minibatch": np.full((2, 4), 3.0), "nll": np.full((3, 4), 1.01), "slope": curve["nll"]}
    bad = checks.follows("c", curve | wrong)
    assert not any(check.holds for check in bad)

    signs = {"entropy": -1, "distinct": -1, "cross_entropy": 1, "valid": 1, "expert_nll": -1}
    pair = {key: {"ci95": (0.5 * sign - 0.1, 0.5 * sign + 0.1)} for key, sign in signs.items()}
    students = {"sft": {key: {"iqm": 1.0} for key in signs}}
    result = {"differences": {"reverse_kl - sft": pair}, "students": students, "position": {}}
    assert all(check.holds for check in checks.claims("markov", result))
    assert not any(check.holds for check in checks.claims("full", result))
    pair["valid"] = {"ci95": (-0.01, 0.02)}
    markov, full = (
        [check.holds for check in checks.claims(name, result)] for name in ("markov", "full")
    )
    assert markov == [True, True, True, False, True]
    assert full == [False, False, False, True, False]


BAD = [
    ({"classes": ("markov", "neural")}, "classes"),
    ({"classes": ("full", "full")}, "classes"),
    ({"classes": ()}, "classes"),
    ({"seeds": 0}, "seeds"),
    ({"updates": 0}, "updates"),
    ({"batch_size": 1}, "batch_size"),
    ({"samples": 1}, "samples"),
    ({"horizon": 40}, "horizon"),
    ({"vocab": 1}, "vocab"),
    ({"weight": 1.0}, "weight"),
    ({"noise": 0.0}, "noise"),
]


@pytest.mark.parametrize(("flags", "field"), BAD)
def test_flags_that_cannot_be_are_refused(flags, field, refused):
    refused(sft_inverse_rl, flags, field=field)
