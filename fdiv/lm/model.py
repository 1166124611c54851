"""A language model as a policy: the blocks of its `Spec` over whole strings, and over one token at
a time.

A pretrained model's layers are stacked and scanned over whole strings: a scan compiles in a time
that does not depend on the depth. The few layers of a model that is trained from nothing are a
tuple of trees, and unrolled, which computes faster. Decoding is always unrolled, since a scan
copies each layer's weights out of the stack for every token; its cache is carried along. All are
the same block on the same parameters, so the sampler's log-probs are the trainer's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from fdiv import tokens as tk
from fdiv.few_rows import in_tiles, untiled
from fdiv.head import Head, log_law, log_law_of_few
from fdiv.lm.attention import (
    Behind,
    Prompts,
    Together,
    keys_of,
    stored,
    stored_keys,
    stored_values,
)
from fdiv.lm.block import (
    EVERYTHING,
    INITIAL,
    Block,
    Compute,
    Past,
    RMSNorm,
    Rotation,
    rotation,
)
from fdiv.lm.lora import MODULES, kernel_shapes
from fdiv.lm.spec import Spec
from fdiv.parted import in_place, rows_are_parted
from fdiv.types import PAD, Answers, Params, Policy, Readout, Sequences, UsageError

FEW_ROWS = 64  # of a step, up to which weights that lie otherwise are faster
TILED_ROWS = 32  # up to which tiles are faster than turned weights
TILED_HEAD_ROWS = 8  # up to which a large head's are
SMALL = 1 << 14  # numbers of a kernel that stays in a processor's own cache, however it lies
LARGE_HEAD = 1 << 20  # numbers of a head from which on another copy of it pays
FEWEST_STEPS = 16  # that laying weights is worth
MOST_LAID = 1 << 30  # bytes of them
LEAST_SHARED = 32  # columns of prompts whose answers read one cache


class Cache(NamedTuple):
    """Keys and values of the tokens read so far, one entry a layer, as `stored` has them, and where
    they stand."""

    keys: list[Array]  # each [B, kv_heads, tiles, head_dim, columns of a tile]
    values: list[Array]  # each [B, kv_heads, S, head_dim]
    position: Array  # [B, S] of each slot's token, -1 where the slot is empty
    slot: Array  # the next slot to write
    next: Array  # [B] the position of the next token
    turn: Rotation  # at all positions, [ropes, S, turned / 2]
    laid: Laid | None = None  # weights as a step wants them
    shared: Shared | None = None  # prompts; then S are the columns of answers alone


class Laid(NamedTuple):
    """Weights as products of few rows want them on a CPU, made once a string: a step reads all of
    them and computes little with each, so that how they lie decides how long it takes."""

    layers: list[Params]  # "turned" and "tiles", as `Linear` takes them: float32 or wider
    head: Array  # [V, width], or in tiles of its symbols [tiles, width, .]


class Shared(NamedTuple):
    """Prompts that several answers each read, in the place of a copy for each."""

    layers: list[Prompts]
    position: Array  # [N, P], -1 where a column is empty


class Places(NamedTuple):
    """Where tokens stand that are read at once."""

    turn: Rotation  # at the position of each
    distance: Array | Together | None  # from each back to each, as `Block` takes it


class Trunk(nn.Module):
    """Tokens [B, T] in the first columns -> features [B, T, width], and the keys and values of all
    layers [layers, B, T, kv_heads, head_dim] where they are asked for. Layers are stacked."""

    spec: Spec
    compute: Compute

    @nn.compact
    def __call__(self, read: Array, keep: bool = False, places: Places | None = None):
        spec = self.spec
        embedding = self.param("embedding", INITIAL, (spec.rows, spec.width))
        if not spec.tied:  # the head's weights, which `head` reads
            self.param("head", INITIAL, (spec.vocab, spec.width))
        x = embed(spec, embedding, read)
        turn, distance = places or whole(spec, read.shape[1])
        block = self.compute.layer(Block, prevent_cse=False)
        layers = nn.scan(
            block,
            variable_axes={"params": 0, "lora": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast),
            length=spec.layers,
        )(spec, self.compute, keep, name="layers")
        x, written = layers(x, (jnp.asarray(spec.rope_of), reaches(spec)), turn, distance)
        return final_norm(spec)(x), written


def unrolled(
    spec: Spec,
    compute: Compute,
    params: Params,
    read: Array,
    keep: bool = False,
    places: Places | None = None,
) -> tuple[Array, tuple[list[Array], list[Array]] | None]:
    """What `Trunk` computes, of layers that are a tuple of trees."""
    own = params["params"]
    x = embed(spec, own["embedding"], read)
    turn, distance = places or whole(spec, read.shape[1])
    block = compute.layer(Block)(spec, compute, keep)
    written = []
    for i in range(spec.layers):
        layer = (spec.rope_of[i], reach(spec.windows[i]))
        x, pair = block.apply(layer_of(params, i), x, layer, turn, distance)
        written.append(pair)
    x = _normed(spec, own["norm"], x)
    if not keep:
        return x, None
    keys, values = map(list, zip(*written))
    return x, (keys, values)


def embed(spec: Spec, embedding: Array, read: Array) -> Array:
    """Rows of the embedding [B, T, width] in float32 or wider; a token that is padding reads row 0,
    which none sees."""
    x = embedding[jnp.maximum(read, 0)]
    x = in_place(x.astype(jnp.promote_types(x.dtype, jnp.float32)))
    return x * jnp.asarray(spec.width**0.5, x.dtype) if spec.scale_embedding else x


def final_norm(spec: Spec) -> RMSNorm:
    """The norm after the last layer."""
    return RMSNorm(spec.eps, spec.unit_offset, name="norm")


def _normed(spec: Spec, params: Params, x: Array) -> Array:
    """The norm after the last layer, with its parameters."""
    # pyrefly: ignore[bad-argument-type]: Flax types a result as if variables might come with it
    return jnp.asarray(final_norm(spec).apply({"params": params}, x))


def reach(window: int | None) -> int:
    """How many tokens back a layer sees, itself included."""
    return EVERYTHING if window is None else window


def reaches(spec: Spec) -> Array:
    """Of each layer, [layers]."""
    return jnp.asarray(list(map(reach, spec.windows)))


def whole(spec: Spec, length: int) -> Places:
    """Of strings from their first column on."""
    return Places(rotation(spec, length), distances(spec, length))


def distances(spec: Spec, length: int) -> Array | None:
    """How far each key lies before each query of whole strings [1, T, T]; None where all layers
    have one window, which attention knows of itself."""
    if spec.attention_cap is None and len(set(spec.windows)) == 1:
        return None
    column = jnp.arange(length)
    return (column[:, None] - column[None, :])[None]


def turned(x: Array, by: Array) -> Array:
    """Each row of x [B, T, ...] turned to the left by its own number of columns."""
    columns = (jnp.arange(x.shape[1])[None] + by[:, None]) % x.shape[1]
    return jnp.take_along_axis(x, columns.reshape(*columns.shape, *[1] * (x.ndim - 2)), axis=1)


def head_weights(spec: Spec, params: Params) -> Array:
    """The rows [V, width] that features are multiplied with."""
    rows = params["params"]["embedding" if spec.tied else "head"]
    return rows[: spec.vocab] if spec.start_row else rows


def readout_of(spec: Spec, compute: Compute, params: Params) -> Readout:
    """The head as data; its products are taken in the type that weights have here, float32 or
    narrower."""
    weights = head_weights(spec, params)
    weights = weights.astype(compute.narrow or jnp.promote_types(weights.dtype, jnp.float32))
    return Readout(weights, softcap=spec.final_cap)


def layer_of(params: Params, layer: int) -> Params:
    """One layer's parameters, and its adapters where there are any."""
    layers = {name: tree["layers"] for name, tree in params.items()}
    if isinstance(layers["params"], tuple):
        return {name: trees[layer] for name, trees in layers.items()}
    return jax.tree.map(lambda x: x[layer], layers)


