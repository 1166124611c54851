"""What a file is, by its content and its suffix: which files a path stands for, what compresses
them, how their text is encoded, and what kind of records they hold.

What is neither rows nor text is refused by its name, with a way to convert it."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import glob
import gzip
import io
import json
import lzma
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from fdiv.types import UsageError

HEAD = 1 << 16  # bytes from which a file's kind is told
LOOKED_AT = 20  # lines of them
LINES, JSON, CSV, TSV, PARQUET, ARROW, PLAIN = (
    "JSON lines",
    "JSON",
    "CSV",
    "TSV",
    "parquet",
    "arrow",
    "plain text",
)
KINDS = (LINES, JSON, CSV, TSV, PARQUET, ARROW, PLAIN)
SUFFIXES = {
    **dict.fromkeys([".jsonl", ".ndjson", ".jl", ".ldjson", ".jsonlines"], LINES),
    ".json": JSON,
    ".csv": CSV,
    **dict.fromkeys([".tsv", ".tab"], TSV),
    **dict.fromkeys([".parquet", ".pq"], PARQUET),
    **dict.fromkeys([".arrow", ".feather", ".ipc"], ARROW),
    **dict.fromkeys([".txt", ".text", ".md"], PLAIN),
}
SOURCE = {
    ".yaml",
    ".yml",
    ".xml",
    ".toml",
    ".ipynb",
    ".sql",
    ".html",
    ".htm",
    ".svg",
    ".rtf",
    ".json5",
    ".jsonc",
    ".hjson",
    ".pkl",
    ".pickle",
}  # not rows as they are
MARKUP = (b"<!doctype html", b"<html", b"<?xml", b"<svg")  # by their first bytes, in small letters
TITLES = (  # of columns: where a first line names both of two, it is that of a table
    {"prompt", "completion"},
    {"prompt", "response"},
    {"chosen", "rejected"},
    {"instruction", "output"},
    {"question", "answer"},
    {"question", "response"},
    {"text", "label"},
)
COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bzip2", ".xz": "xz"}
COMPRESSED_MAGIC = {
    b"\x1f\x8b\x08": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    **{b"BZh%d1AY&SY" % level: "bzip2" for level in range(1, 10)},
    b"\xfd7zXZ\0": "xz",
}
BINARY = (  # beginning -> what it is, and what makes rows of it
    (b"FEA1", "a feather file of version 1", "write it again with pyarrow.feather.write_feather"),
    (b"PK\x03\x04", "a zip archive (or .xlsx, .docx, .npz)", "unzip it, or export a .csv"),
    (b"SQLite format 3", "an SQLite database", "export it: sqlite3 -csv -header FILE 'query'"),
    (b"%PDF-", "a PDF", "make text of it: pdftotext FILE"),
    (b"Obj\x01", "an Avro file", "write it as parquet or JSON lines"),
    (b"ORC\x08", "an ORC file", "write it as parquet: pyarrow.orc.read_table"),
    (b"\x93NUMPY", "a NumPy array", "write its rows as JSON lines"),
    (b"\x89HDF", "an HDF5 file", "write its rows as JSON lines"),
    (b"\x89PNG", "a PNG picture", "give a file of rows or text"),
    (b"\xff\xd8\xff", "a JPEG picture", "give a file of rows or text"),
    (b"GIF89a", "a GIF picture", "give a file of rows or text"),
    (b"\x7fELF", "a program", "give a file of rows or text"),
    *((b"GGUF%c\0" % v, "a GGUF model", "give a file of rows or text") for v in range(1, 4)),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it"),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word file", "export a .csv or a .txt"),
    (b"version https://git-lfs", "a pointer of Git LFS", "fetch the file itself: git lfs pull"),
    (b"Rar!\x1a", "a RAR archive", "unpack it"),
    (b"\x04\x22\x4d\x18", "an lz4 file", "unpack it: unlz4 FILE"),
    *(
        (b"\x80" + bytes([v]), "a Python pickle", "write its rows as JSON lines")
        for v in range(2, 6)
    ),
)
ENCODINGS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
BESIDES = re.compile(  # what stands beside the shards of a folder
    r"(README|LICEN[CS]E|CHANGELOG)(\..*)?|dataset_infos?\.json|dataset_dict\.json|state\.json|.*\.(lock|crc|py|sh|log|ya?ml)",
    re.IGNORECASE,
)
SIDES = re.compile(
    r"(?:^|[^a-z])(train(?:ing)?|test(?:ing)?|valid(?:ation)?|val|dev|eval|held[-_]?out"
    r"|hold[-_]?out)(?![a-z])",
    re.IGNORECASE,
)


class Source(NamedTuple):
    """One file."""

    path: Path
    kind: str
    size: int  # on the disk
    content: bytes | None = None  # unpacked and as UTF-8; None: the file's own bytes are that

    def open(self) -> BinaryIO:
        """Its text as UTF-8, or its table, from the beginning."""
        return self.path.open("rb") if self.content is None else io.BytesIO(self.content)

    def length(self) -> int:
        """Bytes of what `open` gives."""
        return self.size if self.content is None else len(self.content)


def refuse(path: Path | str, problem: str, fix: str) -> UsageError:
    """An error of the data's path."""
    return UsageError("benchmark.path", str(path), problem, fix)


