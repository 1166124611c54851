"""What an expectation over all strings at once does not show: batches of two, and a policy that has
moved since its strings were drawn.

In the card's population every baseline is the same constant, so one that counts the answer itself
cannot be told from one that does not; and every ratio q / q_old is 1, so a clip on the wrong side
changes nothing."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.gradients.world import World
from fdiv import tokens as tk
from fdiv.checks import present
from fdiv.objectives.adversarial import Adversarial
from fdiv.objectives.grpo import Grpo
from fdiv.objectives.ppo import Ppo
from fdiv.objectives.reinforce import Rloo
from fdiv.penalties import Drawn
from fdiv.types import Components, Method, Params, Sequences

QUICK = {"xla_backend_optimization_level": 0}
SIZE = 2  # answers in a group
BLOCK = 256  # groups whose gradients are computed at once
SCORED = ("reinforce", "rloo", "grpo")  # kinds of methods that answer each prompt several times
# and others that learn from the policy's strings; of those of other codes as well
ON_POLICY = ("policy_gradient", "adversarial", "naive", "sampled", "z_score", "relativistic_gan")
MOVED = 1.0  # standard deviation of the logits that the policy has moved by


class InBatches(NamedTuple):
    """Against the same objective's gradient in the population: a mean that counts the answer itself
    shrinks it by 1 - 1/2, and nothing may turn it."""

    cosine: float
    norm_ratio: float
    variance: float  # exact, times the size of a batch: trace of covariance


def frozen(rate: Any, betas: tuple[float, float] = (0.9, 0.999)) -> optax.GradientTransformation:
    """An optimiser under which what is learned beside the policy stays as it is."""
    return optax.set_to_zero()


def still(method: Method, components: Components) -> Components:
    """Components whose discriminator does not move in `prepare`."""
    return components._replace(optimiser=frozen) if isinstance(method, Adversarial) else components


def in_batches(
    world: World, method: Method, aux: Any, population: np.ndarray, size: int = SIZE
) -> InBatches | None:
    """The exact expectation over all batches of so many strings, or nothing where no batch has a
    baseline. A batch counts once for all orders of its strings."""
    if method.kind not in (*SCORED, *ON_POLICY) or getattr(method, "level", "") == "token":
        return None
    if isinstance(method, (Rloo, Grpo)):
        method = dataclasses.replace(method, group=size)
    every, policy = world.space.sequences, world.exact.policy
    tokens, mask = jnp.asarray(every.tokens), jnp.asarray(every.mask)

    def gradient(rows: jax.Array) -> jax.Array:
        strings = Sequences(tokens[rows], mask[rows], jnp.ones(size))

        def rollout(key, policy, params, prompts):
            return strings, tk.log_probs(policy, params, strings, world.space.vocab)

        given = lambda key, n: strings
        mdp = world.sampled.mdp._replace(held_out=given)
        kit = still(method, world.sampled._replace(rollout=rollout, mdp=mdp))
        objective = method.build(kit)
        # demonstrations, where they are read, are the population: what an answer is paid against
        # is no answer's
        prompts = strings if method.kind in SCORED else world.demos
        after, batch, _ = objective.prepare(jax.random.key(0), world.params, aux, prompts)
        return jax.grad(lambda x: objective.loss(x, after, batch)[0])(world.params).ravel()

    @functools.partial(jax.jit, compiler_options=QUICK)
    def moments(groups: jax.Array, orders: jax.Array) -> tuple[jax.Array, jax.Array]:
        log_q = tk.log_probs(
            policy, world.params, Sequences(tokens, mask, tokens[:, 0]), world.space.vocab
        )
        chance = orders * jnp.exp(log_q.sum(1)[groups].sum(1))
        each = jax.lax.map(gradient, groups, batch_size=BLOCK)
        mean = chance @ each
        return mean, chance @ jnp.sum((each - mean[None]) ** 2, axis=1)

    groups = list(itertools.combinations_with_replacement(range(len(every.tokens)), size))
    repeated = ([math.factorial(group.count(x)) for x in set(group)] for group in groups)
    orders = [math.factorial(size) / math.prod(counts) for counts in repeated]
    if len(groups) > BLOCK:  # whole blocks: a remainder would be traced and compiled by itself
        short = -len(groups) % BLOCK
        groups, orders = groups + groups[:1] * short, orders + [0.0] * short
    found, variance = map(np.asarray, moments(jnp.asarray(groups), jnp.asarray(orders)))
    sizes = np.linalg.norm(found), np.linalg.norm(population)
    cosine = found @ population / max(sizes[0] * sizes[1], 1e-300)
    return InBatches(float(cosine), float(sizes[0] / max(sizes[1], 1e-300)), float(size * variance))


def off_ratio(world: World, method: Method, aux: Any) -> float | None:
    """Relative error of a clipped objective's gradient after the policy has moved, against the
    rule written out: an action counts rho A grad log q unless A > 0 and rho > 1 + clip, or A < 0
    and rho < 1 - clip. Nothing for an objective without a clip, or whose loss holds more than
    that."""
    if not isinstance(method, (Grpo, Ppo)) or getattr(method, "entropy", 0.0):
        return None
    penalty = method.penalty
    if penalty is not None and (penalty.placement != "reward" or penalty.estimator == "exact"):
        return None
    objective, policy = method.build(world.exact), world.exact.policy
    noise = np.random.default_rng(0).standard_normal(np.shape(world.params))
    moved = world.params + MOVED * jnp.asarray(noise)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def both(aux: Any) -> tuple[jax.Array, jax.Array]:
        after, batch, _ = objective.prepare(jax.random.key(0), world.params, aux, world.demos)
        found = jax.grad(lambda x: objective.loss(x, after, batch)[0])(moved)
        return found.ravel(), _by_rule(policy, moved, batch, method, world.space.vocab)

    found, wanted = both(aux)
    size = jnp.maximum(jnp.linalg.norm(wanted), 1e-300)
    return float(jnp.linalg.norm(found - wanted) / size)


def ratios(
    policy: Any, moved: Params, x: Drawn, method: Any, vocab: int
) -> tuple[jax.Array, jax.Array]:
    """q / q_old of each action, or of its string (the geometric mean over tokens), and which
    actions the clip has stopped. [B, T] each"""
    strings, gain = x.sequences, present(x.advantages, "advantages")
    change = jnp.where(strings.mask, tk.log_probs(policy, moved, strings, vocab) - x.log_old, 0.0)
    if getattr(method, "ratio", "token") == "sequence":
        size = strings.mask.sum(1, keepdims=True)
        change = jnp.broadcast_to(change.sum(1, keepdims=True) / size, change.shape)
    rho = jnp.exp(change)
    return rho, ((gain > 0) & (rho > 1 + method.clip)) | ((gain < 0) & (rho < 1 - method.clip))


def _by_rule(policy: Any, moved: Params, x: Drawn, method: Grpo | Ppo, vocab: int) -> jax.Array:
    """Minus the sum over actions that count of weight rho A grad log of the ratio."""
    strings, gain = x.sequences, present(x.advantages, "advantages")
    rho, stopped = ratios(policy, moved, x, method, vocab)
    paid = jnp.where(strings.mask & ~stopped, rho * gain, 0.0) * strings.weight[:, None]
    if getattr(method, "ratio", "token") == "sequence":  # whose slope all actions share
        shared = paid.sum(1, keepdims=True) / strings.mask.sum(1, keepdims=True)
        paid = jnp.where(strings.mask, shared, 0.0)

    def value(params: Params) -> jax.Array:
        return -jnp.sum(paid * tk.log_probs(policy, params, strings, vocab))

    return jax.grad(value)(moved).ravel()
