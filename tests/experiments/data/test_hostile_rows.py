"""Rows that could be read wrongly without a word: each is read as it is meant, or named with its
reason."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from experiments.data import files
from fdiv.benchmarks.text import Text
from fdiv.types import UsageError

GOOD = '{"prompt":"q","completion":"a"}'
TALK = '[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]'


def read(folder: Path, content: str, name: str = "rows.jsonl", **fields):
    path = folder / name
    path.write_text(content, encoding="utf-8", newline="")
    return files.read(Text(path=path, **fields))


DOUBLED = {  # a row, a sound one, the key that stands twice
    "in a row": ('{"prompt":"q","prompt":"r","completion":"a"}', GOOD, "prompt"),
    "the same value": ('{"prompt":"q","prompt":"q","completion":"a"}', GOOD, "prompt"),
    "not read": ('{"prompt":"q","id":1,"id":2,"completion":"a"}', GOOD, "id"),
    "in a message": (
        '{"messages":[{"role":"user","content":"q","content":"r"}]}',
        f'{{"messages":{TALK}}}',
        "content",
    ),
    "in a message written as text": (
        json.dumps({"messages": TALK.replace('"role":"user"', '"role":"user","role":"system"')}),
        json.dumps({"messages": TALK}),
        "role",
    ),
}


@pytest.mark.parametrize("case", DOUBLED)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_a_key_twice_is_a_bad_row(case, name, tmp_path):
    bad, good, key = DOUBLED[case]
    lines = f"{good}\n{bad}\n{good}\n" if name == "rows.jsonl" else f"[{good},{bad},{good}]"
    reading = read(tmp_path, lines, name)
    assert len(reading.rows) == 2
    ((number, reason),) = reading.bad
    assert number == 2 and f"the key {key!r} twice" in reason


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_column_twice_is_refused(kind, tmp_path):
    schema = pyarrow.schema([(name, pyarrow.string()) for name in ("prompt", "text", "text")])
    table = pyarrow.Table.from_arrays([pyarrow.array(["q", "r"])] * 3, schema=schema)
    path = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(table, path)
    else:
        with pyarrow.ipc.new_file(path, schema) as file:
            file.write_table(table)
    with pytest.raises(UsageError, match="two columns 'text'"):
        files.read(Text(path=path))


LATER = {  # rows, named columns, prompts and completions, numbers of bad rows
    "named prompt": (
        [{"a": "x"}, {"a": "y", "why": "w"}],
        {"prompt_field": "why", "completion_field": "a"},
        [("w", "y")],
        [1],
    ),
    "one of two": (
        [{"q": "1", "a": "x"}, {"q": "2", "c": "more", "a": "y"}],
        {"prompt_field": ("q", "c"), "completion_field": "a"},
        [("1", "x"), ("2\nmore", "y")],
        [],
    ),
    "label": (
        [{"text": "x"}, {"text": "y", "ok": "yes"}],
        {"completion_field": "text", "label_field": "ok"},
        [("", "y")],
        [1],
    ),
    "rejected, by its usual name": (
        [{"prompt": "q", "chosen": "a"}, {"prompt": "q", "chosen": "a", "rejected": "b"}],
        {},
        [("q", "a")],
        [1],
    ),
    "behind an empty record": ([{}, {"text": "x"}], {}, [("", "x")], [1]),
}


@pytest.mark.parametrize("case", LATER)
def test_columns_that_only_later_rows_have(case, tmp_path):
    records, named, wanted, bad = LATER[case]
    reading = read(tmp_path, "".join(json.dumps(r) + "\n" for r in records), **named)
    assert [(r.prompt.decode(), r.completion.decode()) for r in reading.rows] == wanted
    assert [number for number, _ in reading.bad] == bad


@pytest.mark.parametrize(
    ("records", "named", "says"),
    [
        ([{"a": "x"}, {"b": "y"}], {"prompt_field": "z", "completion_field": "a"}, "a, b"),
        ([{"a": "x"}, {"b": "y"}], {"prompt_field": "a", "completion_field": "b"}, "in no row"),
        ([{"a": "x"}, {"b": "y"}], {}, "none of the usual columns"),
    ],
)
def test_columns_that_no_row_has(records, named, says, tmp_path):
    with pytest.raises(UsageError, match=says):
        read(tmp_path, "".join(json.dumps(record) + "\n" for record in records), **named)


OTHER_CASE = {
    "Label": {"prompt": "q", "completion": "a", "Label": False},
    "LABEL": {"messages": [{"role": "user", "content": "q"}], "LABEL": 0},
    "System": {"prompt": "q", "completion": "a", "System": "s"},
    "Input": {"instruction": "q", "Input": "more", "output": "a"},
    "Prompt": {"Prompt": "q", "chosen": "a", "rejected": "b"},
    " prompt": {" prompt": "q", "chosen": "a", "rejected": "b"},
}


@pytest.mark.parametrize("name", OTHER_CASE)
def test_a_column_that_is_not_read_for_its_capitals_is_refused(name, tmp_path):
    with pytest.raises(UsageError) as refused:
        read(tmp_path, json.dumps(OTHER_CASE[name]) + "\n")
    assert repr(name) in refused.value.problem


def test_capitals_that_would_not_be_read_either_are_no_matter(tmp_path):
    record = {"prompt": "q", "completion": "a", "Context": "c", "Id": 1, "Prompt": "other"}
    reading = read(tmp_path, json.dumps(record) + "\n")
    assert set(reading.unread) == {"Context", "Id", "Prompt"}


SPACED = {  # prompt, what each answer begins with, the prompt that is trained on
    "two spaces": ("what  is it?", "what is it?", "what is it?"),
    "a line feed of Windows": ("what\r\nis it?", "what\nis it?", "what\nis it?"),
    "space around": ("  what is it? \n", "what is it?", "what is it?"),
    "a line for a space": ("what is it?", "what\nis\tit?", "what\nis\tit?"),
}


@pytest.mark.parametrize("case", SPACED)
def test_a_prompt_that_answers_repeat_with_other_white_space(case, tmp_path):
    prompt, begin, wanted = SPACED[case]
    record = {"prompt": prompt, "chosen": f"{begin} yes", "rejected": f"{begin} no"}
    (row,) = read(tmp_path, json.dumps(record) + "\n").rows
    assert row[:3] == (wanted.encode(), b" yes", b" no")


def test_words_that_run_together_are_not_the_prompt(tmp_path):
    record = {"prompt": "a b", "chosen": "ab yes", "rejected": "ab no"}
    (row,) = read(tmp_path, json.dumps(record) + "\n").rows
    assert row[:3] == (b"a b", b"ab yes", b"ab no")


def test_answers_that_repeat_messages_as_text_lose_the_tag_too(tmp_path):
    record = {
        "prompt": [{"role": "user", "content": "q"}],
        "chosen": "user: q\nassistant: yes",
        "rejected": "user: q\n\nassistant: no",
    }
    (row,) = read(tmp_path, json.dumps(record) + "\n").rows
    assert row[:3] == (b"user: q\n", b"yes", b"no")


@pytest.mark.parametrize("label", [True, "True", "true ", "desirable"])
def test_a_judgement_beside_text_is_one_in_words_too(label, tmp_path):
    records = [{"text": "x", "label": label}, {"text": "y", "label": "false"}]
    reading = read(tmp_path, "".join(json.dumps(record) + "\n" for record in records))
    assert [row.liked for row in reading.rows] == [True, False]


def test_a_first_column_without_a_name_is_not_read(tmp_path):
    reading = read(tmp_path, ",prompt,completion\r\n0,q,a\r\n", "rows.csv")
    assert reading.rows[0][:2] == (b"q", b"a")
    assert set(reading.unread) == {"(no name)"}


ASK, YES, NAY = (
    {"role": "user", "content": "q?"},
    {"role": "assistant", "content": "yes"},
    {"role": "assistant", "content": "no"},
)
lead = lambda role, text: {"role": role, "content": text}
two = lambda *messages: {"chosen": [*messages, YES], "rejected": [*messages, NAY]}
SPELLED = {  # a comparison -> prompt, chosen and rejected that are trained on
    "each side in its own white space": (
        {"prompt": "is it?", "chosen": "is it? yes", "rejected": " is  it? no"},
        ("is it?", " yes", " no"),
    ),
    "letters and their accents apart": (
        {"prompt": "où?", "chosen": "ou\u0300? yes", "rejected": "où? no"},
        ("ou\u0300?", " yes", " no"),
    ),
    "accents apart in the prompt": (
        {"prompt": "cafe\u0301", "chosen": "café yes", "rejected": "café no"},
        ("café", " yes", " no"),
    ),
    "a wide question mark": (
        {"prompt": "真?", "chosen": "真\uff1f是", "rejected": "真\uff1f否"},
        ("真\uff1f", "是", "否"),
    ),
    "another letter": (
        {"prompt": "café", "chosen": "cafe yes", "rejected": "cafe no"},
        ("café", "cafe yes", "cafe no"),
    ),
    "a developer's message": (
        {"prompt": "q?", **two(lead("developer", "d"), ASK)},
        ("developer: d\nuser: q?\n", "yes", "no"),
    ),
    "two leading messages": (
        {"prompt": [lead("system", "s"), lead("system", "t"), ASK],
         **two(lead("system", "s"), lead("system", "t"), ASK)},
        ("system: s\nsystem: t\nuser: q?\n", "yes", "no"),
    ),
    "strings after messages": (
        {"prompt": [lead("system", "s"), ASK], "chosen": "q? yes", "rejected": "q? no"},
        ("system: s\nuser: q?\n", " yes", " no"),
    ),
    "JSON over several lines": (
        {k: json.dumps(v, indent=1) for k, v in two(ASK).items()},
        ("user: q?\n", "yes", "no"),
    ),
    "as Python prints lists": (
        {k: str(v) for k, v in two(ASK).items()},
        ("user: q?\n", "yes", "no"),
    ),
    "columns of roles and texts": (
        {k: {n: [m[n] for m in v] for n in ("role", "content")} for k, v in two(ASK).items()},
        ("user: q?\n", "yes", "no"),
    ),
    "answers that are lists of other things": (
        {"prompt": "q", "chosen": '[{"name": "x"}]', "rejected": "[1, 2]"},
        ("q", '[{"name": "x"}]', "[1, 2]"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SPELLED)
def test_one_comparison_however_it_is_spelled(case, tmp_path):
    record, wanted = SPELLED[case]
    (row,) = read(tmp_path, json.dumps(record) + "\n").rows
    assert tuple(side.decode() for side in row[:3]) == wanted


def test_what_is_taken_off_is_counted_of_messages_too(tmp_path):
    record = {"prompt": [ASK], "completion": "q? yes"}
    reading = read(tmp_path, json.dumps(record) + "\n")
    assert reading.rows[0][:2] == (b"user: q?\n", b" yes") and reading.taken_off == 1


UNCLEAR = {  # a row -> what is said of it
    "cells of numpy": (
        {"prompt": "q", "completion": "[{'role': 'user'}\n {'role': 'assistant'}]"},
        "looks like messages",
    ),
    "cut off JSON": ({"prompt": "q", "completion": json.dumps([ASK, YES])[:-5]}, "looks like"),
    "columns of two lengths": (
        {"prompt": "q", "completion": {"role": ["user"], "content": ["a", "b"]}},
        "not of one length",
    ),
    "words of its own to go on with": ({"prompt": [ASK, YES], "completion": "!"}, "own words"),
    "one of two leading messages": (
        {"prompt": [lead("system", "s"), lead("system", "t"), ASK], "completion": [
            lead("system", "s"), ASK, YES]},
        "another system message",
    ),
    "half a weight": ({"prompt": "q", "completion": [{**YES, "weight": 0.5}]}, "only 0 and 1"),
    "thoughts as text": (
        {"prompt": "q", "completion": [lead("assistant", [{"type": "thinking", "text": "hm"}])]},
        "type 'thinking'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNCLEAR)
def test_what_could_be_read_in_two_ways_is_a_bad_row(case, tmp_path):
    record, says = UNCLEAR[case]
    reading = read(tmp_path, f"{GOOD}\n{json.dumps(record)}\n{GOOD}\n")
    ((number, reason),) = reading.bad
    assert number == 2 and says in reason


@pytest.mark.parametrize("no", ["0", "false", False, 0.0])
@pytest.mark.parametrize("field", ["weight", "train", "loss"])
def test_weights_in_words_are_weights(field, no, tmp_path):
    messages = [ASK, {**NAY, field: no}, ASK, {**YES, field: "1"}]
    (row,) = read(tmp_path, json.dumps({"messages": messages}) + "\n").rows
    assert row.completion == b"yes"


def test_a_field_of_messages_that_is_false_is_named(tmp_path):
    reading = read(tmp_path, json.dumps({"messages": [ASK, {**YES, "good": False}]}) + "\n")
    assert set(reading.unread) == {"good of messages"}


@pytest.mark.parametrize("first", [None, 3, "positive"])
def test_a_judgement_beside_text_that_the_first_row_lacks(first, tmp_path):
    records = [{"text": "x", "label": first}, {"text": "y", "label": False}]
    reading = read(tmp_path, "".join(json.dumps(record) + "\n" for record in records))
    assert [number for number, _ in reading.bad] == [2] and len(reading.rows) == 1


def test_rows_without_their_prompt_are_counted(tmp_path):
    reading = read(tmp_path, "prompt,completion\na,b\n,c\nd,e\n", "rows.csv")
    said = " ".join(reading.notes(Text(path=tmp_path / "rows.csv")))
    assert "1 of 3 rows have an empty prompt (row 2)" in said
