"""What a run shows while it goes on: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table

from experiments.reporting.metrics import Metric
from experiments.running.record import Report, Sink

PLAIN_EVERY = 10.0  # seconds between plain progress lines of one method


def plain_console() -> Console:
    """A console that prints text as it is: a method's name may hold what rich would take for markup
    or an emoji, as `adversarial:tv:` does."""
    return Console(highlight=False, markup=False, emoji=False)


@dataclasses.dataclass
class _Row:
    """Where one method is."""

    state: str = "waiting"
    share: float = 0.0  # of its updates that are done
    speed: float = 0.0  # tokens a second
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)


class Screen(Sink):
    """One row a method: waiting, compiling, running or done."""

    def __init__(self, methods: Sequence[str], columns: Sequence[Metric]):
        """`columns` are the metrics shown once some method has them."""
        self.console = plain_console()
        self.live: Live | None = None
        self._rows = {name: _Row() for name in methods}
        self._columns = columns
        self._last_line = 0.0
        self._began = 0.0  # when the first method did

    def __enter__(self) -> Screen:
        if self.console.is_terminal:
            self.live = Live(
                self._table(), console=self.console, refresh_per_second=4, transient=True
            )
            self.live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self.live:
            self.live.__exit__(*error)
            self.console.print(self._table())
            self.live = None

    def say(self, text: str) -> None:
        """A line of its own."""
        self.console.print(text, soft_wrap=not self.console.is_terminal)

    def state(self, method: str, state: str) -> None:
        """What a method is at: compiling, done ..."""
        self._began = self._began or time.monotonic()
        self._rows[method].state = state
        self._show(f"{method}: {state}")

    def alarm(self, method: str, message: str) -> None:
        """A line of its own."""
        self.say(f"  {method}: {message}")

    def progress(self, report: Report) -> None:
        """A method has moved: medians over its seeds are shown."""
        method, done, updates, seconds = report[:4]
        tokens = float(report.tokens.sum())
        medians = {name: float(np.median(x)) for name, x in (report.metrics or {}).items()}
        # what nothing was measured of yet is no number, and no column
        metrics = {name: x for name, x in medians.items() if not np.isnan(x)}
        row = self._rows[method]
        row.state, row.share = "running", done / updates
        row.speed = tokens / seconds if seconds else 0.0
        row.metrics = metrics or row.metrics
        shown = "  ".join(
            f"{metric.short} {row.metrics[metric.name]:.4g}"
            for metric in self._shown()
            if metric.name in row.metrics
        )
        left = f", about {_span(self._left())} left in all" if done else ""
        line = f"{method}: {done}/{updates} updates, {row.speed:,.0f} tokens/s{left}  {shown}"
        self._show(line, quiet=done < updates)

    def _show(self, line: str, quiet: bool = False) -> None:
        if self.live:
            self.live.update(self._table())
        elif not quiet or time.monotonic() - self._last_line > PLAIN_EVERY:
            self._last_line = time.monotonic()
            print(line, flush=True)

    def _left(self) -> float:
        """Seconds until all methods are done, those that wait taken to need what the others
        need."""
        share = sum(row.share for row in self._rows.values())
        passed = time.monotonic() - self._began
        return passed / share * (len(self._rows) - share) if share > 0 else 0.0

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
        if 0 < sum(row.share for row in self._rows.values()) < len(self._rows):
            table.caption = f"about {_span(self._left())} left"
        return table


def _span(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def print_table(titles: list[str], rows: list[list[str]], caption: str) -> None:
    """A finished table on its own, numbers to the right."""
    table = Table(
        box=None, padding=(0, 2), header_style="bold", caption=caption, caption_justify="left"
    )
    for i, title in enumerate(titles):
        table.add_column(title, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row)
    plain_console().print(table)
