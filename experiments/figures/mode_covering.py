"""Covering and seeking modes, by policy class: `python -m experiments.figures mode_covering
[--weight W --means A B --std S]`.

A mixture of two Gaussians on an axis of 100 bins, each a string of two digits, and the policies
nearest to it in forward KL, reverse KL and JS. A Gaussian over the bins has to cover (forward KL
leaves .66 nats) or to seek (reverse KL .3565, JS .1172). A table of all strings, and a small
transformer that writes the digits, need not: whatever they minimise, it ends at 0."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax import Array
from jax.scipy.stats import norm
from scipy.special import log_softmax

from experiments.figures.common.base import Check, Figure, Picture, Result, near
from experiments.figures.common.drawing import TARGET
from experiments.figures.common.gaussian import Mixture, mixture
from experiments.reporting import style
from fdiv import exact
from fdiv.divergences import parse
from fdiv.policies import tabular, transformer
from fdiv.types import Params, Policy, UsageError

FITTED = {"forward_kl": "-", "reverse_kl": "--", "js": ":"}
BASE = 10  # digits: two of them name a bin
RESOLVED = 12.0  # standard deviations between the means, beyond which bins are too coarse
# Nats from 0 at which a class that holds the expert has to end. At the defaults the transformer
# ends at 1e-4 or less, from two starts and with the instruction sets native, AVX2 and SSE4.2.
WITHIN = {"table": 1e-4, "transformer": 1e-3}
SHAPE = transformer.Shape(layers=1, width=16, heads=2, kv_heads=1)


@dataclasses.dataclass(frozen=True)
class Flags:
    """Two normal components of one width."""

    weight: float = 0.7
    """Weight of the first component."""
    means: tuple[float, float] = (-3.0, 3.0)
    """Means of the two components."""
    std: float = 0.8
    """Standard deviation of either component."""


class PolicyClass(NamedTuple):
    """Laws of the bins that a policy can give."""

    log_probs: Callable[[Params], Array]  # params -> [bins]
    starts: list[Params]  # from which a search descends


Laws = dict[str, dict[str, np.ndarray]]  # policy class -> minimised -> log-probs of the bins
Measures = dict[str, dict[str, dict[str, float]]]  # policy class -> minimised -> measure


def make(flags: Flags) -> Result:
    """Every fit of every class."""
    p = mixture(flags.weight, flags.means, flags.std)
    if abs(p.means[0] - p.means[1]) > RESOLVED * p.std:
        problem = f"are over {RESOLVED:g} stds apart, too far for the bins."
        raise UsageError("means", p.means, problem, "Widen std.")
    x = bins(p)
    log_p = log_softmax(p.log_density(x))
    with jax.enable_x64(True):
        classes = policy_classes(p, x)
        fits = {name: {d: _fit(d, log_p, c) for d in FITTED} for name, c in classes.items()}
    measured = {
        name: {d: _measure(p, x, log_p, log_q) for d, log_q in laws.items()}
        for name, laws in fits.items()
    }
    rows = [{"policy": name, "minimises": d, **measured[name][d]} for name in fits for d in FITTED]
    columns = {f"{name} {d}": np.exp(fits[name][d]) for name in fits for d in FITTED}
    curve = [
        {"x": at, "expert": math.exp(log_p[i])} | {name: q[i] for name, q in columns.items()}
        for i, at in enumerate(x)
    ]
    checks = _checks(_measure(p, x, log_p, log_p), measured)
    return Result({"fits": measured}, checks, rows, _picture(x, log_p, fits), curve)


def bins(p: Mixture) -> np.ndarray:
    """Middles of the bins, from one end of both components and of a Gaussian with their moments to
    the other."""
    mean, spread = p.moments()
    low = min(min(p.means) - 4 * p.std, mean - 3.2 * spread)
    high = max(max(p.means) + 4 * p.std, mean + 3.2 * spread)
    return np.linspace(low, high, BASE**2)


def policy_classes(p: Mixture, x: np.ndarray) -> dict[str, PolicyClass]:
    """A Gaussian over the bins, a table of all strings, a transformer that writes the digits."""
    space = exact.enumerate_strings(BASE, 2, None)
    table = tabular.policy(tabular.full(BASE, 2), BASE)
    writer = transformer.policy(SHAPE, BASE)

    def of_strings(policy: Policy) -> Callable[[Params], Array]:
        return lambda params: exact.law(space, policy, params).string

    def gaussian(params: Params) -> Array:
        return jax.nn.log_softmax(norm.logpdf(x, params[0], jnp.exp(params[1])))

    mean, spread = p.moments()
    lattice = [np.array([m, math.log(s)]) for m in (*p.means, mean) for s in (p.std, spread)]
    key = jax.random.key(0)
    return {
        "gaussian": PolicyClass(gaussian, lattice),
        "table": PolicyClass(of_strings(table), [table.init(key)]),
        "transformer": PolicyClass(of_strings(writer), [jax.jit(writer.init)(key)]),
    }


def _fit(d: str, log_p: np.ndarray, policies: PolicyClass) -> np.ndarray:
    """log-probs of the bins under the best policy."""

    def loss(params: Params) -> Array:
        # pyrefly: ignore[bad-argument-type]
        return parse(d).perspective(log_p, policies.log_probs(params)).sum()

    best = exact.best_policy([loss], policies.starts, iterations=300)
    return np.asarray(jax.jit(policies.log_probs)(best.params))


def _measure(p: Mixture, x: np.ndarray, log_p: np.ndarray, log_q: np.ndarray) -> dict[str, float]:
    """All divergences, mean and standard deviation, and the mass on the minor component's side of
    the middle."""
    with jax.enable_x64(True):
        # pyrefly: ignore[bad-argument-type]
        values = {d: float(parse(d).perspective(log_p, log_q).sum()) for d in (*FITTED, "tv")}
    q, minor = np.exp(log_q), p.means[1] if p.weight >= 0.5 else p.means[0]
    mean = float(q @ x)
    side = (x > sum(p.means) / 2) == (minor >= sum(p.means) / 2)
    values |= {"mean": mean, "std": math.sqrt(q @ (x - mean) ** 2)}
    return values | {"minor_mass": float(q[side].sum())}


def _checks(expert: dict[str, float], measured: Measures) -> list[Check]:
    """The Gaussian's moments under forward KL; no fit beats another at its own divergence; what can
    hold the expert ends there."""
    checks = []
    for what in ("mean", "std"):
        name = f"gaussian: forward_kl has the expert's {what}"
        value = measured["gaussian"]["forward_kl"][what]
        checks.append(near(name, value, expert[what], 1e-5 * expert["std"]))
    for name, table in measured.items():
        for d in FITTED:
            own, least = table[d][d], min(table[other][d] for other in FITTED)
            if name == "gaussian":
                detail = f"{own:.6g} against {least:.6g}"
                checks.append(
                    Check(f"gaussian: no fit beats {d}'s own", own <= least + 1e-9, detail)
                )
            else:
                detail = f"{own:.3g} of {WITHIN[name]:g}"
                checks.append(Check(f"{name}: {d} ends at the expert", own < WITHIN[name], detail))
    return checks


def _picture(x: np.ndarray, log_p: np.ndarray, fits: Laws) -> Picture:
    """A panel a class: the expert filled, its three fits over it."""
    style.use()
    shape = {"figsize": (6.8, 2.5), "sharey": True, "layout": "constrained"}
    figure, axes = plt.subplots(1, len(fits), **shape)
    for axis, (name, laws) in zip(axes, fits.items()):
        axis.fill_between(x, np.exp(log_p), color=TARGET, linewidth=0, label="expert")
        for d, line in FITTED.items():
            axis.plot(x, np.exp(laws[d]), line, color=style.colour(d), label=d)
        axis.set(xlabel="x", title=name, ylim=(0, None))
    axes[0].set_ylabel("probability of a bin")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


FIGURE = Figure(
    flags=Flags,
    make=make,
    title="Mode covering and mode seeking belong to the policy class",
    claim=(
        "A Gaussian covers both modes or seeks one, as the divergence says; a table and a "
        "transformer fit both in any."
    ),
    source=(
        "Bishop 2006, section 10.1.2; Goodfellow, Bengio & Courville 2016, figure 3.6; Ke "
        "et al. 2021 (arXiv 1905.12888)"
    ),
)
