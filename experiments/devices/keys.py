"""Typed PRNG keys among other arrays."""

from __future__ import annotations

from typing import Any

import jax


def is_key(x: Any) -> bool:
    """Whether x is an array of typed PRNG keys."""
    return isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
