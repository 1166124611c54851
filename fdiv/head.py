"""The head, fused for every f: losses over V symbols that never hold an array [N, V].

A law of the next token is `log_softmax` of `logits(readout, h)`, h being features [..., D]. With
`r = q reward(log p - log q)`, which is `-d perspective / d log q` by the second law of
`fdiv.divergences`, the divergence's gradient on the policy's logits is

    dlogits = -(r - q sum_v r)   for every f, a user's own among them.

So a chunk of tokens gives its loss, its share of dh [N, D] and its share of dW [V, D] at once, and
its [chunk, V] arrays are let go. Two forms:

- a sum over tokens by `weights` (`divergence`, `negative_log_likelihood`, `entropy`): gradients are
  made in the forward pass and scaled by the cotangent, which is one number; nothing is computed
  twice;
- a number per token (`log_probs`, `entropies`, `divergences`, `top_k`): the cotangents are not
  known in the forward pass, so the backward pass makes each chunk's logits again.

Only tokens that count are computed: they are moved to the front, and the loop ends behind them.
Gradients that nobody asks for (a frozen head's dW, a teacher's) are not made. Products are taken in
the type of the weights, sums in float32 or wider. Sources: Wijmans et al. 2024 (Cut Cross-Entropy,
arXiv 2411.09009) and Hsu et al. 2024 (Liger Kernel, arXiv 2410.10989) for losses and gradients by
chunks, each for one loss."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_batching import custom_vmap
from jax.custom_derivatives import SymbolicZero

from fdiv.checks import present
from fdiv.few_rows import by_tiles, by_turned
from fdiv.parted import row_blocks
from fdiv.types import Divergence, Readout, UsageError

# logits of the policy and of a target, [..., V] each -> a number per prefix [...], in nats
Measure = Callable[[Array, Array], Array]
CHUNK_ELEMENTS = 1 << 23  # of one array [chunk, V]: 32 MiB in float32
ON_ACCELERATORS = 2  # times as many there, as products of few rows do not fill one
FEWEST_TOKENS = 56  # of a chunk: with fewer, adding to dW takes longer than computing it


class Head(NamedTuple):
    """A law of the next token at each of some prefixes."""

    features: Array  # [..., D]
    readout: Readout


class Summed(Protocol):
    """Terms of two laws that are summed over symbols: a divergence, or any other."""

    @property
    def perspective(self) -> Callable[[Array, Array], Array]:
        """(log p, log q) [..., V] -> a term for every symbol."""
        ...


class TopK(NamedTuple):
    """The k likeliest tokens, likeliest first, and all others together."""

    log_probs: Array  # [..., k] nats
    tokens: Array  # [..., k] int32
    tail: Array  # [...] log of the probability of all other tokens, nats


# --- the laws -------------------------------------------------------------------------------------


def logits(readout: Readout, features: Array) -> Array:
    """`softcap tanh((W h + bias) / softcap) / temperature`, [..., D] -> [..., V], float32 or
    wider."""
    _, bias, softcap, temperature = readout
    return _scale(_product(features, readout.weights), bias, softcap, temperature)


def log_law(head: Head) -> Array:
    """log q of every token, [..., V] in nats."""
    return jax.nn.log_softmax(logits(head.readout, head.features))


def log_law_of_few(head: Head, vocab: int) -> Array:
    """`log_law` of few rows of features [N, D], on a CPU; weights may lie in tiles of `vocab`
    columns."""
    weights, bias, softcap, temperature = head.readout
    if weights.ndim == 3:
        z = by_tiles(head.features.astype(weights.dtype), weights, vocab)
    else:
        z = by_turned(head.features, weights)
    return jax.nn.log_softmax(_scale(z, bias, softcap, temperature))


def _product(features: Array, weights: Array) -> Array:
    return jnp.einsum(
        "...d,vd->...v",
        features.astype(weights.dtype),
        weights,
        preferred_element_type=_wide(weights),
    )


def _wide(x: Array) -> jnp.dtype:
    return jnp.promote_types(x.dtype, jnp.float32)


def _scale(
    z: Array, bias: Array | None, softcap: float | None, temperature: Array | float
) -> Array:
    """What is done to the product before the softmax."""
    if bias is not None:
        z = z + jnp.expand_dims(bias.astype(z.dtype), range(z.ndim - 1))
    if softcap is not None:
        z = softcap * jnp.tanh(z / softcap)
    if isinstance(temperature, (int, float)) and temperature == 1:
        return z
    return z / jnp.asarray(temperature, z.dtype)


# --- what is computed from a chunk's logits, a number per token -----------------------------------


def divergence_at(d: Summed) -> Measure:
    """(logits of q, logits of p) -> sum over v of `perspective(log p, log q)`."""

    def at(z_q: Array, z_p: Array) -> Array:
        return d.perspective(jax.nn.log_softmax(z_p), jax.nn.log_softmax(z_q)).sum(-1)

    def forward(z_q: Array, z_p: Array):
        log_q, log_p = jax.nn.log_softmax(z_q), jax.nn.log_softmax(z_p)
        # the derivative of the perspective is -q reward(s) without a product of zero and infinity
        each, slope_q = jax.jvp(lambda x: d.perspective(log_p, x), (log_q,), (_ones(log_q),))
        _, slope_p = jax.jvp(lambda x: d.perspective(x, log_q), (log_p,), (_ones(log_p),))
        through = lambda log, slope: slope - jnp.exp(log) * slope.sum(-1, keepdims=True)
        return each.sum(-1), (through(log_q, slope_q), through(log_p, slope_p))

    at = jax.custom_vjp(at)
    at.defvjp(forward, lambda slopes, g: tuple(g[..., None] * slope for slope in slopes))
    return at


def _ones(x: Array) -> Array:
    return jnp.ones_like(x)


def _picked(z: Array, tokens: Array) -> Array:
    """log q of given tokens, [..., V] and [...] or [..., k]; not a number where there is no such
    token.

    A comparison with every symbol is a sum that can be parted over devices, as a gather is not."""
    several = tokens.ndim == z.ndim
    symbols = jnp.arange(z.shape[-1])
    index = jnp.maximum(tokens, 0)

    def one(index: Array) -> Array:
        hit = index[..., None] == jnp.expand_dims(symbols, range(z.ndim - 1))
        return jnp.where(hit, z, 0.0).sum(-1)

    picked = jnp.stack([one(i) for i in jnp.moveaxis(index, -1, 0)], -1) if several else one(index)
    total = jax.nn.logsumexp(z, axis=-1, keepdims=several)
    return jnp.where(index < z.shape[-1], picked - total, jnp.nan)


def _entropy_at(z: Array) -> Array:
    log_q = jax.nn.log_softmax(z)
    # a token of probability 0 adds nothing
    return -jnp.where(jnp.isneginf(log_q), 0.0, jnp.exp(log_q) * log_q).sum(-1)


# --- chunks ---------------------------------------------------------------------------------------


@custom_vmap
def most(count: Array) -> Array:
    """The count, and of several mapped runs the largest: so that a loop's length is not mapped."""
    return count


