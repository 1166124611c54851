"""Optima of f-DPO at other flags, the two KLs by closed forms."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from experiments.figures import f_dpo, kl_targets
from fdiv import divergences


def test_preferences_lead_to_the_regularised_optimum(made, monkeypatch):
    """At another beta, seed and number of arms; the two KLs by their closed forms."""
    some = ("forward_kl", "reverse_kl")
    monkeypatch.setattr(f_dpo, "interior", lambda: {name: divergences.parse(name) for name in some})
    values = made(f_dpo, arms=4, seed=3, budgets=some, beta=1.5).values
    draw = np.random.default_rng(3)
    rewards, ref = draw.standard_normal(4), draw.dirichlet(np.ones(4))
    tilted = ref * np.exp(rewards / 1.5)
    # KL(ref||pi), which reads reverse_kl with u = pi/ref.
    direct = np.exp(kl_targets.optimum("forward_kl", ref, rewards, 1.5))
    at_equal_beta = values["reward_at_equal_beta"]
    assert at_equal_beta["forward_kl"] == pytest.approx(tilted @ rewards / tilted.sum(), abs=1e-9)
    assert at_equal_beta["reverse_kl"] == pytest.approx(direct @ rewards, abs=1e-9)
    kl = np.sum(ref * np.log(ref / direct))
    assert values["budget"]["reverse_kl"] == pytest.approx(kl, abs=1e-9)
    assert set(values["minimiser_gap"]) == set(some)
    assert max(values["minimiser_gap"].values()) < 1e-5
    for name, row in values["reward_at_budget"].items():
        assert max(row, key=row.get) == name
        assert row[name] > sorted(row.values())[-2] + 1e-6


def test_only_members_that_keep_every_arm_are_trained():
    """f'(0) = -inf: log_d and the KLs have it, total variation and Pearson's do not."""
    with jax.enable_x64(True):
        trained = set(f_dpo.interior())
    assert {"forward_kl", "reverse_kl", "js", "neyman_chi2", "log_d"} <= trained
    assert not {"tv", "pearson_chi2", "skew_reverse_kl:0.1"} & trained


BAD = [
    ({"arms": 1}, "at least 2"),
    ({"budgets": ("kl",)}, "no divergence of that name"),
    ({"budgets": ("tv",)}, "-inf"),
    ({"budgets": ("js", "js")}, "once"),
    ({"beta": -1.0}, "beta"),
]


@pytest.mark.parametrize(("flags", "says"), BAD)
def test_flags_that_cannot_be_are_refused(flags, says, refused):
    refused(f_dpo, flags, says=says)
