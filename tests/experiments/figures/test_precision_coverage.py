"""Precision and coverage of policies under a verifier."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.figures import precision_coverage as figure
from fdiv.benchmarks import TwoTemplate


def task() -> figure.Task:
    """Five strings, three of them right; any law may be had."""
    base, right = np.array([0.1, 0.2, 0.3, 0.15, 0.25]), np.array([1.0, 0, 1, 1, 0])
    target = base * right / (base @ right)
    law = lambda table: jax.nn.log_softmax(jnp.asarray(table).reshape(-1))
    return figure.Task(np.log(base), right, target, law, (1, 5))


def test_coverage_by_hand():
    t, law = task(), np.array([0.5, 0.1, 0.2, 0.1, 0.1])
    wanted = sum(p * (1 - (1 - q) ** 7) for p, q in zip(t.target, law))
    assert figure.coverage(t, law, 7) == pytest.approx(wanted, abs=1e-12)
    measured = figure.measure(t, law, 7)
    assert measured["precision"] == pytest.approx(0.8)
    assert measured["coverage@7"] == pytest.approx(wanted)
    assert figure.coverage(t, np.array([1.0, 0, 0, 0, 0]), 100) == pytest.approx(t.target[0])


@pytest.mark.wide
@pytest.mark.parametrize("a", [0.0, 0.5, 0.9])
def test_what_holds_the_target_comes_to_it(a, double):
    """Whatever A, where every law may be had; RL to base e^{right / b} / Z."""
    t = task()
    found = figure.path(t, figure.alpha_loss, [a])[f"{a:g}"]
    assert found == pytest.approx(t.target, abs=2e-3)
    tilted = np.exp(t.base + t.right / 0.5)
    rl = figure.path(t, figure.rl_loss, [0.5])["0.5"]
    assert rl == pytest.approx(tilted / tilted.sum(), abs=1e-4)


@pytest.mark.wide
def test_the_frontier(made, monkeypatch):
    monkeypatch.setattr(figure, "STARTS", 1)
    monkeypatch.setattr(figure, "TwoTemplate", lambda: TwoTemplate(horizon=4))
    values = made(figure, alphas=(0.0, 0.5, 0.9), betas=(0.5,)).values
    rows = list(values["alpha_dpg"].values())
    assert rows[0]["precision"] < rows[1]["precision"] < rows[2]["precision"]
    assert rows[0]["entropy of right"] > rows[1]["entropy of right"] > rows[2]["entropy of right"]


BAD = [
    ({"alphas": (1.0,)}, "alphas"),
    ({"betas": ()}, "betas"),
    ({"sums_betas": (-0.1,)}, "sums_betas"),
    ({"samples": 0}, "samples"),
]


@pytest.mark.parametrize(("flags", "field"), BAD, ids=[field for _, field in BAD])
def test_flags_that_cannot_be_are_refused(flags, field, refused):
    refused(figure, flags, field)
