"""The f-divergence family: `D_f(p||q) = E_q[f(u)]`, `u = p/q = e^s`, every `f` normalised so that
`f(1) = f'(1) = 0`.

A member is three functions (`fdiv.types.Divergence`), and two laws hold for all of them:

    D_f(p||q) = max over s of E_p[witness(s)] - E_q[reward(s)], attained at the true log-ratio;
    grad_theta D_f(p||q_theta) = -E_q[reward(s) grad log q_theta], with s held fixed.

The perspective is `q f(p/q)` pointwise, so it is non-negative also on a part of the space. Where
the true value is infinite (`p` or `q` zero and `f` unbounded there) so is ours, with a gradient
that stays finite. Sources: Csiszar 1967; Nguyen, Wainwright & Jordan 2010; Sason & Verdu 2016
(arXiv 1508.00335); the cards name each member's."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.nn import log_sigmoid, softplus

from fdiv.types import Divergence, UsageError

INF, LOG2 = math.inf, math.log(2.0)
STEEPEST = 64.0  # |a| of alpha: e^{a s} leaves single precision at s = 88 / a
LIGHTEST = 1e-6  # weight of a mixture, which single precision still tells from none


def _bounded_slope(x: Array) -> Array:
    """e^x kept a factor e below overflow: the derivative to use where the value itself may be
    inf."""
    return jnp.exp(jnp.minimum(x, math.log(float(jnp.finfo(x.dtype).max)) - 1.0))


@jax.custom_jvp
def _exp(x):
    return jnp.exp(x)


@jax.custom_jvp
def _expm1(x):
    return jnp.expm1(x)


_exp.defjvp(lambda primals, tangents: (_exp(*primals), _bounded_slope(*primals) * tangents[0]))
_expm1.defjvp(lambda primals, tangents: (_expm1(*primals), _bounded_slope(*primals) * tangents[0]))


def _mass_times_expm1(log_mass: Array, c: float, s: Array) -> Array:
    """e^log_mass (e^{c s} - 1) / c without overflow between the factors; the limit e^log_mass s at
    c = 0."""
    if c == 0:
        return _exp(log_mass) * s
    small = jnp.abs(c * s) < 1
    near = _exp(log_mass) * _expm1(jnp.where(small, c * s, 0.0))
    return jnp.where(small, near, _exp(log_mass + c * s) - _exp(log_mass)) / c


def _edge(constant: float, log_mass: Array) -> Array:
    """`constant * mass`, the perspective's value where the other mass is zero; an infinite value
    carries no gradient."""
    return jnp.full_like(log_mass, INF) if math.isinf(constant) else constant * _exp(log_mass)


def member(
    name: str,
    perspective: Callable,
    witness: Callable,
    reward: Callable,
    *,
    f0: float,
    slope: float,
):
    """A divergence from its three formulas, `f0 = f(0)` and `slope = f'(inf)` saying what disjoint
    supports cost."""

    def extended(log_p: Array, log_q: Array) -> Array:
        dtype = jnp.promote_types(
            jnp.result_type(log_p, log_q), jnp.float32
        )  # half precision would lose the difference
        log_p, log_q = jnp.broadcast_arrays(jnp.asarray(log_p, dtype), jnp.asarray(log_q, dtype))
        no_p, no_q = jnp.isneginf(log_p), jnp.isneginf(log_q)
        inner_p, inner_q = (jnp.where(no_p | no_q, 0.0, x) for x in (log_p, log_q))
        value = perspective(inner_p, inner_q)
        value = jnp.where(no_p, _edge(f0, jnp.where(no_q, 0.0, log_q)), value)
        value = jnp.where(no_q, _edge(slope, jnp.where(no_p, 0.0, log_p)), value)
        return jnp.where(no_p & no_q, 0.0, value)

    def real(function: Callable) -> Callable:
        return lambda s: function(
            jnp.asarray(s, jnp.promote_types(jnp.result_type(s), jnp.float32))
        )

    return Divergence(name, extended, real(witness), real(reward))


def swapped(d: Divergence, name: str | None = None) -> Divergence:
    """The divergence with its arguments exchanged, `D(q||p)`: witness*(s) = -reward(-s) and
    reward*(s) = -witness(-s)."""
    return Divergence(
        name or f"swapped {d.name}",
        lambda log_p, log_q: d.perspective(log_q, log_p),
        lambda s: -d.reward(-s),
        lambda s: -d.witness(-s),
    )


# --- the members ----------------------------------------------------------------------------------


def _spelled(name: str, parameter: float) -> str:
    """`alpha:0.5`: the name that gives this very member when it is parsed."""
    short = f"{parameter:g}"
    return f"{name}:{short if float(short) == parameter else repr(float(parameter))}"


def forward_kl() -> Divergence:
    return member(
        "forward_kl",
        lambda lp, lq: _exp(lp) * (lp - lq) - _exp(lp) + _exp(lq),
        lambda s: s,
        lambda s: _expm1(s),
        f0=1.0,
        slope=INF,
    )


def reverse_kl() -> Divergence:
    return member(
        "reverse_kl",
        lambda lp, lq: _exp(lq) * (lq - lp) - _exp(lq) + _exp(lp),
        lambda s: -_expm1(-s),
        lambda s: s,
        f0=INF,
        slope=1.0,
    )


def js() -> Divergence:
    return member(
        "js",
        lambda lp, lq: (
            0.5 * (_exp(lp) * (LOG2 - softplus(lq - lp)) + _exp(lq) * (LOG2 - softplus(lp - lq)))
        ),
        lambda s: 0.5 * (LOG2 - softplus(-s)),
        lambda s: 0.5 * (softplus(s) - LOG2),
        f0=0.5 * LOG2,
        slope=0.5 * LOG2,
    )


def _mixture(w: float) -> tuple[Callable, Callable]:
    """log(m) and log(u / m) as functions of s, m = w u + 1 - w being the mixture w p + (1-w) q over
    q."""
    inside, outside = math.log(w), math.log1p(-w)
    return lambda s: jnp.logaddexp(
        inside + s, outside
    ), lambda s: -jnp.logaddexp(inside, outside - s)


def gjs(b: float) -> Divergence:
    log_m, log_u_m = _mixture(b)
    return member(
        _spelled("gjs", b),
        lambda lp, lq: b * _exp(lp) * log_u_m(lp - lq) - (1 - b) * _exp(lq) * log_m(lp - lq),
        lambda s: b * log_u_m(s),
        lambda s: (1 - b) * log_m(s),
        f0=-(1 - b) * math.log1p(-b),
        slope=-b * math.log(b),
    )


def skew_kl(l: float) -> Divergence:
    log_m, log_u_m = _mixture(l)
    return member(
        _spelled("skew_kl", l),
        lambda lp, lq: _exp(lp) * log_u_m(lp - lq) - (1 - l) * (_exp(lp) - _exp(lq)),
        lambda s: log_u_m(s) + (1 - l) * _expm1(-log_m(s)),
        lambda s: (1 - l) * _expm1(log_u_m(s)),
        f0=1 - l,
        slope=-math.log(l) - (1 - l),
    )


def skew_reverse_kl(l: float) -> Divergence:
    return swapped(skew_kl(l), _spelled("skew_reverse_kl", l))


def hellinger2() -> Divergence:
    return member(
        "hellinger2",
        lambda lp, lq: (_exp(lp / 2) - _exp(lq / 2)) ** 2,
        lambda s: -_expm1(-s / 2),
        lambda s: _expm1(s / 2),
        f0=1.0,
        slope=1.0,
    )


def tv() -> Divergence:
    half_sign = lambda s: 0.5 * jnp.sign(s)  # 0 at the kink, which jnp.abs would not give
    half_size = lambda x: x * half_sign(x)
    return member(
        "tv", lambda lp, lq: half_size(_exp(lp) - _exp(lq)), half_sign, half_sign, f0=0.5, slope=0.5
    )


def pearson_chi2() -> Divergence:
    return member(
        "pearson_chi2",
        lambda lp, lq: _mass_times_expm1(lp, 1.0, lp - lq) - (_exp(lp) - _exp(lq)),
        lambda s: 2 * _expm1(s),
        lambda s: _expm1(2 * s),
        f0=1.0,
        slope=INF,
    )


def neyman_chi2() -> Divergence:
    return swapped(pearson_chi2(), "neyman_chi2")


def jeffreys() -> Divergence:
    return member(
        "jeffreys",
        lambda lp, lq: (_exp(lp) - _exp(lq)) * (lp - lq),
        lambda s: s - _expm1(-s),
        lambda s: s + _expm1(s),
        f0=INF,
        slope=INF,
    )


def alpha(a: float) -> Divergence:
    scaled = lambda c: lambda s: s if c == 0 else _expm1(c * s) / c

    def perspective(lp, lq):
        # (u^a - a u - (1-a)) / (a (a-1)) about whichever of a = 0, 1 is nearer: both limits are
        # exact
        if a >= 0.5:
            return (_mass_times_expm1(lp, a - 1, lp - lq) - (_exp(lp) - _exp(lq))) / a
        return (_mass_times_expm1(lq, a, lp - lq) - (_exp(lp) - _exp(lq))) / (a - 1)

    f0, slope = (1 / a if a > 0 else INF), (1 / (1 - a) if a < 1 else INF)
    return member(_spelled("alpha", a), perspective, scaled(a - 1), scaled(a), f0=f0, slope=slope)


def log_d() -> Divergence:
    return member(
        "log_d",
        lambda lp, lq: (
            (_exp(lp) + _exp(lq)) * softplus(lq - lp)
            - 2 * LOG2 * _exp(lq)
            - (LOG2 - 1) * (_exp(lp) - _exp(lq))
        ),
        lambda s: softplus(-s) - _expm1(-s) - LOG2,
        lambda s: log_sigmoid(s) + LOG2,
        f0=INF,
        slope=1 - LOG2,
    )


# --- a user's own f -------------------------------------------------------------------------------


def from_generator(f: Callable[[Array], Array], name: str = "custom") -> Divergence:
    """A full member from a convex `f(u)` on u > 0 (elementwise, in jax.numpy), by automatic
    differentiation.

    `f` is normalised first: f(u) - f(1) - f'(1)(u - 1). In float32 the log-ratio is followed up to
    |s| = 40 and held constant beyond (float64: 320). Raises `UsageError` naming the point u where
    `f` is not finite or not convex."""
    derivative = lambda u: jax.jvp(f, (u,), (jnp.ones_like(u),))[1]
    with jax.enable_x64(True):
        _refuse_unless_convex(f, derivative, name)
        one = jnp.ones(())
        f1, df1 = (
            float(f(one)),
            float(derivative(one - 1e-7) + derivative(one + 1e-7)) / 2,
        )  # the middle slope of a kink
        normal = lambda u: f(u) - f1 - df1 * (u - 1)
        f0 = _limit([float(normal(jnp.asarray(u))) for u in (1e-100, 1e-200, 1e-300)])
        slope = _limit([float(derivative(jnp.asarray(u))) - df1 for u in (1e100, 1e200, 1e300)])

    def ratio(s: Array) -> Array:
        most = 0.45 * math.log(float(jnp.finfo(s.dtype).max))  # leaves room for f(u) ~ u^2
        return jnp.exp(jnp.clip(s, -most, most))

    def reward(s: Array) -> Array:
        u = ratio(s)
        return u * (derivative(u) - df1) - normal(u)

    perspective = lambda lp, lq: jnp.exp(lq) * normal(ratio(lp - lq))
    return member(
        name, perspective, lambda s: derivative(ratio(s)) - df1, reward, f0=f0, slope=slope
    )


def _limit(values: list[float]) -> float:
    """The limit that values at ever more extreme points tend to: infinite if they still move."""
    settled = math.isfinite(values[-1]) and abs(values[-1] - values[-2]) <= 1e-6 * (
        1 + abs(values[-1])
    )
    return values[-1] if settled else INF


def _refuse_unless_convex(f: Callable, derivative: Callable, name: str) -> None:
    """Each tangent must stay below f at the neighbouring points of a log-spaced grid over u in
    [e^-20, e^20]."""
    u = np.exp(np.linspace(-20, 20, 4001))
    value, slope = (np.asarray(g(jnp.asarray(u)), np.float64) for g in (f, derivative))
    fix = "Give a convex f on u > 0, elementwise and in jax.numpy."
    unsound = ~(np.isfinite(value) & np.isfinite(slope))
    if unsound.any():
        raise UsageError(
            f"generator {name}",
            f"f({u[unsound][0]:.6g})",
            "f or its derivative is not finite there.",
            fix,
        )
    step = np.diff(u)
    scale = 1e-9 * (
        1
        + np.abs(value[:-1])
        + np.abs(value[1:])
        + (np.abs(slope[:-1]) + np.abs(slope[1:])) * u[1:]
    )
    above = np.diff(value) < slope[:-1] * step - scale
    below = np.diff(value) > slope[1:] * step + scale
    if (above | below).any():
        at = u[:-1][above | below]
        worst = at[np.argmin(np.abs(np.log(at)))]
        raise UsageError(
            f"generator {name}",
            f"u = {worst:.6g}",
            "f is not convex there: it falls below its own tangent.",
            fix,
        )
    tangent_at_one = value[2000] + 0.5 * (slope[1999] + slope[2001]) * (u - 1)
    if min((value - tangent_at_one)[1900], (value - tangent_at_one)[2100]) < 1e-9:
        raise UsageError(
            f"generator {name}",
            "u = 1",
            "f is straight around 1, so it tells no two laws apart.",
            fix,
        )


# --- cards, the registry and its parser -----------------------------------------------------------


class Card(NamedTuple):
    """What to know of a member: `f` before normalising, where it comes from, who else calls it
    what."""

    formula: str
    source: str
    names: str


class Entry(NamedTuple):
    """A line of the family: how to build the member, what its parameter must satisfy (None: it has
    none), its card."""

    build: Callable[..., Divergence]
    card: Card
    parameter: str | None = None
    accepts: Callable[[float], bool] = math.isfinite
    example: str = ""
    also: tuple[str, ...] = ()  # other parameters at which every run is measured


def _weighted(build: Callable, name: str, card: Card, also: tuple[str, ...] = ()) -> Entry:
    """A member whose parameter is the weight of a mixture."""
    return Entry(
        build,
        card,
        f"a weight strictly between 0 and 1, {LIGHTEST:g} from both at least",
        lambda w: LIGHTEST <= w <= 1 - LIGHTEST,
        f"{name}:0.1",
        also,
    )


FAMILY: dict[str, Entry] = {
    "forward_kl": Entry(
        forward_kl,
        Card(
            "u log u",
            "Kullback & Leibler 1951",
            "SFT and behaviour cloning offline; M-projection; mode-covering KL",
        ),
    ),
    "reverse_kl": Entry(
        reverse_kl,
        Card(
            "-log u",
            "Kullback & Leibler 1951",
            "RL with entropy, AIRL, f-MAX-RKL; I-projection; mode-seeking KL",
        ),
    ),
    "js": Entry(
        js,
        Card(
            "(u log u - (u+1) log((u+1)/2)) / 2",
            "Lin 1991",
            "GAIL (-log(1-D) up to scale and constant); half-weighted, in [0, log 2]",
        ),
    ),
    "gjs": _weighted(
        gjs,
        "gjs",
        Card(
            "b u log(u/m) - (1-b) log m, m = b u + 1-b",
            "Agarwal et al. 2023 (GKD, arXiv 2306.13649)",
            "generalised or skew JS; gjs:0.5 = js",
        ),
        also=("0.9",),
    ),
    "skew_kl": _weighted(
        skew_kl,
        "skew_kl",
        Card(
            "u log(u/m), m = l u + 1-l",
            "Lee 1999; Ko et al. 2024 (DistiLLM, arXiv 2402.03898)",
            "KL(p || l p + (1-l) q)",
        ),
    ),
    "skew_reverse_kl": _weighted(
        skew_reverse_kl,
        "skew_reverse_kl",
        Card(
            "-log(l + (1-l) u)",
            "Ko et al. 2024 (DistiLLM, arXiv 2402.03898)",
            "KL(q || l q + (1-l) p)",
        ),
    ),
    "hellinger2": Entry(
        hellinger2,
        Card("(sqrt u - 1)^2", "Hellinger 1909", "squared Hellinger, in [0, 2]; half of alpha:0.5"),
    ),
    "tv": Entry(
        tv,
        Card(
            "|u - 1| / 2",
            "Jordan 1881",
            "total variation, in [0, 1]; the best success of any test, doubled, less one",
        ),
    ),
    "pearson_chi2": Entry(
        pearson_chi2,
        Card("(u - 1)^2", "Pearson 1900; Mao et al. 2017 (LSGAN)", "chi-square; twice alpha:2"),
    ),
    "neyman_chi2": Entry(
        neyman_chi2, Card("(1 - u)^2 / u", "Neyman 1949", "reverse chi-square; twice alpha:-1")
    ),
    "jeffreys": Entry(
        jeffreys, Card("(u - 1) log u", "Jeffreys 1946", "forward_kl + reverse_kl, symmetric KL")
    ),
    "alpha": Entry(
        alpha,
        Card(
            "(u^a - a u - (1-a)) / (a (a-1))",
            "Cichocki & Amari 2010",
            (
                "alpha-IRL; a = 1 forward_kl, 0 reverse_kl, 2 pearson/2, -1 neyman/2, 1/2 = 2 "
                "hellinger2"
            ),
        ),
        f"a real number from -{STEEPEST:g} to {STEEPEST:g}",
        lambda a: abs(a) <= STEEPEST,
        "alpha:0.5",
    ),
    "log_d": Entry(
        log_d,
        Card(
            "(1+u) log((1+u)/u)",
            "computed here from the reward log D",
            "what several codes call GAIL; reverse_kl - 2 js",
        ),
    ),
}


def every() -> dict[str, Divergence]:
    """A member for each line of the family, by the name that `parse` takes; at its example
    parameter where it has one."""
    return {name: parse(name) for name in (entry.example or name for name, entry in FAMILY.items())}


def logged() -> tuple[str, ...]:
    """By what every run is measured: each line of the family, a user's own among them, at its
    example parameter where it has one, and at those that the line names."""
    named = {name: entry for name, entry in FAMILY.items() if entry.example or not entry.parameter}
    return tuple(
        spec
        for name, entry in named.items()
        for spec in (entry.example or name, *(f"{name}:{value}" for value in entry.also))
    )


def parse(spec: str) -> Divergence:
    """`"js"`, `"gjs:0.1"`, `"alpha:0.5"` -> the member. Raises `UsageError` with the nearest names,
    or the range wanted."""
    entry, parameter = lookup(spec)
    return entry.build() if entry.parameter is None else entry.build(parameter)


def lookup(spec: str) -> tuple[Entry, float | None]:
    """The family's entry for a name and the parameter written after the colon, checked."""
    name, colon, text = spec.strip().partition(":")
    name = name.lower().replace("-", "_")
    if name not in FAMILY:
        near = difflib.get_close_matches(name, FAMILY, n=3, cutoff=0.4) or sorted(FAMILY)
        raise UsageError(
            "divergence",
            spec,
            "there is no divergence of that name.",
            f"The nearest: {', '.join(near)}.",
        )
    entry = FAMILY[name]
    if entry.parameter is None:
        if colon:
            raise UsageError("divergence", spec, f"{name} takes no parameter.", f"Write {name}.")
        return entry, None
    try:
        parameter = float(text)
    except ValueError:
        parameter = math.nan
    if not (math.isfinite(parameter) and entry.accepts(parameter)):
        raise UsageError(
            "divergence",
            spec,
            f"{name} takes {entry.parameter}.",
            f"Write, for instance, {entry.example}.",
        )
    return entry, parameter


def card(spec: str) -> Card:
    """The card of a member, by the name that `parse` takes."""
    return lookup(spec)[0].card
