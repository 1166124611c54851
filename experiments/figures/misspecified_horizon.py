"""A misspecified policy, ever longer strings: `python -m experiments.figures misspecified_horizon
[--weight W --bias B]`.

Expert (1-W) Ber(.5)^T + W Ber(B)^T, policies Ber(theta)^T; `ratio.{divergence}.{T}` is tv(p, fit)
over the least tv of any policy. At W = .01, B = .7 forward KL's is 1.118, 2.130, 5.534, 16.278 for
T = 10, 100, 1000, 10000; js's and reverse KL's are 1.000 from T = 1000 on. Either law reads a
string's count of ones only: every number is an exact sum over T + 1 counts."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax import Array
from scipy.special import gammaln

from experiments.figures.common.base import Check, Figure, Picture, Result, near
from experiments.figures.common.drawing import TARGET, plain_log, pull
from experiments.reporting import style
from fdiv.checks import between
from fdiv.divergences import parse
from fdiv.types import UsageError

FITTED = ("forward_kl", "reverse_kl", "js", "hellinger2", "tv")
LONGEST = 100_000  # tokens
PER_WIDTH = 8  # thetas scanned to a standard deviation
ROUNDS = 20  # brackets about a minimum, each a fourth as wide


@dataclasses.dataclass(frozen=True)
class Flags:
    """A fair coin and a biased one, chosen once a string."""

    weight: float = 0.01
    """Weight of the biased coin."""
    bias: float = 0.7
    """The biased coin's probability of a one."""
    horizons: tuple[int, ...] = (10, 100, 1000, 10_000)
    """Lengths of the strings."""


class Counts(NamedTuple):
    """Laws of the number of ones among T tokens, in logs. [T + 1]"""

    T: int
    weight: float
    bias: float

    def log_q(self, theta) -> Array:
        k = np.arange(self.T + 1.0)
        choose = gammaln(self.T + 1) - gammaln(k + 1) - gammaln(self.T - k + 1)
        return choose + k * jnp.log(theta) + (self.T - k) * jnp.log1p(-theta)

    def log_p(self) -> Array:
        fair, biased = self.log_q(0.5), self.log_q(self.bias)
        return jnp.logaddexp(math.log1p(-self.weight) + fair, math.log(self.weight) + biased)

    def divergences(self, theta) -> Array:
        log_p, log_q = self.log_p(), self.log_q(theta)
        return jnp.stack([parse(d).perspective(log_p, log_q).sum() for d in FITTED])


def make(flags: Flags) -> Result:
    """Every fit at every length."""
    _check(flags)
    rows, checks = [], []
    with jax.enable_x64(True):
        for T in sorted(set(flags.horizons)):
            counts = Counts(T, flags.weight, flags.bias)
            fits, scanned = _fits(counts)
            values = {
                d: dict(zip(FITTED, map(float, counts.divergences(theta))))
                for d, theta in fits.items()
            }
            least = values["tv"]["tv"]
            for d, v in values.items():
                row = {"divergence": d, "T": T, "ratio": v["tv"] / least, "tv": v["tv"]}
                rows.append(row | {"theta": fits[d], "value": v[d]})
            checks += _checks(counts, fits, values, scanned)
    values = {
        key: {
            d: {str(row["T"]): row[key] for row in rows if row["divergence"] == d} for d in FITTED
        }
        for key in ("ratio", "tv", "theta")
    }
    # pyrefly: ignore[unbound-name]
    return Result(values, checks, rows, _picture(counts, values["ratio"], fits))


def _check(flags: Flags) -> None:
    between("weight", flags.weight, 0, 1)
    between("bias", flags.bias, 0, 1)
    if abs(flags.bias - 0.5) < 1e-3:
        problem = "is the fair coin's: a policy without error, and ratios 0/0."
        raise UsageError("bias", flags.bias, problem, "Move it from .5.")
    if not flags.horizons or min(flags.horizons) < 2 or max(flags.horizons) > LONGEST:
        fix = f"Give lengths from 2 to {LONGEST:,}."
        raise UsageError("horizons", flags.horizons, "are none, too short or too long.", fix)


