"""The exact frontier of a task with a reward: the most that a policy can earn at each divergence
from the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.assemble import Task
from fdiv import divergences, exact, regularised

BETAS = np.geomspace(1e-3, 1e3, 121)  # times the task's own, which stands in the middle


class FrontierPoint(NamedTuple):
    """The optimum at one weight of the divergence."""

    beta: float
    divergence_to_reference: float  # nats
    reward: float


def frontier(task: Task) -> list[FrontierPoint]:
    """From the largest weight to the smallest; nothing where strings are not enumerated or there is
    no known reference."""
    regulariser, score = task.mdp.regulariser, task.mdp.score
    if task.space is None or score is None or regulariser is None or regulariser.reference is None:
        return []
    with jax.enable_x64(True):
        reference = exact.known_law(task.space, regulariser.reference)
        rewards = jnp.asarray(score(task.space.sequences), float)
        betas = regulariser.beta * BETAS[::-1]
        divergence, reward = regularised.frontier(
            divergences.parse(regulariser.divergence),
            rewards,
            reference.string,
            jnp.asarray(betas),
        )
    return [FrontierPoint(*map(float, point)) for point in zip(betas, divergence, reward)]


def at_own_weight(points: Sequence[FrontierPoint]) -> FrontierPoint:
    """The optimum at the task's own weight."""
    return points[len(points) // 2]


def overspent(divergence: float, reward: float, points: Sequence[FrontierPoint]) -> float:
    """How much more of the divergence a policy has than its reward needs, in nats."""
    x, y = (
        np.maximum.accumulate(np.array([getattr(point, name) for point in points]))
        for name in ("divergence_to_reference", "reward")
    )
    return float(divergence - np.interp(reward, y, x))
