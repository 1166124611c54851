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
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import log_sigmoid, sigmoid, softplus
from jax.scipy.special import spence

from fdiv.generators import from_generator, from_reward
from fdiv.log_space import (
    INF,
    deficit,
    excess,
    exp,
    expm1,
    mass_times_expm1,
    mean_to,
    member,
    nearby,
)
from fdiv.types import Divergence, UsageError

__all__ = [
    "FAMILY",
    "Card",
    "Entry",
    "from_generator",
    "from_reward",
    "member",
    "over_vocabulary",
    "parse",
    "swapped",
    "total",
]
LOG2 = math.log(2.0)
NEAR = 1.0  # |s| up to which a member is written with `excess`
FAR = 40.0  # |s| up to which e^s has room in single precision for what is made of it
STEEPEST = 64.0  # |a| of alpha: e^{a s} leaves single precision at s = 88 / a
LIGHTEST = 1e-6  # weight of a mixture, which single precision still tells from none
HEAVIEST = 1e6  # weight of a term of a sum


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
    parameter += 0.0  # -0 is 0
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


def total(name: str, terms: Sequence[tuple[float, Divergence]]) -> Divergence:
    """The sum of members by positive weights: f, witness and reward are the sums of theirs."""

    def added(pick: Callable[[Divergence], Callable]) -> Callable:
        def sum_of(*arguments: Array) -> Array:
            first, *others = (w * pick(d)(*arguments) for w, d in terms)
            return sum(others, first)

        return sum_of

    return Divergence(
        name, added(lambda d: d.perspective), added(lambda d: d.witness), added(lambda d: d.reward)
    )


def symmetric_chi2() -> Divergence:
    return total("symmetric_chi2", [(1.0, pearson_chi2()), (1.0, neyman_chi2())])


def tsallis(a: float) -> Divergence:
    return total(_spelled("tsallis", a), [(a, alpha(a))])


def refuse_steps(d: Divergence) -> None:
    """Raise `UsageError` for a member whose witness rises in steps, as tv's does: what is learned
    by differentiating the witness would not see them."""
    with jax.ensure_compile_time_eval():  # numbers, in the middle of a trace too
        s = jnp.linspace(-4.0, 4.0, 1025)
        values, slopes = jax.vmap(jax.value_and_grad(lambda x: d.witness(x)))(s)
        rise, size = jnp.diff(values), jnp.abs(values[1:]) + jnp.abs(values[:-1])
        unseen = rise - (slopes[1:] + slopes[:-1]) / 2 * jnp.diff(s)
        # of a cell that rises by more than rounding, short of what single precision has room for:
        # e^{64 s} leaves 2 % of it to its curvature
        steps = (rise > 1e-4 * size) & (unseen > 0.1 * rise) & (size < 1e30)
        stepped = bool(jnp.any(steps))
    if stepped:
        problem = "its witness rises in steps, of which a gradient sees nothing."
        fix = "Use a divergence without a kink, such as js, or another loss."
        raise UsageError("divergence", d.name, problem, fix)


def le_cam() -> Divergence:
    """With h = (u - 1) / (u + 1) = tanh(s/2): f = (u - 1) h / 2, f' = h (2 - h) / 2."""
    h = lambda s: jnp.tanh(s / 2)

    def perspective(lp, lq):
        far = lambda s: 0.5 * (exp(lp) - exp(lq)) * h(s)
        return nearby(lp - lq, NEAR, lambda s: 0.5 * exp(lq) * expm1(s) * h(s), far)

    return member(
        "le_cam",
        perspective,
        lambda s: 0.5 * h(s) * (2 - h(s)),
        lambda s: 0.5 * h(s) * (2 + h(s)),
        f0=0.5,
        slope=0.5,
    )


@jax.custom_jvp
def _lost(s: Array) -> Array:
    """A(s) = -integral from 0 to s of x / (1 + e^x), never positive: what todi's f lacks of
    Jeffreys', over u. Li2(-x) is spence(1 + x)."""
    below = lambda s: s * softplus(s) - s**2 / 2 + spence(1 + jnp.exp(s)) + math.pi**2 / 12
    above = lambda s: s * softplus(-s) - math.pi**2 / 12 - spence(1 + jnp.exp(-s))
    far = lambda s: jnp.where(s < 0, below(jnp.minimum(s, 0.0)), above(jnp.maximum(s, 0.0)))
    return nearby(s, NEAR, lambda s: -s * mean_to(s, lambda x: x * sigmoid(-x)), far)


_lost.defjvp(
    lambda primals, tangents: (_lost(*primals), -primals[0] * sigmoid(-primals[0]) * tangents[0])
)


