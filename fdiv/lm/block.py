"""One transformer block for every family: norms, attention and a gated MLP, as a `Spec` says.

Parameters are called as in every transformer here (`query/kernel` [width, heads, head_dim],
`out/kernel` [heads, head_dim, width], `gate/kernel` [width, hidden] ...), and by these names a mesh
parts them. Parameters, norms, softmaxes and the residual stream stay in float32; products may be in
bfloat16. Sources: Zhang & Sennrich 2019 (RMSNorm), Su et al. 2021 (rotary), Shazeer 2020 (gated
MLP), Ainslie et al. 2023 (grouped queries), Gemma Team 2024 (arXiv 2408.00118: caps, norms)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_derivatives import SymbolicZero

from fdiv.checks import one_of, present
from fdiv.few_rows import by_tiles, by_turned
from fdiv.lm.attention import (
    Behind,
    Prompts,
    Together,
    attend,
    filled,
    put,
    together,
)
from fdiv.lm.spec import Spec
from fdiv.parted import in_place
from fdiv.types import UsageError

Precision = Literal["float32", "bfloat16"]
Kernel = Literal["auto", "xla", "cudnn"]
RematPolicy = Literal[  # of `jax.checkpoint_policies`
    "nothing_saveable", "dots_with_no_batch_dims_saveable", "dots_saveable"
]
EVERYTHING = 1 << 30  # the reach of a layer without a window
INITIAL = nn.initializers.normal(0.02)


@dataclasses.dataclass(frozen=True)
class Compute:
    """How a model is computed; no number depends on it but by rounding."""

    precision: Precision = "float32"  # of products
    remat: bool = False  # compute a layer again on the way back rather than keep what it computed
    attention: Kernel = "auto"  # over whole strings; auto: cuDNN's where it can serve
    remat_policy: RematPolicy = "nothing_saveable"  # what a layer keeps all the same under `remat`

    @property
    def narrow(self) -> jnp.dtype | None:
        """What products are computed in, where that is not the parameters' own type."""
        return jnp.bfloat16 if self.precision == "bfloat16" else None

    def layer(self, block: type[nn.Module], **options: Any) -> Any:
        """`block`, computed again on the way back where that is asked for."""
        if not self.remat:
            return block
        return nn.remat(
            block, policy=getattr(jax.checkpoint_policies, self.remat_policy), **options
        )

    def kernel(self, spec: Spec) -> Literal["xla", "cudnn"]:
        """What computes attention over whole strings of this model on the present devices."""
        if self.attention != "auto":
            return self.attention
        return "xla" if self._beyond_cudnn(spec) else "cudnn"

    def _beyond_cudnn(self, spec: Spec) -> str:
        """Why cuDNN's fused attention cannot serve, or nothing."""
        if "cuda" not in jax.devices()[0].client.platform_version:
            return "there is no NVIDIA GPU"
        if spec.attention_cap is not None:
            return "it does not cap attention's logits"
        if len(set(spec.windows)) > 1:
            return "it takes one window for all layers"
        if self.precision != "bfloat16":
            return "it takes bfloat16 alone"
        size = spec.head_dim
        fits = size % 8 == 0 and size <= 128
        return "" if fits else f"it takes heads of 8, 16, 24 ... 128, not {size}"

    def check(self, spec: Spec) -> None:
        """Raise `UsageError` naming the field that does not fit."""
        one_of("precision", self.precision, Precision)
        one_of("attention", self.attention, Kernel)
        one_of("remat_policy", self.remat_policy, RematPolicy)
        if self.attention == "cudnn" and (reason := self._beyond_cudnn(spec)):
            raise UsageError(
                "attention", "cudnn", f"cannot be used: {reason}.", "Give auto, or xla."
            )


class Rotation(NamedTuple):
    """Cosines and sines of each rope at each position, [ropes, B, T, turned / 2]."""

    cos: Array
    sin: Array


class Past(NamedTuple):
    """Keys and values before the present token, as `stored` has them, and where the present ones
    are written."""

    keys: Array  # [B, kv_heads, tiles, head_dim, columns of a tile]
    values: Array  # [B, kv_heads, S, head_dim]
    slot: Array
    prompts: Prompts | None = None  # what stands before, where several strings share it


