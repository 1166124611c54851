"""Training that outlives its process: it starts from the newest save, saves as it goes, and stops
where it is asked to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from experiments.config import Saving
from experiments.devices import Layout, processes
from experiments.running.program import Position, Progress, TrainState
from experiments.running.stopping import Interrupted, StopFlag
from experiments.storage import checkpoints
from experiments.storage.run_folder import RunFolder


class Saves(NamedTuple):
    """Where the saves of a training go, how often they are made, and what asks it to stop."""

    folder: Path
    keep: int  # how many
    every: float  # seconds of training between them
    stop: StopFlag
    end: bool = False  # whether the end is saved too, which nothing else keeps


def saves_in(
    folder: RunFolder, name: str, saving: Saving, stop: StopFlag, end: bool = False
) -> Saves:
    """The saves of a training of that name in a run's folder."""
    return Saves(folder.checkpoints(name), saving.keep, saving.save_every, stop, end)


def newest(saves: Saves, train_state: TrainState) -> tuple[TrainState, Position | None]:
    """(runs, where they stand) from the newest sound save; the runs as given, and None, where there
    is no save."""
    restored = checkpoints.restore(saves.folder, train_state, lacking(train_state))
    if restored is None:
        return train_state, None
    train_state, about = restored
    return train_state, Position(about["update"], about["seconds"], np.array(about["tokens"]))


def lacking(train_state: TrainState) -> int:
    """How many leaves at its end a save of an earlier version may lack: its log had no shares."""
    return len(jax.tree.leaves(train_state.log.shares))


def saved(
    stretches: Iterator[Progress],
    saves: Saves,
    layout: Layout,
    updates: int,
    start: Position | None,
) -> Iterator[Progress]:
    """The same stretches, saved as they go.

    Each is yielded before it is saved: what the caller writes of it is there when a later process
    goes on from the save. Raises `Interrupted` once a stop is asked for and the save is whole."""
    saved_at = start.seconds if start else 0.0
    with checkpoints.writer(saves.folder, saves.keep) as write:
        for progress in stretches:
            yield progress
            at_end = progress.update == updates
            due = processes.first(progress.seconds - saved_at > saves.every)
            stopping = processes.any_of(saves.stop.asked)
            if saves.end if at_end else due or stopping:
                about = {
                    "update": progress.update,
                    "seconds": progress.seconds,
                    "tokens": [float(x) for x in progress.tokens],
                }
                write(progress.update, layout.get(progress.train_state), about)
                saved_at = progress.seconds
            if stopping and not at_end:
                break
        else:
            return
    raise Interrupted
