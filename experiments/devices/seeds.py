"""Many runs of one pure program side by side: vmapped on a device, the devices mapped. No
collectives, so no difference."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.devices import offload
from experiments.devices.programs import Program, of_runs, opened, options, shape_of


class SeedLayout:
    """`count` runs over `devices`: pytrees are [count, ...] outside, [devices, per device, ...] on
    several devices."""

    def __init__(self, count: int, devices: list):
        self.count = count
        self.per = -(-count // len(devices))
        self.devices = devices[: -(-count // self.per)]
        self._several = len(self.devices) > 1
        self._copies: dict[int, tuple[Any, jax.Array]] = {}  # id -> an array, and it on each device

    def __str__(self) -> str:
        return f"{len(self.devices)} x {self.devices[0].device_kind}"

    def put(self, tree: Any) -> Any:
        """[count, ...] -> this layout; runs that fill up the last device repeat the last run and
        are dropped by `get`."""
        if not self._several:
            own = offload.shardings(tree, offload.on_one(self.devices[0]))
            return jax.device_put(tree, own)
        used, per = len(self.devices), self.per
        fill = jnp.minimum(jnp.arange(used * per), self.count - 1)
        return jax.tree.map(lambda x: jnp.asarray(x)[fill].reshape(used, per, *x.shape[1:]), tree)

    def rows(self, tree: Any) -> Any:
        """Inside a program: rows of one run as they are."""
        return tree

    def put_rows(
        self, shape: tuple[int, int, int], load: Callable[[tuple[slice, slice, slice]], Any]
    ) -> Any:
        """Rows [count, steps, B, ...], all loaded here."""
        return self.put(load((slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2]))))

    def get(self, tree: Any) -> Any:
        """This layout -> [count, ...]."""
        if not self._several:
            return tree
        runs = len(self.devices) * self.per  # said, as -1 is unknown of an array without elements
        return jax.tree.map(lambda x: x.reshape(runs, *x.shape[2:])[: self.count], tree)

    def host(self, tree: Any) -> Any:
        """This layout -> numpy [count, ...]."""
        return jax.tree.map(np.asarray, self.get(tree))

    def share(self, tree: Any) -> Any:
        """Arrays that are the same for all runs, for programs to close over."""
        return jax.device_put(tree, self.devices[0])

    def compile(
        self,
        function: Callable,
        *arguments: Any,
        shared: tuple[int, ...] = (),
        donate: tuple[int, ...] = (),
        seldom: bool = False,
    ) -> tuple[Program, float]:
        """(compiled program, seconds it took) for `function(*arguments)` of one run; `shared`
        arguments: the same for all."""
        axes = tuple(None if i in shared else 0 for i in range(len(arguments)))
        mapped = of_runs(function, axes, self.per)
        begin = time.perf_counter()
        compile_mapped = self._on_several if self._several else self._on_one
        program = compile_mapped(mapped, arguments, axes, donate, options(self.devices, seldom))
        return program, time.perf_counter() - begin

    def _on_one(
        self,
        mapped: Callable,
        arguments: tuple,
        axes: tuple,
        donate: tuple[int, ...],
        told: dict[str, Any],
    ) -> Program:
        traced = jax.jit(mapped, donate_argnums=donate).trace(*arguments)
        if (own := opened(traced)) is None:
            return Program(traced.lower().compile(told), ())
        donate = tuple(i + len(own.closed_over) for i in donate)
        program = jax.jit(own.function, donate_argnums=donate)
        return Program(program.lower(*own.closed_over, *arguments).compile(told), own.closed_over)

    def _on_several(
        self,
        mapped: Callable,
        arguments: tuple,
        axes: tuple,
        donate: tuple[int, ...],
        told: dict[str, Any],
    ) -> Program:
        on_each = [
            x if axis is None else jax.tree.map(lambda x: shape_of(x, x.shape[1:]), x)
            for axis, x in zip(axes, arguments)
        ]
        closed_over: tuple[jax.Array, ...] = ()
        if (own := opened(jax.jit(mapped).trace(*on_each))) is not None:
            mapped, closed_over = own.function, tuple(map(self._on_each, own.closed_over))
        count = len(closed_over)
        program = jax.pmap(
            mapped,
            in_axes=(*(0,) * count, *axes),
            devices=self.devices,
            donate_argnums=tuple(i + count for i in donate),
        )
        return Program(program.lower(*closed_over, *arguments).compile(told), closed_over)

    def _on_each(self, x: jax.Array) -> jax.Array:
        """One array on every device, [devices, ...]; made once for all programs."""
        if id(x) not in self._copies:
            mesh = jax.sharding.Mesh(np.array(self.devices), ("devices",))
            rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("devices"))
            host = np.asarray(x)[None]
            shape = (len(self.devices), *x.shape)
            self._copies[id(x)] = x, jax.make_array_from_callback(shape, rows, lambda _: host)
        return self._copies[id(x)][1]
