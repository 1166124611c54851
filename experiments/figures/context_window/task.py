"""A chain expert seen through a window: the window MDP by recursion on tables, and the best
policies of a window at each level.

A table [S, V] gives the next token's law after each of S = (V + 1)^m contexts: the last m tokens as
digits, as `tabular.markov` counts them, so context s seen through a shorter window w is s mod (V +
1)^w. V counts EOS, and EOS is the last symbol. The recursions (`seen`, `visits`) enumerate no
string, the rest does: what the two find can be laid side by side."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from scipy.special import entr, softmax

from experiments.figures.common.classes import World
from fdiv import exact, metrics
from fdiv.divergences import parse
from fdiv.policies import tabular
from fdiv.types import Level

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
        mass.append(moved(mass[-1][:, None] * each[t]))
    return np.stack(mass)


def moved(pairs: np.ndarray) -> np.ndarray:
    """The mass in each context after the tokens of `pairs` [S, V], EOS aside."""
    states, vocab = pairs.shape
    to = (np.arange(states)[:, None] * (vocab + 1) + np.arange(vocab - 1) + 1) % states
    return np.bincount(to.ravel(), pairs[:, :-1].ravel(), minlength=states)


def written(tables: np.ndarray, horizon: int) -> np.ndarray:
    """P(window, token) at each position of the strings that a table writes itself, [T, S, V]."""
    return visits(tables, horizon)[..., None] * tables


class Seen(NamedTuple):
    """What a window sees of an expert, and the policy that behaviour cloning ends at in the window
    MDP."""

    table: (
        np.ndarray
    )  # the expert's law of the next token given the window: [W, V], or [T, W, V] with a clock
    pairs: np.ndarray  # P(window, token) at each position under the expert, [T, W, V]
    own: np.ndarray  # the same when the table writes the strings
    # I(next token; prefix | window) summed over positions, of one position at random times the mean
    # length
    lost: float


def seen(expert: np.ndarray, window: int, horizon: int, clock: bool) -> Seen:
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
    return Seen(table, pairs, written(table, horizon), float(lost))


def apart(pairs: np.ndarray, others: np.ndarray, clock: bool) -> float:
    """Total variation of two laws of (window, token) at a random position, ended strings in a state
    of their own.

    With a clock the position is part of the pair.
    """
    horizon = len(pairs)
    ended = lambda x: 1 - x.sum((1, 2))
    over = (lambda x: x) if clock else (lambda x: x.sum(0))
    return float(
        sum(
            np.abs(over(a) - over(b)).sum()
            for a, b in ((pairs, others), (ended(pairs), ended(others)))
        )
        / 2
        / horizon
    )


def strings(world: World, table: np.ndarray, window: int) -> np.ndarray:
    """Log-prob of every string, token by token; the table may have a clock. [N]"""
    tokens, mask, _ = world.space.sequences
    code = np.asarray(
        tabular.read(tabular.markov(world.mdp.vocab, world.mdp.horizon, window), tokens)
    )
    rows = table[np.arange(world.mdp.horizon), code] if table.ndim == 3 else table[code]
    chosen = np.take_along_axis(rows, np.maximum(tokens, 0)[..., None], 2)[..., 0]
    return np.where(mask, np.log(chosen), 0.0).sum(1)


def best(world: World, names: tuple[str, ...], views: dict, order: int, starts: int) -> dict:
    """(window, divergence, level) -> the nearest table of that window, [W, V].

    From the range on the expert itself is in the class, and nothing is searched: 0 is reached at it
    alone."""
    tables: dict = {}
    smaller: dict = {}
    for window, view in sorted(views.items()):
        expert = dict.fromkeys(
            ((name, level) for name in names for level in LEVELS), view[False].table
        )
        smaller = expert if window >= order else _searched(world, names, window, starts, smaller)
        tables |= {(window, *key): table for key, table in smaller.items()}
    return tables


def _searched(
    world: World, names: tuple[str, ...], window: int, starts: int, smaller: dict
) -> dict:
    """From random tables, from the ends of the levels before (the sequence level is last) and from
    the smaller window's."""
    policy = tabular.policy(
        tabular.markov(world.mdp.vocab, world.mdp.horizon, window), world.mdp.vocab
    )
    found: dict = {}
    for name in names:
        ends: list[np.ndarray] = []
        for level, kind in LEVELS.items():
            before = [np.log(widen(smaller[name, level], window))] if smaller else []
            initial = [*exact.random_starts(policy, starts), *ends, *before]
            optimum = exact.best_in_class(
                parse(name), world.space, world.mdp.expert, policy, initial, kind
            )
            ends.append(optimum.params)
            found[name, level] = np.maximum(softmax(optimum.params, axis=1), LEAST)
    return found


def measured(world: World, names: tuple[str, ...], tables: dict, views: dict) -> dict:
    """Every exact metric of each table, and its KL to the strings of what the window MDP takes the
    expert for."""
    family = [parse(name) for name in dict.fromkeys((*names, *ALWAYS))]
    widest = max(views)
    policy = tabular.policy(
        tabular.markov(world.mdp.vocab, world.mdp.horizon, widest), world.mdp.vocab
    )
    stack = lambda each: np.stack([np.log(widen(table, widest)) for table in each])

    def measure(pair):
        q, apparent = (exact.law(world.space, policy, logits) for logits in pair)
        found = metrics.exact_metrics(family, world.space, world.expert, q, world.mdp.statistics)
        return found | {
            "to_apparent": exact.divergence(parse("reverse_kl"), world.space, apparent, q)
        }

    pairs = stack(tables.values()), stack(views[window][False].table for window, *_ in tables)
    found = {
        name: np.asarray(x) for name, x in jax.jit(lambda x: jax.lax.map(measure, x))(pairs).items()
    }
    away = lambda window, table: apart(
        views[window][False].pairs, written(table, world.mdp.horizon), False
    )
    rows = [{name: float(x[i]) for name, x in found.items()} for i in range(len(tables))]
    return {
        key: row | {"pairs_tv": away(key[0], table)}
        for row, (key, table) in zip(rows, tables.items())
    }
