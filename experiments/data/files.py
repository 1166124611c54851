"""Reading a user's text: files of rows or plain text, or the standard library's docstrings.

A bad row is reported by number and reason, never dropped in silence; a file without one good row is
an error. What was read, what was not, and what the cut makes of it is said in notes."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments.data import formats, layouts, sources, templates, tokenised, travel
from experiments.data import rows as record_rows
from experiments.data.conversations import Turn
from experiments.data.formats import refuse
from experiments.data.layouts import listed
from experiments.data.reading import SHOWN, Reading
from experiments.data.rows import Found, Piece
from experiments.data.sources import Share
from experiments.data.tokenised import Tokenizer
from experiments.devices import processes
from fdiv.benchmarks.text import Text
from fdiv.benchmarks.text_rows import Row
from fdiv.checks import present
from fdiv.types import UsageError

PIECE = 1 << 24  # bytes of a file that are read at once where it need not be whole
IN_PIECES = (formats.LINES, formats.PARQUET, formats.ARROW)
MANY = 8  # rows from which on all of them may settle what one alone does not


class Part(NamedTuple):
    """What one share of a source held, or the error that reading it ended in."""

    pieces: Sequence[Piece] = ()  # one for each file
    sizes: Sequence[int] = ()  # of the whole files
    names: Sequence[str] = ()  # of the files
    kind: str = ""
    error: Exception | None = None

    @property
    def rows(self) -> list[Row]:
        """Its rows as they stand in the files."""
        return [found.row for piece in self.pieces for found in piece.found]


def read(config: Text, tokenizer: Tokenizer | None = None) -> Reading:
    """All rows of the config's source, as bytes or as a tokenizer's tokens; each of several
    processes parses its share of it, and all of them have the whole.

    Raises `UsageError`, in every process, for a file that cannot be read or holds no good row.
    """
    share = Share(jax.process_index(), jax.process_count())
    own = read_share(config, share, tokenizer)
    return merge(config, processes.exchanged(own, as_json, of_json), tokenizer)


def as_json(part: Part) -> Any:
    """A part as the other processes get it."""
    pieces = [travel.piece_as_json(piece) for piece in part.pieces]
    error = travel.error_as_json(part.error)
    return part._asdict() | {"pieces": pieces, "error": error}


def of_json(data: Any) -> Part:
    """The same, read."""
    pieces = [travel.piece_of_json(piece) for piece in data["pieces"]]
    error = travel.error_of_json(data["error"])
    return Part(pieces, data["sizes"], data["names"], data["kind"], error)


def read_share(config: Text, share: Share, tokenizer: Tokenizer | None = None) -> Part:
    """One share of the source. It raises nothing: the other processes wait for what it says."""
    try:
        check(config)
        if config.path is None:
            return _built_in(config, share, tokenizer)
        return _files(config, share, tokenizer)
    except Exception as error:
        return Part(error=error)


def check(config: Text) -> None:
    """Raise `UsageError` naming the flag of a field that is out of range."""
    try:
        config.check()
    except UsageError as error:
        raise error.under("benchmark") from error


def merge(config: Text, parts: Sequence[Part], tokenizer: Tokenizer | None = None) -> Reading:
    """The whole source from its parts, in order, as a tokenizer's tokens where there is one. Raises
    the first part's error, the same in whatever process."""
    for part in parts:
        if part.error is not None:
            raise part.error
    if len({(*part.sizes, *part.names) for part in parts}) > 1:
        problem, fix = "is not of one size in all processes.", "Give every host the same file."
        raise refuse(str(config.path), problem, fix)
    names = parts[0].names
    pieces = [
        (name, piece) for name, own in zip(names, zip(*(p.pieces for p in parts))) for piece in own
    ]
    rows, numbers, bad, taken_off, counts, chats, _ = collect(pieces, len(names) > 1, tokenizer)
    read_as: dict[str, Any] = {}
    if tokenizer is not None:
        read_as = {"vocabulary": tokenizer.vocabulary, "tokenizer": tokenizer.digest}
        read_as["chats"] = chats
        read_as["told"] = tuple(tokenised.notes(tokenizer, counts, chats))
    read_as["extra"] = next((piece.columns.extra for _, piece in pieces if piece.columns), ())
    if not rows:
        reasons = "; ".join(f"row {number}: {reason}" for number, reason in bad[:SHOWN])
        problem = f"has no good row ({reasons})." if reasons else "has no row."
        raise refuse(str(config.path), problem, "Mend the file, or name its columns.")
    source = names[0] if len(names) == 1 else f"{len(names):,} files ({_few(names)})"
    read_columns, unread = columns(piece for _, piece in pieces)
    lengths = tuple(k for k in ("prompt_length", "horizon") if getattr(config, k) is None)
    kind = parts[0].kind
    about = (kind, numbers, read_columns, unread, taken_off, lengths)
    return Reading(source, rows, bad, *about, **read_as)


