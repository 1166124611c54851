"""Stopping a run from outside: it saves at the end of its stretch of updates, and the same command
goes on from there.

Ctrl-C, SIGTERM and SIGUSR1 (what schedulers send before a time limit or a preemption) ask for it; a
second signal leaves at once, which costs the updates since the last save and nothing else. Either
way the exit code is `cli.STOPPED_EXIT`: start the command again. A scheduler soon kills what it has
asked to end, so only Ctrl-C still gets a report of the methods done so far. Before training and
after it, where nothing is lost by that, the first signal leaves at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

from experiments import cli

STOPPING = "stopping after this stretch, keeping what is done (once more to leave at once)"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupted(Exception):
    """A stop that was asked for, at a point where all is saved."""


class StopFlag:
    """Raised by the first signal, looked at between stretches; handlers are put back at the end."""

    def __init__(self):
        self.asked = False
        self.hurried = False  # asked by a scheduler
        self.shown = False  # by a screen of its own, on which a line would be drawn over
        self._nothing_to_lose = False

    def __enter__(self) -> StopFlag:
        if (name := cli.heard()) is not None:
            raise KeyboardInterrupt(name)
        # signals are the main thread's alone; in another one a run ends as its thread does
        main = threading.current_thread() is threading.main_thread()
        heard = SIGNALS if main else ()
        self._before = {number: signal.signal(number, self._ask) for number in heard}
        return self

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """In here the first signal raises `KeyboardInterrupt`: what is done is kept already, and
        files are written whole or not at all."""
        self._nothing_to_lose = True
        try:
            yield
        finally:
            self._nothing_to_lose = False

    def _ask(self, number: int, frame: Any) -> None:
        if cli.is_deaf(frame):
            cli.send_again(number)
            return
        name = signal.Signals(number).name
        leave = self.asked or self._nothing_to_lose
        self.asked, self.hurried = True, number != signal.SIGINT
        if leave:
            raise KeyboardInterrupt(name)
        if not self.shown:  # not print: the signal may have come in the middle of one
            os.write(2, f"\n{name}: {STOPPING}.\n".encode())
