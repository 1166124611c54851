"""A user's reward on a task of text: the task with it as its score, tried before it is needed."""

from __future__ import annotations

import jax

from experiments.data.reading import Reading
from experiments.data.tokenised import Tokenizer
from fdiv.benchmarks import own_reward
from fdiv.benchmarks.own_reward import Rows
from fdiv.benchmarks.text import Text
from fdiv.divergences import parse
from fdiv.types import Regulariser, TokenMDP, UsageError

FEW = 8  # held-out strings that a reward is tried on before anything is trained


def given(
    mdp: TokenMDP, config: Text, reading: Reading, tokenizer: Tokenizer | None = None
) -> TokenMDP:
    """A text's task with the reward that its config names; `config` is fitted. Raises `UsageError`
    where that reads columns of rows that are not in memory, or fails on the first of them."""
    if config.reward is None:
        return mdp
    reward = own_reward.known(config.reward)
    spell = reading.vocabulary.spell
    encode = lambda value: list(value.encode())
    if tokenizer is not None:
        encode = lambda value: tokenizer.words.encode(value, special=False)
    score = own_reward.score_of(reward, spell, _rows(config, reading), encode)
    regulariser = Regulariser(parse(config.divergence).name, config.beta)
    statistics = {**mdp.statistics, "reward": score}
    return mdp._replace(score=score, statistics=statistics, regulariser=regulariser)


def _rows(config: Text, reading: Reading) -> Rows | None:
    """What a reward reads of the rows; None where they stay on the host, or are no records."""
    if reading.store is not None:
        return None
    strings = config.encode(reading.rows, reading.vocabulary)
    numbers = reading.numbers or range(1, 1 + len(reading.rows))
    columns = {name: [row.extra[i] for row in reading.rows] for i, name in enumerate(reading.extra)}
    return Rows(strings, numbers, columns)


def tried(mdp: TokenMDP, name: str | None) -> TokenMDP:
    """The same task, once its own reward has given numbers for a few held-out strings."""
    if name is not None and name in own_reward.REWARDS and mdp.score is not None:
        if not own_reward.known(name).tokens and jax.process_count() > 1:
            problem = f"is plain Python, and this run has {jax.process_count()} processes."
            fix = "Write it in jax.numpy, with tokens=True, or use one process."
            raise UsageError("reward", name, problem, fix)
        jax.block_until_ready(mdp.score(mdp.held_out(jax.random.key(0), FEW)))
        own_reward.raise_failed()
    return mdp
