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

from fdiv.parted import summed
from fdiv.types import ALONE, Alike, Learner, LearnerState, Objective, Params, UsageError

NOISE = 2  # folded into a key of which 0 and 1 are what it splits into


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
    return _split(_uncut(tree, jax.tree.leaves(tree)[0].shape[0] // parts), parts)


def _uncut(tree, size: int):
    """The same rows for parts of so many: groups stay known where no part cuts one."""
    known = lambda x: isinstance(x, Alike)
    cut = any(known(x) and size % x.group for x in jax.tree.leaves(tree, is_leaf=known))
    return apart(tree) if cut else tree


def _slope(
    objective: Objective,
    in_training: Callable[[Params, Array], Params] | None,
    key: Array | None,
) -> Callable:
    """(params, aux, a part of a batch, its number) -> ((loss, metrics), gradient), all of them sums
    over the part's rows."""

    def loss(params: Params, aux, batch, part):
        if in_training is not None and key is not None:
            params = in_training(params, jax.random.fold_in(key, part))
        return objective.loss(params, aux, batch)

    return jax.value_and_grad(loss, has_aux=True)


def _accumulated(slope: Callable, count: int, params: Params, aux, batch):
    """`slope` summed over so many parts, one after another."""
    if count == 1:
        return slope(params, aux, batch, 0)

    def add(total, part):
        micro, number = part
        return jax.tree.map(jnp.add, total, slope(params, aux, micro, number)), None

    micros = _in_order(batch, count)
    zero = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(slope, params, aux, batch, 0)
    )
    return jax.lax.scan(add, zero, (micros, jnp.arange(count)))[0]


def learner(
    objective: Objective,
    tx: optax.GradientTransformation,
    *,
    epochs: int = 1,
    minibatches: int = 1,
    accumulate: int = 1,
    in_parts: Callable[[Callable, Params, Any, Any], Any] | None = None,
    bound: float = 0.0,
    in_training: Callable[[Params, Array], Params] | None = None,
) -> Learner:
    """One `update` for every method.

    The loss is a sum over rows, so gradients of `accumulate` microbatches add up to the undivided
    one's; a minibatch's are scaled by `minibatches`, so that each step is as long as a step on the
    whole batch. `in_parts(slope, params, aux, batch)` sums a batch's gradients over parts of its
    own, such as `buckets.gradient`, in the place of `accumulate`; `slope` takes a part and its
    number. `bound` is the largest norm that `tx` leaves a gradient, if any: an update reports the
    share of its steps in which it was longer.

    `in_training(params, key)` is what the loss computes with in the place of the parameters, where
    that differs, such as with dropout: each part of each step has a key of its own. It reaches the
    differentiated loss alone: `prepare`, and so every rollout and all log-probs that are kept, has
    the parameters themselves."""

    def noise(key: Array, count: int | None = None) -> Array | None:
        """Keys of so many steps, or of one, that depend on nothing else that is made of `key`."""
        own = jax.random.fold_in(key, NOISE) if in_training else None
        return own if own is None or count is None else jax.random.split(own, count)

    def gradient(params: Params, aux, batch, key: Array | None):
        slope = _slope(objective, in_training, key)
        if in_parts is not None:
            return in_parts(slope, params, aux, apart(batch))
        if key is not None:  # noise is of all rows of a part, whatever devices they are on
            return _accumulated(slope, accumulate, params, aux, batch)
        return summed(accumulated, (params, aux), batch, accumulate)

    def accumulated(shared: tuple[Params, Any], batch):
        """A batch's gradient without noise, or that of the rows of one device."""
        rows = _uncut(batch, jax.tree.leaves(batch)[0].shape[0])
        return _accumulated(_slope(objective, None, None), accumulate, *shared, rows)

    def init(key: Array, params: Params) -> LearnerState:
        aux = objective.init(jax.random.fold_in(key, 0), params)
        return LearnerState(jnp.zeros((), jnp.int32), key, params, tx.init(params), aux)

    def update(state: LearnerState, batch) -> tuple[LearnerState, dict]:
        key = jax.random.fold_in(state.key, state.step)
        prepare_key, shuffle_key = jax.random.split(key)
        aux, batch, prepared = objective.prepare(prepare_key, state.params, state.aux, batch)

        def step(carry, part):
            (params, opt), (rows, step_key) = carry, part
            (loss, metrics), grads = gradient(params, aux, rows, step_key)
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
            parts = _split(moved, minibatches), noise(epoch_key, minibatches)
            return jax.lax.scan(step, carry, parts)

        carry = (state.params, state.opt)
        if epochs == minibatches == 1:
            (params, opt), metrics = step(carry, (batch, noise(key)))
        else:
            (params, opt), metrics = jax.lax.scan(
                epoch, carry, jax.random.split(shuffle_key, epochs)
            )
            metrics = jax.tree.map(jnp.mean, metrics)
        return LearnerState(state.step + 1, state.key, params, opt, aux), {**prepared, **metrics}

    return Learner(init, update)