def policy(spec: Spec, compute: Compute | None = None, bos: int | None = None) -> Policy:
    """The model as a policy; features are [B, T, width].

    A pretrained model has no law of the first token: there is nothing to read. With `bos` this
    token is read before every string, and a prompt may be empty; a row for the start serves as one.
    Without it every string has a prompt, and the features of its first column, of which no action
    may stand, are zero. `init` is of stacked layers. `UsageError` where a prompt has no column, or
    text is longer than the model is computed for."""
    compute = compute or Compute()
    compute.check(spec)
    bos = spec.vocab if spec.start_row else bos
    trunk = Trunk(spec, compute)

    def init(key: Array) -> Params:
        return trunk.init(key, jnp.zeros((1, 2), jnp.int32))

    def over(params: Params, tokens: Array, keep: bool, places: Places | None = None):
        if isinstance(params["params"]["layers"], tuple):
            return unrolled(spec, compute, params, tokens, keep, places)
        return trunk.apply(params, tokens, keep, places)

    def read(params: Params, tokens: Array, keep: bool = False):
        """Features of what is read before each token of strings that begin in the first column,
        and keys and values."""
        _check_length(spec, tokens.shape[1] - (bos is None))  # none reads the last column
        if bos is not None:
            return over(params, tk.previous(tokens).at[:, 0].set(bos), keep)
        x, written = over(params, tokens[:, :-1], keep)
        return jnp.pad(x, [(0, 0), (1, 0), (0, 0)]), written

    def features(params: Params, tokens: Array) -> Array:
        if tokens.shape[1] < 2 and bos is None:
            return jnp.zeros((*tokens.shape, spec.width))
        # turned so that no padding comes before a string: then no token can see any
        before = jnp.argmax(tokens != PAD, axis=1)
        return turned(read(params, turned(tokens, before))[0], -before)

    def readout(params: Params) -> Readout:
        return readout_of(spec, compute, params)

    def head(params: Params, x: Array) -> Array:
        return log_law(Head(x, readout(params)))

    def start(params: Params, prompts: Sequences, horizon: int) -> Cache:
        cache = _start(spec, compute, bos, read, params, prompts, horizon, horizon)
        return _with_laid(spec, compute, params, cache, horizon)

    def step(params: Params, cache: Cache, token: Array) -> tuple[Cache, Array]:
        token = jnp.where(token == PAD, 0 if bos is None else bos, token)
        cache, x = _step(spec, compute, params, cache, token)
        if cache.laid is None:
            return cache, head(params, x)
        own = readout(params)._replace(weights=cache.laid.head)
        return cache, log_law_of_few(Head(x, own), spec.vocab)

    def answers(params: Params, prompts: Sequences, actions: Array) -> Array:
        if compute.kernel(spec) == "xla":
            return _answers(spec, bos, over, params, prompts, actions)
        return _answers_apart(features, params, prompts, actions)  # fused kernels take whole rows

    def start_of_answers(params: Params, prompts: Sequences, horizon: int, group: int) -> Cache:
        # more operations, but a long prompt is read once a group
        share = prompts.tokens.shape[1] >= LEAST_SHARED and jax.default_backend() == "cpu"
        room = 0 if share else horizon
        cache = _start(spec, compute, bos, read, params, prompts, horizon, room)
        cache = _behind(spec, cache, group, horizon) if share else _repeated(cache, group)
        return _with_laid(spec, compute, params, cache, horizon)

    def fewer(params: Params, cache: Cache, rows: Array) -> Cache:
        return _with_laid(spec, compute, params, _copied(spec, cache, rows), FEWEST_STEPS)

    shared = Answers(start_of_answers, answers)
    return Policy(init, features, head, start, step, readout, shared, fewer)


