"""A member of the family from a convex `f(u)` alone, u = p / q = e^s.

The slope t(s) = f'(e^s) and u f''(u) = dt/ds are had by automatic differentiation. From them follow
the other functions: the reward r has dr/ds = e^s dt/ds, and q f(p/q) = p t(s) - q r(s). Three
stretches of s are told apart:

    |s| <= CENTRE, double precision   f and f' as they are
    |s| <= CENTRE, single precision   tables of t, r and f, made in double precision: of the
                                      differences u f' - f single precision keeps few digits. Where
                                      f has a kink, f and f' as they are
    beyond                            dt/ds is k e^{c (s - s0)} between points two nats apart, with
                                      k and c as f has them, and goes on so past the last point

In the tails t grows as a power of u (c > 0), like log u (c = 0) or tends to a limit (c < 0): so
f'(inf) is finite where c < 0 and f(0) where 1 + c > 0 at the other end."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fdiv.log_space import INF, exp, expm1, member
from fdiv.types import Divergence, UsageError

CENTRE = 12.0  # nats on either side of u = 1 in which f itself is asked
KNOTS_PER_NAT = 64  # of the tables
STRIDE, FURTHEST = 2.0, 100.0  # nats between the points of a tail, and where the last may be
FAINT = 1e-10  # dt/ds, as a share of the largest near u = 1, below which rounding hides it
SNAP = 2e-5  # an exponent this near to 0 or -1 is one
MOST = 1e30  # of t and r at a point of a tail
AROUND = 1e-4  # |u - 1| within which f must bend

FIX = "Give a convex f on u > 0, elementwise and in jax.numpy."


class Normalised(NamedTuple):
    """f less its tangent at 1, elementwise in u."""

    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    bend: Callable[[Array], Array]  # u f''(u)


class Tail(NamedTuple):
    """dt/ds = e^{log_k + c (s - at)} from each point outwards, [n] each; `t` and `r` at the
    points."""

    at: np.ndarray
    log_k: np.ndarray  # -inf where f is straight from there on
    c: np.ndarray
    t: np.ndarray
    r: np.ndarray


class Table(NamedTuple):
    """Cubics in the place within a cell, [2 signs of s, cells, 4], of t, r and f / max(1, u)."""

    t: np.ndarray
    r: np.ndarray
    f: np.ndarray
    smooth: np.ndarray  # [2, cells] where the cubics are f's


def from_generator(f: Callable[[Array], Array], name: str = "custom") -> Divergence:
    """A full member from a convex `f(u)` on u > 0 (elementwise, in jax.numpy), by automatic
    differentiation.

    `f` is normalised first: f(u) - f(1) - f'(1)(u - 1). It is asked for u in [e^-100, e^100]; where
    it overflows before that, its tail goes on as it last did. Raises `UsageError` naming the point
    u where `f` is not finite or not convex, and the stretch around 1 on which it is straight: laws
    whose ratio stays there would have divergence 0 and not be the same."""
    # what is looked at are numbers, in the middle of a trace too
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        normal = _normalised(f, name)
        _refuse_straight(normal, name)
        lower, upper = _tail(normal, -1), _tail(normal, 1)
        table = _table(normal)
        f0, slope = _ends(lower, upper)
    t, r, f_of = _functions(normal, lower, upper, table)
    return member(name, f_of, t, r, f0=f0, slope=slope)


# --- what f must be -------------------------------------------------------------------------------


def _normalised(f: Callable, name: str) -> Normalised:
    derivative = lambda u: jax.jvp(f, (u,), (jnp.ones_like(u),))[1]
    second = lambda u: jax.jvp(derivative, (u,), (jnp.ones_like(u),))[1]
    _refuse_unless_convex(f, derivative, name)
    one = jnp.ones(())
    sides = float(derivative(one - 1e-7)), float(derivative(one + 1e-7))
    f1, df1 = float(f(one)), sum(sides) / 2  # the middle slope of a kink
    return Normalised(
        lambda u: f(u) - f1 - df1 * (u - 1), lambda u: derivative(u) - df1, lambda u: u * second(u)
    )


def _refuse_unless_convex(f: Callable, derivative: Callable, name: str) -> None:
    """Each tangent must stay below f at the neighbouring points of a log-spaced grid over u in
    [e^-20, e^20]; f may have any scale."""
    u = np.exp(np.linspace(-20, 20, 4001))
    value, slope = (np.asarray(g(jnp.asarray(u)), np.float64) for g in (f, derivative))
    unsound = ~(np.isfinite(value) & np.isfinite(slope))
    if unsound.any():
        at = f"f({u[unsound][0]:.6g})"
        raise UsageError(f"generator {name}", at, "f or its derivative is not finite there.", FIX)
    step, size = np.diff(u), np.abs(slope) * u
    rounding = 1e-9 * (np.abs(value[:-1]) + np.abs(value[1:]) + size[:-1] + size[1:])
    above = np.diff(value) < slope[:-1] * step - rounding
    below = np.diff(value) > slope[1:] * step + rounding
    if (above | below).any():
        at = u[:-1][above | below]
        worst = at[np.argmin(np.abs(np.log(at)))]
        problem = "f is not convex there: it falls below its own tangent."
        raise UsageError(f"generator {name}", f"u = {worst:.6g}", problem, FIX)


def _refuse_straight(normal: Normalised, name: str) -> None:
    """Where f' is the same on both sides of 1, laws that differ little have divergence 0."""
    slope = lambda u: np.asarray(normal.slope(jnp.asarray(u)), np.float64)
    left, right = slope(1 - AROUND), slope(1 + AROUND)
    if right - left > 1e-11 * (abs(left) + abs(right)):
        return
    u = np.exp(np.linspace(-20, 20, 4001))
    bent = np.abs(slope(u) - left) > 1e-9 * np.abs(slope(u)).max()
    low = u[:2000][bent[:2000]].max(initial=0.0)
    high = u[2001:][bent[2001:]].min(initial=INF)
    problem = (
        f"f is not strictly convex at 1 but straight from about u = {low:.3g} to {high:.3g}: laws "
        "whose ratio stays there have D = 0 and may differ."
    )
    raise UsageError(f"generator {name}", "u = 1", problem, "Give an f that bends at 1.")


