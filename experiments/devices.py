"""Devices, and where compiled programs and teachers are kept."""

from __future__ import annotations

import os
from pathlib import Path

import jax

from fdiv.types import UsageError


def cache_folder(chosen: Path | None) -> Path:
    """The folder given, else $FDIV_CACHE, else ~/.cache/fdiv."""
    if chosen is not None:
        return Path(chosen)
    return Path(os.environ.get("FDIV_CACHE") or Path.home() / ".cache" / "fdiv")


def use_compile_cache(chosen: Path | None) -> None:
    """Keep compiled programs between runs."""
    folder = cache_folder(chosen) / "programs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError("cache", str(folder), f"cannot be made ({error.strerror}).", "Give a folder you can write.") from error
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def chosen(count: int) -> list:
    """The first `count` local devices, all of them for 0."""
    devices = jax.local_devices()
    if count > len(devices):
        raise UsageError("devices", count, f"there are only {len(devices)} here.", "Give fewer, or 0 for all.")
    return devices[: count or None]
