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
from fdiv.types import UsageError

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
    world, params = classes.world(TwoTemplate(**LANGUAGE).build()), tables(3)
    judged = imitators.evaluator(world, "markov", 10)
    found, p = judged(Student(params, np.array([1.0, 0.6, 2.0]))), expert()
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
            assert found[key][i] == pytest.approx(value, abs=1e-9), key
    half = np.array([0.5 * entropy(law(table)) for table in params])
    cooled = imitators.at_entropy(judged, params, half)
    for table, temperature, aim in zip(params, cooled.temperature, half):
        assert temperature == pytest.approx(
            brentq(lambda t, x=table, a=aim: entropy(law(x, t)) - a, 0.02, 1), abs=1e-6
        )


def test_a_course_starts_alike_draws_fresh_minibatches_and_keeps_their_losses():
    world = classes.world(TwoTemplate(**LANGUAGE).build())
    components = imitators.components(world, "markov")
    course = imitators.course(components, "sft", [2, 3, 6], seeds=2, batch=5, rate=0.1)
    assert course.params.shape == (3, 2, 3, 2) and course.loss.shape == (2, 2)
    number = {tuple(row): i for i, row in enumerate(ROWS)}
    for point, updates in enumerate((2, 3)):
        for seed in range(2):
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 2), updates)
            drawn = [number[tuple(map(int, row))] for row in components.mdp.demos(key, 5).tokens]
            assert course.loss[point, seed] == pytest.approx(
                -np.log(law(course.params[point, seed]))[drawn].mean(), abs=1e-5
            )
    other = imitators.course(components, "sft", [1], seeds=2, batch=5, rate=0.0)
    start = np.stack(
        [components.policy.init(jax.random.fold_in(jax.random.key(seed), 0)) for seed in range(2)]
    )
    np.testing.assert_allclose(other.params[0], start, atol=1e-7)


def test_diversity_counts_whole_strings():
    components = imitators.components(classes.world(TwoTemplate(**LANGUAGE).build()), "markov")
    one = np.array([[0.0, 99.0], [99.0, 0.0], [0.0, 99.0]])  # 1111 and nothing else
    two = np.array([[0.0, 0.0], [99.0, 0.0], [0.0, 99.0]])  # 0000 or 1111
    found = imitators.diversity(components, 30)(Student(np.stack([one, two]), np.ones(2)))
    np.testing.assert_allclose(found["distinct"], [1 / 30, 2 / 30])
    assert found["self_bleu"] == pytest.approx([1, 1])


def test_the_best_of_a_class_is_what_a_scan_finds():
    """One coin for all positions."""
    thetas = np.linspace(0.001, 0.999, 9981)
    q = np.stack([t ** ROWS.sum(1) * (1 - t) ** (4 - ROWS.sum(1)) for t in thetas])
    p = expert()
    with jax.enable_x64(True):
        best = imitators.best(classes.world(TwoTemplate(**LANGUAGE).build()), "independent").params
    values = [(p * np.log(p / q)).sum(1), (q * np.log(q / p)).sum(1)]
    values.append(((p * np.log(2 * p / (p + q))).sum(1) + (q * np.log(2 * q / (p + q))).sum(1)) / 2)
    for table, value in zip(best, values):
        chance = 1 / (1 + math.exp(table[0, 0] - table[0, 1]))
        assert chance == pytest.approx(thetas[value.argmin()], abs=2e-4)


