"""What a run shows while it goes on: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

PLAIN_EVERY = 10.0  # seconds between plain progress lines of one method


class Screen:
    """One row a method: waiting, compiling, running or done."""

    def __init__(self, methods: list[str], columns: Mapping[str, str]):
        """`columns` are the metrics shown: name -> title."""
        self.console = Console(highlight=False)
        self.live = None
        self._rows: dict[str, dict[str, Any]] = {name: {"state": "waiting"} for name in methods}
        self._columns = columns
        self._last_line = 0.0
        self._began = None  # when the first method did

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
        self.console.print(text, markup=False, soft_wrap=not self.console.is_terminal)

    def state(self, method: str, state: str) -> None:
        """What a method is at: compiling, done ..."""
        self._began = self._began or time.monotonic()
        self._rows[method]["state"] = state
        self._show(f"{method}: {state}")

    def progress(
        self,
        method: str,
        done: int,
        updates: int,
        seconds: float,
        tokens: float,
        metrics: Mapping | None,
    ) -> None:
        """A method has moved."""
        row = self._rows[method]
        row |= {
            "state": "running",
            "share": done / updates,
            "speed": tokens / seconds if seconds else 0.0,
            "seconds": seconds,
        }
        row["metrics"] = metrics or row.get("metrics", {})
        shown = "  ".join(
            f"{title} {row['metrics'][name]:.4g}"
            for name, title in self._columns.items()
            if name in row["metrics"]
        )
        left = f", about {_span(self._left())} left in all" if done else ""
        line = f"{method}: {done}/{updates} updates, {row['speed']:,.0f} tokens/s{left}  {shown}"
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
        share = sum(row.get("share", 0.0) for row in self._rows.values())
        spent = time.monotonic() - self._began
        return spent / share * (len(self._rows) - share) if share > 0 else 0.0

    def _table(self) -> Table:
        table = Table(title=None, box=None, padding=(0, 2), header_style="bold")
        table.add_column("method")
        for title in ("progress", "tokens/s", *self._columns.values()):
            table.add_column(title, justify="right")
        for name, row in self._rows.items():
            share = row.get("share", 0.0)
            bar = "█" * round(12 * share) + "░" * (12 - round(12 * share))
            state = f"{bar} {share:4.0%}" if row["state"] == "running" else row["state"]
            speed = f"{row['speed']:,.0f}" if row.get("speed") else ""
            values = [
                f"{row['metrics'][key]:.4f}" if key in row.get("metrics", {}) else ""
                for key in self._columns
            ]
            table.add_row(name, state, speed, *values)
        if 0 < sum(row.get("share", 0.0) for row in self._rows.values()) < len(self._rows):
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
    Console(highlight=False).print(table)
