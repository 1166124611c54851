"""One worker: it takes lines that nobody has, one after another, and says how each ended.

Lines run in this process, so that imports and compiled programs serve all of them; with a launcher
(`srun`, for lines that span hosts) each is a process of its own. SIGTERM, SIGUSR1, SIGINT and the
sweep's `stop` file ask for an end: the run saves at its next boundary and its line is left to be
resumed."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments.cli import STOPPED_EXIT
from experiments.storage import lease
from experiments.sweep.attempt import attempt
from experiments.sweep.folder import MOST_DEATHS, Line, SweepFolder, name

LOST_EXIT = 75  # another worker has this one's line: nothing more may be written


class Notice:
    """Whether this worker was asked to leave. A run in this process is told by Ctrl-C's signal,
    which it knows how to take."""

    def __init__(self, stop: Path):
        self.asked, self._told, self._stop = False, False, stop
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, *_: object) -> None:
        self.asked = True

    def look(self) -> None:
        """See whether the whole sweep is to stop."""
        self.asked = self.asked or self._stop.exists()

    def pass_on(self) -> None:
        """Tell the run in this process, once, as soon as it has a handler of its own."""
        if self.asked and not self._told and signal.getsignal(signal.SIGINT) != self._ask:
            self._told = True
            os.kill(os.getpid(), signal.SIGINT)


def work(
    sweep: SweepFolder, share: Sequence[int] | None = None, launcher: str = "", most: int = 0
) -> int:
    """Take lines (of a share, or any; at most so many) until none is left: 0, or 130 when asked to
    leave before that."""
    notice, done = Notice(sweep.stop), 0
    while True:
        taken = 0
        for line, held in _takeable(sweep, share):
            notice.look()
            if notice.asked:
                held.give_back()
                return STOPPED_EXIT
            with _beating(held, notice):
                ended = attempt(sweep, line, launcher)
            held.give_back()
            taken, done = taken + 1, done + 1
            if ended.state == "preempted" or notice.asked:
                return STOPPED_EXIT if sweep.open_lines() else 0
            if done == most:
                return 0
        if not taken:
            return 0


def _takeable(
    sweep: SweepFolder, share: Sequence[int] | None
) -> Iterator[tuple[Line, lease.Lease]]:
    """Lines as this worker gets their leases; those that have killed too many workers are marked as
    failed."""
    seen = lease.read(sweep.leases, sweep.lapse)
    for line in sweep.open_lines():
        before = seen.get(name(line))
        if share is not None and line["line"] not in share:
            continue
        held = lease.take(sweep.leases, name(line), sweep.lapse, before)
        if held is None:
            continue
        if (sweep.end(line) or {}).get(
            "state", "preempted"
        ) != "preempted":  # it ended since the folder was read
            held.give_back()
        elif before and before.deaths >= MOST_DEATHS:
            sweep.keep_end(
                line,
                "failed",
                f"{before.deaths} workers died at it; the end of its log may say why",
            )
            held.give_back()
        else:
            yield line, held


@contextlib.contextmanager
def _beating(held: lease.Lease, notice: Notice) -> Iterator[None]:
    """Keep a lease alive from a thread, and end this process at once where it was lost."""
    over = threading.Event()

    def beat() -> None:
        due = time.monotonic()
        while not over.wait(min(0.5, held.seconds / 8)):
            notice.pass_on()
            if time.monotonic() >= due:
                notice.look()
                if not held.beat():
                    os._exit(LOST_EXIT)
                due = time.monotonic() + held.seconds / 6

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