def test_the_study_holds_at_other_flags(monkeypatch):
    monkeypatch.setattr(imitators, "STARTS", 2)
    monkeypatch.delitem(sft_inverse_rl.METHODS, "airl")  # it takes the longest to compile
    monkeypatch.delitem(picture.SHOWN, "airl")
    monkeypatch.setattr(
        sft_inverse_rl, "PAIRS", [pair for pair in sft_inverse_rl.PAIRS if "airl" not in pair]
    )
    flags = sft_inverse_rl.Flags(
        **LANGUAGE, classes=("independent",), seeds=2, updates=6, batch_size=8, samples=5
    )
    result = sft_inverse_rl.make(flags)
    failed = [check for check in result.checks if not check.holds]
    assert not failed, failed
    found, p = result.values["classes"]["independent"], expert()
    assert result.values["expert"]["entropy"] == pytest.approx(entropy(p), abs=1e-9)
    share = p @ ROWS.mean(1)  # of token 1: forward KL's best coin
    coin = share ** ROWS.sum(1) * (1 - share) ** (4 - ROWS.sum(1))
    assert found["best"]["forward_kl"]["forward_kl"] == pytest.approx(
        (p * np.log(p / coin)).sum(), abs=1e-9
    )
    sft, reverse, js = (found["students"][who] for who in ("sft", "reverse_kl", "js"))
    ahead = found["differences"]["reverse_kl - sft"]["cross_entropy"]["seeds"]
    assert ahead == pytest.approx(
        np.subtract(reverse["cross_entropy"]["seeds"], sft["cross_entropy"]["seeds"])
    )
    place = (np.array(x["valid"]["seeds"]) - sft["valid"]["seeds"] for x in (js, reverse))
    assert found["position"]["js"]["valid"]["seeds"] == pytest.approx(np.divide(*place))
    last = [row for row in result.curve if row.get("update") == 6]
    assert [row["forward_kl"] for row in last] == pytest.approx(
        sft["forward_kl"]["seeds"], abs=1e-9
    )
    assert result.values["few_seeds"]


def test_checks_notice_what_is_not_so():
    curve = {key: np.ones((3, 4)) for key in ("forward_kl", "nll", "standard_error")} | {
        "slope": np.zeros((3, 4))
    }
    good = checks.follows("c", curve | {"minibatch": np.ones((2, 4))})
    assert all(check.holds for check in good) and len(good) == 3
    bad = checks.follows(
        "c",
        curve
        | {"minibatch": np.full((2, 4), 3.0), "nll": np.full((3, 4), 1.01), "slope": curve["nll"]},
    )
    assert not any(check.holds for check in bad)

    signs = {"entropy": -1, "distinct": -1, "cross_entropy": 1, "valid": 1, "expert_nll": -1}
    pair = {key: {"ci95": (0.5 * sign - 0.1, 0.5 * sign + 0.1)} for key, sign in signs.items()}
    students = {"sft": {key: {"iqm": 1.0} for key in signs}}
    found = {"differences": {"reverse_kl - sft": pair}, "students": students, "position": {}}
    assert all(check.holds for check in checks.claims("markov", found))
    assert not any(check.holds for check in checks.claims("full", found))
    pair["valid"] = {"ci95": (-0.01, 0.02)}
    assert [check.holds for check in checks.claims("markov", found)] == [
        True,
        True,
        True,
        False,
        True,
    ]
    assert [check.holds for check in checks.claims("full", found)] == [
        False,
        False,
        False,
        True,
        False,
    ]


BAD = [
    ({"classes": ("markov", "neural")}, "classes"),
    ({"classes": ("full", "full")}, "classes"),
    ({"classes": ()}, "classes"),
    ({"seeds": 0}, "seeds"),
    ({"updates": 0}, "updates"),
    ({"batch_size": 1}, "batch_size"),
    ({"samples": 1}, "samples"),
    ({"horizon": 40}, "horizon"),
    ({"vocab": 1}, "benchmark.vocab"),
    ({"weight": 1.0}, "benchmark.weight"),
    ({"noise": 0.0}, "benchmark.noise"),
]


@pytest.mark.parametrize(("flags", "field"), BAD)
def test_flags_that_cannot_be_are_refused(flags, field):
    with pytest.raises(UsageError) as error:
        sft_inverse_rl.make(sft_inverse_rl.Flags(**flags))
    assert error.value.field == field
