"""A decoder-only transformer: RMSNorm, rotary positions, gated MLP, grouped-query attention, tied embeddings.

An optional attention window bounds how far back a token looks. One module serves training and decoding: a call takes the
keys and values of what came before as an argument and returns its own, so the cache is a plain array and the sampler's
log-probs are the trainer's. In bfloat16 products are half as wide; parameters, sums, norms, softmaxes and the residual stream
stay in float32. Sources: Zhang & Sennrich 2019 (RMSNorm), Su et al. 2021 (rotary), Shazeer 2020 (gated MLP),
Ainslie et al. 2023 (grouped queries).
"""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from fdiv import tokens as tk
from fdiv.checks import one_of
from fdiv.types import PAD, Params, Policy, Scorer, Sequences, UsageError

Precision = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class Shape:
    """Size of the network."""

    layers: int = 2
    width: int = 64
    heads: int = 4
    kv_heads: int = 2
    window: int | None = None  # how many tokens back attention reaches, itself included; None: all of them
    precision: Precision = "float32"  # of products
    remat: bool = False  # compute a layer again on the way back rather than keep what it computed

    @property
    def narrow(self) -> jnp.dtype | None:
        """What products are computed in, where that is not the parameters' own type."""
        return jnp.bfloat16 if self.precision == "bfloat16" else None

    def check(self) -> None:
        """Raise `UsageError` naming the field that does not fit."""
        for field in ("layers", "width", "heads", "kv_heads"):
            if getattr(self, field) < 1:
                raise UsageError(f"policy.{field}", getattr(self, field), "is too small.", "Give at least 1.")
        if self.width % (2 * self.heads):
            problem = f"does not split into {self.heads} heads of even size."
            raise UsageError("policy.width", self.width, problem, f"Give a multiple of {2 * self.heads}.")
        if self.heads % self.kv_heads:
            raise UsageError("policy.kv_heads", self.kv_heads, f"does not divide {self.heads} heads.", "Give a divisor.")
        one_of("policy.precision", self.precision, Precision)
        if self.window is not None and self.window < 1:
            raise UsageError("policy.window", self.window, "is too small.", "Give at least 1, or leave it out for no window.")


class Cache(NamedTuple):
    """Keys and values of the tokens read so far, one entry a layer, and where they stand."""

    keys: list[Array]  # each [B, S, kv_heads, D]
    values: list[Array]
    position: Array  # [B, S] of each slot's token, -1 where the slot is empty
    slot: Array  # the next slot to write
    next: Array  # [B] the position of the next token


class RMSNorm(nn.Module):
    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6) * jnp.expand_dims(scale, range(x.ndim - 1))


def rotate(x: Array, position: Array) -> Array:
    """Rotary embedding of x [B, T, heads, D] at positions [B, T]."""
    half = x.shape[-1] // 2
    frequency = 10_000.0 ** (-jnp.arange(half) / half)
    angle = position[..., None, None] * frequency[None, None, None]
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * jnp.cos(angle) - b * jnp.sin(angle), a * jnp.sin(angle) + b * jnp.cos(angle)], axis=-1)


