"""The same rows from every kind of file, by content and suffix; and what is neither rows nor text,
refused by its name."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest

from experiments.data import files
from experiments.data.sources import Share
from fdiv.benchmarks.text import Text
from fdiv.benchmarks.text_rows import Row
from fdiv.types import UsageError

RECORDS = [{"prompt": f"frage {i}, é語😀?", "completion": f'"ü"\n{i};\t{i}'} for i in range(12)]
ROWS = [Row(r["prompt"].encode(), r["completion"].encode()) for r in RECORDS]
TABLE = pyarrow.Table.from_pylist(RECORDS)


def lines(end: str = "\n") -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + end for record in RECORDS)


def separated(delimiter: str, **options) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(RECORDS[0]), delimiter=delimiter, **options)
    writer.writeheader()
    writer.writerows(RECORDS)
    return out.getvalue()


def arrow(opened, **options) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with opened(sink, TABLE.schema, **options) as writer:
        writer.write_table(TABLE, max_chunksize=5)
    return sink.getvalue().to_pybytes()


def parquet() -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(TABLE, sink, row_group_size=5)
    return sink.getvalue().to_pybytes()


def feather() -> bytes:
    sink = io.BytesIO()
    pyarrow.feather.write_feather(TABLE, sink)
    return sink.getvalue()


def zstd(content: bytes) -> bytes:
    return pyarrow.compress(content, codec="zstd", asbytes=True)


TEXT = lines().encode()
LIST = json.dumps(RECORDS, indent=1, ensure_ascii=False)
FILES = {
    "a.jsonl": TEXT,
    "a.JSONL": TEXT,
    "a.ndjson": TEXT,
    "a.jl": TEXT,
    "a.json": TEXT,
    "list.json": LIST.encode(),
    "list.jsonl": LIST.encode(),
    "one-line-list.jsonl": json.dumps(RECORDS).encode(),
    "a.data": TEXT,
    "a.txt": TEXT,
    "list.data": LIST.encode(),
    "no-suffix": TEXT,
    "crlf.jsonl": lines("\r\n").encode(),
    "blank-first.txt": b"\n \n" + TEXT,
    "mark.jsonl": codecs.BOM_UTF8 + TEXT,
    "mark.json": codecs.BOM_UTF8 + LIST.encode(),
    "utf16.jsonl": lines().encode("utf-16"),
    "utf16.json": LIST.encode("utf-16"),
    "utf16-be.jsonl": codecs.BOM_UTF16_BE + lines().encode("utf-16-be"),
    "utf16-bare.jsonl": lines().encode("utf-16-le"),
    "utf16-bare-be.jsonl": lines().encode("utf-16-be"),
    "utf32.jsonl": lines().encode("utf-32"),
    "a.jsonl.gz": gzip.compress(TEXT),
    "two-members.jsonl.gz": gzip.compress(TEXT[: len(TEXT) // 2])
    + gzip.compress(TEXT[len(TEXT) // 2 :]),
    "a.jsonl.zst": zstd(TEXT),
    "two-frames.jsonl.zst": zstd(TEXT[:100]) + zstd(TEXT[100:]),
    "a.JSON.GZ": gzip.compress(LIST.encode()),
    "packed": gzip.compress(TEXT),
    "a.jsonl.bz2": bz2.compress(TEXT),
    "a.jsonl.xz": lzma.compress(TEXT),
    "utf16.jsonl.gz": gzip.compress(lines().encode("utf-16")),
    "a.csv": separated(",").encode(),
    "a.CSV": separated(",", lineterminator="\n").encode(),
    "semicolons.csv": separated(";").encode(),
    "mark.csv": separated(",").encode("utf-8-sig"),
    "utf16.csv": separated(",").encode("utf-16"),
    "a.tsv": separated("\t").encode(),
    "a.csv.gz": gzip.compress(separated(",").encode()),
    "quoted.csv": separated(",", quoting=csv.QUOTE_ALL).encode(),
    "a.parquet": parquet(),
    "parquet.data": parquet(),
    "parquet.jsonl": parquet(),
    "a.arrow": arrow(pyarrow.ipc.new_file),
    "stream.arrow": arrow(pyarrow.ipc.new_stream),
    "arrow": arrow(pyarrow.ipc.new_file),
    "a.feather": feather(),
    "a.parquet.gz": gzip.compress(parquet()),
    "list.txt": LIST.encode(),
    "table.txt": separated(",").encode(),
    "table.dat": separated("\t").encode(),
    "semicolons": separated(";").encode(),
}


@pytest.mark.parametrize("name", FILES)
def test_the_same_rows_from_every_kind_of_file(name, tmp_path):
    (tmp_path / name).write_bytes(FILES[name])
    config = Text(path=tmp_path / name)
    reading = files.read(config)
    assert reading.rows == ROWS
    assert reading.bad == []
    assert sorted(reading.read) == ["completion", "prompt"]
    assert not reading.unread
    for count in (2, 3, 40):
        parts = [files.read_share(config, Share(index, count)) for index in range(count)]
        assert files.merge(config, pickle.loads(pickle.dumps(parts))) == reading


def zipped(name: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr(name, TEXT)
    return out.getvalue()


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        about = tarfile.TarInfo("a.jsonl")
        about.size = len(TEXT)
        file.addfile(about, io.BytesIO(TEXT))
    return out.getvalue()


def saved(array) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


PACKED = gzip.compress(TEXT)
OPEN_QUOTE = separated(",") + 'a,"never closed\n'
REFUSED = {  # content, what is said, how it is converted
    "rows.zip": (zipped("a.jsonl"), "a zip archive", "nzip"),
    "sheet.csv": (
        zipped("xl"),
        "a zip archive",
        "export a .csv",
    ),
    "rows.tar": (
        tarred(),
        "a tar archive",
        "npack",
    ),
    "rows.tar.gz": (
        gzip.compress(tarred()),
        "a tar archive",
        "npack",
    ),
    "rows.pkl": (pickle.dumps(RECORDS), "a Python pickle", "JSON lines"),
    "rows.npy": (saved(np.zeros(3)), "a NumPy array", "JSON lines"),
    "rows.db": (b"SQLite format 3\0" + bytes(99), "SQLite", "sqlite3"),
    "paper.pdf": (b"%PDF-1.4\n" + bytes(99), "a PDF", "pdftotext"),
    "picture.txt": (b"\x89PNG\r\n\x1a\n" + bytes(99), "a PNG", "rows or text"),
    "model.gguf": (b"GGUF\3\0\0\0" + bytes(99), "GGUF", "rows or text"),
    "rows.avro": (b"Obj\x01" + bytes(99), "Avro", "parquet"),
    "noise": (np.random.default_rng(0).bytes(4000), "binary data", "UTF-8"),
    "nul.txt": (b"to be\0or not", "binary data", "UTF-8"),
    "noise.jsonl": (np.random.default_rng(1).bytes(4000), "binary data", "UTF-8"),
    "cut.jsonl.gz": (PACKED[:-9], "cannot be unpacked", "Copy"),
    "damaged.jsonl.gz": (PACKED[:40] + b"????" + PACKED[44:], "cannot be unpacked", "Copy"),
    "cut.jsonl.zst": (zstd(TEXT)[:-5], "cannot be unpacked", "Copy"),
    "cut.jsonl.bz2": (bz2.compress(TEXT)[:-5], "cannot be unpacked", "Copy"),
    "cut.jsonl.xz": (lzma.compress(TEXT)[:-5], "cannot be unpacked", "Copy"),
    "plain.jsonl.gz": (TEXT, "is not gzip", "suffix"),
    "empty.jsonl.gz": (gzip.compress(b""), "empty once unpacked", "rows"),
    "lines.parquet": (TEXT, "is not parquet", "suffix"),
    "lines.arrow": (TEXT, "is not arrow", "suffix"),
    "cut.parquet": (parquet()[:-50], "is not parquet", "sound"),
    "cut.arrow": (arrow(pyarrow.ipc.new_file)[:-50], "is not arrow", "sound"),
    "latin.csv": (separated(",").replace("語😀", "").encode("latin-1"), "not UTF-8", "iconv"),
    "odd.jsonl": (lines().encode("utf-16") + b"\n", "not sound UTF-16", "iconv"),
    "open.csv": (OPEN_QUOTE.encode(), "unexpected end of data", "quote"),
    "twice.csv": (b"a,a\n1,2\n", "does not name its columns", "prompt,completion"),
    "header.csv": (b"prompt,completion\n", "no row", "file"),
    "named.json": (
        json.dumps({"version": 1, "data": RECORDS}).encode(),
        "no list",
        'jq -c \'.["data"]',
    ),
    "deep.json": (b"[" * 100_000, "nested too deeply", "list of records"),
    "broken.json": (b'[{"text": ', "is not JSON", "list of records"),
    "rows.yaml": (b"- prompt: a\n  completion: b\n", "is yaml", "JSON lines"),
    "rows.xml": (b"<rows><row/></rows>", "is xml", "JSON lines"),
    "rows.yaml.gz": (gzip.compress(b"- prompt: a\n"), "is yaml", "JSON lines"),
    "page": (b"<!DOCTYPE html><html>404</html>", "is HTML", "JSON lines"),
    "pointer.txt": (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS", "lfs pull"),
    "sheet.xls": (b"\xd0\xcf\x11\xe0" + bytes(99), "Excel", ".csv"),
    "text.pkl": (pickle.dumps(RECORDS, protocol=0), "is pkl", "JSON lines"),
    "named.data": (json.dumps({"data": RECORDS}, indent=1).encode(), "no list", "jq"),
    "one-by-one": (json.dumps(RECORDS[0], indent=1).encode() * 2, "not JSON", "list of records"),
    "notebook.ipynb": (b'{\n "cells": []\n}', "is ipynb", "JSON lines"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_neither_rows_nor_text_is_refused_by_its_name(name, tmp_path):
    content, says, fix = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError) as said:
        files.read(Text(path=tmp_path / name))
    assert said.value.field == "benchmark.path"
    assert says in str(said.value)
    assert fix in said.value.fix
    assert len(str(said.value)) < 700


@pytest.mark.parametrize(
    "field", ["prompt_field", "completion_field", "rejected_field", "label_field"]
)
@pytest.mark.parametrize("name", ["play.txt", "play", "play.md", "play.txt.gz"])
def test_plain_text_has_no_columns_to_name(name, field, tmp_path):
    text = b"To be, or not to be\n" * 40
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    with pytest.raises(UsageError, match="plain text") as said:
        files.read(Text(path=tmp_path / name, **{field: "text"}))
    assert said.value.field == f"benchmark.{field}"
    plain = files.read(Text(path=tmp_path / name, prompt_length=4, horizon=10))
    assert b"".join(row.completion for row in plain.rows) == text


# --- several files --------------------------------------------------------------------------------


def shards(folder: Path, names, count: int = 3) -> Path:
    """Files that hold the records, each its part."""
    folder.mkdir(exist_ok=True)
    for i, name in enumerate(names):
        own = RECORDS[Share(i, len(names)).of(len(RECORDS))]
        text = "".join(json.dumps(record) + "\n" for record in own).encode()
        (folder / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return folder


WHOLES = {
    "a folder": (["train-0.jsonl", "train-1.jsonl", "train-2.jsonl"], ""),
    "a pattern": (["train-0.jsonl", "train-1.jsonl"], "train-*.jsonl"),
    "compressed in part": (["a.jsonl.gz", "b.ndjson"], ""),
    "one": (["a.jsonl"], "*"),
}


@pytest.mark.parametrize("case", WHOLES)
def test_shards_are_one_file_by_name(case, tmp_path):
    names, pattern = WHOLES[case]
    folder = shards(tmp_path / "rows", names)
    (folder / "README.md").write_text("# rows")
    (folder / "dataset_info.json").write_text("{}")
    (folder / ".hidden.jsonl").write_text("no")
    config = Text(path=folder / (pattern if pattern != "*" else "*.jsonl") if pattern else folder)
    reading = files.read(config)
    assert reading.rows == ROWS
    assert list(reading.numbers) == list(range(1, 13))
    for count in (2, 5):
        parts = [files.read_share(config, Share(index, count)) for index in range(count)]
        assert files.merge(config, parts) == reading


def test_a_bad_row_of_several_files_says_in_which_it_is(tmp_path):
    folder = shards(tmp_path / "rows", ["a.jsonl", "b.jsonl"])
    with (folder / "b.jsonl").open("a") as file:
        file.write("{no\n")
    config = Text(path=folder)
    reading = files.read(config)
    ((number, reason),) = reading.bad
    assert number == 13
    assert reason.startswith("b.jsonl, its row 7: not JSON")
    parts = [files.read_share(config, Share(index, 3)) for index in range(3)]
    assert files.merge(config, parts).bad == reading.bad


NOT_WHOLE = {
    "sides": (["train-0.jsonl", "test-0.jsonl"], "several sides"),
    "more sides": (["train.jsonl", "validation.jsonl"], "several sides"),
    "sides behind a name": (["gsm8k_train.jsonl", "gsm8k_test.jsonl"], "several sides"),
    "one side has none": (["rows.jsonl", "rows.held-out.jsonl"], "several sides"),
    "other words": (["Training.jsonl", "Testing.jsonl"], "several sides"),
    "kinds": (["a.jsonl", "b.txt"], "several kinds"),
    "nothing": ([], "without a data file"),
}


@pytest.mark.parametrize("case", NOT_WHOLE)
def test_folders_that_are_not_one_file(case, tmp_path):
    names, says = NOT_WHOLE[case]
    folder = shards(tmp_path / "rows", names)
    if "b.txt" in names:
        (folder / "b.txt").write_text("to be or not to be")
    with pytest.raises(UsageError, match=says):
        files.read(Text(path=folder))


PATHS = {
    "nowhere.jsonl": "is not a file",
    "nowhere-*.jsonl": "matches no file",
    "https://example.org/rows.jsonl": "is an address",
    "hf://datasets/org/name": "is an address",
    "x" * 5000: "cannot be read|is not a file",
    "~nobody-of-that-name/rows.jsonl": "is not a file",
    "nul\0.jsonl": "is not a file",
}


@pytest.mark.parametrize("path", PATHS)
def test_paths_that_are_no_file(path):
    with pytest.raises(UsageError, match=PATHS[path]):
        files.read(Text(path=Path(path)))


def test_a_home_folder_is_spelled_out(tmp_path, monkeypatch):
    shards(tmp_path, ["a.jsonl"])
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.read(Text(path=Path("~/a.jsonl"))).rows == ROWS


def test_a_user_without_a_home_is_told(monkeypatch):
    from experiments.devices import cache_folder

    monkeypatch.delenv("FDIV_CACHE", raising=False)
    monkeypatch.setattr(Path, "expanduser", lambda self: (_ for _ in ()).throw(RuntimeError()))
    with pytest.raises(UsageError, match="no home folder"):
        cache_folder(None)
    with pytest.raises(UsageError, match="is not a file"):
        files.read(Text(path=Path("~/a.jsonl")))


# --- damage ---------------------------------------------------------------------------------------

DAMAGED = [
    "a.jsonl",
    "list.json",
    "utf16.jsonl",
    "utf16.csv",
    "a.csv",
    "a.parquet",
    "a.arrow",
    "stream.arrow",
    "a.jsonl.gz",
    "a.jsonl.zst",
    "a.parquet.gz",
]


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_end_in_rows_bad_rows_or_a_clear_error(name, tmp_path):
    """Bytes changed, taken out, put in (line feeds among them), and ends cut off: never a
    traceback."""
    draw = np.random.default_rng(list(name.encode()))
    for case in range(40):
        content = bytearray(FILES[name])
        for _ in range(draw.integers(1, 6)):
            at = int(draw.integers(len(content)))
            kind = draw.integers(4)
            if kind == 0:
                content[at] = draw.integers(256)
            elif kind == 1:
                content[at:at] = b"\n"
            elif kind == 2:
                del content[at : at + int(draw.integers(1, 9))]
            else:
                content[at : at + 4] = draw.bytes(4)
        if case % 10 == 0:
            del content[int(draw.integers(1, len(content))) :]
        path = tmp_path / f"{case}-{name}"
        path.write_bytes(content)
        try:
            reading = files.read(Text(path=path))
        except UsageError as error:
            assert len(str(error)) < 2500
        else:
            assert reading.rows


def test_names_that_hold_the_word_of_a_side_are_none(tmp_path):
    names = ["a-contest.jsonl", "devices.jsonl", "latest.jsonl", "retrieval.jsonl"]
    assert len(files.read(Text(path=shards(tmp_path / "rows", names))).rows) == len(RECORDS)


def test_more_files_in_the_folders_of_a_folder_are_not_left_out_in_silence(tmp_path):
    folder = shards(tmp_path / "rows", ["a.jsonl"])
    shards(folder / "pictures", ["a.png"])
    shards(folder / ".cache", ["b.jsonl"])
    assert len(files.read(Text(path=folder)).rows) == len(RECORDS)
    shards(folder / "more", ["b.jsonl"])
    with pytest.raises(UsageError, match="more of them in more"):
        files.read(Text(path=folder))
    assert len(files.read(Text(path=folder / "**" / "[!.]*.jsonl")).rows) == 2 * len(RECORDS)


def test_a_comment_before_records_is_a_bad_row(tmp_path):
    (tmp_path / "rows.data").write_text("# mine\n" + lines())
    reading = files.read(Text(path=tmp_path / "rows.data"))
    assert reading.rows == ROWS and [number for number, _ in reading.bad] == [1]


@pytest.mark.parametrize("kind", [pyarrow.timestamp("ns"), pyarrow.duration("ns")], ids=str)
def test_times_by_the_nanosecond_beside_a_row_are_no_fault_of_it(kind, tmp_path):
    table = TABLE.append_column("when", pyarrow.array([2**62 + 1] * len(RECORDS), kind))
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    reading = files.read(Text(path=tmp_path / "rows.parquet"))
    assert reading.rows == ROWS and not reading.bad and set(reading.unread) == {"when"}
