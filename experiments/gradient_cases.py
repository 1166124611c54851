"""Every objective with its variants, and its expected gradient, discriminators optimal and trained."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.gradients import QUICK, World
from fdiv.objectives import GROUPS, Resolved
from fdiv.objectives.adversarial import AdversarialState
from fdiv.objectives.adversarial_token import ContrastState
from fdiv.types import Claim, Objective

BATCH, BATCHES = 64, 256  # for the variance
CRITIC_BATCH, CRITIC_UPDATES = 512, 400
VARIANTS: dict[str, list[tuple[str, dict[str, Any]]]] = {  # group -> (the one method it is for, or all; fields)
    "max_likelihood": [("", {"aggregate": "token"}), ("", {"aggregate": "string_mean"}), ("", {"aggregate": "constant"})],
    "policy_gradient": [
        ("", {"level": "occupancy"}), ("", {"level": "token"}), ("", {"discount": 0.0}),
        ("reverse_kl", {"baseline": "none"}), ("reverse_kl", {"baseline": "mean"}),
    ],
    "adversarial": [
        ("", {"level": "occupancy"}), ("", {"level": "token"}), ("adversarial:hellinger2", {"training": "bound"}),
        ("gail", {"discount": 0.0}), ("gail", {"baseline": "none"}), ("gail", {"baseline": "mean"}),
        ("airl", {"discount": 0.0}), ("airl", {"reward_form": "expert"}), ("airl", {"reward_form": "expert", "entropy": 1.0}),
    ],
    "distill": [("", {"policy_prefixes": 0.5}), ("", {"policy_prefixes": 1.0})],
}  # fmt: skip


class Case(NamedTuple):
    """An objective with its hyperparameters."""

    method: Resolved
    fields: Mapping[str, Any]  # what differs from the defaults
    config: Any

    @property
    def label(self) -> str:
        return " ".join(
            [self.method.name, *(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in self.fields.items())]
        )

    @property
    def claim(self) -> Claim:
        return self.method.claim(self.config)


def cases(methods: list[Resolved]) -> list[Case]:
    """Each method at its defaults, then its variants that are worth telling apart."""
    found = []
    for method in methods:
        variants = [fields for only, fields in VARIANTS.get(method.group, []) if only in ("", method.name)]
        for fields in ({}, *variants):
            config = GROUPS[method.group](**fields)
            if hasattr(config, "warmup"):
                config = dataclasses.replace(config, warmup=0)
            method.check(config)
            found.append(Case(method, fields, config))
    return found


class Found(NamedTuple):
    """An objective's expected gradient, flat, and the variance of one string's estimate of it (trace of covariance)."""

    gradient: np.ndarray
    variance: float
    critic: str | None  # "optimal" or "trained" where a discriminator stands for the log-ratio


def measure(world: World, case: Case, trained: dict) -> list[Found]:
    """One finding, or two where the objective has a discriminator. `trained` keeps discriminators that serve several cases."""
    frozen = case.config
    if hasattr(frozen, "discriminator_learning_rate"):
        frozen = dataclasses.replace(frozen, discriminator_learning_rate=1e-30)
    whole, drawn = (case.method.build(frozen, kit) for kit in (world.exact, world.sampled))
    start = jax.jit(whole.init, compiler_options=QUICK)(jax.random.key(0), world.params)
    critics = {None: start}
    if isinstance(start, (AdversarialState, ContrastState)):
        critics = {
            "optimal": with_critic(start, optimal(world, case, start)),
            "trained": with_critic(start, _trained(world, case, trained)),
        }

    @functools.partial(jax.jit, compiler_options=QUICK)
    def both(aux, keys):
        one = lambda key: _gradient(drawn, world.params, aux, key, lambda k: world.sampled.mdp.demos(k, BATCH))
        sampled = jax.vmap(one)(keys)
        variance = BATCH * jnp.sum(jnp.var(sampled, axis=0, ddof=1))
        return _gradient(whole, world.params, aux, keys[0], lambda k: world.demos), variance

    found = []
    for name, aux in critics.items():
        gradient, variance = both(aux, jax.random.split(jax.random.key(1), BATCHES))
        found.append(Found(np.asarray(gradient), float(variance), name))
    return found


def _gradient(objective: Objective, params: jax.Array, aux: Any, key: jax.Array, demos: Callable) -> jax.Array:
    """As `exact.expected_gradient`, for a batch of any size."""
    data_key, prepare_key = jax.random.split(key)
    after, batch, _ = objective.prepare(prepare_key, params, aux, demos(data_key))
    return jax.grad(lambda x: objective.loss(x, after, batch)[0])(params).ravel()


# --- discriminators ------------------------------------------------------------------------------------------------


def critic_of(aux: Any) -> Any:
    """The discriminator's parameters."""
    return aux.params if isinstance(aux, ContrastState) else aux.discriminator[0]


def with_critic(aux: Any, critic: Any) -> Any:
    """The state with the discriminator's parameters replaced."""
    if isinstance(aux, ContrastState):
        return aux._replace(params=critic)
    return aux._replace(discriminator=(critic, aux.discriminator[1]))


def optimal(world: World, case: Case, start: Any) -> Any:
    """The discriminator whose logit is the true log-ratio: of the token, or at the occupancy level of the whole prefix."""
    table = jnp.asarray(world.ratio["prefix" if case.config.level == "occupancy" else "token"])
    return {"reward": table, "potential": jnp.zeros_like(table)} if isinstance(critic_of(start), dict) else table


def _trained(world: World, case: Case, known: dict) -> Any:
    """A discriminator that has learned from fresh samples of both sides, the policy standing still."""
    bound = case.method.divergence if case.config.training == "bound" else None
    key = (case.config.level, bound, bool(case.method.fixed.get("structured")))
    if key not in known:
        objective = case.method.build(case.config, world.sampled)

        def update(aux, key):
            data_key, learn_key = jax.random.split(key)
            return objective.prepare(learn_key, world.params, aux, world.sampled.mdp.demos(data_key, CRITIC_BATCH))[0], None

        start = objective.init(jax.random.key(0), world.params)
        keys = jax.random.split(jax.random.key(2), CRITIC_UPDATES)
        known[key] = critic_of(jax.jit(lambda aux: jax.lax.scan(update, aux, keys)[0])(start))
    return known[key]