class Parting(NamedTuple):
    """Prompts that answers begin with, and that end within a word: what all rows decide."""

    taken: int  # rows whose prompt was taken off so
    every: bool  # whether all rows with a prompt begin with it


class Collected(NamedTuple):
    """Rows of some pieces, as they are read."""

    rows: list[Row]
    numbers: list[int]  # of their records
    bad: list[tuple[int, str]]
    taken_off: int  # rows whose answers began with their prompt
    counts: tokenised.Counts  # how they became tokens
    chats: int  # rows of conversations
    parting: Parting  # how prompts were taken off that end within a word


def collect(
    pieces: Sequence[tuple[str, Piece]], several: bool, tokenizer: Tokenizer | None
) -> Collected:
    """The rows of pieces (of the file of that name), numbered through, as a tokenizer's tokens
    where there is one."""
    found, bad = _joined(pieces, several)
    rows, numbers, taken_off, parting = _settled(found)
    chats = [one.chat for one in found]
    counts = tokenised.Counts()
    if tokenizer is not None:
        rows, numbers, more, counts = tokenised.read_rows(rows, numbers, chats, tokenizer)
        bad = sorted([*bad, *more], key=lambda each: each[0])
    return Collected(rows, numbers, bad, taken_off, counts, sum(chats), parting)


def _joined(
    pieces: Sequence[tuple[str, Piece]], several: bool
) -> tuple[list[Found], list[tuple[int, str]]]:
    """Rows and bad rows of all pieces, numbered through. A bad row of several files says in which
    it is."""
    before = itertools.accumulate((piece.numbers for _, piece in pieces), initial=0)
    found, bad, starts = [], [], {}
    for start, (name, piece) in zip(before, pieces):
        own = start - starts.setdefault(name, start)  # what its file's earlier shares held
        for number, reason in piece.bad:
            where = f"{name}, its row {own + number}: " if several else ""
            bad.append((start + number, where + reason))
        for one in piece.found:
            talk = one.row.conversation
            row = one.row if talk is None else one.row._replace(conversation=start + talk)
            found.append(one._replace(row=row, number=start + one.number))
    return found, bad


def _settled(found: Sequence[Found]) -> tuple[list[Row], list[int], int, Parting]:
    """Rows, their numbers, and from how many the prompt was taken off that their answers began
    with. Where that would part a word it is done if it holds of all rows."""
    prompted = [one for one in found if one.prompted]
    least = 1 if any(one.row.rejected is not None for one in prompted) else MANY
    begun = all(one.without is not None for one in prompted)
    every = len(prompted) >= least and begun
    off = [one.without is not None and (one.clean or every) for one in found]
    rows = [one.without if shorter and one.without else one.row for one, shorter in zip(found, off)]
    parted = sum(shorter and not one.clean for one, shorter in zip(found, off))
    left = any(not one.clean for one, shorter in zip(found, off) if one.without and not shorter)
    parting = Parting(parted, begun and not left)
    return rows, [one.number for one in found], sum(off), parting


