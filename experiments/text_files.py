"""Reading a user's text: JSON lines, JSON, parquet, plain text, or the standard library's docstrings.

A bad row is reported by number and reason, never dropped in silence; a file without one good row is an error.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

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
            f"{cut / len(self.rows):.0%} of completions are longer than {config.horizon} bytes and are cut there; "
            f"{short / len(self.rows):.0%} of prompts keep only their last {config.prompt_length} bytes.",
        ]
        if self.bad:
            quoted = "; ".join(f"row {number}: {reason}" for number, reason in self.bad[:SHOWN])
            more = f"; and {len(self.bad) - SHOWN} more" if len(self.bad) > SHOWN else ""
            notes.append(f"{len(self.bad):,} rows were bad and left out: {quoted}{more}.")
        return notes


def read(config: Text) -> Reading:
    """All rows of the config's source. Raises `UsageError` for a file that cannot be read or holds no good row."""
    config.check()
    if config.path is None:
        if config.prompt_field or config.completion_field:
            field = "prompt_field" if config.prompt_field else "completion_field"
            problem, fix = "names a column, but there is no file.", "Give --benchmark.path as well."
            raise UsageError(f"benchmark.{field}", getattr(config, field), problem, fix)
        return Reading("the docstrings of this Python's standard library", list(docstrings()), [])
    path = Path(config.path)
    if not path.is_file():
        raise UsageError("benchmark.path", str(path), "is not a file.", "Give a .jsonl, .json, .parquet or text file.")
    if path.stat().st_size == 0:
        raise UsageError("benchmark.path", str(path), "is empty.", "Give a file with at least one row of each split.")
    if path.suffix in (".jsonl", ".json", ".parquet"):
        records = _parquet(path) if path.suffix == ".parquet" else _json(path)
        rows, bad = _rows(records, config)
    else:
        rows, bad = _blocks(path, config), []
    if not rows:
        reasons = "; ".join(f"row {number}: {reason}" for number, reason in bad[:SHOWN])
        raise UsageError("benchmark.path", str(path), f"has no good row ({reasons}).", "Mend the file, or name its columns.")
    return Reading(path.name, rows, bad)


# --- sources of records --------------------------------------------------------------------------------------------


def _json(path: Path) -> Iterator[tuple[int, Any]]:
    """(row number, record or the exception that reading it raised)"""
    if path.suffix == ".json":
        try:
            whole = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UsageError("benchmark.path", str(path), f"is not JSON ({error}).", "Give a list of records.") from error
        if not isinstance(whole, list):
            raise UsageError("benchmark.path", str(path), "holds no list of records.", "Give [{...}, {...}], or JSON lines.")
        yield from enumerate(whole, 1)
        return
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except ValueError as error:
            yield number, error


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        raise UsageError("benchmark.path", str(path), f"is not parquet ({error}).", "Give a parquet file.") from error
    yield from enumerate(table.to_pylist(), 1)


def _blocks(path: Path, config: Text) -> list[Row]:
    """Plain text as one row for every `horizon` bytes, whose prompt is what stands before them."""
    text, size = path.read_bytes(), config.horizon
    starts = range(0, max(1, len(text) - size + 1), size)
    return [Row(text[max(0, i - config.prompt_length) : i], text[i : i + size]) for i in starts]