def todi() -> Divergence:
    """The f whose gradient is that of sigmoid(s) u log u - sigmoid(-s) log u, weights held fixed:
    reward e^s - 1 + s / (1 + u), f = (u - 1) log u + u A."""

    def perspective(lp, lq):
        near = lambda s: exp(lq) * (expm1(s) * s + exp(s) * _lost(s))
        far = lambda s: (exp(lp) - exp(lq)) * s + exp(lp) * _lost(s)
        return nearby(lp - lq, NEAR, near, far)

    return member(
        "todi",
        perspective,
        lambda s: s * sigmoid(s) - expm1(-s) + _lost(s),
        lambda s: expm1(s) + s * sigmoid(-s),
        f0=INF,
        slope=INF,
    )


def dail() -> Divergence:
    """The f whose reward is sigmoid(s) (1 + tanh s) / 2, less its value 1/4 at s = 0.

    f = u B - (u - 1) / 4, B(s) the integral of e^{-x} times that reward from 0 to s."""
    half = lambda s: jnp.tanh(s / 2)

    def reward(s):
        return 0.5 * half(s) * sigmoid(2 * s) + 0.25 * jnp.tanh(s)

    def logs(s):  # log(2 / (1 + u)) / 2 + log((1 + u^2) / 2) / 4
        near = lambda s: 0.25 * jnp.log1p(jnp.expm1(2 * s) / 2) - 0.5 * jnp.log1p(jnp.expm1(s) / 2)
        far = lambda s: 0.25 * (LOG2 + softplus(-2 * jnp.abs(s))) - 0.5 * softplus(-jnp.abs(s))
        return nearby(s, NEAR, near, far)

    b = lambda s: logs(s) + 0.5 * jnp.arctan(half(s))

    def perspective(lp, lq):
        near = lambda s: exp(lq) * s * mean_to(s, lambda x: jnp.exp(s - x) * reward(x))
        far = lambda s: exp(lp) * b(s) - 0.25 * (exp(lp) - exp(lq))
        return nearby(lp - lq, NEAR / 2, near, far)

    def witness(s):  # B + e^{-s} (1/4 + reward) - 1/4, and e^{-s} sigmoid(s) = sigmoid(-s)
        return b(s) + 0.25 * (jnp.tanh(s) - half(s) - half(s) * jnp.tanh(s))

    slope = 0.25 * LOG2 + math.pi / 8 - 0.25
    return member("dail", perspective, witness, reward, f0=0.25, slope=slope)


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
    # whether every run is measured by it, and figures and the gradient card compare with it
    standard: bool = True


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
    "le_cam": Entry(
        le_cam,
        Card(
            "(u - 1)^2 / (2 (u + 1))",
            "Vincze 1981; Le Cam 1986",
            "triangular discrimination, in [0, 1]; half of the sum of (p - q)^2 / (p + q)",
        ),
        standard=False,
    ),
    "symmetric_chi2": Entry(
        symmetric_chi2,
        Card(
            "(u - 1)^2 (u + 1) / u",
            "Dragomir, Sunde & Buse 2000",
            "pearson_chi2 + neyman_chi2",
        ),
        standard=False,
    ),
    "todi": Entry(
        todi,
        Card(
            "(u - 1) log u - u times the integral of log v / (v (1 + v)) from 1 to u",
            "computed here from the gradient of ToDi's loss (Jung et al. 2025, arXiv 2505.16297)",
            "ToDi: sigmoid(s) forward KL + sigmoid(-s) reverse KL of each token, weights held "
            "fixed; the value of that loss is jeffreys, its gradient this f's",
        ),
        standard=False,
    ),
    "dail": Entry(
        dail,
        Card(
            "u (log((1+u^2)/2)/4 - log((1+u)/2)/2 + arctan((u-1)/(u+1))/2) - (u-1)/4",
            "computed here from the reward of DAIL (arXiv 2510.00922)",
            "DAIL, reward sigmoid(s) (1 + tanh s) / 2, found by search and said to be of no f; it "
            "is of this one: f(0) = 1/4, bounded",
        ),
        standard=False,
    ),
    "tsallis": Entry(
        tsallis,
        Card(
            "(u^a - a u - (1-a)) / (a - 1)",
            "Tsallis 1998",
            "Tsallis relative entropy of order a, a times alpha:a: the same direction",
        ),
        f"an order from {LIGHTEST:g} to {STEEPEST:g}",
        lambda a: LIGHTEST <= a <= STEEPEST,
        "tsallis:0.5",
        standard=False,
    ),
    "renyi": Entry(
        alpha,  # under its name: the values measured are alpha's
        Card(
            "none: log(1 + a (a-1) D) / (a-1) of D = alpha:a",
            "Renyi 1961",
            "no f-divergence but an increasing function of one: it is trained and measured as "
            "alpha:a, whose gradient its own is times 1 / (1/a + (a-1) D)",
        ),
        f"an order from {LIGHTEST:g} to {STEEPEST:g}",
        lambda a: LIGHTEST <= a <= STEEPEST,
        "renyi:0.5",
        standard=False,
    ),
}


