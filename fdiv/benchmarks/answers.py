"""Answers in text whose number can be checked: which number a string of tokens says first or last,
and whether it is the one that its prompt's row says.

A number is a run of digits in tokens that hold nothing else (a blank may stand before them: then a
new number begins). A comma between digits is dropped, a point is part of it; signs are not read.
`1,000` and `1000` are one number, `5.0` and `5` are two. Numbers are compared by a hash of 32 bits
of their digits, and prompts by two, so that all of it is arithmetic of a program on a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fdiv.types import PAD, Sequences

Which = Literal["first", "last"]
BASE = 1_000_003  # of the hash of a number's characters
BASES = (1_000_003, 2_654_435_761)  # of those of a prompt's tokens
OTHER, DIGITS, BEGINS, COMMA, POINT = range(5)  # kinds of tokens
BITS = 1 << 32


class Digits(NamedTuple):
    """What each token of a vocabulary is to a number, [V] each."""

    kind: np.ndarray
    code: np.ndarray  # hash of its digits, uint32
    power: np.ndarray  # BASE to how many they are, uint32


def digits(spell: Callable[[int], str], size: int) -> Digits:
    """From what each token says."""
    kind, code, power = (
        np.zeros(size, np.int32),
        np.zeros(size, np.uint32),
        np.ones(size, np.uint32),
    )
    for token in range(size):
        text = spell(token)
        own = text.strip(" ")
        if text in (",", "."):
            kind[token] = COMMA if text == "," else POINT
        elif own.isascii() and own.isdecimal() and text.endswith(own):
            kind[token] = DIGITS if text == own else BEGINS
            code[token], power[token] = _hash(own), pow(BASE, len(own), BITS)
    return Digits(kind, code, power)


def _hash(characters: str) -> int:
    code = 0
    for character in characters:
        code = (code * BASE + ord(character) - 47) % BITS  # a zero is 1, so a leading one counts
    return code


class _State(NamedTuple):
    """What was read so far, [B] each."""

    number: Array  # hash of the run that is open
    open: Array  # whether one is
    point: Array  # whether a point stands behind it
    joined: Array  # whether a comma or a point does
    said: Array  # hash of the number that counts so far; 0: none


def number_of(which: Which, of: Digits, tokens: Array, mask: Array) -> Array:
    """A hash of the first or the last number that the marked tokens say, uint32; 0 where they say
    none. [B, T] -> [B]"""
    table = jax.tree.map(jnp.asarray, of)
    point = jnp.uint32(ord(".") - 47 + 64)

    def closed(state: _State, when: Array) -> _State:
        first = (state.said == 0) if which == "first" else jnp.ones_like(when)
        said = jnp.where(when & state.open & first, state.number, state.said)
        return state._replace(said=said, open=state.open & ~when)

    def step(state: _State, column: tuple[Array, Array]) -> tuple[_State, None]:
        token, marked = column
        kind = jnp.where(marked, table.kind[token], OTHER)
        joins = ((kind == COMMA) | (kind == POINT)) & state.open & ~state.joined
        goes_on = kind == DIGITS
        state = closed(state, ~goes_on & ~joins)
        code, power = table.code[token], table.power[token]
        before = jnp.where(state.point, state.number * jnp.uint32(BASE) + point, state.number)
        extended = jnp.where(state.open, before * power + code, code)
        digit = goes_on | (kind == BEGINS)
        return (
            _State(
                jnp.where(digit, extended, state.number),
                state.open | digit,
                joins & (kind == POINT),
                joins,
                state.said,
            ),
            None,
        )

    rows = tokens.shape[0]
    zero, no = jnp.zeros(rows, jnp.uint32), jnp.zeros(rows, bool)
    columns = (jnp.maximum(tokens, 0).T, mask.T)
    state, _ = jax.lax.scan(step, _State(zero, no, no, no, zero), columns)
    return closed(state, ~no).said


def prompt_hashes(x: Sequences) -> Array:
    """Two hashes of what stands before each string's first action, uint32 [B, 2]."""
    before = (x.tokens != PAD) & (jnp.cumsum(x.mask, axis=1) == 0)
    place = jnp.where(before, jnp.cumsum(before, axis=1), 0)
    value = jnp.where(before, x.tokens + 1, 0).astype(jnp.uint32)
    width = x.tokens.shape[1] + 1
    powers = [np.array([pow(base, i, BITS) for i in range(width)], np.uint32) for base in BASES]
    sums = [jnp.sum(value * jnp.asarray(power)[place], axis=1) for power in powers]
    return jnp.stack(sums, axis=1)


class Key(NamedTuple):
    """The numbers that prompts ask for, a row of the benchmark each."""

    prompts: Array  # [N, 2]
    numbers: Array  # [N]


def key_of(which: Which, of: Digits, rows: Sequences) -> Key:
    """Of rows as strings, prompt and answer."""
    return Key(prompt_hashes(rows), number_of(which, of, rows.tokens, rows.mask))


def right(which: Which, of: Digits, key: Key, x: Sequences) -> Array:
    """Whether each string says a number that a row with its prompt says. [B]"""
    asked = (prompt_hashes(x)[:, None] == key.prompts[None]).all(-1)
    said = number_of(which, of, x.tokens, x.mask)
    return (asked & (said[:, None] == key.numbers[None])).any(1) & (said != 0)


def texts(x: Sequences) -> Array:
    """A number from 0 for each completion, the same for the same tokens but by chance. [B]"""
    own = jnp.where(x.mask, jnp.cumsum(x.mask, axis=1), 0)
    powers = np.array([pow(BASES[1], i, BITS) for i in range(x.tokens.shape[1] + 1)], np.uint32)
    value = jnp.where(x.mask, x.tokens + 1, 0).astype(jnp.uint32) * jnp.asarray(powers)[own]
    return (value.sum(1) >> 1).astype(jnp.int32)