def docstrings() -> Iterator[Row]:
    """(qualified name, docstring) of all that the standard library's modules define, in the order of their paths."""
    root = Path(sysconfig.get_paths()["stdlib"])
    skipped = {"test", "tests", "site-packages", "dist-packages", "idlelib", "lib2to3", "__pycache__"}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if skipped & set(parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # the library ships a few files that are broken on purpose
            continue
        module = ".".join(part for part in parts if part != "__init__")
        yield from _documented(tree, module)


def _documented(node: ast.AST, name: str) -> Iterator[Row]:
    text = ast.get_docstring(node)
    if text and text.strip():
        yield Row(f"{name}: ".encode(), text.strip().encode())
    for child in node.body:
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _documented(child, f"{name}.{child.name}")


# --- records to rows -----------------------------------------------------------------------------------------------


def _rows(records: Iterable[tuple[int, Any]], config: Text) -> tuple[list[Row], list[tuple[int, str]]]:
    rows, bad, columns = [], [], None
    for number, record in records:
        try:
            if isinstance(record, ValueError):
                raise ValueError(f"not JSON ({record})")
            if not isinstance(record, dict):
                raise ValueError(f"a {type(record).__name__}, not a record")
            columns = columns or _columns(record, config)
            rows.append(_READERS.get(columns, _row)(record, *columns))
        except ValueError as error:
            if isinstance(error, UsageError):
                raise
            bad.append((number, str(error)))
    return rows, bad


def _columns(record: dict, config: Text) -> tuple[str | None, ...]:
    """Which columns hold prompts (None: there are none), completions and judgements, by the first record."""
    for field in ("prompt_field", "completion_field"):
        name = getattr(config, field)
        if name is not None and name not in record:
            raise UsageError(f"benchmark.{field}", name, "is no column of the file.", f"Its columns: {', '.join(record)}.")
    if config.completion_field is not None:
        return config.prompt_field, config.completion_field
    if config.prompt_field is not None:
        fix = f"Name the answer's column too; the file has {', '.join(record)}."
        raise UsageError("benchmark.completion_field", None, "is missing beside prompt_field.", fix)
    for columns in (*_READERS, (None, "messages"), ("prompt", "completion"), (None, "text")):
        if all(column is None or column in record for column in columns):
            return columns
    found = (
        f"The file has {', '.join(record) or 'none'}: name two with --benchmark.prompt-field and --benchmark.completion-field."
    )
    raise UsageError(
        "benchmark.path",
        str(config.path),
        "has none of the usual columns (text, prompt/completion[/label], messages, [prompt/]chosen/rejected).",
        found,
    )


def _row(record: dict, prompt_column: str | None, completion_column: str) -> Row:
    """One row, or a `ValueError` saying what is wrong with it."""
    for column in (prompt_column, completion_column):
        if column is not None and column not in record:
            raise ValueError(f"no field {column!r}")
    if completion_column == "messages":
        return _conversation(record["messages"])
    prompt = "" if prompt_column is None else _text(record[prompt_column], prompt_column)
    completion = _text(record[completion_column], completion_column)
    if not completion:
        raise ValueError(f"{completion_column!r} is empty")
    return Row(_ended(prompt).encode(), completion.encode())


def _comparison(record: dict, *columns: str | None) -> Row:
    """Of two answers to one prompt, the one preferred. Without a column for it, the prompt is what both begin with."""
    for column in columns:
        if column is not None and column not in record:
            raise ValueError(f"no field {column!r}")
    prompt, chosen, rejected = _sides(record, columns[0])
    for column, text in (("chosen", chosen), ("rejected", rejected)):
        if not text:
            raise ValueError(f"{column!r} is empty")
    if chosen == rejected:
        raise ValueError("'chosen' and 'rejected' are the same")
    return Row(prompt.encode(), chosen.encode(), rejected.encode())


def _sides(record: dict, prompt_column: str | None) -> tuple[str, str, str]:
    """Prompt, chosen and rejected; of two texts that begin alike, they make up each text again."""
    both = [record["chosen"], record["rejected"]]
    for column, side in zip(("chosen", "rejected"), both):
        if not isinstance(side, (str, list)):
            raise ValueError(f"{column!r} is {type(side).__name__}, not text")
    if prompt_column is not None:
        return _ended(_text(record[prompt_column], prompt_column)), *(_text(x, k) for x, k in zip(both, ("chosen", "rejected")))
    shared = 0  # messages, or characters up to the end of a line or a word
    for a, b in zip(*both):
        if a != b:
            break
        shared += 1
    texts = all(isinstance(x, str) for x in both)
    if texts:
        begin = both[0][:shared] if both[0] != both[1] else ""
        shared = max(begin.rfind("\n"), begin.rfind(" ")) + 1
    sides = [_text(x[shared:], k) for x, k in zip(both, ("chosen", "rejected"))]
    prompt = _text(both[0][:shared], "chosen") if shared else ""
    return prompt if texts else _ended(prompt), *sides


def _ended(prompt: str) -> str:
    """A prompt of its own ends with its line."""
    return f"{prompt}\n" if prompt else ""


def _labelled(record: dict, prompt_column: str, completion_column: str, label_column: str) -> Row:
    """One answer, liked or not."""
    row = _row(record, prompt_column, completion_column)
    label = record.get(label_column)
    if label not in (True, False):
        raise ValueError(f"{label_column!r} is {label!r}, not true or false")
    return row._replace(liked=bool(label))


_READERS = {
    ("prompt", "chosen", "rejected"): _comparison,
    (None, "chosen", "rejected"): _comparison,
    ("prompt", "completion", "label"): _labelled,
}


def _text(value: Any, column: str) -> str:
    """A string, or a list of messages rendered as one."""
    if isinstance(value, list):
        return "".join(_message(message) for message in value)
    if not isinstance(value, str):
        raise ValueError(f"{column!r} is {type(value).__name__}, not text")
    return value


def _message(message: Any) -> str:
    if not (isinstance(message, dict) and isinstance(message.get("content"), str)):
        raise ValueError("a message without text content")
    return message["content"]


def _conversation(messages: Any) -> Row:
    """The last message is the completion and must be the assistant's; those before are the prompt."""
    if not isinstance(messages, list) or not messages:
        raise ValueError("'messages' is no list of messages")
    contents = [_message(message) for message in messages]
    if messages[-1].get("role") != "assistant":
        raise ValueError("the last message is not the assistant's")
    if not contents[-1]:
        raise ValueError("the assistant's message is empty")
    before = "".join(f"{m.get('role', 'user')}: {text}\n" for m, text in zip(messages[:-1], contents))
    return Row(before.encode(), contents[-1].encode())
