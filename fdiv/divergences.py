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

import jax.numpy as jnp
from jax import Array
from jax.nn import log_sigmoid, softplus

from fdiv.generators import from_generator
from fdiv.log_space import (
    INF,
    deficit,
    excess,
    exp,
    expm1,
    mass_times_expm1,
    member,
    nearby,
)
from fdiv.types import Divergence, UsageError

__all__ = ["FAMILY", "Card", "Entry", "from_generator", "member", "parse", "swapped"]
LOG2 = math.log(2.0)
NEAR = 1.0  # |s| up to which a member is written with `excess`
FAR = 40.0  # |s| up to which e^s has room in single precision for what is made of it
STEEPEST = 64.0  # |a| of alpha: e^{a s} leaves single precision at s = 88 / a
LIGHTEST = 1e-6  # weight of a mixture, which single precision still tells from none


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
    def perspective(lp, lq):
        far = lambda s: exp(lp) * s - exp(lp) + exp(lq)
        return nearby(lp - lq, NEAR, lambda s: exp(lp) * excess(-s), far)

    return member("forward_kl", perspective, lambda s: s, lambda s: expm1(s), f0=1.0, slope=INF)


def reverse_kl() -> Divergence:
    def perspective(lp, lq):
        far = lambda s: exp(lq) * -s - exp(lq) + exp(lp)
        return nearby(lp - lq, NEAR, lambda s: exp(lq) * excess(s), far)

    return member("reverse_kl", perspective, lambda s: -expm1(-s), lambda s: s, f0=INF, slope=1.0)


def _js_perspective(lp: Array, lq: Array) -> Array:
    return _gjs_perspective(0.5, lp, lq)


def js() -> Divergence:
    return member(
        "js",
        _js_perspective,
        lambda s: 0.5 * (LOG2 - softplus(-s)),
        lambda s: 0.5 * (softplus(s) - LOG2),
        f0=0.5 * LOG2,
        slope=0.5 * LOG2,
    )


def _mixture(w: float) -> tuple[Callable, Callable]:
    """log(m) and log(u / m) as functions of s, m = w u + 1 - w being the mixture w p + (1-w) q over
    q. Both are of first order in s, and a weight near 0 or 1 makes them smaller still."""
    inside, outside = math.log(w), math.log1p(-w)

    def log_m(s):
        near = lambda s: jnp.log1p(w * jnp.expm1(s))
        return nearby(s, FAR, near, lambda s: jnp.logaddexp(inside + s, outside))

    def log_u_m(s):
        near = lambda s: -jnp.log1p((1 - w) * jnp.expm1(-s))
        return nearby(s, FAR, near, lambda s: -jnp.logaddexp(inside, outside - s))

    return log_m, log_u_m


def _gjs_perspective(b: float, lp: Array, lq: Array) -> Array:
    """b p log(p / m) + (1-b) q log(q / m), m = b p + (1-b) q. As p - m = (1-b) (p - q) and
    q - m = b (q - p), what both terms have of first order cancels; it is left out of each."""
    log_m, log_u_m = _mixture(b)

    def near(s):
        of_p, of_q = deficit((1 - b) * jnp.expm1(-s)), deficit(b * jnp.expm1(s))
        return b * exp(lp) * of_p + (1 - b) * exp(lq) * of_q

    far = lambda s: b * exp(lp) * log_u_m(s) - (1 - b) * exp(lq) * log_m(s)
    return nearby(lp - lq, FAR, near, far)


def gjs(b: float) -> Divergence:
    log_m, log_u_m = _mixture(b)
    return member(
        _spelled("gjs", b),
        lambda lp, lq: _gjs_perspective(b, lp, lq),
        lambda s: b * log_u_m(s),
        lambda s: (1 - b) * log_m(s),
        f0=-(1 - b) * math.log1p(-b),
        slope=-b * math.log(b),
    )


def skew_kl(l: float) -> Divergence:
    """With z = m / u - 1 = (1-l) (1/u - 1): f = u (z - log(1 + z)), and with w = u / m - 1:
    f' = (1-l) w - (w - log(1 + w)), u f' - f = (1-l) w."""
    _, log_u_m = _mixture(l)

    def perspective(lp, lq):
        near = lambda s: exp(lp) * deficit((1 - l) * jnp.expm1(-s))
        far = lambda s: exp(lp) * log_u_m(s) - (1 - l) * (exp(lp) - exp(lq))
        return nearby(lp - lq, FAR, near, far)

    def witness(s):
        near = lambda x: (1 - l) * expm1(x) - deficit(expm1(x))
        return nearby(log_u_m(s), NEAR, near, lambda x: x - l * expm1(x))

    return member(
        _spelled("skew_kl", l),
        perspective,
        witness,
        lambda s: (1 - l) * expm1(log_u_m(s)),
        f0=1 - l,
        slope=-math.log(l) - (1 - l),
    )


