"""Students of every divergence, number of demonstrations, seed and learning rate, in one program
for each source.

A run is (how many demonstrations N, seed, learning rate). Each run trains one student per
divergence, one after the other: the divergence's index is traced but the same on all runs, so that
only the one that it names is computed. A seed has the same start and the same demonstrations
everywhere: fewer are the first of more, and batches are drawn from them with replacement."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.special import log_softmax

from experiments import devices
from experiments.figures.common import students as shared
from fdiv import divergences, exact
from fdiv.checks import present
from fdiv.discriminator import discriminator
from fdiv.objectives.adversarial import adversarial
from fdiv.objectives.distill import distill
from fdiv.objectives.max_likelihood import max_likelihood
from fdiv.policies.tabular import Automaton
from fdiv.rollout import tempered
from fdiv.types import (
    Components,
    Divergence,
    LearnerState,
    Level,
    Objective,
    Params,
    Policy,
    Sequences,
)

WARMUP = 50  # updates in which only a discriminator learns
CRITIC_RATE = 0.05


class Plan(NamedTuple):
    """What all students of a study have in common."""

    components: Components
    automaton: Automaton  # the policy's
    space: exact.Space
    names: tuple[str, ...]  # the divergences measured, and trained on by their index
    demos: tuple[int, ...]
    rates: tuple[float, ...]  # the first with every `demos`, the others with the last of them
    seeds: int
    updates: int
    batch: int
    points: int  # of training at which everything is measured, after the start
    temperatures: tuple[float, ...]


class Source(NamedTuple):
    """What a student learns from: its objective for a divergence, and the level of what it
    minimises."""

    objective: Callable[[Components, Divergence], Objective]
    level: Level


def _adversarial(components: Components, d: Divergence) -> Objective:
    mdp = components.mdp
    critic = discriminator(
        present(components.scorer, "scorer"),
        d,
        components.optimiser,
        horizon=mdp.horizon,
        vocab=mdp.vocab,
        eos=mdp.eos,
        level=Level.sequence,
        training="logistic",
        structured=False,
        learning_rate=CRITIC_RATE,
        steps=1,
        gradient_penalty=0.0,
    )
    return adversarial(components, critic, d, warmup=WARMUP)


SOURCES = {
    "sft": Source(
        lambda components, d: max_likelihood(components.policy, components.mdp.vocab),
        Level.sequence,
    ),
    "adversarial": Source(_adversarial, Level.sequence),
    "distill": Source(distill, Level.token_expert),
}


def of_index(names: Sequence[str], kind: Array) -> Divergence:
    """The divergence of that index: under `jax.lax.map` only it is computed, under `jax.vmap` all
    of them are."""
    family = [divergences.parse(name) for name in names]

    def switch(function: str) -> Callable[..., Array]:
        branches = [getattr(d, function) for d in family]
        return lambda *x: jax.lax.switch(kind, branches, *x)

    return Divergence("of index", switch("perspective"), switch("witness"), switch("reward"))


def seed_key(seed: int | Array) -> Array:
    """Where the randomness of a seed starts."""
    return jax.random.fold_in(jax.random.key(0), seed)


def student(
    plan: Plan, source: Source, rows: Sequences, kind: Array, count: Array, seed: Array, rate: Array
) -> dict[str, Array]:
    """Learns from the first `count` of a seed's demonstrations, rows [seeds, N, ...]; everything
    about it may be traced.

    Every measure [1 + points], `gradient_norm` [updates], `params`, and `tempered/MEASURE`
    [temperatures]."""
    components, key = plan.components, seed_key(seed)
    start_key, run_key, data_key = (jax.random.fold_in(key, i) for i in range(3))
    d = of_index(plan.names, kind)
    training = shared.adam(source.objective(components, d), rate, plan.updates)
    measure = _measure(plan, source, d)

    def batches(step: Array) -> Sequences:
        row = jax.random.randint(jax.random.fold_in(data_key, step), (plan.batch,), 0, count)
        return jax.tree.map(lambda x: jnp.asarray(x)[seed, row], rows)

    def stretch(state: LearnerState, _: None):
        length = plan.updates // plan.points
        state, metrics = shared.advance(training, state, batches, length)
        return state, (metrics["gradient_norm"], state.params)

    first = components.policy.init(start_key)
    start = training.init(run_key, first)
    state, (norms, later) = jax.lax.scan(stretch, start, None, length=plan.points)
    heat = jnp.array([1.0] * (1 + plan.points) + list(plan.temperatures))
    tables = jnp.concatenate([first[None], later, *[state.params[None]] * len(plan.temperatures)])
    each = jax.lax.map(lambda x: measure(tempered(components.policy, x[0]), x[1]), (heat, tables))
    trained = {name: x[: 1 + plan.points] for name, x in each.items()}
    trained |= {f"tempered/{name}": x[1 + plan.points :] for name, x in each.items()}
    return trained | {"gradient_norm": norms.reshape(-1), "params": state.params}


def _measure(plan: Plan, source: Source, d: Divergence) -> Callable[..., dict[str, Array]]:
    """Every divergence of whole strings, what the student minimises (`own`), the task's statistics
    and entropy, exactly."""
    mdp, space = plan.components.mdp, plan.space
    p = exact.law(space, *present(mdp.expert, "expert"))

    def measure(policy: Policy, params: Params) -> dict[str, Array]:
        q = exact.law(space, policy, params)
        measures = {
            name: exact.divergence(divergences.parse(name), space, p, q) for name in plan.names
        }
        for name, statistic in mdp.statistics.items():
            measures[name] = exact.expectation(q, statistic(space.sequences))
        measures["own"] = exact.divergence(d, space, p, q, source.level)
        return measures | {"entropy": exact.entropy(q)}

    return measure


# --- all of a source, side by side ----------------------------------------------------------------


class Students(NamedTuple):
    """All students of a source: what `student` returns, [divergences, runs, ...], runs in the
    order of `settings`."""

    plan: Plan
    source: str
    names: tuple[str, ...]  # the divergence that each row minimises
    best: list[exact.Optimum]  # of the class, for each of them
    measures: dict[str, np.ndarray]

    @property
    def gap(self) -> np.ndarray:
        """What is left to the best of the class, per string; inf if it is not a number.

        Over f''(1), the unit in which all f agree near p = q; the token level, a mean over
        positions, is summed over them."""
        of_tokens = SOURCES[self.source].level == Level.token_expert
        per_string = self.plan.components.mdp.horizon if of_tokens else 1
        left = [
            (x - best.value) / curvature(name)
            for name, best, x in zip(self.names, self.best, self.measures["own"])
        ]
        return np.nan_to_num(per_string * np.array(left, float), nan=np.inf, posinf=np.inf)

    def by_demos(self, x: np.ndarray) -> np.ndarray:
        """[divergences, runs, ...] -> [divergences, numbers of demonstrations, seeds, ...], at the
        first rate."""
        return self._grouped(x[:, : len(self.plan.demos) * self.plan.seeds])

    def by_rate(self, x: np.ndarray) -> np.ndarray:
        """[divergences, runs, ...] -> [divergences, rates, seeds, ...], with the most
        demonstrations."""
        return self._grouped(x[:, (len(self.plan.demos) - 1) * self.plan.seeds :])

    def _grouped(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), -1, self.plan.seeds, *x.shape[2:])


def curvature(name: str) -> float:
    """f''(1), by which D_f is f''(1) / 2 of chi-square near p = q."""
    return float(jax.grad(divergences.parse(name).reward)(0.0))


def settings(plan: Plan) -> list[tuple[int, int, float]]:
    """(demonstrations, seed, rate) of each run."""
    pairs = [(n, plan.rates[0]) for n in plan.demos]
    pairs += [(plan.demos[-1], rate) for rate in plan.rates[1:]]
    return [(n, seed, rate) for (n, rate), seed in itertools.product(pairs, range(plan.seeds))]


def demonstrations(plan: Plan) -> Sequences:
    """Each seed's demonstrations, [seeds, the most, ...]."""

    def draw(seed: Array) -> Sequences:
        key = jax.random.fold_in(seed_key(seed), 3)
        return plan.components.mdp.demos(key, plan.demos[-1])

    return jax.device_get(jax.jit(jax.vmap(draw))(jnp.arange(plan.seeds)))