@most.def_vmap
def _most_of_all(axis_size: int, in_batched: list[bool], count: Array):
    return most(count.max()), False


class _Chunks(NamedTuple):
    """Which tokens are computed together. Tokens are [blocks, M]; place M stands for none."""

    counts: Array  # [blocks, M] which tokens count
    order: Array | None  # [blocks, number * size] places of those that count; None: one chunk
    size: int  # tokens of each block in one chunk
    trips: Array | int  # chunks to compute

    def take(self, x: Array, i: Array | int) -> Array:
        """[blocks, size, ...] of chunk i, from x [blocks, M, ...]; 0 where a place is none, so
        that nothing is read of tokens that do not count."""
        if self.order is None:
            return jnp.where(_as(self.counts, x), x, jnp.zeros((), x.dtype))
        one_block = lambda row, at: row.at[at].get(mode="fill", fill_value=0)
        return jax.vmap(one_block)(x, self._places(i))

    def put(self, x: Array, values: Array, i: Array | int) -> Array:
        """x [blocks, M, ...] with values [blocks, size, ...] in the places of chunk i."""
        values = values.astype(x.dtype)
        if self.order is None:
            return values
        one_block = lambda row, at, new: row.at[at].set(new, mode="drop")
        return jax.vmap(one_block)(x, self._places(i), values)

    def each(self, step: Callable, carry: Any) -> Any:
        """`carry = step(i, carry)` for every chunk."""
        return (
            step(0, carry) if self.order is None else jax.lax.fori_loop(0, self.trips, step, carry)
        )

    def _places(self, i: Array | int) -> Array:
        return jax.lax.dynamic_slice_in_dim(
            present(self.order, "order"), i * self.size, self.size, axis=1
        )


