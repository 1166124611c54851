"""ToDi's loss by hand: its value and its gradient are two divergences'."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.figures import todi


@pytest.mark.wide
def test_value_and_gradient_by_hand(double):
    """The value is sum (p - q) s; the gradient in logits is -q (r - E_q r) of the reward
    r = (u^2 - 1 + s) / (1 + u)."""
    z, step = np.random.default_rng(2).standard_normal((2, 6))
    log = lambda z: z - np.log(np.exp(z).sum())
    log_p, log_q = log(z), log(z + step)
    p, q, s = np.exp(log_p), np.exp(log_q), log_p - log_q
    loss = lambda z: todi.loss(jnp.asarray(log_p), jax.nn.log_softmax(z))
    value, slope = jax.value_and_grad(loss)(jnp.asarray(z + step))
    assert float(value) == pytest.approx(float((p - q) @ s), abs=1e-13)
    assert todi.by_hand(log_p[None], (z + step)[None])[0] == pytest.approx(float((p - q) @ s))
    u = p / q
    reward = (u**2 - 1 + s) / (1 + u)
    assert np.asarray(slope) == pytest.approx(-q * (reward - q @ reward), abs=1e-13)


@pytest.mark.wide
def test_the_race(made, monkeypatch):
    some = ("forward_kl", "todi", "reverse_kl")
    every = todi.measures()
    monkeypatch.setattr(todi, "measures", lambda: {name: every[name] for name in some})
    values = made(todi, pairs=5, steps=(5,), seeds=2).values
    head = {name: row["head"]["5"] for name, row in values["race"].items()}
    assert head["forward_kl at 1"] < head["todi at 1"] < head["reverse_kl at 1"]
    assert head["forward_kl at 1"] < head["forward_kl at 2"]


BAD = [({"pairs": 0}, "pairs"), ({"steps": ()}, "steps"), ({"steps": (10**6,)}, "steps")]


@pytest.mark.parametrize(("flags", "field"), BAD, ids=["pairs", "no_steps", "many_steps"])
def test_flags_that_cannot_be_are_refused(flags, field, refused):
    refused(todi, flags, field)
