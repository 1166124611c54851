"""The pictures of a head-to-head, one entry each, in the order in which the report shows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from experiments.reporting import (
    cost,
    curves,
    frontier,
    modes,
    overoptimisation,
    planes,
    rewards,
    scoreboards,
    wording,
)
from experiments.reporting.charts import Drawing
from experiments.reporting.schema import HistoryLine, Json, RunResult


class Picture(NamedTuple):
    """How a picture is made, and what the report says of it. Pictures of one heading stand side by
    side."""

    heading: str
    caption: str
    draw: Callable[[RunResult, Sequence[HistoryLine], Path], Drawing | None]


class Drawn(NamedTuple):
    """A picture in the report."""

    heading: str
    caption: str
    drawing: Drawing


def pictures(
    result: RunResult, history: Sequence[HistoryLine], samples: Sequence[Json] = ()
) -> list[Picture]:
    """All pictures of a run of this kind, with what is said of them; `samples` are the lines of
    samples.jsonl."""
    board = scoreboards.of_result(result)
    return [
        Picture(
            "Reward against divergence from the reference",
            wording.under_frontier(result.seeds),
            lambda result, history, folder: frontier.picture(result, folder),
        ),
        Picture(
            "The learned reward and the true one",
            "Solid: what the policy earns from the task. Dashed: what the reward model says it "
            "earns, moved to meet it where the policy sets off. Where the dashed line goes on up "
            "and the solid one does not, the policy has found what the model got wrong.",
            overoptimisation.picture,
        ),
        Picture("Learning curves", curves.caption(result, history), curves.picture),
        Picture(
            "Modes sought and covered",
            modes.caption(result),
            lambda result, history, folder: modes.picture(result, folder),
        ),
        *(
            Picture(board.planes_heading, planes.caption(plane, result), partial(_plane, plane))
            for plane in board.planes
        ),
        Picture(
            "What it cost",
            wording.under_cost(result),
            lambda result, history, folder: cost.picture(result),
        ),
        Picture(
            "Chance that one of k answers is right",
            "pass@k of each method, unbiased, from the same draws for every k.",
            lambda result, history, folder: cost.pass_at_k(result),
        ),
        Picture(
            "Rewards as functions of the log-ratio",
            wording.under_rewards(result),
            lambda result, history, folder: rewards.picture(result, samples),
        ),
        Picture("Training itself", wording.under_training(result), curves.training),
    ]


def _plane(
    plane: scoreboards.Plane, result: RunResult, history: Sequence[HistoryLine], folder: Path
) -> Drawing | None:
    return planes.picture(plane, result, folder)


def draw(
    result: RunResult,
    history: Sequence[HistoryLine],
    folder: Path,
    samples: Sequence[Json] = (),
) -> list[Drawn]:
    """Draw into a folder all that there is something to draw for."""
    drawn = [
        (picture, picture.draw(result, history, folder))
        for picture in pictures(result, history, samples)
    ]
    return [Drawn(p.heading, p.caption, drawing) for p, drawing in drawn if drawing is not None]
