"""Attention: whole strings causally, or any queries over any keys that they may see.

A softmax over keys is taken in float32, its products in the type of what they are of. Sources:
Vaswani et al. 2017; Ainslie et al. 2023 (grouped queries); Gemma Team 2024 (arXiv 2408.00118:
caps); Dao 2023 (arXiv 2307.08691: blocks of queries, without the keys that none of them sees)."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from fdiv.lm.spec import Spec

BLOCK = 64  # least queries of a block
BLOCKS = 8  # most of them: each is a piece of the program


def attend(
    spec: Spec,
    kernel: Literal["xla", "cudnn"],
    query: Array,
    key: Array,
    value: Array,
    seen: Array | None,
) -> Array:
    """softmax(cap(scale q k)) v, [B, T, heads, head_dim]."""
    if spec.attention_cap is not None:
        return _capped(spec, query, key, value, seen)
    if seen is not None:
        return jax.nn.dot_product_attention(
            query,
            key,
            value,
            mask=seen[:, None],
            scale=spec.attention_scale,
            implementation="xla",
        )
    if kernel == "xla":
        return causal(spec, query, key, value)
    length = query.shape[1]
    # cuDNN's gradient takes even lengths alone; a last column more is seen by nothing
    room = [(0, 0), (0, length % 2), (0, 0), (0, 0)]
    query, key, value = (jnp.pad(x, room) for x in (query, key, value))
    mixed = jax.nn.dot_product_attention(
        query,
        key,
        value,
        is_causal=True,
        scale=spec.attention_scale,
        local_window_size=None if spec.window is None else (spec.window - 1, 0),
        implementation="cudnn",
    )
    return mixed[:, :length]


def _capped(spec: Spec, query: Array, key: Array, value: Array, seen: Array | None) -> Array:
    """Attention whose logits are capped, which no fused kernel computes."""
    if seen is None:
        raise ValueError("capped attention takes who may look where")
    batch, length = query.shape[:2]
    grouped = query.reshape(batch, length, spec.kv_heads, -1, spec.head_dim)
    logits = jnp.einsum("btkgd,bskd->bkgts", grouped, key, preferred_element_type=jnp.float32)
    logits = softcap(logits * spec.attention_scale, spec.attention_cap)
    share = jax.nn.softmax(jnp.where(seen[:, None, None], logits, -jnp.inf), axis=-1)
    mixed = jnp.einsum("bkgts,bskd->btkgd", share.astype(value.dtype), value)
    return mixed.reshape(query.shape)


def causal(spec: Spec, query: Array, key: Array, value: Array) -> Array:
    """Attention of each token to itself and those before it, within the window of all layers.

    Queries are taken a block at a time over the keys that any of them sees, so that most of what is
    masked is never computed. Heads come in front, and the queries of heads that share keys lie
    below one another: a product is of matrices, one for each string and head of keys."""
    batch, length, heads, size = query.shape
    groups = spec.kv_heads
    grouped = query.reshape(batch, length, groups, heads // groups, size).transpose(0, 2, 3, 1, 4)
    key, value = (x.transpose(0, 2, 1, 3) for x in (key, value))
    step = max(BLOCK, -(-length // BLOCKS))
    mixed = []
    for begin in range(0, length, step):
        end = min(begin + step, length)
        first = 0 if spec.window is None else max(0, begin - spec.window + 1)
        mixed.append(
            _over(
                spec,
                grouped[..., begin:end, :],
                key[:, :, first:end],
                value[:, :, first:end],
                begin - first,
            )
        )
    rows = jnp.concatenate(mixed, axis=3)  # [B, groups, heads of a group, T, head_dim]
    return rows.transpose(0, 3, 1, 2, 4).reshape(query.shape)


def _over(spec: Spec, query: Array, key: Array, value: Array, before: int) -> Array:
    """Attention of queries [B, G, R, C, D] to keys [B, G, S, D], of which `before` lie before the
    first query."""
    batch, groups, each, count, size = query.shape
    rows = query.reshape(batch, groups, each * count, size)
    wide = jnp.promote_types(query.dtype, jnp.float32)
    logits = jnp.einsum("bgrd,bgsd->bgrs", rows, key, preferred_element_type=wide)
    logits = logits.reshape(batch, groups, each, count, -1) * spec.attention_scale
    distance = before + jnp.arange(count)[:, None] - jnp.arange(key.shape[2])[None]
    seen = distance >= 0
    if spec.window is not None:
        seen &= distance < spec.window
    share = jax.nn.softmax(jnp.where(seen, logits, -jnp.inf), axis=-1).astype(value.dtype)
    share = share.reshape(batch, groups, each * count, -1)
    mixed = jnp.einsum("bgrs,bgsd->bgrd", share, value)
    return mixed.reshape(query.shape)


def softcap(x: Array, cap: float | None) -> Array:
    """cap tanh(x / cap); x itself where there is no cap."""
    return x if cap is None else cap * jnp.tanh(x / cap)
