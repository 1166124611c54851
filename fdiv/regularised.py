"""Reward against a divergence from a reference: most E_pi r - beta D_f(ref||pi), over finitely many
strings, exactly.

By the family's second law the slope of the objective in log pi is r + beta reward(s), s = log ref -
log pi, so the optimum has the same r + beta reward(s) at every string. For reverse_kl, KL(pi||ref),
that is pi ~ ref e^{r / beta}, and for any pi

    KL(pi||p*) = KL(pi||ref) - E_pi[r] / beta + log Z,   p* = ref e^{r / beta} / Z:

reinforcement learning with that penalty is reverse KL to p*. Members whose reward(s) is bounded as
s grows would leave strings out altogether; `keeps_support` tells them apart. Sources: Ziegler et
al. 2019 (arXiv 1909.08593); Korbak, Perez & Buckley 2022 (arXiv 2205.11275); Wang et al. 2023
(f-DPO, arXiv 2309.16240). Double precision, under `jax.enable_x64`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from fdiv import divergences
from fdiv.types import Divergence, UsageError

LEAST, MOST = -40.0, 700.0  # of s = log ref - log pi
FAR = 20.0  # log-ratio past which `extended_reward` goes on along the tangent


def keeps_support(d: Divergence) -> bool:
    """Whether the optimum gives every string of the reference some mass: reward(s) grows without
    bound in s."""
    with jax.enable_x64(True):
        return bool(d.reward(jnp.asarray(150.0)) < d.reward(jnp.asarray(300.0)))


def members() -> dict[str, Divergence]:
    """The family's members that keep the reference's support."""
    return {name: d for name, d in divergences.every().items() if keeps_support(d)}


def refuse_unless_kept(field: str, d: Divergence) -> None:
    """Raise `UsageError` for a penalty whose optimum leaves strings out."""
    if not keeps_support(d):
        problem = (
            "its reward(s) is bounded: log-ratios cannot follow any reward, and "
            "strings may get no mass at all."
        )
        raise UsageError(field, d.name, problem, f"Use one of {', '.join(members())}.")


def optimum(d: Divergence, rewards: Array, log_ref: Array, beta: Array | float) -> Array:
    """log pi of the most E_pi r - beta D_f(ref||pi), over the last axis.

    beta reward(s) is t at the best string and t + r_best - r elsewhere; t, at most 0, is such that
    pi sums to one: at t = 0 no string is above the reference, at reward(log ref_best) the best one
    has all the mass."""
    rewards, log_ref = jnp.asarray(rewards), jnp.asarray(log_ref)
    if d.name == "reverse_kl":
        return jax.nn.log_softmax(log_ref + rewards / beta)
    above = (rewards.max() - rewards) / beta
    ratio = lambda t: bisect(lambda s: d.reward(s) - (t + above), jnp.full_like(above, LEAST), MOST)
    total = lambda t: 1 - jnp.exp(log_ref - ratio(t)).sum()
    t = bisect(total, d.reward(log_ref[jnp.argmax(rewards)]), 0.0)
    return jax.nn.log_softmax(log_ref - ratio(t))


def bisect(function, low, high, steps: int = 60):
    """Where an increasing function crosses zero, elementwise."""

    def halve(_, ends):
        middle = 0.5 * (ends[0] + ends[1])
        above = function(middle) > 0
        return jnp.where(above, ends[0], middle), jnp.where(above, middle, ends[1])

    return sum(jax.lax.fori_loop(0, steps, halve, tuple(jnp.broadcast_arrays(low, high)))) / 2


def value(
    d: Divergence, rewards: Array, log_ref: Array, log_pi: Array, beta: Array | float
) -> Array:
    """E_pi r - beta D_f(ref||pi)."""
    return jnp.sum(jnp.exp(log_pi) * rewards) - beta * d.perspective(log_ref, log_pi).sum(-1)


def frontier(d: Divergence, rewards: Array, log_ref: Array, betas: Array) -> tuple[Array, Array]:
    """(D_f(ref||pi), E_pi r) of the optimum at each beta: nothing earns more at as small a
    divergence."""

    def one(beta):
        log_pi = optimum(d, rewards, log_ref, beta)
        return d.perspective(log_ref, log_pi).sum(-1), jnp.sum(jnp.exp(log_pi) * rewards)

    return jax.lax.map(one, jnp.asarray(betas))


def extended_reward(d: Divergence, s: Array) -> Array:
    """d.reward(s), past s = FAR along its tangent: for a string that the policy has all but left,
    e^s would overflow."""
    at, slope = jax.jvp(d.reward, (jnp.asarray(FAR, s.dtype),), (jnp.ones((), s.dtype),))
    return jnp.where(s < FAR, d.reward(jnp.minimum(s, FAR)), at + slope * (s - FAR))