def skew_reverse_kl(l: float) -> Divergence:
    return swapped(skew_kl(l), _spelled("skew_reverse_kl", l))


def hellinger2() -> Divergence:
    def perspective(lp, lq):
        far = lambda s: (exp(lp / 2) - exp(lq / 2)) ** 2
        return nearby(lp - lq, NEAR, lambda s: exp(lq) * expm1(s / 2) ** 2, far)

    return member(
        "hellinger2",
        perspective,
        lambda s: -expm1(-s / 2),
        lambda s: expm1(s / 2),
        f0=1.0,
        slope=1.0,
    )


def tv() -> Divergence:
    half_sign = lambda s: 0.5 * jnp.sign(s)  # 0 at the kink, which jnp.abs would not give
    half_size = lambda x: x * half_sign(x)

    def perspective(lp, lq):
        far = lambda s: half_size(exp(lp) - exp(lq))
        return nearby(lp - lq, NEAR, lambda s: half_size(exp(lq) * expm1(s)), far)

    return member("tv", perspective, half_sign, half_sign, f0=0.5, slope=0.5)


def pearson_chi2() -> Divergence:
    def perspective(lp, lq):
        far = lambda s: mass_times_expm1(lp, 1.0, s) - (exp(lp) - exp(lq))
        return nearby(lp - lq, NEAR, lambda s: exp(lq) * expm1(s) ** 2, far)

    return member(
        "pearson_chi2",
        perspective,
        lambda s: 2 * expm1(s),
        lambda s: expm1(2 * s),
        f0=1.0,
        slope=INF,
    )


def neyman_chi2() -> Divergence:
    return swapped(pearson_chi2(), "neyman_chi2")


def jeffreys() -> Divergence:
    def perspective(lp, lq):
        far = lambda s: (exp(lp) - exp(lq)) * s
        return nearby(lp - lq, NEAR, lambda s: exp(lq) * expm1(s) * s, far)

    return member(
        "jeffreys",
        perspective,
        lambda s: s - expm1(-s),
        lambda s: s + expm1(s),
        f0=INF,
        slope=INF,
    )


def alpha(a: float) -> Divergence:
    scaled = lambda c: lambda s: s if c == 0 else expm1(c * s) / c
    beyond = lambda c: lambda s: 0.0 if c == 0 else excess(c * s) / c  # that less s

    def perspective(lp, lq):
        # (u^a - a u - (1-a)) / (a (a-1)) about whichever of a = 0, 1 is nearer: both limits are
        # exact
        if a >= 0.5:
            near = lambda s: exp(lp) * (excess(-s) + beyond(a - 1)(s)) / a
            far = lambda s: (mass_times_expm1(lp, a - 1, s) - (exp(lp) - exp(lq))) / a
        else:
            near = lambda s: exp(lq) * (excess(s) - beyond(a)(s)) / (1 - a)
            far = lambda s: (mass_times_expm1(lq, a, s) - (exp(lp) - exp(lq))) / (a - 1)
        return nearby(lp - lq, NEAR / max(1.0, abs(a)), near, far)

    f0, slope = (1 / a if a > 0 else INF), (1 / (1 - a) if a < 1 else INF)
    return member(_spelled("alpha", a), perspective, scaled(a - 1), scaled(a), f0=f0, slope=slope)


def log_d() -> Divergence:
    def perspective(lp, lq):
        def far(s):
            both = (exp(lp) + exp(lq)) * softplus(-s)
            return both - 2 * LOG2 * exp(lq) - (LOG2 - 1) * (exp(lp) - exp(lq))

        near = lambda s: exp(lq) * excess(s) - 2 * _js_perspective(lp, lq)
        return nearby(lp - lq, NEAR, near, far)

    return member(
        "log_d",
        perspective,
        lambda s: softplus(-s) - expm1(-s) - LOG2,
        lambda s: log_sigmoid(s) + LOG2,
        f0=INF,
        slope=1 - LOG2,
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