def columns(pieces: Iterable[Piece]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Columns that were read, and how many records have others."""
    seen: Counter[str] = Counter()
    fields: Counter[str] = Counter()
    names: dict[str, None] = {}
    for piece in pieces:
        seen.update(piece.seen)
        fields.update(piece.fields)
        names |= dict.fromkeys(piece.columns.read if piece.columns else ())
    read_columns = tuple(name for name in names if name in seen)
    unread = {name: count for name, count in seen.items() if name not in names}
    return read_columns, unread | {f"{name} of messages": n for name, n in fields.items()}


def _built_in(config: Text, share: Share, tokenizer: Tokenizer | None) -> Part:
    """Rows that need no file. As tokens the blank before an answer is the answer's, since a
    word's token begins with its blank."""
    field = _named(config)
    if field is not None:
        problem, fix = "names a column, but there is no file.", "Give --benchmark.path as well."
        raise UsageError(f"benchmark.{field}", getattr(config, field), problem, fix)
    reader, name = sources.BUILT_IN[config.rows]
    if config.rows == "questions":
        piece = _questions(reader(share), record_rows.Talk(False, _renderer(tokenizer)))
    else:
        rows = [row if tokenizer is None else _blank_moved(row) for row in reader(share)]
        piece = Piece([Found(row, number) for number, row in enumerate(rows, 1)], (), len(rows))
    return Part([piece], (), (name,), config.rows)


def _questions(rows: Iterable[Row], talk: record_rows.Talk) -> Piece:
    """Conversations about documented names."""
    found: list[Found] = []
    bad: list[tuple[int, str]] = []
    number = 0
    for number, row in enumerate(rows, 1):
        name = bytes(row.prompt).decode().rstrip(": ")
        asked = [Turn("user", f"What is {name} in Python?")]
        try:
            prompt, answer = talk.write(asked, bytes(row.completion).decode())
        except UsageError:  # of the template, and so of all rows
            raise
        except ValueError as error:
            bad.append((number, str(error)))
        else:
            found.append(Found(Row(prompt.encode(), answer.encode()), number, chat=True))
    return Piece(found, bad, number)


def _renderer(tokenizer: Tokenizer | None) -> templates.Render | None:
    """How a tokenizer's conversations are written: by its chat template, or as lines where it has
    none; None for bytes, which are lines too."""
    if tokenizer is None:
        return None
    own = None
    if tokenizer.has_template:
        own = templates.renderer(tokenizer.words, tokenizer.name)
    return tokenizer.marks.guarded(own)


def _blank_moved(row: Row) -> Row:
    """A row of bytes whose prompt ends before the blank."""
    sides = [
        None if side is None else b" " + bytes(side) for side in (row.completion, row.rejected)
    ]
    return row._replace(
        prompt=bytes(row.prompt).rstrip(b" "), completion=sides[0] or b"", rejected=sides[1]
    )


def _named(config: Text) -> str | None:
    """The first flag that names a column."""
    fields = ("prompt_field", "completion_field", "rejected_field", "label_field")
    return next((field for field in fields if getattr(config, field)), None)


def _files(config: Text, share: Share, tokenizer: Tokenizer | None) -> Part:
    path = present(config.path, "path")
    files = formats.sources(Path(path))
    kind = files[0].kind
    sizes, names = [file.size for file in files], [file.path.name for file in files]
    if len(set(names)) < len(names):  # of several folders
        names = [str(file.path) for file in files]
    with formats.readable(path):
        reader = _plain if kind == formats.PLAIN else _recorded
        return Part(reader(files, config, share, tokenizer), sizes, names, kind)


def _plain(
    files: Sequence[formats.Source], config: Text, share: Share, tokenizer: Tokenizer | None
) -> list[Piece]:
    """Plain text, of which no prompt reaches from one file into the next."""
    field = _named(config)
    if field is not None:
        problem = f"names a column, but {files[0].path.name} is plain text, which has none."
        fix = "Drop the flag; or give rows: JSON lines, JSON, CSV, TSV, parquet or arrow."
        raise UsageError(f"benchmark.{field}", getattr(config, field), problem, fix)
    pieces, stretches = [], 0
    encode = None
    if tokenizer is not None:
        encode = lambda text: tuple(tokenizer.words.encode(text, special=False))
    for file in files:
        rows, own = sources.blocks(file, config.cut, stretches, share, encode)
        found = [Found(row, number) for number, row in enumerate(rows, 1)]
        pieces.append(Piece(found, (), len(rows)))
        stretches += own
    return pieces


def _recorded(
    files: Sequence[formats.Source], config: Text, share: Share, tokenizer: Tokenizer | None
) -> list[Piece]:
    """Records, whose columns are those of the first one of all files; where that one has no known
    layout, or lacks a column that a flag names, of the first that has."""
    each = [sources.RECORDS[file.kind](file, share) for file in files]
    first = next((records.first for records in each if records.first is not None), None)
    if first is not None and not layouts.known(first, config):
        first = _first_known(files, first, config)
    render = _renderer(tokenizer)
    return [record_rows.rows(own.numbered, first, own.numbers, config, render) for own in each]


class Streamed(NamedTuple):
    """One of the pieces that a source is read in, so that it never is in memory whole."""

    number: int  # among all pieces
    file: str  # its name
    piece: Piece


def stream(config: Text, share: Share, tokenizer: Tokenizer | None) -> Iterator[Streamed]:
    """A process's share of the pieces of a config's files of records, one after the other. Raises
    `UsageError` where there are no such files."""
    check(config)
    path = present(config.path, "path")
    files = formats.sources(Path(path))
    if files[0].kind == formats.PLAIN:
        problem, fix = "is plain text, which is read into memory.", "Give records: JSON lines."
        raise UsageError("benchmark.path", str(path), problem, fix)
    with formats.readable(path):
        parts = [(file, Share(k, _parts(file))) for file in files for k in range(_parts(file))]
        firsts = (sources.RECORDS[file.kind](file, Share(0, _parts(file))).first for file in files)
        first = next((one for one in firsts if one is not None), None)
        if first is not None and not layouts.known(first, config):
            first = _first_known(files, first, config)
        render = _renderer(tokenizer)
        for number in range(share.index, len(parts), share.count):
            file, part = parts[number]
            own = sources.RECORDS[file.kind](file, part)
            piece = record_rows.rows(own.numbered, first, own.numbers, config, render)
            yield Streamed(number, file.path.name, piece)


def _parts(file: formats.Source) -> int:
    """In how many pieces a file is read; one that has to be parsed whole is one piece."""
    return max(1, -(-file.length() // PIECE)) if file.kind in IN_PIECES else 1


def _first_known(
    files: Sequence[formats.Source], first: Mapping[str, Any], config: Text
) -> Mapping[str, Any]:
    """The first record whose layout is known and that has all named columns, else the first. Raises
    `UsageError` for a column that no record has, and where none has all."""
    every: dict[str, Any] = {}
    for record in itertools.chain.from_iterable(map(sources.records, files)):
        if layouts.known(record, config):
            return record
        every |= dict.fromkeys(record)
    for field, name in layouts.lacking(every, config):
        problem, fix = "is no column of the file.", f"Its columns: {listed(every)}."
        raise UsageError(f"benchmark.{field}", name, problem, fix)
    if not layouts.lacking(first, config):
        return first
    field, name = layouts.lacking(first, config)[0]
    problem = "is in no row beside the other columns that are named."
    raise UsageError(f"benchmark.{field}", name, problem, "Name columns that rows have together.")


def _few(names: Sequence[str]) -> str:
    return listed(names, 4)
