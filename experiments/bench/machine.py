"""What the machine gives at this moment: its matrix products, its memory, and what it is."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from experiments.devices import cores
from experiments.models.counts import REAL, product

if TYPE_CHECKING:
    import jax

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
TUNABLES, TUNABLE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
SIDE = {"cpu": 2048}  # of the matrices whose product is timed
LARGE = {"cpu": 1 << 24}  # numbers of the arrays that are moved: 64 MiB, more than processors keep
ACCELERATOR = 8192, 1 << 28  # the same of other devices: a smaller product does not fill one
SECONDS = 0.3  # of each of the two in one look


def with_large_pages() -> None:
    """Begin this process again with pages of 2 MiB for large arrays, where Linux gives them to who
    asks for them and nobody has said otherwise.

    A program of JAX takes its memory anew in each call and gives it back. In pages of 4 KiB a step
    that computes in 600 MiB waits for 150,000 of them, a fifth of its processor time. Peers inherit
    the same setting."""
    libc, version = platform.libc_ver()
    kept = os.environ.get(TUNABLES, "")
    try:
        for_who_asks = "[madvise]" in HUGE_PAGES.read_text(encoding="utf-8")
    except OSError:
        return
    old = libc != "glibc" or tuple(map(int, version.split(".")[:2])) < (2, 35)
    if old or TUNABLE in kept or not for_who_asks:
        return
    asked = f"{TUNABLE}=1"
    environment = {**os.environ, TUNABLES: f"{kept}:{asked}" if kept else asked}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


class Pace(NamedTuple):
    """FLOP and bytes a second, the best of a moment."""

    flops: float
    bytes: float


class Gauge:
    """Measures the pace, with programs that are compiled once; products in a precision (float32 or
    bfloat16), memory in float32."""

    def __init__(
        self, side: int | None = None, large: int | None = None, precision: str = "float32"
    ):
        import jax
        import jax.numpy as jnp

        platform_ = jax.default_backend()
        side = side or SIDE.get(platform_, ACCELERATOR[0])
        large = large or LARGE.get(platform_, ACCELERATOR[1])
        self._flops, self._bytes = product(side, side, side), 3.0 * REAL * large
        # products whose factors are different matrices, so that none is known before
        draw = np.random.default_rng(0)  # numbers decide how much power, so how fast, a GPU is
        matrix = lambda: jnp.asarray(draw.standard_normal((side, side), np.float32), precision)
        self._matrices = [matrix() for _ in range(2)]
        self._arrays = [jnp.full(large, float(i)) for i in range(2)]
        self._multiply = jax.jit(lambda x, y: x @ y)
        self._add = jax.jit(lambda x, y: x + 0.5 * y)
        self._multiply(*self._matrices).block_until_ready()
        self._add(*self._arrays).block_until_ready()

    def __call__(self, seconds: float = SECONDS) -> Pace:
        """The best of as many products, and of as many sums of two long arrays, as fit into so many
        seconds each."""
        flops = self._flops / _least(lambda: self._multiply(*self._matrices), seconds)
        return Pace(flops, self._bytes / _least(lambda: self._add(*self._arrays), seconds))


def _least(call: Callable[[], jax.Array], seconds: float) -> float:
    """Seconds of the fastest call."""
    end, least = time.perf_counter() + seconds, np.inf
    while True:
        began = time.perf_counter()
        call().block_until_ready()
        now = time.perf_counter()
        least = min(least, now - began)
        if now > end:
            return float(least)


def cache() -> int:
    """Bytes of the largest cache of a core, shared or its own; 0 where the system does not say,
    and on other devices than processors."""
    import jax

    sizes = [0]
    if jax.default_backend() != "cpu":
        return 0
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text(encoding="utf-8").strip()
        number = text.rstrip("KMG")
        if number.isdecimal():
            sizes.append(int(number) << {"K": 10, "M": 20, "G": 30}.get(text[-1:], 0))
    return max(sizes)


def load() -> float:
    """Programs that ran or waited for a core in the last minute; not a number where the system does
    not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")


def description() -> str:
    """Of the machine and of what ran on it."""
    import jax

    import fdiv

    device = jax.devices()[0]
    what = _processor() if device.platform == "cpu" else device.device_kind
    python = ".".join(map(str, sys.version_info[:2]))
    versions = f"fdiv {fdiv.__version__}, jax {jax.__version__}"
    return f"{cores.usable()} cores, {what}, Python {python}, {versions}"


def _processor() -> str:
    """Its name, where the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
