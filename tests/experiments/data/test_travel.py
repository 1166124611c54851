"""What processes tell each other is data: JSON that comes back as it was sent, and no pickle."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.data import files
from experiments.data.files import Part
from experiments.data.layouts import Columns
from experiments.data.rows import Found, Piece
from experiments.data.sources import Share
from fdiv.benchmarks.text import Text
from fdiv.benchmarks.text_rows import Row
from fdiv.types import UsageError

ROOT = Path(__file__).parents[3]
BYTES = bytes(range(256))
ROWS = [
    Row(b"", b""),
    Row(BYTES, BYTES[::-1]),
    Row(b"p", b"c", b"r"),
    Row(b"p", b"c", b"", liked=None, conversation=3),
    Row(b"p", b"c", liked=False, stretches=(1, 2)),
]
COLUMNS = Columns(("q", "s"), "a", "r", None, frozenset({"s"}), frozenset({"q", "s", "a"}))
FOUND = [
    Found(row, i, bool(i % 2), ROWS[0] if i % 2 else None, i > 2) for i, row in enumerate(ROWS)
]
PARTS = {
    "empty": Part(),
    "rows": Part(
        [Piece(FOUND, [(1, "half \udcc3")], 7, COLUMNS, {"q": 2}, {"f": 1}), Piece()],
        [12],
        ["a.jsonl"],
        "JSON lines",
    ),
}


def sent(part: Part) -> Part:
    return files.of_json(json.loads(json.dumps(files.as_json(part)).encode() + b"   "))


@pytest.mark.parametrize("name", PARTS)
def test_a_part_comes_back_as_it_was_sent(name):
    part, again = PARTS[name], sent(PARTS[name])
    assert [tuple(p.found) for p in again.pieces] == [tuple(p.found) for p in part.pieces]
    for one, other in zip(again.pieces, part.pieces, strict=True):
        assert list(one.bad) == list(other.bad)
        assert one[2:4] == other[2:4]
        assert (dict(one.seen), dict(one.fields)) == (dict(other.seen), dict(other.fields))
    assert (list(again.sizes), list(again.names)) == (list(part.sizes), list(part.names))
    assert (again.kind, again.error) == (part.kind, part.error)


def test_a_files_shares_are_the_file(tmp_path):
    rows = [{"prompt": f"q{i}", "completion": "é" * i} for i in range(1, 8)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    config = Text(path=tmp_path / "a.jsonl")
    whole = files.merge(config, [files.read_share(config, Share(0, 1))])
    shares = [sent(files.read_share(config, Share(i, 3))) for i in range(3)]
    assert files.merge(config, shares).digest() == whole.digest()


def test_errors_are_raised_in_every_process():
    error = UsageError("benchmark.path", Path("/x"), "is missing.", "Give one.")
    again = sent(Part(error=error)).error
    assert str(again) == str(UsageError("benchmark.path", "/x", "is missing.", "Give one."))
    with pytest.raises(RuntimeError, match="ZeroDivisionError: no"):
        raise sent(Part(error=ZeroDivisionError("no"))).error


RUNNABLE = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}


def test_nothing_reads_data_that_could_run():
    for top in ("fdiv", "experiments", "configs"):
        for path in (ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [
                    alias.name for alias in getattr(node, "names", []) if hasattr(alias, "name")
                ]
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert not RUNNABLE & {name.split(".")[0] for name in names}, path
                if isinstance(node, ast.Call):
                    given = {k.arg: ast.unparse(k.value) for k in node.keywords}
                    assert given.get("allow_pickle", "False") == "False", path


def test_a_tables_names_and_cells_that_are_no_text(tmp_path):
    """A cell is a bad row, a name is an error of the file."""
    cells = pa.array([b"ok", b"\xff\xfe", b"fine"])
    prompts = pa.Array.from_buffers(pa.string(), 3, cells.buffers())
    path = tmp_path / "cells.parquet"
    pq.write_table(pa.table({"prompt": prompts, "completion": ["a", "b", "c"]}), path)
    part = files.read_share(Text(path=path), Share(0, 1))
    assert [number for number, _ in part.pieces[0].bad] == [2]
    named = tmp_path / "named.parquet"
    pq.write_table(pa.table({"promptQZQZ": ["a"], "completion": ["b"]}), named, store_schema=False)
    named.write_bytes(named.read_bytes().replace(b"QZQZ", b"\xff\xfe\xfd\xfc"))
    assert isinstance(files.read_share(Text(path=named), Share(0, 1)).error, UsageError)
