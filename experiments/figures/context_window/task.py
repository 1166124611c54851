"""A chain expert seen through a window: the window MDP by recursion on tables, and the best
policies of a window at each level.

A table [S, V] gives the next token's law after each of S = (V + 1)^m contexts: the last m tokens as
digits, as `tabular.markov` counts them, so context s seen through a shorter window w is s mod (V +
1)^w. V counts EOS, and EOS is the last symbol. The recursions (`view`, `visits`) enumerate no
string, the rest does: what the two find can be laid side by side."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from scipy.special import entr, softmax

from experiments.figures.common.classes import EnumeratedTask
from fdiv import exact, metrics
from fdiv.checks import present
from fdiv.divergences import parse
from fdiv.policies import tabular
from fdiv.types import Level, Policy

LEVELS = {
    "token_expert": Level.token_expert,
    "token": Level.token_policy,
    "occupancy": Level.occupancy,
    "sequence": Level.sequence,
}
ALWAYS = ("forward_kl", "reverse_kl", "js", "tv")  # measured whatever is minimised
LEAST = 1e-290  # of a probability, so that its logarithm can start another search


def widen(table: np.ndarray, window: int) -> np.ndarray:
    """The same policy as a table over contexts of `window` tokens, no fewer than it has."""
    return table[np.arange((table.shape[1] + 1) ** window) % len(table)]


def visits(tables: np.ndarray, horizon: int) -> np.ndarray:
    """P(the string goes on and its context is s) at each position, [T, S]; `tables` is [S, V], or
    [T, S, V] with a clock."""
    each = np.broadcast_to(tables, (horizon, *tables.shape[-2:]))
    mass = [np.eye(tables.shape[-2])[0]]
    for t in range(horizon - 1):
        mass.append(next_contexts(mass[-1][:, None] * each[t]))
    return np.stack(mass)


def next_contexts(pairs: np.ndarray) -> np.ndarray:
    """The mass in each context after the tokens of `pairs` [S, V], EOS aside."""
    states, vocab = pairs.shape
    to = (np.arange(states)[:, None] * (vocab + 1) + np.arange(vocab - 1) + 1) % states
    return np.bincount(to.ravel(), pairs[:, :-1].ravel(), minlength=states)


def own_pairs(tables: np.ndarray, horizon: int) -> np.ndarray:
    """P(window, token) at each position of the strings that a table writes itself, [T, S, V]."""
    return visits(tables, horizon)[..., None] * tables


class WindowView(NamedTuple):
    """What a window sees of an expert, and the policy that behaviour cloning ends at in the window
    MDP."""

    # The expert's law of the next token given the window: [W, V], or [T, W, V] with a clock.
    table: np.ndarray
    pairs: np.ndarray  # P(window, token) at each position under the expert, [T, W, V]
    own: np.ndarray  # the same when the table writes the strings
    # I(next token; prefix | window) summed over positions: with a clock at each position, without
    # one at a random position, times the mean length.
    lost: float


Views = dict[int, dict[bool, WindowView]]  # window -> with a clock or without
Key = tuple[int, str, str]  # window, divergence, level
Tables = dict[Key, np.ndarray]  # the nearest table of a window, [W, V]
Metrics = dict[Key, dict[str, float]]


def view(expert: np.ndarray, window: int, horizon: int, clock: bool) -> WindowView:
    """With a clock the position is part of the window's state; without, all positions share a
    table."""
    vocab = expert.shape[1]
    wide = widen(expert, max(window, round(np.log(len(expert)) / np.log(vocab + 1))))
    states = (vocab + 1) ** window
    arrival = visits(wide, horizon)
    pairs = (arrival[..., None] * wide).reshape(horizon, -1, states, vocab).sum(1)
    counts = pairs if clock else pairs.sum(0)
    total = counts.sum(-1, keepdims=True)
    table = np.where(total > 0, counts / np.where(total > 0, total, 1.0), 1 / vocab)
    lost = np.sum(total * entr(table)) - np.sum(arrival[..., None] * entr(wide))
    return WindowView(table, pairs, own_pairs(table, horizon), float(lost))


def pairs_tv(pairs: np.ndarray, others: np.ndarray, clock: bool) -> float:
    """Total variation of two laws of (window, token) at a random position, ended strings in a state
    of their own.

    With a clock the position is part of the pair.
    """
    horizon = len(pairs)
    off = pairs - others if clock else (pairs - others).sum(0)
    ended = [1 - x.sum((1, 2)) for x in (pairs, others)]  # share of strings that have ended
    off_ended = ended[0] - ended[1] if clock else (ended[0] - ended[1]).sum(0)
    return float((np.abs(off).sum() + np.abs(off_ended).sum()) / 2 / horizon)


def string_log_probs(world: EnumeratedTask, table: np.ndarray, window: int) -> np.ndarray:
    """Log-prob of every string, token by token; the table may have a clock. [N]"""
    tokens, mask, _ = world.space.sequences
    vocab, horizon = world.mdp.vocab, world.mdp.horizon
    code = np.asarray(tabular.read(tabular.markov(vocab, horizon, window), tokens))
    rows = table[np.arange(horizon), code] if table.ndim == 3 else table[code]
    chance = np.take_along_axis(rows, np.maximum(tokens, 0)[..., None], 2)[..., 0]
    return np.where(mask, np.log(chance), 0.0).sum(1)


def optima(
    world: EnumeratedTask, names: tuple[str, ...], views: Views, order: int, starts: int
) -> Tables:
    """The nearest table of each window, in each divergence, at each level.

    From the range on the expert itself is in the class, and nothing is searched: 0 is reached at it
    alone."""
    tables: Tables = {}
    smaller: dict[tuple[str, str], np.ndarray] = {}
    for window, view in sorted(views.items()):
        if window >= order:
            smaller = {(name, level): view[False].table for name in names for level in LEVELS}
        else:
            smaller = _searched(world, names, window, starts, smaller)
        tables |= {(window, *key): table for key, table in smaller.items()}
    return tables


def _searched(
    world: EnumeratedTask,
    names: tuple[str, ...],
    window: int,
    starts: int,
    smaller: dict[tuple[str, str], np.ndarray],
) -> dict[tuple[str, str], np.ndarray]:
    """From random tables, from the ends of the levels before (the sequence level is last) and from
    the smaller window's."""
    policy, expert = _policy(world, window), present(world.mdp.expert, "expert")
    family = {name: parse(name) for name in names}
    searches = {
        level: exact.ClassSearch(family, world.space, expert, policy, kind)
        for level, kind in LEVELS.items()
    }
    nearest = {}
    for name in names:
        ends: list[np.ndarray] = []
        for level in LEVELS:
            before = [np.log(widen(smaller[name, level], window))] if smaller else []
            initial = [*exact.random_starts(policy, starts), *ends, *before]
            optimum = searches[level].best(name, initial)
            ends.append(optimum.params)
            nearest[name, level] = np.maximum(softmax(optimum.params, axis=1), LEAST)
    return nearest


