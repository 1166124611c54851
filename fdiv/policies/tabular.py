"""Tabular policies and scorers: a finite automaton reads the prefix, a table answers for each of
its states.

`independent` (one law for all positions), `markov` (the last k tokens), `markov_t` (those and the
position), `full` (the whole prefix). Each class contains the one before it. The start of a string
is a symbol of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fdiv import tokens as tk
from fdiv.exact import Law, Space
from fdiv.types import PAD, Params, Policy, Scorer, Sequences, ShortWay, UsageError

MOST_ENTRIES = 1 << 26
WIDER = 2  # times the positions of a batch: a table of more states is read row by row
INIT_SCALE = (
    0.01  # near uniform, but off the saddle that a symmetric expert makes of the uniform table
)


class Automaton(NamedTuple):
    """States 0 .. states-1, the first one 0; `advance(state, token)` works elementwise on tokens >=
    0."""

    states: int
    advance: Callable[[Any, Any], Any]  # arrays of JAX, and of NumPy where strings are known


def _minimum(values: Any, most: int) -> Any:
    return (np if isinstance(values, np.ndarray) else jnp).minimum(values, most)


def counted(vocab: int, length: int) -> int:
    """V^length. Raises `UsageError` where that is beyond any table, before it is worked out."""
    if length * math.log2(max(vocab, 1)) > math.log2(MOST_ENTRIES):
        raise _too_large(f"{vocab:,}^{length:,}")
    return vocab**length


def independent(vocab: int, horizon: int) -> Automaton:
    """One state: no token depends on another."""
    return Automaton(1, lambda state, token: 0 * state)


def markov(vocab: int, horizon: int, order: int = 1) -> Automaton:
    """The last `order` tokens as digits in base V + 1, digit 0 for "before the start"."""
    states = counted(vocab + 1, order)
    return Automaton(states, lambda state, token: (state * (vocab + 1) + token + 1) % states)


def markov_t(vocab: int, horizon: int, order: int = 1) -> Automaton:
    """The last `order` tokens and the position, which stays at the last one beyond the horizon."""
    chain = markov(vocab, horizon, order)

    def advance(state, token):
        position = _minimum(state // chain.states + 1, horizon - 1)
        return position * chain.states + chain.advance(state % chain.states, token)

    return Automaton(horizon * chain.states, advance)


def full(vocab: int, horizon: int) -> Automaton:
    """The prefix tree, node n's children at n V + 1 .. n V + V; leaves of depth `horizon` are never
    asked."""
    counted(vocab, horizon - 1)  # the last level alone
    states = sum(vocab**t for t in range(horizon))
    return Automaton(states, lambda state, token: _minimum(state * vocab + token + 1, states - 1))


def read(automaton: Automaton, tokens: Array | np.ndarray) -> Array | np.ndarray:
    """The state in which each token is written; padding, on either side, moves nothing. [B, T] ->
    [B, T], of NumPy for NumPy"""
    if isinstance(tokens, np.ndarray):  # a task's own strings: no program has to read them
        return _read_now(automaton, tokens)

    def move(state, token):
        after = jnp.where(token == PAD, state, automaton.advance(state, token))
        return after.astype(state.dtype), state

    _, states = jax.lax.scan(move, jnp.zeros(tokens.shape[0], jnp.int32), tokens.T, unroll=8)
    return states.T


def _read_now(automaton: Automaton, tokens: np.ndarray) -> np.ndarray:
    states = np.zeros((tokens.shape[0], tokens.shape[1] + 1), np.int32)
    with jax.ensure_compile_time_eval():  # where a program is traced, and `advance` is of JAX
        for t, token in enumerate(tokens.T):
            state = states[:, t]
            states[:, t + 1] = np.where(token == PAD, state, automaton.advance(state, token))
    return states[:, :-1]


def refuse_large(automaton: Automaton, vocab: int, most: int = MOST_ENTRIES) -> None:
    """Raise `UsageError` for a table of more than `most` entries."""
    if automaton.states * vocab > most:
        raise _too_large(f"{automaton.states:,}", f" of {vocab:,} entries", most)


def _too_large(states: str, entries: str = "", most: int = MOST_ENTRIES) -> UsageError:
    problem = f"it would need {states} states{entries}, over the most of {most:,} entries."
    return UsageError(
        "states", states, problem, "Use a smaller order or horizon, or the transformer."
    )


def policy(automaton: Automaton, vocab: int) -> Policy:
    """Softmax of a table row per state: params are logits [states, V], nearly uniform at first."""
    refuse_large(automaton, vocab)

    def start(params: Params, prompts: Sequences, horizon: int):
        batch, width = prompts.tokens.shape
        rows = jax.nn.log_softmax(tk.real(params))
        if width == 0:
            return rows, jnp.zeros(batch, jnp.int32)
        last = (prompts.tokens != PAD).sum(1) - 1
        state = jnp.take_along_axis(
            read(automaton, prompts.tokens), jnp.maximum(last, 0)[:, None], axis=1
        )[:, 0]
        return rows, state

    def step(params: Params, cache, token: Array):
        rows, state = cache
        state = jnp.where(token == PAD, state, automaton.advance(state, token))
        return (rows, state), rows[state]

    def trunk(params: Params, tokens: Array) -> Array:
        return tk.real(params)[read(automaton, tokens)]

    def head(params: Params, features: Array) -> Array:
        return jax.nn.log_softmax(features)

    def taken(params: Params, tokens: Array) -> Array:
        if automaton.states > WIDER * tokens.size:
            rows = head(params, trunk(params, tokens))
            return tk.pick(rows, tokens, jnp.ones_like(tokens, bool))
        return _entries(automaton, jax.nn.log_softmax(tk.real(params)), tokens)

    return Policy(
        init=lambda key: INIT_SCALE * jax.random.normal(key, (automaton.states, vocab)),
        trunk=trunk,
        head=head,
        start=start,
        step=step,
        short=ShortWay(trunk, head, taken),
    )


def _entries(automaton: Automaton, table: Array, tokens: Array) -> Array:
    """The table's entry of each token in its state. [B, T]; of no token, NaN."""
    places = read(automaton, tokens), jnp.maximum(tokens, 0)
    return jnp.asarray(table).at[places].get(mode="fill", fill_value=jnp.nan)


