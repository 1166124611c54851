"""Mode covering and mode seeking: exact fits against another search."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import PLAIN
from scipy.optimize import minimize
from scipy.stats import norm

from experiments.figures import (
    mode_covering,
)
from experiments.figures.common.gaussian import mixture
from fdiv import tokens as tk
from fdiv.policies import transformer


@pytest.mark.wide
def test_a_gaussian_covers_or_seeks_and_a_table_fits(made, monkeypatch):
    """On 25 bins. The transformer is left out here: where its search ends depends on rounding, and
    what it can express does not need it."""
    classes = mode_covering.policy_classes
    monkeypatch.setattr(mode_covering, "BASE", 5)
    monkeypatch.setattr(mode_covering, "FITTED", {"forward_kl": "-", "reverse_kl": "--"})
    without = lambda p, x: {k: v for k, v in classes(p, x).items() if k != "transformer"}
    monkeypatch.setattr(mode_covering, "policy_classes", without)
    values = made(mode_covering, weight=0.6, means=(-3.0, 3.0), std=1.0).values
    gaussian, table = values["fits"]["gaussian"], values["fits"]["table"]
    x = mode_covering.bins(mixture(0.6, (-3.0, 3.0), 1.0))
    p = 0.6 * norm.pdf(x, -3, 1) + 0.4 * norm.pdf(x, 3, 1)
    p /= p.sum()

    def reverse_kl(z):
        q = norm.pdf(x, z[0], math.exp(z[1]))
        return PLAIN["reverse_kl"](p, np.maximum(q / q.sum(), 1e-300)).sum()

    starts = ((-3, 0), (3, 0), (0, 0.8))
    ends = [minimize(reverse_kl, start, method="Nelder-Mead", tol=1e-9).fun for start in starts]
    assert gaussian["reverse_kl"]["reverse_kl"] == pytest.approx(min(ends), abs=1e-6)
    assert gaussian["forward_kl"]["std"] > 1.2 * gaussian["reverse_kl"]["std"]
    assert table["reverse_kl"]["minor_mass"] == pytest.approx(p[x > 0].sum(), abs=1e-3)


@pytest.mark.usefixtures("double")
def test_a_transformer_writes_the_bins_law(monkeypatch):
    """Its law of the bins is the product of what it says of two digits, and sums to 1."""
    monkeypatch.setattr(mode_covering, "BASE", 3)
    shape = transformer.Shape(layers=1, width=8, heads=1, kv_heads=1)
    monkeypatch.setattr(mode_covering, "SHAPE", shape)
    p = mixture(0.6, (-3.0, 3.0), 1.0)
    writer = mode_covering.policy_classes(p, mode_covering.bins(p))["transformer"]
    log_q = np.asarray(jax.jit(writer.log_probs)(writer.starts[0]))
    policy = transformer.policy(shape, 3)
    tokens = np.array(list(itertools.product(range(3), repeat=2)))
    sequences = tk.completions(jnp.asarray(tokens), None)
    each = jax.jit(lambda params: tk.log_probs(policy, params, sequences, 3))(writer.starts[0])
    np.testing.assert_allclose(log_q, np.asarray(each).sum(1), atol=1e-6)
    assert np.exp(log_q).sum() == pytest.approx(1.0, abs=1e-6)


BAD = [
    ({"weight": math.nan}, "weight"),
    ({"means": (0.0, 100.0)}, "means"),
]


@pytest.mark.parametrize(("flags", "field"), BAD)
def test_flags_that_cannot_be_are_refused(flags, field, refused):
    refused(mode_covering, flags, field=field)
