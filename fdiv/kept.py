"""A model whose features at some rows are kept: what a teacher says of fixed strings is computed
once, and not at every pass over them.

Kept are the features [A, D] of the last layer at the A actions of all rows, from which the readout
makes the law again: V numbers of a law would be a hundred times as much, and a few of the likeliest
would bias every divergence. A row is looked up by a hash of its tokens and compared with the one
that is there, so that a string that is none of the rows has features that are not numbers, and no
loss that could be mistaken for one."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from fdiv.types import PAD, Model, Params, Policy, Sequences

TRIES = 64  # hashes that are tried until no two rows share one


class Kept(NamedTuple):
    """A model's parameters beside what it makes of some rows."""

    own: Params
    factors: Array  # [T] uint32, of the hash
    hashes: Array  # [N] uint32, ascending
    tokens: Array  # [N, T] the rows, in this order
    first: Array  # [N] column of each row's first action
    start: Array  # [N] where its features begin
    features: Array  # [A, D] of all actions, row after row


def distinct(rows: Sequences) -> Sequences:
    """Rows [N, T], each string once, with all actions that it has in any row. The actions of a row
    are neighbours, up to its end."""
    tokens, of = np.unique(np.asarray(rows.tokens), axis=0, return_inverse=True)
    mask = np.zeros(tokens.shape, bool)
    np.logical_or.at(mask, of.reshape(-1), np.asarray(rows.mask))
    return Sequences(*map(jnp.asarray, (tokens, mask, np.ones(len(tokens), np.float32))))


def keep(model: Model, rows: Sequences, features: np.ndarray) -> Model:
    """The model with its features at these rows, which are `distinct`; `features` [A, D] are those
    of their actions, row after row."""
    tokens, mask = np.asarray(rows.tokens), np.asarray(rows.mask)
    factors, hashes = _hashed(tokens)
    order = np.argsort(hashes)
    sizes = mask.sum(1)
    start = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    kept = Kept(
        own=model.params,
        factors=jnp.asarray(factors),
        hashes=jnp.asarray(hashes[order]),
        tokens=jnp.asarray(tokens[order]),
        first=jnp.asarray(mask.argmax(1)[order]),
        start=jnp.asarray(start[order]),
        features=jnp.asarray(features),
    )
    return Model(policy(model.policy), kept)


def policy(own: Policy) -> Policy:
    """The model as a policy whose features are looked up; all else is the model's own."""
    return Policy(
        init=own.init,
        trunk=looked_up,
        head=lambda kept, x: own.head(kept.own, x),
        start=lambda kept, prompts, horizon: own.start(kept.own, prompts, horizon),
        step=lambda kept, cache, token: own.step(kept.own, cache, token),
        readout=None if (readout := own.readout) is None else lambda kept: readout(kept.own),
        fewer=None
        if (fewer := own.fewer) is None
        else lambda kept, cache, rows: fewer(kept.own, cache, rows),
    )


def looked_up(kept: Kept, tokens: Array) -> Array:
    """Features [B, T, D] of rows [B, T], or of their first columns where the rest is padding: 0
    before a row's first action, and what comes after its last one is of no meaning; not numbers
    for a string that is none of the kept rows."""
    width = tokens.shape[1]
    row = jnp.searchsorted(kept.hashes, _hash(kept.factors[:width], tokens))
    row = jnp.minimum(row, len(kept.hashes) - 1)
    rest = jnp.all(kept.tokens[row, width:] == PAD, axis=1)
    there = rest & jnp.all(kept.tokens[row, :width] == tokens, axis=1)
    action = jnp.arange(width)[None] - kept.first[row][:, None]
    at = jnp.clip(kept.start[row][:, None] + action, 0, len(kept.features) - 1)
    features = jnp.where((action >= 0)[..., None], kept.features[at], 0.0)
    return jnp.where(there[:, None, None], features, jnp.nan)


def _hash(factors: Array, tokens: Array) -> Array:
    """Of rows [B, T], whatever padding is behind them: padding, which is -1, adds nothing."""
    return ((tokens + 1).astype(factors.dtype) * factors[None]).sum(1, dtype=factors.dtype)


def _hashed(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Factors and hashes that tell all rows apart."""
    for seed in range(TRIES):
        draw = np.random.default_rng(seed)
        factors = draw.integers(0, 1 << 32, tokens.shape[1], dtype=np.uint32) | np.uint32(1)
        hashes = ((tokens + 1).astype(np.uint32) * factors).sum(1, dtype=np.uint32)
        if len(np.unique(hashes)) == len(hashes):
            return factors, hashes
    raise ValueError(f"{len(tokens)} rows are too many for a hash of 32 bits")
