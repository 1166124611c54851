"""Every objective with its variants, and its expected gradient, discriminators optimal and
trained."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.gradients.targets import BETA, QUICK, World
from fdiv import tokens as tk
from fdiv.objectives.adversarial import Adversarial, AdversarialState
from fdiv.objectives.ppo import PpoState
from fdiv.objectives.reward_model import RewardState
from fdiv.policies import tabular
from fdiv.types import Claim, Method, Objective

BATCH, BATCHES = 64, 256  # for the variance
CRITIC_BATCH, CRITIC_UPDATES = 512, 400


class Case(NamedTuple):
    """An objective with its hyperparameters."""

    name: str
    method: Method
    fields: Mapping[str, Any]  # in which it differs from the method of that name

    @property
    def label(self) -> str:
        return " ".join(
            [
                self.name,
                *(
                    f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}"
                    for k, v in self.fields.items()
                ),
            ]
        )

    @property
    def claim(self) -> Claim:
        return self.method.claim()


def cases(methods: Mapping[str, Method]) -> list[Case]:
    """Each method at its defaults, then its variants that are worth telling apart."""
    found = []
    for name, method in methods.items():
        for fields in ({}, *method.variants()):
            own = dataclasses.replace(method, **fields)
            own = dataclasses.replace(own, warmup=0) if isinstance(own, Adversarial) else own
            own.check()
            found.append(Case(name, own, fields))
    return found


class Found(NamedTuple):
    """An objective's expected gradient, flat, and the variance of one string's estimate of it
    (trace of covariance)."""

    gradient: np.ndarray
    variance: float
    critic: (
        str | None
    )  # "optimal" or "trained" where a discriminator or a value function is learned
    at_expert: (
        float  # size of the gradient where the policy is the expert, as a share of its size here
    )


def measure(world: World, case: Case, trained: dict) -> list[Found]:
    """One finding, or two where the objective has a discriminator. `trained` keeps discriminators
    that serve several cases."""
    frozen = case.method
    if isinstance(frozen, Adversarial):
        frozen = dataclasses.replace(frozen, discriminator_learning_rate=1e-30)
    whole, drawn = (frozen.build(components) for components in (world.exact, world.sampled))
    start = jax.jit(whole.init, compiler_options=QUICK)(jax.random.key(0), world.params)
    critics = {None: start}
    if isinstance(start, RewardState):
        policy = (
            with_critic(start.policy, values(world))
            if isinstance(start.policy, PpoState)
            else start.policy
        )
        critics = {
            "optimal": with_critic(start._replace(policy=policy), true_reward(world, case, start))
        }
    if isinstance(start, PpoState):
        critics = {
            "optimal": with_critic(start, values(world)),
            "trained": with_critic(start, _trained(world, case, trained)),
        }
    if isinstance(start, AdversarialState):
        critics = {
            "optimal": with_critic(start, optimal(world, case, start)),
            "trained": with_critic(start, _trained(world, case, trained)),
        }

    pairs = case.method.reads != "demos"
    every = world.exact.mdp.pairs(None, 0) if pairs else world.demos
    rows = world.sampled.mdp.pairs if pairs else world.sampled.mdp.demos

    @functools.partial(jax.jit, compiler_options=QUICK)
    def both(aux, keys):
        one = lambda key: _gradient(drawn, world.params, aux, key, lambda k: rows(k, BATCH))
        sampled = jax.vmap(one)(keys)
        variance = BATCH * jnp.sum(jnp.var(sampled, axis=0, ddof=1))
        gradients = [
            _gradient(whole, params, aux, keys[0], lambda k: every)
            for params in (world.params, expert)
        ]
        return *gradients, variance

    expert, found = jnp.asarray(world.exact.mdp.expert.params), []
    for name, aux in critics.items():
        gradient, there, variance = both(aux, jax.random.split(jax.random.key(1), BATCHES))
        share = float(jnp.linalg.norm(there) / jnp.maximum(jnp.linalg.norm(gradient), 1e-300))
        found.append(Found(np.asarray(gradient), float(variance), name, share))
    return found


def _gradient(
    objective: Objective, params: jax.Array, aux: Any, key: jax.Array, demos: Callable
) -> jax.Array:
    """As `exact.expected_gradient`, for a batch of any size."""
    data_key, prepare_key = jax.random.split(key)
    after, batch, _ = objective.prepare(prepare_key, params, aux, demos(data_key))
    return jax.grad(lambda x: objective.loss(x, after, batch)[0])(params).ravel()


# --- discriminators -------------------------------------------------------------------------------


def values(world: World) -> Any:
    """The value function of the policy: what is earned from each prefix on, on average."""
    space, components = world.space, world.exact
    said = lambda model: tk.log_probs(*model, space.sequences, space.vocab)
    own = said((components.policy, world.params))
    paid = BETA * (said(components.mdp.regulariser.reference) - own)
    to_go = (
        components.mdp.score(space.sequences)[:, None] + jnp.cumsum(paid[:, ::-1], axis=1)[:, ::-1]
    )
    mask, weight = space.sequences.mask, jnp.broadcast_to(jnp.exp(own.sum(1))[:, None], to_go.shape)
    automaton = tabular.full(space.vocab, space.horizon)
    state = tabular.read(automaton, jnp.asarray(space.sequences.tokens))
    total, mass = np.zeros(automaton.states), np.full(automaton.states, 1e-300)
    np.add.at(total, np.asarray(state)[mask], np.asarray(weight * to_go)[mask])
    np.add.at(mass, np.asarray(state)[mask], np.asarray(weight)[mask])
    return jnp.asarray(total / mass)[:, None]


def critic_of(aux: Any) -> Any:
    """The discriminator's, or value function's, parameters."""
    if isinstance(aux, PpoState):
        return aux.value[0]
    if isinstance(aux, RewardState):
        return aux.reward[0]
    return aux.discriminator[0]


def with_critic(aux: Any, critic: Any) -> Any:
    """The state with the discriminator's, or value function's, parameters replaced."""
    if isinstance(aux, PpoState):
        return aux._replace(value=(critic, aux.value[1]))
    if isinstance(aux, RewardState):  # learned to the end, so that the policy follows it
        return aux._replace(reward=(critic, aux.reward[1]), step=jnp.full_like(aux.step, 2**30))
    return aux._replace(discriminator=(critic, aux.discriminator[1]))


def true_reward(world: World, case: Case, start: RewardState) -> Any:
    """The reward model that says log p / ref of each string as a classifier, beta times that as a
    model of the reward."""
    mdp = world.exact.mdp
    log_p, log_ref = (
        jax.nn.log_softmax(jnp.asarray(model.params)) for model in (mdp.expert, world.reference)
    )
    table = (log_p - log_ref) * (1.0 if case.method.reads == "demos" else mdp.regulariser.beta)
    learned = critic_of(start)
    return {"reward": table, "noise": jnp.zeros_like(table)} if isinstance(learned, dict) else table


def optimal(world: World, case: Case, start: Any) -> Any:
    """The discriminator whose logit is the true log-ratio: of the token, or at the occupancy level
    of the whole prefix."""
    table = jnp.asarray(world.ratio["prefix" if case.method.level == "occupancy" else "token"])
    return (
        {"reward": table, "potential": jnp.zeros_like(table)}
        if isinstance(critic_of(start), dict)
        else table
    )


def _trained(world: World, case: Case, known: dict) -> Any:
    """A discriminator that has learned from fresh samples of both sides, the policy standing
    still."""
    method = case.method
    if isinstance(method, Adversarial):
        bound = method.divergence if method.training == "bound" else None
        key = (method.level, bound, method.structured)
    else:
        key = case.label
    if key not in known:
        objective = method.build(world.sampled)

        def update(aux, key):
            data_key, learn_key = jax.random.split(key)
            return objective.prepare(
                learn_key, world.params, aux, world.sampled.mdp.demos(data_key, CRITIC_BATCH)
            )[0], None

        start = objective.init(jax.random.key(0), world.params)
        keys = jax.random.split(jax.random.key(2), CRITIC_UPDATES)
        known[key] = critic_of(jax.jit(lambda aux: jax.lax.scan(update, aux, keys)[0])(start))
    return known[key]
