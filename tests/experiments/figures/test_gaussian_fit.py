"""Gaussian fits against quadrature and another search."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from laws import PLAIN
from scipy.integrate import simpson
from scipy.optimize import minimize
from scipy.stats import norm

from experiments.figures import (
    gaussian_fit,
)
from experiments.figures.common import base


@pytest.mark.wide
def test_gaussian_fit_is_what_quadrature_and_another_search_find(made, tmp_path):
    names = ("forward_kl", "reverse_kl", "tv")
    flags = {"weight": 0.35, "means": (4.0, -1.0), "std": 0.9, "divergences": names}
    result = made(gaussian_fit, **flags)
    fits = result.values["fits"]
    x = np.linspace(-25.0, 25.0, 40_001)
    p = 0.35 * norm.pdf(x, 4, 0.9) + 0.65 * norm.pdf(x, -1, 0.9)

    def value(name: str, mean: float, std: float) -> float:
        return simpson(PLAIN[name](p, np.maximum(norm.pdf(x, mean, std), 1e-300)), x=x)

    for name in ("reverse_kl", "tv"):
        best = fits[name]
        loss = lambda z, name=name: value(name, z[0], math.exp(z[1]))
        end = minimize(loss, (-0.8, 0.0), method="Nelder-Mead", tol=1e-8)
        assert best["value"] == pytest.approx(end.fun, abs=1e-5)
        if name == "reverse_kl":
            assert (best["mean"], math.log(best["std"])) == pytest.approx(tuple(end.x), abs=1e-4)
    mean = 0.35 * 4 - 0.65
    std = math.sqrt(0.81 + 0.35 * 0.65 * 25)
    forward = fits["forward_kl"]
    assert (forward["mean"], forward["std"]) == pytest.approx((mean, std), abs=1e-5)
    assert forward["minor_mass"] == pytest.approx(norm.sf(1.5, mean, std), abs=1e-5)
    for minimum in fits["reverse_kl"]["local_minima"]:
        here = value("reverse_kl", minimum["mean"], minimum["std"])
        assert minimum["value"] == pytest.approx(here, abs=1e-6)
    assert {-1, 4} <= {round(minimum["mean"]) for minimum in fits["reverse_kl"]["local_minima"]}
    assert len(forward["local_minima"]) == 1

    base.write_files("gaussian_fit", gaussian_fit.Flags(**flags), result, tmp_path)
    kept = json.loads((tmp_path / "gaussian_fit.json").read_text())
    assert kept["values"]["fits"]["tv"]["value"] == fits["tv"]["value"]
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".csv", ".pdf", ".png"}


BAD = [
    ({"weight": 1.0}, "weight"),
    ({"std": 0.0}, "std"),
    ({"means": (0.0, math.inf)}, "means"),
    ({"means": (0.0, 1000000.0)}, "means"),
    ({"divergences": ()}, "divergences"),
    ({"divergences": ("forward",)}, "divergence"),
]


@pytest.mark.parametrize(("flags", "field"), BAD)
def test_flags_that_cannot_be_are_refused(flags, field, refused):
    refused(gaussian_fit, flags, field=field)