def rotation(spec: Spec, length: int) -> Rotation:
    """At the positions from 0, [ropes, 1, length, turned / 2]. They are constants of the program:
    what it computed itself, XLA on a CPU would compute again for every layer and head."""
    position = np.arange(length, dtype=np.float32)[None, :, None]
    angles = [position * np.asarray(rope.frequencies(spec.head_dim)) for rope in spec.ropes]
    each = lambda of: np.stack([of(a) * r.amplitude for a, r in zip(angles, spec.ropes)])
    return Rotation(*(jnp.asarray(each(of), jnp.float32) for of in (np.cos, np.sin)))


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """The first dimensions of x [B, T, heads, D] turned by angles [B, T, turned / 2]."""
    half = cos.shape[-1]
    cos, sin = cos[:, :, None], sin[:, :, None]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos, rest], axis=-1)


def narrowed(x: Array, narrow: jnp.dtype | None) -> Array:
    """x in the type of products."""
    return x if narrow is None else x.astype(narrow)


def product(rows: Array, weights: Array) -> Array:
    """rows [N, K] by weights [*inputs, *outputs], K being all inputs, in the type of the rows."""
    return rows @ weights.astype(rows.dtype).reshape(rows.shape[1], -1)


@jax.custom_vjp
def as_stored(rows: Array, weights: Array) -> Array:
    """`product`, for whose gradient the weights are kept as they are stored: a scan over layers
    would else write a copy of each layer's, widened, and read it on the way back. Weights that are
    not trained have no gradient."""
    return product(rows, weights)


def _as_stored_forward(rows: Any, weights: Any) -> tuple[Array, tuple[Array | None, Array]]:
    return product(rows.value, weights.value), (
        rows.value if weights.perturbed else None,
        weights.value,
    )


def _as_stored_backward(kept: tuple[Array | None, Array], g: Any) -> tuple[Any, Any]:
    rows, weights = kept
    if isinstance(g, SymbolicZero):
        return None, None
    flat = weights.astype(g.dtype).reshape(-1, g.shape[1])
    contract = lambda a, b, axis: jax.lax.dot_general(a, b, (((axis,), (axis,)), ((), ())))
    of_weights = None if rows is None else contract(rows, g, 0).reshape(weights.shape)
    return contract(g, flat, 1), None if of_weights is None else of_weights.astype(weights.dtype)


as_stored.defvjp(_as_stored_forward, _as_stored_backward, symbolic_zeros=True)


@jax.custom_vjp
def into_few(rows: Array, weights: Array) -> Array:
    """`product` with few outputs. The gradient of weights [K, few] as a product of K rows with few
    columns is computed on a CPU at a tenth to a quarter of the pace of few rows with K columns."""
    return product(rows, weights)


def _into_few_backward(kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    rows, weights = kept
    of_rows = product(g, weights.reshape(-1, g.shape[1]).T)
    barrier = jax.lax.optimization_barrier  # else XLA makes it the usual product again
    of_weights = barrier(barrier(g.T) @ rows).T
    return of_rows, of_weights.reshape(weights.shape).astype(weights.dtype)


into_few.defvjp(lambda rows, weights: (product(rows, weights), (rows, weights)), _into_few_backward)


def dropped(rows: Array, key: Array, stays: Array) -> Array:
    """Rows of which each number stays with this chance, divided by it, and is 0 otherwise."""
    return jnp.where(
        jax.random.bernoulli(key, stays, rows.shape), (rows / stays).astype(rows.dtype), 0
    )


class Linear(nn.Module):
    """x [..., *inputs] -> [..., *outputs] by a kernel [*inputs, *outputs], and by an adapter's A
    [*inputs, rank] and B [rank, *outputs] beside it where there is one (`fdiv.lm.lora`), to whose
    inputs dropout is done where a key comes with it. For few rows the kernel may be given turned,
    [outputs, inputs], or in tiles [tiles, inputs, columns of a tile] (`fdiv.few_rows`)."""

    outputs: tuple[int, ...]
    inputs: int = 1  # dimensions of x that are summed over
    bias: bool = False
    narrow: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (*x.shape[-self.inputs :], *self.outputs)
        kind = x.dtype if self.narrow is None else self.narrow  # weights may be kept narrower
        # two dimensions each: the gradient of a product of more is computed at a fraction of this
        rows = x.astype(kind).reshape(math.prod(x.shape[: -self.inputs]), -1)
        adapted = self.has_variable("lora", "a")
        if self.has_variable("turned", "kernel"):
            y = by_turned(rows, self.get_variable("turned", "kernel"))
        elif self.has_variable("tiles", "kernel"):
            tiles = self.get_variable("tiles", "kernel")
            y = by_tiles(rows.astype(tiles.dtype), tiles, math.prod(self.outputs))
        else:
            kernel = self.param("kernel", INITIAL, shape)
            y = (as_stored if adapted or kernel.dtype != kind else product)(rows, kernel)
        if adapted:
            own = lambda name: self.get_variable("lora", name)
            if self.has_variable("lora", "key"):
                rows = dropped(rows, own("key"), own("stays"))
            y = y + product(into_few(rows, own("a")), own("b"))
        y = y.reshape(*x.shape[: -self.inputs], *self.outputs)
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, self.outputs)
            y = y + jnp.expand_dims(narrowed(bias, self.narrow), range(y.ndim - bias.ndim))
        return y


