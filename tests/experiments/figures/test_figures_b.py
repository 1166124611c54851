"""Figures about fits within a policy class, at other flags than their own, against arithmetic of
another kind."""

import itertools
import json
import math
from collections import defaultdict

import numpy as np
import pytest
from scipy.integrate import simpson
from scipy.optimize import minimize
from scipy.stats import binom, norm

from experiments.figures import (
    compounding_error,
    gaussian_fit,
    misspecified_horizon,
    mode_covering,
    policy_class,
)
from experiments.figures.common import base, classes
from experiments.figures.common.gaussian import mixture
from fdiv.benchmarks.two_template import TwoTemplate
from fdiv.policies import transformer
from fdiv.types import UsageError

PLAIN = {  # textbook formulas, of masses
    "forward_kl": lambda p, q: p * np.log(p / q) - p + q,
    "reverse_kl": lambda p, q: q * np.log(q / p) - q + p,
    "js": lambda p, q: 0.5 * (p * np.log(2 * p / (p + q)) + q * np.log(2 * q / (p + q))),
    "tv": lambda p, q: 0.5 * np.abs(p - q),
    "hellinger2": lambda p, q: (np.sqrt(p) - np.sqrt(q)) ** 2,
}


def holds(result):
    failed = [check for check in result.checks if not check.holds]
    assert not failed, failed
    return result.values


def test_gaussian_fit_is_what_quadrature_and_another_search_find(tmp_path):
    flags = gaussian_fit.Flags(
        weight=0.35, means=(4.0, -1.0), std=0.9, divergences=("forward_kl", "reverse_kl", "tv")
    )
    result = gaussian_fit.make(flags)
    fits = holds(result)["fits"]
    x = np.linspace(-25.0, 25.0, 40_001)
    p = 0.35 * norm.pdf(x, 4, 0.9) + 0.65 * norm.pdf(x, -1, 0.9)
    value = lambda name, mean, std: simpson(
        PLAIN[name](p, np.maximum(norm.pdf(x, mean, std), 1e-300)), x=x
    )

    for name in ("reverse_kl", "tv"):
        best = fits[name]
        found = minimize(
            lambda z, n=name: value(n, z[0], math.exp(z[1])),
            (-0.8, 0.0),
            method="Nelder-Mead",
            tol=1e-8,
        )
        assert best["value"] == pytest.approx(found.fun, abs=1e-5)
        if name == "reverse_kl":
            assert (best["mean"], math.log(best["std"])) == pytest.approx(tuple(found.x), abs=1e-4)
    mean = 0.35 * 4 - 0.65
    std = math.sqrt(0.81 + 0.35 * 0.65 * 25)
    assert (fits["forward_kl"]["mean"], fits["forward_kl"]["std"]) == pytest.approx(
        (mean, std), abs=1e-5
    )
    assert fits["forward_kl"]["minor_mass"] == pytest.approx(norm.sf(1.5, mean, std), abs=1e-5)
    for minimum in fits["reverse_kl"]["local_minima"]:
        assert minimum["value"] == pytest.approx(
            value("reverse_kl", minimum["mean"], minimum["std"]), abs=1e-6
        )
    assert {-1, 4} <= {round(minimum["mean"]) for minimum in fits["reverse_kl"]["local_minima"]}
    assert len(fits["forward_kl"]["local_minima"]) == 1

    base.keep("gaussian_fit", flags, result, tmp_path)
    kept = json.loads((tmp_path / "gaussian_fit.json").read_text())
    assert kept["values"]["fits"]["tv"]["value"] == fits["tv"]["value"]
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".csv", ".pdf", ".png"}


def strings(vocab, horizon, weight, noise):
    """Every string of the two-template language and its probability, one by one."""
    rows = list(itertools.product(range(vocab), repeat=horizon))
    emit = lambda template, x: 1 - noise if x == template else noise / (vocab - 1)
    mass = lambda x, template: math.prod(emit(template, token) for token in x)
    return np.array(rows), np.array([weight * mass(x, 0) + (1 - weight) * mass(x, 1) for x in rows])


def test_best_independent_policies_are_what_a_scan_finds():
    """One token law for all positions, two tokens: a line of policies, scanned."""
    found = holds(policy_class.make(policy_class.Flags(2, 3, 0.7, 0.2, ("full", "independent"))))
    rows, p = strings(2, 3, 0.7, 0.2)
    thetas = np.linspace(0.001, 0.999, 9981)
    laws = np.stack([theta ** rows.sum(1) * (1 - theta) ** (3 - rows.sum(1)) for theta in thetas])
    for name, plain in PLAIN.items():
        values = plain(p, laws).sum(1)
        best = found["optimum"]["independent"][name]
        assert best[name] == pytest.approx(values.min(), abs=1e-4 if name == "tv" else 1e-6)
        if name != "tv":
            q = laws[values.argmin()]
            assert best["entropy"] == pytest.approx(-(q * np.log(q)).sum(), abs=2e-3)
            assert best["mode_b"] == pytest.approx(q[(rows != 1).sum(1) <= 1].sum(), abs=2e-3)
            assert best["js"] == pytest.approx(PLAIN["js"](p, q).sum(), abs=2e-3)
    assert list(found["optimum"]) == ["independent", "full"]
    assert found["expert"]["valid"] == pytest.approx(
        p.sum()
    )  # of three tokens, two are always alike


