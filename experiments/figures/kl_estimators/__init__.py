"""Bias and spread of k1, k2, k3 as estimates of KL(q||ref): `python -m experiments.figures
kl_estimators [--mean M --std S]`.

q = N(0, 1), ref = N(M, S^2). At M = .1, S = 1 the stdev over the true KL is 2/M = 20, sqrt(2 + M^2)
= 1.41774 and 2 sqrt(e^{M^2} - 1 - M^2) / M^2 = 1.41657; k2's bias over the true KL is M^2/4 =
.0025, k1 and k3 have none. E_q[(ref/q)^2] diverges where ref is as wide as sqrt(2) q: k3's variance
is infinite iff S^2 >= 2, whatever M."""

from __future__ import annotations

import dataclasses
import math

import jax
import matplotlib.pyplot as plt
import numpy as np

from experiments.figures.common.base import Check, Figure, Picture, Result, Row, near
from experiments.figures.kl_estimators.moments import (
    Moments,
    Ratio,
    closed_forms,
    quadrature,
    ratio,
)
from experiments.reporting import style
from fdiv.checks import at_least, between
from fdiv.penalties import ESTIMATORS
from fdiv.types import UsageError

LOOKS = {
    "k1": (style.EXPERT, ":"),
    "k2": (style.OTHER, "--"),
    "k3": (style.colour("reverse_kl"), "-"),
}
SPREAD = ("bias_over_true", "stdev_over_true")


@dataclasses.dataclass(frozen=True)
class Flags:
    """q = N(0, 1) against a reference N(mean, std^2)."""

    mean: float = 0.1
    """Mean of the reference."""
    std: float = 1.0
    """Standard deviation of the reference; from sqrt(2) on, k3 has infinite variance."""
    samples: int = 1_000_000
    """Monte Carlo samples of q."""


def make(flags: Flags) -> Result:
    """Quadrature of the core's estimators, closed forms beside it, and samples."""
    between("std", flags.std, 0.01, 100)
    between("mean", flags.mean, -100, 100)
    at_least("samples", flags.samples, 2)
    r = ratio(flags.mean, flags.std)
    if (flags.mean, flags.std) == (0, 1):
        problem = "the reference is q itself: there is nothing to estimate."
        raise UsageError("mean", flags.mean, problem, "Move mean or std.")
    if not r.computable:
        problem = f"with std = {flags.std:g} k3's variance is finite but too large to compute."
        fix = "Move mean nearer 0, or std away from sqrt(2)."
        raise UsageError("mean", flags.mean, problem, fix)
    with jax.enable_x64(True):
        true, exact = quadrature(r)
        sampled = _sample(r, flags.samples)
        curve = _sweep(flags)
    estimators = {
        name: {
            "bias_over_true": (exact[name].mean - true) / true,
            "stdev_over_true": exact[name].stdev / true,
            "mc_bias_over_true": (sampled[name].mean - true) / true,
            "mc_stdev_over_true": sampled[name].stdev / true,
        }
        for name in ESTIMATORS
    }
    titles = ("bias/true", "stdev/true", "sampled bias/true", "sampled stdev/true")
    rows = [
        {"estimator": name, **dict(zip(titles, values.values()))}
        for name, values in estimators.items()
    ]
    checks = _closed_forms(r, true, exact) + _sampling(flags.samples, exact, sampled)
    values = {"true_kl": true, "estimators": estimators}
    return Result(values, checks, rows, _picture(flags, curve, true, estimators), curve)


def _sample(r: Ratio, count: int) -> dict[str, Moments]:
    s = r.log(np.random.default_rng(0).standard_normal(count))
    # pyrefly: ignore[bad-argument-type]
    estimates = {name: np.asarray(k(s)) for name, k in ESTIMATORS.items()}
    return {name: Moments(float(k.mean()), float(k.std(ddof=1))) for name, k in estimates.items()}


def _sweep(flags: Flags) -> list[Row]:
    """The same along N(t mean, std^(2t)), t from a tenth to ten or as far as the KL rises: from
    next to q on."""
    rows, last = [], 0.0
    for t in np.geomspace(0.1, 10, 41):
        mean, std = t * flags.mean, flags.std**t
        r = ratio(mean, std)
        if 0.02 < std < 50 and r.computable and not 0 < r.room(2) < 1e-4:
            true, moments = quadrature(r)
            if true < last:
                break
            last = true
            for name, m in moments.items():
                row = {"estimator": name, "true_kl": true, "mean": mean, "std": std}
                row |= {"bias_over_true": m.mean / true - 1, "stdev_over_true": m.stdev / true}
                rows.append(row)
    return rows