# --- the tails ------------------------------------------------------------------------------------


def _tail(normal: Normalised, side: int) -> Tail:
    """Of s < 0 or s > 0, from CENTRE outwards."""
    at = lambda s: jnp.asarray(np.exp(side * np.asarray(s, np.float64)))
    bend = lambda s: np.asarray(normal.bend(at(s)), np.float64)
    points = np.arange(CENTRE, FURTHEST + STRIDE / 2, STRIDE)
    usual = np.max(np.abs(bend(np.linspace(-4, 4, 257))), initial=0.0)
    k = bend(points)
    good = np.isfinite(k) & (k > FAINT * usual)
    count = len(good) if good.all() else int(np.argmin(good))
    points, k = points[: max(count, 1)], k[: max(count, 1)]
    if count == 0:  # straight from here on, or bent by less than rounding
        k = np.zeros(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        inner = bend(np.array([CENTRE - STRIDE]))
        c = np.diff(np.log(np.concatenate([inner, k]))) / STRIDE
    c = np.where(np.isfinite(c), c, 0.0)
    c = np.concatenate([c[1:], c[-1:]])  # from each point to the next, and on from the last
    c = side * c  # in s, whichever way is outwards
    for exact in (0.0, -1.0):
        c = np.where(np.abs(c - exact) < SNAP, exact, c)
    start = jnp.asarray(np.exp(side * CENTRE))
    t, f = float(normal.slope(start)), float(normal.value(start))
    ts, rs = [t], [math.exp(side * CENTRE) * t - f]
    for i in range(len(points) - 1):  # in s, outwards: side * STRIDE
        x, own = side * STRIDE, c[i]
        ts.append(ts[-1] + k[i] * _power(own, x))
        rs.append(rs[-1] + k[i] * math.exp(side * points[i]) * _power(1 + own, x))
    with np.errstate(divide="ignore"):
        tail = Tail(side * points, np.log(k), c, np.array(ts), np.array(rs))
    # single precision has room for these; what is larger follows from the last point
    room = int(np.sum((np.abs(tail.t) < MOST) & (np.abs(tail.r) < MOST)))
    return Tail(*(x[: max(room, 1)] for x in tail))


def _power(c: float, x: float) -> float:
    """(e^{c x} - 1) / c, x at c = 0."""
    return x if c == 0 else math.expm1(c * x) / c


def _ends(lower: Tail, upper: Tail) -> tuple[float, float]:
    """f(0) and f'(inf)."""
    k, c, t, r, at = (x[-1] for x in (np.exp(lower.log_k), lower.c, lower.t, lower.r, lower.at))
    reach = 0.0 if k == 0 else k * math.exp(at) / (1 + c) if 1 + c > 0 else INF
    f0 = reach - r
    k, c, t = (x[-1] for x in (np.exp(upper.log_k), upper.c, upper.t))
    slope = t if k == 0 else t - k / c if c < 0 else INF
    return float(f0), float(slope)


def _grown(log_mass: Array, c: Array, x: Array) -> Array:
    """e^log_mass (e^{c x} - 1) / c, the limit e^log_mass x at c = 0."""
    flat = c == 0
    safe = jnp.where(flat, 1.0, c)
    small = jnp.abs(safe * x) < 1
    near = exp(log_mass) * expm1(jnp.where(small, safe * x, 0.0))
    far = exp(log_mass + jnp.where(small, 0.0, safe * x)) - exp(log_mass)
    return jnp.where(flat, exp(log_mass) * x, jnp.where(small, near, far) / safe)


def _at_tail(tail: Tail, s: Array) -> tuple[Array, ...]:
    """(at, log_k, c, t, r) of the last point before each s."""
    step = ((jnp.abs(s) - CENTRE) / STRIDE).astype(jnp.int32)
    index = jnp.clip(step, 0, len(tail.at) - 1)
    return tuple(jnp.asarray(x, s.dtype)[index] for x in tail)


def _tail_t(tail: Tail, s: Array, log_mass: Array) -> Array:
    """e^log_mass t(s)."""
    at, log_k, c, t, _ = _at_tail(tail, s)
    return exp(log_mass) * t + _grown(log_mass + log_k, c, s - at)


def _tail_r(tail: Tail, s: Array, log_mass: Array) -> Array:
    """e^log_mass r(s). The r of a point may be large where its mass is small."""
    at, log_k, c, _, r = _at_tail(tail, s)
    size = jnp.where(r == 0, 0.0, jnp.log(jnp.where(r == 0, 1.0, jnp.abs(r))))
    return jnp.sign(r) * exp(log_mass + size) + _grown(log_mass + at + log_k, 1 + c, s - at)


# --- the centre -----------------------------------------------------------------------------------


def _table(normal: Normalised) -> Table:
    cells = int(CENTRE * KNOTS_PER_NAT)
    y = np.arange(cells + 1) / KNOTS_PER_NAT
    middle = (y[:-1] + y[1:]) / 2
    built: dict[str, list[np.ndarray]] = {"t": [], "r": [], "f": []}
    smooth = []
    for side in (1, -1):
        knots, checks = _sampled(normal, side * y), _sampled(normal, side * middle)
        fits = np.ones(cells, bool)
        for name, (value, slope) in knots.items():
            cubic = _hermite(value, side * slope / KNOTS_PER_NAT)
            wanted = checks[name][0]
            error = np.abs(cubic @ (0.5 ** np.arange(4)) - wanted)
            span = np.abs(np.diff(value)) + 1e-3 * np.abs(wanted)
            fits &= error <= 1e-4 * span + 1e-300
            built[name].append(cubic)
        smooth.append(fits)
    cubics = {name: np.nan_to_num(np.stack(both)) for name, both in built.items()}
    return Table(cubics["t"], cubics["r"], cubics["f"], np.stack(smooth))


def _sampled(normal: Normalised, s: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Values and slopes in s of t, r and f / max(1, u)."""
    u = np.exp(s)
    f, t, bend = (np.asarray(g(jnp.asarray(u)), np.float64) for g in normal)
    r, above = u * t - f, s >= 0
    scaled = np.where(above, f / u, f), np.where(above, r / u, u * t)
    return {"t": (t, bend), "r": (r, u * bend), "f": scaled}


def _hermite(value: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Coefficients [cells, 4] of x in [0, 1], from values and slopes at both ends."""
    v0, v1, d0, d1 = value[:-1], value[1:], slope[:-1], slope[1:]
    rise = v1 - v0
    return np.stack([v0, d0, 3 * rise - 2 * d0 - d1, d0 + d1 - 2 * rise], axis=1)


def _looked_up(cubics: np.ndarray, s: Array) -> Array:
    sign, cell, x = _cell(s)
    a = jnp.asarray(cubics, s.dtype)[sign, cell]
    return a[..., 0] + x * (a[..., 1] + x * (a[..., 2] + x * a[..., 3]))


def _cell(s: Array) -> tuple[Array, Array, Array]:
    """Which sign and cell s is in, and where in the cell."""
    place = jnp.abs(s) * KNOTS_PER_NAT
    cell = jnp.minimum(place.astype(jnp.int32), int(CENTRE * KNOTS_PER_NAT) - 1)
    return (s < 0).astype(jnp.int32), cell, place - cell


# --- the three functions --------------------------------------------------------------------------


def _functions(normal: Normalised, lower: Tail, upper: Tail, table: Table) -> tuple:
    def split(s: Array) -> tuple[Array, Array, Array, Array]:
        """s held to the centre and to either tail, and whether it is in a tail."""
        return (
            jnp.clip(s, -CENTRE, CENTRE),
            jnp.minimum(s, -CENTRE),
            jnp.maximum(s, CENTRE),
            jnp.abs(s) > CENTRE,
        )

    def centre(cubics: np.ndarray, s: Array, direct: Callable[[Array], Array]) -> Array:
        if s.dtype == jnp.float64:
            return direct(s)
        sign, cell, _ = _cell(s)
        smooth = jnp.asarray(table.smooth)[sign, cell]
        if table.smooth.all():
            return _looked_up(cubics, s)
        return jnp.where(smooth, _looked_up(cubics, s), direct(jnp.where(smooth, 1.0, s)))

    def pieces(s: Array, inside: Array, tail: Callable) -> Array:
        _, low, high, outside = split(s)
        return jnp.where(outside, jnp.where(s < 0, tail(lower, low), tail(upper, high)), inside)

    def witness(s: Array) -> Array:
        inside = centre(table.t, split(s)[0], lambda s: normal.slope(jnp.exp(s)))
        value = pieces(s, inside, lambda tail, s: _tail_t(tail, s, jnp.zeros_like(s)))
        return jnp.where(s == 0, 0.0, value)  # at a kink too: the middle slope

    def reward(s: Array) -> Array:
        direct = lambda s: jnp.exp(s) * normal.slope(jnp.exp(s)) - normal.value(jnp.exp(s))
        inside = centre(table.r, split(s)[0], direct)
        value = pieces(s, inside, lambda tail, s: _tail_r(tail, s, jnp.zeros_like(s)))
        return jnp.where(s == 0, 0.0, value)

    def perspective(lp: Array, lq: Array) -> Array:
        s = lp - lq
        direct = lambda s: normal.value(jnp.exp(s)) * jnp.exp(-jnp.maximum(s, 0.0))
        inside = centre(table.f, split(s)[0], direct) * exp(jnp.where(s < 0, lq, lp))
        return pieces(s, inside, lambda tail, s_: _costs(tail, s_, lp, lq))

    return witness, reward, perspective


def _costs(tail: Tail, s: Array, lp: Array, lq: Array) -> Array:
    """p t(s) - q r(s); infinite where either is, with no gradient there."""
    limit = math.log(float(jnp.finfo(s.dtype).max)) - 1.2
    at, log_k, c, *_ = _at_tail(tail, s)
    large = lp + log_k + jnp.maximum(c * (s - at), 0.0) > limit
    lp, lq = jnp.where(large, -1.0, lp), jnp.where(large, -1.0, lq)
    s = jnp.where(large, jnp.sign(s) * CENTRE, s)
    return jnp.where(large, INF, _tail_t(tail, s, lp) - _tail_r(tail, s, lq))
