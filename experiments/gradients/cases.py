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

from experiments.gradients import batches, targets
from experiments.gradients.batches import InBatches
from experiments.gradients.targets import QUICK, Targets
from experiments.gradients.world import BETA, World
from fdiv import tokens as tk
from fdiv.checks import present
from fdiv.objectives.adversarial import Adversarial, AdversarialState
from fdiv.objectives.ppo import PpoState
from fdiv.objectives.reward_model import RewardState
from fdiv.policies import tabular
from fdiv.types import Claim, Method, Objective, Pairs, Params, Policy, Sequences

BATCH, BATCHES = 64, 256  # for the variance
CRITIC_BATCH, CRITIC_UPDATES = 512, 400


class Case(NamedTuple):
    """An objective with its hyperparameters."""

    name: str
    method: Method
    fields: Mapping[str, Any]  # in which it differs from the method of that name

    @property
    def label(self) -> str:
        shown = {k: f"{v:g}" if isinstance(v, float) else v for k, v in self.fields.items()}
        return " ".join([self.name, *(f"{k}={v}" for k, v in shown.items())])

    @property
    def claim(self) -> Claim:
        return self.method.claim()


def cases(methods: Mapping[str, Method]) -> list[Case]:
    """Each method at its defaults, then its variants that are worth telling apart."""
    listed = []
    for name, method in methods.items():
        listed += [case(name, method, fields) for fields in ({}, *method.variants())]
    return listed


def case(name: str, method: Method, fields: Mapping[str, Any]) -> Case:
    """A method with some fields changed, and without a warm-up."""
    own = dataclasses.replace(method, **fields)
    own = dataclasses.replace(own, warmup=0) if isinstance(own, Adversarial) else own
    own.check()
    return Case(name, own, fields)


class Measured(NamedTuple):
    """An objective's expected gradient, and what else is known of its estimates."""

    gradient: np.ndarray  # flat
    variance: float  # of one string's estimate: the trace of its covariance
    critic: str | None  # "optimal" or "trained", where a critic is learned
    at_expert: float  # norm of the gradient where the policy is the expert, over its norm here
    in_batches: InBatches | None = None  # where it has a baseline
    off_ratio: float | None = None  # where it has a clip


def measure(world: World, case: Case, trained: dict[Any, Params]) -> list[Measured]:
    """One measurement, or two where the objective learns a discriminator or a value function.

    `trained` keeps discriminators that serve several cases.
    """
    method = case.method
    enumerated, sampled = (
        method.build(batches.still(method, components))
        for components in (world.exact, world.sampled)
    )
    start = jax.jit(enumerated.init, compiler_options=QUICK)(jax.random.key(0), world.params)
    comparing = method.reads != "demos"
    population: Sequences | Pairs = world.demos
    draw: Callable[[jax.Array, int], Sequences | Pairs] = world.sampled.mdp.demos
    if comparing:  # in `exact` all comparisons, whatever the key
        population = present(world.exact.mdp.pairs, "comparisons")(jax.random.key(0), 0)
        draw = present(world.sampled.mdp.pairs, "comparisons")
    expert = jnp.asarray(present(world.exact.mdp.expert, "expert").params)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def gradients_and_variance(aux, keys):
        def one(key):
            return _gradient(sampled, world.params, aux, key, lambda k: draw(k, BATCH))

        variance = BATCH * jnp.sum(jnp.var(jax.vmap(one)(keys), axis=0, ddof=1))
        here, there = (
            _gradient(enumerated, params, aux, keys[0], lambda k: population)
            for params in (world.params, expert)
        )
        return here, there, variance

    measured = []
    for name, aux in _critics(world, case, start, trained).items():
        keys = jax.random.split(jax.random.key(1), BATCHES)
        here, there, variance = gradients_and_variance(aux, keys)
        share = float(jnp.linalg.norm(there) / jnp.maximum(jnp.linalg.norm(here), 1e-300))
        numbers = Measured(np.asarray(here), float(variance), name, share)
        if name != "trained":
            numbers = numbers._replace(
                in_batches=batches.in_batches(world, method, aux, numbers.gradient),
                off_ratio=batches.off_ratio(world, method, aux),
            )
        measured.append(numbers)
    return measured


def _critics(world: World, case: Case, start: Any, trained: dict[Any, Params]) -> dict[Any, Any]:
    """The states of an objective to measure at, by what its discriminator or value function is."""
    best = at_best(world, case, start)
    if isinstance(start, RewardState):
        return {"optimal": best}
    if not isinstance(start, (PpoState, AdversarialState)):
        return {None: best}
    return {"optimal": best, "trained": with_critic(start, _trained(world, case, trained))}


def at_best(world: World, case: Case, start: Any) -> Any:
    """The state with what is learned beside the policy at its best, if anything is."""
    if isinstance(start, RewardState):
        if isinstance(start.policy, PpoState):
            start = start._replace(policy=with_critic(start.policy, values(world)))
        return with_critic(start, true_reward(world, case, start))
    if isinstance(start, PpoState):
        return with_critic(start, values(world))
    if isinstance(start, AdversarialState):
        return with_critic(start, optimal(world, case, start))
    return start


def _gradient(
    objective: Objective,
    params: Params,
    aux: Any,
    key: jax.Array,
    demos: Callable[[jax.Array], Sequences | Pairs],
) -> jax.Array:
    """As `exact.expected_gradient`, for a batch of any size."""
    data_key, prepare_key = jax.random.split(key)
    after, batch, _ = objective.prepare(prepare_key, params, aux, demos(data_key))
    return jax.grad(lambda x: objective.loss(x, after, batch)[0])(params).ravel()


