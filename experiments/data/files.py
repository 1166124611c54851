"""Reading a user's text: JSON lines, JSON, parquet, plain text, or the standard library's
docstrings.

A bad row is reported by number and reason, never dropped in silence; a file without one good row is
an error."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from experiments.data import rows as text_rows
from experiments.data import sources
from experiments.data.sources import Share
from experiments.devices import processes
from fdiv.benchmarks.text import Row, Text
from fdiv.types import UsageError

SHOWN = 5  # bad rows quoted in a message; all of them go to the run's folder


class Reading(NamedTuple):
    """What a source held."""

    source: str
    rows: list[Row]
    bad: list[tuple[int, str]]  # row number from 1, reason

    def digest(self) -> str:
        """A hash of the good rows, in order."""
        state = hashlib.sha256()
        for row in self.rows:
            state.update(len(row.prompt).to_bytes(8, "big") + row.prompt + b"\0" + row.completion)
            state.update(b"" if row.rejected is None else b"\0" + row.rejected)
            state.update(b"" if row.liked is None else bytes([1, row.liked]))
        return state.hexdigest()

    def notes(self, config: Text) -> list[str]:
        """What a reader of the results should know of the data."""
        cut = sum(len(row.completion) >= config.horizon for row in self.rows)
        short = sum(len(row.prompt) > config.prompt_length for row in self.rows)
        notes = [
            f"{len(self.rows):,} rows from {self.source}.",
            f"{cut / len(self.rows):.0%} of completions are longer than {config.horizon} "
            "bytes and are cut there; "
            f"{short / len(self.rows):.0%} of prompts keep only their last "
            f"{config.prompt_length} bytes.",
        ]
        if self.bad:
            quoted = "; ".join(f"row {number}: {reason}" for number, reason in self.bad[:SHOWN])
            more = f"; and {len(self.bad) - SHOWN} more" if len(self.bad) > SHOWN else ""
            notes.append(f"{len(self.bad):,} rows were bad and left out: {quoted}{more}.")
        return notes


class Part(NamedTuple):
    """What one share of a source held, or the error that reading it ended in."""

    rows: Sequence[Row] = ()
    bad: Sequence[tuple[int, str]] = ()  # row number in the share, from 1
    numbers: int = 0  # how many row numbers the share takes up
    size: int = 0  # of the whole file
    error: Exception | None = None


def read(config: Text) -> Reading:
    """All rows of the config's source; each of several processes parses its share of it, and all of
    them have the whole.

    Raises `UsageError`, in every process, for a file that cannot be read or holds no good row.
    """
    share = Share(jax.process_index(), jax.process_count())
    return merge(config, processes.exchanged(read_share(config, share)))


def read_share(config: Text, share: Share) -> Part:
    """One share of the source. It raises nothing: the other processes wait for what it says."""
    try:
        config.check()
        return (
            _docstrings(config, share)
            if config.path is None
            else _file(config, Path(config.path), share)
        )
    except Exception as error:
        return Part(error=error)


def merge(config: Text, parts: Sequence[Part]) -> Reading:
    """The whole source from its parts, in order. Raises the first part's error, the same in
    whatever process."""
    for part in parts:
        if part.error is not None:
            raise part.error
    if len({part.size for part in parts}) > 1:
        problem, fix = "is not of one size in all processes.", "Give every host the same file."
        raise UsageError("benchmark.path", str(config.path), problem, fix)
    before = itertools.accumulate((part.numbers for part in parts), initial=0)
    bad = [
        (start + number, reason)
        for start, part in zip(before, parts)
        for number, reason in part.bad
    ]
    rows = [row for part in parts for row in part.rows]
    if not rows:
        reasons = "; ".join(f"row {number}: {reason}" for number, reason in bad[:SHOWN])
        problem, fix = f"has no good row ({reasons}).", "Mend the file, or name its columns."
        raise UsageError("benchmark.path", str(config.path), problem, fix)
    source = (
        "the docstrings of this Python's standard library"
        if config.path is None
        else Path(config.path).name
    )
    return Reading(source, rows, bad)


def _docstrings(config: Text, share: Share) -> Part:
    if config.prompt_field or config.completion_field:
        field = "prompt_field" if config.prompt_field else "completion_field"
        problem, fix = "names a column, but there is no file.", "Give --benchmark.path as well."
        raise UsageError(f"benchmark.{field}", getattr(config, field), problem, fix)
    return Part(list(sources.docstrings(share)))


def _file(config: Text, path: Path, share: Share) -> Part:
    if not path.is_file():
        raise UsageError(
            "benchmark.path",
            str(path),
            "is not a file.",
            "Give a .jsonl, .json, .parquet or text file.",
        )
    size = path.stat().st_size
    if size == 0:
        raise UsageError(
            "benchmark.path",
            str(path),
            "is empty.",
            "Give a file with at least one row of each split.",
        )
    if path.suffix not in sources.RECORDS:
        return Part(sources.blocks(path, config, share), size=size)
    records = sources.RECORDS[path.suffix](path, share)
    rows, bad = text_rows.rows(records.numbered, records.first, config)
    return Part(rows, bad, records.numbers, size)
