"""Answers whose number is checked: what is read as a number, and which answers are right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdiv.benchmarks import Text, answers
from fdiv.benchmarks.text_rows import Row
from fdiv.types import UsageError

PIECES = ["", *"0123456789", ",", " ", ".", " 1", "12", "x", "\n", "=", "+"]
OF = answers.digits(PIECES.__getitem__, len(PIECES))
SAID = {  # pieces -> the first number, and the last
    ("1", "9"): ("19", "19"),
    ("1", "x", "7"): ("1", "7"),
    ("1", ",", "0", "0", "0"): ("1000", "1000"),
    ("1", ",", " ", "3"): ("1", "3"),
    ("1", "2", ","): ("12", "12"),
    (" 1", "2"): ("12", "12"),
    ("3", " 1", "2"): ("3", "12"),
    ("12", "3"): ("123", "123"),
    ("0", "5"): ("05", "05"),
    ("5", "."): ("5", "5"),
    ("x", "="): (None, None),
    (): (None, None),
}


@pytest.mark.parametrize("which", ["first", "last"])
def test_which_number_is_said(which):
    width = max(map(len, SAID))
    tokens = np.array([[*map(PIECES.index, row), *[0] * (width - len(row))] for row in SAID])
    said = np.asarray(answers.number_of(which, OF, jnp.asarray(tokens), jnp.asarray(tokens > 0)))
    wanted = [pair[which == "last"] for pair in SAID.values()]
    assert said.tolist() == [0 if one is None else answers._hash(one) for one in wanted]


def test_a_point_is_part_of_a_number():
    numbers = [["5", ".", "0"], ["5", "x", "0"], ["5", "0", "x"]]
    tokens = jnp.asarray([[*map(PIECES.index, row)] for row in numbers])
    said = np.asarray(answers.number_of("last", OF, tokens, tokens > 0))
    assert len(set(said.tolist())) == 3


ROWS = [Row(b"1+1=", b"2"), Row(b"2+1=", b"so 3"), Row(b"4+4=", b"8"), Row(b"9+9=", b"18")]


def test_a_text_rewards_the_number_of_the_row_with_its_prompt():
    text = Text(checked="last", prompt_length=8, horizon=8, validation=0.5)
    mdp = text.build(ROWS)
    tried = [Row(b"1+1=", b"= 2"), Row(b"1+1=", b"3"), Row(b"2+1=", b"3"), Row(b"7+7=", b"14")]
    strings = jax.tree.map(jnp.asarray, text.encode(tried))
    assert mdp.score is not None and mdp.solutions is not None and mdp.regulariser is not None
    assert mdp.score(strings).tolist() == [1, 0, 1, 0]
    ways = np.asarray(mdp.solutions(strings))
    assert (ways >= 0).tolist() == [True, False, True, False]
    assert mdp.regulariser.beta == text.beta


def test_rows_without_a_number_are_refused():
    rows = [row._replace(completion=b"no") for row in ROWS]
    with pytest.raises(UsageError, match="hold none"):
        Text(checked="last", prompt_length=8, horizon=8, validation=0.5).build(rows)