def _check_length(spec: Spec, length: int) -> None:
    """Raise `UsageError` where more tokens are read than the model is computed for."""
    if spec.longest is not None and length > spec.longest:
        raise UsageError(
            "length",
            length,
            f"is beyond {spec.longest} tokens, where this model's rotary embedding changes.",
            f"Keep prompt and completion within {spec.longest} tokens.",
        )


def _start(
    spec: Spec,
    compute: Compute,
    bos: int | None,
    read: Callable,
    params: Params,
    prompts: Sequences,
    horizon: int,
    room: int,
) -> Cache:
    """The cache of all of the prompts [B, P] but their last tokens, and `room` for so many columns
    behind them; `horizon` more tokens will be read."""
    batch, width = prompts.tokens.shape
    _check_length(spec, width + horizon - (bos is None))
    if width == 0 and bos is None:
        raise UsageError(
            "prompts", "", "are empty, and nothing stands before a first token.", "Give prompts."
        )
    # with bos as many slots as columns are read; without it one fewer, and all of the last unused
    size = (prompts.tokens != PAD).sum(1) - (bos is None)
    slots = jnp.arange(width + room)
    position = jnp.where(slots[None] < size[:, None], slots[None], -1)
    written = None if width <= (bos is None) else read(params, prompts.tokens, True)[1]

    def placed(side: int, laid: Callable[[Array, int], Array]) -> list[Array]:
        """Keys or values of each layer, and room for more."""
        nothing = jnp.zeros((batch, 0, spec.kv_heads, spec.head_dim), compute.narrow)
        each = [nothing if written is None else written[side][i] for i in range(spec.layers)]
        return [laid(x.astype(nothing.dtype), len(slots) - x.shape[1]) for x in each]

    keys, values = placed(0, stored_keys), placed(1, stored_values)
    turn = jax.tree.map(lambda x: x[:, 0], rotation(spec, width + horizon))
    return Cache(keys, values, position, jnp.asarray(width), size, turn)