@contextlib.contextmanager
def readable(path: Path | str) -> Iterator[None]:
    """What the system says of a file is said of that file."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)[:200]
        raise refuse(
            path, f"cannot be read ({reason}).", "Give a sound file you may read."
        ) from error


def sources(path: Path) -> list[Source]:
    """The files that a path stands for, each with what it is.

    Raises `UsageError` for what is not there, is empty, or cannot be read as rows or text.
    """
    with readable(path):
        files = [identify(file) for file in _files(path)]
    kinds = {source.kind for source in files}
    if len(kinds) > 1:
        names = [f"{source.path.name} ({source.kind})" for source in files]
        fix = f"Name those of one kind, such as '{path}/*.jsonl'."
        raise refuse(path, f"holds files of several kinds: {_few(names)}.", fix)
    return files


def _files(path: Path) -> list[Path]:
    """One file, the data files of a folder, or what a pattern matches, by name."""
    if str(path).startswith("~"):
        with contextlib.suppress(RuntimeError):  # nobody's home: there is no such file then
            path = path.expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        return _shards(path)
    if glob.has_magic(str(path)):
        files = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
        files = [file for file in files if file.is_file()]
        if not files:
            raise refuse(path, "matches no file.", "Give a pattern such as 'rows/*.jsonl'.")
        return files
    fix = "Give a file of rows or text, a folder of them, or a pattern such as 'rows/*.jsonl'."
    problem = "is not a file."
    if "://" in str(path) or re.match(r"\w+:/\w", str(path)):
        problem, fix = "is an address, not a file.", "Download it, and give the file."
    raise refuse(path, problem, fix)


def _shards(folder: Path) -> list[Path]:
    """The data files in a folder itself."""
    names = sorted(p for p in folder.iterdir() if p.is_file() and p.name[0] not in "._")
    shards = [path for path in names if not BESIDES.fullmatch(path.name)]
    inner = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] not in "._")
    if not shards:
        fix = f"Name one of the folders in it: {_few(inner)}." if inner else "Give a file."
        raise refuse(folder, "is a folder without a data file.", fix)
    sides = [m[1].lower() if (m := SIDES.search(path.name)) else "" for path in shards]
    apart = {side.removesuffix("ing") for side in sides}
    if len(apart) > 1 and apart - {"", "train"}:
        named = ", ".join(sorted({side or "files without a side" for side in sides}))
        fix = f"Name one side, such as '{folder}/{_of_one_side(shards, sides)}'."
        raise refuse(folder, f"holds several sides of a split ({named}).", fix)
    _refuse_deeper(folder, shards)
    return shards


def _of_one_side(shards: list[Path], sides: list[str]) -> str:
    """A pattern, or the name, of what is not held out."""
    first = sides[0]
    own = [path.name for path, side in zip(shards, sides) if side in ("train", "training", "")]
    if not own:
        own = [path.name for path, side in zip(shards, sides) if side == first]
    return own[0] if len(own) == 1 else "train*"


def _refuse_deeper(folder: Path, shards: list[Path]) -> None:
    """Raise for more of the same kind in the folders of a folder, which would be left out."""
    kinds = {path.suffix.lower() for path in shards}
    for place, inner, names in os.walk(folder):
        inner[:] = sorted(name for name in inner if name[0] not in "._")
        if Path(place) == folder:
            continue
        more = [n for n in names if n[0] not in "._" and not BESIDES.fullmatch(n)]
        if any(Path(name).suffix.lower() in kinds for name in more):
            suffix = shards[0].suffix
            problem = f"holds data files, and more of them in {Path(place).relative_to(folder)}."
            fix = f"Name those that are meant: '{folder}/*{suffix}', or '{folder}/**/*{suffix}'."
            raise refuse(folder, problem, fix)


def identify(path: Path) -> Source:
    """What one file is. Raises `UsageError`, or the system's `OSError`."""
    size = path.stat().st_size
    if size == 0:
        raise refuse(path, "is empty.", "Give a file with at least one row of each split.")
    with path.open("rb") as file:
        head = file.read(HEAD)
    content = None
    names = [suffix.lower() for suffix in path.suffixes[-2:]]
    method = next((m for magic, m in COMPRESSED_MAGIC.items() if head.startswith(magic)), None)
    if method is not None:
        content = _unpacked(path, method)
        head = content[:HEAD]
        if not content:
            raise refuse(path, "is empty once unpacked.", "Give a file with rows.")
    if names and names[-1] in COMPRESSED:
        if method is None:
            raise refuse(path, f"is not {COMPRESSED[names[-1]]}.", "Give it without that suffix.")
        names.pop()
    kind = SUFFIXES.get(names[-1]) if names else None
    binary = _table(path, head, kind)
    if binary is not None:
        return Source(path, binary, size, content)
    encoding = _encoding(head)
    if encoding is not None:
        content = _decoded(path, path.read_bytes() if content is None else content, encoding)
        head = content[:HEAD]
    _refuse_binary(path, head)
    suffix = names[-1] if names else ""
    return Source(path, _kind(path, head, kind, suffix, content), size, content)