SUM, AMOUNT = "mix", re.compile(r"[0-9.]+(e[+-]?[0-9]+)?$", re.IGNORECASE)
KNOWN_SUMS: dict[tuple[str, ...], str] = {  # sorted terms -> who uses it
    ("0.5*neyman_chi2", "reverse_kl"): "chi-PO (Huang et al. 2024, arXiv 2407.13399)",
    ("forward_kl", "reverse_kl"): "jeffreys",
    ("neyman_chi2", "pearson_chi2"): "symmetric_chi2",
}


def every() -> dict[str, Divergence]:
    """A member for each standard line of the family, by the name that `parse` takes; at its example
    parameter where it has one."""
    named = {name: entry for name, entry in FAMILY.items() if entry.standard}
    return {name: parse(name) for name in (entry.example or name for name, entry in named.items())}


def examples() -> tuple[str, ...]:
    """Every line of the family, by a name that `parse` takes, and a sum."""
    return (*(entry.example or name for name, entry in FAMILY.items()), CHI_PO)


CHI_PO = "mix:reverse_kl+0.5*neyman_chi2"


def logged() -> tuple[str, ...]:
    """By what every run is measured: each standard line of the family, a user's own among them, at
    its example parameter where it has one, and at those that the line names."""
    named = {
        name: entry
        for name, entry in FAMILY.items()
        if entry.standard and (entry.example or not entry.parameter)
    }
    return tuple(
        spec
        for name, entry in named.items()
        for spec in (entry.example or name, *(f"{name}:{value}" for value in entry.also))
    )


def parse(spec: str) -> Divergence:
    """`"js"`, `"gjs:0.1"`, `"mix:reverse_kl+0.5*neyman_chi2"` -> the member. Raises `UsageError`
    with the nearest names, or the range wanted, and for `ab:a,b`, which is of no f."""
    if _name_of(spec) == SUM:
        terms = _terms(spec)
        name = SUM + ":" + "+".join(_term(weight, d.name) for weight, d in terms)
        return total(name, terms)
    entry, parameter = lookup(spec)
    return entry.build() if entry.parameter is None else entry.build(parameter)


def lookup(spec: str) -> tuple[Entry, float | None]:
    """The family's entry for a name and the parameter written after the colon, checked. The entry
    of a sum is made of its terms."""
    name, colon, text = _name_of(spec), ":" in spec, spec.strip().partition(":")[2]
    if name == SUM:
        return Entry(lambda: parse(spec), _card_of_sum(_terms(spec)), standard=False), None
    if name == AB:
        _refuse_ab(spec)
    if name not in FAMILY:
        known = [*FAMILY, SUM]
        parts = [own for own in FAMILY if name and name in own.split("_")]  # kl: every kl
        near = parts or difflib.get_close_matches(name, known, n=3, cutoff=0.4) or sorted(FAMILY)
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
    """The card of a member, by the name that `over_vocabulary` takes."""
    if _name_of(spec) == AB:
        over_vocabulary(spec)
        return AB_CARD
    return lookup(spec)[0].card


def _name_of(spec: str) -> str:
    return spec.strip().partition(":")[0].strip().lower().replace("-", "_")


# --- sums -----------------------------------------------------------------------------------------


def _terms(spec: str) -> list[tuple[float, Divergence]]:
    """The weights and members of `mix:A+w*B+...`; equal members are added up."""
    text = re.sub(r"\s", "", spec.partition(":")[2])
    terms: dict[str, tuple[float, Divergence]] = {}
    for part in re.split(r"(?<![0-9.][eE])\+", text):  # not the plus of 1e+2
        amount, star, name = part.rpartition("*")
        weight = float(amount) if AMOUNT.match(amount) else math.nan if star else 1.0
        if not LIGHTEST <= weight <= HEAVIEST:
            problem = f"{part!r} has no weight from {LIGHTEST:g} to {HEAVIEST:g}."
            raise UsageError("divergence", spec, problem, f"Write, for instance, {CHI_PO}.")
        if not name or _name_of(name) == SUM:
            problem = f"{part!r} is no member to be added."
            raise UsageError("divergence", spec, problem, f"Write, for instance, {CHI_PO}.")
        try:
            d = parse(name)
        except UsageError as error:
            raise UsageError("divergence", spec, error.problem, error.fix) from error
        terms[d.name] = (weight + terms.get(d.name, (0.0, d))[0], d)
    return list(terms.values())


