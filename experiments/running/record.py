"""What a run reports while it goes on, and the sinks that it goes to.

A sink is a place for reports: the screen, the lines of metrics.jsonl, a tracker. It inherits from
`Sink`, writes what it cares about, and is one entry in `head_to_head.sinks`. All processes of a run
report; in all but the first the screen is silent and the folder a copy that is thrown away."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

Line = dict[str, Any]  # an object of a .jsonl file


class Report(NamedTuple):
    """Where a method stands after a stretch of updates."""

    method: str
    update: int
    updates: int  # of the whole training
    seconds: float  # of training so far
    tokens: np.ndarray  # [seeds] learned from so far
    metrics: dict[str, np.ndarray] | None  # name -> [seeds] where it was evaluated, else None


class Sink:
    """Where reports go. By default every one of them is left alone.

    A run is saved after it has reported, and a resumed run reports again what came after its save:
    what a sink is told must be kept when the call returns, and `resumed` says from where on what
    it has is void."""

    def __enter__(self) -> Sink:
        """The run begins."""
        return self

    def __exit__(self, *error: Any) -> None:
        """The run ends, by an error where one is given."""

    def say(self, text: str) -> None:
        """A line for people, about the run as a whole."""

    def state(self, method: str, state: str) -> None:
        """What a method is at: compiling, done, diverged."""

    def resumed(self, method: str, update: int) -> None:
        """A method goes on after that update, -1 where it begins: later reports of it are void."""

    def progress(self, report: Report) -> None:
        """A method has trained for a stretch, and was evaluated if there are metrics."""

    def alarm(self, method: str, message: str) -> None:
        """What looks wrong at the end of a method's training, and what to try."""

    def samples(self, name: str, lines: Sequence[Line]) -> None:
        """Strings of a method, of the common start, or of a reference, for people to read."""


class Recorder(Sink):
    """All sinks of a run as one, told by one thread at a time."""

    def __init__(self, sinks: Iterable[Sink]):
        self._sinks = list(sinks)
        self._open = contextlib.ExitStack()
        self._lock = threading.RLock()

    def __enter__(self) -> Recorder:
        for sink in self._sinks:
            self._open.enter_context(sink)
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def say(self, text: str) -> None:
        with self._lock:
            for sink in self._sinks:
                sink.say(text)

    def state(self, method: str, state: str) -> None:
        with self._lock:
            for sink in self._sinks:
                sink.state(method, state)

    def resumed(self, method: str, update: int) -> None:
        with self._lock:
            for sink in self._sinks:
                sink.resumed(method, update)

    def progress(self, report: Report) -> None:
        with self._lock:
            for sink in self._sinks:
                sink.progress(report)

    def alarm(self, method: str, message: str) -> None:
        with self._lock:
            for sink in self._sinks:
                sink.alarm(method, message)

    def samples(self, name: str, lines: Sequence[Line]) -> None:
        with self._lock:
            for sink in self._sinks:
                sink.samples(name, lines)
