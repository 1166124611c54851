"""Naive and right rewards of on-policy distillation, by hand."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from experiments.figures import opd_plus
from fdiv.benchmarks import TwoTemplate


@pytest.mark.wide
def test_the_right_rewards_arrive_and_the_naive_ones_leave(made, monkeypatch):
    """By exact gradients; sampled strings, which take as long again to compile, stay out."""
    train = opd_plus._train
    exactly = functools.cache(lambda updates: train(*arguments(updates), sampled=False))

    def arguments(updates: int):
        flags = opd_plus.Flags(updates=updates, seeds=1)
        task = opd_plus.enumerated(opd_plus.TwoTemplate().build())
        return task, opd_plus._start(task, flags), flags

    take = lambda task, start, flags, sampled: exactly(flags.updates)
    monkeypatch.setattr(opd_plus, "_train", take)
    monkeypatch.setattr(opd_plus, "TwoTemplate", lambda: TwoTemplate(horizon=4))
    rows = made(opd_plus, updates=60, seeds=1).values["rows"]
    for name, by_kind in rows.items():
        start, right = (by_kind["right"][f"tv, {when}"] for when in ("start", "sampled"))
        assert right < 0.3 * start, name
    assert rows["forward_kl"]["naive"]["tv, sampled"] > 0.9
    # reverse KL's two rewards are one and the same
    assert rows["reverse_kl"]["naive"]["tv, sampled"] == rows["reverse_kl"]["right"]["tv, sampled"]


# f and f' with the tangent c (u - 1) added, which changes no divergence
FORMS = {
    "forward_kl": (lambda u: u * np.log(u), lambda u: np.log(u) + 1),
    "js": (
        lambda u: 0.5 * (u * np.log(u) - (u + 1) * np.log((u + 1) / 2)),
        lambda u: 0.5 * np.log(2 * u / (u + 1)),
    ),
    "reverse_kl": (lambda u: -np.log(u), lambda u: -1 / u),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_tangent_turns_the_naive_reward_and_not_the_right_one(name):
    """u f' - f changes by the constant c, which has no gradient; -f changes by -c (u - 1)."""
    z, step = np.random.default_rng(1).standard_normal((2, 7))
    law = lambda z: np.exp(z) / np.exp(z).sum()
    p, q = law(z), law(z + step)
    u, (f, slope) = p / q, FORMS[name]
    right = opd_plus.climb(q, u * slope(u) - f(u))
    naive = opd_plus.climb(q, -f(u))
    for c in (1.0, -3.0):
        assert opd_plus.climb(q, u * (slope(u) + c) - f(u) - c * (u - 1)) == pytest.approx(right)
        # E_q[u grad log q] in logits is p - q
        assert opd_plus.climb(q, -f(u) - c * (u - 1)) == pytest.approx(naive - c * (p - q))
    # and the right one descends: D moves by -|gradient|^2
    value = lambda z: float(law(z) @ f(p / law(z)))
    moved = (value(z + step + 1e-5 * right) - value(z + step - 1e-5 * right)) / 2e-5
    assert moved == pytest.approx(-(right @ right), rel=1e-6)


def test_gradients_at_a_models_laws_by_hand():
    """One position of five tokens, the sum over sampled tokens written out."""
    z, step = np.random.default_rng(4).standard_normal((2, 1, 5))
    log = lambda z: z - np.log(np.exp(z).sum())
    log_p, log_q = log(z), log(z + step)
    found = opd_plus.at_laws(log_p, log_q)
    q, s = np.exp(log_q)[0], (log_p - log_q)[0]
    each = s[:, None] * (np.eye(5) - q)  # of reverse KL, by token sampled
    norm = found["reverse_kl", "right"]["model: norm"]
    assert norm == pytest.approx(np.sqrt(q @ (each**2).sum(1)))
    assert found["reverse_kl", "naive"]["model: cosine"] == pytest.approx(1)
    naive, right = opd_plus.climb(q, -s * np.exp(s)), opd_plus.climb(q, np.exp(s))
    wanted = naive @ right / np.linalg.norm(naive) / np.linalg.norm(right)
    assert found["forward_kl", "naive"]["model: cosine"] == pytest.approx(wanted)


def test_a_model_that_is_not_there(tmp_path, refused):
    refused(opd_plus, {"model": tmp_path / "nowhere"}, "path")


BAD = [({"away": 0.0}, "away"), ({"updates": 3}, "updates"), ({"seeds": 0}, "seeds")]


@pytest.mark.parametrize(("flags", "field"), BAD, ids=[field for _, field in BAD])
def test_flags_that_cannot_be_are_refused(flags, field, refused):
    refused(opd_plus, flags, field)
