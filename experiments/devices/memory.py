"""How much memory there is, and how sizes are written."""

from __future__ import annotations

import os
from pathlib import Path

import jax

LIMITS = (  # what a container of this machine may take, in either version of control groups
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
UNITS = ("B", "KB", "MB", "GB", "TB", "PB")


def of_machine() -> int:
    """Bytes that this machine has, or that its container may take of them."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([whole, *filter(None, map(_limit, LIMITS))])


def _limit(path: Path) -> int:
    """The number in a file, or 0 where there is none."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except OSError:
        return 0
    return int(text) if text.isdigit() else 0


def of_devices(devices: list) -> int:
    """Bytes that devices have, all together: this machine's where they are its processors. Those
    of other processes, which cannot be asked from here, are taken to be like this one's."""
    here = [device for device in devices if device.process_index == jax.process_index()]
    asked = here or jax.local_devices()
    limits = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in asked]
    return sum(limits) * len(devices) // len(asked) if all(limits) else of_machine()


def spelled(size: float) -> str:
    """`1.5 GB`."""
    unit = 0
    while size >= 1000 and unit < len(UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:,.1f} {UNITS[unit]}" if unit else f"{size:.0f} B"
