"""A decoder-only transformer: RMSNorm, rotary positions, gated MLP, grouped-query attention, tied
embeddings.

An optional attention window bounds how far back a token looks. One module serves training and
decoding: a call takes the keys and values of what came before as an argument and returns its own,
so the cache is a plain array and the sampler's log-probs are the trainer's. In bfloat16 products
are half as wide; parameters, sums, norms, softmaxes and the residual stream stay in float32, and on
an NVIDIA GPU whole strings go through cuDNN's fused attention. Sources: Zhang & Sennrich 2019
(RMSNorm), Su et al. 2021 (rotary), Shazeer 2020 (gated MLP), Ainslie et al. 2023 (grouped queries),
Dao 2023 (fused attention)."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from fdiv import tokens as tk
from fdiv.checks import one_of
from fdiv.head import Head, log_law
from fdiv.types import PAD, Params, Policy, Readout, Scorer, Sequences, UsageError

Precision = Literal["float32", "bfloat16"]
Kernel = Literal["auto", "xla", "cudnn"]


@dataclasses.dataclass(frozen=True)
class Shape:
    """Size of the network."""

    layers: int = 2
    width: int = 64
    heads: int = 4
    kv_heads: int = 2
    window: int | None = (
        None  # how many tokens back attention reaches, itself included; None: all of them
    )
    precision: Precision = "float32"  # of products
    remat: bool = False  # compute a layer again on the way back rather than keep what it computed
    attention: Kernel = "auto"  # over whole strings; auto: cuDNN's where it can serve

    @property
    def narrow(self) -> jnp.dtype | None:
        """What products are computed in, where that is not the parameters' own type."""
        return jnp.bfloat16 if self.precision == "bfloat16" else None

    @property
    def kernel(self) -> Literal["xla", "cudnn"]:
        """What computes attention over whole strings on the present devices."""
        return (
            self.attention
            if self.attention != "auto"
            else "xla"
            if self._beyond_cudnn()
            else "cudnn"
        )

    def _beyond_cudnn(self) -> str:
        """Why cuDNN's fused attention cannot serve, or nothing."""
        size = self.width // self.heads
        if "cuda" not in jax.devices()[0].client.platform_version:
            return "there is no NVIDIA GPU"
        if self.precision != "bfloat16":
            return "it takes bfloat16 alone"
        return (
            ""
            if size % 8 == 0 and size <= 128
            else f"it takes heads of 8, 16, 24 ... 128, not {size}"
        )

    def check(self) -> None:
        """Raise `UsageError` naming the field that does not fit."""
        for field in ("layers", "width", "heads", "kv_heads"):
            if getattr(self, field) < 1:
                raise UsageError(field, getattr(self, field), "is too small.", "Give at least 1.")
        if self.width % (2 * self.heads):
            problem = f"does not split into {self.heads} heads of even size."
            raise UsageError("width", self.width, problem, f"Give a multiple of {2 * self.heads}.")
        if self.heads % self.kv_heads:
            raise UsageError(
                "kv_heads",
                self.kv_heads,
                f"does not divide {self.heads} heads.",
                "Give a divisor.",
            )
        one_of("precision", self.precision, Precision)
        one_of("attention", self.attention, Kernel)
        if self.attention == "cudnn" and (reason := self._beyond_cudnn()):
            raise UsageError(
                "attention", "cudnn", f"cannot be used: {reason}.", "Give auto, or xla."
            )
        if self.window is not None and self.window < 1:
            raise UsageError(
                "window",
                self.window,
                "is too small.",
                "Give at least 1, or leave it out for no window.",
            )


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
        return (
            x
            * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6)
            * jnp.expand_dims(scale, range(x.ndim - 1))
        )


def rotate(x: Array, position: Array) -> Array:
    """Rotary embedding of x [B, T, heads, D] at positions [B, T]."""
    half = x.shape[-1] // 2
    frequency = 10_000.0 ** (-jnp.arange(half) / half)
    angle = position[..., None, None] * frequency[None, None, None]
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate(
        [a * jnp.cos(angle) - b * jnp.sin(angle), a * jnp.sin(angle) + b * jnp.cos(angle)], axis=-1
    )


