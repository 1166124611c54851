"""Exponentials of log-masses that neither overflow on the way nor lose the digits near equality,
and the frame of a divergence's three functions.

Two laws that are almost the same differ by little, `s = log p - log q` near 0, and an f-divergence
is of second order in s: computed from terms of first order, single precision has no digit of it
left. Each member is therefore written with `excess` or `deficit`, which are of second order
themselves, 0 at 0 and nowhere negative."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fdiv.types import Divergence

INF = math.inf
SMALL, TERMS = 0.1, 7  # a series up to this |x|: double precision. Compiling takes time for each


def bounded_slope(x: Array) -> Array:
    """e^x kept a factor e below overflow: the derivative to use where the value itself may be
    inf."""
    return jnp.exp(jnp.minimum(x, math.log(float(jnp.finfo(x.dtype).max)) - 1.0))


@jax.custom_jvp
def exp(x):
    """e^x, whose slope stays finite."""
    return jnp.exp(x)


@jax.custom_jvp
def expm1(x):
    """e^x - 1, whose slope stays finite."""
    return jnp.expm1(x)


exp.defjvp(lambda primals, tangents: (exp(*primals), bounded_slope(*primals) * tangents[0]))
expm1.defjvp(lambda primals, tangents: (expm1(*primals), bounded_slope(*primals) * tangents[0]))


def excess(x: Array) -> Array:
    """e^x - 1 - x, elementwise, to a few units in the last place but one."""
    small = jnp.abs(x) < SMALL
    near = jnp.where(small, x, 0.0)
    series = jnp.ones_like(near)
    for n in range(TERMS + 2, 2, -1):  # x^2 / 2 (1 + x/3 (1 + x/4 (...)))
        series = 1 + near / n * series
    return jnp.where(small, near**2 / 2 * series, expm1(jnp.where(small, 1.0, x)) - x)


def deficit(z: Array) -> Array:
    """z - log(1 + z), elementwise for z > -1, to a few units in the last place but one.

    With y = z / (2 + z), log(1 + z) = 2 artanh(y) = 2 (y + y^3/3 + ...), and z - 2 y = z y."""
    small = jnp.abs(z) < SMALL
    near = jnp.where(small, z, 0.0)
    y = near / (2 + near)
    series = jnp.zeros_like(y)
    for n in range(2 * TERMS - 1, 2, -2):
        series = 1 / n + y**2 * series
    far = jnp.where(small, 1.0, z)
    return jnp.where(small, near * y - 2 * y**3 * series, far - jnp.log1p(far))


def nearby(s: Array, within: float, near: Callable, far: Callable) -> Array:
    """`near(s)` for |s| < within, else `far(s)`; where it is not asked, `near` sees s = 0."""
    close = jnp.abs(s) < within
    return jnp.where(close, near(jnp.where(close, s, 0.0)), far(s))


def gauss_legendre(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes in [0, 1] and shares, [count] each."""
    nodes, shares = np.polynomial.legendre.leggauss(count)
    return (1 + nodes) / 2, shares / 2


NODES, SHARES = gauss_legendre(8)


def mean_to(s: Array, function: Callable[[Array], Array]) -> Array:
    """The mean of a function from 0 to s, elementwise: `s mean_to(s, g)` is the integral of g. Of
    one that is analytic within pi/2 of 0, to rounding for |s| < 1/2 and to 1e-13 for |s| < 1."""
    first, *others = (w * function(x * s) for x, w in zip(NODES.tolist(), SHARES.tolist()))
    return sum(others, first)


def mass_times_expm1(log_mass: Array, c: float, s: Array) -> Array:
    """e^log_mass (e^{c s} - 1) / c without overflow between the factors; the limit e^log_mass s at
    c = 0."""
    if c == 0:
        return exp(log_mass) * s
    small = jnp.abs(c * s) < 1
    near = exp(log_mass) * expm1(jnp.where(small, c * s, 0.0))
    return jnp.where(small, near, exp(log_mass + c * s) - exp(log_mass)) / c


def edge(constant: float, log_mass: Array) -> Array:
    """`constant * mass`, the perspective's value where the other mass is zero; an infinite value
    carries no gradient."""
    return jnp.full_like(log_mass, INF) if math.isinf(constant) else constant * exp(log_mass)


def member(
    name: str,
    perspective: Callable,
    witness: Callable,
    reward: Callable,
    *,
    f0: float,
    slope: float,
) -> Divergence:
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
        value = jnp.where(no_p, edge(f0, jnp.where(no_q, 0.0, log_q)), value)
        value = jnp.where(no_q, edge(slope, jnp.where(no_p, 0.0, log_p)), value)
        return jnp.where(no_p & no_q, 0.0, value)

    def real(function: Callable) -> Callable:
        return lambda s: function(
            jnp.asarray(s, jnp.promote_types(jnp.result_type(s), jnp.float32))
        )

    return Divergence(name, extended, real(witness), real(reward))
