"""The sink that keeps a run's reports in its folder: metrics.jsonl and samples.jsonl."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.running.record import Line, Report, Sink
from experiments.storage.run_folder import RunFolder

METRICS, SAMPLES = "metrics.jsonl", "samples.jsonl"


class JsonLines(Sink):
    """A line for each seed at each evaluation, and one for each sample."""

    def __init__(self, folder: RunFolder):
        self._folder = folder

    def resumed(self, method: str, update: int) -> None:
        """Drop what came after the save, so that no update is there twice."""
        self._folder.drop_lines(METRICS, method, update)
        self._folder.drop_lines(SAMPLES, method)

    def progress(self, report: Report) -> None:
        if report.metrics:
            self._folder.append(METRICS, metric_lines(report))

    def samples(self, name: str, lines: Sequence[Line]) -> None:
        self._folder.append(SAMPLES, lines)


def metric_lines(report: Report) -> list[Line]:
    """One line a seed; what is not finite is null there."""
    return [
        {
            "method": report.method,
            "seed": seed,
            "update": report.update,
            "tokens": float(report.tokens[seed]),
            "seconds": report.seconds,
        }
        | {name: _finite(values[seed]) for name, values in (report.metrics or {}).items()}
        for seed in range(len(report.tokens))
    ]


def _finite(value: np.ndarray) -> float | None:
    return float(value) if np.isfinite(value) else None