class Attention(nn.Module):
    shape: Shape

    @nn.compact
    def __call__(self, x: Array, position: Array, past: tuple[Array, Array, Array, Array] | None):
        """Over whole strings, or over `past`: (keys, values, slot to write into, who may look where
        [B, T, S])."""
        heads, groups = self.shape.heads, self.shape.kv_heads
        size, narrow = self.shape.width // heads, self.shape.narrow
        project = lambda name, n: nn.DenseGeneral(
            (n, size), use_bias=False, dtype=narrow, name=name
        )(x)
        query, key = (
            _cast(rotate(project(name, n), position), narrow)
            for name, n in (("query", heads), ("key", groups))
        )
        value = project("value", groups)
        if past is None:
            mixed = _causal(self.shape, query, key, value)
        else:
            keys, values, slot, allowed = past
            key = jax.lax.dynamic_update_slice_in_dim(keys, key, slot, axis=1)
            value = jax.lax.dynamic_update_slice_in_dim(values, value, slot, axis=1)
            mixed = jax.nn.dot_product_attention(
                query, key, value, mask=allowed[:, None], implementation="xla"
            )
        out = nn.DenseGeneral(
            self.shape.width, axis=(-2, -1), use_bias=False, dtype=narrow, name="out"
        )(mixed)
        return out, (key, value)


def _cast(x: Array, narrow: jnp.dtype | None) -> Array:
    return x if narrow is None else x.astype(narrow)


def _causal(shape: Shape, query: Array, key: Array, value: Array) -> Array:
    """Attention [B, T, heads, D] of each token to itself and those before it, within the window."""
    length = query.shape[1]
    window = None if shape.window is None else (shape.window - 1, 0)
    # cuDNN's gradient takes even lengths alone; a last column more is seen by nothing
    room = [(0, 0), (0, length % 2 if shape.kernel == "cudnn" else 0), (0, 0), (0, 0)]
    query, key, value = (jnp.pad(x, room) for x in (query, key, value))
    attended = jax.nn.dot_product_attention(
        query,
        key,
        value,
        is_causal=True,
        local_window_size=window,
        implementation=shape.kernel,
    )
    return attended[:, :length]


class GatedMLP(nn.Module):
    shape: Shape

    @nn.compact
    def __call__(self, x: Array) -> Array:
        dense = lambda name, size: nn.Dense(
            size, use_bias=False, dtype=self.shape.narrow, name=name
        )
        hidden = nn.silu(dense("gate", 3 * self.shape.width)(x)) * dense(
            "up", 3 * self.shape.width
        )(x)
        return dense("down", self.shape.width)(hidden)


class Trunk(nn.Module):
    """Tokens read, at given positions -> features [B, T, width] and each layer's keys and
    values."""

    shape: Shape
    vocab: int

    @nn.compact
    def __call__(self, read: Array, position: Array, past: list | None = None):
        # a token of its own, the last row, stands for "before the start"
        table = self.param(
            "embedding",
            nn.initializers.normal(0.5 * self.shape.width**-0.5),
            (self.vocab + 1, self.shape.width),
        )
        x = table[jnp.where(read == PAD, self.vocab, read)] * self.shape.width**0.5
        written = []
        again = nn.remat if self.shape.remat else lambda module: module
        for layer in range(self.shape.layers):
            before = None if past is None else past[layer]
            mixed, kv = again(Attention)(self.shape, name=f"attention_{layer}")(
                RMSNorm(name=f"norm_a{layer}")(x), position, before
            )
            x = x + mixed
            y = RMSNorm(name=f"norm_b{layer}")(x)
            x = x + again(GatedMLP)(self.shape, name=f"mlp_{layer}")(y)
            written.append(kv)
        return RMSNorm(name="norm_out")(x), written


