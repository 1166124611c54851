"""Strings of tokens: prefixes, ends, the log-probs of given tokens, and how strings are weighted
against each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fdiv import head
from fdiv.types import PAD, Params, Policy, Scorer, Sequences, UsageError

Aggregate = Literal["string", "token", "string_mean", "constant"]
Eos = int | tuple[int, ...] | None  # what ends a string; None: nothing does before the horizon
CHUNK_ELEMENTS = (
    1 << 26
)  # a [B, T, V] array of more elements than this is made a stretch of T at a time


def real(x) -> Array:
    """An array in the precision of the moment: a known expert's float64 numbers serve float32
    training and exact work alike."""
    return jnp.asarray(
        x.astype(jax.dtypes.canonicalize_dtype(np.float64)) if isinstance(x, np.ndarray) else x
    )


def previous(tokens: Array) -> Array:
    """The token before each position, `PAD` before the first: what a policy reads to write position
    t. [B, T] -> [B, T]"""
    return jnp.concatenate([jnp.full_like(tokens[:, :1], PAD), tokens], axis=1)[
        :, : tokens.shape[1]
    ]


def last(tokens: Array) -> Array:
    """The last token of each right-padded row [B, P], `PAD` where the row is empty. [B]"""
    batch, width = tokens.shape
    if width == 0:
        return jnp.full(batch, PAD, jnp.int32)
    size = (tokens != PAD).sum(1)
    last = jnp.take_along_axis(tokens, jnp.maximum(size - 1, 0)[:, None], axis=1)[:, 0]
    return jnp.where(size > 0, last, PAD).astype(jnp.int32)


def lengths(sequences: Sequences) -> Array:
    """Number of actions of each string, [B]."""
    return sequences.mask.sum(1)


def is_eos(tokens: Array, eos: int | tuple[int, ...]) -> Array:
    """Whether each token ends a string; a pretrained model may have several that do."""
    return jnp.isin(tokens, jnp.asarray(eos)) if isinstance(eos, tuple) else tokens == eos


def ended(sequences: Sequences, eos: Eos) -> Array:
    """Whether each string's last action is EOS, [B] (all of them where strings have no EOS)."""
    if eos is None:
        return jnp.ones(sequences.tokens.shape[0], bool)
    return jnp.any(sequences.mask & is_eos(sequences.tokens, eos), axis=1)


def cut_after_eos(tokens: Array, eos: Eos) -> tuple[Array, Array]:
    """Actions [B, T] -> the same with `PAD` after the first EOS, and the mask of what is left."""
    alive = tokens != PAD
    if eos is not None:
        alive &= jnp.cumsum(is_eos(previous(tokens), eos), axis=1) == 0
    return jnp.where(alive, tokens, PAD), alive


def completions(actions: Array, eos: Eos) -> Sequences:
    """Strings without a prompt from raw actions [B, T]: cut after EOS, each of weight one."""
    tokens, mask = cut_after_eos(actions, eos)
    return Sequences(tokens, mask, jnp.ones(tokens.shape[0]))


def empty_prompts(n: int) -> Sequences:
    """n prompts of width 0."""
    return Sequences(jnp.zeros((n, 0), jnp.int32), jnp.zeros((n, 0), bool), jnp.ones(n))


def prompts_of(sequences: Sequences, horizon: int) -> Sequences:
    """The prompts of whole strings: everything before the first action, in `T - horizon` columns,
    padding moved behind."""
    width = sequences.tokens.shape[1] - horizon
    before = jnp.cumsum(sequences.mask, axis=1) == 0
    tokens = jnp.where(before, sequences.tokens, PAD)
    start = jnp.argmax(tokens != PAD, axis=1)[
        :, None
    ]  # 0 where there is no padding before the prompt, or no prompt
    tokens = jnp.take_along_axis(
        tokens, jnp.minimum(start + jnp.arange(width)[None], tokens.shape[1] - 1), axis=1
    )
    return Sequences(tokens, jnp.zeros_like(tokens, bool), sequences.weight)


def append(prompts: Sequences, actions: Array, eos: Eos) -> Sequences:
    """Right-padded prompts [B, P] and actions [B, H] -> strings [B, P + H], each action right after
    its own prompt."""
    actions, _ = cut_after_eos(actions, eos)
    width = prompts.tokens.shape[1]
    if width == 0:
        return Sequences(actions, actions != PAD, prompts.weight)
    size = (prompts.tokens != PAD).sum(1, keepdims=True)
    column = jnp.arange(width + actions.shape[1])[None]
    both = jnp.concatenate([prompts.tokens, actions, jnp.full_like(actions[:, :1], PAD)], axis=1)
    source = jnp.where(column < size, column, jnp.minimum(column - size + width, both.shape[1] - 1))
    tokens = jnp.take_along_axis(both, source, axis=1)
    return Sequences(tokens, (column >= size) & (tokens != PAD), prompts.weight)