def _closed_forms(r: Ratio, true: float, exact: dict[str, Moments]) -> list[Check]:
    """To 1e-10 of the true KL, and what the closed forms themselves lose to rounding where their
    terms cancel."""
    terms = abs(r.a) + abs(r.c) + r.b**2 + 2 * r.c**2
    square = math.expm1(max(r.log_moment(2), 0)) if r.room(2) > 0 else 0.0
    lost = {"k1": 0.0, "k2": 0.0, "k3": min(square, 1e300) + terms}
    checks = []
    for name, wanted in closed_forms(r).items():
        slack = 1e-10 * max(true, wanted.mean) + 1e-15 * (1 + terms)
        checks.append(near(f"mean of {name} in closed form", exact[name].mean, wanted.mean, slack))
        spread = exact[name].stdev / true
        slack = 0.0
        if math.isfinite(spread):
            slack = 1e-10 * spread + 1e-15 * lost[name] / (spread * true**2)
        about = f"stdev/true of {name} in closed form"
        checks.append(near(about, spread, wanted.stdev / true, slack))
    slack = 1e-10 * true + 1e-15 * (1 + terms)
    return [near("true KL in closed form", true, closed_forms(r)["k1"].mean, slack), *checks]


def _sampling(count: int, exact: dict[str, Moments], sampled: dict[str, Moments]) -> list[Check]:
    """Within 4 standard errors, where there is one: 1% or more for the stdev, whose own error the
    fourth moment gives."""
    checks = []
    for name, (mean, stdev, fourth) in exact.items():
        if math.isfinite(stdev):
            error = 4 * stdev / count**0.5
            checks.append(near(f"sampled mean of {name}", sampled[name].mean, mean, error))
        if math.isfinite(fourth):
            error = stdev * max(0.01, 2 * math.sqrt((fourth - 1) / count))
            checks.append(near(f"sampled stdev of {name}", sampled[name].stdev, stdev, error))
    return checks


def _picture(
    flags: Flags, curve: list[Row], true: float, estimators: dict[str, dict[str, float]]
) -> Picture:
    style.use()
    figure, axes = plt.subplots(1, 2, figsize=(6.8, 2.7), layout="constrained")
    for axis, key in zip(axes, reversed(SPREAD)):
        for order, (name, (colour, line)) in enumerate(LOOKS.items()):
            rows = [row for row in curve if row["estimator"] == name and math.isfinite(row[key])]
            look = {"color": colour, "zorder": 4 - order}
            x, y = [row["true_kl"] for row in rows], [row[key] for row in rows]
            axis.plot(x, y, linestyle=line, label=name, **look)
            error = 2 * estimators[name]["mc_stdev_over_true"] / flags.samples**0.5
            errors = error if key == "bias_over_true" else None
            dot = {"marker": "o", "markersize": 4 + 1.5 * order, "capsize": 3, "linestyle": ""}
            axis.errorbar(true, estimators[name][f"mc_{key}"], errors, **dot, **look)
        axis.set(xscale="log", xlabel="true KL(q||ref) (nats)")
    axes[0].set(yscale="log", ylabel="stdev / true KL")
    axes[1].set(ylabel="bias / true KL")
    title = "lines exact, dots sampled\n(\N{PLUS-MINUS SIGN} 2 standard errors)"
    axes[1].legend(title=title, title_fontsize=8)
    beyond = [row["true_kl"] for row in curve if row["stdev_over_true"] == math.inf]
    if beyond:
        colour = {"color": LOOKS["k3"][0]}
        axes[0].axvline(min(beyond), linewidth=0.9, linestyle=(0, (1, 2)), **colour)
        at = {"xycoords": ("data", "axes fraction"), "xytext": (3, 0)}
        at |= {"textcoords": "offset points", "fontsize": 8}
        axes[0].annotate("k3 infinite", (min(beyond), 0.94), **colour, **at)
    return figure


FIGURE = Figure(
    flags=Flags,
    make=make,
    title="Three estimators of a KL",
    claim=(
        "k3 is unbiased, and as steady as the biased k2 near the reference; where that is "
        "wide, k3's variance is infinite."
    ),
    source="Schulman 2020, Approximating KL Divergence (joschu.net/blog/kl-approx.html)",
)
