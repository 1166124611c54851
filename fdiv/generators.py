"""A member of the family from a convex `f(u)` alone, or from an increasing reward r(s) alone,
u = p / q = e^s.

Of f the slope t(s) = f'(e^s) and u f''(u) = dt/ds are had by automatic differentiation. From them
follow the other functions: the reward r has dr/ds = e^s dt/ds, and q f(p/q) = p t(s) - q r(s). Of a
reward with r(0) = 0

    f(u) / u = integral from 0 to s of e^{-x} r(x) dx,    t(s) = that + e^{-s} r(s),

whose integrand has the sign of s: nothing cancels on the way. Three stretches of s are told apart:

    |s| <= CENTRE, double precision   f and f' as they are, and as far as FURTHEST where they are
                                      finite. Beyond CENTRE u f' - f cancels: the reward is then the
                                      integral of e^x dt/dx, until dt/ds is FADED
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

from fdiv.log_space import INF, exp, expm1, gauss_legendre, member
from fdiv.types import Divergence, UsageError

CENTRE = 12.0  # nats on either side of u = 1 in which f itself is asked
KNOTS_PER_NAT = 64  # of the tables
STRIDE, FURTHEST = 2.0, 100.0  # nats between the points of a tail, and where the last may be
FAINT = 1e-10  # dt/ds, as a share of the largest near u = 1, below which rounding hides it
FADED = 1e-8  # the same, below which it has fewer than eight digits
SNAP = 2e-5  # an exponent this near to 0 or -1 is one
MOST = 1e30  # of t and r at a point of a tail
AROUND = 1e-4  # |u - 1| within which f must bend

CELLS_PER_NAT = 8  # of the integrals of a reward, each by Gauss-Legendre quadrature
FINEST = 2.0**-40  # nats between which a kink of a reward is looked for
REWARD_NODES, REWARD_SHARES = gauss_legendre(5)
MOST_KINKS, BLOCK = 16, 3200  # halved together, and points asked together
HUGE = 1e100  # of a reward and its integral in double precision, beyond which is the tail

FIX = "Give a convex f on u > 0, elementwise and in jax.numpy."
REWARD_FIX = "Give an increasing reward r(s) of s = log p/q, elementwise and in jax.numpy."


class Normalised(NamedTuple):
    """f less its tangent at 1, elementwise in s = log u."""

    value: Callable[[Array], Array]  # f(e^s) / max(1, e^s)
    slope: Callable[[Array], Array]  # f'(e^s)
    bend: Callable[[Array], Array]  # u f''(u)
    reward: Callable[[Array], Array]  # u f'(u) - f(u)
    # from where to where these are what they say in double precision, and the reward, where that
    # is less
    reach: tuple[float, float] = (-CENTRE, CENTRE)
    reward_reach: tuple[float, float] | None = None


class Sampled(NamedTuple):
    """The four of `Normalised` at given points, [n] each."""

    value: np.ndarray
    slope: np.ndarray
    bend: np.ndarray
    reward: np.ndarray


Sampler = Callable[[np.ndarray], Sampled]


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
    it overflows before that, its tail goes on as it last did. In double precision values and
    witness are f's own throughout, the reward to five digits where u f' and f cancel. Raises
    `UsageError` naming the point u where `f` is not finite or not convex, and the stretch around 1
    on which it is straight: laws whose ratio stays there would have divergence 0 and differ."""
    # what is looked at are numbers, in the middle of a trace too
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        normal = _normalised(f, name)
        _refuse_straight(normal, name)
        return _member(_followed(normal), name)


def from_reward(reward: Callable[[Array], Array], name: str = "custom") -> Divergence:
    """A full member from the reward `r(s)` that a policy maximises, s = log p/q (elementwise, in
    jax.numpy): of the f with f''(u) = r'(log u) / u^2.

    `r` is normalised first: r(s) - r(0). Any increasing reward has exactly one f, and one that
    decreases anywhere has none: `UsageError` names the point, as it does where r is not finite,
    jumps, or is level around s = 0. It is asked for |s| <= 100 and goes on as it last did."""
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        return _member(_from_reward(reward, name), name)


