"""Short rows do not pay for long ones: a batch's gradient as a sum over parts, each of which has as
many columns as its own rows need.

Rows are ordered by length and parted into groups of one size. Each group is computed in the first
of a few widths that holds all of its rows, and the gradients are added up: a loss is a weighted sum
over rows, so only the order of additions differs from that of the undivided batch. A width is one
compiled body; which one a group takes is known when the program runs, so a whole training stays
one program. No row is ever in another's attention, as in the undivided batch. (Packing several
rows into one saves as much, and pays for masks of who may look where: quadratic in the packed
length wherever no fused kernel serves.)"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_batching import custom_vmap

from fdiv.types import PAD, Params, Sequences

PARTS = 8  # groups of a batch: with more, products become small
CANDIDATES = 64  # widths that fitting chooses from, evenly spaced
SIMULATED = 200  # batches that padding is counted over


class Buckets(NamedTuple):
    """Widths that groups of rows are computed in."""

    widths: tuple[int, ...]  # ascending; the last holds any row
    parts: int = PARTS  # groups of a batch, or as many as it has rows


def gradient(buckets: Buckets, slope: Callable, params: Params, aux: Any, batch: Sequences) -> Any:
    """`slope(params, aux, batch, part)` summed over groups of rows, each in a width of its own.
    `slope` gives a pytree of sums over rows, such as a loss's value and gradient, of the part with
    this number."""
    groups = grouped(batch, buckets.parts)
    needed = jax.vmap(columns)(groups.tokens).max(1)
    which = _widest(jnp.searchsorted(jnp.asarray(buckets.widths), needed))
    in_width = lambda width: lambda group, part: slope(params, aux, cut(group, width), part)
    bodies = [in_width(width) for width in buckets.widths]

    def add(total: Any, each: tuple[Sequences, Array, Array]) -> tuple[Any, None]:
        group, index, part = each
        return jax.tree.map(jnp.add, total, jax.lax.switch(index, bodies, group, part)), None

    one = jax.tree.map(lambda x: x[0], groups)
    made = jax.eval_shape(bodies[-1], one, jnp.int32(0))
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), made)
    return jax.lax.scan(add, zero, (groups, which, jnp.arange(len(which), dtype=jnp.int32)))[0]


def columns(tokens: Array) -> Array:
    """How many columns each row [B, T] needs: up to its last token. [B]"""
    return jnp.max(jnp.where(tokens != PAD, jnp.arange(tokens.shape[1])[None] + 1, 0), axis=1)


def cut(rows: Sequences, width: int) -> Sequences:
    """The first columns of rows that need no more."""
    return rows._replace(tokens=rows.tokens[:, :width], mask=rows.mask[:, :width])


def grouped(rows: Sequences, parts: int) -> Sequences:
    """Rows in groups of like length, [parts, B / parts, T], the shortest first; empty rows of
    weight 0 fill up the first one where they do not divide."""
    count = len(rows.weight)
    parts = min(parts, count)
    lacking = -count % parts
    order = jnp.argsort(columns(rows.tokens), stable=True)
    fill = {"tokens": PAD, "mask": False, "weight": 0}

    def group(x: Array, empty: int | bool) -> Array:
        x = jnp.pad(x[order], [(lacking, 0)] + [(0, 0)] * (x.ndim - 1), constant_values=empty)
        return x.reshape(parts, -1, *x.shape[1:])

    return Sequences(*(group(x, fill[name]) for name, x in rows._asdict().items()))


@custom_vmap
def _widest(index: Array) -> Array:
    """Which width each group takes, and of several mapped runs the widest of theirs: a branch that
    differed between them would be computed in all widths."""
    return index


@_widest.def_vmap
def _widest_of_all(axis_size: int, in_batched: list[bool], index: Array) -> tuple[Array, bool]:
    return _widest(index.max(0)), False


# --- which widths ---------------------------------------------------------------------------------


def fit(lengths: Sequence[int] | np.ndarray, whole: int, count: int) -> tuple[int, ...]:
    """At most `count` widths, the last of which is `whole`, that leave rows of these lengths the
    least padding where each row is in the first width that holds it."""
    step = max(1, whole // CANDIDATES)
    width = np.unique([*range(step, whole, step), whole])
    held = np.searchsorted(np.sort(lengths), width, side="right")  # rows that each holds
    # cost[j]: columns of all rows that width j holds, in the widths chosen so far, j the last
    cost, choice = (width * held).astype(float), []
    added = width[None] * (held[None] - held[:, None])  # by width j behind width i
    added = np.where(width[:, None] < width[None], added, np.inf)
    for _ in range(min(count, len(width)) - 1):
        total = cost[:, None] + added
        choice.append(np.where(total.min(0) < cost, total.argmin(0), -1))
        cost = np.minimum(cost, total.min(0))
    chosen, last = [], len(width) - 1
    for before in [*reversed(choice), None]:
        if before is not None and before[last] < 0:  # one more width would gain nothing
            continue
        chosen.append(int(width[last]))
        last = before[last] if before is not None else last
    return tuple(chosen[::-1])


def padding(lengths: Sequence[int] | np.ndarray, buckets: Buckets, batch: int) -> float:
    """The share of a step's tokens that is padding, in batches of rows of these lengths."""
    rows = np.random.default_rng(0).choice(np.asarray(lengths), (SIMULATED, batch))
    parts = min(buckets.parts, batch)
    filled = np.pad(np.sort(rows, axis=1), [(0, 0), (-batch % parts, 0)])
    groups = filled.reshape(SIMULATED, parts, -1)
    widths = np.asarray(buckets.widths)[np.searchsorted(buckets.widths, groups.max(2))]
    return float(1 - rows.sum() / (widths * groups.shape[2]).sum())
