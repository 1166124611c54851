"""Commands in processes of their own that begin with the libraries loaded: they are forked from a
server that has imported those, nothing of the project's, and has made no device."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from pathlib import Path
from typing import NamedTuple

LIBRARIES = ["numpy", "jax", "optax", "flax.linen", "tyro", "rich.console", "matplotlib.pyplot"]


class Done(NamedTuple):
    """What a command has left."""

    code: int | None
    out: str
    err: str


def run(name: str, words: list[str], cwd: Path, files: Path) -> Done:
    """`python -m NAME WORDS` in a folder; what it says goes through two files in another."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    said = [files / "out", files / "err"]
    process = context.Process(target=_begin, args=(name, words, cwd, said))
    process.start()
    process.join()
    return Done(process.exitcode, *(path.read_text(encoding="utf-8") for path in said))


def _begin(name: str, words: list[str], cwd: Path, said: list[Path]) -> None:
    for number, path in enumerate(said, start=1):
        with path.open("wb") as file:
            os.dup2(file.fileno(), number)
    os.chdir(cwd)
    sys.argv = [name, *words]
    sys.orig_argv = [sys.executable, "-m", *sys.argv]  # by which a command may start anew
    runpy.run_module(name, run_name="__main__", alter_sys=True)
