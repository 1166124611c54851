"""Compiling a program of runs, of which some arrays are the same for all.

A program may close over arrays: a frozen model's weights, a teacher's, the rows of a data set. JAX
writes such arrays into the program itself, and so every program would hold a copy of its own of
them (measured on jax 0.10.2: 256 MiB of weights are 262 MiB more of resident memory, and seconds of
compiling). Large ones are made arguments here: one copy serves all programs, it is mapped over no
runs, and no buffer of it is given away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.stages import Compiled

LARGE = 1 << 20  # bytes from which on an array that is closed over becomes an argument
SELDOM = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


class Program(NamedTuple):
    """A compiled program with the arrays that it closes over."""

    compiled: Compiled
    closed_over: tuple[Any, ...]
    waits: bool = False  # until it is through: no other is begun beside it

    def __call__(self, *arguments: Any) -> Any:
        out = self.compiled(*self.closed_over, *arguments)
        return jax.block_until_ready(out) if self.waits else out

    def memory_analysis(self) -> Any:
        """What it takes, as `jax.stages.Compiled` says it."""
        return self.compiled.memory_analysis()

    def as_text(self) -> str:
        """What the compiler has made of it."""
        return self.compiled.as_text() or ""


def of_runs(function: Callable, axes: tuple[int | None, ...], count: int) -> Callable:
    """A function of one run as one of `count` runs, whose arguments are [count, ...] along an axis
    0 and the same for all where it is None.

    One run is not mapped. For a CPU, XLA of jax 0.10.2 makes of a mapped dimension of size 1 two
    copies of every cache of keys and values at each token."""
    if count > 1:
        return jax.vmap(function, in_axes=axes)
    one = lambda tree: jax.tree.map(lambda x: jnp.squeeze(x, 0), tree)

    def alone(*arguments: Any) -> Any:
        own = (x if axis is None else one(x) for x, axis in zip(arguments, axes))
        return jax.tree.map(lambda x: jnp.expand_dims(x, 0), function(*own))

    return alone


def options(devices: list, seldom: bool) -> dict[str, Any]:
    """What the compiler is told of a program on these devices. One that runs seldom is not
    optimised for a CPU: a table's probe compiles in 3 s for 12, and runs in 17 ms for 12."""
    return SELDOM if seldom and devices[0].platform == "cpu" else {}


class Opened(NamedTuple):
    """A function whose large arrays are its first arguments."""

    function: Callable[..., Any]
    closed_over: tuple[Any, ...]


def opened(traced: Any) -> Opened | None:
    """Of `jax.jit(function).trace(...)`; None where it closes over nothing large."""
    closed = traced.jaxpr
    large = [i for i, x in enumerate(closed.consts) if np.ndim(x) and x.nbytes >= LARGE]
    if not large:
        return None
    structure = jax.tree.structure(traced.out_info)

    def function(*arguments: Any) -> Any:
        consts = list(closed.consts)
        for i, x in zip(large, arguments):
            consts[i] = x
        whole = core.ClosedJaxpr(closed.jaxpr, consts)
        outputs = core.jaxpr_as_fun(whole)(*jax.tree.leaves(arguments[len(large) :]))
        return jax.tree.unflatten(structure, outputs)

    arrays = (closed.consts[i] for i in large)
    # what is not on a device yet is put there once, and not at each call
    on_devices = (x if isinstance(x, jax.Array) else jnp.asarray(np.asarray(x)) for x in arrays)
    return Opened(function, tuple(on_devices))


def shape_of(x: Any, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    """An array such as x, of another shape."""
    return jax.ShapeDtypeStruct(shape, x.dtype, weak_type=getattr(x, "weak_type", False))
