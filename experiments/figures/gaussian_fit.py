"""The best Gaussian for a mixture of two: `python -m experiments.figures gaussian_fit [--weight W
--means A B --std S]`.

For .7 N(-3, .8^2) + .3 N(3, .8^2) forward KL takes the mixture's moments (-1.2000, 2.8636); reverse
KL takes the larger mode (-2.9995, .8010) at .3565 nats, with a second local minimum near +3 at
1.2036. `local_minima` lists all that were met, best first."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax.scipy.stats import norm

from experiments.figures.common.base import Check, Figure, Picture, Result, near
from experiments.figures.common.drawing import TARGET, plain_log, pull
from experiments.figures.common.gaussian import Fit, Mixture, divergence, fits, grid, mixture
from experiments.reporting import style
from fdiv.divergences import parse
from fdiv.types import UsageError

COARSE = 12  # points to a standard deviation, for scans and pictures
DASHES = ("-", "-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))


@dataclasses.dataclass(frozen=True)
class Flags:
    """Two normal components of one width."""

    weight: float = 0.7
    """Weight of the first component."""
    means: tuple[float, float] = (-3.0, 3.0)
    """Means of the two components."""
    std: float = 0.8
    """Standard deviation of either component."""
    divergences: tuple[str, ...] = (
        "forward_kl",
        "reverse_kl",
        "js",
        "tv",
        "hellinger2",
        "jeffreys",
    )
    """What to minimise, by the names of the family (alpha:2, gjs:0.1, ...)."""


def make(flags: Flags) -> Result:
    """Every minimum for every divergence, and a scan over means that none of them may be above."""
    p = mixture(flags.weight, flags.means, flags.std)
    if not flags.divergences:
        raise UsageError("divergences", flags.divergences, "is empty.", "Name at least one.")
    names = tuple(dict.fromkeys(parse(spec).name for spec in flags.divergences))
    with jax.enable_x64(True):
        optima = {name: fits(parse(name), p) for name in names}
        scans = {name: _scan(name, p) for name in names}
        checks = [check for name in names for check in _checks(name, p, optima, scans[name])]
    values = {
        name: minima[0]._asdict() | {"local_minima": [m._asdict() for m in minima]}
        for name, minima in optima.items()
    }
    rows = [
        {"divergence": name, "minimum": i, **minimum._asdict()}
        for name, minima in optima.items()
        for i, minimum in enumerate(minima, 1)
    ]
    curve = [
        {"divergence": name, "mean": mean, "least_value": value}
        for name, scan in scans.items()
        for mean, value in zip(*scan)
    ]
    return Result({"fits": values}, checks, rows, _picture(p, optima, scans), [*rows, *curve])


def _scan(name: str, p: Mixture) -> tuple[np.ndarray, np.ndarray]:
    """Means across the mixture, and at each the least divergence over a lattice of widths."""
    low, high = min(p.means) - 1.5 * p.std, max(p.means) + 1.5 * p.std
    means, stds = np.linspace(low, high, 81), np.geomspace(0.7 * p.std, 1.5 * p.moments()[1], 41)

    @jax.jit
    def least(mean):
        each = jax.vmap(lambda std: divergence(parse(name), p, mean, std, COARSE))
        return each(jnp.asarray(stds)).min()

    return means, np.array([float(least(mean)) for mean in means])


def _checks(
    name: str, p: Mixture, optima: dict[str, list[Fit]], scan: tuple[np.ndarray, np.ndarray]
) -> list[Check]:
    """Moments in closed form; for any f, no slope, no better Gaussian known, and a sum that a finer
    one confirms."""
    best, d = optima[name][0], parse(name)
    scale, kinked = max(1.0, best.value), name == "tv"
    finer = float(divergence(d, p, best.mean, best.std, 271))
    rivals = {n: float(divergence(d, p, fit.mean, fit.std)) for n, (fit, *_) in optima.items()}
    rivals["scan"] = float(scan[1].min())
    rival = min(rivals, key=lambda name: rivals[name])
    of_slope, of_value, of_rival = (5e-3, 1e-4, 1e-3) if kinked else (1e-5, 1e-9, 1e-8)
    detail = f"{best.value:.6g} against {rivals[rival]:.6g} of {rival}"
    no_worse = best.value <= rivals[rival] + of_rival * scale
    checks = [
        near(f"{name}: slope at the fit", _slope(name, p, best), 0.0, of_slope * scale),
        near(f"{name}: value on a finer grid", best.value, finer, of_value * scale),
        Check(f"{name}: no Gaussian met is better", no_worse, detail),
    ]
    if name == "forward_kl":
        mean, std = p.moments()
        checks.append(near(f"{name}: mean of the mixture", best.mean, mean, 1e-5 * std))
        about = f"{name}: standard deviation of the mixture"
        checks.append(near(about, best.std, std, 1e-5 * std))
    return checks


def _slope(name: str, p: Mixture, fit: Fit) -> float:
    """Size of E_q[reward(s) grad log q] in units of the fit's width: the gradient of D_f, without
    differentiating."""
    x, step = grid(p)
    z = (x - fit.mean) / fit.std
    # pyrefly: ignore[bad-argument-type]
    pulled = step * pull(parse(name), p.log_density(x), norm.logpdf(x, fit.mean, fit.std))
    return float(jnp.hypot((pulled * z).sum(), (pulled * (z**2 - 1)).sum()))


def _picture(
    p: Mixture, optima: dict[str, list[Fit]], scans: dict[str, tuple[np.ndarray, np.ndarray]]
) -> Picture:
    style.use()
    figure, (densities, depths) = plt.subplots(1, 2, figsize=(6.8, 2.9), layout="constrained")
    low, high = min(p.means) - 5 * p.std, max(p.means) + 5 * p.std
    x = np.linspace(low, high, 801)
    target = np.exp(p.log_density(x))
    densities.fill_between(x, target, color=TARGET, linewidth=0, label="expert")
    for (name, (best, *_)), dash in zip(optima.items(), DASHES * len(optima)):
        look = {"color": style.colour(name), "linestyle": dash}
        densities.plot(x, np.exp(norm.logpdf(x, best.mean, best.std)), **look)
        depths.plot(*scans[name], **look, label=name)
        for i, minimum in enumerate(optima[name]):
            point = {"color": look["color"], "markersize": 5, "zorder": 3}
            point["markerfacecolor"] = look["color"] if i == 0 else "white"
            depths.plot(minimum.mean, minimum.value, "o", **point)
    densities.set(xlabel="x", ylabel="density", xlim=(low, high), ylim=(0, None))
    densities.legend(loc="upper right")
    depths.set(xlabel="mean of the Gaussian, width at its best", yscale="log")
    depths.set_ylabel("divergence (nats)")
    plain_log(depths.yaxis)
    depths.set_title("filled: best; hollow: other minima, at own widths", fontsize=8)
    lines, names = depths.get_legend_handles_labels()
    spacing = {"ncols": min(6, len(optima)), "handlelength": 2.6, "columnspacing": 1.4}
    figure.legend(lines, names, loc="outside lower center", **spacing)
    return figure


FIGURE = Figure(
    flags=Flags,
    make=make,
    title="One Gaussian for two modes",
    claim=(
        "Forward KL spreads over both modes, reverse KL settles in one, and in either of "
        "them: two local minima."
    ),
    source=(
        "Bishop 2006, Pattern Recognition and Machine Learning, section 10.1.2; Minka "
        "2005, Divergence measures"
    ),
)
