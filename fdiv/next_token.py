"""Two laws of the next token, and what may be done to them before or after a divergence is taken.

A `Measure` takes logits of the policy and of the target, [..., V] each, to a number per prefix.
Each function here makes one of another, or of a divergence; `measure` is what is made of all:

    tempered       T^2 D(p_T||q_T), both laws at temperature T; T^2 keeps the gradient's size
                   (Hinton, Vinyals & Dean 2015, arXiv 1503.02531)
    towards_m      D(t p + (1-t) q||q), the q of the mixture held fixed: the gradient of the f whose
                   reward is r(log(t u + 1 - t)). Of reverse_kl that is gjs:t over 1 - t: what
                   skew_reverse_kl becomes where q is detached in its mixture (as the code of
                   DistiLLM-2 does, Ko et al. 2025, arXiv 2503.07067)
    towards_e      D(m||q), m the normalised p^t q^(1-t), that q held fixed (TAID, Shing et al.
                   2025, arXiv 2501.16937). Of reverse_kl t times its own gradient, of forward_kl
                   alpha:t's over each prefix's normaliser
    bucketed       of the target's k likeliest tokens and one bucket for all others: never above D,
                   as no merging of outcomes raises an f-divergence
    clipped        each token's term, none of which is negative, held to a bound: no gradient of
                   those above it
    forward_above  forward KL is added where the target's entropy is above a bound (EOPD, arXiv
                   2603.07079, whose base is reverse KL)
    adaptive       forward and reverse KL, weighted by how far the laws are apart on the head and on
                   the tail of the target; the weights are held fixed, and as they depend on q it is
                   the gradient of nothing (Wu et al. 2024, AKL, arXiv 2404.02657)"""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from fdiv import divergences, head
from fdiv.types import Divergence

Measure = head.Measure
Target = Literal["expert", "m", "e"]
BESIDE, STEEP = 1e-12, 1e-6  # s next to 0, and which share of a reward's rise is a step there
HEAD = 0.5  # probability of the tokens that are AKL's head


def tempered(measure: Measure, temperature: float) -> Measure:
    """Of both laws at a temperature, times its square."""
    return lambda z_q, z_p: temperature**2 * measure(z_q / temperature, z_p / temperature)


def towards_m(measure: Measure, share: float) -> Measure:
    """To `share p + (1 - share) q`, that q held fixed."""

    def mixed(z_q: Array, z_p: Array) -> Array:
        log_p, log_q = jax.nn.log_softmax(z_p), jax.lax.stop_gradient(jax.nn.log_softmax(z_q))
        return measure(z_q, jnp.logaddexp(math.log(share) + log_p, math.log1p(-share) + log_q))

    return mixed


def of_mixture(d: Divergence, share: float) -> Measure:
    """What `towards_m` is the gradient of: the f whose reward is d's of the mixture's log-ratio."""
    return lambda z_q, z_p: head.divergence_at(_seen_through(d, share))(z_q, z_p)


def _seen_through(d: Divergence, share: float) -> Divergence:
    """The member whose reward is `d.reward(log(share u + 1 - share))`.

    A step of d's reward at s = 0, a kink of f at u = 1, stays where it is: it is so much of tv."""
    log_u = lambda s: jnp.logaddexp(math.log(share) + s, math.log1p(-share))
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        r = lambda s: float(d.reward(jnp.asarray(s)))
        step, rise = r(BESIDE) - r(-BESIDE), r(1.0) - r(-1.0)
        if step <= STEEP * rise:
            return divergences.from_reward(lambda s: d.reward(log_u(s)), d.name)
        kink = (step, divergences.tv())
        smooth = lambda s: d.reward(log_u(s)) - step * divergences.tv().reward(s)
        if rise - step <= STEEP * rise:
            return divergences.total(d.name, [kink])
        return divergences.total(d.name, [kink, (1.0, divergences.from_reward(smooth, d.name))])


def towards_e(measure: Measure, share: float) -> Measure:
    """To `p^share q^(1 - share)`, normalised, that q held fixed."""

    def mixed(z_q: Array, z_p: Array) -> Array:
        log_p, log_q = jax.nn.log_softmax(z_p), jax.lax.stop_gradient(jax.nn.log_softmax(z_q))
        return measure(z_q, share * log_p + (1 - share) * log_q)

    return mixed


def bucketed(measure: Measure, k: int) -> Measure:
    """Of the target's k likeliest tokens, k < V, and the rest of both laws as one."""

    def coarse(z_q: Array, z_p: Array) -> Array:
        tokens = jax.lax.top_k(jax.lax.stop_gradient(z_p), k)[1]
        among = jnp.put_along_axis(jnp.zeros(z_p.shape, bool), tokens, True, -1, inplace=False)

        def merged(z: Array) -> Array:
            log = jax.nn.log_softmax(z)
            others = jnp.where(among, -jnp.inf, log)
            # of nothing at all the log of a sum has no slope, so it is not asked for one
            some = jnp.any(jnp.isfinite(others), axis=-1, keepdims=True)
            summed = jax.nn.logsumexp(jnp.where(some, others, 0.0), axis=-1, keepdims=True)
            rest = jnp.where(some, summed, -jnp.inf)
            return jnp.concatenate([jnp.take_along_axis(log, tokens, -1), rest], axis=-1)

        return measure(merged(z_q), merged(z_p))

    return coarse


def clipped(d: Divergence, most: float) -> Divergence:
    """Each token's term at most so much; of no f any more."""

    def perspective(log_p: Array, log_q: Array) -> Array:
        each = d.perspective(log_p, log_q)
        return jnp.where(each < most, each, most)

    return d._replace(perspective=perspective, of_ratio=False)


def forward_above(measure: Measure, entropy: float) -> Measure:
    """With forward KL added where the target's entropy, in nats, is above a bound."""
    forward = head.divergence_at(divergences.forward_kl())

    def gated(z_q: Array, z_p: Array) -> Array:
        log_p = jax.nn.log_softmax(z_p)
        own = -jnp.where(jnp.isneginf(log_p), 0.0, jnp.exp(log_p) * log_p).sum(-1)
        return measure(z_q, z_p) + jnp.where(own > entropy, forward(z_q, z_p), 0.0)

    return gated


def adaptive(forward: Measure, reverse: Measure) -> Measure:
    """AKL's mean of the two: forward KL weighs the share that the head has of sum |p - q|.

    The head is the target's likeliest token and those after it while their probabilities add up to
    at most `HEAD`."""

    def weighted(z_q: Array, z_p: Array) -> Array:
        p, q = (jax.lax.stop_gradient(jax.nn.softmax(z)) for z in (z_p, z_q))
        order = jnp.argsort(-p, axis=-1)
        ranked = jnp.take_along_axis(p, order, -1)
        apart = jnp.abs(ranked - jnp.take_along_axis(q, order, -1))
        first = jnp.arange(p.shape[-1]) == 0
        in_head = (jnp.cumsum(ranked, axis=-1) <= HEAD) | jnp.expand_dims(first, range(p.ndim - 1))
        total = apart.sum(-1)
        share = jnp.where(in_head, apart, 0.0).sum(-1) / jnp.where(total > 0, total, 1.0)
        return share * forward(z_q, z_p) + (1 - share) * reverse(z_q, z_p)

    return weighted
