"""Moments of the discounted estimator: against enumeration, and against automatic gradients."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.figures import future_coupling as figure

FLAGS = figure.Flags(lengths=(4, 8))


@pytest.mark.parametrize("discount", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("chain", [figure.random_pair, figure.two_regimes], ids=["random", "two"])
def test_moments_are_those_of_all_strings(chain, discount):
    pair = chain(FLAGS)
    mean, variance = figure.by_enumeration(pair, discount, 3)
    found = figure.moments(pair, discount, 3)
    assert found.mean == pytest.approx(mean, abs=1e-12)
    assert found.variance == pytest.approx(variance, rel=1e-10)


def kl(pair: figure.Pair, logits: np.ndarray, length: int) -> float:
    """KL of strings by the chain rule, the policy's table moved."""
    q, p = figure.softmax(logits), pair.q * np.exp(pair.s)
    each = (q * np.log(q / p)).sum(1)
    mass, total = pair.start, 0.0
    for _ in range(length):
        total, mass = total + float(mass @ each), mass @ q
    return total


def test_at_discount_1_the_mean_is_the_gradient():
    """By finite differences of KL(q||p) of strings, in every entry of the table."""
    pair = figure.random_pair(FLAGS)
    logits, step = np.log(pair.q), 1e-5
    slope = np.zeros_like(logits)
    for at in np.ndindex(*logits.shape):
        move = np.zeros_like(logits)
        move[at] = step
        slope[at] = (kl(pair, logits + move, 6) - kl(pair, logits - move, 6)) / (2 * step)
    assert figure.moments(pair, 1.0, 6).mean == pytest.approx(-slope.ravel(), abs=1e-8)


def test_a_baseline_takes_one_power_of_length():
    """Variance grows like T^3 without and T^2 with it; at discount 0 like T."""
    pair = figure.random_pair(figure.Flags(distance=1.5))
    slope = lambda discount, baseline: figure.summarise(pair, discount, baseline, (256, 512))[
        "slope of variance"
    ]
    assert slope(1.0, False) == pytest.approx(3, abs=0.05)
    assert slope(1.0, True) == pytest.approx(2, abs=0.02)
    assert slope(0.0, False) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("form", figure.FORMS)
def test_gradients_of_k_tokens_by_finite_differences(form):
    z, step = np.random.default_rng(0).standard_normal((2, 6))
    log = lambda z: np.log(figure.softmax(z))
    top = np.argsort(-(z + step))[:3]

    def value(logits: np.ndarray) -> float:
        log_p, log_q = (x[top] for x in (log(z), log(logits)))
        if form == "with a tail":
            rest = lambda log_x: np.append(log_x, np.log1p(-np.exp(log_x).sum()))
            log_p, log_q = rest(log_p), rest(log_q)
        elif form == "renormalised":
            log_p, log_q = (x - np.log(np.exp(x).sum()) for x in (log_p, log_q))
        return float(np.exp(log_q) @ (log_q - log_p))

    moves = 1e-6 * np.eye(6)
    slope = [(value(z + step + m) - value(z + step - m)) / 2e-6 for m in moves]
    found = figure.of_top(form, log(z)[None], log(z + step)[None], 3)[0]
    assert found == pytest.approx(-np.array(slope), abs=1e-8)


@pytest.mark.wide
def test_all_checks_hold(made):
    values = made(figure, lengths=(16, 32)).values
    best = values["best discount"]["random"]
    assert best["16"] <= best["256"] <= best["4096"]


BAD = [
    ({"lengths": (1, 4)}, "lengths"),
    ({"lengths": (4,)}, "lengths"),
    ({"discounts": (1.5,)}, "discounts"),
]


@pytest.mark.parametrize(("flags", "field"), BAD, ids=["short", "one", "discount"])
def test_flags_that_cannot_be_are_refused(flags, field, refused):
    refused(figure, flags, field)
