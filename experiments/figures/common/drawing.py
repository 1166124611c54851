"""What several figures check and draw alike."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from matplotlib import ticker
from matplotlib.axis import Axis

from fdiv.types import Divergence

TARGET = "#D9DCE1"  # an expert's law, filled


def pull(d: Divergence, log_p: Array, log_q: Array) -> Array:
    """`q reward(s)`, whose product with grad log q sums to -grad D_f.

    Where s > 0 it is written as the equal `p witness(s) - perspective`, which does not overflow.
    """
    s = log_p - log_q
    above = jnp.exp(log_p) * d.witness(jnp.maximum(s, 0.0)) - d.perspective(log_p, log_q)
    return jnp.where(s > 0, above, jnp.exp(log_q) * d.reward(jnp.minimum(s, 0.0)))


def plain_log(side: Axis) -> None:
    """A logarithmic axis labelled 1, 2, 5, 10."""
    side.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    side.set_major_formatter("{x:g}")
    side.set_minor_formatter("")
