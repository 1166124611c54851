"""One student from start to finish, about which everything may be traced: `many_students` trains
them side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fdiv import divergences, exact
from fdiv.discriminator import discriminator
from fdiv.learner import learner
from fdiv.objectives.adversarial import adversarial
from fdiv.objectives.distill import distill
from fdiv.objectives.max_likelihood import max_likelihood
from fdiv.policies.tabular import Automaton
from fdiv.rollout import tempered
from fdiv.types import Components, Divergence, Level, Objective, Sequences

WARMUP = 50  # updates in which only a discriminator learns
CRITIC_RATE = 0.05


class Course(NamedTuple):
    """What all students of a study have in common."""

    components: Components
    automaton: Automaton  # the policy's
    space: exact.Space
    names: tuple[str, ...]  # the divergences measured, and trained on by their index
    demos: tuple[int, ...]
    rates: tuple[
        float, ...
    ]  # the first with every number of demonstrations, the others with the last
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
        components.scorer,
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


def chosen(names: Sequence[str], kind: Any) -> Divergence:
    """The divergence of that index: under `jax.lax.map` only it is computed, under `jax.vmap` all
    of them are."""
    family = [divergences.parse(name) for name in names]
    pick = lambda function: (
        lambda *x: jax.lax.switch(kind, [getattr(d, function) for d in family], *x)
    )
    return Divergence("chosen", pick("perspective"), pick("witness"), pick("reward"))


def seed_key(seed: Any) -> jax.Array:
    """Where the randomness of a seed starts."""
    return jax.random.fold_in(jax.random.key(0), seed)


def student(
    course: Course, source: Source, rows: Sequences, kind, count, seed, rate
) -> dict[str, Any]:
    """Learns from the first `count` of a seed's demonstrations, rows [seeds, N, ...].

    Every measure [1 + points], `gradient_norm` [updates], `params`, and `tempered/MEASURE`
    [temperatures]."""
    components, key = course.components, seed_key(seed)
    start_key, run_key, data_key = (jax.random.fold_in(key, i) for i in range(3))
    d = chosen(course.names, kind)
    made = learner(
        source.objective(components, d),
        optax.adam(optax.cosine_decay_schedule(rate, course.updates)),
    )
    measure = _judge(course, source, d)

    def update(state, _):
        row = jax.random.randint(
            jax.random.fold_in(data_key, state.step), (course.batch,), 0, count
        )
        state, metrics = made.update(state, jax.tree.map(lambda x: jnp.asarray(x)[seed, row], rows))
        return state, metrics["gradient_norm"]

    def stretch(state, _):
        state, norms = jax.lax.scan(update, state, None, length=course.updates // course.points)
        return state, (norms, state.params)

    first = components.policy.init(start_key)
    state, (norms, later) = jax.lax.scan(
        stretch, made.init(run_key, first), None, length=course.points
    )
    heat = jnp.array([1.0] * (1 + course.points) + list(course.temperatures))
    tables = jnp.concatenate([first[None], later, *[state.params[None]] * len(course.temperatures)])
    measured = jax.lax.map(
        lambda x: measure(tempered(components.policy, x[0]), x[1]), (heat, tables)
    )
    found = {name: x[: 1 + course.points] for name, x in measured.items()}
    found |= {f"tempered/{name}": x[1 + course.points :] for name, x in measured.items()}
    return found | {"gradient_norm": norms.reshape(-1), "params": state.params}


def _judge(course: Course, source: Source, d: Divergence) -> Callable:
    """Every divergence of whole strings, what the student minimises (`own`), the task's statistics
    and entropy, exactly."""
    mdp, space = course.components.mdp, course.space
    p = exact.law(space, *mdp.expert)

    def measure(policy, params) -> dict[str, jax.Array]:
        q = exact.law(space, policy, params)
        found = {
            name: exact.divergence(divergences.parse(name), space, p, q) for name in course.names
        }
        found |= {
            name: exact.expectation(q, f(space.sequences)) for name, f in mdp.statistics.items()
        }
        own = exact.divergence(d, space, p, q, source.level)
        return found | {"own": own, "entropy": exact.entropy(q)}

    return measure
