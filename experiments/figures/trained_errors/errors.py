"""Errors that add up along a string of the two-template language, exactly, in two ways that share
no code.

`Errors` are running sums over the positions of a string. `enumerated` reads them off every string
and any policy's law; `walk` steps a chain, the expert's counts of tokens beside it, so that
strings may be of any length."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from experiments.figures.common.classes import EnumeratedTask, accumulated_kl
from fdiv import exact
from fdiv.benchmarks import TwoTemplate
from fdiv.divergences import parse
from fdiv.policies import tabular
from fdiv.types import Level, Params, Policy


class Errors(NamedTuple):
    """Sums over the first t positions, [seeds, T]; p is the expert, q the policy."""

    own: np.ndarray  # KL(p || q) of the next token, in nats, on the policy's prefixes
    expert: np.ndarray  # the same on the expert's prefixes
    reverse: np.ndarray  # KL(q || p) of the next token, in nats, on the policy's prefixes
    # Positions at which the policy's string is two misses or more away from either template.
    cost: np.ndarray


def enumerated(world: EnumeratedTask, policy: Policy, params: Params) -> tuple[Errors, Errors]:
    """Errors of every seed's policy, and at each one's last position what `exact.divergence` says
    they must be."""
    space, p, T = world.space, world.expert, world.space.horizon
    kl, reverse = parse("forward_kl"), parse("reverse_kl")
    misses = [np.cumsum(space.sequences.tokens != template, axis=1) for template in (0, 1)]
    off = (np.stack(misses) > 1).all(0)  # [N, T]

    def law(params: Params):
        q = exact.law(space, policy, params)
        levels = (Level.token_policy, Level.token_expert)
        own, expert = (T * exact.divergence(kl, space, p, q, level) for level in levels)
        return q, (own, expert, exact.divergence(reverse, space, p, q))

    laws, ends = jax.jit(jax.vmap(law))(_double(params))
    rows = []
    for seed in range(len(laws.string)):
        q = jax.tree.map(lambda x, seed=seed: x[seed], laws)
        each = reverse.perspective(p.conditional, q.conditional).sum(-1)
        backward = np.bincount(space.state_at[1], np.exp(q.arrival) * each).cumsum()
        costs = np.cumsum(np.exp(q.string) @ off)
        own, expert = (accumulated_kl(world, q, x.arrival) for x in (q, p))
        rows.append((own, expert, backward, costs))
    errors = Errors(*(np.stack(x) for x in zip(*rows)))
    # pyrefly: ignore[bad-argument-count]
    return errors, Errors(*map(np.asarray, ends), errors.cost[:, -1])


def table(policy: Policy, params: Params, vocab: int, order: int) -> np.ndarray:
    """The chain that a policy seeing `order` tokens back is: [seeds, states, V], states as
    `tabular.markov` numbers them."""
    space = exact.enumerate_strings(vocab, order + 1, None)
    chain = tabular.markov(vocab, order + 1, order)
    reached = np.asarray(tabular.read(chain, space.sequences.tokens))[space.state_at]
    laws = jax.jit(jax.vmap(lambda x: exact.law(space, policy, x).conditional))(_double(params))
    rows = np.full((len(laws), chain.states, vocab), 1 / vocab)  # uniform where no prefix leads
    rows[:, reached] = np.exp(laws)
    return rows


def _double(params: Params) -> Params:
    return jax.tree.map(lambda x: np.asarray(x, np.float64), params)


class Walk(NamedTuple):
    """A chain's errors, and what the expert says in each of its states."""

    errors: Errors
    # [2, seeds, states, V] sum of p(. | prefix) over the policy's (0) and the expert's (1) prefixes
    mean: np.ndarray
    log_mean: np.ndarray  # the same of log p(. | prefix)
    expert_cost: np.ndarray  # [T] the cost of the expert's own strings


def walk(language: TwoTemplate, tables: np.ndarray, length: int) -> Walk:
    """By dynamic programming over (how many 0s, how many 1s, the chain's state): strings of any
    length."""
    zeros, ones = np.indices((length + 1, length + 1))
    p = expert_law(language, zeros, ones)  # [zeros, ones, V]
    seeds, states, vocab = tables.shape
    follow = np.zeros((vocab, states, states))
    for v, state in np.ndindex(vocab, states):
        follow[v, state, (state * (vocab + 1) + v + 1) % states] = 1
    log_p, log_q = np.log(p), np.log(tables)
    forward = np.sum(p * log_p, -1)[None, ..., None] - np.einsum("ijv,lsv->lijs", p, log_q)
    reverse = np.sum(tables * log_q, -1)[:, None, None] - np.einsum("lsv,ijv->lijs", tables, log_p)
    laws = (tables[:, None, None], p[None, :, :, None])
    mass = [np.zeros((seeds, length + 1, length + 1, states)) for _ in laws]
    mass[0][:, 0, 0, 0] = mass[1][:, 0, 0, 0] = 1
    steps, visits = [], np.zeros((2, seeds, length + 1, length + 1, states))
    for t in range(1, length + 1):
        visits += mass
        own, expert = ((m * forward).sum((1, 2, 3)) for m in mass)
        backward = (mass[0] * reverse).sum((1, 2, 3))
        mass = [_move(m, law, follow) for m, law in zip(mass, laws)]
        off = (t - zeros > 1) & (t - ones > 1)
        steps.append([own, expert, backward, *(m[:, off].sum((1, 2)) for m in mass)])
    *sums, costs = np.cumsum(steps, axis=0).transpose(1, 2, 0)
    mean, log_mean = (np.einsum("wlijs,ijv->wlsv", visits, x) for x in (p, log_p))
    return Walk(Errors(*sums), mean, log_mean, costs[0])


def _move(mass: np.ndarray, law: np.ndarray, follow: np.ndarray) -> np.ndarray:
    """One token further: mass [seeds, zeros, ones, states]. Mass never reaches the far edge before
    the last step."""
    arrived = np.zeros_like(mass)
    for v, step in enumerate(follow):
        part = (mass * law[..., v]) @ step
        if v == 0:
            arrived[:, 1:] += part[:, :-1]
        elif v == 1:
            arrived[:, :, 1:] += part[:, :, :-1]
        else:
            arrived += part
    return arrived


def expert_law(language: TwoTemplate, zeros: np.ndarray, ones: np.ndarray) -> np.ndarray:
    """The expert's next token after so many 0s and 1s in any order, [..., V]: other tokens tell the
    templates not apart."""
    stray = language.noise / (language.vocab - 1)
    prior = np.log(language.weight / (1 - language.weight))
    odds = prior + (zeros - ones) * np.log((1 - language.noise) / stray)
    first = 1 / (1 + np.exp(-odds))[..., None]
    emission = np.full((2, language.vocab), stray)
    emission[[0, 1], [0, 1]] = 1 - language.noise
    return first * emission[0] + (1 - first) * emission[1]


def closed_form(language: TwoTemplate, order: int) -> np.ndarray:
    """Forward KL's best chain in closed form, [1, states, V]: the expert, were the last `order`
    tokens all it has read.

    Given the template tokens are independent, so any window of a string has the law of its first
    tokens. The fit is therefore the same at every length."""
    base = language.vocab + 1
    digits = np.arange(base**order)[:, None] // base ** np.arange(order) % base
    return expert_law(language, (digits == 1).sum(1), (digits == 2).sum(1))[None]
