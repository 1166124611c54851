"""What is held out: no string, and no prompt, on both sides after the cut, whatever the rows; and
what the cut makes of rows."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fdiv.benchmarks import text_rows
from fdiv.benchmarks.text import EOS, Text
from fdiv.benchmarks.text_rows import Cut, Row, demonstrated
from fdiv.types import UsageError

CUT = {"prompt_length": 6, "horizon": 5}


def numbered(n, prompt, answer, **more):
    """Rows from templates, in which {i} counts and {k} counts slowly."""
    words = lambda template, i: template.format(i=i, k=i // 4, j=i % 2).encode()
    fields = lambda i: {k: words(v, i) if isinstance(v, str) else v(i) for k, v in more.items()}
    return [Row(words(prompt, i), words(answer, i), **fields(i)) for i in range(n)]


def text(content: bytes, size: int = 5, prompt: int = 6) -> list[Row]:
    """Blocks of plain text in stretches of 8."""
    reach = -(-prompt // size)
    rows = []
    for i in range(len(content) // size):
        parts = tuple(range(max(0, i - reach) // 8, i // 8 + 1))
        before = content[max(0, i * size - prompt) : i * size]
        rows.append(Row(before, content[i * size : (i + 1) * size], stretches=parts))
    return rows


RANDOM = np.random.default_rng(0).bytes(3000)
FILES = {
    "prompts of their own": numbered(200, "q{i}?", "a{i}"),
    "answers to the same prompt": numbered(400, "q{k}?", "a{i}"),
    "prompts that the cut makes equal": numbered(400, "{i:03d} q{k:03d}?", "a{i}"),
    "strings that the cut makes equal": numbered(400, "q{k:03d}?", "answer {i}"),
    "no prompts": numbered(200, "", "{i}"),
    "no prompts, equal after the cut": numbered(400, "", "{k:05d} and {i}"),
    "one prompt": numbered(200, "say?", "{i}"),
    "one prompt after the cut": numbered(200, "{i} say so?", "{i}"),
    "prompts and none": [*numbered(100, "q{i}?", "a"), *numbered(100, "", "a{i}")],
    "a prompt that ends in an answer": [Row(b"q" + b"a" * (i % 3), b"a" * 4) for i in range(99)]
    + numbered(99, "{i}?", "b"),
    "duplicates": numbered(200, "q{k}?", "a{k}"),
    "pairs": numbered(400, "q{k}?", "a{i}", rejected="b{i}"),
    "pairs without a prompt": numbered(200, "", "a{i}", rejected="b{k}"),
    "pairs that refuse alike": numbered(200, "", "a{i}", rejected="no"),
    "pairs both ways round": [
        *numbered(100, "", "a{i}", rejected="b{i}"),
        *numbered(100, "", "b{i}", rejected="a{i}"),
    ],
    "labels": numbered(400, "q{k}?", "a{i}", liked=lambda i: i % 2 == 0),
    "labels without a prompt": numbered(400, "", "a{k}", liked=lambda i: i % 2 == 0),
    "conversations": numbered(400, "q{i}?", "a", conversation=lambda i: i // 4),
    "plain text": text(RANDOM),
    "plain text that repeats itself": text(RANDOM[:1500] + RANDOM[:700]),
    "few prompts": numbered(40, "q{j}?", "a{i}"),
}


def sides(config: Text, rows: list[Row]) -> tuple[list[Row], list[Row]]:
    division = config.split(rows)
    kept = [*division.train, *division.held_out, *division.left_out]
    assert sorted(kept) == list(range(len(rows)))
    return tuple([rows[i] for i in side] for side in (division.train, division.held_out))


@pytest.mark.parametrize("share", [0.05, 0.3])
@pytest.mark.parametrize("name", FILES)
@pytest.mark.few(9)
def test_no_held_out_string_or_prompt_is_trained_on(name, share):
    config, rows = Text(**CUT, validation=share), FILES[name]
    train, held = sides(config, rows)
    assert any(map(demonstrated, train))
    assert any(map(demonstrated, held))
    strings = lambda rows: {tuple(x) for row in rows for x in config.encode([row]).tokens}
    asked = lambda rows: {config.cut.prompt(row) for row in rows} - {b""}
    either = lambda rows: (
        strings(rows)
        | strings([Row(row.prompt, row.rejected) for row in rows if row.rejected is not None])
    )
    assert not strings(held) & either(train)
    assert not strings(train) & either(held)
    if name != "pairs that refuse alike":  # what is refused alone may be on both sides
        assert not either(held) & either(train)
    if not name.startswith("one prompt"):
        assert not asked(held) & asked(train)
    talks = lambda rows: {row.conversation for row in rows} - {None}
    assert not talks(held) & talks(train)
    mdp = config.build(rows)
    drawn = lambda source, key: {
        tuple(map(int, x)) for x in source(jax.random.key(key), 300).tokens
    }
    assert not drawn(mdp.demos, 0) & drawn(mdp.held_out, 1)


ROW = st.builds(
    Row,
    st.binary(max_size=4).map(lambda x: bytes(b % 3 for b in x)),
    st.binary(min_size=1, max_size=4).map(lambda x: bytes(b % 3 for b in x)),
    rejected=st.none() | st.binary(min_size=1, max_size=3).map(lambda x: bytes(b % 3 for b in x)),
    liked=st.none(),
    conversation=st.none() | st.integers(0, 5),
    stretches=st.just(()),
    extra=st.just(()),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=40), st.integers(0, 3), st.integers(1, 4))
def test_the_law_of_the_split_for_any_rows(rows, prompt_length, horizon):
    cut = Cut(prompt_length, horizon)
    division = text_rows.split(rows, cut, 0.3)
    train, held = ([rows[i] for i in side] for side in (division.train, division.held_out))
    first = lambda rows: {cut.strings(row)[0] for row in rows}
    every = lambda rows: {string for row in rows for string in cut.strings(row)}
    assert not first(held) & every(train)
    assert not first(train) & every(held)
    if division.by == "prompt":
        assert not ({cut.prompt(r) for r in held} & {cut.prompt(r) for r in train}) - {b""}
    assert sorted([*division.train, *division.held_out]) == list(range(len(rows)))


def test_plain_text_shares_no_byte_between_the_sides():
    """The text counts its own bytes' places, so a byte says where it is from."""
    content = b"".join(i.to_bytes(2, "big") for i in range(2000))
    rows = text(content, size=10, prompt=12)
    train, held = sides(Text(prompt_length=12, horizon=10, validation=0.2), rows)

    def places(rows: list[Row]) -> set[int]:
        strings = [row.prompt + row.completion for row in rows]
        return {content.index(s) + i for s in strings for i in range(len(s))}

    assert held
    assert not places(held) & places(train)


