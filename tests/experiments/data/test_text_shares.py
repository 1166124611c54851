"""A source read in shares is the source read whole: rows, bad rows by number, errors; however many
the shares."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from experiments.data import files, sources
from experiments.data.sources import Share
from fdiv.benchmarks.text import Text
from fdiv.types import UsageError

COUNTS = (1, 2, 3, 5, 40)
GOOD = [{"prompt": f"frage {i}: é語😀", "completion": "ü" * i} for i in range(1, 12)]
BAD = [{"prompt": "a"}, {"prompt": 3, "completion": "b"}, {"prompt": "a", "completion": ""}]
RECORDS = [*GOOD[:2], BAD[0], *GOOD[2:9], BAD[1], BAD[2], *GOOD[9:]]


def lines(records, end: str = "\n") -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + end for record in records)


def parquet(records, **more) -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), sink, **more)
    return sink.getvalue().to_pybytes()


FILES = {
    "plain.jsonl": lines(RECORDS),
    "crlf.jsonl": lines(RECORDS, "\r\n"),
    "blank.jsonl": "\n \n" + lines(RECORDS, "\n\n\n"),
    "no-final-newline.jsonl": lines(RECORDS).rstrip(),
    "broken.jsonl": "{no\n[1]\n\n" + lines(GOOD[:3]) + "{no\n" + lines(GOOD[3:]),
    "bytes.jsonl": b"\xff\xfe{}\n" + lines(GOOD).encode() + b'{"prompt": "\xc3"}\n',
    "long.jsonl": lines([GOOD[0], {"prompt": "", "completion": "語" * 3000}, *GOOD]),
    "one.jsonl": lines(GOOD[:1]),
    "pairs.jsonl": lines([{"chosen": f"a? {i} ja", "rejected": f"a? {i} nein"} for i in range(7)]),
    "records.json": json.dumps(["no", *RECORDS]),
    "one-group.parquet": parquet([r for r in RECORDS if r.get("prompt") != 3]),
    "groups.parquet": parquet([r for r in RECORDS if r.get("prompt") != 3], row_group_size=3),
    "play.txt": "Wer reitet so spät durch Nacht und Wind? 😀 " * 9,
    "word.txt": "é",
    # what ends in an error
    "empty.jsonl": "",
    "columns.jsonl": "7\n" + lines([{"better": "a", "worse": "b"}] * 4),
    "none-good.jsonl": "{no\n\n" + lines(BAD[1:] * 5),
    "no-records.jsonl": "1\n\n2\n3\n",
    "not.json": '[{"text": ',
    "no-list.json": "{}",
    "not.parquet": "PAR1",
    "no-rows.parquet": parquet([]),
}


def outcome(read):
    """The reading, or what the user is told."""
    try:
        return read()
    except UsageError as error:
        return str(error)


def shared(config: Text, count: int) -> files.Reading:
    """As `count` processes read it: what they tell each other has been pickled."""
    parts = [files.read_share(config, Share(index, count)) for index in range(count)]
    return files.merge(config, pickle.loads(pickle.dumps(parts)))


@pytest.mark.parametrize("name", FILES)
def test_shares_make_up_the_whole(name, tmp_path):
    text = FILES[name]
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    config = Text(path=tmp_path / name, horizon=10, prompt_length=6)
    whole = outcome(lambda: files.read(config))
    for count in COUNTS:
        assert outcome(lambda count=count: shared(config, count)) == whole, count


def test_columns_named_by_the_user(tmp_path):
    (tmp_path / "rows.jsonl").write_text(lines([{"q": "a", "a": f"b{i}"} for i in range(9)]))
    for field in ("a", "unknown"):
        config = Text(path=tmp_path / "rows.jsonl", prompt_field="q", completion_field=field)
        whole = outcome(lambda config=config: files.read(config))
        assert (field == "a") == isinstance(whole, files.Reading)
        assert outcome(lambda config=config: shared(config, 3)) == whole


def test_docstrings_in_shares(monkeypatch):
    library = str(Path(json.__file__).parent)  # a small one
    monkeypatch.setattr(sources.sysconfig, "get_paths", lambda: {"stdlib": library})
    assert shared(Text(), 3) == files.read(Text())


@pytest.mark.parametrize(
    "config", [Text(horizon=0), Text(prompt_field="a"), Text(path="nowhere.jsonl")]
)
def test_what_is_refused_alone_is_refused_by_all(config):
    with pytest.raises(UsageError) as alone:
        files.read(config)
    with pytest.raises(UsageError) as together:
        shared(config, 3)
    assert str(together.value) == str(alone.value)


def test_each_line_is_read_by_one_share(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(lines(GOOD * 30))
    sizes = [len(files.read_share(Text(path=path), Share(index, 3)).rows) for index in range(3)]
    assert sum(sizes) == 330
    assert max(sizes) < 150


def test_files_that_differ_between_hosts_are_refused(tmp_path):
    parts = []
    for index, records in enumerate((GOOD, GOOD[:4])):
        path = tmp_path / str(index) / "rows.jsonl"
        path.parent.mkdir()
        path.write_text(lines(records))
        parts.append(files.read_share(Text(path=path), Share(index, 2)))
    with pytest.raises(UsageError, match="one size"):
        files.merge(Text(path=path), parts)


def test_an_error_without_a_message_for_users_is_raised_by_all(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    path.write_text(lines(GOOD))
    fails = lambda *_: (_ for _ in ()).throw(MemoryError)
    monkeypatch.setitem(sources.RECORDS, "JSON lines", fails)
    with pytest.raises(MemoryError):
        shared(Text(path=path), 2)
