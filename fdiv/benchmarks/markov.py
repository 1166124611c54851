"""A random Markov chain over V tokens with an EOS: strings of variable length, expert known.

The expert is a `markov` table of the chosen order. Each row is (1 - h) Dirichlet(concentration)
over the V tokens and h on EOS, the hazard h drawn per row with mean 1 / (1 + mean_length). Strings
that reach the horizon are cut there."""

from __future__ import annotations

import dataclasses

import numpy as np

from fdiv import tokens as tk
from fdiv.policies import tabular
from fdiv.ranges import LONGEST, MOST_SYMBOLS, check_ranges, ranged, seed_field
from fdiv.rollout import demonstrations
from fdiv.types import Model, TokenMDP, UsageError

MOST_DRAWN = 1 << 23  # numbers of a chain, each of which is drawn


@dataclasses.dataclass(frozen=True)
class Markov:
    """A random chain of a known order, with an end."""

    vocab: int = ranged(3, least=1, most=MOST_SYMBOLS)
    """Number of tokens V beside EOS, which is token V."""
    horizon: int = ranged(8, least=1, most=LONGEST)
    """Most actions in a string, EOS included."""
    order: int = ranged(2, least=0, most=LONGEST)
    """How many tokens back the expert looks."""
    concentration: float = ranged(0.5, least=1e-3)
    """Dirichlet concentration of the rows: small is peaked, large is uniform."""
    mean_length: float = ranged(5.0, least=1e-3, most=1e6)
    """Mean number of tokens before EOS, were there no horizon."""
    table_seed: int = seed_field()
    """Which chain."""

    def build(self) -> TokenMDP:
        """The task, its expert known exactly."""
        check_ranges(self)
        try:
            automaton = tabular.markov(self.vocab + 1, self.horizon, self.order)
            tabular.refuse_large(automaton, self.vocab + 1, MOST_DRAWN)
        except UsageError as error:
            fix = "Give a smaller one, or fewer symbols (vocab)."
            raise UsageError("order", self.order, error.problem, fix) from error
        expert = Model(tabular.policy(automaton, self.vocab + 1), self._table(automaton.states))
        prompts = lambda key, n: tk.empty_prompts(n)
        demos = demonstrations(expert, prompts, self.horizon, self.vocab)
        return TokenMDP(
            self.vocab + 1, self.horizon, self.vocab, prompts, demos, held_out=demos, expert=expert
        )

    def _table(self, states: int) -> np.ndarray:
        """log-probs [states, V + 1] in float64."""
        draw = np.random.default_rng(self.table_seed)
        rows = np.maximum(draw.dirichlet(np.full(self.vocab, self.concentration), states), 1e-4)
        rows /= rows.sum(1, keepdims=True)
        hazard = draw.beta(2.0, 2.0 * self.mean_length, (states, 1))
        hazard = np.clip(hazard, 1e-9, 1 - 1e-9)  # an extreme mean rounds to 0 or 1
        return np.log(np.concatenate([(1 - hazard) * rows, hazard], axis=1))