def _fits(counts: Counts) -> tuple[dict[str, float], np.ndarray]:
    """Each divergence's best theta, and the least values of a scan in phi, theta = sin(phi)^2:
    there all laws are as wide."""
    width = 0.5 / math.sqrt(counts.T)
    first, last = sorted(math.asin(math.sqrt(theta)) for theta in (0.5, counts.bias))
    low, high = max(first - width, first / 2), min(last + width, (last + math.pi / 2) / 2)
    grid = np.linspace(low, high, max(9, math.ceil((high - low) / width * PER_WIDTH)))
    values = jax.jit(lambda phi: jax.lax.map(lambda x: counts.divergences(jnp.sin(x) ** 2), phi))
    scanned, fits = np.asarray(values(grid)), {}

    def close_in(j: int, low: float, high: float) -> tuple[float, float]:
        """(value, phi) without a derivative, since tv has a kink there."""
        for _ in range(ROUNDS):
            points = np.linspace(low, high, 9)
            heights = np.asarray(values(points))[:, j]
            low, high = points[max(heights.argmin() - 1, 0)], points[min(heights.argmin() + 1, 8)]
        # pyrefly: ignore[unbound-name]
        return heights.min(), points[heights.argmin()]

    for j, d in enumerate(FITTED):
        column = scanned[:, j]
        inner = range(1, len(grid) - 1)
        dips = [i for i in inner if column[i] <= column[[i - 1, i + 1]].min()]
        lowest = sorted(dips, key=column.item)[:3]
        ends = [close_in(j, grid[i - 1], grid[i + 1]) for i in lowest]
        fits[d] = math.sin(min(ends)[1]) ** 2
    return fits, scanned.min(0)


def _checks(
    counts: Counts, fits: dict[str, float], values: dict[str, dict[str, float]], scanned: np.ndarray
) -> list[Check]:
    """The mean in closed form; no slope left by the rewards; no theta met is better; a bound on
    total variation."""
    T, least, bound = counts.T, values["tv"]["tv"], min(counts.weight, 1 - counts.weight)
    mean = 0.5 + counts.weight * (counts.bias - 0.5)
    checks = [near(f"T = {T}: forward_kl's theta is the mean", fits["forward_kl"], mean, 1e-7)]
    for d, height in zip(FITTED, scanned):
        own, rival = values[d][d], min(height, *(v[d] for v in values.values()))
        detail = f"{own:.6g} against {rival:.6g}"
        checks.append(
            Check(f"T = {T}: nothing met is better for {d}", own <= rival + 1e-12, detail)
        )
        if d != "tv":
            z = (np.arange(T + 1) - T * fits[d]) / math.sqrt(T * fits[d] * (1 - fits[d]))
            slope = (z * pull(parse(d), counts.log_p(), counts.log_q(fits[d]))).sum()
            checks.append(near(f"T = {T}: slope of {d} at its fit", float(slope), 0.0, 1e-5))
    name, detail = f"T = {T}: least tv within the smaller weight", f"{least:.6g} of {bound:g}"
    return [*checks, Check(name, least <= bound + 1e-12, detail)]


def _picture(
    counts: Counts, ratios: dict[str, dict[str, float]], fits: dict[str, float]
) -> Picture:
    """Ratios against length, and the laws of the share of ones at the greatest length, about the
    heavier coin's."""
    style.use()
    figure, (lines, laws) = plt.subplots(1, 2, figsize=(6.8, 2.9), layout="constrained")
    for (d, ratio), line in zip(ratios.items(), ("o-", "s-", "^--", "v-.", "D:")):
        look = {"color": style.colour(d), "markersize": 4.5, "label": d}
        lines.plot([int(T) for T in ratio], ratio.values(), line, **look)
    lines.set(xscale="log", yscale="log", xlabel="horizon T (tokens)")
    lines.set_ylabel("tv(p, fit) / least tv")
    plain_log(lines.yaxis)
    lines.legend()
    share, centre = np.arange(counts.T + 1) / counts.T, 0.5 if counts.weight <= 0.5 else counts.bias
    near_centre = np.abs(share - centre) < 3 / math.sqrt(counts.T)
    with jax.enable_x64(True):
        p = np.exp(counts.log_p())[near_centre]
        laws.fill_between(share[near_centre], p, color=TARGET, linewidth=0, label="expert")
        for d in ("forward_kl", "reverse_kl"):
            q = np.exp(counts.log_q(fits[d]))[near_centre]
            laws.plot(share[near_centre], q, color=style.colour(d))
    laws.set(xlabel=f"share of ones at T = {counts.T:,}", ylim=(0, None))
    laws.set_ylabel("probability of the count")
    laws.legend(loc="upper right", borderaxespad=0.1)
    return figure


FIGURE = Figure(
    flags=Flags,
    make=make,
    title="Misspecification and the horizon",
    claim=(
        "The longer the strings, the farther a rare outlier pulls forward KL's fit away; "
        "js and reverse KL ignore it."
    ),
    source="Rohatgi et al. 2025 (arXiv 2502.12465), next-token prediction under misspecification",
)
