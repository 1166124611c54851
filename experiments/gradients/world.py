"""Tasks small enough that every string can be listed, for the gradient card, figures and tests.

An objective is built twice on such a task: on `exact`, whose rollouts are all strings weighted by
the policy, so that its expected gradient is a sum without sampling error, and on `sampled`, whose
rollouts are drawn as in training."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fdiv import divergences, exact
from fdiv import tokens as tk
from fdiv.checks import present
from fdiv.policies import tabular
from fdiv.rollout import sampler
from fdiv.types import (
    Components,
    Model,
    Pairs,
    Params,
    Policy,
    Regulariser,
    Sequences,
    TokenMDP,
    UsageError,
)

MOST_STRINGS = 4096
BETA = 0.5  # weight of the divergence from the reference
Score = Callable[[Sequences], jax.Array]  # whole strings -> their rewards, [N]


class World(NamedTuple):
    """An enumerated task and a policy in it."""

    space: exact.Space
    exact: Components  # rollouts by enumeration
    sampled: Components
    params: Params  # the policy's
    reference: Model | None

    @property
    def demos(self) -> Sequences:
        """All strings, weighted by the expert."""
        return _weighted(self.space, present(self.exact.mdp.expert, "expert"))


def build(
    space: exact.Space,
    policy: Policy,
    params: Params,
    expert: Model | None,
    *,
    reference: Model | None = None,
    score: Score | None = None,
    divergence: str = "reverse_kl",
    beta: float = BETA,
) -> World:
    """The task of an expert, of a reward with a reference to stay near, or of both.

    Demonstrations come from the expert, from the reference where there is none. With a reward and a
    reference there are comparisons: two strings of the reference, preferred by Bradley-Terry. In
    `exact`, held-out demonstrations and all comparisons are the population, by weight. Scorer and
    critic are tables over the whole prefix tree.
    """
    automaton = tabular.full(space.vocab, space.horizon)
    scorer = tabular.scorer(automaton, space.vocab)
    critic = tabular.scorer(automaton, space.vocab, 1)
    rollout, source = sampler(space.horizon, space.eos), present(expert or reference, "expert")

    def prompts(key: jax.Array, n: int) -> Sequences:
        return tk.empty_prompts(n)

    def draw(key: jax.Array, n: int) -> Sequences:
        return rollout(key, *source, tk.empty_prompts(n))[0]

    mdp = TokenMDP(space.vocab, space.horizon, space.eos, prompts, draw, draw, expert, score=score)
    if reference is not None:
        mdp = mdp._replace(regulariser=Regulariser(divergence, beta, reference))
    population = mdp
    if expert is not None:
        population = population._replace(held_out=lambda key, n: _weighted(space, expert))
    if reference is not None and score is not None:
        drawn = _drawn_comparisons(mdp, reference)
        mdp = mdp._replace(pairs=drawn, held_out_pairs=drawn)

        def every(key: jax.Array, n: int) -> Pairs:
            log_ref = exact.law(space, *reference).string
            return comparisons(space, log_ref, score(space.sequences))

        population = population._replace(pairs=every, held_out_pairs=every)
    by_enumeration = Components(
        policy, population, exact.enumerator(space), scorer, critic, enumerated=True
    )
    by_sampling = Components(policy, mdp, rollout, scorer, critic)
    return World(space, by_enumeration, by_sampling, params, reference)


def _weighted(space: exact.Space, model: Model) -> Sequences:
    return exact.weighted(space, exact.law(space, *model))


def _drawn_comparisons(mdp: TokenMDP, reference: Model) -> Callable[[jax.Array, int], Pairs]:
    """Two strings of the reference, the preferred one first."""
    rollout = sampler(mdp.horizon, mdp.eos)

    def draw(key: jax.Array, n: int) -> Pairs:
        keys = jax.random.split(key, 3)
        x, y = (rollout(k, *reference, tk.empty_prompts(n))[0] for k in keys[:2])
        chance = jax.nn.sigmoid(present(mdp.score, "score")(x) - present(mdp.score, "score")(y))
        first = jax.random.uniform(keys[2], (n,)) < chance

        def choose(a: jax.Array, b: jax.Array) -> jax.Array:
            return jnp.where(first.reshape(-1, *[1] * (a.ndim - 1)), a, b)

        return Pairs(jax.tree.map(choose, x, y), jax.tree.map(choose, y, x))

    return draw


def comparisons(space: exact.Space, log_ref: jax.Array, score: jax.Array) -> Pairs:
    """Every ordered pair of strings, weighted by the chance that two draws of the reference are
    these and that Bradley-Terry prefers the first:
    ref(x) ref(y) sigmoid(score(x) - score(y)), [N^2] rows."""
    first, second = (x.ravel() for x in np.indices((len(score), len(score))))
    chance = jax.nn.sigmoid(score[first] - score[second])
    return weighted_pairs(space, first, second, jnp.exp(log_ref[first] + log_ref[second]) * chance)


def weighted_pairs(
    space: exact.Space, first: np.ndarray, second: np.ndarray, weight: jax.Array
) -> Pairs:
    """Pairs of the space's strings by their row numbers, the first of each preferred."""
    tokens, mask = space.sequences.tokens, space.sequences.mask
    chosen, rejected = (Sequences(tokens[x], mask[x], weight) for x in (first, second))
    return Pairs(chosen, rejected)


def table_score(space: exact.Space, table: np.ndarray) -> Score:
    """The reward of a string as the sum of a table's entries along it: [states, V] over the prefix
    tree."""
    automaton = tabular.full(space.vocab, space.horizon)

    def score(x: Sequences) -> jax.Array:
        entries = tk.real(table)[tabular.read(automaton, x.tokens)]
        return tk.pick(entries, x.tokens, x.mask).sum(1)

    return score


# --- the task of the gradient card ----------------------------------------------------------------


def random_world(
    vocab: int, horizon: int, perturbation: float, seed: int, ending: bool = True
) -> World:
    """A random expert over the whole prefix tree of V symbols, the last of them EOS where strings
    may end before the horizon; a policy whose logits are the expert's plus noise; and a random
    reference. Raises `UsageError` if there are too many strings."""
    try:
        eos = vocab - 1 if ending else None
        space = exact.enumerate_strings(vocab, horizon, eos, MOST_STRINGS)
    except UsageError as error:
        raise UsageError(
            error.field, error.value, error.problem, f"{error.fix.partition(',')[0]}."
        ) from error
    automaton = tabular.full(vocab, horizon)
    policy, shape = tabular.policy(automaton, vocab), (automaton.states, vocab)
    draw = np.random.default_rng(seed)
    expert = Model(policy, draw.standard_normal(shape))
    params = jnp.asarray(expert.params + perturbation * draw.standard_normal(shape))
    reference = Model(policy, draw.standard_normal(shape))
    return build(space, policy, params, expert)._replace(reference=reference)


def rewarded(world: World, divergence: str) -> World:
    """The same task with the reward under which the expert is the optimum of
    E_q[r] - beta D_f(ref || q): r = -beta reward(log ref - log p)."""
    expert = present(world.exact.mdp.expert, "expert")
    reference = present(world.reference, "reference")
    d, vocab = divergences.parse(divergence), world.space.vocab

    def score(x: Sequences) -> jax.Array:
        log_ref, log_p = (tk.log_probs(*model, x, vocab).sum(1) for model in (reference, expert))
        return -BETA * d.reward(log_ref - log_p)

    task = {"reference": reference, "score": score, "divergence": d.name}
    return build(world.space, world.exact.policy, world.params, expert, **task)