def _member(normal: Normalised, name: str) -> Divergence:
    at = _sampler(normal)
    lower, upper = _tail(at, -1, -normal.reach[0]), _tail(at, 1, normal.reach[1])
    f0, slope = _ends(lower, upper)
    t, r, f_of = _functions(normal, lower, upper, _table(at))
    return member(name, f_of, t, r, f0=f0, slope=slope)


def _sampler(normal: Normalised) -> Sampler:
    every = jax.jit(lambda s: jnp.stack([function(s) for function in normal[:4]]))
    return lambda s: Sampled(*_in_blocks(every, s))


def _in_blocks(functions: Callable[[Array], Array], s: np.ndarray) -> np.ndarray:
    """[n] -> [m, n], asked in blocks of one size, so that one program does."""
    blocks = np.split(np.pad(s, (0, -len(s) % BLOCK)), range(BLOCK, len(s), BLOCK))
    each = [np.asarray(functions(jnp.asarray(block)), np.float64) for block in blocks]
    return np.concatenate(each, axis=1)[:, : len(s)]


# --- what f must be -------------------------------------------------------------------------------


def _normalised(f: Callable, name: str) -> Normalised:
    derivative = lambda u: jax.jvp(f, (u,), (jnp.ones_like(u),))[1]
    second = lambda u: jax.jvp(derivative, (u,), (jnp.ones_like(u),))[1]
    _refuse_unless_convex(f, derivative, name)
    one = jnp.ones(())
    sides = float(derivative(one - 1e-7)), float(derivative(one + 1e-7))
    f1, df1 = float(f(one)), sum(sides) / 2  # the middle slope of a kink
    value = lambda u: f(u) - f1 - df1 * (u - 1)
    slope = lambda u: derivative(u) - df1
    of_s = lambda function: lambda s: function(jnp.exp(s))
    return Normalised(
        lambda s: value(jnp.exp(s)) * jnp.exp(-jnp.maximum(s, 0.0)),
        of_s(slope),
        of_s(lambda u: u * second(u)),
        lambda s: jnp.exp(s) * slope(jnp.exp(s)) - value(jnp.exp(s)),
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
    slope = lambda u: np.asarray(normal.slope(jnp.log(jnp.asarray(u))), np.float64)
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


# --- double precision beyond the centre -----------------------------------------------------------


def _followed(normal: Normalised) -> Normalised:
    """As far as f is finite, and with a reward that does not cancel for u > e^CENTRE."""
    s = np.arange(FURTHEST * CELLS_PER_NAT + 1) / CELLS_PER_NAT
    high, low = (_sampler(normal)(side * s) for side in (1, -1))
    sound = lambda x: np.all([np.isfinite(y) & (np.abs(y) < HUGE) for y in x[:3]], axis=0)
    ends = [_first(~sound(x)) for x in (high, low)]
    above, below = (max(CENTRE, float(s[end - 1])) for end in ends)
    start = int(CENTRE * CELLS_PER_NAT)
    usual = np.abs(high.bend[: start // 3]).max()
    bent = start + _first(high.bend[start:] <= FADED * usual)
    edges = s[start : max(start + 1, min(ends[0], bent))]
    rise = lambda x: jnp.exp(x) * normal.bend(x)
    amounts = [0.0]
    if len(edges) > 1:
        amounts += list(_quadrature(jax.jit(lambda x: rise(x)[None]), 1, edges[:-1], edges[1:])[0])
    known = Integral(edges, float(high.reward[start]) + np.cumsum(amounts))

    def reward(s: Array) -> Array:
        beyond = _up_to(rise, known, jnp.maximum(s, CENTRE))
        return jnp.where(s > CENTRE, beyond, normal.reward(jnp.minimum(s, CENTRE)))

    return normal._replace(
        reward=reward, reach=(-below, above), reward_reach=(-below, float(edges[-1]))
    )


def _first(which: np.ndarray) -> int:
    """The index of the first that is true, or how many there are."""
    return int(np.argmax(which)) if which.any() else len(which)


# --- the tails ------------------------------------------------------------------------------------


def _tail(at: Sampler, side: int, reach: float) -> Tail:
    """Of s < 0 or s > 0, from CENTRE outwards; as far as `reach` t is what it is known to be."""
    points = np.arange(CENTRE - STRIDE, FURTHEST + STRIDE / 2, STRIDE)
    sampled = at(np.concatenate([side * points, np.linspace(-4, 4, 257)]))
    usual = np.max(np.abs(sampled.bend[len(points) :]), initial=0.0)
    inner, k = sampled.bend[:1], sampled.bend[1 : len(points)]
    points = points[1:]
    good = np.isfinite(k) & (k > FAINT * usual)
    count = len(good) if good.all() else int(np.argmin(good))
    points, k = points[: max(count, 1)], k[: max(count, 1)]
    if count == 0:  # straight from here on, or bent by less than rounding
        k = np.zeros(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        c = np.diff(np.log(np.concatenate([inner, k]))) / STRIDE
    c = np.where(np.isfinite(c), c, 0.0)
    c = np.concatenate([c[1:], c[-1:]])  # from each point to the next, and on from the last
    c = side * c  # in s, whichever way is outwards
    for exact in (0.0, -1.0):
        c = np.where(np.abs(c - exact) < SNAP, exact, c)
    ts, rs = [float(sampled.slope[1])], [float(sampled.reward[1])]
    for i in range(len(points) - 1):  # in s, outwards: side * STRIDE
        x, own = side * STRIDE, c[i]
        known = points[i + 1] <= reach
        ts.append(float(sampled.slope[i + 2]) if known else ts[-1] + k[i] * _power(own, x))
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


def _table(at: Sampler) -> Table:
    cells = int(CENTRE * KNOTS_PER_NAT)
    y = np.arange(cells + 1) / KNOTS_PER_NAT
    middle = (y[:-1] + y[1:]) / 2
    every = at(np.concatenate([y, -y, middle, -middle]))
    built: dict[str, list[np.ndarray]] = {"t": [], "r": [], "f": []}
    smooth = []
    for side in (1, -1):
        first = 0 if side > 0 else cells + 1
        here = slice(first, first + cells + 1)
        half = slice(here.start // (cells + 1) * cells + 2 * (cells + 1), None)
        knots = _scaled(Sampled(*(x[here] for x in every)), side * y)
        checks = _scaled(Sampled(*(x[half][:cells] for x in every)), side * middle)
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


def _scaled(x: Sampled, s: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Values and slopes in s of t, r and f / max(1, u)."""
    u = np.exp(s)
    above = np.where(s >= 0, x.reward / u, u * x.slope)
    return {"t": (x.slope, x.bend), "r": (x.reward, u * x.bend), "f": (x.value, above)}


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
    of_reward = normal.reward_reach or normal.reach

    def ends(s: Array, reach: tuple[float, float]) -> tuple[float, float]:
        """Where the tails begin."""
        return reach if s.dtype == jnp.float64 else (-CENTRE, CENTRE)

    def centre(
        cubics: np.ndarray, s: Array, direct: Callable, reach: tuple[float, float] = normal.reach
    ) -> Array:
        s = jnp.clip(s, *ends(s, reach))
        if s.dtype == jnp.float64:
            return direct(s)
        sign, cell, _ = _cell(s)
        smooth = jnp.asarray(table.smooth)[sign, cell]
        if table.smooth.all():
            return _looked_up(cubics, s)
        return jnp.where(smooth, _looked_up(cubics, s), direct(jnp.where(smooth, 1.0, s)))

    def pieces(
        s: Array, inside: Array, tail: Callable, reach: tuple[float, float] = normal.reach
    ) -> Array:
        low, high = ends(s, reach)
        outside = (s < low) | (s > high)
        far = jnp.where(
            s < 0, tail(lower, jnp.minimum(s, -CENTRE)), tail(upper, jnp.maximum(s, CENTRE))
        )
        return jnp.where(outside, far, inside)

    def witness(s: Array) -> Array:
        inside = centre(table.t, s, normal.slope)
        value = pieces(s, inside, lambda tail, s: _tail_t(tail, s, jnp.zeros_like(s)))
        return jnp.where(s == 0, 0.0, value)  # at a kink too: the middle slope

    def reward(s: Array) -> Array:
        inside = centre(table.r, s, normal.reward, of_reward)
        far = lambda tail, s: _tail_r(tail, s, jnp.zeros_like(s))
        value = pieces(s, inside, far, of_reward)
        return jnp.where(s == 0, 0.0, value)

    def perspective(lp: Array, lq: Array) -> Array:
        s = lp - lq
        inside = centre(table.f, s, normal.value) * exp(jnp.where(s < 0, lq, lp))
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


# --- from a reward --------------------------------------------------------------------------------


def _from_reward(given: Callable[[Array], Array], name: str) -> Normalised:
    at_zero = float(given(jnp.zeros(())))
    reward = lambda s: given(s) - at_zero
    slope = lambda s: jax.jvp(reward, (s,), (jnp.ones_like(s),))[1]  # r'(s)
    _refuse_unless_increasing(reward, slope, name)
    twice = jax.jit(lambda x: jnp.stack([jnp.exp(-x) * reward(x), jnp.exp(-x) * slope(x)]))
    (below, steep_below), (above, steep_above) = (_integrals(twice, side) for side in (-1, 1))
    of_value, of_slope = _joined(below, above), _joined(steep_below, steep_above)
    _refuse_jumps(reward, of_value, of_slope, name)
    low, high = max(of_value.at[0], of_slope.at[0]), min(of_value.at[-1], of_slope.at[-1])
    weighted = lambda function: lambda x: jnp.exp(-x) * function(x)
    over_u = lambda s: _up_to(weighted(reward), of_value, s)  # f(u) / u

    @jax.custom_jvp
    def value(s: Array) -> Array:
        return jnp.exp(jnp.minimum(s, 0.0)) * over_u(s)

    @value.defjvp
    def _(primals: tuple, tangents: tuple) -> tuple:
        (s,) = primals  # (f / u)' = r / u, and f' = u t
        each = jnp.where(s < 0, jnp.exp(s) * witness(s), jnp.exp(-s) * reward(s))
        return value(s), each * tangents[0]

    @jax.custom_jvp
    def witness(s: Array) -> Array:
        return _up_to(weighted(slope), of_slope, s)

    @witness.defjvp
    def _(primals: tuple, tangents: tuple) -> tuple:
        return witness(*primals), bend(*primals) * tangents[0]

    bend = lambda s: jnp.exp(-s) * slope(s)
    return Normalised(value, witness, bend, reward, (float(low), float(high)))


def _refuse_unless_increasing(reward: Callable, slope: Callable, name: str) -> None:
    """On a grid over |s| <= 20, as `_refuse_unless_convex`."""
    field, s = f"reward {name}", np.linspace(-20, 20, 4001)
    value, rise = (np.asarray(g(jnp.asarray(s)), np.float64) for g in (reward, slope))
    unsound = ~(np.isfinite(value) & np.isfinite(rise))
    if unsound.any():
        at = f"r({s[unsound][0]:.6g})"
        raise UsageError(field, at, "r or its derivative is not finite there.", REWARD_FIX)
    size = np.abs(value)
    falls = (rise < -1e-9 * size) | (np.diff(value, append=np.inf) < -1e-9 * size)
    if falls.any():
        at = s[falls][np.argmin(np.abs(s[falls]))]
        problem = (
            f"r decreases there (u = {math.exp(at):.4g}), so f''(u) = r'(u) / u would be negative: "
            "no f-divergence has this reward."
        )
        raise UsageError(field, f"s = {at:.6g}", problem, REWARD_FIX)
    left, right, low, high = (float(reward(jnp.asarray(x))) for x in (-AROUND, AROUND, -1.0, 1.0))
    if not right - left > 1e-11 * (high - low):
        problem = "r is level around it: laws whose ratio stays there have D = 0 and may differ."
        raise UsageError(field, "s = 0", problem, "Give a reward that rises at 0.")


class Integral(NamedTuple):
    """From 0 to each of some points, among them 0."""

    at: np.ndarray  # [n], increasing
    values: np.ndarray  # [n]


def _integrals(functions: Callable[[Array], Array], side: int) -> list[Integral]:
    """Of each of several functions ([n] -> [m, n]) to FURTHEST, or to where the function or its
    integral is HUGE. Where the quadrature of a cell is not that of its halves there is a kink, and
    the cell is halved down to it."""
    edges = np.arange(FURTHEST * CELLS_PER_NAT + 1) / CELLS_PER_NAT
    starts, ends = edges[:-1], edges[1:]
    with np.errstate(over="ignore", invalid="ignore"):
        whole = _quadrature(functions, side, starts, ends)
        scale = np.cumsum(np.abs(whole), axis=1)  # [m, cells]
        cells: list[tuple] = []
        while len(starts):
            middle = (starts + ends) / 2
            halves = [_quadrature(functions, side, *x) for x in ((starts, middle), (middle, ends))]
            fine = halves[0] + halves[1]
            off = np.nan_to_num(np.abs(fine - whole) / scale).max(0)
            # where rounding alone is to be seen there is no end of it: the worst few are kinks
            worst = np.argsort(-off)[:MOST_KINKS]
            split = np.zeros(len(off), bool)
            split[worst] = (off[worst] > 1e-13) & (ends - starts > FINEST)[worst]
            cells += zip(starts[~split], ends[~split], fine.T[~split])
            whole = np.concatenate([x[:, split] for x in halves], axis=1)
            scale = np.concatenate([scale[:, split]] * 2, axis=1)
            starts, ends = (
                np.concatenate([starts[split], middle[split]]),
                np.concatenate([middle[split], ends[split]]),
            )
        cells.sort(key=lambda cell: cell[0])
        at = np.append([cell[0] for cell in cells], cells[-1][1])
        amounts = np.cumsum(side * np.array([cell[2] for cell in cells]), axis=0)
    return [_known(side * at, np.concatenate([[0.0], values])) for values in amounts.T]


def _known(at: np.ndarray, values: np.ndarray) -> Integral:
    """As far as the values are finite and not HUGE."""
    sound = np.isfinite(values) & (np.abs(values) < HUGE)
    count = len(values) if sound.all() else int(np.argmin(sound))
    return Integral(at[:count], values[:count])


def _joined(below: Integral, above: Integral) -> Integral:
    """Of both sides of 0."""
    return Integral(*(np.concatenate([a[:0:-1], b]) for a, b in zip(below, above)))


def _quadrature(functions: Callable, side: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Over each cell from a to b, [n] -> [m, n]."""
    points = (a[:, None] + (b - a)[:, None] * REWARD_NODES).ravel()
    each = _in_blocks(functions, side * points)
    return (b - a) * (each.reshape(len(each), len(a), -1) @ REWARD_SHARES)


def _up_to(function: Callable, x: Integral, s: Array) -> Array:
    """The integral of a function from 0 to s: by quadrature from the last point on the way."""
    at, values = jnp.asarray(x.at, s.dtype), jnp.asarray(x.values, s.dtype)
    before = jnp.searchsorted(at, s, side="right") - 1
    index = jnp.where(s < 0, jnp.searchsorted(at, s), before)
    start = at[jnp.clip(index, 0, len(x.at) - 1)]
    nodes = zip(REWARD_NODES.tolist(), REWARD_SHARES.tolist())
    first, *others = (w * function(start + (s - start) * n) for n, w in nodes)
    return values[jnp.clip(index, 0, len(x.at) - 1)] + (s - start) * sum(others, first)


def _refuse_jumps(reward: Callable, value: Integral, slope: Integral, name: str) -> None:
    """The integral of e^{-x} r'(x) is that of e^{-x} r(x) and e^{-s} r(s), unless r jumps."""
    s = np.intersect1d(value.at, slope.at)
    s = s[np.abs(s) <= 20]
    direct = np.exp(-s) * np.asarray(reward(jnp.asarray(s)), np.float64)
    integral, wanted = (x.values[np.isin(x.at, s)] for x in (value, slope))
    jumps = np.abs(direct + integral - wanted) > 1e-6 * (np.abs(direct) + np.abs(integral))
    if jumps.any():
        first = s[jumps][np.argmin(np.abs(s[jumps]))]
        problem = "r rises by then without a slope: it jumps, or is not differentiable."
        raise UsageError(f"reward {name}", f"s = {first:.4g}", problem, REWARD_FIX)
