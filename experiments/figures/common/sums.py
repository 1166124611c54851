"""Sums with every right way to write them as strings: what a policy of any class gives each way is
exact, and so is its chance of a right answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from experiments.figures.common import students
from fdiv import tokens as tk
from fdiv.benchmarks.arithmetic import Arithmetic, held_out
from fdiv.benchmarks.sums import EOS, VOCAB, Sums, asked, ways
from fdiv.episodes import GROUP
from fdiv.objectives.grpo import grpo
from fdiv.objectives.max_likelihood import max_likelihood
from fdiv.penalties import Penalty
from fdiv.policies import Architecture
from fdiv.rollout import sampler_of
from fdiv.types import Components, LearnerState, Params, Policy, Sequences

TERMS, LARGEST, SHARE = 3, 7, 0.25  # numbers of a sum, their largest, share of sums held out
RATE, TUNED, BATCH = 3e-3, 1e-3, 32  # of the base and after it; sums of an update
FORWARD = 1e-6  # settings up to here are forward KL


class Answered(NamedTuple):
    """N sums and the K ways of each, [N * K] strings; a way that is written as an earlier one is
    not `own`."""

    strings: Sequences
    own: np.ndarray  # [N, K]


class World(NamedTuple):
    """A policy class, and sums that are trained on and not."""

    policy: Policy
    trained: Answered
    others: Answered


def world(width: int, layers: int) -> World:
    """Transformers of that size over all sums."""
    sums = Sums.of(TERMS, LARGEST, True)
    numbers = np.stack(np.meshgrid(*[np.arange(LARGEST + 1)] * TERMS), -1).reshape(-1, TERMS)
    side = np.asarray(held_out(jnp.asarray(numbers), SHARE))
    trained, others = (answered(jnp.asarray(numbers[side == held]), sums) for held in (False, True))
    shape = Architecture("transformer", layers=layers, width=width, heads=4, kv_heads=4)
    return World(shape.policy(VOCAB, trained.strings.tokens.shape[1]), trained, others)


def answered(numbers: Array, sums: Sums) -> Answered:
    """Sums of numbers [N, terms] with all of their ways."""
    every = np.asarray(ways(numbers, sums))
    count = every.shape[1]
    prompts = jax.tree.map(lambda x: jnp.repeat(x, count, axis=0), asked(numbers, sums))
    strings = tk.append(prompts, jnp.asarray(every.reshape(-1, every.shape[-1])), EOS)
    same = (every[:, :, None] == every[:, None]).all(-1)
    own = ~np.tril(same, -1).any(-1)
    return Answered(jax.tree.map(np.asarray, strings), own)


def log_ways(policy: Policy, params: Params, x: Answered) -> Array:
    """log q(way | sum), -inf for one that is another's, [N, K]."""
    each = tk.log_probs(policy, params, x.strings, VOCAB).sum(1)
    return jnp.where(x.own, each.reshape(x.own.shape), -jnp.inf)


def base(of: World, updates: int) -> Params:
    """Half-trained by likelihood, all ways of a sum as likely."""
    objective = max_likelihood(of.policy, VOCAB)
    training = students.adam(objective, RATE, updates)
    params = of.policy.init(jax.random.key(0))
    weight = jnp.asarray(of.trained.own / of.trained.own.sum(1, keepdims=True), jnp.float32)
    every = jax.tree.map(jnp.asarray, of.trained.strings)._replace(weight=weight.ravel())
    count = of.trained.own.shape[1]

    def train(state: LearnerState, every: Sequences) -> Params:
        def batch(step: Array) -> Sequences:
            rows = _rows(step, len(of.trained.own), count)
            return jax.tree.map(lambda x: x[rows], every)

        return students.advance(training, state, batch, updates)[0].params

    return jax.jit(train)(training.init(jax.random.key(1), params), every)


