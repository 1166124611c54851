"""Laws of every divergence in one compiled program."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import pytest

from fdiv import divergences
from fdiv.types import Divergence


@pytest.fixture
def in_turn(monkeypatch):
    """(divergences, of) -> `of(name)(x)` for each of them, stacked, as one compiled program.

    The name is one of the family that stands for whichever has its turn, which is traced: their
    functions alone are compiled for each."""

    def in_turn(specs, of):
        members, turn = [divergences.parse(spec) for spec in specs], [0]

        def one(part):
            parts = [getattr(d, part) for d in members]
            now = lambda i, s: parts[i](*s) if isinstance(i, int) else jax.lax.switch(i, parts, *s)
            return lambda *s: now(turn[0], s)

        each = Divergence("each", one("perspective"), one("witness"), one("reward"))
        entry = divergences.Entry(lambda: each, divergences.Card("", "", ""))
        monkeypatch.setitem(divergences.FAMILY, "each", entry)
        function = of("each")

        def at(x, i):
            turn[0] = i
            return function(x)

        return jax.jit(lambda x: jax.lax.map(functools.partial(at, x), jnp.arange(len(specs))))

    return in_turn
