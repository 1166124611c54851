"""Strings that any of several symbols ends: what is redrawn for a discriminator's penalty, and what
cannot be enumerated."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdiv import exact
from fdiv.discriminator import roughness
from fdiv.types import Sequences, UsageError

VOCAB = 7


@pytest.mark.parametrize("ends", [None, 3, (3,), (5, 0, 2), (0, 1, 6)])
def test_an_end_is_neither_replaced_nor_put_in(ends):
    several = () if ends is None else ends if isinstance(ends, tuple) else (ends,)
    tokens = jax.random.randint(jax.random.key(0), (40, 6), 0, VOCAB)
    x = Sequences(tokens, jnp.ones(tokens.shape, bool), jnp.ones(40))
    seen = []

    def score(strings):
        seen.append(np.asarray(strings.tokens))
        return jnp.zeros(strings.tokens.shape)

    for seed in range(5):
        roughness(jax.random.key(seed), score, x, VOCAB, ends)
    before, after = np.concatenate(seen[::2]), np.concatenate(seen[1::2])
    changed = before != after
    assert (changed.sum(1) <= 1).all() and changed.any()
    assert not np.isin(before[changed], several).any()
    others = set(range(VOCAB)) - {*several}
    assert set(after[changed].tolist()) == others


def test_strings_with_several_ends_are_not_enumerated():
    for count in (exact.count_strings, exact.enumerate_strings, exact.refuse_unless_enumerable):
        with pytest.raises(UsageError, match="several symbols"):
            count(3, 2, (1, 2))
