"""Where text comes from: a share of the records of JSON lines, JSON, CSV, TSV, parquet or arrow, of
plain text, of the docstrings."""

from __future__ import annotations

import ast
import contextlib
import csv
import functools
import io
import itertools
import json
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from experiments.data import formats
from experiments.data.conversations import doubled
from experiments.data.formats import Source, refuse
from fdiv.benchmarks import text_rows
from fdiv.benchmarks.text_rows import Cut, Row, Symbols

Encode = Callable[[str], tuple[int, ...]]  # a text -> its tokens
LONGEST = (1 << 31) - 1  # characters of a cell of a table in text
INDEX = "(no name)"  # of a first column whose name is empty
CHARACTERS = 120  # of an error's own words


class Unreadable(ValueError):
    """What is wrong with a record that could not be read."""


class Share(NamedTuple):
    """One of `count` contiguous parts of a whole."""

    index: int
    count: int

    def of(self, total: int) -> slice:
        """Which of so many items."""
        return slice(total * self.index // self.count, total * (self.index + 1) // self.count)


class Records(NamedTuple):
    """A share of a file's records."""

    first: Mapping[str, Any] | None  # of the whole file: it decides the columns
    numbered: Iterable[
        tuple[int, Any]
    ]  # number in the share, from 1, and record or the exception that reading it raised
    numbers: int  # how many the share takes up, those without a record too


def _json_lines(source: Source, share: Share) -> Records:
    """The lines that begin in a share of the bytes."""
    with source.open() as file:
        first = _first(map(_parsed, file))
        own = share.of(source.length())
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
    doubles: list[_Double] = []
    try:
        record = json.loads(line, object_pairs_hook=functools.partial(_unique, doubles))
    except RecursionError:
        return Unreadable("not JSON that can be read (nested too deeply)")
    except ValueError as error:
        return Unreadable(f"not JSON ({_brief(error)})")
    return _without_doubles(record) if doubles else record


class _Double(dict):
    """An object in which a key stands twice. Which of its values is meant cannot be told, and
    Python would keep the last."""

    key: str


def _unique(doubles: list[_Double], pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    double = _Double(made)
    double.key = doubled(pairs)
    doubles.append(double)
    return double


def _without_doubles(record: Any) -> Any:
    """A record, or the exception in its place where an object in it has a key twice."""
    todo = [record]
    while todo:
        value = todo.pop()
        if isinstance(value, _Double):
            return Unreadable(f"has the key {_brief(value.key)!r} twice")
        if isinstance(value, dict):
            todo += value.values()
        elif isinstance(value, list):
            todo += value
    return record


def _first(values: Iterable[Any]) -> dict | None:
    return next((value for value in values if isinstance(value, dict)), None)


def _json_list(source: Source, share: Share) -> Records:
    """A share of a list, which is parsed whole: where its records begin is not known before."""
    doubles: list[_Double] = []
    try:
        with source.open() as file:
            unique = functools.partial(_unique, doubles)
            whole = json.loads(file.read(), object_pairs_hook=unique)
    except RecursionError as error:
        raise refuse(source.path, "is nested too deeply.", "Give a list of records.") from error
    except ValueError as error:
        problem = f"is not JSON ({_brief(error)})."
        raise refuse(source.path, problem, "Give a list of records.") from error
    if not isinstance(whole, list):
        raise refuse(source.path, "holds no list of records.", _list_inside(whole))
    if doubles:
        whole = list(map(_without_doubles, whole))
    own = whole[share.of(len(whole))]
    return Records(_first(whole), enumerate(own, 1), len(own))


def _list_inside(whole: Any) -> str:
    """How to make a list of a file that holds one under a name, or none."""
    items = whole.items() if isinstance(whole, dict) else ()
    names = (name for name, value in items if isinstance(value, list) and _first(value))
    name = next(names, None)
    if name is None:
        return "Give [{...}, {...}], or JSON lines."
    return f"Take the list out: jq -c '.[\"{name[:40]}\"][]' FILE > rows.jsonl."


def _separated(source: Source, share: Share) -> Records:
    """A share of a table in text, which is parsed whole: a cell may hold line feeds."""
    with source.open() as file:
        text = file.read()
    try:
        lines = io.StringIO(text.decode(), newline="")
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8 (byte {error.start:,})."
        fix = "Convert it: iconv -f LATIN1 -t UTF-8 FILE > NEW, by the encoding that it has."
        raise refuse(source.path, problem, fix) from error
    begin = lines.readline()
    lines.seek(0)
    csv.field_size_limit(LONGEST)
    reader = csv.reader(lines, delimiter=_delimiter(begin, source.kind), strict=True)
    try:
        header, *table = [cells for cells in reader if cells] or [[]]
    except csv.Error as error:
        problem = f"is not {source.kind}: {_brief(error)}, line {reader.line_num:,}."
        raise refuse(source.path, problem, "Mend that line; look for a quote left open.") from error
    names = [name.strip() for name in header]
    if len(names) > 1 and not names[0] and INDEX not in names:
        names[0] = INDEX  # of a table that was written with its row numbers
    if len(set(names)) < len(names) or not all(names):
        problem = "has a first line that does not name its columns, each by a name of its own."
        raise refuse(source.path, problem, "Begin it with a line such as prompt,completion.")
    own = table[share.of(len(table))]
    numbered = ((number, _cells(names, cells)) for number, cells in enumerate(own, 1))
    first = _first(_cells(names, cells) for cells in table)
    return Records(first or (dict.fromkeys(names) if table else None), numbered, len(own))


def _delimiter(begin: str, kind: str) -> str:
    """What parts the cells of a table's first line: CSV is written with semicolons as well."""
    if kind == formats.TSV:
        return "\t"
    return next((mark for mark in ",;\t" if mark in begin), ",")


def _cells(names: list[str], cells: list[str]) -> dict[str, str] | Unreadable:
    if len(cells) != len(names):
        return Unreadable(f"{len(cells)} cells under {len(names)} columns")
    return dict(zip(names, cells))


def _parquet(source: Source, share: Share) -> Records:
    """A share of the rows; of the row groups, those that hold them are read."""
    import pyarrow.parquet

    with _sound(source), source.open() as opened, pyarrow.parquet.ParquetFile(opened) as file:
        _refuse_doubles(source, file.schema_arrow.names)
        count = file.metadata.num_rows
        own = list(_records(_groups(file, share.of(count))))
        first = _first(_records(_groups(file, slice(0, min(1, count)))))
        first = first or (dict.fromkeys(file.schema_arrow.names) if count else None)
    return Records(first, enumerate(own, 1), len(own))


def _groups(file: Any, own: slice) -> Any:
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


def _arrow(source: Source, share: Share) -> Records:
    """A share of the rows of an arrow file or stream."""
    import pyarrow

    with _sound(source), source.open() as opened:
        begin = opened.read(6)
        opened.seek(0)
        ipc = pyarrow.ipc.open_file if begin == b"ARROW1" else pyarrow.ipc.open_stream
        table = ipc(opened).read_all()
        _refuse_doubles(source, table.column_names)
        own = list(_records(table[share.of(table.num_rows)]))
        first = _first(_records(table[:1]))
        first = first or (dict.fromkeys(table.column_names) if table.num_rows else None)
    return Records(first, enumerate(own, 1), len(own))


def _refuse_doubles(source: Source, names: list[str]) -> None:
    """Raise for a table with two columns of one name."""
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        problem = f"has two columns {_brief(double)!r}."
        raise refuse(source.path, problem, "Give each column a name of its own.")


@contextlib.contextmanager
def _sound(source: Source) -> Iterator[None]:
    """What pyarrow says of a damaged table is said of the file."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, UnicodeError) as error:
        problem = f"is not {source.kind} that can be read ({_brief(error)})."
        raise refuse(source.path, problem, f"Give a sound {source.kind} file.") from error


def _records(table: Any) -> Iterator[Any]:
    """The rows of a pyarrow table; one that is no text is an exception in its place."""
    try:
        yield from table.to_pylist()
        return
    except (ValueError, OverflowError):
        table = _dates_as_text(table)  # one of them: each for itself then
    for i in range(table.num_rows):
        try:
            yield table.slice(i, 1).to_pylist()[0]
        except (ValueError, OverflowError) as error:
            yield Unreadable(f"no text ({_brief(error)})")


def _dates_as_text(table: Any) -> Any:
    """A table whose dates and times are text: Python has none by the nanosecond, which is no fault
    of a row."""
    import pyarrow

    for i, field in enumerate(table.schema):
        if pyarrow.types.is_temporal(field.type):
            column = table.column(i)
            try:
                column = column.cast(pyarrow.string())
            except (pyarrow.ArrowException, NotImplementedError):  # a length of time
                column = column.cast(pyarrow.int64())
            table = table.set_column(i, field.name, column)
    return table


def _brief(error: Exception | str) -> str:
    words = " ".join(str(error).split())
    return words if len(words) <= CHARACTERS else f"{words[:CHARACTERS]}..."


def records(source: Source) -> Iterator[Mapping[str, Any]]:
    """All records of a file that could be read."""
    for _, record in RECORDS[source.kind](source, Share(0, 1)).numbered:
        if isinstance(record, Mapping):
            yield record


RECORDS = {  # what reads a file of records, by its kind
    formats.LINES: _json_lines,
    formats.JSON: _json_list,
    formats.CSV: _separated,
    formats.TSV: _separated,
    formats.PARQUET: _parquet,
    formats.ARROW: _arrow,
}


def blocks(
    source: Source, cut: Cut, before: int, share: Share, encode: Encode | None = None
) -> tuple[list[Row], int]:
    """(rows, how many stretches the whole text has): plain text as one row for every `horizon`
    symbols, whose prompt is what stands before them. They are bytes, or the tokens that `encode`
    makes of the whole text.

    The stretches, counted from `before`, are what the split holds out whole."""
    tokens = None if encode is None else encode(_whole(source))
    size = source.length() if tokens is None else len(tokens)
    count = max(1, size // cut.horizon)
    own = share.of(count)
    reach = -(-cut.prompt_length // cut.horizon)  # blocks
    length = text_rows.stretch_length(count, reach)
    begin = max(0, own.start * cut.horizon - cut.prompt_length)
    text: Symbols
    if tokens is not None:
        text = tokens[begin : own.stop * cut.horizon]
    else:
        with source.open() as file:
            file.seek(begin)
            text = file.read(own.stop * cut.horizon - begin)
    rows = []
    for i in range(own.start, own.stop):
        at = i * cut.horizon - begin
        touched = range(max(0, i - reach) // length, i // length + 1)
        prompt = text[max(0, at - cut.prompt_length) : at]
        stretches = tuple(before + part for part in touched)
        rows.append(Row(prompt, text[at : at + cut.horizon], stretches=stretches))
    return rows, -(-count // length)


def _whole(source: Source) -> str:
    """All of a plain text. Raises `UsageError` where it is not in UTF-8."""
    with source.open() as file:
        try:
            return file.read().decode()
        except UnicodeDecodeError as error:
            problem = f"is not UTF-8 (byte {error.start:,}), and a tokenizer reads text."
            fix = "Convert it: iconv -f LATIN1 -t UTF-8 FILE > NEW, by the encoding that it has."
            raise refuse(source.path, problem, fix) from error


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
        parts = path.relative_to(root).with_suffix("").parts
        yield from _documented_in(path, ".".join(part for part in parts if part != "__init__"))


@functools.cache
def _documented_in(path: Path, name: str) -> tuple[Row, ...]:
    """Of one module. Python's own files are as they were when the process began, and parsing all of
    them takes seconds."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # the library ships a few that are broken on purpose
        return ()
    return tuple(_documented(tree, name))


LARGEST = 49  # number in a sum
SOLVED = 1  # sums before the one that is asked


def pairs(share: Share) -> Iterator[Row]:
    """Docstrings, each preferred to that of the documented name half a list away."""
    rows = [*docstrings(Share(0, 1))]
    half = len(rows) // 2
    for i in range(len(rows))[share.of(len(rows))]:
        other = rows[(i + half) % len(rows)]
        if other.completion != rows[i].completion:
            yield rows[i]._replace(rejected=other.completion)


def sums(share: Share) -> Iterator[Row]:
    """All sums of two numbers up to `LARGEST`, each behind another that is solved."""
    terms = [(a, b) for a in range(LARGEST + 1) for b in range(LARGEST + 1)]
    for i in range(len(terms))[share.of(len(terms))]:
        # far apart in the list, and another for each
        shown = [terms[(i * 37 + 611 * j) % len(terms)] for j in range(1, SOLVED + 1)]
        before = "".join(f"{a} + {b} = {a + b}\n" for a, b in shown)
        a, b = terms[i]
        yield Row(f"{before}{a} + {b} = ".encode(), f"{a + b}\n".encode())


BUILT_IN = {  # what is read where no path is given: who reads it, and what it is called
    "docstrings": (docstrings, "the docstrings of this Python's standard library"),
    "questions": (docstrings, "questions about what this Python's standard library documents"),
    "pairs": (pairs, "the docstrings of this Python's standard library, each and another's"),
    "sums": (sums, f"all sums of two numbers up to {LARGEST}"),
}


def _documented(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str
) -> Iterator[Row]:
    text = ast.get_docstring(node)
    if text and text.strip():
        yield Row(f"{name}: ".encode(), text.strip().encode())
    for child in node.body:
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _documented(child, f"{name}.{child.name}")