ONE = {
    "one row": [Row(b"q", b"a")],
    "one string": [Row(b"q", b"a")] * 50,
    "one string after the cut": numbered(50, "{i} q  q  q", "answer {i}"),
    "none": [],
}


@pytest.mark.parametrize("name", ONE)
def test_what_cannot_be_split_is_refused(name):
    with pytest.raises(UsageError, match="leaves no"):
        Text(**CUT).build(ONE[name])


def test_nothing_to_copy_is_refused_with_that_reason():
    with pytest.raises(UsageError, match="all of them false"):
        Text(**CUT).build(numbered(50, "{i}", "a", liked=lambda i: False))


# --- judgements -----------------------------------------------------------------------------------


def test_pairs_that_the_cut_makes_equal_are_left_out_of_preferences():
    rows = numbered(100, "q{i}?", "{j}same to the end", rejected="0same as that")
    mdp = Text(**CUT, validation=0.2).build(rows)  # after 5 bytes: equal where {j} is 0
    for source in (mdp.pairs, mdp.labels, mdp.held_out_pairs):
        pairs = source(jax.random.key(0), 200)
        assert np.all(np.any(np.asarray(pairs.chosen.tokens != pairs.rejected.tokens), axis=1))
    assert Text(**CUT, validation=0.2).build(rows[::2]).pairs is None
    longer = Text(prompt_length=6, horizon=12, validation=0.2).build(rows[::2])
    assert longer.pairs is not None


@pytest.mark.parametrize(
    ("liked", "there"), [(lambda i: True, False), (lambda i: i % 2 == 0, True)]
)
def test_labels_of_one_class_are_nothing_to_learn_from(liked, there):
    mdp = Text(**CUT, validation=0.2).build(numbered(100, "q{i}?", "a{i}", liked=liked))
    assert (mdp.labels is not None) == there


# --- lengths --------------------------------------------------------------------------------------


def lengths(prompts, answers, **more):
    return [Row(b"p" * p, b"a" * a, **more) for p, a in zip(prompts, answers)]


FITS = {  # rows, flags, (prompt length, horizon)
    "nine of ten": (lengths(range(1, 101), range(1, 101)), {}, (96, 96)),  # 90 -> 96, 90 + 1 -> 96
    "to a multiple of 8": (lengths([8] * 9, [8] * 9), {}, (8, 16)),  # with EOS 9 tokens
    "no prompts": (lengths([0] * 9, [3] * 9), {}, (0, 8)),
    "long ones": (lengths([9999] * 9, [9999] * 9), {}, (256, 512)),
    "both sides": ([Row(b"", b"a", b"b" * 30)] * 9, {}, (0, 32)),
    "given": (lengths([9] * 9, [9] * 9), {"prompt_length": 3, "horizon": 4}, (3, 4)),
    "one given": (lengths([9] * 9, [9] * 9), {"horizon": 64}, (16, 64)),
    "plain text": (lengths([9] * 9, [9] * 9, stretches=(0,)), {}, (48, 64)),
}


@pytest.mark.parametrize("name", FITS)
def test_lengths_that_are_not_given_fit_the_rows(name):
    rows, flags, wanted = FITS[name]
    assert Text(path="rows.jsonl", **flags).fitted(rows).cut == wanted
    assert Text(**flags).cut == Cut(flags.get("prompt_length", 48), flags.get("horizon", 64))


def test_fitted_rows_mostly_learn_where_they_end():
    rows = [Row(f"{i}?".encode(), b"word " * (1 + i % 50)) for i in range(500)]
    config = Text(path="rows.jsonl").fitted(rows)
    ended = np.any(config.encode(rows).tokens == EOS, axis=1)
    assert ended.mean() >= 0.9
    assert Text(prompt_length=48, horizon=64).encode(rows).tokens.shape == (500, 112)