def _unpacked(path: Path, method: str) -> bytes:
    """All that a compressed file holds."""
    try:
        if method == "zstd":
            import pyarrow

            with pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd") as stream:
                return stream.read()
        opened = {"gzip": gzip, "bzip2": bz2, "xz": lzma}[method].open(path, "rb")
        with opened as file:
            return file.read()
    except (OSError, EOFError, lzma.LZMAError, ValueError) as error:
        problem = f"is {method} that cannot be unpacked ({str(error)[:200]})."
        raise refuse(path, problem, "Copy it again; it is cut short or damaged.") from error
    except Exception as error:  # zlib.error
        problem = f"is {method} that cannot be unpacked ({str(error)[:200]})."
        raise refuse(path, problem, "Copy it again; it is cut short or damaged.") from error


def _table(path: Path, head: bytes, kind: str | None) -> str | None:
    """Parquet or arrow; what else is binary is refused, and what only its suffix calls a table."""
    if head.startswith(b"PAR1") and (kind == PARQUET or b"\0" in head):
        return PARQUET
    if head.startswith((b"ARROW1\0", b"\xff\xff\xff\xff")):
        return ARROW
    _refuse_binary(path, head, magic=True)
    if kind in (PARQUET, ARROW):
        raise refuse(path, f"is not {kind}.", f"Give {kind}, or a suffix that says what it is.")
    return None


def _encoding(head: bytes) -> str | None:
    """UTF-16 or UTF-32, or UTF-8 behind a mark, which have to be decoded; None for the rest."""
    if head.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    even, odd = head[::2].count(0), head[1::2].count(0)
    for mark, encoding in ENCODINGS:
        if head.startswith(mark) and even + odd:
            return encoding
    if max(even, odd) > len(head) / 8 and min(even, odd) < max(even, odd) / 20:
        return "utf-16-le" if odd > even else "utf-16-be"
    return None


def _decoded(path: Path, content: bytes, encoding: str) -> bytes:
    if encoding == "utf-8-sig":
        return content[len(codecs.BOM_UTF8) :]
    try:
        return content.decode(encoding).encode()
    except ValueError as error:
        name = encoding[:6].upper()
        place = f", byte {error.start:,}" if isinstance(error, UnicodeDecodeError) else ""
        problem = f"looks like {name} and is not sound {name}{place}."
        fix = f"Convert it: iconv -c -f {name} -t UTF-8 FILE > NEW, and look at the result."
        raise refuse(path, problem, fix) from error


