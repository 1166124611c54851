"""What sets the runs of one program apart, and the data that each of them sees.

Every array has the runs in front, [count, ...]. A run's key decides its start, its fixed rows and
its batches, each by a number of its own folded in, so that methods share all three."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.assemble import Task, common_start
from experiments.config import Budget, Config
from fdiv.types import Components, Params, TokenMDP, UsageError

START, FIXED_ROWS = 0, 3  # folded into a run's key
ORDER = (1 << 31) - 1  # folded into its data key, where no step comes to
Batches = Callable[[jax.Array, int], Any]  # key, n -> n rows, as a pytree


class Runs(NamedTuple):
    """The runs of one program: several seeds, several learning rates, or both."""

    keys: jax.Array  # [count]
    params: Params  # what each policy starts from
    rates: jax.Array  # [count] learning rates
    rows: Any = ()  # each run's fixed rows [count, N, ...], or () where every update draws new ones


def batches(mdp: TokenMDP, reads: str, method: str | None = None) -> Batches:
    """Where a method's batches come from: `reads` is demos, pairs or labels.

    Raises `UsageError` where the task has none to give, by the name of the method."""
    of = {"demos": mdp.demos, "pairs": mdp.pairs, "labels": mdp.labels or mdp.pairs}[reads]
    if of is None:
        fix = (
            "Use a benchmark with them (rewarded, or text with such columns), or a method "
            "that learns from other data."
        )
        raise UsageError(
            "methods", method or reads, f"there are no {reads} to learn from here.", fix
        )
    return of


def fixed_rows(budget: Budget, mdp: TokenMDP, keys: jax.Array, reads: str = "demos") -> Any:
    """Each run's fixed rows [count, budget.demos, ...], or () where every update draws new ones.
    The same for every method that reads such rows."""
    if not budget.demos:
        return ()
    draw_rows = batches(mdp, reads)
    return jax.jit(
        jax.vmap(lambda key: draw_rows(jax.random.fold_in(key, FIXED_ROWS), budget.demos))
    )(keys)


def batch(budget: Budget, new_rows: Batches, rows: Any, key: jax.Array, step: jax.Array) -> Any:
    """The batch of the update `step`, from a run's data key: drawn, or the next rows of passes over
    them, each row once a pass. Where a run stands is its step, so a save has it."""
    if budget.epochs_over_data is None:
        return drawn(budget, new_rows, rows, jax.random.fold_in(key, step))
    table = rows if budget.demos else getattr(new_rows, "rows", ())
    sizes = {len(leaf) for leaf in jax.tree.leaves(table)}
    chosen = in_passes(jax.random.fold_in(key, ORDER), step, budget.batch_size, sizes.pop())
    return jax.tree.map(lambda x: x[chosen], table)


def in_passes(key: jax.Array, step: jax.Array, count: int, size: int) -> jax.Array:
    """Which of `size` rows are the `count` of a step, where each pass has an order of its own and
    goes on from the one before. [count]"""
    place = jnp.arange(count) + (step * count) % size
    first = (step * count) // size
    orders = jax.vmap(lambda i: jax.random.permutation(jax.random.fold_in(key, first + i), size))(
        jnp.arange((size + count - 2) // size + 1)
    )
    return orders[place // size, place % size]


def drawn(budget: Budget, new_rows: Batches, rows: Any, key: jax.Array) -> Any:
    """New rows, or some of the fixed ones drawn with replacement."""
    if not budget.demos:
        return new_rows(key, budget.batch_size)
    chosen = jax.random.randint(key, (budget.batch_size,), 0, budget.demos)
    return jax.tree.map(lambda x: x[chosen], rows)


def starts(config: Config, task: Task, components: Components, keys: jax.Array) -> Params:
    """Each run's initial parameters: a pretrained model's, the task's reference where the class
    holds it, or new ones. The same for every method."""
    common = common_start(config, task, components.policy)
    if common is not None:
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (len(keys), *x.shape)), common)
    return jax.jit(jax.vmap(lambda key: components.policy.init(jax.random.fold_in(key, START))))(
        keys
    )
