"""Attention: whole strings causally, or any queries over any keys that they may see.

A softmax over keys is taken in float32, its products in the type of what they are of. Sources:
Vaswani et al. 2017; Ainslie et al. 2023 (grouped queries); Gemma Team 2024 (arXiv 2408.00118:
caps); Dao 2023 (arXiv 2307.08691: blocks of queries, without the keys that none of them sees)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from fdiv.checks import present
from fdiv.few_rows import by_tiles, in_tiles, tiling
from fdiv.lm.spec import Spec
from fdiv.parted import rows_are_parted

BLOCK = 64  # least queries of a block
BLOCKS = 8  # most of them: each is a piece of the program
SHORTEST = 128  # columns of a cache that are read in any case: with fewer nothing is gained


def attend(
    spec: Spec,
    kernel: Literal["xla", "cudnn"],
    query: Array,
    key: Array,
    value: Array,
    seen: Array | None,
) -> Array:
    """softmax(cap(scale q k)) v of whole strings, [B, T, heads, head_dim]; `seen` [B or 1, T, S] as
    in `masked`, None: everything before, within the window of all layers."""
    if seen is not None:
        return masked(spec, query, columns(key)[:, :, None], in_front(value), seen)
    if spec.attention_cap is not None:
        raise ValueError("capped attention takes who may look where")
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


class Together(NamedTuple):
    """Prompts and their answers as one row, N prompts of P columns and then B answers of H, each
    group's in a row: of each query and key whether the one sees the other, or how far it is."""

    prompts: Array  # [1, P, P]
    answers: Array  # [N, H, P + H], a prompt's keys and then an answer's own


def together(spec: Spec, query: Array, key: Array, value: Array, seen: Together) -> Array:
    """Attention of prompts to themselves, and of answers to their prompts and to themselves,
    [1, N P + B H, heads, head_dim]."""
    (count, length, _), width = seen.answers.shape, seen.prompts.shape[1]
    cut = count * width
    first = lambda x: x[0, :cut].reshape(count, width, *x.shape[2:])
    rest = lambda x: x[0, cut:].reshape(-1, length, *x.shape[2:])
    group = rest(query).shape[0] // count
    each = lambda x: jnp.repeat(x, group, axis=0)
    both = lambda x: jnp.concatenate([each(first(x)), rest(x)], axis=1)
    prompts = _in_blocks(spec, first(query), first(key), first(value), seen.prompts)
    answers = _in_blocks(spec, rest(query), both(key), both(value), each(seen.answers))
    flat = lambda x: x.reshape(1, -1, *x.shape[2:])
    return jnp.concatenate([flat(prompts), flat(answers)], axis=1)