def _term(weight: float, name: str) -> str:
    short = f"{weight:g}"
    return name if weight == 1 else f"{short if float(short) == weight else repr(weight)}*{name}"


def _card_of_sum(terms: list[tuple[float, Divergence]]) -> Card:
    formulas = " + ".join(
        f"{'' if weight == 1 else f'{weight:g} '}({lookup(d.name)[0].card.formula})"
        for weight, d in terms
    )
    same = KNOWN_SUMS.get(tuple(sorted(_term(weight, d.name) for weight, d in terms)))
    others = "a sum of members, which is one itself: its reward is the sum of theirs"
    return Card(formulas, "f-divergences are closed under sums", same or others)


# --- what is a sum over the vocabulary and of no f ------------------------------------------------

AB = "ab"
LARGEST_POWER = 64.0
AB_FIX = "Write, for instance, ab:0.2,0.7."
AB_CARD = Card(
    "none: -1/(a b) times the sum of p^a q^b - a/(a+b) p^(a+b) - b/(a+b) q^(a+b)",
    "Cichocki, Cruces & Amari 2011; Wang et al. 2025 (ABKD, arXiv 2505.04560)",
    "alpha-beta divergence, a function of p and q and not of p/q: exact over the vocabulary alone, "
    "for distill and dagger. a + b = 1 is alpha:a; ab:a,1 is Basu's density power divergence, "
    "and PowerOPD's reward p^a - q^a has the gradient of a times it (arXiv 2606.17199)",
)


def over_vocabulary(spec: str) -> Divergence:
    """As `parse`, and `ab:a,b` too: what a sum over the vocabulary compares two laws by. Of the
    three functions that has the perspective alone; asked for the others it raises `UsageError`."""
    if _name_of(spec) != AB:
        return parse(spec)
    try:
        a, b = (float(x) for x in spec.partition(":")[2].split(","))
    except ValueError:
        raise UsageError("divergence", spec, "ab takes two powers.", AB_FIX) from None
    for power in (a, b):
        if not LIGHTEST <= power <= LARGEST_POWER:
            problem = f"a and b are from {LIGHTEST:g} to {LARGEST_POWER:g}."
            raise UsageError("divergence", spec, problem, AB_FIX)
    return alpha_beta(a, b)


def alpha_beta(a: float, b: float) -> Divergence:
    """D = sum of (a p^(a+b) + b q^(a+b) - (a+b) p^a q^b) / (a b (a+b)), each term non-negative.

    With c = a + b the term is q^c (a (e^{cs} - 1) - c (e^{as} - 1)) / (a b c), of second order in
    s, and the like in p^c; b log-laws enter through p^c and q^c, not through p / q alone."""
    c = a + b
    name = (
        f"{AB}:{a:g},{b:g}" if (float(f"{a:g}"), float(f"{b:g}")) == (a, b) else f"{AB}:{a!r},{b!r}"
    )

    def perspective(lp, lq):
        def near(s):  # (excess(c s) / c - excess(a s) / a) / b, from below
            return exp(c * lq) * (excess(c * s) / c - excess(a * s) / a) / b

        def far(s):
            mass = lambda x: jnp.exp(x)
            return (a * mass(c * lp) + b * mass(c * lq) - c * mass(a * lp + b * lq)) / (a * b * c)

        return nearby(lp - lq, NEAR / max(1.0, abs(a), abs(c)), near, far)

    plain = member(name, perspective, _no_f(name), _no_f(name), f0=1.0, slope=1.0)

    def extended(log_p: Array, log_q: Array) -> Array:
        """Where one side has no mass the other's power c is left."""
        log_p, log_q = jnp.broadcast_arrays(jnp.asarray(log_p), jnp.asarray(log_q))
        no_p, no_q = jnp.isneginf(log_p), jnp.isneginf(log_q)
        value = plain.perspective(log_p, log_q)
        value = jnp.where(no_p, jnp.exp(c * jnp.where(no_p, log_q, 0.0)) / (a * c), value)
        return jnp.where(no_q, jnp.exp(c * jnp.where(no_q, log_p, 0.0)) / (b * c), value)

    return Divergence(name, extended, _no_f(name), _no_f(name), of_ratio=False)


def _no_f(name: str) -> Callable[[Array], NoReturn]:
    return lambda s: _refuse_ab(name)


def _refuse_ab(spec: str) -> NoReturn:
    problem = (
        "the alpha-beta divergence is a function of p and q, not of p / q: it has no f, and so no "
        "reward and no witness of the log-ratio, which this needs."
    )
    fix = "Use it with distill or dagger, which sum over the vocabulary, or take alpha:a."
    raise UsageError("divergence", spec, problem, fix)