def _reach(shape: Shape, query: Array, key: Array) -> Array:
    """Whether a query at one position may see a key at another: causal, within the window, the key
    not empty. [B, T, S]"""
    distance = query[:, :, None] - key[:, None, :]
    allowed = (distance >= 0) & (key[:, None, :] >= 0)
    return allowed if shape.window is None else allowed & (distance < shape.window)


def _turned(x: Array, by: Array) -> Array:
    """Each row of x [B, T, ...] turned to the left by its own number of columns."""
    columns = (jnp.arange(x.shape[1])[None] + by[:, None]) % x.shape[1]
    return jnp.take_along_axis(x, columns.reshape(*columns.shape, *[1] * (x.ndim - 2)), axis=1)


def policy(shape: Shape, vocab: int) -> Policy:
    """The transformer as a policy; features are [B, T, width], the head is the transposed embedding
    table."""
    shape.check()
    trunk = Trunk(shape, vocab)

    def read(params: Params, tokens: Array) -> Any:
        """Features and keys and values of strings that begin in the first column."""
        position = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
        return trunk.apply(params, tk.previous(tokens), position)

    def init(key: Array) -> Params:
        return trunk.init(key, jnp.full((1, 2), PAD), jnp.arange(2)[None])

    def features(params: Params, tokens: Array) -> Array:
        # turned so that no padding comes before a string: then no token can see any
        before = jnp.argmax(tokens != PAD, axis=1)
        return _turned(read(params, _turned(tokens, before))[0], -before)

    def readout(params: Params) -> Readout:
        return Readout(_cast(params["params"]["embedding"][:vocab], shape.narrow))

    def head(params: Params, x: Array) -> Array:
        return log_law(Head(x, readout(params)))

    def start(params: Params, prompts: Sequences, horizon: int) -> Cache:
        batch, width = prompts.tokens.shape
        room = [(0, 0), (0, horizon), (0, 0), (0, 0)]
        size = (prompts.tokens != PAD).sum(1)
        slots = jnp.arange(width + horizon)
        position = jnp.where(slots[None] < size[:, None], slots[None], -1)
        if width == 0:
            empty = jnp.zeros(
                (batch, horizon, shape.kv_heads, shape.width // shape.heads), shape.narrow
            )
            written = [(empty, empty)] * shape.layers
        else:
            written = [
                tuple(jnp.pad(x, room) for x in kv) for kv in read(params, prompts.tokens)[1]
            ]
        keys, values = zip(*written)
        return Cache(list(keys), list(values), position, jnp.asarray(width), size)

    def step(params: Params, cache: Cache, token: Array) -> tuple[Cache, Array]:
        position = jax.lax.dynamic_update_slice_in_dim(
            cache.position, cache.next[:, None], cache.slot, axis=1
        )
        allowed = _reach(shape, cache.next[:, None], position)
        past = [(k, v, cache.slot, allowed) for k, v in zip(cache.keys, cache.values)]
        x, written = trunk.apply(params, token[:, None], cache.next[:, None], past)
        keys, values = zip(*written)
        return Cache(list(keys), list(values), position, cache.slot + 1, cache.next + 1), head(
            params, x[:, 0]
        )

    return Policy(init, features, head, start, step, readout)


def scorer(
    shape: Shape, vocab: int, from_policy: bool = False, outputs: int | None = None
) -> Scorer:
    """A linear read-out of the trunk's features, one number per next token (or so many `outputs`),
    zero at first.

    With `from_policy` (the policy is of the same shape) the trunk begins as the policy's: what it
    knows of the text serves."""
    own = policy(shape, vocab)

    def init(key: Array, start: Params) -> Params:
        return {
            "trunk": start if from_policy else own.init(key),
            "read_out": jnp.zeros((shape.width, outputs or vocab)),
        }

    return Scorer(
        init,
        lambda params, tokens: own.trunk(params["trunk"], tokens),
        lambda params, x: x @ params["read_out"],
    )