class Attention(nn.Module):
    shape: Shape

    @nn.compact
    def __call__(self, x: Array, position: Array, allowed: Array, past: tuple[Array, Array, Array] | None):
        """`allowed` [B, T, S] says who may look where; `past` is (keys, values, slot) to write into."""
        heads, groups = self.shape.heads, self.shape.kv_heads
        size, narrow = self.shape.width // heads, self.shape.narrow
        project = lambda name, n: nn.DenseGeneral((n, size), use_bias=False, dtype=narrow, name=name)(x)
        query, key = (_cast(rotate(project(name, n), position), narrow) for name, n in (("query", heads), ("key", groups)))
        value = project("value", groups)
        if past is not None:
            keys, values, slot = past
            key = jax.lax.dynamic_update_slice_in_dim(keys, key, slot, axis=1)
            value = jax.lax.dynamic_update_slice_in_dim(values, value, slot, axis=1)
        query = query.reshape(*query.shape[:2], groups, heads // groups, size)
        wide = None if narrow is None else jnp.float32
        scores = jnp.einsum("btghd,bsgd->bghts", query, key, preferred_element_type=wide) * size**-0.5
        scores = jnp.where(allowed[:, None, None], scores, -1e30)
        mixed = jnp.einsum("bghts,bsgd->btghd", _cast(jax.nn.softmax(scores, axis=-1), narrow), value)
        out = nn.DenseGeneral(self.shape.width, axis=(-3, -2, -1), use_bias=False, dtype=narrow, name="out")(mixed)
        return out, (key, value)


def _cast(x: Array, narrow: jnp.dtype | None) -> Array:
    return x if narrow is None else x.astype(narrow)


class GatedMLP(nn.Module):
    shape: Shape

    @nn.compact
    def __call__(self, x: Array) -> Array:
        dense = lambda name, size: nn.Dense(size, use_bias=False, dtype=self.shape.narrow, name=name)
        hidden = nn.silu(dense("gate", 3 * self.shape.width)(x)) * dense("up", 3 * self.shape.width)(x)
        return dense("down", self.shape.width)(hidden)


class Trunk(nn.Module):
    """Tokens read, at given positions -> features [B, T, width] and each layer's keys and values."""

    shape: Shape
    vocab: int

    @nn.compact
    def __call__(self, read: Array, position: Array, allowed: Array, past: list | None = None):
        # a token of its own, the last row, stands for "before the start"
        table = self.param(
            "embedding", nn.initializers.normal(0.5 * self.shape.width**-0.5), (self.vocab + 1, self.shape.width)
        )
        x = table[jnp.where(read == PAD, self.vocab, read)] * self.shape.width**0.5
        written = []
        again = nn.remat if self.shape.remat else lambda module: module
        for layer in range(self.shape.layers):
            before = None if past is None else past[layer]
            mixed, kv = again(Attention)(self.shape, name=f"attention_{layer}")(
                RMSNorm(name=f"norm_a{layer}")(x), position, allowed, before
            )
            x = x + mixed
            y = RMSNorm(name=f"norm_b{layer}")(x)
            x = x + again(GatedMLP)(self.shape, name=f"mlp_{layer}")(y)
            written.append(kv)
        return RMSNorm(name="norm_out")(x), written


def _reach(shape: Shape, query: Array, key: Array) -> Array:
    """Whether a query at one position may see a key at another: causal, within the window, the key not empty. [B, T, S]"""
    distance = query[:, :, None] - key[:, None, :]
    allowed = (distance >= 0) & (key[:, None, :] >= 0)
    return allowed if shape.window is None else allowed & (distance < shape.window)


def _layout(tokens: Array) -> tuple[Array, Array]:
    """What position t reads, and its position counted from the string's start (-1 in the padding before it). [B, T]"""
    read = tk.previous(tokens)
    inside = (tokens != PAD) | (read != PAD)
    return read, jnp.where(inside, jnp.cumsum(inside, axis=1) - 1, -1)


def policy(shape: Shape, vocab: int) -> Policy:
    """The transformer as a policy; features are [B, T, width], the head is the transposed embedding table."""
    shape.check()
    trunk = Trunk(shape, vocab)

    def init(key: Array) -> Params:
        tokens = jnp.zeros((1, 2), jnp.int32)
        read, position = _layout(tokens)
        return trunk.init(key, read, position, _reach(shape, position, position))

    def features(params: Params, tokens: Array):
        read, position = _layout(tokens)
        allowed = (
            _reach(shape, position, position) | jnp.eye(tokens.shape[1], dtype=bool)[None]
        )  # padding sees itself, not nothing
        return trunk.apply(params, read, jnp.maximum(position, 0), allowed)

    def head(params: Params, x: Array) -> Array:
        x, table = (_cast(a, shape.narrow) for a in (x, params["params"]["embedding"][:vocab]))
        return jax.nn.log_softmax(jnp.matmul(x, table.T, preferred_element_type=shape.narrow and jnp.float32))

    def start(params: Params, prompts: Sequences, horizon: int) -> Cache:
        batch, width = prompts.tokens.shape
        room = [(0, 0), (0, horizon), (0, 0), (0, 0)]
        size = (prompts.tokens != PAD).sum(1)
        slots = jnp.arange(width + horizon)
        position = jnp.where(slots[None] < size[:, None], slots[None], -1)
        if width == 0:
            empty = jnp.zeros((batch, horizon, shape.kv_heads, shape.width // shape.heads), shape.narrow)
            written = [(empty, empty)] * shape.layers
        else:
            written = [tuple(jnp.pad(x, room) for x in kv) for kv in features(params, prompts.tokens)[1]]
        keys, values = zip(*written)
        return Cache(list(keys), list(values), position, jnp.asarray(width), size)

    def step(params: Params, cache: Cache, token: Array) -> tuple[Cache, Array]:
        position = jax.lax.dynamic_update_slice_in_dim(cache.position, cache.next[:, None], cache.slot, axis=1)
        allowed = _reach(shape, cache.next[:, None], position)
        past = [(k, v, cache.slot) for k, v in zip(cache.keys, cache.values)]
        x, written = trunk.apply(params, token[:, None], cache.next[:, None], allowed, past)
        keys, values = zip(*written)
        return Cache(list(keys), list(values), position, cache.slot + 1, cache.next + 1), head(params, x[:, 0])

    return Policy(init, lambda params, tokens: features(params, tokens)[0], head, start, step)


def scorer(shape: Shape, vocab: int, from_policy: bool = False, outputs: int | None = None) -> Scorer:
    """A linear read-out of the trunk's features, one number per next token (or so many `outputs`), zero at first.

    With `from_policy` (the policy is of the same shape) the trunk begins as the policy's: what it knows of the text serves.
    """
    own = policy(shape, vocab)

    def init(key: Array, start: Params) -> Params:
        return {"trunk": start if from_policy else own.init(key), "read_out": jnp.zeros((shape.width, outputs or vocab))}

    return Scorer(init, lambda params, tokens: own.trunk(params["trunk"], tokens), lambda params, x: x @ params["read_out"])
