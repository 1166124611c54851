"""Devices, the layout of runs over them, and the cache of compiled programs.

What is compiled for a CPU from here on draws JAX's random bits as `random_bits` does."""

from experiments.devices import random_bits
from experiments.devices.compile_cache import cache_folder, use_compile_cache
from experiments.devices.devices import (
    Devices,
    cores_as_devices,
    lay_out,
    memory_taken,
    refuse_missing,
)
from experiments.devices.layout import Layout
from experiments.devices.mesh import MeshLayout
from experiments.devices.programs import Program
from experiments.devices.seeds import SeedLayout

__all__ = [
    "Devices",
    "Layout",
    "MeshLayout",
    "Program",
    "SeedLayout",
    "cache_folder",
    "cores_as_devices",
    "lay_out",
    "memory_taken",
    "refuse_missing",
    "use_compile_cache",
]
random_bits.use()
