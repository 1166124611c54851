"""A metric of one's own in every run's table, from a file that --import names."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable

from jax import Array

from experiments.reporting import metrics, scoreboards
from experiments.reporting.metrics import Better, Metric
from fdiv import divergences
from fdiv.metrics import STATISTICS
from fdiv.types import Sequences, UsageError

FIELDS = ("method", "seed", "update", "tokens", "seconds", "loss")  # of a line of metrics.jsonl


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
    if (name in metrics.METRICS and name not in STATISTICS) or _is_ours(name):
        raise UsageError("metric", name, "is a metric that there is already.", "Give another name.")
    _refuse_signature(name, function)
    if better not in (-1, 0, 1):
        fix = "Give 1 where more is better, -1 where less is, 0 where neither is."
        raise UsageError("better", better, "is no direction.", fix)
    STATISTICS[name] = function
    entry = Metric(name, title or name, short or title or name, unit, better)
    metrics.METRICS[name] = entry
    for kind, board in scoreboards.SCOREBOARDS.items():
        if name not in board.columns:
            scoreboards.SCOREBOARDS[kind] = dataclasses.replace(
                board, columns=(*board.columns, name)
            )


def _is_ours(name: str) -> bool:
    """Whether a run writes something else under a name: a field of its lines, a standard error, a
    divergence at one of its levels."""
    own = {*metrics.METRICS, *divergences.FAMILY} - {*STATISTICS}
    at_a_level = [name.removesuffix(end) for end in metrics.LEVELS if name.endswith(end)]
    ours = name in FIELDS or name in divergences.FAMILY or name.endswith("_stderr")
    return ours or any(base in own for base in at_a_level)


def _refuse_signature(name: str, function: Callable[..., Array]) -> None:
    """Raise `UsageError` for what cannot be called with strings alone."""
    try:
        inspect.signature(function).bind(None)
    except (TypeError, ValueError) as error:
        fix = "Write def metric(strings): ..., which gives a number for each string."
        problem = f"cannot be called with strings alone ({error})."
        raise UsageError("metric", name, problem, fix) from error
