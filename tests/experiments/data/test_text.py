"""Real text: columns as others name them, bad rows by number, a split that does not move, bytes
there and back."""

from __future__ import annotations

import inspect
import json

import jax
import numpy as np
import pytest
from text_files import written

from experiments.data import files
from fdiv import tokens as tk
from fdiv.benchmarks.text import EOS, Text, decode
from fdiv.benchmarks.text_rows import Cut, Row, split
from fdiv.types import PAD, UsageError


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize(
    ("record", "fields", "row"),
    [
        ({"text": "héllo"}, {}, Row(b"", "héllo".encode())),
        ({"prompt": "a?", "completion": "b"}, {}, Row(b"a?", b"b")),
        (
            {"question": "a?", "answer": "b"},
            {"prompt_field": "question", "completion_field": "answer"},
            Row(b"a?", b"b"),
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": "hi"},
                    {"role": "assistant", "content": "yo"},
                ]
            },
            {},
            Row(b"user: hi\n", b"yo"),
        ),
    ],
)
def test_columns_as_others_name_them(tmp_path, suffix, record, fields, row):
    assert written(tmp_path, [record] * 2, suffix, **fields).rows == [row] * 2


def test_bad_rows_are_reported_by_number_and_reason(tmp_path):
    good = {"prompt": "a", "completion": "b"}
    records = [
        good,
        "{broken",
        {"prompt": "a"},
        {"prompt": "a", "completion": ""},
        {"prompt": 3, "completion": "b"},
        "[1]",
        good,
    ]
    reading = written(tmp_path, records)
    assert len(reading.rows) == 2
    assert [number for number, _ in reading.bad] == [2, 3, 4, 5, 6]
    for (_, reason), says in zip(
        reading.bad,
        ["not JSON", "no field 'completion'", "empty", "int, not text", "list, not a record"],
    ):
        assert says in reason
    assert "5 rows were bad" in " ".join(reading.notes(Text()))


def test_plain_text_is_cut_in_blocks_that_tile_it(tmp_path):
    path = tmp_path / "play.txt"
    path.write_bytes(bytes(range(65, 91)) * 4)  # 104 bytes
    config = Text(path=path, horizon=10, prompt_length=6)
    rows = files.read(config).rows
    assert b"".join(row.completion for row in rows) == path.read_bytes()[:100]
    assert rows[0].prompt == b""
    assert rows[3].prompt == path.read_bytes()[24:30]


@pytest.mark.wide
def test_docstrings_of_this_python():
    rows = files.read(Text()).rows
    assert len(rows) > 3000
    found = {row.prompt: row.completion for row in rows}
    assert found[b"json.loads: "] == inspect.getdoc(json.loads).encode()
    assert rows == files.read(Text()).rows


def test_the_split_is_by_prompt_and_does_not_move():
    """A row's side depends on its prompt alone, whatever else the file holds."""
    rows = [Row(f"q{i}".encode(), f"a{i}".encode()) for i in range(4000)]
    held = lambda rows, share: {rows[i] for i in split(rows, Cut(8, 8), share).held_out}
    train = split(rows, Cut(8, 8), 0.05).train
    assert len(train) + len(held(rows, 0.05)) == 4000
    assert abs(len(held(rows, 0.05)) - 200) < 5 * (4000 * 0.05 * 0.95) ** 0.5
    again = held([*rows[::-1][:1000], Row(b"new", b"row")], 0.05)
    assert again - {Row(b"new", b"row")} <= held(rows, 0.05)
    assert held(rows, 0.05) <= held(rows, 0.2)  # a larger share keeps what was held out


def test_bytes_there_and_back():
    config = Text(prompt_length=4, horizon=6)
    rows = [Row(b"abcdef", b"xyz"), Row(b"", "é!".encode()), Row(b"q", b"longer than six")]
    strings = config.encode(rows)
    np.testing.assert_array_equal(
        strings.tokens[0], [*b"cdef", *b"xyz", EOS, PAD, PAD]
    )  # a prompt keeps its end
    np.testing.assert_array_equal(strings.tokens[1], [*"é!".encode(), EOS, *[PAD] * 6])
    assert list(strings.mask.sum(1)) == [4, 4, 6]  # EOS counts; what is cut has none
    assert EOS not in strings.tokens[2]
    assert [decode(t, m) for t, m in zip(strings.tokens, strings.mask)] == ["xyz", "é!", "longer"]
    prompts = tk.prompts_of(jax.tree.map(jax.numpy.asarray, strings), 6)
    np.testing.assert_array_equal(prompts.tokens[2], [*b"q", PAD, PAD, PAD])


def test_training_and_held_out_rows_do_not_mix():
    config = Text(prompt_length=8, horizon=8, validation=0.3)
    rows = [Row(b"", f"{i:04d}".encode()) for i in range(200)]
    mdp = config.build(rows)
    sides = config.split(rows)
    train, held = (
        {rows[i].completion.decode() for i in side} for side in (sides.train, sides.held_out)
    )
    drawn = lambda draw: {
        decode(t, m) for t, m in zip(*map(np.asarray, draw(jax.random.key(0), 500)[:2]))
    }
    assert drawn(mdp.demos) <= train
    assert drawn(mdp.held_out) <= held
    assert len(drawn(mdp.demos)) > 100


@pytest.mark.parametrize(
    ("fields", "says"),
    [({"prompt_field": "a"}, "no file"), ({"horizon": 0}, "benchmark.horizon"),
     ({"validation": 1.0}, "between 0 and 1"),
     ({"prompt_length": -1}, "prompt_length")],
)  # fmt: skip
def test_fields_that_cannot_be(fields, says):
    with pytest.raises(UsageError, match=says):
        files.read(Text(**fields))
