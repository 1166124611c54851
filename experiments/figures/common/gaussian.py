"""A Gaussian against a mixture of two: densities, masses and every best fit, by quadrature on a
uniform grid.

Expert `p = w N(a, std^2) + (1-w) N(b, std^2)`. The grid is fine against the narrowest and wide
against the widest Gaussian that a fit may take, so that a sum of perspectives times the step is the
divergence to rounding (tv: to the step squared, for it has kinks)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.stats import norm as jax_norm
from scipy.stats import norm

from fdiv.checks import between, positive
from fdiv.exact import best_policy, stages
from fdiv.types import Divergence, UsageError

FARTHEST = 200.0  # stds between the means: beyond, the grid would need millions of points
PER_STD = 100  # points of the grid to a standard deviation of a component
PROBE = 0.02  # a minimum is lower than its surroundings at this distance, in stds and in log std
FLAT = 1e-9  # by at least this much: a plateau is no minimum


class Mixture(NamedTuple):
    """The expert's parameters."""

    weight: float
    means: tuple[float, float]
    std: float

    def log_density(self, x: np.ndarray) -> np.ndarray:
        """log p(x), to be trusted far into the tails."""
        (a, b), w = self.means, self.weight
        first, second = norm.logpdf(x, a, self.std), norm.logpdf(x, b, self.std)
        return np.logaddexp(math.log(w) + first, math.log1p(-w) + second)

    def moments(self) -> tuple[float, float]:
        """Mean and standard deviation: of p, and so of the Gaussian nearest to it in forward KL."""
        (a, b), w = self.means, self.weight
        return w * a + (1 - w) * b, math.sqrt(self.std**2 + w * (1 - w) * (a - b) ** 2)

    def minor_mass(self, mean: float, std: float) -> float:
        """Mass of N(mean, std^2) on the minor component's side of the middle; the second is minor
        in a tie."""
        (a, b), middle = self.means, sum(self.means) / 2
        minor, other = (b, a) if self.weight >= 0.5 else (a, b)
        side = 1.0 if minor >= other else -1.0
        return 0.5 * math.erfc(side * (middle - mean) / (std * math.sqrt(2)))


class Fit(NamedTuple):
    """A Gaussian that no Gaussian next to it beats."""

    mean: float
    std: float
    value: float
    minor_mass: float


def mixture(weight: float, means: tuple[float, float], std: float) -> Mixture:
    """The expert that flags ask for. Raises `UsageError` for what is none."""
    between("weight", weight, 0, 1)
    positive("std", std)
    if not all(map(math.isfinite, means)):
        raise UsageError("means", means, "are not finite.", "Give two numbers.")
    if abs(means[0] - means[1]) > FARTHEST * std:
        problem = f"are more than {FARTHEST:g} standard deviations apart."
        raise UsageError("means", means, problem, "Bring them nearer, or widen std.")
    return Mixture(weight, tuple(means), std)


def grid(p: Mixture, per_std: int = PER_STD) -> tuple[np.ndarray, float]:
    """Points and their spacing, so many to a standard deviation of a component."""
    reach = 10 * p.moments()[1]
    low, high = min(p.means) - reach, max(p.means) + reach
    return np.linspace(low, high, math.ceil((high - low) / p.std * per_std), retstep=True)


def divergence(d: Divergence, p: Mixture, mean, std, per_std: int = PER_STD) -> Array:
    """D_f(p || N(mean, std^2)) in nats."""
    x, step = grid(p, per_std)
    # pyrefly: ignore[bad-argument-type]
    return step * d.perspective(p.log_density(x), jax_norm.logpdf(x, mean, std)).sum()


def fits(d: Divergence, p: Mixture) -> list[Fit]:
    """The best Gaussian and every other local minimum of D_f(p || .) that descents from a lattice
    of starts end in."""
    mean, spread = p.moments()
    low, high = min(p.means) - 2 * p.std, max(p.means) + 2 * p.std
    narrow, wide = math.log(p.std / 8), math.log(2 * spread)

    def decode(z):
        """Two unbounded numbers -> a mean and a standard deviation within their bounds."""
        u, v = (1 / (1 + jnp.exp(-x)) for x in z)
        return low + (high - low) * u, jnp.exp(narrow + (wide - narrow) * v)

    def encode(m: float, s: float) -> np.ndarray:
        u, v = (m - low) / (high - low), (math.log(s) - narrow) / (wide - narrow)
        return np.array([math.log(u / (1 - u)), math.log(v / (1 - v))])

    means, stds = (*p.means, mean, sum(p.means) / 2), (0.8 * p.std, 1.2 * p.std, spread)
    starts = [encode(m, s) for m in means for s in stds]
    with jax.enable_x64(True):
        value = jax.jit(lambda m, s: divergence(d, p, m, s))
        losses = [lambda z, g=g: divergence(g, p, *decode(z)) for g in stages(d, (2, 4, 6))]
        search = best_policy(losses, starts, apart=-math.inf)
        minima: list[Fit] = []
        for height, z in search.minima:
            m, s = map(float, decode(z))
            new = all(abs(m - k.mean) + abs(s - k.std) > PROBE * p.std for k in minima)
            # The best may lie on a plateau of tv.
            if new and (not minima or _is_minimum(value, m, s, height)):
                minima.append(Fit(m, s, max(height, 0.0), p.minor_mass(m, s)))
    return minima


def _is_minimum(value: Callable, mean: float, std: float, height: float) -> bool:
    """Whether the eight neighbours are all higher."""
    ways = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
    return all(
        float(value(mean + PROBE * i * std, std * math.exp(PROBE * j))) > height + FLAT
        for i, j in ways
    )
