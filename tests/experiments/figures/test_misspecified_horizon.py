"""Ratios at long horizons against sums over whole strings."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest
from laws import PLAIN
from scipy.stats import binom

from experiments.figures import (
    misspecified_horizon,
)


@pytest.mark.wide
def test_misspecified_ratios_are_those_of_whole_strings_and_log_masses_survive_long_ones(
    made, monkeypatch
):
    counts = misspecified_horizon.Counts  # measured by one program a length
    monkeypatch.setattr(counts, "divergences", jax.jit(counts.divergences, static_argnums=0))
    w, b = 0.2, 0.9
    values = made(misspecified_horizon, weight=w, bias=b, horizons=(3000, 6)).values
    ones = np.array([sum(x) for x in itertools.product((0, 1), repeat=6)])
    law = lambda theta: theta**ones * (1 - theta) ** (6 - ones)
    p, thetas = (1 - w) * law(0.5) + w * law(b), np.linspace(0.4, 0.95, 11001)
    laws = np.stack([law(theta) for theta in thetas])
    scan = {name: plain(p, laws).sum(1) for name, plain in PLAIN.items()}
    for name in PLAIN:
        wanted = scan["tv"][scan[name].argmin()] / scan["tv"].min()
        assert values["ratio"][name]["6"] == pytest.approx(wanted, abs=1e-3)

    # At 3000 most masses underflow, and the coins no longer overlap.
    assert list(values["ratio"]["js"]) == ["6", "3000"]
    assert values["ratio"]["reverse_kl"]["3000"] == pytest.approx(1, abs=1e-6)
    assert values["tv"]["tv"]["3000"] == pytest.approx(w, abs=1e-9)
    k = np.arange(3001)
    p = (1 - w) * binom.pmf(k, 3000, 0.5) + w * binom.pmf(k, 3000, b)
    wanted = 0.5 * np.abs(p - binom.pmf(k, 3000, 0.58)).sum()
    assert values["tv"]["forward_kl"]["3000"] == pytest.approx(wanted, abs=1e-6)


BAD = [
    ({"weight": -0.1}, "weight"),
    ({"bias": 1.0}, "bias"),
    ({"bias": 0.5}, "bias"),
    ({"horizons": (1,)}, "horizons"),
    ({"horizons": ()}, "horizons"),
    ({"horizons": (10**7,)}, "horizons"),
]


@pytest.mark.parametrize(("flags", "field"), BAD)
def test_flags_that_cannot_be_are_refused(flags, field, refused):
    refused(misspecified_horizon, flags, field=field)
