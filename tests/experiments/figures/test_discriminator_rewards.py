"""Gradients of discriminator rewards by hand."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.figures import (
    discriminator_rewards,
)
from experiments.figures.common import base


@pytest.fixture(scope="module")
def rewards(made) -> base.Result:
    return made(discriminator_rewards, arms=3, scale=0.5, pairs=4)


@pytest.mark.wide
def test_rewards_descend_what_they_should(rewards):
    cosine, trained = rewards.values["cosine"], rewards.values["trained_tv"]
    assert cosine["fairl"]["forward_kl"] < -0.9
    assert trained["fairl"] > 0.5
    assert max(tv for name, tv in trained.items() if name != "fairl") < 1e-3
    assert set(cosine) == set(trained) >= {"airl", "gail", "e^s", "fairl", *cosine["airl"]}


@pytest.mark.wide
def test_cosines_by_hand(rewards):
    """The gradient in softmax logits of E_q[R] is q (R - E_q R); of KL(p||q) it is q - p, of
    KL(q||p) q (log q/p - KL)."""
    expert, step = np.random.default_rng(0).standard_normal((2, 4, 1, 3))
    law = lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    p, q = law(expert)[:, 0], law(expert + 0.5 * step)[:, 0]
    s = np.log(p / q)
    climb = lambda r: q * (r - (q * r).sum(1, keepdims=True))
    size = lambda x: np.linalg.norm(x, axis=1)
    cosine = lambda a, b: float(np.mean((a * b).sum(1) / size(a) / size(b)))
    descent = {"forward_kl": p - q, "reverse_kl": climb(s)}
    by_hand = {
        "airl": s,
        "gail": np.log1p(np.exp(s)),
        "e^s": p / q,
        "fairl": -s * p / q,
        "hellinger2": np.sqrt(p / q),
        "tv": np.sign(s) / 2,
    }
    for name, reward in by_hand.items():
        for d, down in descent.items():
            wanted = cosine(climb(reward), down)
            assert rewards.values["cosine"][name][d] == pytest.approx(wanted, abs=1e-12)
