"""An optimiser's state in the host's memory: it is brought to the device for each step and goes
back behind it, within the compiled update.

`offloaded` marks what is to lie there, and a layout of runs puts it there; a step leaves the state
where it has found it. Numbers are moved, never changed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import SingleDeviceSharding

from fdiv.types import UsageError

MEMORY = "pinned_host"  # JAX's name of the host's memory that a device copies from and to
Space = jax.memory.Space


class OnHost(NamedTuple):
    """An array that is to lie in the host's memory. It adds no leaf, so that saves are the same."""

    on_host: Any


KEY = jax.tree_util.GetAttrKey("on_host")  # its mark in the path of a leaf


class Offloaded(NamedTuple):
    """The state of an optimiser, its arrays marked; numbers that count steps stay on the device."""

    state: Any
    sound: Any  # 0, and not a number once a step has made the state other than finite


def offloaded(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same transformation, bit for bit, with its arrays marked as `OnHost`."""

    def init(params: optax.Params) -> Offloaded:
        mark = lambda x: OnHost(x) if jnp.ndim(x) else x
        return Offloaded(jax.tree.map(mark, tx.init(params)), jnp.float32(0))

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, Offloaded]:
        old = on_device(state.state)
        updates, new = tx.update(updates, old, params)
        sound = jnp.where(_still_finite(old, new), state.sound, jnp.nan)
        return updates, Offloaded(_back(state.state, new), sound)

    return optax.GradientTransformation(init, update)


def on_device(tree: Any) -> Any:
    """The tree without marks, inside a program: what lies in the host's memory is copied."""
    brought = lambda x: jax.device_put(x.on_host, Space.Device) if isinstance(x, OnHost) else x
    return jax.tree.map(brought, tree, is_leaf=_marked)


def chosen(condition: jax.Array, one: Any, other: Any) -> Any:
    """`one` where a condition holds, else `other`, inside a program: trees of one structure, with
    marks."""
    own = jax.tree.map(lambda a, b: jnp.where(condition, a, b), on_device(one), on_device(other))
    return _back(one, own)


def _back(marked: Any, tree: Any) -> Any:
    """The tree on the device, its arrays where those of the marked tree lie."""

    def each(old: Any, new: jax.Array) -> Any:
        if not isinstance(old, OnHost):
            return new
        return OnHost(jax.device_put(new, jax.typeof(old.on_host).memory_space))

    return jax.tree.map(each, marked, tree, is_leaf=_marked)


def _still_finite(old: Any, new: Any) -> jax.Array:
    """Whether all is finite that was."""
    pairs = zip(jax.tree.leaves(old), jax.tree.leaves(new))
    each = [
        jnp.all(jnp.isfinite(y) | ~jnp.isfinite(x))
        for x, y in pairs
        if jnp.issubdtype(x.dtype, jnp.inexact)
    ]
    return jnp.all(jnp.stack(each)) if each else jnp.bool_(True)


def _marked(x: Any) -> bool:
    return isinstance(x, OnHost)


# --- where it lies --------------------------------------------------------------------------------


def unmarked_leaves(tree: Any) -> list[Any]:
    """The leaves that are not `OnHost`."""
    return [x for x in jax.tree.leaves(tree, is_leaf=_marked) if not _marked(x)]


def shardings(tree: Any, on: Callable[[str | None], Any]) -> Any:
    """`on(memory)` for every leaf; memory is None for that of the device."""
    here, host = on(None), on(MEMORY)
    each = lambda x: OnHost(host) if _marked(x) else here
    return jax.tree.map(each, tree, is_leaf=_marked)


def on_one(device: Any) -> Callable[[str | None], SingleDeviceSharding]:
    """A device with its memory."""
    return lambda memory: SingleDeviceSharding(device, memory_kind=memory)


def on_its_device(x: jax.Array) -> jax.Array:
    """An array outside of programs, for those that take what lies on devices alone."""
    if x.sharding.memory_kind != MEMORY:
        return x
    return jax.device_put(x, x.sharding.with_memory_kind("device"))


def refuse(devices: list, meshed: bool) -> None:
    """Raise `UsageError` where state cannot lie in the host's memory: seeds that are spread over
    several devices, a platform without it, and one whose compiler cannot have it in a loop."""
    if len(devices) > 1 and not meshed:
        raise _refused(
            f"runs are spread over {len(devices)} devices, by a call that takes what lies on "
            "devices alone.",
            "Give --devices.count 1 or a mesh such as --devices.data -1, or drop it.",
        )
    here = [device for device in devices if device.process_index == jax.process_index()]
    if not here:
        return
    if why := _lacking(here[0]):
        raise _refused(why, "Drop it.")


def _refused(problem: str, fix: str) -> UsageError:
    return UsageError("offload", True, problem, fix)


@functools.cache
def _lacking(device: Any) -> str:
    """Why a device cannot have a state in the host's memory; nothing where it can."""
    kinds = [memory.kind for memory in device.addressable_memories()]
    if MEMORY not in kinds:
        return f"{device.device_kind} has no {MEMORY} memory ({', '.join(kinds)})."
    try:
        found = _tried(device)
    except Exception as error:  # whatever a platform's compiler says of what it cannot do
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return f"{device.device_kind} cannot keep it in {MEMORY} within a loop: {reason[:200]}."
    return "" if found else f"{device.device_kind} does not leave it in {MEMORY}."


def _tried(device: Any) -> bool:
    """Whether a loop that adds to an array of the host's memory gives the sum, and there."""
    tx = offloaded(optax.trace(decay=1.0))
    ones = jax.device_put(jnp.ones((2, 8)), device)

    def steps(count: jax.Array, kept: Offloaded) -> Offloaded:
        return jax.lax.fori_loop(0, count, lambda i, kept: tx.update(ones[0], kept)[1], kept)

    begun = jax.vmap(tx.init)(ones)
    begun = jax.device_put(begun, shardings(begun, on_one(device)))
    looped = jax.jit(jax.vmap(steps, in_axes=(None, 0)), donate_argnums=1)
    ended = looped(jnp.int32(3), begun).state.trace.on_host
    return ended.sharding.memory_kind == MEMORY and bool(np.all(np.asarray(ended) == 3.0))
