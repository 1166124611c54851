"""What a process has read of a file, as JSON for the others: bytes are text of Latin-1, where each
byte is one character; tokens are numbers."""

from __future__ import annotations

from typing import Any

from experiments.data.layouts import Columns
from experiments.data.rows import Found, Piece
from fdiv.benchmarks.text_rows import Row, Symbols
from fdiv.types import UsageError

Json = Any  # what `json` reads


def piece_as_json(piece: Piece) -> Json:
    """A share of one file."""
    own = piece._asdict() | {"found": [_found_as_json(found) for found in piece.found]}
    columns = piece.columns
    if columns is not None:
        sets = {"optional": sorted(columns.optional), "known": sorted(columns.known)}
        own["columns"] = columns._asdict() | sets
    return own | {"bad": list(piece.bad), "seen": dict(piece.seen), "fields": dict(piece.fields)}


def piece_of_json(data: Json) -> Piece:
    """The same, read."""
    columns = data["columns"]
    if columns is not None:
        sets = {name: frozenset(columns[name]) for name in ("optional", "known")}
        tuples = {name: tuple(columns[name]) for name in ("prompt", "extra")}
        columns = Columns(**columns | sets | tuples)
    found = [_found_of_json(each) for each in data["found"]]
    bad = [(number, reason) for number, reason in data["bad"]]
    return Piece(**data | {"found": found, "bad": bad, "columns": columns})


def error_as_json(error: Exception | None) -> Json:
    """What reading ended in."""
    if error is None:
        return None
    if isinstance(error, UsageError):
        return [error.field, _plain(error.value), error.problem, error.fix]
    return f"{type(error).__name__}: {error}"


def error_of_json(data: Json) -> Exception | None:
    """The same, to be raised in every process. An error of no known kind keeps its words alone."""
    if data is None:
        return None
    return RuntimeError(data) if isinstance(data, str) else UsageError(*data)


def _plain(value: object) -> object:
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _found_as_json(found: Found) -> Json:
    without = None if found.without is None else _row_as_json(found.without)
    return [_row_as_json(found.row), found.number, found.prompted, without, *found[4:]]


def _found_of_json(data: Json) -> Found:
    row, number, prompted, without, clean, chat = data
    shorter = None if without is None else _row_of_json(without)
    return Found(_row_of_json(row), number, prompted, shorter, clean, chat)


def _row_as_json(row: Row) -> Json:
    text = [None if side is None else _symbols_as_json(side) for side in row[:3]]
    return [*text, row.liked, row.conversation, list(row.stretches), list(row.extra)]


def _row_of_json(data: Json) -> Row:
    prompt, completion, rejected, liked, conversation, stretches, extra = data
    other = None if rejected is None else _symbols_of_json(rejected)
    sides = (_symbols_of_json(prompt), _symbols_of_json(completion), other)
    return Row(*sides, liked, conversation, tuple(stretches), extra=tuple(extra))


def _symbols_as_json(symbols: Symbols) -> Json:
    return symbols.decode("latin-1") if isinstance(symbols, bytes) else list(symbols)


def _symbols_of_json(data: Json) -> Symbols:
    return data.encode("latin-1") if isinstance(data, str) else tuple(data)
