"""What a run shows while it goes on: a live table on a terminal, one line that is written anew in
a notebook, plain lines elsewhere."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table

from experiments.reporting.metrics import Metric
from experiments.running.record import Report, Sink
from experiments.running.stopping import STOPPING, StopFlag

OVER = ("done", "diverged")  # how the last state of a method begins
PLAIN_EVERY = 10.0  # seconds between plain progress lines of one method


def plain_console() -> Console:
    """A console that prints text as it is: a method's name may hold what rich would take for markup
    or an emoji, as `adversarial:tv:` does."""
    # in a notebook, which asks for colours by FORCE_COLOR, it writes lines as `print` does
    as_lines: dict[str, Any] = {"force_jupyter": False}
    if in_notebook():
        as_lines["force_terminal"] = False
    return Console(highlight=False, markup=False, emoji=False, **as_lines)


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, whose output knows carriage returns and no
    cursor codes."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return type(shell).__name__ == "ZMQInteractiveShell"


@dataclasses.dataclass
class _Row:
    """Where one method is."""

    state: str = "waiting"
    share: float = 0.0  # of its updates that are done
    seconds: float = 0.0  # of training, without compiling
    speed: float = 0.0  # tokens a second
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    last_line: float = 0.0  # when it last printed one


class Screen(Sink):
    """One row a method: waiting, compiling, running or done."""

    def __init__(
        self,
        methods: Sequence[str],
        columns: Sequence[Metric],
        stop: StopFlag | None = None,
        plain: bool = False,
        quiet: bool = False,
        at_once: int = 1,
    ):
        """`columns` are the metrics shown once some method has them. `stop` says when a stop is
        asked for; `plain` prints lines on a terminal too, `quiet` nothing but alarms. So many
        methods train `at_once`."""
        self.console = plain_console()
        self.live: Live | None = None
        self._rows = {name: _Row() for name in methods}
        self._columns, self._stop = columns, stop
        self._plain, self._quiet = plain, quiet
        self._at_once = at_once
        self._notebook = in_notebook() and not plain
        self._unfinished = 0  # characters of the line that the next report writes over

    def __enter__(self) -> Screen:
        if self.console.is_terminal and not (self._plain or self._quiet):
            self.live = Live(
                get_renderable=self._table,  # drawn anew at each refresh, a message of a stop too
                console=self.console,
                refresh_per_second=4,
                transient=True,
            )
            self.live.__enter__()
            if self._stop is not None:
                self._stop.shown = True
        return self

    def __exit__(self, *error: Any) -> None:
        if self._stop is not None:
            self._stop.shown = False
        self._end_line()
        if self.live:
            self.live.__exit__(*error)
            self.live = None
            self.console.print(self._table())

    def say(self, text: str) -> None:
        """A line of its own."""
        if self._quiet:
            return
        self._end_line()
        self.console.print(text, soft_wrap=not self.console.is_terminal)

    def state(self, method: str, state: str) -> None:
        """What a method is at: compiling, done ..."""
        row = self._rows[method]
        row.state = state
        over = state == "kept" or state.startswith(OVER)
        if over:
            row.share = 1.0
        self._show(row, f"{method}: {state}", over=over)

    def alarm(self, method: str, message: str) -> None:
        """A line of its own."""
        quiet, self._quiet = self._quiet, False
        self.say(f"  {method}: {message}")
        self._quiet = quiet

    def progress(self, report: Report) -> None:
        """A method has moved: medians over its seeds are shown."""
        method, done, updates, seconds = report[:4]
        tokens = float(report.tokens.sum())
        medians = {name: float(np.median(x)) for name, x in (report.metrics or {}).items()}
        # what nothing was measured of yet is no number, and no column
        metrics = {name: x for name, x in medians.items() if not np.isnan(x)}
        row = self._rows[method]
        row.state, row.share, row.seconds = "running", done / updates, seconds
        row.speed = tokens / seconds if seconds else 0.0
        row.metrics = metrics or row.metrics
        shown = "  ".join(
            f"{metric.short} {row.metrics[metric.name]:.4g}"
            for metric in self._shown()
            if metric.name in row.metrics
        )
        left = f", about {_span(self._left())} of training left in all" if done else ""
        line = f"{method}: {done}/{updates} updates, {row.speed:,.0f} tokens/s{left}  {shown}"
        self._show(row, line, quiet=done < updates)

    def _show(self, row: _Row, line: str, quiet: bool = False, over: bool = False) -> None:
        if self.live or self._quiet:
            return  # the table is drawn by itself
        if self._notebook:
            print(f"\r{line:<{self._unfinished}}", end="", flush=True)
            self._unfinished = len(line)
            if over:
                self._end_line()
        elif not quiet or time.monotonic() - row.last_line > PLAIN_EVERY:
            row.last_line = time.monotonic()
            print(line, flush=True)

    def _end_line(self) -> None:
        """Leave the line that is written anew as it is."""
        if self._unfinished:
            print(flush=True)
            self._unfinished = 0

    def _left(self) -> float:
        """Seconds of training until all methods are done, at the pace that each has shown. Those
        that have not begun are taken to need what the others need; compiling is not counted."""
        paces = {name: row.seconds / row.share for name, row in self._rows.items() if row.seconds}
        if not paces:
            return 0.0
        usual = sum(paces.values()) / len(paces)
        left = [(1 - row.share) * paces.get(name, usual) for name, row in self._rows.items()]
        return max(sum(left) / self._at_once, max(left))

    def _shown(self) -> list[Metric]:
        """Columns that some method has a number for."""
        there = {name for row in self._rows.values() for name in row.metrics}
        return [metric for metric in self._columns if metric.name in there]

    def _table(self) -> Table:
        columns = self._shown()
        table = Table(title=None, box=None, padding=(0, 2), header_style="bold")
        table.add_column("method")
        for title in ("progress", "tokens/s", *(metric.short for metric in columns)):
            table.add_column(title, justify="right")
        for name, row in self._rows.items():
            full = round(12 * row.share)
            bar = f"{'█' * full}{'░' * (12 - full)} {row.share:4.0%}"
            values = [
                f"{row.metrics[metric.name]:.4f}" if metric.name in row.metrics else ""
                for metric in columns
            ]
            state = bar if row.state == "running" else row.state
            table.add_row(name, state, f"{row.speed:,.0f}" if row.speed else "", *values)
        if self._stop is not None and self._stop.asked:
            table.caption = STOPPING
        elif left := self._left():
            table.caption = f"about {_span(left)} of training left"
        return table


def _span(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def print_table(titles: list[str], rows: list[list[str]], caption: str) -> None:
    """A finished table on its own, numbers to the right."""
    table = Table(
        box=None, padding=(0, 2), header_style="bold", caption=caption, caption_justify="left"
    )
    names = max((len(row[0]) for row in rows), default=0)  # a name that is cut names nothing
    for i, title in enumerate(titles):
        side, least = ("right", None) if i else ("left", names)
        table.add_column(title, justify=side, min_width=least)
    for row in rows:
        table.add_row(*row)
    plain_console().print(table)
