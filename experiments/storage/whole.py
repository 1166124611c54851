"""Files that are there whole or not at all: written beside their place, then renamed into it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from experiments import escapes, paths


@contextlib.contextmanager
def draft(path: Path) -> Iterator[Path]:
    """Where to write what is to be at `path`, under a name of the same suffix; it is renamed at
    the end, and removed where anything goes wrong. An `OSError` names `path`."""
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    place = path.with_name(f".draft-{os.getpid()}-{path.name}")
    with paths.naming(path, always=True):
        try:
            yield place
            os.replace(place, path)
        except BaseException:  # a signal's too
            with contextlib.suppress(OSError):
                place.unlink()
            raise


def write_text(path: Path, text: str) -> None:
    """All of a text, as `escapes.write_text` writes it."""
    with draft(path) as place:
        escapes.write_text(place, text)
