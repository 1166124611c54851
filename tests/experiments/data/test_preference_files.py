"""Comparisons and labels from a user's files: columns as others name them, bad rows by number,
batches as methods read them."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from text_files import written

from experiments.running import runs
from fdiv.benchmarks.text import EOS, Text
from fdiv.benchmarks.text_rows import Row
from fdiv.types import UsageError

SMALL = {"prompt_length": 8, "horizon": 6, "validation": 0.3}


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize(
    ("record", "row"),
    [
        ({"prompt": "a?", "chosen": "yes", "rejected": "no"}, Row(b"a?", b"yes", b"no")),
        ({"chosen": "a? yes", "rejected": "a? no"}, Row(b"a? ", b"yes", b"no")),
        ({"chosen": "Q: a\nA: yes", "rejected": "Q: a\nA: no"}, Row(b"Q: a\nA: ", b"yes", b"no")),
        ({"chosen": "yes", "rejected": "no"}, Row(b"", b"yes", b"no")),
        ({"prompt": "a?", "completion": "yes", "label": True}, Row(b"a?", b"yes", None, True)),
        ({"prompt": "a?", "completion": "no", "label": False}, Row(b"a?", b"no", None, False)),
    ],
)
def test_judgements_as_others_write_them(tmp_path, suffix, record, row):
    assert written(tmp_path, [record] * 2, suffix).rows == [row] * 2


def test_conversations_share_their_beginning(tmp_path):
    said = lambda answer: [
        {"role": "user", "content": "a?"},
        {"role": "assistant", "content": answer},
    ]
    assert written(tmp_path, [{"chosen": said("yes"), "rejected": said("no")}]).rows == [
        Row(b"user: a?\n", b"yes", b"no")
    ]


def test_bad_comparisons_are_reported_by_number(tmp_path):
    good = {"prompt": "a", "chosen": "b", "rejected": "c"}
    records = [
        good,
        {"prompt": "a", "chosen": "", "rejected": "c"},
        {"prompt": "a", "chosen": "b", "rejected": ""},
        {"prompt": "a", "chosen": "b", "rejected": "b"},
        {"prompt": "a", "chosen": "b"},
        {"prompt": "a", "chosen": "b", "rejected": 3},
        good,
    ]
    reading = written(tmp_path, records)
    assert reading.rows == [Row(b"a", b"b", b"c")] * 2
    said = dict(reading.bad)
    assert sorted(said) == [2, 3, 4, 5, 6]
    for number, says in zip(
        (2, 3, 4, 5, 6),
        ("'chosen' is empty", "'rejected' is empty", "the same", "no field", "not text"),
    ):
        assert says in said[number]


def test_labels_are_true_or_false(tmp_path):
    records = [{"prompt": "a", "completion": "b", "label": x} for x in (True, "so-so", None, 1)]
    reading = written(tmp_path, records)
    assert [row.liked for row in reading.rows] == [True, True]
    assert [number for number, _ in reading.bad] == [2, 3]


def test_an_unknown_column_is_named(tmp_path):
    with pytest.raises(UsageError, match="chosen/rejected") as said:
        written(tmp_path, [{"better": "a", "worse": "b"}])
    assert "better, worse" in str(said.value)


def rows(n: int = 40):
    return [Row(f"{i}?\n".encode(), f"y{i}".encode(), f"n{i}".encode()) for i in range(n)]


def test_pairs_keep_their_prompt_and_sides():
    mdp = Text(**SMALL).build(rows())
    pairs = mdp.pairs(jax.random.key(0), 64)
    for chosen, rejected, mask in zip(
        pairs.chosen.tokens, pairs.rejected.tokens, pairs.chosen.mask
    ):
        text, other = (bytes(int(t) for t in x if 0 <= t < EOS) for x in (chosen, rejected))
        prompt = text[: text.index(b"\n") + 1]
        assert text == prompt + b"y" + prompt[:-2]
        assert other == prompt + b"n" + prompt[:-2]
        assert int(mask.sum()) == len(prompt[:-2]) + 2  # the answer and EOS
    assert np.all(np.asarray(pairs.chosen.weight) == 1)
    demos = mdp.demos(jax.random.key(1), 64)
    answers = [
        bytes(int(t) for t, m in zip(x, k) if m and t != EOS)
        for x, k in zip(demos.tokens, demos.mask)
    ]
    assert all(a.startswith(b"y") for a in answers)  # what was preferred is demonstrated
    train, held = (
        {
            bytes(np.asarray(x).clip(0).astype(np.uint8))
            for x in source(jax.random.key(2), 400).chosen.tokens
        }
        for source in (mdp.pairs, mdp.held_out_pairs)
    )
    assert not train & held


def test_labels_alone_weigh_on_their_side_only():
    some = [Row(f"{i}?\n".encode(), f"a{i}".encode(), None, i % 2 == 0) for i in range(40)]
    mdp = Text(**SMALL).build(some)
    assert mdp.pairs is None
    labels = runs.batches(mdp, "labels")(jax.random.key(0), 64)
    liked, not_liked = np.asarray(labels.chosen.weight), np.asarray(labels.rejected.weight)
    assert np.all(liked + not_liked == 1)
    assert 0 < liked.sum() < 64
    number = lambda x: int(
        "".join(chr(int(t)) for t in x if 48 <= t < 58)[
            : (len([t for t in x if 48 <= t < 58]) + 1) // 2
        ]
    )
    for x, y in zip(np.asarray(labels.chosen.tokens), liked):
        assert (number(x) % 2 == 0) == bool(y)
    with pytest.raises(UsageError, match="there are no pairs"):
        runs.batches(mdp, "pairs")


def test_plain_text_has_nothing_to_compare():
    mdp = Text(**SMALL).build([Row(b"", f"a{i}".encode()) for i in range(40)])
    for reads in ("pairs", "labels"):
        with pytest.raises(UsageError, match=f"there are no {reads}"):
            runs.batches(mdp, reads)


def test_the_digest_knows_the_rejected(tmp_path):
    record = {"prompt": "a", "chosen": "b", "rejected": "c"}
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    assert (
        written(tmp_path / "x", [record]).digest()
        != written(tmp_path / "y", [record | {"rejected": "d"}]).digest()
    )