def train(plan: Plan, source: str, rows: Sequences, kinds: Sequence[int], starts: int) -> Students:
    """A source's students of the divergences of those indices, their runs spread over the devices,
    and the class's best."""
    count, seed, rate = (np.array(column) for column in zip(*settings(plan)))
    layout = devices.lay_out(len(count), devices.Devices())
    cells = layout.put((count.astype(np.int32), seed.astype(np.int32), rate.astype(np.float32)))

    def train_cell(cell, rows):
        one = lambda kind: student(plan, SOURCES[source], rows, kind, *cell)
        return jax.lax.map(one, jnp.array(kinds))

    program, _ = layout.compile(train_cell, cells, rows, shared=(1,))
    measures = {name: x.swapaxes(0, 1) for name, x in layout.host(program(cells, rows)).items()}
    names = tuple(plan.names[kind] for kind in kinds)
    ahead = np.nan_to_num(measures["own"][..., -1], nan=np.inf).argmin(1)
    tables = [table[i] for table, i in zip(measures["params"], ahead)]
    best = [_best(plan, source, name, starts, table) for name, table in zip(names, tables)]
    return Students(plan, source, names, best, measures)


def _best(plan: Plan, source: str, name: str, starts: int, table: np.ndarray) -> exact.Optimum:
    """The best of the class at a source's level, by L-BFGS from random policies and from the
    student that came nearest.

    The student is needed: at alpha = -1 no random start has led to the optimum.
    """
    mdp, policy = plan.components.mdp, plan.components.policy
    initial = [*exact.random_starts(policy, starts), table]
    d, level = divergences.parse(name), SOURCES[source].level
    return exact.best_in_class(d, plan.space, present(mdp.expert, "expert"), policy, initial, level)


def string_log_probs(plan: Plan, tables: np.ndarray) -> np.ndarray:
    """log q of every string in double precision, read off tables [..., states, V] token by token.
    [..., strings]"""
    logs = log_softmax(np.asarray(tables, float), axis=-1)
    tokens = np.asarray(plan.space.sequences.tokens)
    state, total = np.zeros(len(tokens), int), np.zeros((*logs.shape[:-2], len(tokens)))
    for token in tokens.T:
        total += logs[..., state, token]
        # pyrefly: ignore[bad-argument-type]
        state = np.asarray(plan.automaton.advance(state, token))
    return total
