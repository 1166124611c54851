"""Which devices a run uses, and the layout of its runs over them."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os

import jax

from experiments.devices import cores, memory, processes
from experiments.devices.layout import Layout
from experiments.devices.mesh import MeshLayout
from experiments.devices.seeds import SeedLayout
from fdiv.ranges import check_ranges, ranged
from fdiv.types import UsageError

FILL = -1  # as many as are left


@dataclasses.dataclass(frozen=True)
class Devices:
    """Which devices a run uses. All of data, fsdp, tensor at 1: seeds are spread over them, one
    copy of a model on each."""

    count: int = ranged(0, least=0)
    """Devices to use; 0 is all there are."""
    at_once: int = ranged(0, least=0)
    """Methods trained at a time where that is of use, which is on a CPU, of tables over enumerated
    strings; 0 is as many as there are cores, and 1 gives seconds that no other method disturbs."""
    data: int = ranged(1, least=1, also=(FILL,))
    """One model over a mesh: parts of each batch (-1: as many as are left). A CPU is as many
    devices as are asked for, up to one a core."""
    fsdp: int = ranged(1, least=1, also=(FILL,))
    """Parts of each batch and of each parameter (-1: as many as are left)."""
    tensor: int = ranged(1, least=1, also=(FILL,))
    """Parts of each layer's heads and hidden units (-1: as many as are left)."""
    coordinator: str = ""
    """Several processes without SLURM: host:port of the first."""
    processes: int = ranged(0, least=0)
    """Several processes without SLURM: how many."""
    process: int = ranged(0, least=0)
    """Several processes without SLURM: which one this is."""

    @property
    def axes(self) -> dict[str, int]:
        """The mesh as asked for."""
        return {"data": self.data, "fsdp": self.fsdp, "tensor": self.tensor}

    @property
    def meshed(self) -> bool:
        """Whether one model is spread over devices."""
        return any(size != 1 for size in self.axes.values())

    def check(self) -> None:
        """Raise `UsageError` naming a field that is out of range."""
        check_ranges(self)
        open_ended = [name for name, size in self.axes.items() if size == FILL]
        if len(open_ended) > 1:
            names = " and ".join(open_ended)
            raise UsageError(
                f"devices.{open_ended[1]}",
                FILL,
                f"{names} cannot both be what is left.",
                "Give one of them.",
            )

    def shape(self, available: int) -> dict[str, int]:
        """The mesh over so many devices. Raises `UsageError` where they do not divide, or are too
        few."""
        fixed = math.prod(size for size in self.axes.values() if size != FILL)
        if available < fixed or (FILL in self.axes.values() and available % fixed):
            problem = f"there are {available} devices, and the other axes take {fixed}."
            fix = "Change data, fsdp or tensor."
            if jax.default_backend() == "cpu":
                fix += f" A CPU is one device a core at most, of which there are {cores.usable()}."
            raise UsageError("devices", tuple(self.axes.values()), problem, fix)
        return {
            name: available // fixed if size == FILL else size for name, size in self.axes.items()
        }


def cores_as_devices(devices: Devices) -> None:
    """Have JAX show a CPU as the devices of the mesh that is asked for, up to one a core; to be
    called before JAX looks for devices. Nothing is changed where something else says how many
    there are, and with several processes, whose hosts need not be alike."""
    said = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    several = processes.several(devices.coordinator, devices.processes)
    if not devices.meshed or several or said:
        return
    fixed = math.prod(size for size in devices.axes.values() if size != FILL)
    most = cores.usable()
    wanted = most // fixed * fixed if FILL in devices.axes.values() else fixed
    # pyrefly: ignore[missing-attribute]: JAX makes its settings attributes when it is loaded
    if jax.config.jax_num_cpu_devices < 1 and 1 < wanted <= most:
        with contextlib.suppress(RuntimeError):  # JAX has looked for devices before
            jax.config.update("jax_num_cpu_devices", wanted)


def chosen(devices: Devices) -> list:
    """The first so many devices of all processes."""
    refuse_missing("devices.count", devices.count)
    return jax.devices()[: devices.count or None]


def refuse_missing(field: str, count: int) -> None:
    """Raise `UsageError` for more devices than there are."""
    if count > (here := len(jax.devices())):
        raise UsageError(field, count, f"there are only {here} here.", "Give fewer, or 0 for all.")


def lay_out(count: int, devices: Devices) -> Layout:
    """The layout of `count` runs over the devices asked for: one mesh for all of them, or seeds
    spread over devices. Raises `UsageError` where several processes have no mesh."""
    available = chosen(devices)
    if jax.process_count() > 1 and not devices.meshed:
        fix = "Give --devices.data -1, or run seeds apart in a sweep."
        raise UsageError(
            "devices",
            jax.process_count(),
            "processes need one model over a mesh of all devices.",
            fix,
        )
    return (
        MeshLayout(count, available, devices.shape(len(available)))
        if devices.meshed
        else SeedLayout(count, available)
    )


def memory_taken(taken: int) -> str:
    """Bytes taken on each device as people read them, and of how many, where the platform says."""
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    of = f" of {memory.spelled(limit)}" if limit else ""
    return f"{memory.spelled(taken)} of memory on each device{of}"
