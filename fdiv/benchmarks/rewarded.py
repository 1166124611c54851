"""A small language with a reward: the optimum of E_pi[r] - beta D_f(ref||pi) is known exactly, and
is the expert.

The reference is the policy of a class nearest to the language in forward KL, as supervised training
would leave it; the reward is one of the language's statistics, or a table. Comparisons are
Bradley-Terry in r / temperature, the two strings drawn from the reference, a share of the labels
flipped. With `exact` labels each pair is seen both ways round, weighed by its probability. `spread`
makes people disagree more about some strings than others: the temperature of a comparison is
multiplied by e^{+-spread}, up where the two strings differ in their first token. Demonstrations may
slip as well."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from fdiv import divergences, exact, regularised
from fdiv.benchmarks import own_reward
from fdiv.benchmarks.markov import Markov
from fdiv.benchmarks.two_template import TwoTemplate
from fdiv.checks import present
from fdiv.policies import tabular
from fdiv.ranges import check_ranges, ranged, seed_field
from fdiv.rollout import demonstrations, sampler
from fdiv.types import Model, Pairs, Regulariser, Sequences, TokenMDP, UsageError

Labels = Literal["drawn", "exact"]


@dataclasses.dataclass(frozen=True)
class Rewarded:
    """A language with a reward, a reference policy and what leaving it costs."""

    base: TwoTemplate | Markov = dataclasses.field(default_factory=TwoTemplate)
    """The language."""
    reward: str = "valid"
    """A statistic of the language (two_template: valid, mode_b), table: standard normal for each
    string, or a function that an imported file adds (docs/rewards.md)."""
    table_seed: int = seed_field()
    """Which table."""
    beta: float = ranged(0.1, above=0)
    """Weight of the divergence from the reference."""
    divergence: str = "reverse_kl"
    """What leaving the reference costs, D_f(reference||policy): reverse_kl is
    KL(policy||reference)."""
    reference: Literal["independent", "markov", "full"] = "markov"
    """The reference: the policy of this class nearest to the language; full is the language
    itself."""
    labels: Labels = "drawn"
    """Comparisons: their labels drawn, or exact."""
    temperature: float = ranged(1.0, above=0)
    """Comparisons: P(x before y) = sigmoid((r(x) - r(y)) / temperature)."""
    flips: float = ranged(0.0, least=0, most=1)
    """Comparisons: share of labels that are turned round."""
    spread: float = ranged(0.0, least=0)
    """Comparisons: how much noisier those are whose strings begin differently, in logs."""
    slips: float = ranged(0.0, least=0, most=1)
    """Demonstrations: share that the reference wrote, in the expert's place."""

    def build(self) -> TokenMDP:
        """The task; its expert is the optimum. Raises `UsageError` where strings are too many, or a
        field cannot be."""
        self._check()
        try:
            base = self.base.build()
            exact.refuse_unless_enumerable(base.vocab, base.horizon, base.eos)
        except UsageError as error:  # there is no limit to raise here
            fix = error.fix.replace(", or raise the limit", "")
            raise UsageError(f"base.{error.field}", error.value, error.problem, fix) from error
        score = self._score(base)
        with jax.enable_x64(True):
            space = exact.enumerate_strings(base.vocab, base.horizon, base.eos)
            reference = self._reference(base, space)
            log_ref = exact.known_law(space, reference).string
            d = divergences.parse(self.divergence)
            best = regularised.optimum(
                d, jnp.asarray(score(space.sequences), float), log_ref, self.beta
            )
            table = tabular.written(space, np.asarray(best))
        full = tabular.policy(tabular.full(base.vocab, base.horizon), base.vocab)
        expert = Model(full, table)
        good, poor = (
            demonstrations(m, base.prompts, base.horizon, base.eos) for m in (expert, reference)
        )
        demos = self._slipped(good, poor) if self.slips else good
        pairs = self._pairs(base, reference, score)
        regulariser = Regulariser(d.name, self.beta, reference)
        statistics = {"reward": lambda x: score(x).astype(jnp.float32), **base.statistics}
        return base._replace(
            expert=expert,
            demos=demos,
            held_out=good,
            statistics=statistics,
            score=score,
            regulariser=regulariser,
            pairs=pairs,
            held_out_pairs=pairs,
        )

    def _check(self) -> None:
        check_ranges(self)
        regularised.refuse_unless_kept("divergence", divergences.parse(self.divergence))

    def _score(self, base: TokenMDP):
        if self.reward == "table":
            automaton = tabular.full(base.vocab, base.horizon)
            draw = np.random.default_rng(self.table_seed)
            table = draw.standard_normal((automaton.states, base.vocab)).astype(np.float32)
            return _of_last(automaton, table)
        if self.reward in own_reward.REWARDS:
            return _own(own_reward.known(self.reward), base)
        if self.reward not in base.statistics:
            choices = ", ".join([*base.statistics, "table", *own_reward.REWARDS])
            raise UsageError(
                "reward",
                self.reward,
                "is no statistic of this language.",
                f"Use one of {choices}.",
            )
        return base.statistics[self.reward]

    def _reference(self, base: TokenMDP, space: exact.Space) -> Model:
        automaton = tabular.AUTOMATA[self.reference](base.vocab, base.horizon)
        table = tabular.nearest(
            automaton, space, exact.known_law(space, present(base.expert, "expert"))
        )
        return Model(tabular.policy(automaton, base.vocab), table)

    def _slipped(self, good, poor):
        def demos(key: jax.Array, n: int) -> Sequences:
            slip_key, good_key, poor_key = jax.random.split(key, 3)
            slip = jax.random.bernoulli(slip_key, self.slips, (n,))
            choose = lambda a, b: jnp.where(slip.reshape(-1, *[1] * (a.ndim - 1)), a, b)
            return jax.tree.map(choose, poor(poor_key, n), good(good_key, n))

        return demos

    def _pairs(self, base: TokenMDP, reference: Model, score):
        rollout = sampler(base.horizon, base.eos)

        def pairs(key: jax.Array, n: int) -> Pairs:
            first_key, second_key, label_key = jax.random.split(key, 3)
            strings = n if self.labels == "drawn" else n // 2
            draw = lambda k: rollout(k, *reference, base.prompts(label_key, strings))[0]
            x, y = draw(first_key), draw(second_key)
            chance = self.preference(score(x), score(y), x.tokens[:, 0] != y.tokens[:, 0])
            if self.labels == "exact":
                both = lambda a, b, w: jax.tree.map(
                    lambda u, v: jnp.concatenate([u, v]), a, b
                )._replace(weight=w)
                weight = 2 * jnp.concatenate([chance, 1 - chance])
                return Pairs(both(x, y, weight), both(y, x, weight))
            first = jax.random.uniform(label_key, (n,)) < chance
            chosen = lambda a, b: jnp.where(first.reshape(-1, *[1] * (a.ndim - 1)), a, b)
            return Pairs(jax.tree.map(chosen, x, y), jax.tree.map(chosen, y, x))

        return pairs

    def preference(self, first, second, differ):
        """P(the first is preferred), from both rewards and whether the strings begin
        differently."""
        temperature = self.temperature * jnp.exp(jnp.where(differ, self.spread, -self.spread))
        chance = jax.nn.sigmoid((first - second) / temperature)
        return (1 - self.flips) * chance + self.flips * (1 - chance)