def _refuse_binary(path: Path, head: bytes, magic: bool = False) -> None:
    """Raise for what is neither text nor rows: by how it begins, or by bytes that no text holds."""
    if magic:
        for begin, name, fix in BINARY:
            if head.startswith(begin):
                raise refuse(path, f"is {name}, not rows or text.", f"{fix[0].upper()}{fix[1:]}.")
        if head[257:262] == b"ustar":
            raise refuse(path, "is a tar archive, not rows or text.", "Unpack it.")
        return
    control = sum(head.count(c) for c in range(32) if c not in b"\t\n\r\f\b\x1b")
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
        sound = True
    except UnicodeDecodeError:
        sound = False
    if b"\0" in head or control > len(head) / (10 if sound else 50):
        problem = "is binary data, not rows or text."
        raise refuse(path, problem, "Write it as JSON lines, CSV, parquet or plain text in UTF-8.")


def _kind(path: Path, head: bytes, kind: str | None, suffix: str, content: bytes | None) -> str:
    """The kind of a text file: its suffix's, unless its first bytes say otherwise."""
    if kind in (CSV, TSV):
        return kind
    begin = head.lstrip()
    if kind == JSON:
        return LINES if begin.startswith(b"{") and _lines(begin) else JSON
    if kind == LINES:
        whole = begin.startswith(b"[") and _is_list(path, content)
        return JSON if whole else LINES
    if _mostly_records(begin):
        return LINES
    if begin.startswith(b"[") and _is_list(path, content):
        return JSON
    markup = kind is None and begin[:64].lower().startswith(MARKUP)
    if kind is None and (suffix in SOURCE or markup):
        named = suffix[1:] if suffix in SOURCE else "HTML or XML"
        fix = "Write its rows as JSON lines, or name it .txt to train on the bytes themselves."
        raise refuse(path, f"is {named}, of which no rows are read.", fix)
    if begin.startswith(b"{") and _begins_with_an_object(path, content):
        return JSON
    return _titled(begin) or PLAIN


def _titled(begin: bytes) -> str | None:
    """CSV or TSV, where the first line names columns that are read and a second one follows."""
    first, *rest = begin.split(b"\n", 1)
    line = first.decode("utf-8", errors="replace").strip()
    mark = next((mark for mark in "\t,;" if mark in line), None)
    if mark is None or not rest or len(line) > 1000:
        return None
    names = {name.strip().strip('"').lower() for name in line.split(mark)}
    if not any(titles <= names for titles in TITLES):
        return None
    return TSV if mark == "\t" else CSV


def _mostly_records(begin: bytes) -> bool:
    """Whether the first line is a record, or half of the first ones are, behind a comment, say."""
    lines = [line for line in begin.splitlines()[:LOOKED_AT] if line.strip()]
    if not lines or (not lines[0].startswith(b"{") and len(begin) >= HEAD):
        lines = lines[:-1]  # what was read ahead may end within a line
    records = [line.lstrip().startswith(b"{") and _record(line) for line in lines]
    return bool(records) and (records[0] or 2 * sum(records) >= len(records))


def _lines(begin: bytes) -> bool:
    """Whether it is records of a line each, of which there are several."""
    lines = [line for line in begin.splitlines()[:3] if line.strip()]
    return len(lines) > 1 and _record(lines[0])


def _record(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):  # longer than what was read ahead, or none
        return line.startswith(b'{"') and len(line) >= HEAD // 2


def _begins_with_an_object(path: Path, content: bytes | None) -> bool:
    """Whether the first thing in it is a JSON object of several lines: one that holds the records,
    or the first of many, which are no lines of JSON."""
    try:
        text = (path.read_bytes() if content is None else content).decode()
        value, _ = json.JSONDecoder().raw_decode(text.lstrip())
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and bool(value)


def _is_list(path: Path, content: bytes | None) -> bool:
    """Whether all of it is one list of records, though its suffix promises lines."""
    try:
        whole = json.loads(path.read_bytes() if content is None else content)
    except (ValueError, RecursionError):
        return False
    return isinstance(whole, list) and any(isinstance(record, dict) for record in whole)


def _few(names: list[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
