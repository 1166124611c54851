"""Where text comes from: a share of the records of JSON lines, JSON or parquet, of plain text, of
the docstrings."""

from __future__ import annotations

import ast
import itertools
import json
import os
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from fdiv.benchmarks.text import Row, Text
from fdiv.types import UsageError


class Share(NamedTuple):
    """One of `count` contiguous parts of a whole."""

    index: int
    count: int

    def of(self, total: int) -> slice:
        """Which of so many items."""
        return slice(total * self.index // self.count, total * (self.index + 1) // self.count)


class Records(NamedTuple):
    """A share of a file's records."""

    first: dict | None  # of the whole file: it decides the columns
    # number in the share, from 1, and record or the exception that reading it raised
    numbered: Iterable[tuple[int, Any]]
    numbers: int  # how many the share takes up, those without a record too


def _json_lines(path: Path, share: Share) -> Records:
    """The lines that begin in a share of the bytes."""
    with path.open("rb") as file:
        first = _first(map(_parsed, file))
        own = share.of(os.fstat(file.fileno()).st_size)
        begin, end = _next_line(file, own.start), _next_line(file, own.stop)
        file.seek(begin)
        lines = file.read(end - begin).split(b"\n")
    numbered = ((number, _parsed(line)) for number, line in enumerate(lines, 1) if line.strip())
    return Records(first, numbered, len(lines) - 1)


def _next_line(file: BinaryIO, offset: int) -> int:
    """Where the first line begins that does not begin before `offset`."""
    if offset == 0:
        return 0
    file.seek(offset - 1)
    file.readline()
    return file.tell()


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        return error


def _first(values: Iterable[Any]) -> dict | None:
    return next((value for value in values if isinstance(value, dict)), None)


def _json_list(path: Path, share: Share) -> Records:
    """A share of a list, which is parsed whole: where its records begin is not known before."""
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(
            "benchmark.path", str(path), f"is not JSON ({error}).", "Give a list of records."
        ) from error
    if not isinstance(whole, list):
        raise UsageError(
            "benchmark.path",
            str(path),
            "holds no list of records.",
            "Give [{...}, {...}], or JSON lines.",
        )
    own = whole[share.of(len(whole))]
    return Records(_first(whole), enumerate(own, 1), len(own))


def _parquet(path: Path, share: Share) -> Records:
    """A share of the rows; of the row groups, those that hold them are read."""
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            first = dict.fromkeys(file.schema_arrow.names) if file.metadata.num_rows else None
            own = _table(file, share.of(file.metadata.num_rows)).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise UsageError(
            "benchmark.path", str(path), f"is not parquet ({error}).", "Give a parquet file."
        ) from error
    return Records(first, enumerate(own, 1), len(own))


def _table(file: Any, own: slice) -> Any:
    """These rows of a parquet file as a pyarrow table."""
    bounds = [
        0,
        *itertools.accumulate(
            file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)
        ),
    ]
    groups = [
        i
        for i, (begin, end) in enumerate(itertools.pairwise(bounds))
        if begin < own.stop and end > own.start
    ]
    before = bounds[groups[0]] if groups else own.start
    return file.read_row_groups(groups).slice(own.start - before, own.stop - own.start)


RECORDS = {
    ".jsonl": _json_lines,
    ".json": _json_list,
    ".parquet": _parquet,
}  # what reads a file of records, by its suffix


def blocks(path: Path, config: Text, share: Share) -> list[Row]:
    """Plain text as one row for every `horizon` bytes, whose prompt is what stands before them."""
    size, before = config.horizon, config.prompt_length
    own = share.of(max(1, path.stat().st_size // size))
    with path.open("rb") as file:
        begin = file.seek(max(0, own.start * size - before))
        text = file.read(own.stop * size - begin)
    starts = (i * size - begin for i in range(own.start, own.stop))
    return [Row(text[max(0, i - before) : i], text[i : i + size]) for i in starts]


def docstrings(share: Share) -> Iterator[Row]:
    """(qualified name, docstring) of what a share of the standard library's modules defines, in the
    order of their paths."""
    root = Path(sysconfig.get_paths()["stdlib"])
    skipped = {
        "test",
        "tests",
        "site-packages",
        "dist-packages",
        "idlelib",
        "lib2to3",
        "__pycache__",
    }
    paths = sorted(
        path
        for path in root.rglob("*.py")
        if not skipped & set(path.relative_to(root).with_suffix("").parts)
    )
    for path in paths[share.of(len(paths))]:
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # a few files of the library are broken on purpose
            continue
        parts = path.relative_to(root).with_suffix("").parts
        yield from _documented(tree, ".".join(part for part in parts if part != "__init__"))


def _documented(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str
) -> Iterator[Row]:
    text = ast.get_docstring(node)
    if text and text.strip():
        yield Row(f"{name}: ".encode(), text.strip().encode())
    for child in node.body:
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _documented(child, f"{name}.{child.name}")
