"""What a layout of runs over devices can do; `SeedLayout` and `MeshLayout` are the two there are.

A run is one model with its optimiser, data and keys. A program is written for one run; a layout
compiles it for `count` runs and moves pytrees [count, ...] to and from the devices. Whoever takes a
`Layout` need not know whether each device holds whole runs or all devices share each run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from experiments.devices.programs import Program

Tree = TypeVar("Tree")  # a pytree of arrays, of the same structure in and out


class Layout(Protocol):
    """`count` runs on some devices; `str` says which devices, for people."""

    count: int
    devices: list  # of all processes

    def put(self, tree: Tree) -> Tree:
        """[count, ...] anywhere -> the same values on these devices, in this layout's own shape."""
        ...

    def put_rows(
        self, shape: tuple[int, int, int], load: Callable[[tuple[slice, slice, slice]], Tree]
    ) -> Tree:
        """Rows [count, steps, B, ...] of that shape in this layout's own, of which each process
        loads those of its own devices alone: `load` gives the rows at these places."""
        ...

    def get(self, tree: Tree) -> Tree:
        """This layout's own shape -> [count, ...], the same on every process."""
        ...

    def host(self, tree: Tree) -> Tree:
        """`get` as numpy arrays."""
        ...

    def rows(self, tree: Tree) -> Tree:
        """Inside a program: a run's rows [B, ...], spread over the devices that share the run."""
        ...

    def share(self, tree: Tree) -> Tree:
        """Arrays anywhere that are the same for all runs -> the same on these devices, for programs
        to close over."""
        ...

    def compile(
        self,
        function: Callable,
        *arguments: Any,
        shared: tuple[int, ...] = (),
        donate: tuple[int, ...] = (),
        seldom: bool = False,
    ) -> tuple[Program, float]:
        """(`function` of one run, compiled for all runs; the seconds that took).

        `arguments` are examples in this layout's shape; those at the positions `shared` have no
        run axis and are the same for all runs, and the buffers of those at `donate` are given
        away at each call. A small program that runs `seldom` is compiled sooner and runs slower
        (`programs.options`). Large arrays that `function` closes over become arguments of the
        program (`experiments.devices.programs`)."""
        ...

    def __str__(self) -> str: ...
