"""From log-ratios to advantages: what each action of a sampled string is worth to a divergence at a
level.

All of it works in action coordinates [B, H]: column k is a string's k-th action whatever the width
of its prompt."""

from __future__ import annotations

from typing import Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import Array

from fdiv.types import Divergence, Level, Sequences, UsageError

Baseline = Literal["none", "mean", "leave_one_out"]


class Scored(NamedTuple):
    """Sampled strings and what each action was worth: a batch for `score_function_loss`."""

    sequences: Sequences
    advantages: Array  # [B, T], columns as in `sequences`


def first_action(mask: Array) -> Array:
    """Column of each string's first action, [B, 1]."""
    return jnp.argmax(mask, axis=1)[:, None]


def to_actions(values: Array, mask: Array, horizon: int) -> Array:
    """[B, T] in string columns -> [B, H] in action coordinates; beyond the last action, whatever
    stands there."""
    if values.shape[1] == horizon:
        return values
    return jnp.take_along_axis(values, first_action(mask) + jnp.arange(horizon)[None], axis=1)


def to_columns(values: Array, mask: Array) -> Array:
    """[B, H] in action coordinates -> [B, T] in string columns, 0 off the mask."""
    if values.shape[1] != mask.shape[1]:
        column = jnp.arange(mask.shape[1])[None] - first_action(mask)
        values = jnp.take_along_axis(values, jnp.clip(column, 0, values.shape[1] - 1), axis=1)
    return jnp.where(mask, values, 0.0)


def discounted_to_go(x: Array, discount: float) -> Array:
    """sum over j >= k of discount^(j - k) x_j, along the last axis."""
    if discount == 0:
        return x
    if discount == 1:
        return jnp.cumsum(x[..., ::-1], axis=-1)[..., ::-1]
    step = lambda later, now: (now + discount * later,) * 2
    return jax.lax.scan(step, jnp.zeros_like(x[..., 0]), jnp.moveaxis(x, -1, 0), reverse=True)[
        1
    ].swapaxes(0, -1)


def returns_to_go(
    d: Divergence, level: Level, prefix: Array, mask: Array, discount: float = 1.0
) -> Array:
    """R[b, k] with `-grad D = E_q[sum_k R_k grad log q(action_k | prefix)]`, exactly at discount 1,
    for each level. [B, H]

    `prefix[b, k]` is the log-ratio of the first k+1 actions, constant after the end (the absorbing
    state). With r = d.reward, s_k its argument after action k and g_j = r(s_j) - r(s_{j-1}) what
    action j adds to it:

        sequence      sum over j >= k of g_j = r(s_end) - r(s_{k-1})
        occupancy     sum over j >= k of g_j (H - j) / H, the mean over positions of
                      r(s_j) - r(s_{k-1})
        token_policy  (r(ds_k) - sum over j > k of f(e^{ds_j})) / H, ds the per-token log-ratio

    Leaving out r(s_{k-1}), which the prefix decides, costs no bias: for reverse_kl what remains is
    the usual reward-to-go, for forward_kl the exact advantage, since e^s is a martingale under q. A
    discount below 1 weighs later terms by discount^(j - k): biased, less noisy; at 0 prefixes count
    as fixed."""
    chex.assert_rank(prefix, 2)
    chex.assert_equal_shape([prefix, mask])
    horizon = prefix.shape[1]
    before = jnp.pad(prefix, [(0, 0), (1, 0)])[:, :-1]
    if level == Level.sequence and discount == 1:
        return d.reward(prefix[:, -1:]) - d.reward(before)
    if level in (Level.sequence, Level.occupancy):
        left = 1.0 if level == Level.sequence else (horizon - jnp.arange(horizon)[None]) / horizon
        return discounted_to_go(left * (d.reward(prefix) - d.reward(before)), discount)
    if level == Level.token_policy:
        step = prefix - before
        cost = jnp.where(mask, d.perspective(step, jnp.zeros_like(step)), 0.0)
        return (d.reward(step) - (discounted_to_go(cost, discount) - cost)) / horizon
    problem = "has no returns: its prefixes are not the policy's."
    raise UsageError("level", level, problem, "Use sequence, occupancy or token_policy.")


def advantages(
    returns: Array, mask: Array, weight: Array, baseline: Baseline = "leave_one_out"
) -> Array:
    """Returns less a baseline for each action index. [B, H]

    `leave_one_out` (Kool, van Hoof & Welling 2019) takes the mean of the other strings that reach
    the index, so it stays unbiased. `mean` takes that of all n strings, those that have ended with
    a return to go of 0: this shrinks the expected gradient by exactly 1 - 1/n, whatever the
    lengths. Enumerated strings (weights that are not 0 or 1) are the whole population: there, both
    are means over it."""
    chex.assert_rank([returns, mask, weight], [2, 2, 1])
    chex.assert_equal_shape([returns, mask])
    chex.assert_equal_shape_prefix([returns, weight], 1)
    if baseline == "none":
        return jnp.where(mask, returns, 0.0)
    share = jnp.where(mask, weight[:, None], 0.0)
    own = share
    if baseline == "mean":
        share = jnp.broadcast_to(weight[:, None], share.shape)
        own = jnp.zeros_like(share)
    elif baseline != "leave_one_out":
        raise UsageError(
            "baseline", baseline, "is not a baseline.", "Use none, mean or leave_one_out."
        )
    own = jnp.where(jnp.all((weight == 0) | (weight == 1)), own, 0.0)
    others = share.sum(0, keepdims=True) - own
    sums = (share * jnp.where(mask, returns, 0.0)).sum(0, keepdims=True) - own * returns
    centre = jnp.where(others > 0, sums / jnp.where(others > 0, others, 1.0), 0.0)
    return jnp.where(mask, returns - centre, 0.0)


def score_function_loss(log_q: Array, batch: Scored) -> Array:
    """-sum_b w_b sum_t A_bt log q_bt: its gradient is the policy gradient. Williams 1992
    (REINFORCE)."""
    mask, weight = batch.sequences.mask, batch.sequences.weight
    chex.assert_equal_shape([log_q, batch.advantages, mask])
    chex.assert_rank(weight, 1)
    return -jnp.sum(weight[:, None] * jnp.where(mask, batch.advantages, 0.0) * log_q)