def _rows(step: Array, sums: int, ways: int) -> Array:
    """All ways of some sums, another choice at each step."""
    chosen = jax.random.choice(jax.random.fold_in(jax.random.key(2), step), sums, (BATCH,), False)
    return (chosen[:, None] * ways + jnp.arange(ways)[None]).ravel()


def distance(log_p: Array, log_q: Array, a: Array) -> Array:
    """alpha-DPG's divergence at A = a of the law of right ways p to a policy, over the last axis;
    at 1 and above, minus the chance of a right answer, which is what RL without a penalty
    minimises. Ways of probability 0 are left out."""
    there = jnp.isfinite(log_p)
    log_p, log_q = (jnp.where(there, x, 0.0) for x in (log_p, log_q))
    total = lambda x: jnp.sum(jnp.where(there, x, 0.0), axis=-1)
    inside = jnp.clip(a, 0.5 * FORWARD, 1 - 1e-4)
    mixed = total(jnp.exp((1 - inside) * log_p + inside * log_q))
    alpha = (1 - mixed) / (inside * (1 - inside))
    forward = total(jnp.exp(log_p) * (log_p - log_q))
    return jnp.where(a >= 1, -total(jnp.exp(log_q)), jnp.where(a <= FORWARD, forward, alpha))


def tuned(of: World, start: Params, settings: list[float], updates: int) -> Params:
    """From the base to the law of what is right in it, given each sum, at each setting,
    [settings, ...]: exact gradients, sums drawn anew at each update."""
    log_base = jax.jit(lambda params, x: log_ways(of.policy, params, x))(start, of.trained)
    log_p = log_base - jax.nn.logsumexp(log_base, axis=1, keepdims=True)
    count = of.trained.own.shape[1]
    every = jax.tree.map(jnp.asarray, of.trained.strings)
    tx = optax.adam(optax.cosine_decay_schedule(TUNED, updates))

    def one(a: Array, log_p: Array, every: Sequences) -> Params:
        def step(state, i):
            params, opt = state
            rows = _rows(i, len(of.trained.own), count)
            strings = jax.tree.map(lambda x: x[rows], every)
            taught = log_p.ravel()[rows].reshape(-1, count)

            def loss(params: Params) -> Array:
                each = tk.log_probs(of.policy, params, strings, VOCAB).sum(1)
                return distance(taught, each.reshape(-1, count), a).mean()

            moves, opt = tx.update(jax.grad(loss)(params), opt, params)
            return (optax.apply_updates(params, moves), opt), None

        return jax.lax.scan(step, (start, tx.init(start)), jnp.arange(updates))[0][0]

    of_each = jax.jit(jax.vmap(one, (0, None, None)))
    return of_each(jnp.asarray(settings, jnp.float32), log_p, every)


def by_grpo(of: World, start: Params, betas: Sequence[float], updates: int) -> Params:
    """From the base by GRPO with each weight of the KL to it, [betas, ...]: answers are drawn,
    `GROUP` to a sum, and right or not."""
    mdp = Arithmetic(TERMS, LARGEST, True, SHARE).build()
    components = Components(of.policy, mdp, sampler_of(mdp))
    training = students.adam(grpo(components, Penalty()), TUNED, updates)
    batch = lambda step: mdp.demos(jax.random.fold_in(jax.random.key(4), step), BATCH * GROUP)

    def one(beta: Array) -> Params:
        state = training.init(jax.random.key(3), start)
        weight = state.aux.weight._replace(beta=beta)
        state = state._replace(aux=state.aux._replace(weight=weight))
        return students.advance(training, state, batch, updates)[0].params

    return jax.jit(lambda betas: jax.lax.map(one, betas))(jnp.asarray(betas, jnp.float32))


def judged(of: World, params: Params, x: Answered) -> np.ndarray:
    """log q(way | sum) of such sums, [policies, N, K]."""
    each = jax.jit(lambda params, x: jax.lax.map(lambda one: log_ways(of.policy, one, x), params))
    return np.asarray(each(params, x), np.float64)
