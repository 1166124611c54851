"""The folder in which compiled programs and teachers are kept between runs."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import jax

from fdiv.types import UsageError


def cache_folder(chosen: Path | None) -> Path:
    """The folder given, else $FDIV_CACHE, else ~/.cache/fdiv. Raises `UsageError` where none is
    given and the user has no home, or the one given begins with a home that is not known."""
    given = chosen or os.environ.get("FDIV_CACHE")
    try:
        return Path(given or "~/.cache/fdiv").expanduser()
    except RuntimeError as error:
        problem = "is not given, and there is no home folder to keep compiled programs in."
        if given:
            problem = "begins with a home folder that is not known."
        fix = "Give a folder with --cache, or in the environment as FDIV_CACHE."
        raise UsageError("cache", str(given) if given else None, problem, fix) from error


def use_compile_cache(chosen: Path | None) -> None:
    """Keep compiled programs between runs, in a folder that any number of processes may share."""
    folder = cache_folder(chosen) / "programs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            "cache",
            str(folder),
            f"cannot be made ({error.strerror}).",
            "Give a folder you can write.",
        ) from error
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    _write_entries_whole()


def _write_entries_whole() -> None:
    """JAX writes an entry in place: a process that reads it meanwhile, or all later ones where the
    writer is killed, would find a part of it, compile again and never mend it. Renamed into its
    place, it is there whole or not at all."""
    from jax._src import lru_cache

    def put(self, key: str, value: bytes) -> None:
        place = Path(str(self.path)) / f"{key}-cache"
        draft = place.with_name(f".{key}.{os.getpid()}-{threading.get_ident()}.draft")
        if not place.exists():
            draft.write_bytes(value)
            draft.replace(place)

    lru_cache.LRUCache.put = put
