"""A metric of one's own in every run's table, from a file that --import names."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

from jax import Array

from experiments.reporting import metrics, scoreboards
from experiments.reporting.metrics import Better, Metric
from fdiv.metrics import STATISTICS
from fdiv.types import Sequences, UsageError


def add_metric(
    name: str,
    function: Callable[[Sequences], Array],
    title: str | None = None,
    *,
    short: str | None = None,
    unit: str = "",
    better: Better = 0,
) -> None:
    """Measure every policy by the mean of a function of its strings, and show it in the table.

    `function` takes B strings (`fdiv.types.Sequences`: tokens and mask [B, T]) and gives a number
    for each, [B], in jax.numpy. Where strings are enumerated its mean is exact. `better` is 1 where
    more is better, -1 where less is. Raises `UsageError` for a name that is taken."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        fix = "Use small letters, digits and underscores, such as closed_share."
        raise UsageError("metric", name, "is no name of a metric.", fix)
    if name in metrics.METRICS and name not in STATISTICS:
        raise UsageError("metric", name, "is a metric that there is already.", "Give another name.")
    STATISTICS[name] = function
    entry = Metric(name, title or name, short or title or name, unit, better)
    metrics.METRICS[name] = entry
    for kind, board in scoreboards.SCOREBOARDS.items():
        if name not in board.columns:
            scoreboards.SCOREBOARDS[kind] = dataclasses.replace(
                board, columns=(*board.columns, name)
            )
