"""Matrices in tiles of columns: nothing is lost, and products are the usual ones."""

import jax.numpy as jnp
import numpy as np
import pytest

from fdiv import few_rows

TILINGS = {  # columns -> tiles and columns of each
    1: (1, 1),
    64: (1, 64),
    65: (3, 32),  # 31 empty columns; two of 64 would leave 63
    96: (3, 32),
    97: (2, 64),
    128: (2, 64),
    257: (9, 32),
    768: (12, 64),
}


@pytest.mark.parametrize("columns", TILINGS)
def test_how_many_tiles_and_how_wide(columns):
    assert few_rows.tiling(columns) == TILINGS[columns]
    count, width = TILINGS[columns]
    assert 0 <= count * width - columns < few_rows.WIDTH // 2


def test_an_accelerator_takes_a_matrix_as_it_is(monkeypatch):
    monkeypatch.setattr(few_rows.jax, "default_backend", lambda: "gpu")
    assert few_rows.tiling(768) == (1, 768)


@pytest.mark.parametrize("columns", [3, 64, 65, 100, 130])
@pytest.mark.parametrize("before", [(), (2, 3)])
def test_a_product_by_tiles_is_the_product(before, columns):
    """Of two matrices, and of a batch of them. Sums of 5 products of small whole numbers are exact
    in whatever order they are added."""
    draw = np.random.default_rng(0)
    rows = jnp.asarray(draw.integers(-9, 9, (*before, 4, 5)), jnp.float32)
    matrix = jnp.asarray(draw.integers(-9, 9, (*before, 5, columns)), jnp.float32)
    tiles = few_rows.in_tiles(matrix)
    count, width = few_rows.tiling(columns)
    assert tiles.shape == (*before, count, 5, width)
    np.testing.assert_array_equal(few_rows.untiled(tiles, columns), matrix)
    np.testing.assert_array_equal(few_rows.by_tiles(rows, tiles, columns), rows @ matrix)


def test_a_product_by_turned_weights_is_the_product():
    draw = np.random.default_rng(0)
    rows, turned = (draw.integers(-9, 9, (n, 5)).astype(np.float32) for n in (4, 7))
    np.testing.assert_array_equal(few_rows.by_turned(rows, jnp.asarray(turned)), rows @ turned.T)
