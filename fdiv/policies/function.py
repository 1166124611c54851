"""A policy from one function of the user's own: all that exact work and sampling need follows from
the law of the next token at every place."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from fdiv.types import PAD, Params, Policy, Sequences

# params, tokens [B, T] -> numbers [B, T, V], of which row t has seen tokens < t alone
Logits = Callable[[Params, Array], Array]


def from_function(init: Callable[[Array], Params], logits: Logits) -> Policy:
    """The policy `q(. | tokens before t) = softmax(logits(params, tokens)[:, t])`.

    `init` makes parameters from a key. `logits` takes tokens [B, T], in which `PAD` (-1) stands for
    no token, and gives [B, T, V]; row t may depend on tokens before t alone, which
    `fdiv.class_optimum` checks.
    Each step of sampling computes all places again, so a string of T tokens costs T evaluations."""

    def law(params: Params, tokens: Array) -> Array:
        return jax.nn.log_softmax(logits(params, tokens), axis=-1)

    def start(params: Params, prompts: Sequences, horizon: int) -> tuple[Array, Array]:
        batch, _ = prompts.tokens.shape
        room = jnp.full((batch, horizon), PAD, prompts.tokens.dtype)
        size = (prompts.tokens != PAD).sum(1)
        return jnp.concatenate([prompts.tokens, room], axis=1), jnp.maximum(size - 1, 0)

    def step(params: Params, cache: tuple[Array, Array], token: Array):
        tokens, place = cache
        there = token != PAD
        row = jnp.arange(len(token))
        tokens = tokens.at[row, place].set(jnp.where(there, token, tokens[row, place]))
        place = place + there
        return (tokens, place), law(params, tokens)[row, place]

    return Policy(init, law, lambda params, features: features, start, step)