@pytest.mark.usefixtures("double")
def test_projection_counts_and_a_larger_class_repeats_the_smaller():
    world = classes.world(TwoTemplate(3, 3, 0.6, 0.1).build())
    rows, p = strings(3, 3, 0.6, 0.1)
    logits = classes.projection(world, "markov")
    after = np.array(
        [
            [p @ ((rows[:, :-1] == a) & (rows[:, 1:] == b)).sum(1) for b in range(3)]
            for a in range(3)
        ]
    )
    assert np.exp(logits[1:]) == pytest.approx(after, abs=1e-12)  # state 0 is the start
    assert np.exp(logits[0]) == pytest.approx(
        [p[rows[:, 0] == b].sum() for b in range(3)], abs=1e-12
    )
    narrow = np.random.default_rng(0).standard_normal((4, 3))
    wide = world.law("full", classes.embed(world, "markov", "full", narrow))
    np.testing.assert_allclose(wide.string, world.law("markov", narrow).string, atol=1e-12)


def test_misspecified_ratios_are_those_of_whole_strings_and_log_masses_survive_long_ones():
    w, b = 0.2, 0.9
    found = holds(misspecified_horizon.make(misspecified_horizon.Flags(w, b, (3000, 6))))
    ones = np.array([sum(x) for x in itertools.product((0, 1), repeat=6)])
    law = lambda theta: theta**ones * (1 - theta) ** (6 - ones)
    p, thetas = (1 - w) * law(0.5) + w * law(b), np.linspace(0.4, 0.95, 11001)
    values = {
        name: np.array([plain(p, law(theta)).sum() for theta in thetas])
        for name, plain in PLAIN.items()
    }
    for name in PLAIN:
        wanted = values["tv"][values[name].argmin()] / values["tv"].min()
        assert found["ratio"][name]["6"] == pytest.approx(wanted, abs=1e-3)

    assert list(found["ratio"]["js"]) == [
        "6",
        "3000",
    ]  # at 3000 most masses underflow, and the coins no longer overlap
    assert found["ratio"]["reverse_kl"]["3000"] == pytest.approx(1, abs=1e-6)
    assert found["tv"]["tv"]["3000"] == pytest.approx(w, abs=1e-9)
    k = np.arange(3001)
    p = (1 - w) * binom.pmf(k, 3000, 0.5) + w * binom.pmf(k, 3000, b)
    assert found["tv"]["forward_kl"]["3000"] == pytest.approx(
        0.5 * np.abs(p - binom.pmf(k, 3000, 0.58)).sum(), abs=1e-6
    )


def test_compounding_error_by_other_recursions():
    flags = compounding_error.Flags(
        errors=(0.05,), recovery=0.3, vocab=3, horizon=4, weight=0.7, noise=0.2
    )
    found = holds(compounding_error.make(flags))
    chain, law, cost = (
        np.array([[0.95, 0.05], [0.3 * 0.95, 1 - 0.3 * 0.95]]),
        np.array([1.0, 0.0]),
        [],
    )
    for _ in range(128):
        law = law @ chain
        cost.append(law[1])
    at = np.array([8, 16, 32, 64, 128])
    slope = np.polyfit(np.log(at), np.log(np.cumsum(cost)[at - 1]), 1)[0]
    assert found["cliff_slope"] == {"0.05": pytest.approx(slope, abs=1e-9)}
    assert found["full_recovery_slope"] == {"0.05": pytest.approx(1, abs=1e-9)}

    rows, p = strings(
        3, 4, 0.7, 0.2
    )  # forward KL's markov fit by counting, its errors by two walks
    first = np.array([p[rows[:, 0] == b].sum() for b in range(3)])
    pairs = np.array(
        [
            [p @ ((rows[:, :-1] == a) & (rows[:, 1:] == b)).sum(1) for b in range(3)]
            for a in range(3)
        ]
    )
    table = np.concatenate([first[None], pairs / pairs.sum(1, keepdims=True)])
    own, expert = (
        errors_of(table, flags, table_walks=True),
        errors_of(table, flags, table_walks=False),
    )
    for n in (3, 4):
        wanted = 100 * (own[n - 1] / expert[n - 1] - 1)
        assert found["excess_accumulated_error"]["forward_kl"][str(n)] == pytest.approx(
            wanted, abs=1e-4
        )
    assert list(found["excess_accumulated_error"]["reverse_kl"]) == ["3", "4"]


