"""Several processes, one on each host, run the same program over all devices: joining, telling,
agreeing on a clock.

All of them compute; the first one's folder is the one that stays. Each must see it, and the cache.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from fdiv.types import UsageError

Value = TypeVar("Value")
Json = Any  # what `json` reads
ALONE = 30  # seconds after which a process that has ended with an error ends those that wait for it
PIECE = 1 << 22  # bytes of an exchange at a time: devices hold one of each process


def join(coordinator: str, processes: int, process: int) -> None:
    """Become one of several processes, before any other use of JAX: as said by the flags, or inside
    `srun` by SLURM.

    Raises `UsageError` for flags that do not fit together.
    """
    if coordinator or processes:
        _check(coordinator, processes, process)
        jax.distributed.initialize(coordinator, processes, process, shutdown_timeout_seconds=ALONE)
    elif several(coordinator, processes):
        jax.distributed.initialize(shutdown_timeout_seconds=ALONE)


def several(coordinator: str, processes: int) -> bool:
    """Whether `join` makes this process one of several."""
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    return bool(coordinator or processes) or (tasks > 1 and "SLURM_STEP_NODELIST" in os.environ)


def _check(coordinator: str, processes: int, process: int) -> None:
    if not coordinator:
        fix = "Give the host and port of the first process, such as node1:1234."
        raise UsageError("devices.coordinator", coordinator, "is missing.", fix)
    if processes < 1:
        raise UsageError(
            "devices.processes", processes, "is no number of processes.", "Give how many there are."
        )
    if not 0 <= process < processes:
        raise UsageError(
            "devices.process",
            process,
            "is no process.",
            f"Give a number from 0 to {processes - 1}.",
        )


@contextlib.contextmanager
def folder(out: Path) -> Iterator[Path]:
    """Where this process keeps its run: the first in `out`, each other quietly in a copy that is
    thrown away.

    So all of them start from the same files, and one alone writes where users look. They leave
    together, unless by an error."""
    if jax.process_index() == 0:
        meet("copied")
        yield out
        meet("done")
        return
    with (
        tempfile.TemporaryDirectory() as own,
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):
        if out.is_dir():
            shutil.copytree(out, Path(own) / "run")
        meet("copied")
        yield Path(own) / "run"
        meet("done")


def meet(name: str) -> None:
    """Wait until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def first(value: int) -> int:
    """The first process's number, for all: what a clock says differs between them."""
    return int(_gathered(value)[0])


def any_of(flag: bool) -> bool:
    """Whether it is so in any process."""
    return bool(_gathered(flag).any())


def exchanged(
    own: Value, write: Callable[[Value], Json], read: Callable[[Json], Value]
) -> list[Value]:
    """Every process's value, in their order, in all of them.

    They travel as JSON, which `write` makes and `read` reads: whoever can reach the coordinator can
    join, and what it sends must be data that cannot run."""
    if jax.process_count() == 1:
        return [own]
    data = json.dumps(write(own)).encode()
    pieces = int(_gathered(-(-len(data) // PIECE)).max())
    padded = np.frombuffer(data.ljust(pieces * PIECE), np.uint8).reshape(pieces, PIECE)
    gathered = np.concatenate(
        [multihost_utils.process_allgather(piece) for piece in padded], axis=1
    )
    return [read(json.loads(each.tobytes())) for each in gathered]


def _gathered(value: Any) -> np.ndarray:
    if jax.process_count() == 1:
        return np.array([value])
    return np.asarray(multihost_utils.process_allgather(np.asarray(value))).reshape(-1)
