"""A user's reward: what reaches it, what it may give, and who is named where it goes wrong."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import text_files

from experiments.data import own_reward as on_text
from fdiv.benchmarks import Arithmetic, Rewarded, Text, TwoTemplate, own_reward
from fdiv.benchmarks.own_reward import add_reward
from fdiv.types import PAD, UsageError

ROWS = [
    {"prompt": f"ask {i}: ", "completion": f"say {i}", "answer": str(i), "number": i}
    for i in range(30)
]


@pytest.fixture(autouse=True)
def table(monkeypatch):
    monkeypatch.setattr(own_reward, "REWARDS", {})
    monkeypatch.setattr(own_reward, "_FAILED", [])


def task(tmp_path, function, records=ROWS, tokens=False, **fields):
    """A task of text that is rewarded by the function, and its rows as strings."""
    add_reward("mine", function, tokens=tokens)
    config = Text(path=tmp_path / "rows.jsonl", reward="mine", teacher_updates=0, **fields)
    reading = text_files.written(tmp_path, records, reward="mine")
    config = config.fitted(reading.rows)
    mdp = on_text.given(config.build(reading.rows), config, reading)
    rows = jax.tree.map(jnp.asarray, config.encode(reading.rows))
    return mdp, rows


def test_strings_and_columns_reach_a_function_of_strings(tmp_path):
    seen = {}

    def mine(completions, answer, prompts, other="none"):
        seen.update(prompts=prompts, completions=completions, answer=answer, other=other)
        return [float(own in text) for own, text in zip(answer, completions)]

    mdp, rows = task(tmp_path, mine)
    assert mdp.score(rows).tolist() == [1.0] * 30
    assert seen["prompts"][7], seen["completions"][7] == ("ask 7: ", "say 7")
    assert seen["answer"] == [str(i) for i in range(30)] and seen["other"] == "none"
    assert mdp.statistics["reward"] is mdp.score and mdp.regulariser.beta == 0.1


def test_each_run_of_a_program_is_asked_about_alone(tmp_path):
    sizes = []

    def mine(prompts, completions):
        sizes.append(len(completions))
        return np.arange(len(completions)) - np.float32(len(set(prompts)))

    mdp, rows = task(tmp_path, mine)
    several = jax.tree.map(lambda x: jnp.stack([x[:4], x[4:8], x[8:12]]), rows)
    values = jax.jit(jax.vmap(mdp.score))(several)
    assert values.tolist() == [[-4, -3, -2, -1]] * 3 and sizes == [4, 4, 4]


def test_columns_reach_a_function_of_tokens(tmp_path):
    def mine(strings, answer, number):
        assert answer.shape == (30, 2) and number.dtype == jnp.int32
        digits = jnp.where(answer == PAD, 0, answer - ord("0"))
        value = jnp.where(answer[:, 1] == PAD, digits[:, 0], 10 * digits[:, 0] + digits[:, 1])
        return (value == number) + strings.mask.sum(1)

    mdp, rows = task(tmp_path, mine, tokens=True)
    wanted = 1 + np.array([len(row["completion"]) + 1 for row in ROWS])
    assert jax.jit(mdp.score)(rows).tolist() == wanted.tolist()


def halves(completions):
    if len(completions[0]) > 1:
        raise KeyError("no such word")
    return [0.0]


BAD = {  # what a function does -> what is said
    "None": (lambda completions: None, "gives None for 30 strings"),
    "one less": (lambda completions: [0.0] * 29, "gives 29 numbers for 30 strings"),
    "a matrix": (lambda completions: np.zeros((30, 1)), r"gives shape \(30, 1\) for 30 strings"),
    "a number": (lambda completions: 1.0, "gives 1.0, a float, for 30 strings"),
    "a word": (lambda completions: ["x"] * 30, "gives 'x', which is no number, at row 1, prompt"),
    "a set": (lambda completions: {*range(30)}, "a set, for 30 strings"),
    "too large": (lambda completions: [1e300] * 30, r"gives 1e\+300 at row 1"),
    "the end": (lambda completions: sys.exit(3), "SystemExit"),
    "None for one": (
        lambda completions: [None if " 4" in x else 1 for x in completions],
        "gives None, which is no number, at row 5, prompt 'ask 4: ', completion 'say 4'",
    ),
    "NaN": (
        lambda completions: [float("nan") if " 4" in x else 1 for x in completions],
        "gives nan at row 5, prompt 'ask 4: ', completion 'say 4'",
    ),
    "an exception": (halves, r"raises KeyError: 'no such word' at row 1, prompt 'ask 0: '"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_number_is_named(tmp_path, case):
    function, said = BAD[case]
    mdp, rows = task(tmp_path, function)
    assert np.isnan(mdp.score(rows)).all()
    with pytest.raises(UsageError, match=f"mine.*{said}"):
        own_reward.raise_failed()
    own_reward.raise_failed()  # said once


def test_a_number_inside_a_program_is_named(tmp_path):
    mdp, rows = task(
        tmp_path,
        lambda strings: jnp.where(strings.tokens[:, 4] == ord("4"), jnp.inf, 0),
        tokens=True,
    )
    jax.block_until_ready(jax.jit(jax.vmap(mdp.score))(jax.tree.map(lambda x: x[None], rows)))
    with pytest.raises(
        UsageError, match="gives inf at row 5, prompt 'ask 4: ', completion 'say 4'"
    ):
        own_reward.raise_failed()


OF_TOKENS = {  # what a function of tokens does -> what is said
    "a matrix": (lambda strings: strings.mask, r"gives shape .* for 30 strings"),
    "None": (lambda strings: None, "gives None, which is no real number"),
    "complex": (lambda strings: jnp.ones(30) * 1j, "no real number"),
    "a word": (lambda strings: "x" * 30, "could not convert"),
    "an exception": (lambda strings: {}["x"], "KeyError: 'x'"),
}


@pytest.mark.parametrize("case", OF_TOKENS)
def test_what_a_program_cannot_be_made_of_is_refused_where_it_is_traced(tmp_path, case):
    function, said = OF_TOKENS[case]
    mdp, rows = task(tmp_path, function, tokens=True)
    with pytest.raises(UsageError, match=f"mine.*{said}"):
        mdp.score(rows)


def test_a_function_that_changes_its_lists_is_asked_for_all_strings(tmp_path):
    mdp, rows = task(tmp_path, lambda completions: [len(completions.pop()) for _ in range(30)])
    assert mdp.score(rows).shape == (30,)
    own_reward.raise_failed()


REFUSED = {
    "a column that is not there": (lambda prompts, solution: 0, ROWS, "reads solution, no column"),
    "two answers to one prompt": (
        lambda prompts, answer: 0,
        [*ROWS, {**ROWS[3], "answer": "x"}],
        "reads answer, which differs in rows 4 and 31",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_rows_that_cannot_be_judged_are_refused(tmp_path, case):
    function, records, said = REFUSED[case]
    with pytest.raises(UsageError, match=f"mine.*{said}"):
        task(tmp_path, function, records)


@pytest.mark.parametrize(
    "name, function, tokens",
    [
        ("Loud", lambda completions: 0, False),
        ("table", lambda completions: 0, False),
        ("nothing", lambda answer: 0, False),
        ("many", lambda *completions: 0, False),
        ("none", lambda: 0, True),
        ("built_in", 3, False),
    ],
)
def test_what_cannot_be_a_reward_is_refused(name, function, tokens):
    with pytest.raises(UsageError):
        add_reward(name, function, tokens=tokens)
    assert not own_reward.REWARDS


def test_a_name_that_nobody_added_gets_the_nearest():
    add_reward("polite", lambda completions: 0)
    for kind in (Text, Arithmetic):
        with pytest.raises(UsageError, match="polite"):
            kind(reward="polit").check()


@pytest.mark.wide
def test_other_tasks_take_it_too():
    add_reward("sevens", lambda prompts, completions: [x.count("7") for x in completions])
    mdp = Arithmetic(reward="sevens").build()
    strings = mdp.demos(jax.random.key(0), 16)
    text = [Arithmetic().spell(*pair) for pair in zip(strings.tokens.tolist(), strings.mask)]
    assert mdp.score(strings).tolist() == [x.count("7") for x in text]
    add_reward("ones", lambda completions: [x.split().count("1") for x in completions])
    mdp = Rewarded(TwoTemplate(vocab=2, horizon=3), reward="ones").build()
    strings = mdp.demos(jax.random.key(0), 16)
    assert mdp.score(strings).tolist() == strings.tokens.sum(1).tolist()
