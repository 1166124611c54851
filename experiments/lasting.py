"""Training that outlives its process: it starts from the newest save, saves as it goes, and stops where it is asked to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments import checkpoints, processes, training
from experiments.stopping import Interrupted, StopFlag


class Saves(NamedTuple):
    """Where saves go, how many are kept, and seconds of training between them."""

    folder: Path
    keep: int
    every: float


def resume(saves: Saves, lane: training.Lane) -> tuple[training.Lane, training.Point | None]:
    """(lane, where it stands) from the newest sound save; the lane itself and None where there is none."""
    kept = checkpoints.restore(saves.folder, lane)
    if kept is None:
        return lane, None
    lane, about = kept
    return lane, training.Point(about["update"], about["seconds"], np.array(about["tokens"]), None, None)


def run(
    saves: Saves,
    stop: StopFlag,
    program: training.Program,
    lane: training.Lane,
    start: training.Point | None,
    evaluate: Callable[[training.Lane], dict] = lambda lane: {},
    points: int = 1,
    keep_end: bool = False,
) -> Iterator[training.Point]:
    """`training.run` from what `resume` gave. A point is yielded before it is saved: what the caller has written of it is
    there when the run goes on. Raises `Interrupted` once `stop` is asked for and the save is whole; `keep_end` saves the
    last point too."""
    saved_at = start.seconds if start else 0.0
    with checkpoints.writer(saves.folder, saves.keep) as write:
        for point in training.run(program, lane, evaluate, points, start):
            yield point
            ended = point.update == program.updates
            due, asked = processes.first(point.seconds - saved_at > saves.every), processes.any_of(stop.asked)
            if keep_end if ended else due or asked:
                about = {"update": point.update, "seconds": point.seconds, "tokens": [float(x) for x in point.tokens]}
                write(point.update, program.lanes.get(point.lane), about)
                saved_at = point.seconds
            if asked and not ended:
                break
        else:
            return
    raise Interrupted
