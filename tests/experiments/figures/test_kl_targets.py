"""The optima under both KLs by a plain search."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.figures import kl_targets


def test_both_kls_have_the_optimum_of_a_plain_search(made):
    ref, rewards, gap = np.array([0.5, 0.3, 0.2]), np.array([0.2, -1.0, 0.2]), 0.5
    arms = {"reference": tuple(ref), "rewards": tuple(rewards)}
    values = made(kl_targets, **arms, betas=(2.0, 0.05), gap=gap).values
    for beta in (2.0, 0.05):
        tilted = ref * np.exp(rewards / beta)
        reverse, forward = (
            np.exp(values["log_probability"][name][f"{beta:g}"])
            for name in ("reverse_kl", "forward_kl")
        )
        np.testing.assert_allclose(reverse, tilted / tilted.sum(), rtol=1e-10)
        low, high = rewards.max(), rewards.max() + beta  # lambda, by halving
        for _ in range(200):
            middle = (low + high) / 2
            over = np.sum(beta * ref / (middle - rewards)) > 1
            low, high = (middle, high) if over else (low, middle)
        np.testing.assert_allclose(forward, beta * ref / (high - rewards), rtol=1e-6)
        for row in values["log_ratio"].values():
            assert row[f"{beta:g}"]["1/3"] == pytest.approx(np.log(2.5), abs=1e-9)
        assert values["log_gap_factor"]["reverse_kl"][f"{beta:g}"] == pytest.approx(gap / beta)
    assert values["modes"] == [1, 3]


def test_the_published_figures_of_kl_targets(made):
    """Ratio 10 at every beta; e^100 for a gap of .1 at beta 1e-3; a far smaller factor the other
    way round."""
    values = made(kl_targets).values
    for name in ("reverse_kl", "forward_kl"):
        assert [row["1/2"] for row in values["log_ratio"][name].values()] == pytest.approx(
            [np.log(10)] * 4
        )
    assert values["log_gap_factor"]["reverse_kl"]["0.001"] == pytest.approx(100)
    assert values["log_gap_factor"]["forward_kl"]["0.001"] < 10


BAD = [
    ({"reference": (0.5, 0.6, 0.1, 0.2)}, "sum to 1"),
    ({"reference": (0.0, 0.5, 0.3, 0.2)}, "between 0 and 1"),
    ({"rewards": (1.0, 0.0)}, "each arm"),
    ({"betas": (0.0,)}, "betas"),
    ({"betas": (1.0, 1.0)}, "each once"),
    ({"gap": 0.0}, "gap"),
]


@pytest.mark.parametrize(("flags", "says"), BAD)
def test_flags_that_cannot_be_are_refused(flags, says, refused):
    refused(kl_targets, flags, says=says)
