"""Alpha-beta divergences and rewards of sampled tokens, by sums."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.figures import alpha_beta


def laws(seed: int) -> tuple[np.ndarray, np.ndarray]:
    return alpha_beta.random_pairs(alpha_beta.Flags(pairs=5, peak=1.0, seed=seed))


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "squares"])
def test_limits(name):
    """AB(1, 0) is KL(p||q), AB(0, 1) KL(q||p), AB(1, 1) half the sum of squares."""
    log_p, log_q = laws(0)
    p, q = np.exp(log_p), np.exp(log_q)
    e = 1e-6
    powers, wanted = {
        "forward_kl": ((1.0, e), (p * (log_p - log_q)).sum(1)),
        "reverse_kl": ((e, 1.0), (q * (log_q - log_p)).sum(1)),
        "squares": ((1.0, 1.0), 0.5 * ((p - q) ** 2).sum(1)),
    }[name]
    assert alpha_beta.divergence(*powers, p, q) == pytest.approx(wanted, abs=1e-4)


def test_noise_is_that_of_one_sampled_token():
    """E|g|^2 and |E g|^2 with g = r_v (e_v - q), token by token."""
    log_p, log_q = laws(1)
    q, r = np.exp(log_q), log_p - log_q
    each = r[:, :, None] * (np.eye(q.shape[1]) - q[:, None])  # [pairs, sampled, logits]
    square = (q[:, :, None] * each**2).sum((1, 2))
    mean = ((q[:, :, None] * each).sum(1) ** 2).sum(1)
    wanted = (square.mean() - mean.mean()) / mean.mean()
    judged = alpha_beta.judge(log_p, log_q, r)
    assert judged["noise"] == pytest.approx(wanted, rel=1e-10)
    assert judged["cosine with reverse_kl"] == pytest.approx(1)
    assert judged["signs turned"] == 0
    assert alpha_beta.judge(log_p, log_q, -r)["signs turned"] == pytest.approx(1)


@pytest.mark.wide
def test_all_checks_hold(made):
    values = made(alpha_beta, pairs=100).values
    assert values["cosine of ab:0.2,0.7 with alpha:0.2"] > 0.9
    assert set(values["fits"]) == {f"{a:g},{b:g}" for a in alpha_beta.GRID for b in alpha_beta.GRID}


BAD = [({"pairs": 0}, "pairs"), ({"distance": 0.0}, "distance"), ({"peak": 100.0}, "peak")]


@pytest.mark.parametrize(("flags", "field"), BAD, ids=[field for _, field in BAD])
def test_flags_that_cannot_be_are_refused(flags, field, refused):
    refused(alpha_beta, flags, field)
