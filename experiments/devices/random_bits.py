"""JAX's own random bits, Threefry-2x32, in one pass over memory on a CPU.

For a CPU JAX writes the twenty rounds as a loop of five turns, each of which reads and writes all
numbers. Written out, XLA fuses them into every operation that reads a draw, and makes it anew in
each. So here a loop goes over parts of the numbers, and each turn has all rounds of its part: 512
strings of `two_template` for five seeds take a third of the time, to the same bit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core.primitives import threefry2x32_p
from jax.interpreters import mlir

ROTATIONS = [np.array(by, np.uint32) for by in ((13, 15, 26, 6), (17, 29, 16, 24))]
PARITY = np.uint32(0x1BD11BDA)
TURNS = 5  # of four rounds each
PARTS = 4
FEW = 2048  # fewer numbers are drawn as JAX has it, which takes half as long to compile

State = tuple[Array, Array, list[Array], list[np.ndarray]]  # two words, the keys, the rotations


def use() -> None:
    """Have the programs that are compiled for a CPU from now on draw so."""
    mlir.register_lowering(threefry2x32_p, _lowered, platform="cpu")


def by_parts(key_0: Array, key_1: Array, count_0: Array, count_1: Array) -> list[Array]:
    """Two words of random bits of each pair of counts under its pair of keys, uint32 of one shape:
    Threefry-2x32 of twenty rounds.

    Source: Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3."""
    size = -(-key_0.size // PARTS)
    cut = lambda x: jnp.pad(x.reshape(-1), (0, PARTS * size - x.size)).reshape(PARTS, size)
    words = [key_0, key_1, count_0, count_1]
    _, drawn = jax.lax.scan(lambda _, x: (None, _written_out(*x)), None, [cut(x) for x in words])
    return [x.reshape(-1)[: key_0.size].reshape(key_0.shape) for x in drawn]


def by_turns(key_0: Array, key_1: Array, count_0: Array, count_1: Array) -> list[Array]:
    """The same, all numbers at each turn, as JAX has it: arrays keep their shape, so that each
    device can have its own part of them."""
    state = jax.lax.fori_loop(0, TURNS, _turn, _start(key_0, key_1, count_0, count_1))
    return list(state[:2])


def _written_out(key_0: Array, key_1: Array, count_0: Array, count_1: Array) -> tuple[Array, Array]:
    state = _start(key_0, key_1, count_0, count_1)
    for i in range(TURNS):
        state = _turn(i, state)
    return state[:2]


def _start(key_0: Array, key_1: Array, count_0: Array, count_1: Array) -> State:
    keys = [key_1, key_0 ^ key_1 ^ PARITY, key_0]  # as they are added from the first turn on
    return count_0 + key_0, count_1 + key_1, keys, ROTATIONS


def _turn(i: Any, state: State) -> State:
    x, y, keys, rotations = state
    for by in rotations[0]:
        x = x + y
        y = x ^ (y << by | y >> (32 - by))
    y = y + keys[1] + jnp.uint32(i + 1)
    return x + keys[0], y, keys[1:] + keys[:1], rotations[::-1]


def _lowered(context: mlir.LoweringRuleContext, *words: Any) -> Sequence[Any]:
    shape = context.avals_out[0].shape
    sized = all(isinstance(size, int) for size in shape)  # else an export for any size
    many = sized and math.prod(shape) >= FEW
    in_parts = _in_parts(context.module_context.axis_context)
    draw = by_parts if many and not in_parts else by_turns
    whole = lambda *arrays: draw(*(jnp.broadcast_to(x, shape) for x in arrays))
    return mlir.lower_fun(whole, multiple_results=True)(context, *words)


def _in_parts(axes: Any) -> bool:
    """Whether XLA parts a program's arrays over devices, and the program does not itself."""
    if hasattr(axes, "manual_axes"):
        return set(axes.manual_axes) != set(axes.mesh.axis_names)
    return getattr(axes, "num_devices", 1) != 1