def _in_blocks(spec: Spec, query: Array, key: Array, value: Array, seen: Array) -> Array:
    """Attention of the last T of S columns, [B, T, heads, D], to keys and values [B, S, ...] of all
    of them that are not behind and that `seen` [B or 1, T, S] lets them see: a block of queries at
    a time, as in `causal`."""
    length, before = query.shape[1], key.shape[1] - query.shape[1]
    grouped, key, value = _grouped(spec, query), in_front(key), in_front(value)
    step = max(BLOCK, -(-length // BLOCKS))
    mixed = []
    for begin in range(0, length, step):
        end = min(begin + step, length)
        own, reached = slice(begin, end), slice(0, before + end)
        parts = grouped[..., own, :], key[:, :, reached], value[:, :, reached]
        mixed.append(_over(spec, *parts, seen[:, None, None, own, reached], "rows"))
    return _apart(jnp.concatenate(mixed, axis=3))


def in_front(x: Array) -> Array:
    """Heads before columns: [B, S, G, D] -> [B, G, S, D], and back."""
    return x.transpose(0, 2, 1, 3)


def columns(x: Array) -> Array:
    """Each key a column: [B, S, G, D] -> [B, G, D, S]. A product of few queries with such keys
    reads them in the order in which they lie, and takes half of the time on a CPU."""
    return x.transpose(0, 2, 3, 1)


def stored(x: Array) -> Array:
    """Keys in tiles [B, G, tiles, D, .] or values [B, G, S, D] as a cache holds them: without the
    dimensions between the first and the last two that are of size 1. With one XLA for CPUs (jax
    0.10.2) copies the whole cache at each token: once for the products, which it takes without
    that dimension, and once for the next step."""
    batch, *between = x.shape[:-2]
    return x.reshape(batch, *(n for n in between if n > 1), *x.shape[-2:])


def stored_keys(x: Array, room: int) -> Array:
    """Keys [B, S, G, D] and as many columns of zeros, `stored`."""
    return stored(in_tiles(jnp.pad(columns(x), [(0, 0)] * 3 + [(0, room)])))


def stored_values(x: Array, room: int) -> Array:
    """Values [B, S, G, D] and as many columns of zeros, `stored`."""
    return stored(jnp.pad(in_front(x), [(0, 0), (0, 0), (0, room), (0, 0)]))


def keys_of(spec: Spec, x: Array) -> Array:
    """`stored` keys in tiles [B, G, tiles, D, .]."""
    return x.reshape(x.shape[0], spec.kv_heads, -1, *x.shape[-2:])


def values_of(spec: Spec, x: Array) -> Array:
    """`stored` values [B, G, S, D]."""
    return x.reshape(x.shape[0], spec.kv_heads, *x.shape[-2:])


def put(keys: Array, values: Array, key: Array, value: Array, slot: Array) -> tuple[Array, Array]:
    """`stored` keys and values with those [B, 1, G, D] of the column `slot`."""
    tiles, width = tiling(values.shape[-2])
    # of one type but where JAX's default is wider than the parameters
    key, value = columns(key).astype(keys.dtype), in_front(value).astype(values.dtype)
    shape, at = [*keys.shape[:-1], 1], [0] * (keys.ndim - 1) + [slot % width]
    if tiles > 1:
        shape[-3], at[-3] = 1, slot // width
    keys = jax.lax.dynamic_update_slice(keys, key.reshape(shape), at)
    return keys, jax.lax.dynamic_update_slice_in_dim(values, stored(value), slot, -2)


def masked(spec: Spec, query: Array, key: Array, value: Array, seen: Array) -> Array:
    """Attention of queries [B, T, heads, D] to keys in tiles [B, G, tiles, D, .] and values
    [B, G, S, D] that `seen` [B or 1, T, S] lets them see, each at least one."""
    seen = seen[:, None, None]
    return _apart(_over(spec, _grouped(spec, query), key, value, seen, "tiles"))


class Behind(NamedTuple):
    """Of answers that stand behind prompts, each group's in a row, whom a query sees, or how far it
    is."""

    prompts: Array  # [B, 1, P], of the keys of its prompt
    own: Array  # [B, 1, S], of those of the answer itself


class Prompts(NamedTuple):
    """Keys and values of prompts that several answers each stand behind, as `stored` has them."""

    keys: Array  # [N, G, tiles, D, columns of a tile]
    values: Array  # [N, G, P, D]


def filled(
    spec: Spec,
    query: Array,
    key: Array,
    value: Array,
    seen: Array | Behind,
    slot: Array,
    prompts: Prompts | None = None,
) -> Array:
    """`masked` of one query a string and a `stored` cache of S columns, filled up to `slot`, behind
    `prompts` where there are any, whose keys all of a group's queries meet in one product.

    On a CPU it reads no more than the next of `reached` lengths. An accelerator would wait at every
    layer to be told which, and rows that are parted over devices stay one program's."""

    own = seen.own if isinstance(seen, Behind) else seen
    key, value = keys_of(spec, key), values_of(spec, value)

    def up_to(columns: int) -> Array:
        # slices of one's own, so that what is not read is not copied either
        tiles = -(-columns // key.shape[-1])
        keys, values, now = key[:, :, :tiles], value[:, :, :columns], own[..., :columns]
        if not isinstance(seen, Behind):
            return masked(spec, query, keys, values, now)
        both = Behind(seen.prompts, now)
        before = present(prompts, "prompts")
        before = Prompts(keys_of(spec, before.keys), values_of(spec, before.values))
        return _apart(_behind(spec, _grouped(spec, query), keys, values, both, before))

    lengths = reached(value.shape[2])
    if len(lengths) == 1 or jax.default_backend() != "cpu" or rows_are_parted():
        return up_to(lengths[-1])
    which = jnp.sum(slot >= jnp.asarray(lengths[:-1]))
    return jax.lax.switch(which, [lambda n=n: up_to(n) for n in lengths])


def _behind(
    spec: Spec, query: Array, key: Array, value: Array, seen: Behind, prompts: Prompts
) -> Array:
    """Attention of grouped queries [B, G, R, 1, D] to their prompts' keys and their own."""
    batch, groups, each, _, size = query.shape
    count = prompts.keys.shape[0]
    answers = batch // count

    def together(x: Array) -> Array:
        """[B, G, R, K] -> [N, G, answers x R, K], the rows of a prompt's answers."""
        x = x.reshape(count, answers, groups, -1, x.shape[-1]).transpose(0, 2, 1, 3, 4)
        return x.reshape(count, groups, -1, x.shape[-1])

    def apart(x: Array) -> Array:
        x = x.reshape(count, groups, answers, -1, x.shape[-1]).transpose(0, 2, 1, 3, 4)
        return x.reshape(batch, groups, -1, x.shape[-1])

    rows = query.reshape(batch, groups, each, size)
    wide = jnp.promote_types(query.dtype, jnp.float32)
    mix = lambda a, b: jnp.einsum(
        "bgrs,bgsd->bgrd", a.astype(value.dtype), b, preferred_element_type=wide
    )

    def logits(x: Array, key: Array, seen: Array) -> Array:
        x = by_tiles(x, key, seen.shape[-1], wide)
        x = softcap(x * spec.attention_scale, spec.attention_cap)
        return jnp.where(seen, x, -jnp.inf)

    of_prompts = jnp.repeat(seen.prompts, each, axis=1).reshape(count, 1, answers * each, -1)
    far = logits(together(rows), prompts.keys, of_prompts)
    near = logits(rows, key, seen.own[:, None])
    most = jnp.maximum(apart(far.max(-1, keepdims=True)), near.max(-1, keepdims=True))
    far, near = jnp.exp(far - together(most)), jnp.exp(near - most)
    total = apart(far.sum(-1, keepdims=True)) + near.sum(-1, keepdims=True)
    mixed = (apart(mix(far, prompts.values)) + mix(near, value)) / total
    return mixed.astype(value.dtype).reshape(query.shape)


def reached(columns: int) -> tuple[int, ...]:
    """Lengths in which a cache of so many columns is read: `SHORTEST` and twice that each time, up
    to the last that is at most half of it, and the whole."""
    lengths, length = [], SHORTEST
    while 2 * length <= columns:
        lengths.append(length)
        length *= 2
    return (*lengths, columns)


def _grouped(spec: Spec, query: Array) -> Array:
    """[B, T, heads, D] -> [B, G, heads of a group, T, D]."""
    batch, length, heads, size = query.shape
    groups = spec.kv_heads
    return query.reshape(batch, length, groups, heads // groups, size).transpose(0, 2, 3, 1, 4)


def _apart(grouped: Array) -> Array:
    """`_grouped` undone."""
    batch, groups, each, length, size = grouped.shape
    return grouped.transpose(0, 3, 1, 2, 4).reshape(batch, length, groups * each, size)


def causal(spec: Spec, query: Array, key: Array, value: Array) -> Array:
    """Attention of each token to itself and those before it, within the window of all layers.

    Queries are taken a block at a time over the keys that any of them sees, so that most of what is
    masked is never computed. Heads come in front, and the queries of heads that share keys lie
    below one another: a product is of matrices, one for each string and head of keys."""
    length, grouped = query.shape[1], _grouped(spec, query)
    key, value = in_front(key), in_front(value)
    step = max(BLOCK, -(-length // BLOCKS))
    mixed = []
    for begin in range(0, length, step):
        end = min(begin + step, length)
        first = 0 if spec.window is None else max(0, begin - spec.window + 1)
        distance = jnp.arange(begin, end)[:, None] - jnp.arange(first, end)[None]
        seen = distance >= 0
        if spec.window is not None:
            seen &= distance < spec.window
        own, reached = slice(begin, end), slice(first, end)
        mixed.append(
            _over(
                spec,
                grouped[..., own, :],
                key[:, :, reached],
                value[:, :, reached],
                seen,
                "rows",
            )
        )
    return _apart(jnp.concatenate(mixed, axis=3))


def _over(
    spec: Spec,
    query: Array,
    key: Array,
    value: Array,
    seen: Array,
    order: Literal["rows", "tiles"],
) -> Array:
    """Attention of grouped queries [B, G, R, C, D] to keys as rows [B, G, S, D] or in tiles of
    columns [B, G, tiles, D, .], and to values [B, G, S, D]; `seen` [..., C, S].

    The softmax's division is of what is mixed, [.., D], and not of the shares, [.., S]: one pass
    over these less, and on the way back no sum over them."""
    batch, groups, each, count, size = query.shape
    rows = query.reshape(batch, groups, each * count, size)
    wide = jnp.promote_types(query.dtype, jnp.float32)
    if order == "rows":
        logits = jnp.einsum("bgrd,bgsd->bgrs", rows, key, preferred_element_type=wide)
    else:
        logits = by_tiles(rows, key, value.shape[2], wide)
    logits = logits.reshape(batch, groups, each, count, -1) * spec.attention_scale
    logits = jnp.where(seen, softcap(logits, spec.attention_cap), -jnp.inf)
    most = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    share = jnp.exp(logits - most)
    total = share.sum(-1).reshape(batch, groups, each * count, 1)
    share = share.astype(value.dtype).reshape(batch, groups, each * count, -1)
    mixed = jnp.einsum("bgrs,bgsd->bgrd", share, value, preferred_element_type=wide) / total
    return mixed.astype(value.dtype).reshape(query.shape)


def softcap(x: Array, cap: float | None) -> Array:
    """cap tanh(x / cap); x itself where there is no cap."""
    return x if cap is None else cap * jnp.tanh(x / cap)
