"""The update: prepare, then gradient steps over epochs and minibatches, each summed over
microbatches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from jax import Array

from fdiv.types import ALONE, Alike, Learner, LearnerState, Objective, Params, UsageError


def _split(tree, parts: int):
    """Rows into `parts` equal groups: [B, ...] -> [parts, B / parts, ...]"""
    rows = jax.tree.leaves(tree)[0].shape[0]
    if rows % parts:
        raise UsageError(
            "batch_size",
            rows,
            f"does not divide into {parts} parts.",
            "Change it, minibatches or accumulate.",
        )
    return jax.tree.map(lambda x: x.reshape(parts, rows // parts, *x.shape[1:]), tree)


def apart(tree):
    """The same rows, of which none is known to answer another's prompt: they may be moved."""
    known = lambda x: isinstance(x, Alike)
    return jax.tree.map(lambda x: ALONE if known(x) else x, tree, is_leaf=known)


def _in_order(tree, parts: int):
    """`_split` of rows that stay in their order: groups stay known where no part cuts one."""
    known = lambda x: isinstance(x, Alike)
    size = jax.tree.leaves(tree)[0].shape[0] // parts
    cut = any(known(x) and size % x.group for x in jax.tree.leaves(tree, is_leaf=known))
    return _split(apart(tree) if cut else tree, parts)


def learner(
    objective: Objective,
    tx: optax.GradientTransformation,
    *,
    epochs: int = 1,
    minibatches: int = 1,
    accumulate: int = 1,
    in_parts: Callable[[Callable, Params, Any, Any], Any] | None = None,
    bound: float = 0.0,
) -> Learner:
    """One `update` for every method.

    The loss is a sum over rows, so gradients of `accumulate` microbatches add up to the undivided
    one's; a minibatch's are scaled by `minibatches`, so that each step is as long as a step on the
    whole batch. `in_parts(slope, params, aux, batch)` sums a batch's gradients over parts of its
    own, such as `buckets.gradient`, in the place of `accumulate`. `bound` is the largest norm that
    `tx` leaves a gradient, if any: an update reports the share of its steps in which it was
    longer."""

    def gradient(params: Params, aux, batch):
        slope = jax.value_and_grad(objective.loss, has_aux=True)
        if in_parts is not None:
            return in_parts(slope, params, aux, apart(batch))
        if accumulate == 1:
            return slope(params, aux, batch)

        def add(total, micro):
            return jax.tree.map(jnp.add, total, slope(params, aux, micro)), None

        micros = _in_order(batch, accumulate)
        zero = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(slope, params, aux, batch)
        )
        return jax.lax.scan(add, zero, micros)[0]

    def init(key: Array, params: Params) -> LearnerState:
        aux = objective.init(jax.random.fold_in(key, 0), params)
        return LearnerState(jnp.zeros((), jnp.int32), key, params, tx.init(params), aux)

    def update(state: LearnerState, batch) -> tuple[LearnerState, dict]:
        prepare_key, shuffle_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        aux, batch, prepared = objective.prepare(prepare_key, state.params, state.aux, batch)

        def step(carry, part):
            params, opt = carry
            (loss, metrics), grads = gradient(params, aux, part)
            chex.assert_rank(loss, 0)
            chex.assert_trees_all_equal_shapes(grads, params)
            grads = jax.tree.map(lambda g: g * minibatches, grads)
            updates, opt = tx.update(grads, opt, params)
            norm = optax.tree.norm(grads)
            metrics = {
                "loss": loss * minibatches,
                "gradient_norm": norm,
                **({"bounded_share": (norm > bound).astype(norm.dtype)} if bound else {}),
                **jax.tree.map(lambda x: x * minibatches, metrics),  # these are sums over rows
            }
            return (optax.apply_updates(params, updates), opt), metrics

        def epoch(carry, epoch_key):
            rows = jax.tree.leaves(batch)[0].shape[0]
            order = jax.random.permutation(epoch_key, rows)
            moved = jax.tree.map(lambda x: x[order], apart(batch))
            return jax.lax.scan(step, carry, _split(moved, minibatches))

        carry = (state.params, state.opt)
        if epochs == minibatches == 1:
            (params, opt), metrics = step(carry, batch)
        else:
            (params, opt), metrics = jax.lax.scan(
                epoch, carry, jax.random.split(shuffle_key, epochs)
            )
            metrics = jax.tree.map(jnp.mean, metrics)
        return LearnerState(state.step + 1, state.key, params, opt, aux), {**prepared, **metrics}

    return Learner(init, update)
