"""What the laws run over."""

from __future__ import annotations

import jax
import numpy as np

from fdiv import divergences, exact
from fdiv.policies import tabular
from fdiv.types import Model

EXAMPLES = {
    "gjs": "gjs:0.3",
    "skew_kl": "skew_kl:0.2",
    "skew_reverse_kl": "skew_reverse_kl:0.2",
    "alpha": "alpha:0.7",
}
EVERY = [
    EXAMPLES.get(name, name) for name in divergences.FAMILY
]  # a divergence added to the family is tested at once
MORE = [
    *EVERY,
    "alpha:0",
    "alpha:1",
    "alpha:-1",
    "alpha:2",
    "alpha:1.0001",
    "alpha:0.0001",
    "gjs:0.01",
    "skew_kl:0.9",
]
SMOOTH = [name for name in EVERY if name != "tv"]

SPACES = {"fixed": (3, 3, None), "ending": (3, 4, 2)}  # vocab, horizon, eos


def world(kind: str, seed: int = 0, scale: float = 1.0):
    """(space, expert model, policy, random params) with full prefix trees on both sides."""
    space = exact.enumerate_strings(*SPACES[kind])
    automaton = tabular.full(space.vocab, space.horizon)
    policy = tabular.policy(automaton, space.vocab)
    draw = np.random.default_rng(seed)
    table = lambda: scale * draw.standard_normal((automaton.states, space.vocab))
    return space, Model(policy, table()), policy, table()


def close(a, b, tolerance: float = 1e-10) -> None:
    """Every leaf within a tolerance of the other's, relative to the larger norm."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        size = max(np.abs(x).max(initial=0), np.abs(y).max(initial=0), 1e-12)
        assert np.abs(x - y).max(initial=0) <= tolerance * max(size, 1.0), (
            np.abs(x - y).max(),
            size,
        )
