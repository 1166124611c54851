"""Moments of k1, k2 and k3 for two Gaussians, by quadrature of the core's functions and,
independently, in closed form.

q = N(0, 1) and ref = N(m, v): s = log ref - log q = a + b x + c x^2, with the cumulant generating
function under q K(t) = log E_q[r^t] = a t - log(1 - 2ct)/2 + b^2 t^2 / (2 (1 - 2ct)), finite while
1 - 2ct > 0. At t = 2 that is v < 2."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from fdiv import divergences
from fdiv.penalties import ESTIMATORS

LINEAR = 40.0  # beyond this log-ratio log k3 is the log-ratio itself, to rounding
WIDTHS = 13  # standard deviations either side that a Gaussian integrand is followed


class Moments(NamedTuple):
    """Of one estimator under q."""

    mean: float
    stdev: float
    fourth: float = math.inf  # central moment over stdev^4


class Ratio(NamedTuple):
    """s = a + b x + c x^2."""

    a: float
    b: float
    c: float

    def log(self, x: np.ndarray) -> np.ndarray:
        return self.a + x * (self.b + self.c * x)

    def room(self, t: float) -> float:
        """1 - 2ct, the precision of the Gaussian q r^t where that can be normalised."""
        return 1 - 2 * t * self.c

    def log_moment(self, t: float) -> float:
        """K(t)."""
        room = self.room(t)
        if room <= 0:
            return math.inf
        return self.a * t - 0.5 * math.log(room) + (self.b * t) ** 2 / (2 * room)

    @property
    def computable(self) -> bool:
        """Whether E_q[r^2] is infinite, or finite and within reach of double precision."""
        return self.room(2) <= 0 or (self.room(2) > 1e-8 and self.log_moment(2) < 600)


def ratio(mean: float, std: float) -> Ratio:
    """Of N(mean, std^2) to N(0, 1)."""
    return Ratio(-math.log(std) - (mean / std) ** 2 / 2, mean / std**2, (1 - std**-2) / 2)


def quadrature(r: Ratio) -> tuple[float, dict[str, Moments]]:
    """The true KL and each estimator's moments, by a trapezoid rule that covers q r^t for every t
    that they need."""
    powers = [t for t in (0, 1, 2, 4) if r.room(t) > 1e-8 and r.log_moment(t) < 700]
    ends = [
        t * r.b / r.room(t) + side * WIDTHS / math.sqrt(r.room(t))
        for t in powers
        for side in (-1, 1)
    ]
    narrowest = min(1.0, r.room(1) ** -0.5)
    count = 1 << max(14, math.ceil(math.log2(4 * (max(ends) - min(ends)) / narrowest)))
    x, step = np.linspace(min(ends), max(ends), count, retstep=True)
    log_q, s = -0.5 * x**2 - 0.5 * math.log(2 * math.pi), r.log(x)

    def moments(name: str) -> Moments:
        large = (s > LINEAR) & (name == "k3")
        # pyrefly: ignore[bad-argument-type]
        k = np.asarray(ESTIMATORS[name](np.where(large, LINEAR, s)))

        def finite(t: int) -> bool:
            return name != "k3" or t in powers

        def integral(size: np.ndarray, n: int) -> float:
            log_size = np.where(large, s, np.log(size + 1e-300))
            return float(np.sum(np.exp(log_q + n * log_size)) * step)

        below = float(np.sum(np.exp(log_q) * np.maximum(-k, 0)) * step)
        mean = integral(np.maximum(k, 0), 1) - below
        stdev = math.sqrt(integral(abs(k - mean), 2)) if finite(2) else math.inf
        fourth = integral(abs(k - mean), 4) / stdev**4 if finite(4) else math.inf
        return Moments(mean, stdev, fourth)

    # pyrefly: ignore[bad-argument-type]
    true = float(divergences.parse("reverse_kl").perspective(log_q + s, log_q).sum() * step)
    return true, {name: moments(name) for name in ESTIMATORS}


def closed_forms(r: Ratio) -> dict[str, Moments]:
    """From the cumulants of s (mean, variance, third, fourth), E_ref[s] = K'(1) and E_q[r^2]."""
    a, b, c = r
    mean, variance = a + c, b**2 + 2 * c**2
    third, fourth = 6 * b**2 * c + 8 * c**3, 48 * c**2 * (b**2 + c**2)
    room = r.room(1)
    under_ref = a + c / room + b**2 / room + b**2 * c / room**2
    square = math.expm1(r.log_moment(2)) if r.room(2) > 0 else math.inf
    spread = (fourth + 4 * third * mean + 2 * variance**2 + 4 * variance * mean**2) / 4
    excess = square + variance - 2 * (under_ref - mean)  # var r + var s - 2 cov(r, s)
    return {
        "k1": Moments(-mean, math.sqrt(variance)),
        "k2": Moments((variance + mean**2) / 2, math.sqrt(spread)),
        "k3": Moments(-mean, math.sqrt(max(excess, 0.0))),
    }
