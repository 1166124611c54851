"""Students that are trained whole inside one compiled program, so that many of them are trained
side by side under `jax.vmap` or `jax.lax.map`.

Studies whose students are those of `compare` use `trained.train`, which runs the head-to-head's own
loop; here whatever a student is (its divergence, its rate, its seed) may be traced."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from fdiv.learner import learner
from fdiv.types import Learner, LearnerState, Objective, Pairs, Sequences

Batches = Callable[[jax.Array], Sequences | Pairs]  # the number of an update -> what it learns from
Metrics = dict[str, jax.Array]


def adam(objective: Objective, rate: float | jax.Array, updates: int) -> Learner:
    """Adam whose rate falls from `rate` to 0 along a half cosine."""
    return learner(objective, optax.adam(optax.cosine_decay_schedule(rate, updates)))


def advance(
    training: Learner, state: LearnerState, batches: Batches, updates: int
) -> tuple[LearnerState, Metrics]:
    """So many more updates, and what each of them reports, [updates]."""

    def update(state: LearnerState, _: None) -> tuple[LearnerState, Metrics]:
        return training.update(state, batches(state.step))

    return jax.lax.scan(update, state, None, length=updates)


def advance_by(
    training: Learner, state: LearnerState, batches: Batches, updates: jax.Array
) -> tuple[LearnerState, jax.Array]:
    """The same for a number of updates that is traced, so that one program serves stretches of any
    length; returns the loss of the first update, which is on a batch that the policy has not
    seen."""

    def update(i: jax.Array, carry: tuple[LearnerState, jax.Array]):
        state, first = carry
        state, metrics = training.update(state, batches(state.step))
        return state, jnp.where(i == 0, metrics["loss"], first)

    return jax.lax.fori_loop(0, updates, update, (state, jnp.zeros(())))