def nearest(automaton: Automaton, space: Space, p: Law) -> np.ndarray:
    """The class's table nearest to a law in forward KL, in closed form: expected counts of each
    token in each state, as logits.

    A law that the class holds comes out as it is; states that it never reaches are uniform.
    """
    mass = np.exp(
        np.asarray(p.arrival, np.float64)[:, None] + np.asarray(p.conditional, np.float64)
    )
    counts = np.full((automaton.states, space.vocab), 1e-300)
    np.add.at(counts, np.asarray(read(automaton, space.sequences.tokens))[space.state_at], mass)
    return np.log(counts)


def written(space: Space, log_string: np.ndarray) -> np.ndarray:
    """Any law of whole strings as a table of the full prefix tree."""
    automaton, mask = full(space.vocab, space.horizon), space.sequences.mask
    mass = np.broadcast_to(np.exp(np.asarray(log_string, np.float64))[:, None], mask.shape)
    counts = np.full((automaton.states, space.vocab), 1e-300)
    states = np.asarray(read(automaton, space.sequences.tokens))
    np.add.at(counts, (states[mask], space.sequences.tokens[mask]), mass[mask])
    return np.log(counts)


def scorer(automaton: Automaton, vocab: int, outputs: int | None = None) -> Scorer:
    """A number per (state, token), or so many `outputs` per state: params [states, V], zero at
    first."""
    refuse_large(automaton, vocab)
    rows = lambda params, tokens: params[read(automaton, tokens)]
    head = lambda params, features: features
    taken = lambda params, tokens: _entries(automaton, params, tokens)
    return Scorer(
        lambda key, start: jnp.zeros((automaton.states, outputs or vocab)),
        rows,
        head,
        ShortWay(rows, head, taken) if outputs is None else None,
    )


AUTOMATA = {"independent": independent, "markov": markov, "markov_t": markov_t, "full": full}