def errors_of(table, flags, table_walks):
    """Accumulated KL(p(.|prefix) || q(.|prefix)) over (count of 0s less count of 1s, last token),
    all that either law reads."""
    emission = np.full((2, flags.vocab), flags.noise / (flags.vocab - 1))
    emission[[0, 1], [0, 1]] = 1 - flags.noise
    odds, mass, totals = emission[0, 0] / emission[1, 0], {(0, 0): 1.0}, []
    for _ in range(flags.horizon):
        arrived, total = defaultdict(float), 0.0
        for (lead, state), m in mass.items():
            a = flags.weight * odds**lead / (flags.weight * odds**lead + 1 - flags.weight)
            p, q = a * emission[0] + (1 - a) * emission[1], table[state]
            total += m * (p @ np.log(p / q))
            for token in range(flags.vocab):
                arrived[lead + (token == 0) - (token == 1), token + 1] += (
                    m * (q if table_walks else p)[token]
                )
        mass = arrived
        totals.append(total)
    return np.cumsum(totals)


def test_modes_are_covered_or_sought_by_a_gaussian_and_fitted_by_a_transformer(monkeypatch):
    every = mode_covering._classes
    monkeypatch.setattr(
        mode_covering,
        "_classes",
        lambda p, x: {k: v for k, v in every(p, x).items() if k != "table"},
    )
    monkeypatch.setattr(mode_covering, "BASE", 5)
    monkeypatch.setattr(
        mode_covering, "SHAPE", transformer.Shape(layers=1, width=8, heads=1, kv_heads=1)
    )
    monkeypatch.setattr(mode_covering, "FITTED", {"forward_kl": "-", "reverse_kl": "--"})
    flags = mode_covering.Flags(weight=0.6, means=(-3.0, 3.0), std=1.0)
    found = holds(mode_covering.make(flags))["fits"]
    x = mode_covering._axis(mixture(0.6, (-3.0, 3.0), 1.0))
    p = 0.6 * norm.pdf(x, -3, 1) + 0.4 * norm.pdf(x, 3, 1)
    p /= p.sum()

    def reverse(z):
        q = norm.pdf(x, z[0], math.exp(z[1]))
        return PLAIN["reverse_kl"](p, np.maximum(q / q.sum(), 1e-300)).sum()

    best = min(
        minimize(reverse, start, method="Nelder-Mead", tol=1e-9).fun
        for start in ((-3, 0), (3, 0), (0, 0.8))
    )
    assert found["gaussian"]["reverse_kl"]["reverse_kl"] == pytest.approx(best, abs=1e-6)
    assert found["gaussian"]["forward_kl"]["std"] > 1.2 * found["gaussian"]["reverse_kl"]["std"]
    assert found["transformer"]["reverse_kl"]["minor_mass"] == pytest.approx(
        p[x > 0].sum(), abs=0.01
    )
    assert found["transformer"]["reverse_kl"]["tv"] < 0.02


BAD = [
    (gaussian_fit, {"weight": 1.0}, "weight"),
    (gaussian_fit, {"std": 0.0}, "std"),
    (gaussian_fit, {"means": (0.0, math.inf)}, "means"),
    (gaussian_fit, {"means": (0.0, 1e6)}, "means"),
    (gaussian_fit, {"divergences": ()}, "divergences"),
    (gaussian_fit, {"divergences": ("forward",)}, "divergence"),
    (policy_class, {"classes": ("markov", "neural")}, "classes"),
    (policy_class, {"classes": ()}, "classes"),
    (policy_class, {"horizon": 30}, "horizon"),
    (policy_class, {"weight": 0.0}, "benchmark.weight"),
    (policy_class, {"vocab": 1}, "benchmark.vocab"),
    (misspecified_horizon, {"weight": -0.1}, "weight"),
    (misspecified_horizon, {"bias": 1.0}, "bias"),
    (misspecified_horizon, {"bias": 0.5}, "bias"),
    (misspecified_horizon, {"horizons": (1,)}, "horizons"),
    (misspecified_horizon, {"horizons": ()}, "horizons"),
    (misspecified_horizon, {"horizons": (10**7,)}, "horizons"),
    (compounding_error, {"errors": (0.1, 1.0)}, "errors"),
    (compounding_error, {"errors": ()}, "errors"),
    (compounding_error, {"recovery": 1.5}, "recovery"),
    (compounding_error, {"horizon": 2}, "horizon"),
    (compounding_error, {"horizon": 40}, "horizon"),
    (compounding_error, {"noise": 1.0}, "benchmark.noise"),
    (mode_covering, {"weight": math.nan}, "weight"),
    (mode_covering, {"means": (0.0, 100.0)}, "means"),
]


@pytest.mark.parametrize(("figure", "flags", "field"), BAD)
def test_flags_that_cannot_be_are_refused(figure, flags, field):
    with pytest.raises(UsageError) as error:
        figure.make(figure.Flags(**flags))
    assert error.value.field == field
