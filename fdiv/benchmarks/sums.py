"""Sums as strings of characters: how they are asked, every right way to write them, and which way a
string is.

Right is the answer alone, or steps: each adds two of the numbers that are left, the left one first,
and puts the sum in the left one's place, until one number is left. Everything works on token
arrays, under jit and vmap. B sums of N numbers, K ways of S steps, P and H characters at most
before and after the equals sign."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fdiv import tokens as tk
from fdiv.estimators import to_actions
from fdiv.types import PAD, Sequences

CHARACTERS = "0123456789+=,"
PLUS, EQUALS, COMMA = (CHARACTERS.index(mark) for mark in "+=,")
EOS = len(CHARACTERS)
VOCAB = EOS + 1


class Sums(NamedTuple):
    """A kind of sum, and all ways to write its steps."""

    equations: (
        np.ndarray
    )  # [K, S, 3, N] which of the N numbers make up x, y and z of each step x + y = z of each way
    largest: int
    direct: bool  # whether the answer alone is a way, the first
    width: int  # most digits of a number
    horizon: int  # most characters of a way, EOS included

    @staticmethod
    def of(terms: int, largest: int, direct: bool) -> Sums:
        equations = np.array(steps(list(np.eye(terms, dtype=np.int32))))
        digits = np.vectorize(lambda number: len(str(number)))(largest * equations.sum(-1))
        return Sums(
            equations, largest, direct, int(digits.max()), int((digits + 1).sum((1, 2)).max())
        )


def steps(numbers: list) -> list:
    """Every way to add numbers up two at a time: lists of steps (x, y, x + y)."""
    options = []
    for i, j in itertools.combinations(range(len(numbers)), 2):
        x, y = numbers[i], numbers[j]
        left = [*numbers[:i], x + y, *numbers[i + 1 : j], *numbers[j + 1 :]]
        options += [[(x, y, x + y), *rest] for rest in steps(left)]
    return options or [[]]


def written(numbers: Array, marks: np.ndarray, width: int) -> Array:
    """Numbers [..., M] in decimal, each followed by its mark [M], padding behind. [..., M (width +
    1)]"""
    place = np.expand_dims(10 ** np.arange(width)[::-1], tuple(range(numbers.ndim))).astype(
        np.int32
    )
    tail = numbers[..., None] // place
    digits = jnp.where((tail > 0) | (place == 1), tail % 10, PAD)
    after = jnp.broadcast_to(np.expand_dims(marks, tuple(range(numbers.ndim - 1))), numbers.shape)[
        ..., None
    ]
    row = jnp.concatenate([digits, after], axis=-1).reshape(*numbers.shape[:-1], -1)
    return jnp.take_along_axis(row, jnp.argsort(row == PAD, axis=-1, stable=True), axis=-1).astype(
        jnp.int32
    )


def asked(numbers: Array, sums: Sums) -> Sequences:
    """Sums of numbers [B, N] as prompts [B, P]."""
    marks = np.array([PLUS] * (numbers.shape[1] - 1) + [EQUALS])
    tokens = written(numbers, marks, len(str(sums.largest)))
    return Sequences(tokens, jnp.zeros(tokens.shape, bool), jnp.ones(tokens.shape[0]))


def read(prompts: Sequences, terms: int) -> Array:
    """The numbers of prompts [B, P]. [B, terms]"""

    def character(state, token):
        numbers, at = state
        here = (jnp.arange(terms)[None] == at[:, None]) & ((token >= 0) & (token < PLUS))[:, None]
        return (jnp.where(here, 10 * numbers + token[:, None], numbers), at + (token == PLUS)), None

    rows = prompts.tokens.shape[0]
    start = (jnp.zeros((rows, terms), jnp.int32), jnp.zeros(rows, jnp.int32))
    return jax.lax.scan(character, start, prompts.tokens.T)[0][0]


def ways(numbers: Array, sums: Sums) -> Array:
    """Every right completion of each sum of numbers [B, N]. [B, K, H]"""
    many, size = sums.equations.shape[:2]
    marks = np.array([PLUS, EQUALS, COMMA] * size)
    marks[-1] = EOS
    values = jnp.einsum("ksvn,bn->bksv", sums.equations, numbers).reshape(-1, many, 3 * size)
    options = written(values, marks, sums.width)[..., : sums.horizon]
    if not sums.direct:
        return options
    alone = written(numbers.sum(1)[:, None, None], np.array([EOS]), sums.width)
    gap = [(0, 0), (0, 0), (0, sums.horizon - alone.shape[-1])]
    return jnp.concatenate([jnp.pad(alone, gap, constant_values=PAD), options], axis=1)


def solutions(x: Sequences, sums: Sums) -> Array:
    """Which of the ways each string is, -1 for none of them. [B]"""
    numbers = read(tk.prompts_of(x, sums.horizon), sums.equations.shape[-1])
    same = (ways(numbers, sums) == _actions(x, sums)[:, None]).all(-1)
    return jnp.where(same.any(1), jnp.argmax(same, axis=1), -1)


def answered(x: Sequences, sums: Sums) -> Array:
    """Whether each string ends in `=ANSWER` or is the answer alone, whatever the steps before it.
    [B]"""
    numbers = read(tk.prompts_of(x, sums.horizon), sums.equations.shape[-1])
    answer = written(numbers.sum(1)[:, None], np.array([EOS]), sums.width)
    edge = jnp.full_like(answer[:, :1], EQUALS)
    wanted = jnp.concatenate([edge, answer], axis=1)
    row = jnp.concatenate([edge, _actions(x, sums), jnp.full_like(answer, PAD)], axis=1)
    start = x.mask.sum(1) - (answer != PAD).sum(1)
    ending = jnp.take_along_axis(
        row, jnp.maximum(start, 0)[:, None] + jnp.arange(wanted.shape[1])[None], axis=1
    )
    return (start >= 0) & (ending == wanted).all(1)


def _actions(x: Sequences, sums: Sums) -> Array:
    """What was written, padding behind. [B, H]"""
    return to_actions(jnp.where(x.mask, x.tokens, PAD), x.mask, sums.horizon)
