"""Bias and variance of the KL estimators by adaptive quadrature."""

from __future__ import annotations

import json
import math

import pytest
from scipy.integrate import quad

from experiments.figures import __main__ as command
from experiments.figures import (
    kl_estimators,
)
from experiments.figures.kl_estimators import moments


@pytest.mark.parametrize(("mean", "std"), [(0.7, 0.8), (1.0, 1.0), (-0.4, 1.3)])
def test_estimators_by_adaptive_quadrature(made, mean, std):
    result = made(kl_estimators, mean=mean, std=std, samples=4000)
    log_ratio = lambda x: -math.log(std) - ((x - mean) / std) ** 2 / 2 + x**2 / 2
    weigh = lambda k: lambda x: math.exp(-(x**2) / 2) / math.sqrt(2 * math.pi) * k(log_ratio(x))
    expect = lambda k: quad(weigh(k), -14, 14, epsabs=1e-13, epsrel=1e-12, limit=400)[0]
    true = math.log(std) + (1 + mean**2) / (2 * std**2) - 0.5
    assert result.values["true_kl"] == pytest.approx(true, rel=1e-12)
    estimators = {
        "k1": lambda s: -s,
        "k2": lambda s: s**2 / 2,
        "k3": lambda s: math.exp(s) - 1 - s,
    }
    for name, k in estimators.items():
        row, average = result.values["estimators"][name], expect(k)
        assert row["bias_over_true"] == pytest.approx(average / true - 1, abs=1e-9)
        if std < 1.3 or name != "k3":  # beyond, the tails outlast this quadrature's range
            stdev = math.sqrt(expect(lambda s, k=k, a=average: (k(s) - a) ** 2))
            assert row["stdev_over_true"] == pytest.approx(stdev / true, rel=1e-9)


def test_estimators_infinite_variance_is_written_as_inf(tmp_path):
    """ref = N(m, v): E_q[r^2] diverges from v = 2 on, with or without a shift."""
    stdev = lambda mean, std: moments.quadrature(moments.ratio(mean, std))[1]["k3"].stdev
    assert math.isfinite(stdev(0.0, math.sqrt(1.9)))
    assert stdev(0.0, math.sqrt(2) + 1e-12) == stdev(3.0, math.sqrt(2) + 1e-12) == math.inf
    flags = ["--mean", "1", "--std", "1.5", "--samples", "1000"]
    assert command.main(["kl_estimators", *flags, "--out", str(tmp_path)]) == 0
    kept = json.loads((tmp_path / "kl_estimators" / "kl_estimators.json").read_text())
    k3 = kept["values"]["estimators"]["k3"]
    assert k3["stdev_over_true"] == "inf"
    assert isinstance(k3["mc_stdev_over_true"], float)
