"""Tabular policy classes against a known expert: what a policy measures, and the best of each class
for each divergence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jax import Array

from experiments.evaluation.class_optimum import STANDARD
from fdiv import exact
from fdiv.checks import present
from fdiv.divergences import parse
from fdiv.policies import tabular
from fdiv.types import Params, Policy, TokenMDP

# Total variation last: it starts where the others end.
SEARCHED = sorted(STANDARD, key=lambda name: name == "tv")
RESEARCHED = 1e-6  # a search that another's end beats by more starts again from there

Table = dict[str, dict[str, float]]  # divergence minimised -> measure -> value


class EnumeratedTask(NamedTuple):
    """A task, its strings and its expert's law, in double precision: to be made and used under
    `enable_x64`."""

    mdp: TokenMDP
    space: exact.Space
    expert: exact.Law

    def automaton(self, name: str) -> tabular.Automaton:
        """A policy class, by name."""
        return tabular.AUTOMATA[name](self.mdp.vocab, self.mdp.horizon)

    def policy(self, name: str) -> Policy:
        """The policies of a class."""
        return tabular.policy(self.automaton(name), self.mdp.vocab)

    def states(self, name: str) -> np.ndarray:
        """Which row of a class's table writes each token of each string, [N, T]."""
        return np.asarray(tabular.read(self.automaton(name), self.space.sequences.tokens))

    def law(self, name: str, params: Params) -> exact.Law:
        """What a policy of a class says of every string."""
        return exact.law(self.space, self.policy(name), params)

    def table(self) -> np.ndarray:
        """The expert's logits as a table of the full class."""
        rows = np.zeros((self.automaton("full").states, self.mdp.vocab))
        rows[self.states("full")[self.space.state_at]] = np.asarray(self.expert.conditional)
        return rows

    def measure(self, q: exact.Law) -> dict[str, float]:
        """Sequence-level divergences from the expert, the task's statistics, entropy."""
        values = {d: exact.divergence(parse(d), self.space, self.expert, q) for d in STANDARD}
        for name, statistic in self.mdp.statistics.items():
            values[name] = exact.expectation(q, statistic(self.space.sequences))
        values["entropy"] = exact.entropy(q)
        return {name: float(value) for name, value in values.items()}


def enumerated(mdp: TokenMDP) -> EnumeratedTask:
    """Every string of a task. Raises `UsageError` if there are too many."""
    space = exact.enumerate_strings(mdp.vocab, mdp.horizon, mdp.eos)
    return EnumeratedTask(mdp, space, exact.law(space, *present(mdp.expert, "expert")))


def optima(
    w: EnumeratedTask, name: str, smaller: Mapping[str, Params]
) -> tuple[dict[str, Params], Table]:
    """The best of a class for each divergence and what it measures, searched from random policies
    and from `smaller`.

    The full class holds the expert: nothing is searched there.
    """
    if name == "full":
        tables = dict.fromkeys(STANDARD, projection(w, name))
        return tables, {d: w.measure(w.law(name, table)) for d, table in tables.items()}
    policy, tables, measures = w.policy(name), {}, {}
    family = {d: parse(d) for d in STANDARD}
    of_class = exact.ClassSearch(family, w.space, present(w.mdp.expert, "expert"), policy)

    def search(d: str, starts: Sequence[Params]) -> None:
        tables[d] = of_class.best(d, starts, iterations=500 if d == "tv" else 5000).params
        measures[d] = w.measure(w.law(name, tables[d]))

    for d in SEARCHED:
        nearest = sorted(measures, key=lambda other, d=d: measures[other][d])[:2]
        ends = [tables[other] for other in nearest]
        starts = ends if d == "tv" else exact.random_starts(policy, 6)
        search(d, starts + ([smaller[d]] if d in smaller else []))
    for d in STANDARD:
        rival = min(STANDARD, key=lambda other, d=d: measures[other][d])
        if measures[rival][d] < measures[d][d] - RESEARCHED:
            search(d, [tables[rival], tables[d]])
    return tables, measures


def embed(w: EnumeratedTask, small: str, large: str, table: Params) -> np.ndarray:
    """The same policy as a table of a larger class: the row of each state is that of the smaller
    class's state."""
    wide = np.zeros((w.automaton(large).states, w.mdp.vocab))
    wide[w.states(large)] = np.asarray(table)[w.states(small)]
    return wide


def projection(w: EnumeratedTask, name: str) -> np.ndarray:
    """Forward KL's optimum in closed form, as logits."""
    return tabular.nearest(w.automaton(name), w.space, w.expert)


def accumulated_kl(w: EnumeratedTask, q: exact.Law, arrival: Array) -> np.ndarray:
    """Sum over the first t positions of E_prefix KL(p(.|prefix) || q(.|prefix)), prefixes from the
    law of `arrival`. [T]"""
    each = parse("forward_kl").perspective(w.expert.conditional, q.conditional).sum(-1)
    return np.bincount(w.space.state_at[1], np.exp(arrival) * each).cumsum()