class RMSNorm(nn.Module):
    """x / rms(x) times its weight, or times 1 + its weight."""

    eps: float
    unit_offset: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        start = nn.initializers.zeros if self.unit_offset else nn.initializers.ones
        wide = jnp.promote_types(x.dtype, jnp.float32)
        scale = self.param("scale", start, (x.shape[-1],)).astype(wide)
        x = x.astype(wide)
        x = x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + self.eps)
        return x * jnp.expand_dims(scale + 1 if self.unit_offset else scale, range(x.ndim - 1))


class Attention(nn.Module):
    spec: Spec
    compute: Compute

    @nn.compact
    def __call__(
        self,
        x: Array,
        cos: Array,
        sin: Array,
        seen: Array | Together | Behind | None,
        past: Past | None,
    ) -> tuple[Array, tuple[Array, Array]]:
        """Over whole strings, over what `past` holds too, or over prompts and their answers; `seen`
        [B or 1, T, S]: who may look where, None where that is everything before, within the one
        window of all layers."""
        spec, narrow = self.spec, self.compute.narrow
        project = lambda name, heads: Linear(
            (heads, spec.head_dim), bias=spec.qkv_bias, narrow=narrow, name=name
        )(x)
        query, key = project("query", spec.heads), project("key", spec.kv_heads)
        value = project("value", spec.kv_heads)
        if spec.qk_norm:
            query = RMSNorm(spec.eps, spec.unit_offset, name="query_norm")(query)
            key = RMSNorm(spec.eps, spec.unit_offset, name="key_norm")(key)
        query, key = (narrowed(rotate(y, cos, sin), narrow) for y in (query, key))
        if isinstance(seen, Together):
            mixed = together(spec, query, key, value, seen)
        elif past is not None:
            key, value = put(past.keys, past.values, key, value, past.slot)
            seen = present(seen, "seen")
            mixed = filled(spec, query, key, value, seen, past.slot, past.prompts)
        else:
            assert not isinstance(seen, Behind)
            mixed = attend(spec, self.compute.kernel(spec), query, key, value, seen)
        out = Linear((spec.width,), inputs=2, narrow=narrow, name="out")(mixed)
        return out, (key, value)


class GatedMLP(nn.Module):
    spec: Spec
    compute: Compute

    @nn.compact
    def __call__(self, x: Array) -> Array:
        linear = lambda name, size: Linear((size,), narrow=self.compute.narrow, name=name)
        gate = linear("gate", self.spec.hidden)(x)
        act = nn.silu if self.spec.activation == "silu" else lambda x: nn.gelu(x, approximate=True)
        # a scan over layers keeps the two for the gradient, and none of what is made of them
        gated = jax.checkpoint(lambda gate, up: act(gate) * up, prevent_cse=False)
        return linear("down", self.spec.width)(gated(gate, linear("up", self.spec.hidden)(x)))


class Block(nn.Module):
    """One layer. `layer` is its (rope, reach): numbers, or what a scan over layers traces."""

    spec: Spec
    compute: Compute
    keep: bool = False  # hand back keys and values

    @nn.compact
    def __call__(
        self,
        x: Array,
        layer: tuple[Array | int, Array | int],
        turn: Rotation,
        distance: Array | Together | Behind | None,
        past: Past | None = None,
    ) -> tuple[Array, tuple[Array, Array] | None]:
        """x [B, T, width]; `distance` [B or 1, T, S] from each query back to each key, negative
        where none may look; where it is `Together`, x is [1, N P + B H, width]."""
        rope, reach = layer
        spec = self.spec
        norm = lambda name: RMSNorm(spec.eps, spec.unit_offset, name=name)
        seen = jax.tree.map(lambda far: (far >= 0) & (far < reach), distance)
        mixed, written = Attention(spec, self.compute, name="attention")(
            norm("norm_attention")(x), turn.cos[rope], turn.sin[rope], seen, past
        )
        if spec.four_norms:
            mixed = norm("norm_mixed")(mixed)
        x = x + mixed.astype(x.dtype)
        out = GatedMLP(spec, self.compute, name="mlp")(norm("norm_mlp")(x))
        if spec.four_norms:
            out = norm("norm_out")(out)
        return in_place(x + out.astype(x.dtype)), written if self.keep else None
