"""Students of every divergence, number of demonstrations, seed and learning rate, in one program
for each source.

A run is (how many demonstrations N, seed, learning rate). Each run trains one student per
divergence, one after the other: the divergence's index is traced but the same on all runs, so that
only the one that it names is computed. A seed has the same start and the same demonstrations
everywhere: fewer are the first of more, and batches are drawn from them with replacement."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import log_softmax

from experiments import devices
from experiments.figures.beyond_three.student import SOURCES, Course, seed_key, student
from fdiv import divergences, exact
from fdiv.types import Level, Sequences


class Students(NamedTuple):
    """All students of a source: what `student` returns, [divergences, runs, ...], runs in the
    order of `settings`."""

    course: Course
    source: str
    names: tuple[str, ...]  # the divergence that each row minimises
    best: list[exact.Optimum]  # of the class, for each of them
    found: dict[str, np.ndarray]

    @property
    def gap(self) -> np.ndarray:
        """What is left to the best of the class, per string; inf if it is not a number.

        Over f''(1), the unit in which all f agree near p = q; the token level, a mean over
        positions, is summed over them."""
        per_string = (
            self.course.components.mdp.horizon
            if SOURCES[self.source].level == Level.token_expert
            else 1
        )
        left = [
            (x - best.value) / curvature(name)
            for name, best, x in zip(self.names, self.best, self.found["own"])
        ]
        return np.nan_to_num(per_string * np.array(left, float), nan=np.inf, posinf=np.inf)

    def by_demos(self, x: np.ndarray) -> np.ndarray:
        """[divergences, runs, ...] -> [divergences, numbers of demonstrations, seeds, ...], at the
        first rate."""
        return self._grouped(x[:, : len(self.course.demos) * self.course.seeds])

    def by_rate(self, x: np.ndarray) -> np.ndarray:
        """[divergences, runs, ...] -> [divergences, rates, seeds, ...], with the most
        demonstrations."""
        return self._grouped(x[:, (len(self.course.demos) - 1) * self.course.seeds :])

    def _grouped(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), -1, self.course.seeds, *x.shape[2:])


def curvature(name: str) -> float:
    """f''(1), by which D_f is f''(1) / 2 of chi-square near p = q."""
    return float(jax.grad(divergences.parse(name).reward)(0.0))


def settings(course: Course) -> list[tuple[int, int, float]]:
    """(demonstrations, seed, rate) of each lane."""
    pairs = [(n, course.rates[0]) for n in course.demos] + [
        (course.demos[-1], rate) for rate in course.rates[1:]
    ]
    return [(n, seed, rate) for (n, rate), seed in itertools.product(pairs, range(course.seeds))]


def demonstrations(course: Course) -> Sequences:
    """Each seed's demonstrations, [seeds, the most, ...]."""
    draw = lambda seed: course.components.mdp.demos(
        jax.random.fold_in(seed_key(seed), 3), course.demos[-1]
    )
    return jax.device_get(jax.jit(jax.vmap(draw))(jnp.arange(course.seeds)))


def train(
    course: Course, source: str, rows: Sequences, kinds: Sequence[int], starts: int
) -> Students:
    """A source's students of the divergences of those indices, their runs spread over the devices,
    and the class's best."""
    count, seed, rate = (np.array(column) for column in zip(*settings(course)))
    layout = devices.lay_out(len(count), devices.Devices())
    cells = layout.put((count.astype(np.int32), seed.astype(np.int32), rate.astype(np.float32)))

    def train_state(cell, rows):
        return jax.lax.map(
            lambda kind: student(course, SOURCES[source], rows, kind, *cell), jnp.array(kinds)
        )

    program, _ = layout.compile(train_state, cells, rows, shared=(1,))
    found = {name: x.swapaxes(0, 1) for name, x in layout.host(program(cells, rows)).items()}
    names = tuple(course.names[kind] for kind in kinds)
    ahead = np.nan_to_num(found["own"][..., -1], nan=np.inf).argmin(1)
    tables = [table[i] for table, i in zip(found["params"], ahead)]
    best = [_best(course, source, name, starts, table) for name, table in zip(names, tables)]
    return Students(course, source, names, best, found)


def _best(course: Course, source: str, name: str, starts: int, table: np.ndarray) -> exact.Optimum:
    """The best of the class at a source's level, by L-BFGS from random policies and from the
    student that came nearest.

    The student is needed: at alpha = -1 no random start has led to the optimum.
    """
    _, level, prefixes = SOURCES[source]
    mdp, policy = course.components.mdp, course.components.policy
    initial = [*exact.random_starts(policy, starts), table]
    return exact.best_in_class(
        divergences.parse(name), course.space, mdp.expert, policy, initial, level, prefixes
    )


def string_log_probs(course: Course, tables: np.ndarray) -> np.ndarray:
    """log q of every string in double precision, read off tables [..., states, V] token by token.
    [..., strings]"""
    logs, tokens = (
        log_softmax(np.asarray(tables, float), axis=-1),
        np.asarray(course.space.sequences.tokens),
    )
    state, total = np.zeros(len(tokens), int), np.zeros((*logs.shape[:-2], len(tokens)))
    for token in tokens.T:
        total += logs[..., state, token]
        state = np.asarray(course.automaton.advance(state, token))
    return total