def _last(automaton: tabular.Automaton, x: Sequences) -> tuple[jax.Array, jax.Array]:
    """The last prefix of each string and the token behind it, which are of no other. [B] each"""
    last = x.mask.sum(1) - 1
    at = lambda values: jnp.take_along_axis(jnp.asarray(values), last[:, None], axis=1)[:, 0]
    return at(tabular.read(automaton, x.tokens)), at(x.tokens)


def _of_last(automaton: tabular.Automaton, table: np.ndarray):
    """A number for each string from a table [prefixes, V]."""

    def score(x: Sequences):
        """That of the last prefix and token, so one number for each string."""
        return jnp.asarray(table)[_last(automaton, x)]

    return score


def _own(reward: own_reward.Reward, base: TokenMDP):
    """A user's reward of every string, as a table."""
    automaton = tabular.full(base.vocab, base.horizon)
    strings = exact.enumerate_strings(base.vocab, base.horizon, base.eos).sequences
    spelled = lambda tokens, mask: " ".join(
        "end" if token == base.eos else str(token) for token in tokens[mask]
    )
    table = np.zeros((automaton.states, base.vocab), np.float32)
    table[tuple(map(np.asarray, _last(automaton, strings)))] = own_reward.tabled(
        reward, strings, spelled
    )
    return _of_last(automaton, table)