def _with_laid(spec: Spec, compute: Compute, params: Params, cache: Cache, horizon: int) -> Cache:
    """With weights laid as steps want them, where that is worth their memory."""
    if cache.laid is not None:
        return cache
    rows = cache.position.shape[0]
    readout = readout_of(spec, compute, params).weights
    numbers = spec.layers * sum(
        math.prod(i) * math.prod(o) for i, o in kernel_shapes(spec).values()
    )
    large_head = (
        readout.size >= LARGE_HEAD
        and rows <= TILED_HEAD_ROWS
        and 4 * (numbers + readout.size) <= MOST_LAID  # else the layers alone are laid
    )
    if (
        rows > FEW_ROWS
        or horizon < FEWEST_STEPS
        or 4 * numbers > MOST_LAID
        or compute.narrow is not None
        or jax.devices()[0].platform != "cpu"
        or rows_are_parted()
    ):
        return cache

    barrier = jax.lax.optimization_barrier  # else a step would lay them again
    tiled = rows <= TILED_ROWS

    def layer(own: Params) -> Params:
        laid: dict[str, dict[str, Params]] = {}
        for name, (inputs, _) in kernel_shapes(spec).items():
            kernel = own["params"][MODULES[name]][name]["kernel"]
            wide = jnp.promote_types(kernel.dtype, jnp.float32)
            if kernel.size <= SMALL and kernel.dtype == wide:
                continue
            matrix = kernel.astype(wide).reshape(math.prod(inputs), -1)
            matrix = barrier(in_tiles(matrix) if tiled else matrix.T)
            laid.setdefault(MODULES[name], {})[name] = {"kernel": matrix}
        return {"tiles" if tiled else "turned": laid}

    layers = [layer(layer_of(params, i)) for i in range(spec.layers)]
    head = barrier(in_tiles(readout.T)) if large_head else readout
    return cache._replace(laid=Laid(layers, head))


def _repeated(cache: Cache, group: int) -> Cache:
    """The cache of prompts as that of so many answers to each."""
    return _each_row(cache, lambda x: jnp.repeat(x, group, axis=0))


def _behind(spec: Spec, cache: Cache, group: int, horizon: int) -> Cache:
    """The cache of prompts, without room behind them, as that of so many answers to each, which
    share it."""
    layers = [Prompts(*both) for both in zip(cache.keys, cache.values)]
    rows = cache.position.shape[0] * group
    nothing = lambda x: jnp.zeros((rows, 0, spec.kv_heads, spec.head_dim), x.dtype)
    return cache._replace(
        keys=[stored_keys(nothing(x), horizon) for x in cache.keys],
        values=[stored_values(nothing(x), horizon) for x in cache.values],
        position=jnp.full((rows, horizon), -1, cache.position.dtype),
        slot=jnp.zeros_like(cache.slot),
        next=jnp.repeat(cache.next, group),
        shared=Shared(layers, cache.position),
    )


def _copied(spec: Spec, cache: Cache, rows: Array) -> Cache:
    """The cache of these rows alone, each with its prompt."""
    shared = cache.shared
    if shared is None:
        return _each_row(cache, lambda x: x[rows])
    of = rows // (cache.position.shape[0] // shared.position.shape[0])
    both = lambda a, b, axis: jnp.concatenate([a[of], b[rows]], axis=axis)
    size, room = shared.position.shape[1], cache.position.shape[1]
    keys = lambda x, count: untiled(keys_of(spec, x), count)
    return cache._replace(
        keys=[
            stored(in_tiles(both(keys(x.keys, size), keys(own, room), -1)))
            for x, own in zip(shared.layers, cache.keys)
        ],
        values=[both(x.values, own, -2) for x, own in zip(shared.layers, cache.values)],
        position=both(shared.position, cache.position, 1),
        slot=cache.slot + size,
        next=cache.next[rows],
        shared=None,
    )


