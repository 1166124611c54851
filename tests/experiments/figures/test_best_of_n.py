"""The law of the best of N draws."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from experiments.figures import best_of_n as figure


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_law_by_all_draws(n):
    """Every tuple of n draws, ties broken evenly over the draws that tie: which is as the reference
    has them."""
    rewards = np.array([0.3, -1.0, 0.3, 2.0])
    ref = np.array([0.2, 0.3, 0.4, 0.1])
    wanted = np.zeros(4)
    for draws in itertools.product(range(4), repeat=n):
        best = max(rewards[list(draws)])
        tied = [i for i in draws if rewards[i] == best]
        for i in tied:
            wanted[i] += np.prod(ref[list(draws)]) / len(tied)
    assert figure.best_of(n, rewards, np.log(ref)) == pytest.approx(wanted, abs=1e-14)


def test_kl_comes_to_its_bound_where_no_string_matters():
    """log N - (N-1)/N for continuous rewards: 100,000 strings, all as likely."""
    count, n = 100_000, 8
    log_ref = np.full(count, -np.log(count))
    law = figure.best_of(n, np.random.default_rng(0).standard_normal(count), log_ref)
    kept = law > 0
    kl = law[kept] @ (np.log(law[kept]) - log_ref[kept])
    assert kl == pytest.approx(np.log(n) - (n - 1) / n, abs=1e-3)


@pytest.mark.wide
def test_a_small_beta_takes_dpo_farther_than_chi_po(monkeypatch, double):
    """Both from the same comparisons; a beta of 30 leaves either at the reference."""
    monkeypatch.setattr(figure, "STEPS", 300)
    monkeypatch.setattr(figure, "BETAS", np.array([0.1, 30.0]))
    found = figure.follow(figure.Flags(answers=12, pairs=60, seeds=4))
    dpo, chi_po = (found[name]["kl"] for name in ("DPO", "chi-PO"))
    assert (dpo[:, 0] > chi_po[:, 0] + 0.05).all()
    assert max(dpo[:, 1].max(), chi_po[:, 1].max()) < 0.02


BAD = [({"most": 1}, "most"), ({"noise": 1.5}, "noise"), ({"pairs": 0}, "pairs")]


@pytest.mark.parametrize(("flags", "field"), BAD, ids=[field for _, field in BAD])
def test_flags_that_cannot_be_are_refused(flags, field, refused):
    refused(figure, flags, field)