def pick(values: Array, tokens: Array, mask: Array) -> Array:
    """`values[..., tokens]` where the mask is True, else 0; what stands at masked places is never
    read. [B, T]"""
    chex.assert_equal_shape([tokens, mask])
    chex.assert_equal_shape_prefix([values, tokens], tokens.ndim)
    picked = jnp.take_along_axis(values, jnp.maximum(tokens, 0)[..., None], axis=-1)[..., 0]
    return jnp.where(mask, picked, 0.0)


def by_stretches(function: Callable, vocab: int, *arrays: Array) -> Array:
    """`function(*arrays)` on arrays [B, T, ...] -> [B, T], or several; where [B, T, vocab] would be
    large, a stretch of T at a time."""
    batch, time = arrays[0].shape[:2]
    stretch = max(1, CHUNK_ELEMENTS // max(1, batch * vocab))
    if stretch >= time:
        return function(*arrays)
    count = -(-time // stretch)
    pad = lambda x: jnp.pad(x, [(0, 0), (0, count * stretch - time)] + [(0, 0)] * (x.ndim - 2))
    split = lambda x: pad(x).reshape(batch, count, stretch, *x.shape[2:]).swapaxes(0, 1)
    out = jax.lax.map(jax.checkpoint(lambda xs: function(*xs)), tuple(map(split, arrays)))
    join = lambda x: x.swapaxes(0, 1).reshape(batch, count * stretch)[:, :time]
    return jax.tree.map(join, out)


def taken(model: Policy | Scorer, params: Params, sequences: Sequences, vocab: int) -> Array:
    """What the model's head says of every action: its log-prob, or a scorer's number; 0 off the
    mask. [B, T]"""
    short = model.short
    if short is not None and short.trunk is model.trunk and short.head is model.head:
        return jnp.where(sequences.mask, short.taken(params, sequences.tokens), 0.0)
    own = head_of(model, params, sequences.tokens)
    if own is not None:
        return head.log_probs(own, sequences.tokens, sequences.mask)
    features = model.trunk(params, sequences.tokens)
    of_actions = lambda f, tokens, mask: pick(model.head(params, f), tokens, mask)
    return by_stretches(of_actions, vocab, features, sequences.tokens, sequences.mask)


log_probs = taken  # log q(token | prefix), for a policy


def head_of(model: Policy | Scorer, params: Params, tokens: Array) -> head.Head | None:
    """Features [B, T, D] and readout for the fused head; None for a model without a readout."""
    if not isinstance(model, Policy) or model.readout is None:
        return None
    return head.Head(model.trunk(params, tokens), model.readout(params))


def read(policy: Policy, params: Params, sequences: Sequences) -> Policy:
    """The policy with its features of these strings computed: whatever is asked of it next is asked
    about them."""
    features = policy.trunk(params, sequences.tokens)
    return policy._replace(trunk=lambda params, tokens: features, answers=None)


def distributions(model: Policy | Scorer, params: Params, tokens: Array) -> Array:
    """log q(. | prefix), or a scorer's numbers for every token, at every position. [B, T, V]"""
    return model.head(params, model.trunk(params, tokens))


def normalise(
    sequences: Sequences, aggregate: Aggregate = "string", horizon: int | None = None
) -> Sequences:
    """Rescale the weights so that a weighted sum over strings and their actions is the average
    wanted.

    `string`: sum over a string's actions, mean over strings (the law of whole strings). `token`:
    mean over all actions. `string_mean`: mean within each string, then over strings. `constant`:
    sum over actions over strings x `horizon` (the most actions of a string; None: all columns)."""
    weight, size = sequences.weight, lengths(sequences)
    total = weight.sum()
    if aggregate == "string":
        weight = weight / total
    elif aggregate == "token":
        weight = weight / (weight * size).sum()
    elif aggregate == "string_mean":
        weight = weight / (total * jnp.maximum(size, 1))
    elif aggregate == "constant":
        weight = weight / (total * (horizon or sequences.tokens.shape[1]))
    else:
        raise UsageError(
            "aggregate",
            aggregate,
            "is not a way to average.",
            "Use string, token, string_mean or constant.",
        )
    return sequences._replace(weight=weight)


def hold(values: Array, mask: Array) -> Array:
    """Per-action values with each string's last one held over the absorbing state, 0 before its
    first action. [B, T]"""
    column = jnp.arange(mask.shape[1])[None]
    last = jnp.max(jnp.where(mask, column, 0), axis=1, keepdims=True)
    values = jnp.where(mask, values, 0.0)
    return jnp.where(column > last, jnp.take_along_axis(values, last, axis=1), values)