def _each_row(cache: Cache, rows: Callable[[Array], Array]) -> Cache:
    """The cache of other rows [n, ...], made of all that there is of the present ones [B, ...]."""
    return cache._replace(
        keys=list(map(rows, cache.keys)),
        values=list(map(rows, cache.values)),
        position=rows(cache.position),
        next=rows(cache.next),
    )


def _answers(
    spec: Spec,
    bos: int | None,
    over: Callable,
    params: Params,
    prompts: Sequences,
    actions: Array,
) -> Array:
    """Features before each action [B, H] behind prompts [N, P]: both are read as one row, in which
    products are taken, and attention alone tells them apart."""
    tokens, length = prompts.tokens, actions.shape[1]
    group = actions.shape[0] // tokens.shape[0]
    _check_length(spec, tokens.shape[1] + length - (bos is None))
    last = tk.last(tokens)
    if bos is None:
        first = tokens[:, :-1]
    else:
        first, last = tk.previous(tokens).at[:, 0].set(bos), jnp.where(last == PAD, bos, last)
    rest = jnp.concatenate([jnp.repeat(last, group)[:, None], actions[:, :-1]], axis=1)
    size = (tokens != PAD).sum(1) - (bos is None)  # columns of `first` before the last token
    places = _beside(spec, size, first.shape[1], length, group)
    read = jnp.concatenate([first.reshape(1, -1), rest.reshape(1, -1)], axis=1)
    x, _ = over(params, read, False, places)
    return x[0, first.size :].reshape(*actions.shape, -1)


def _beside(spec: Spec, size: Array, width: int, length: int, group: int) -> Places:
    """Of N prompts in `width` columns, of which the first `size` [N] are read, and then of `group`
    answers to each in `length` columns."""
    columns, own = jnp.arange(width)[None], jnp.arange(length)[None]
    far = lambda of, to: of[:, :, None] - to[:, None, :]
    at = size[:, None] + own  # [N, H]
    to_prompt = jnp.where(columns[:, None] < size[:, None, None], far(at, columns), -1)
    to_own = jnp.broadcast_to(far(own, own), (len(size), length, length))
    distance = Together(far(columns, columns), jnp.concatenate([to_prompt, to_own], axis=2))
    before = jnp.broadcast_to(columns, (len(size), width))
    position = jnp.concatenate([before.ravel(), jnp.repeat(at, group, axis=0).ravel()])
    turn = jax.tree.map(lambda x: x[:, :, position], rotation(spec, width + length))
    return Places(turn, distance)


def _answers_apart(features: Callable, params: Params, prompts: Sequences, actions: Array) -> Array:
    """The same of whole strings, each by itself."""
    group = actions.shape[0] // prompts.tokens.shape[0]
    repeated = jax.tree.map(lambda x: jnp.repeat(x, group, axis=0), prompts)
    x = features(params, tk.append(repeated, actions, None).tokens)
    return turned(x, (repeated.tokens != PAD).sum(1))[:, : actions.shape[1]]


def _step(
    spec: Spec, compute: Compute, params: Params, cache: Cache, token: Array
) -> tuple[Cache, Array]:
    """The cache with tokens [B] in it, and their features [B, width]."""
    position = jax.lax.dynamic_update_slice_in_dim(
        cache.position, cache.next[:, None], cache.slot, axis=1
    )
    # an empty slot is made as far ahead as none may look
    back = lambda at: jnp.where(at >= 0, cache.next[:, None] - at, -1)[:, None]
    distance: Array | Behind = (own := back(position))
    if cache.shared is not None:
        group = len(position) // len(cache.shared.position)
        distance = Behind(back(jnp.repeat(cache.shared.position, group, axis=0)), own)
    turn = jax.tree.map(lambda x: x[:, cache.next][:, :, None], cache.turn)
    x = embed(spec, params["params"]["embedding"], token[:, None])
    block = Block(spec, compute, keep=True)
    keys, values = [], []
    for i in range(spec.layers):
        layer = (spec.rope_of[i], reach(spec.windows[i]))
        before = None if cache.shared is None else cache.shared.layers[i]
        past = Past(cache.keys[i], cache.values[i], cache.slot, before)
        own = layer_of(params, i)
        if cache.laid is not None:
            own = {**own, **cache.laid.layers[i]}
        x, (key, value) = block.apply(own, x, layer, turn, distance, past)
        keys.append(key)
        values.append(value)
    x = _normed(spec, params["params"]["norm"], x)
    cache = cache._replace(
        keys=keys, values=values, position=position, slot=cache.slot + 1, next=cache.next + 1
    )
    return cache, x[:, 0]
