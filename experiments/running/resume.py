"""Training that outlives its process: it starts from the newest save, saves as it goes, and stops
where it is asked to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.devices import processes
from experiments.running import train
from experiments.running.stopping import Interrupted, StopFlag
from experiments.storage import checkpoints


class Saves(NamedTuple):
    """Where saves go, how many are kept, and seconds of training between them."""

    folder: Path
    keep: int
    every: float


def resume(
    saves: Saves, train_state: train.TrainState
) -> tuple[train.TrainState, train.Progress | None]:
    """(run, where it stands) from the newest sound save; the run itself and None where there is
    none."""
    kept = checkpoints.restore(saves.folder, train_state)
    if kept is None:
        return train_state, None
    train_state, about = kept
    return train_state, train.Progress(
        about["update"], about["seconds"], np.array(about["tokens"]), None, None
    )


def run(
    saves: Saves,
    stop: StopFlag,
    compiled: train.CompiledMethod,
    train_state: train.TrainState,
    start: train.Progress | None,
    evaluate: Callable[[train.TrainState], dict] = lambda train_state: {},
    points: int = 1,
    keep_end: bool = False,
) -> Iterator[train.Progress]:
    """`training.run` from what `resume` gave. A point is yielded before it is saved: what the
    caller has written of it is there when the run goes on. Raises `Interrupted` once `stop` is
    asked for and the save is whole; `keep_end` saves the last point too."""
    saved_at = start.seconds if start else 0.0
    with checkpoints.writer(saves.folder, saves.keep) as write:
        for progress in train.run(compiled, train_state, evaluate, points, start):
            yield progress
            ended = progress.update == compiled.updates
            due, asked = (
                processes.first(progress.seconds - saved_at > saves.every),
                processes.any_of(stop.asked),
            )
            if keep_end if ended else due or asked:
                about = {
                    "update": progress.update,
                    "seconds": progress.seconds,
                    "tokens": [float(x) for x in progress.tokens],
                }
                write(progress.update, compiled.layout.get(progress.train_state), about)
                saved_at = progress.seconds
            if asked and not ended:
                break
        else:
            return
    raise Interrupted
