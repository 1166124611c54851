"""One model over many devices: parameters, optimiser state and batches are parted over a data x
fsdp x tensor mesh.

The program is that of one device; the compiler adds what the devices must tell each other (Xu et
al. 2021, GSPMD, arXiv 2105.04663). Where each device holds all parameters, what is computed row by
row is a program of its own on each (`fdiv.parted`). Batches are parted over data and fsdp,
parameters over fsdp (Rajbhandari et al. 2020, ZeRO, arXiv 1910.02054) and, heads and hidden units
of a transformer, over tensor (Shoeybi et al. 2019, Megatron-LM, arXiv 1909.08053)."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from experiments.devices import offload
from experiments.devices.keys import is_key
from experiments.devices.programs import Program, of_runs, opened, options
from fdiv.parted import Parting, parted

# a transformer's parameters by name: the axis of each dimension
PARTS: dict[str, tuple[str | None, ...]] = {
    "query/kernel": ("fsdp", "tensor", None),
    "key/kernel": ("fsdp", "tensor", None),
    "value/kernel": ("fsdp", "tensor", None),
    "out/kernel": ("tensor", None, "fsdp"),
    "gate/kernel": ("fsdp", "tensor"),
    "up/kernel": ("fsdp", "tensor"),
    "down/kernel": ("tensor", "fsdp"),
    # adapters: A is parted as the inputs of its kernel, B as the outputs
    **{f"{name}/a": ("fsdp", None) for name in ("query", "key", "value", "gate", "up")},
    **{f"{name}/b": (None, "tensor", None) for name in ("query", "key", "value")},
    **{f"{name}/b": (None, "tensor") for name in ("gate", "up")},
    "out/a": ("tensor", None, None),
    "down/a": ("tensor", None),
    "out/b": (None, "fsdp"),
    "down/b": (None, "fsdp"),
    "embedding": ("tensor", "fsdp"),
    "params/head": ("tensor", "fsdp"),
    "read_out": ("fsdp", "tensor"),
}
ROWS = ("data", "fsdp")


class MeshLayout:
    """`count` runs side by side on all devices of a mesh: pytrees are [count, ...], each leaf
    parted by its name."""

    def __init__(self, count: int, devices: list, shape: dict[str, int]):
        self.count, self._sizes = count, shape
        used = int(np.prod(list(shape.values())))
        self.devices = devices[:used]
        grid = np.array(self.devices).reshape(*shape.values())
        self._mesh = jax.sharding.Mesh(grid, tuple(shape), axis_types=(AxisType.Auto,) * len(shape))
        # each device holds all parameters, and computes its rows by a program of its own
        self._copies = shape["data"] == used > 1
        # a processor's devices share its threads: of two programs that exchange something and run
        # beside each other, each may hold the thread that the other waits for
        self._waits = self.devices[0].platform == "cpu" and used > 1
        self._whole: dict[int, tuple[Any, jax.Array]] = {}  # id -> an array, and it on all devices

    def __str__(self) -> str:
        sizes = " x ".join(f"{name} {size}" for name, size in self._sizes.items())
        return f"{len(self.devices)} x {self.devices[0].device_kind}, a mesh of {sizes}"

    def put(self, tree: Any) -> Any:
        """[count, ...] on these devices."""
        return jax.tree.map(_placed, tree, self._shardings(tree))

    def put_rows(
        self, shape: tuple[int, int, int], load: Callable[[tuple[slice, slice, slice]], Any]
    ) -> Any:
        """Rows [count, steps, B, ...] parted over data and fsdp, where they divide; each process
        loads those of its own devices."""
        divides = shape[2] % (self._sizes["data"] * self._sizes["fsdp"]) == 0
        sharding = NamedSharding(self._mesh, PartitionSpec(None, None, ROWS if divides else None))
        loaded: dict[tuple, list] = {}

        def part(leaf: int, index: tuple[slice, ...]) -> np.ndarray:
            own = tuple(slice(*x.indices(size)) for x, size in zip(index, shape))
            place = tuple((x.start, x.stop) for x in own)
            if place not in loaded:
                loaded[place] = jax.tree.leaves(load((own[0], own[1], own[2])))
            return loaded[place][leaf]

        none = load((slice(0, 0), slice(0, 0), slice(0, 0)))
        arrays = [
            jax.make_array_from_callback(
                (*shape, *x.shape[3:]), sharding, functools.partial(part, i)
            )
            for i, x in enumerate(jax.tree.leaves(none))
        ]
        return jax.tree.unflatten(jax.tree.structure(none), arrays)

    def share(self, tree: Any) -> Any:
        """Arrays that are the same for all runs, without the dimension that counts these, parted
        by their names. Where each device holds all of them, they are on one until a program is
        compiled: a device's own program cannot close over what lies on several."""
        if self._copies:
            here = (x for x in self.devices if x.process_index == jax.process_index())
            return jax.device_put(tree, next(here))
        return jax.tree.map(_placed, tree, self._shardings(tree, runs=0))

    def shaped(self, tree: Any, runs: int) -> Any:
        """Shapes of arrays that are not made, each laid out as `put` would, or `share` where
        `runs` is 0."""
        return jax.tree.map(
            lambda x, of: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=of),
            tree,
            self._shardings(tree, runs),
        )

    def get(self, tree: Any) -> Any:
        """As it is; with several processes, as numpy on each."""
        return jax.tree.map(_whole, tree)

    def host(self, tree: Any) -> Any:
        """As numpy [count, ...]."""
        return jax.tree.map(np.asarray, self.get(tree))

    def rows(self, tree: Any) -> Any:
        """Inside a program: rows [B, ...] of one run parted over data and fsdp, where they
        divide."""
        parts = self._sizes["data"] * self._sizes["fsdp"]
        sharding = NamedSharding(self._mesh, PartitionSpec(ROWS))
        return jax.tree.map(
            lambda x: x if x.shape[0] % parts else jax.lax.with_sharding_constraint(x, sharding),
            tree,
        )

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
        mapped = self._parted(of_runs(function, axes, self.count))
        out = self._shardings(jax.eval_shape(mapped, *arguments))
        told = options(self.devices, seldom)
        begin = time.perf_counter()
        traced = jax.jit(mapped, donate_argnums=donate, out_shardings=out).trace(*arguments)
        if (own := opened(traced)) is None:
            program = Program(traced.lower().compile(told), (), self._waits)
            return program, time.perf_counter() - begin
        closed_over = tuple(map(self._on_all, own.closed_over))
        donate = tuple(i + len(closed_over) for i in donate)
        program = jax.jit(own.function, donate_argnums=donate, out_shardings=out)
        compiled = program.lower(*closed_over, *arguments).compile(told)
        return Program(compiled, closed_over, self._waits), time.perf_counter() - begin

    def _on_all(self, x: Any) -> jax.Array:
        """An array that lies on the mesh as it is; any other whole on each of its devices, made
        once for all programs."""
        if isinstance(x, jax.Array) and isinstance(x.sharding, NamedSharding):
            return x
        if id(x) not in self._whole:
            self._whole[id(x)] = x, _placed(x, NamedSharding(self._mesh, PartitionSpec()))
        return self._whole[id(x)][1]

    def _parted(self, program: Callable) -> Callable:
        """The program, which leaves each device's tokens on it."""
        blocks = self._sizes["data"] * self._sizes["fsdp"]
        own = Parting(blocks, self.rows, self._apart if self._copies else None)

        def traced(*arguments: Any):
            with parted(own):
                return program(*arguments)

        return traced

    def _apart(
        self, function: Callable[[Any, Any], Any], shared: Any, rows: Any, *, total: bool
    ) -> Any:
        """`function(shared, rows)` on each device's rows: rows, or sums over all."""
        whole, parts = PartitionSpec(), PartitionSpec(ROWS)

        def own(shared: Any, rows: Any) -> Any:
            out = function(shared, rows)
            return jax.lax.psum(out, ROWS) if total else out

        mapped = jax.shard_map(
            own,
            mesh=self._mesh,
            in_specs=(whole, parts),
            out_specs=whole if total else parts,
            check_vma=False,
        )
        return mapped(shared, rows)

    def _shardings(self, tree: Any, runs: int = 1) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, x: NamedSharding(
                self._mesh,
                self._spec(tuple(key for key in path if key != offload.KEY), x.shape, runs),
                memory_kind=offload.MEMORY if offload.KEY in path else None,
            ),
            tree,
        )

    def _spec(self, path: tuple, shape: tuple[int, ...], runs: int) -> PartitionSpec:
        """The first `runs` dimensions count runs; one that does not divide is kept whole."""
        name = "/".join(
            str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", "")))) for key in path
        )
        axes = next((axes for ending, axes in PARTS.items() if name.endswith(ending)), ())
        stacked = int("layers/" in name)  # a dimension of layers, which stays whole
        if len(axes) != len(shape) - runs - stacked:
            return PartitionSpec()
        return PartitionSpec(
            *(None,) * (runs + stacked),
            *(
                axis if axis and n % self._sizes[axis] == 0 else None
                for axis, n in zip(axes, shape[runs + stacked :])
            ),
        )


def _placed(x: Any, sharding: NamedSharding) -> jax.Array:
    if is_key(x):
        whole = NamedSharding(sharding.mesh, PartitionSpec())
        return jax.random.wrap_key_data(
            _placed(jax.random.key_data(x), whole), impl=jax.random.key_impl(x)
        )
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def _whole(x: Any) -> Any:
    if not isinstance(x, jax.Array) or x.is_fully_addressable:
        return x
    if is_key(x):
        return jax.random.wrap_key_data(_whole(jax.random.key_data(x)), impl=jax.random.key_impl(x))
    if x.is_fully_replicated:
        return np.asarray(x)
    return multihost_utils.process_allgather(offload.on_its_device(x), tiled=True)