def _usual_chunk(vocab: int) -> int:
    """Tokens that are computed together."""
    elements = CHUNK_ELEMENTS * (1 if jax.default_backend() == "cpu" else ON_ACCELERATORS)
    return max(FEWEST_TOKENS, elements // vocab)


def _chunks(counts: Array, vocab: int, chunk: int | None) -> _Chunks:
    """Of tokens [blocks, M], those that count."""
    blocks, tokens = counts.shape
    size = max(1, (chunk or _usual_chunk(vocab)) // blocks)
    if size >= tokens:
        return _Chunks(counts, None, tokens, 1)
    number = -(-tokens // size)
    size = -(-tokens // number)  # chunks of one size, so that the last one is not mostly empty
    order = jnp.argsort(~counts, axis=1, stable=True).astype(jnp.int32)
    order = jnp.where(jnp.take_along_axis(counts, order, axis=1), order, tokens)
    order = jnp.pad(order, [(0, 0), (0, number * size - tokens)], constant_values=tokens)
    return _Chunks(counts, order, size, most((counts.sum(1).max() + size - 1) // size))


class _Arrays(NamedTuple):
    """What of a head may be differentiated; also its gradient, or whether each part has one."""

    features: Any  # [blocks, M, D]
    weights: Any  # [V, D]
    bias: Any  # [V] or None
    temperature: Any  # [] or None where it is a number known beforehand


class _Problem(NamedTuple):
    """A loss of tokens, as what is known before any array is."""

    at: Callable  # (*logits, *data) -> values per token, a pytree of [...]
    softcaps: tuple[float | None, ...]  # of each head
    temperatures: tuple[Array | float, ...]
    chunk: int | None  # tokens computed together

    def scale(self, side: int, z: Array, bias: Array | None, temperature: Array | None) -> Array:
        known = self.temperatures[side]
        return _scale(z, bias, self.softcaps[side], known if temperature is None else temperature)

    def chunks(self, heads: tuple[_Arrays, ...], counts: Array) -> _Chunks:
        return _chunks(counts, heads[0].weights.shape[0], self.chunk)

    def values(self, heads: tuple[_Arrays, ...], data: tuple[Array, ...], counts: Array) -> Any:
        """Values of the tokens that count, 0 of the others: each [blocks, M, ...]."""
        chunks = self.chunks(heads, counts)

        def step(i: Array | int, values: Any) -> Any:
            zs = [
                self.scale(n, _product(chunks.take(x.features, i), x.weights), *x[2:])
                for n, x in enumerate(heads)
            ]
            made = self.at(*zs, *(chunks.take(x, i) for x in data))
            return jax.tree.map(lambda x, new: chunks.put(x, new, i), values, made)

        values = chunks.each(step, self.blank(heads, data, counts))
        return jax.tree.map(lambda x: jnp.where(_as(counts, x), x, 0), values)

    def blank(self, heads: tuple[_Arrays, ...], data: tuple[Array, ...], counts: Array) -> Any:
        """Zeros for the values."""
        some = lambda x, *shape: jax.ShapeDtypeStruct((*counts.shape[:1], 1, *shape), x)
        zs = [some(_wide(x.weights), x.weights.shape[0]) for x in heads]
        made = jax.eval_shape(self.at, *zs, *(some(x.dtype, *x.shape[2:]) for x in data))
        return jax.tree.map(lambda x: jnp.zeros((*counts.shape, *x.shape[2:]), x.dtype), made)

    def slopes(
        self,
        heads: tuple[_Arrays, ...],
        data: tuple[Array, ...],
        counts: Array,
        cotangents: Any,
        wanted: tuple[_Arrays, ...],
    ) -> tuple[Any, tuple[_Arrays, ...]]:
        """Values, and the gradient of their sum by `cotangents` on what is wanted of each head."""
        chunks = self.chunks(heads, counts)

        def step(i: Array | int, carry: tuple) -> tuple:
            values, gradients = carry
            features = [chunks.take(x.features, i) for x in heads]
            zs, to_product = zip(
                *(
                    jax.vjp(
                        functools.partial(self.scale, n),
                        _product(h, x.weights),
                        *jax.tree.map(lambda y: y.astype(_wide(y)), x[2:]),
                    )
                    for n, (h, x) in enumerate(zip(features, heads))
                )
            )
            given = [chunks.take(x, i) for x in data]
            made, to_logits = jax.vjp(lambda *zs: self.at(*zs, *given), *zs)
            ahead = jax.tree.map(lambda g, y: _of_chunk(chunks, g, y, i), cotangents, made)
            gradients = tuple(
                _added(chunks, i, total, wish, x, h, *back(slope))
                for total, wish, x, h, back, slope in zip(
                    gradients, wanted, heads, features, to_product, to_logits(ahead)
                )
            )
            return jax.tree.map(lambda x, new: chunks.put(x, new, i), values, made), gradients

        zero = tuple(_zero(wish, x) for wish, x in zip(wanted, heads))
        values, gradients = chunks.each(step, (self.blank(heads, data, counts), zero))
        values = jax.tree.map(lambda x: jnp.where(_as(counts, x), x, 0), values)
        return values, tuple(map(_finished, gradients, heads))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Wanted:
    """Of which parts of each head a gradient is asked for."""

    parts: tuple[_Arrays, ...]


def _of_chunk(chunks: _Chunks, cotangent: Array, value: Array, i: Array | int) -> Any:
    """Chunk i of a cotangent; of tokens, which have none, what autodiff wants in its place."""
    if not jnp.issubdtype(value.dtype, jnp.floating):
        return np.zeros(value.shape, jax.dtypes.float0)
    return chunks.take(cotangent, i).astype(value.dtype)


def _as(mask: Array, x: Array) -> Array:
    """mask [...] with the rank of x [..., k]."""
    return mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim))


def _zero(wanted: _Arrays, x: _Arrays) -> _Arrays:
    """Where gradients are added up: weights' [blocks, V, D], so that blocks meet at the end
    alone."""
    blocks = x.features.shape[0]
    shapes = _Arrays(
        x.features.shape,
        (blocks, *x.weights.shape),
        None if x.bias is None else x.bias.shape,
        (),
    )
    return _Arrays(
        *(
            jnp.zeros(shape, _wide(array)) if wish else None
            for wish, shape, array in zip(wanted, shapes, x)
        )
    )


def _added(
    chunks: _Chunks,
    i: Array | int,
    total: _Arrays,
    wanted: _Arrays,
    x: _Arrays,
    features: Array,
    slope: Array,
    bias: Array | None,
    temperature: Array | None,
) -> _Arrays:
    """The gradients with a chunk's, from its slope on the product of features and weights."""
    slope = slope.astype(x.weights.dtype)
    wide = _wide(x.weights)
    if wanted.features:
        own = jnp.einsum("gcv,vd->gcd", slope, x.weights, preferred_element_type=wide)
        total = total._replace(features=chunks.put(total.features, own, i))
    if wanted.weights:
        narrow = features.astype(x.weights.dtype)
        own = jnp.einsum("gcv,gcd->gvd", slope, narrow, preferred_element_type=wide)
        total = total._replace(weights=total.weights + own)
    if wanted.bias:
        total = total._replace(bias=total.bias + bias)
    if wanted.temperature:
        total = total._replace(temperature=total.temperature + temperature)
    return total


def _finished(gradient: _Arrays, x: _Arrays) -> _Arrays:
    """Blocks added up, each part in the type of what it is the gradient of."""
    if gradient.weights is not None:
        gradient = gradient._replace(weights=gradient.weights.sum(0))
    return _Arrays(*(None if g is None else g.astype(a.dtype) for g, a in zip(gradient, x)))


# --- the two forms --------------------------------------------------------------------------------


def _summed(
    at: Callable,
    heads: tuple[Head, ...],
    data: tuple[Array, ...],
    weights: Array,
    chunk: int | None,
) -> Array:
    """Sum over tokens of `weights` times the value; the gradients are residuals."""
    problem, arrays, data = _prepared(at, heads, data, weights.shape, chunk)
    weights = _blocked(weights, weights.shape)

    @jax.custom_vjp
    def total(arrays, weights, data):
        return _weighted(weights, problem.values(arrays, data, weights != 0))

    def forward(arrays, weights, data):
        wanted = jax.tree.map(lambda x: x.perturbed, arrays)
        free = weights.perturbed
        arrays, weights, data = jax.tree.map(lambda x: x.value, (arrays, weights, data))
        # a weight of 0 has a gradient too, where weights have one
        counts = jnp.ones_like(weights, bool) if free else weights != 0
        values, gradients = problem.slopes(arrays, data, counts, weights, wanted)
        return _weighted(weights, values), (gradients, values if free else None)

    def backward(residuals, g):
        gradients, values = residuals
        if isinstance(g, SymbolicZero):
            return None, None, None
        scale = lambda x: g.astype(x.dtype) * x
        return *jax.tree.map(scale, (gradients, values)), None

    total.defvjp(forward, backward, symbolic_zeros=True)
    return total(arrays, weights, data)


def _weighted(weights: Array, values: Array) -> Array:
    return jnp.sum(jnp.where(weights == 0, 0.0, weights * values))


def _each(
    at: Callable, heads: tuple[Head, ...], data: tuple[Array, ...], mask: Array, chunk: int | None
) -> Any:
    """The values of every token of the mask, 0 of the others; chunks are made again on the way
    back."""
    shape = mask.shape
    problem, arrays, data = _prepared(at, heads, data, shape, chunk)
    counts = _blocked(mask, shape)

    def plainly(arrays, data, counts):
        return problem.values(arrays, data, counts)

    @jax.custom_vjp
    def values(arrays, data, counts):
        return problem.values(arrays, data, counts)

    def forward(arrays, data, counts):
        wanted = jax.tree.map(lambda x: x.perturbed, arrays)
        arrays, data, counts = jax.tree.map(lambda x: x.value, (arrays, data, counts))
        return problem.values(arrays, data, counts), (arrays, data, counts, _Wanted(wanted))

    def backward(residuals, g):
        arrays, data, counts, wanted = residuals
        g = jax.tree.map(_instantiated, g)
        # a token whose value changes nothing is not made again
        alive = [
            jnp.any(x.reshape(*counts.shape, -1) != 0, axis=-1)
            for x in jax.tree.leaves(g)
            if x.dtype != jax.dtypes.float0
        ]
        counts &= functools.reduce(jnp.logical_or, alive)
        return problem.slopes(arrays, data, counts, g, wanted.parts)[1], None, None

    values.defvjp(forward, backward, symbolic_zeros=True)
    whole = problem.chunks(arrays, counts).order is None
    made = (plainly if whole else values)(arrays, data, counts)
    return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[2:]), made)


def _instantiated(g: Any) -> Any:
    zero: Any = g  # its shape and type are those of the array that it stands for
    return jnp.zeros(zero.shape, zero.dtype) if isinstance(g, SymbolicZero) else g


def _prepared(
    at: Callable,
    heads: tuple[Head, ...],
    data: tuple[Array, ...],
    shape: tuple[int, ...],
    chunk: int | None,
) -> tuple[_Problem, tuple[_Arrays, ...], tuple[Array, ...]]:
    """The problem, and its arrays with tokens as [blocks, M]."""
    _refuse_unlike(heads)
    chex.assert_equal_shape_prefix([*(head.features for head in heads), *data], len(shape))
    known = [isinstance(head.readout.temperature, (int, float)) for head in heads]
    arrays = tuple(
        _Arrays(
            _blocked(features, shape),
            readout.weights,
            readout.bias,
            None if number else readout.temperature,
        )
        for (features, readout), number in zip(heads, known)
    )
    problem = _Problem(
        at,
        tuple(head.readout.softcap for head in heads),
        tuple(head.readout.temperature if n else 1.0 for head, n in zip(heads, known)),
        chunk,
    )
    return problem, arrays, tuple(_blocked(x, shape) for x in data)


def _blocked(x: Array, shape: tuple[int, ...]) -> Array:
    """[*shape, ...] -> [blocks, M, ...]: contiguous rows, one block where they do not divide."""
    count = row_blocks()
    blocks = count if shape[0] % count == 0 else 1
    return x.reshape(blocks, math.prod(shape) // blocks, *x.shape[len(shape) :])


def _refuse_unlike(heads: tuple[Head, ...]) -> None:
    """Raise `UsageError` for features of another width than the weights', or laws over different
    vocabularies."""
    sizes = [head.readout.weights.shape for head in heads]
    for (features, _), (_, width) in zip(heads, sizes):
        if features.shape[-1] != width:
            raise UsageError(
                "features",
                features.shape[-1],
                f"is another width than the readout's {width}.",
                "Give the features of the same model's trunk.",
            )
    if len({vocab for vocab, _ in sizes}) > 1:
        raise UsageError(
            "vocab",
            [vocab for vocab, _ in sizes],
            "two laws over different vocabularies have no divergence.",
            "Give a teacher with the student's tokenizer.",
        )


# --- what callers ask for -------------------------------------------------------------------------


def divergence(
    d: Divergence, own: Head, target: Head, weights: Array, chunk: int | None = None
) -> Array:
    """`sum_n weights_n sum_v perspective(log p(v), log q(v))`, q of `own` and p of `target`, in
    nats; a scalar.

    `weights` is [...] as features are [..., D]: tokens of weight 0 are not computed. The two may
    differ in width, not in V. `chunk`: tokens at once, by default `CHUNK_ELEMENTS / V` on a
    processor, twice that on a GPU or TPU, or `FEWEST_TOKENS` if that is more. Raises
    `UsageError` for unlike vocabularies."""
    return _summed(divergence_at(d), (own, target), (), weights, chunk)


def measured(
    measure: Measure, own: Head, target: Head, weights: Array, chunk: int | None = None
) -> Array:
    """`sum_n weights_n measure(logits of own, logits of target)`: as `divergence`, for what is more
    than one of two laws."""
    return _summed(measure, (own, target), (), weights, chunk)


def negative_log_likelihood(
    own: Head, tokens: Array, weights: Array, chunk: int | None = None
) -> Array:
    """`-sum_n weights_n log q(tokens_n)`, in nats; a scalar. Tokens and weights are [...] as
    features are [..., D]."""
    return -_summed(_picked, (own,), (tokens,), weights, chunk)


def entropy(own: Head, weights: Array, chunk: int | None = None) -> Array:
    """`sum_n weights_n H(q_n)`, in nats; a scalar."""
    return _summed(_entropy_at, (own,), (), weights, chunk)


def log_probs(own: Head, tokens: Array, mask: Array, chunk: int | None = None) -> Array:
    """log q of each token of the mask, 0 of the others, [...] in nats."""
    return _each(_picked, (own,), (tokens,), mask, chunk)


def entropies(own: Head, mask: Array, chunk: int | None = None) -> Array:
    """Entropy of each law of the mask, 0 of the others, [...] in nats."""
    return _each(_entropy_at, (own,), (), mask, chunk)


def divergences(
    family: Sequence[Summed], own: Head, target: Head, mask: Array, chunk: int | None = None
) -> tuple[Array, ...]:
    """For each divergence, or other sum, its value at each token of the mask, 0 at the others, in
    nats: [...] each. The logits are made once for all."""
    each = [divergence_at(d) for d in family]
    at = lambda z_q, z_p: tuple(one(z_q, z_p) for one in each)
    return _each(at, (own, target), (), mask, chunk)


def top_k(own: Head, k: int, mask: Array, chunk: int | None = None) -> TopK:
    """The k likeliest tokens of each law of the mask and the rest; 0 where the mask is False.

    Log-probs and tail have gradients; which tokens are the likeliest has none."""

    def at(z: Array) -> TopK:
        tokens = jax.lax.top_k(jax.lax.stop_gradient(z), k)[1]
        symbols = jnp.expand_dims(jnp.arange(z.shape[-1]), range(z.ndim - 1))
        among = functools.reduce(
            jnp.logical_or, [tokens[..., i, None] == symbols for i in range(k)]
        )
        rest = jnp.where(among, -jnp.inf, z)
        tail = jax.nn.logsumexp(rest, axis=-1) - jax.nn.logsumexp(z, axis=-1)
        return TopK(_picked(z, tokens), tokens, tail)

    return _each(at, (own,), (), mask, chunk)
