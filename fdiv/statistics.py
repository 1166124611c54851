"""Comparing methods over seeds: point estimates, stratified bootstrap intervals, paired
differences.

Scores are [seeds] for one benchmark or [seeds, benchmarks]; the bootstrap resamples seeds within
each benchmark (the strata). Everything random takes a seed. Source: Agarwal et al. 2021 (arXiv
2108.13264)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

FEW_SEEDS = 5
FEW_SEEDS_NOTE = (
    f"Fewer than {FEW_SEEDS} seeds: a bootstrap over so few is too narrow; read "
    "the intervals as a lower bound."
)


def iqm(scores) -> float:
    """Interquartile mean: the mean of what is left when a quarter of all scores is cut off at each
    end."""
    return float(_trimmed(np.asarray(scores, float).reshape(1, -1))[0])


def _trimmed(rows: np.ndarray) -> np.ndarray:
    from scipy import (
        stats,  # takes longer to load than all else of a small run, which starts without it
    )

    return stats.trim_mean(rows, 0.25, axis=1)


def mean(scores) -> float:
    """Mean over seeds and benchmarks."""
    return float(np.mean(np.asarray(scores, float)))


def bootstrap(
    scores,
    statistic: Callable = iqm,
    *,
    seed: int = 0,
    repetitions: int = 2000,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of a statistic under stratified resampling. One seed gives an interval of
    no width."""
    scores = np.asarray(scores, float)
    scores = scores[:, None] if scores.ndim == 1 else scores
    runs, tasks = scores.shape
    draws = np.random.default_rng(seed).integers(runs, size=(repetitions, runs, tasks))
    resampled = scores[draws, np.arange(tasks)].reshape(repetitions, runs * tasks)
    values = (
        np.array([statistic(row) for row in resampled])
        if statistic not in _FAST
        else _FAST[statistic](resampled)
    )
    tail = 50 * (1 - confidence)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


_FAST = {iqm: _trimmed, mean: lambda rows: rows.mean(1)}


class Summary(NamedTuple):
    """What a table shows of one method's scores."""

    iqm: float
    mean: float
    ci95: tuple[float, float]  # of the iqm
    seeds: list[float]


def summarise(scores, *, seed: int = 0) -> Summary:
    """Point estimates and the interval of the iqm."""
    return Summary(
        iqm(scores),
        mean(scores),
        bootstrap(scores, seed=seed),
        [float(x) for x in np.ravel(scores)],
    )


def paired_difference(a, b, *, seed: int = 0) -> Summary:
    """Summary of a - b seed by seed: both methods must have run the same seeds, in the same
    order."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape:
        raise ValueError(
            f"paired scores differ in shape: {a.shape} and {b.shape}; pair the same seeds"
        )
    return summarise(a - b, seed=seed)


def probability_of_improvement(
    a, b, *, seed: int = 0, repetitions: int = 2000
) -> tuple[float, tuple[float, float]]:
    """P(a draw of a exceeds a draw of b), ties counting one half (Mann-Whitney U / nm), and its 95%
    interval."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    chance = lambda x, y: (np.sign(x[..., :, None] - y[..., None, :]) / 2 + 0.5).mean((-1, -2))
    generator = np.random.default_rng(seed)
    resample = lambda x: x[generator.integers(len(x), size=(repetitions, len(x)))]
    low, high = np.percentile(chance(resample(a), resample(b)), [2.5, 97.5])
    return float(chance(a, b)), (float(low), float(high))
