"""What each method gained in precision and in recall since the start: whether it sought modes of
the expert or covered them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from experiments.reporting import planes, wording
from experiments.reporting.charts import Drawing
from experiments.reporting.schema import Change, RunResult, Summary
from experiments.reporting.scoreboards import Plane

FAR = 2.0  # times what any method gained, from which on the expert would leave no room for them
X, Y = "recall", "precision_token_expert"
AXES = {X: "recall_gained", Y: "precision_gained"}  # metric -> its gain
PLANE = Plane("modes", AXES[X], (AXES[Y],), start=True, alike="as much of both")


def picture(result: RunResult, folder: Path) -> Drawing | None:
    """Gains of precision against those of recall, with two standard errors; nothing where they were
    not measured."""
    own = _gains(result)
    return planes.picture(PLANE, own, folder) if own.methods else None


def _gains(result: RunResult) -> RunResult:
    """The run with the gains as its methods' metrics, and the expert's where it is not far."""
    methods = {}
    for name, m in result.methods.items():
        moved = {change.metric: change for change in m.changes}
        if {X, Y} <= set(moved):
            metrics = {axis: _summary(moved[metric]) for metric, axis in AXES.items()}
            methods[name] = dataclasses.replace(m, metrics=metrics, temperatures=[])
    more = to_gain(result)
    most = lambda axis: max((abs(m.metrics[axis].iqm) for m in methods.values()), default=0.0)
    far = any(abs(more[metric]) > FAR * most(axis) for metric, axis in AXES.items() if more)
    return dataclasses.replace(
        result,
        methods=methods,
        expert={} if far else {AXES[metric]: value for metric, value in more.items()},
        start=dict.fromkeys(AXES.values(), 0.0),
        class_optimum={},
        seeds=1,  # of seeds nothing is drawn: the errors hold them
    )


def to_gain(result: RunResult) -> dict[str, float]:
    """What the expert has more than the start in both; nothing where that is not known."""
    ends = (result.expert, result.start)
    known = all(metric in end for metric in AXES for end in ends)
    return {metric: result.expert[metric] - result.start[metric] for metric in AXES if known}


def caption(result: RunResult) -> str:
    """What is said under the picture."""
    return wording.under_modes(result, to_gain(result))


def _summary(change: Change) -> Summary:
    """A change with two standard errors in the place of an interval."""
    ends = [change.moved - 2 * change.stderr, change.moved + 2 * change.stderr]
    return Summary(change.moved, change.moved, ends, [])
