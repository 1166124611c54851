"""Products of few rows with large matrices, as a CPU is fast at them.

A product of few rows reads every number of the matrix for little arithmetic, so its time is that
of reading: how the matrix lies decides. In tiles of columns such products were measured at up to
twice the pace of rows or of turned matrices (`docs/speed.md`). Of many rows nothing is gained, and
on an accelerator a matrix stays as it is."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

WIDTH = 64  # columns of a tile: the fastest of 16 to 256 (jax 0.10.2, AVX-512)


def tiling(columns: int) -> tuple[int, int]:
    """(tiles, columns of each) of a matrix with so many columns: tiles of `WIDTH`, or of half of it
    where that leaves fewer columns empty; one tile where the matrix is no wider or this is no
    CPU."""
    if columns <= WIDTH or jax.default_backend() != "cpu":
        return 1, columns
    half = WIDTH // 2
    width = half if 0 < columns % WIDTH <= half else WIDTH
    return -(-columns // width), width


def in_tiles(matrix: Array) -> Array:
    """[..., K, M] -> [..., tiles, K, columns of a tile], with zeros behind the last column."""
    *before, inputs, columns = matrix.shape
    count, width = tiling(columns)
    room = [(0, 0)] * (matrix.ndim - 1) + [(0, count * width - columns)]
    return jnp.pad(matrix, room).reshape(*before, inputs, count, width).swapaxes(-3, -2)


def untiled(tiles: Array, columns: int) -> Array:
    """`in_tiles` undone: [..., K, M]."""
    *before, count, inputs, width = tiles.shape
    flat = tiles.swapaxes(-3, -2).reshape(*before, inputs, count * width)
    return flat[..., :columns]


def by_tiles(
    rows: Array, tiles: Array, columns: int, preferred_element_type: DTypeLike | None = None
) -> Array:
    """rows [..., R, K] by a matrix [..., K, M] that lies in tiles: [..., R, M]. M is `columns`."""
    *before, count, inputs, _ = tiles.shape
    rows = rows[..., None, :, :]
    if count > 1:  # one batch dimension of both factors, which the kernels go along
        rows = jnp.broadcast_to(rows, (*before, count, rows.shape[-2], inputs))
    each = jnp.matmul(rows, tiles, preferred_element_type=preferred_element_type)
    return untiled(each, columns)


def by_turned(rows: Array, turned: Array) -> Array:
    """rows [R, K] by weights [M, K]: [R, M]. Taken as weights by columns, which on a CPU lies as
    its products want it; the barriers keep XLA from making it the usual product again."""
    barrier = jax.lax.optimization_barrier
    return barrier(turned @ barrier(rows.astype(turned.dtype).T)).T
