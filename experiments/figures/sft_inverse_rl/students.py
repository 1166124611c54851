"""Methods trained on all their seeds at once, some way at a time, so that their policies are at
hand: for studies.

Every method has the same starts and is handed the same demonstrations, as in a head-to-head, at its
default hyperparameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.figures.common import classes, students
from experiments.figures.common.classes import EnumeratedTask
from fdiv import divergences, exact, metrics, objectives
from fdiv.checks import present
from fdiv.policies import tabular
from fdiv.rollout import sampler, tempered
from fdiv.types import Components

DIVERGENCES = ("forward_kl", "reverse_kl", "js")
DRAWS = 8  # sets of strings whose diversity is averaged, as one small set says little
HOTTEST, ROUNDS = 8.0, 40  # of the search for a temperature
STARTS = 6  # of the search for the best of a class
Measures = dict[str, np.ndarray]  # measure -> [seeds]


class Course(NamedTuple):
    """One method on S seeds, looked at after each of P numbers of updates."""

    params: np.ndarray  # [P, S, states, V], double precision
    loss: np.ndarray  # [P - 1, S] of the next minibatch, which the policy has not seen


class Student(NamedTuple):
    """A method's policies and the temperatures at which they are sampled."""

    params: np.ndarray  # [S, states, V]
    temperature: np.ndarray  # [S]


def components(world: EnumeratedTask, name: str) -> Components:
    """What the methods need for a policy class; the discriminator reads whole prefixes."""
    mdp = world.mdp
    scorer = tabular.scorer(tabular.full(mdp.vocab, mdp.horizon), mdp.vocab)
    return Components(world.policy(name), mdp, sampler(mdp.horizon, mdp.eos), scorer)


def course(
    components: Components, method: str, stops: Sequence[int], seeds: int, batch: int, rate: float
) -> Course:
    """Train by Adam with a cosine schedule up to the last of `stops`, in single precision."""
    objective = objectives.resolve(method).build(components)
    training = students.adam(objective, rate, stops[-1])

    def begin(key):
        start = components.policy.init(jax.random.fold_in(key, 0))
        return training.init(jax.random.fold_in(key, 1), start)

    def advance(state, key, count):
        data_key = jax.random.fold_in(key, 2)

        def batches(step):
            return components.mdp.demos(jax.random.fold_in(data_key, step), batch)

        return students.advance_by(training, state, batches, count)

    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    state = jax.jit(jax.vmap(begin))(keys)
    program = jax.jit(jax.vmap(advance, in_axes=(0, 0, None)))
    params, losses = [], []
    for count in np.diff([0, *stops]):
        state, first = program(state, keys, jnp.int32(count))
        params.append(np.asarray(state.params, np.float64))
        losses.append(np.asarray(first, np.float64))
    return Course(np.stack(params), np.stack(losses)[1:])


def evaluator(world: EnumeratedTask, name: str, samples: int) -> Callable[[Student], Measures]:
    """Exact measures of students of a class, to be called in double precision.

    `distinct_expected` is the mean share of distinct strings among `samples`, `distinct_variance` a
    bound on its variance."""

    def one(student):
        params, temperature = student
        q = exact.law(world.space, tempered(world.policy(name), temperature), params)
        measures = {
            d: exact.divergence(divergences.parse(d), world.space, world.expert, q)
            for d in DIVERGENCES
        }
        # The chance that a string is among the samples. One string's being there speaks against any
        # other's, so the variances add up to no less than the sum's.
        hit = -jnp.expm1(samples * jnp.log1p(-jnp.minimum(jnp.exp(q.string), 1 - 1e-15)))
        measures |= {
            "distinct_expected": hit.sum() / samples,
            "distinct_variance": jnp.sum(hit * (1 - hit)) / samples**2,
        }
        return measures | metrics.exact_metrics(
            [], world.space, world.expert, q, world.mdp.statistics
        )

    every = jax.jit(lambda students: jax.lax.map(one, students))
    return lambda student: {key: np.asarray(x) for key, x in every(student).items()}


def at_entropy(
    evaluate: Callable[[Student], Measures], params: np.ndarray, entropy: np.ndarray
) -> Student:
    """The same policies, each sampled at the temperature that gives it that entropy, [seeds]."""
    low, high = np.zeros(len(params)), np.full(len(params), HOTTEST)
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        above = evaluate(Student(params, middle))["entropy"] > entropy
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return Student(params, (low + high) / 2)


def diversity(components: Components, samples: int) -> Callable[[Student], Measures]:
    """Of that many strings drawn from each student: the share of distinct ones, and self-BLEU.
    Means over `DRAWS` sets."""
    prompts = components.mdp.prompts(jax.random.key(0), samples * DRAWS)
    length = components.mdp.horizon  # of every string: an n-gram of that length is a string

    @jax.jit
    @jax.vmap
    def sample(seed, student):
        policy = tempered(components.policy, student.temperature)
        return components.rollout(jax.random.key(seed), policy, student.params, prompts)[0]

    def measure(student: Student) -> Measures:
        single = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), student)
        strings = jax.tree.map(np.asarray, sample(jnp.arange(len(student.params)), single))
        sets = jax.tree.map(lambda x: x.reshape(-1, samples, *x.shape[2:]), strings)
        each = [jax.tree.map(lambda x, i=i: x[i], sets) for i in range(len(sets.tokens))]
        distinct = np.array([metrics.distinct_n(x, length) for x in each])
        self_bleu = np.array([metrics.self_bleu(x) for x in each])
        return {
            "distinct": distinct.reshape(-1, DRAWS).mean(1),
            "self_bleu": self_bleu.reshape(-1, DRAWS).mean(1),
        }

    return measure


def best(world: EnumeratedTask, name: str) -> Student:
    """The best of a class for each of `DIVERGENCES`, to be called in double precision: in closed
    form or searched.

    The full class holds the expert. Other searches also start from the best of the class before,
    and from reverse KL's."""
    closed, order = classes.projection(world, name), list(tabular.AUTOMATA)
    optima = dict.fromkeys(DIVERGENCES, closed)
    if name != "full":
        starts = [closed, *exact.random_starts(world.policy(name), STARTS)]
        if name != order[0]:
            before = order[order.index(name) - 1]
            smaller = best(world, before).params
            starts += [classes.embed(world, before, name, table) for table in smaller]
        policy, expert = world.policy(name), present(world.mdp.expert, "expert")
        family = {d: divergences.parse(d) for d in DIVERGENCES[1:]}
        search = exact.ClassSearch(family, world.space, expert, policy)
        for d in family:
            starts = [*starts, optima["reverse_kl"]]
            optima[d] = search.best(d, starts).params
    return Student(np.stack([optima[d] for d in DIVERGENCES]), np.ones(len(DIVERGENCES)))
