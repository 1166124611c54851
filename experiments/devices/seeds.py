"""Many runs of one pure program side by side: vmapped on a device, the devices mapped. No
collectives, so no difference."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class SeedLayout:
    """`count` runs over `devices`: pytrees are [count, ...] outside, [devices, per device, ...] on
    several devices."""

    def __init__(self, count: int, devices: list):
        self.count = count
        self.per = -(-count // len(devices))
        self.devices = devices[: -(-count // self.per)]
        self._several = len(self.devices) > 1

    def __str__(self) -> str:
        return f"{len(self.devices)} x {self.devices[0].device_kind}"

    def put(self, tree: Any) -> Any:
        """[count, ...] -> this layout; runs that fill up the last device repeat the last run and
        are dropped by `get`."""
        if not self._several:
            return jax.device_put(tree, self.devices[0])
        used, per = len(self.devices), self.per
        fill = jnp.minimum(jnp.arange(used * per), self.count - 1)
        return jax.tree.map(lambda x: jnp.asarray(x)[fill].reshape(used, per, *x.shape[1:]), tree)

    def rows(self, tree: Any) -> Any:
        """Inside a program: rows of one run as they are."""
        return tree

    def get(self, tree: Any) -> Any:
        """This layout -> [count, ...]."""
        if not self._several:
            return tree
        runs = len(self.devices) * self.per  # said, as -1 is unknown of an array without elements
        return jax.tree.map(lambda x: x.reshape(runs, *x.shape[2:])[: self.count], tree)

    def host(self, tree: Any) -> Any:
        """This layout -> numpy [count, ...]."""
        return jax.tree.map(np.asarray, self.get(tree))

    def compile(
        self,
        function: Callable,
        *arguments: Any,
        shared: tuple[int, ...] = (),
        donate: tuple[int, ...] = (),
    ):
        """(compiled program, seconds it took) for `function(*arguments)` of one run; `shared`
        arguments: the same for all."""
        axes = tuple(None if i in shared else 0 for i in range(len(arguments)))
        mapped = jax.vmap(function, in_axes=axes)
        if self._several:
            mapped = jax.pmap(mapped, in_axes=axes, devices=self.devices, donate_argnums=donate)
        else:
            mapped = jax.jit(mapped, donate_argnums=donate)
        begin = time.perf_counter()
        program = mapped.lower(*arguments).compile()
        return program, time.perf_counter() - begin
