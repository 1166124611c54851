"""What the laws run over: divergences, small spaces and enumerated tasks."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments.gradients.world import World, build
from fdiv import divergences, exact
from fdiv.policies import tabular
from fdiv.types import Model, Params, Policy

EXAMPLES = {
    "gjs": "gjs:0.3",
    "skew_kl": "skew_kl:0.2",
    "skew_reverse_kl": "skew_reverse_kl:0.2",
    "alpha": "alpha:0.7",
}
# A divergence that is added to the family is tested at once, if it is not standard in full alone.
EVERY = [EXAMPLES.get(name, name) for name, x in divergences.FAMILY.items() if x.standard]
# The others, and sums of members: in the long extent, with the quick arithmetic of test_by_reward.
ADDED = [
    "le_cam",
    "symmetric_chi2",
    "todi",
    "dail",
    "tsallis:0.7",
    "mix:reverse_kl+0.5*neyman_chi2",
    "mix:0.2*forward_kl+0.8*js",
]
ALPHAS = ["alpha:0", "alpha:1", "alpha:-1", "alpha:2", "alpha:1.0001", "alpha:0.0001"]
MORE = [*EVERY, *ALPHAS, "gjs:0.01", "skew_kl:0.9"]
SMOOTH = [name for name in EVERY if name != "tv"]

SPACES = {"fixed": (3, 3, None), "ending": (3, 4, 2)}  # vocab, horizon, eos


@functools.cache
def random_models(
    kind: str, seed: int = 0, scale: float = 1.0
) -> tuple[exact.Space, Model, Policy, np.ndarray]:
    """(space, expert, policy, params): random tables over the whole prefix tree on both sides."""
    space = exact.enumerate_strings(*SPACES[kind])
    automaton = tabular.full(space.vocab, space.horizon)
    policy = tabular.policy(automaton, space.vocab)
    draw = np.random.default_rng(seed)
    expert, params = (
        scale * draw.standard_normal((automaton.states, space.vocab)) for _ in range(2)
    )
    return space, Model(policy, expert), policy, params


def reward_task(
    kind: str, seed: int, divergence: str = "reverse_kl", beta: float = 0.3, score=None
) -> World:
    """A policy and a random reference, with a reward where one is given."""
    space, reference, policy, params = random_models(kind, seed)
    task = {"reference": reference, "score": score, "divergence": divergence, "beta": beta}
    return build(space, policy, jnp.asarray(params), None, **task)


# a space's identity, a policy -> its law as a function that compiles once; the space stays alive
_LAWS: dict[tuple[int, Policy], tuple[exact.Space, Callable[[Params], exact.Law]]] = {}


def law(space: exact.Space, policy: Policy, params: Params) -> exact.Law:
    """`exact.law` as one compiled program: a dozen small ones take a dozen times as long."""
    key = id(space), policy
    if key not in _LAWS:
        _LAWS[key] = space, jax.jit(lambda x: exact.law(space, policy, x))
    return _LAWS[key][1](params)


def close(a: Params, b: Params, tolerance: float = 1e-10) -> None:
    """Every leaf within a tolerance of the other's, relative to the larger norm where that is over
    1."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        size = max(np.abs(x).max(initial=0), np.abs(y).max(initial=0), 1.0)
        error = np.abs(x - y).max(initial=0)
        assert error <= tolerance * size, (error, size)


# Textbook formulas of masses p and q.
PLAIN = {
    "forward_kl": lambda p, q: p * np.log(p / q) - p + q,
    "reverse_kl": lambda p, q: q * np.log(q / p) - q + p,
    "js": lambda p, q: 0.5 * (p * np.log(2 * p / (p + q)) + q * np.log(2 * q / (p + q))),
    "tv": lambda p, q: 0.5 * np.abs(p - q),
    "hellinger2": lambda p, q: (np.sqrt(p) - np.sqrt(q)) ** 2,
}


def two_template_strings(
    vocab: int, horizon: int, weight: float, noise: float
) -> tuple[np.ndarray, np.ndarray]:
    """Every string of the two-template language [N, T] and its probability [N], one by one."""
    rows = list(itertools.product(range(vocab), repeat=horizon))

    def mass(x: tuple[int, ...], template: int) -> float:
        return math.prod(1 - noise if t == template else noise / (vocab - 1) for t in x)

    law = [weight * mass(x, 0) + (1 - weight) * mass(x, 1) for x in rows]
    return np.array(rows), np.array(law)