def _policy(world: EnumeratedTask, window: int) -> Policy:
    automaton = tabular.markov(world.mdp.vocab, world.mdp.horizon, window)
    return tabular.policy(automaton, world.mdp.vocab)


def measure(world: EnumeratedTask, names: tuple[str, ...], tables: Tables, views: Views) -> Metrics:
    """Every exact metric of each table, and its KL to the strings of what the window MDP takes the
    expert for."""
    family = [parse(name) for name in dict.fromkeys((*names, *ALWAYS))]
    widest = max(views)
    policy = _policy(world, widest)

    def one(pair: tuple[jax.Array, jax.Array]) -> dict[str, jax.Array]:
        q, apparent = (exact.law(world.space, policy, logits) for logits in pair)
        of_q = metrics.exact_metrics(family, world.space, world.expert, q, world.mdp.statistics)
        to_apparent = exact.divergence(parse("reverse_kl"), world.space, apparent, q)
        return of_q | {"to_apparent": to_apparent}

    apparent = [views[window][False].table for window, *_ in tables]
    pairs = tuple(
        np.stack([np.log(widen(table, widest)) for table in each])
        for each in (tables.values(), apparent)
    )
    columns = jax.jit(lambda x: jax.lax.map(one, x))(pairs)
    columns = {name: np.asarray(x) for name, x in columns.items()}
    rows: Metrics = {}
    for i, (key, table) in enumerate(tables.items()):
        rows[key] = {name: float(x[i]) for name, x in columns.items()}
        expert = views[key[0]][False].pairs
        own = own_pairs(table, world.mdp.horizon)
        rows[key]["pairs_tv"] = pairs_tv(expert, own, False)
    return rows