def row(
    case: Case, measured: Measured, candidates: Targets, optimal: np.ndarray | None
) -> dict[str, Any]:
    """A row of the card; a trained discriminator's is compared with that of the `optimal` one."""
    gradient, claim = measured.gradient, case.claim
    if measured.critic == "trained":
        close = (
            targets.against(gradient, present(optimal, "optimal critic"))["cosine"] > targets.NEAR
        )
        learned = "value function" if case.method.kind == "ppo" else "discriminator"
        verdict = f"{'close to' if close else 'far from'} the optimal {learned}'s"
    else:
        verdict = targets.verdict(gradient, claim, candidates, measured.at_expert)
    return {
        "objective": case.name,
        "variant": dict(case.fields),
        "discriminator": measured.critic,
        "claim": claim.sentence,
        "target": targets.phrase(claim),
        "verdict": verdict,
        **targets.against(gradient, candidates.of(claim)),
        "variance": measured.variance,
        "in_batches": measured.in_batches and measured.in_batches._asdict(),
        "off_ratio": measured.off_ratio,
        "against": targets.against_all(gradient, candidates),
    }


# --- discriminators and value functions -----------------------------------------------------------


def values(world: World) -> jax.Array:
    """The value function of the policy: the mean return to go from each prefix on, [states, 1]."""
    space, mdp = world.space, world.exact.mdp
    tokens, mask, _ = space.sequences

    def log_probs(policy: Policy, params: Params) -> jax.Array:
        return tk.log_probs(policy, params, space.sequences, space.vocab)

    log_q = log_probs(world.exact.policy, world.params)
    rewards = BETA * (
        log_probs(*present(present(mdp.regulariser, "penalty").reference, "reference")) - log_q
    )  # of each token
    later = jnp.cumsum(rewards[:, ::-1], axis=1)[:, ::-1]
    to_go = present(mdp.score, "score")(space.sequences)[:, None] + later
    weight = jnp.broadcast_to(jnp.exp(log_q.sum(1))[:, None], to_go.shape)
    automaton = tabular.full(space.vocab, space.horizon)
    state = np.asarray(tabular.read(automaton, jnp.asarray(tokens)))[mask]
    total, mass = np.zeros(automaton.states), np.full(automaton.states, 1e-300)
    np.add.at(total, state, np.asarray(weight * to_go)[mask])
    np.add.at(mass, state, np.asarray(weight)[mask])
    return jnp.asarray(total / mass)[:, None]


def critic_of(aux: Any) -> Params:
    """The discriminator's, or value function's, parameters."""
    if isinstance(aux, PpoState):
        return aux.value[0]
    if isinstance(aux, RewardState):
        return aux.reward[0]
    return aux.discriminator[0]


def with_critic(aux: Any, critic: Params) -> Any:
    """The state with the discriminator's, or value function's, parameters replaced."""
    if isinstance(aux, PpoState):
        return aux._replace(value=(critic, aux.value[1]))
    if isinstance(aux, RewardState):  # learned to the end, so that the policy follows it
        return aux._replace(reward=(critic, aux.reward[1]), step=jnp.full_like(aux.step, 2**30))
    return aux._replace(discriminator=(critic, aux.discriminator[1]))


def true_reward(world: World, case: Case, start: RewardState) -> Params:
    """The reward model that says log p / ref of each string as a classifier, beta times that as a
    model of the reward."""
    mdp = world.exact.mdp
    log_p, log_ref = (
        jax.nn.log_softmax(jnp.asarray(model.params))
        for model in (present(mdp.expert, "expert"), present(world.reference, "reference"))
    )
    table = (log_p - log_ref) * (
        1.0 if case.method.reads == "demos" else present(mdp.regulariser, "penalty").beta
    )
    learned = critic_of(start)
    return {"reward": table, "noise": jnp.zeros_like(table)} if isinstance(learned, dict) else table


def optimal(world: World, case: Case, start: AdversarialState) -> Params:
    """The discriminator whose logit is the true log-ratio: of the token, or at the occupancy level
    of the whole prefix."""
    kind = "prefix" if getattr(case.method, "level", None) == "occupancy" else "token"
    table = jnp.asarray(targets.log_ratios(world)[kind])
    if isinstance(critic_of(start), dict):
        return {"reward": table, "potential": jnp.zeros_like(table)}
    return table


def _trained(world: World, case: Case, trained: dict[Any, Params]) -> Params:
    """A discriminator that has learned from fresh samples of both sides, the policy standing
    still."""
    method = case.method
    kind: Any = case.label
    if isinstance(method, Adversarial):
        bound = method.divergence if method.training == "bound" else None
        kind = (method.level, method.training, bound, method.structured)
    if kind not in trained:
        objective = method.build(world.sampled)

        def update(aux, key):
            data_key, learn_key = jax.random.split(key)
            demos = world.sampled.mdp.demos(data_key, CRITIC_BATCH)
            return objective.prepare(learn_key, world.params, aux, demos)[0], None

        start = objective.init(jax.random.key(0), world.params)
        keys = jax.random.split(jax.random.key(2), CRITIC_UPDATES)
        trained[kind] = critic_of(jax.jit(lambda aux: jax.lax.scan(update, aux, keys)[0])(start))
    return trained[kind]
