"""Rows that are parted over devices: what the layout of a run tells the program that it traces.

A compiler that parts a program over devices (GSPMD, arXiv 2105.04663) does so operation by
operation: all devices take the steps of one loop, and nothing depends on what one device's rows
are. Where each device holds all parameters, what is computed of each row alone, and sums over rows,
are a program of its own on each device instead (`each`, `summed`): the program of a single device,
on that device's rows. So a batch of strings shrinks there as strings end, the prompts of a group
are read once, and devices wait for each other at the sum alone."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import jax
from jax import Array


class Apart(Protocol):
    """How a layout computes `function(shared, rows)` on each device's rows."""

    def __call__(self, function: Callable[[Any, Any], Any], shared: Any, rows: Any, *, total: bool):
        """`shared` is whole on each device. Gives rows, or with `total` sums over all rows."""
        ...


class Parting(NamedTuple):
    """How the rows of the program that is traced are parted."""

    blocks: int = 1  # contiguous parts of a batch: tokens are not moved between them
    place: Callable[[Array], Array] | None = None  # rows [B, ...] to their devices
    apart: Apart | None = None  # None where parameters are parted too


WHOLE = Parting()
_PARTING = contextvars.ContextVar("parting", default=WHOLE)


@contextlib.contextmanager
def parted(parting: Parting) -> Iterator[None]:
    """While a program is traced: its rows are parted so."""
    token = _PARTING.set(parting)
    try:
        yield
    finally:
        _PARTING.reset(token)


def row_blocks() -> int:
    """Into how many contiguous parts rows are parted."""
    return _PARTING.get().blocks


def rows_are_parted() -> bool:
    """Whether the program that is traced has its rows parted over devices."""
    own = _PARTING.get()
    return own.place is not None or own.blocks > 1


def in_place(x: Array) -> Array:
    """What a network makes of rows [B, ...], on the devices of these rows. Without it a compiler
    that sees weights parted over the same devices may part what is computed as them, and then adds
    up whole batches between devices at every product."""
    place = _PARTING.get().place
    return x if place is None else place(x)


def each(function: Callable[[Any, Any], Any], shared: Any, rows: Any) -> Any:
    """`function(shared, rows)`, which makes rows of rows [B, ...], each of its own row alone; on
    each device's rows where they are parted and divide."""
    return _computed(function, shared, rows, total=False)


def summed(function: Callable[[Any, Any], Any], shared: Any, rows: Any, parts: int = 1) -> Any:
    """`function(shared, rows)`, which makes sums over rows [B, ...] and takes them in so many
    parts; summed over devices where rows are parted and divide."""
    return _computed(function, shared, rows, total=True, parts=parts)


def _computed(
    function: Callable[[Any, Any], Any], shared: Any, rows: Any, *, total: bool, parts: int = 1
) -> Any:
    own = _PARTING.get()
    sizes = {x.shape[0] for x in jax.tree.leaves(rows)}
    if own.apart is None or any(size % (own.blocks * parts) for size in sizes):
        return function(shared, rows)

    def on_one(shared: Any, rows: Any) -> Any:
        with parted(WHOLE):
            return function(shared, rows)

    return own.apart(on_one, shared, rows, total=total)
