"""Known means as a control variate: what the next action earns on average, summed exactly over the
vocabulary, in the place of samples.

At a prefix h the action k earns g_k, whose mean under the policy is b(h) = sum over v of q(v | h)
g(v): minus the KL of the next token's laws for reverse_kl, 0 for forward_kl at the level of
strings. The return from k on

    R_k = g_k + sum over j > k of discount^(j - k) g_j
    becomes   g_k - b(h_k) + sum over j > k of discount^(j - k) b(h_j)

b(h_k) is decided before action k, and each later b has the mean of the g that it replaces, so the
expected gradient stays what it is at every discount. Taking b off *later* actions as well would
drop the effect on later prefixes: a bias. Sources: vOPD (Oh et al. 2026, arXiv 2605.07865), which
has the first half at discount 0; conditional means in the place of samples are Rao and
Blackwell's."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from fdiv import prefixes
from fdiv import tokens as tk
from fdiv.estimators import advantages, discounted_to_go, to_actions
from fdiv.types import Divergence, Level, Model, Sequences


def advantages_of(
    d: Divergence,
    level: Level,
    target: Model,
    own: Model,
    x: Sequences,
    log_ratio: Array,
    *,
    horizon: int,
    vocab: int,
    discount: float = 1.0,
) -> Array:
    """Advantages [B, H] of the policy's strings; `log_ratio` [B, T] is log p - log q of each
    sampled token, 0 off the mask.

    What stands in the place of later actions is less its mean over the other strings."""
    actions = lambda values: to_actions(values, x.mask, horizon)
    mask = actions(x.mask)
    if level == Level.token_policy:
        still = jnp.zeros_like(log_ratio)
        earned = d.reward(actions(log_ratio)) - actions(
            earned_on_average(d, target, own, x, still, vocab)
        )
        (cost,) = prefixes.divergences([d], target, own, x, vocab)
        mean, share = -jnp.where(mask, actions(cost), 0.0), jnp.full((1, 1), 1 / horizon)
    else:
        before = jnp.cumsum(log_ratio, axis=1) - log_ratio
        mean = jnp.where(mask, actions(earned_on_average(d, target, own, x, before, vocab)), 0.0)
        start = actions(before)
        earned = d.reward(start + actions(log_ratio)) - d.reward(start) - mean
        left = horizon - jnp.arange(horizon)[None]  # positions that an action's prefix counts in
        share = left / horizon if level == Level.occupancy else jnp.ones((1, 1))
    later = discounted_to_go(share * mean, discount) - share * mean
    return jnp.where(mask, share * earned + advantages(later, mask, x.weight), 0.0)


def earned_on_average(
    d: Divergence, target: Model, own: Model, x: Sequences, before: Array, vocab: int
) -> Array:
    """sum over v of q(v) (reward(before + log p(v)/q(v)) - reward(before)) at the prefix before
    each action, 0 off the mask. [B, T]"""
    if d.name == "reverse_kl":  # whatever came before: minus the KL, which the fused head has
        (kl,) = prefixes.divergences([d], target, own, x, vocab)
        return -kl
    features = [model.policy.trunk(model.params, x.tokens) for model in (own, target)]

    def summed(own_features: Array, features: Array, before: Array) -> Array:
        log_q = own.policy.head(own.params, own_features)
        log_p = target.policy.head(target.params, features)
        start = before[..., None]
        both = jnp.isneginf(log_q) & jnp.isneginf(log_p)
        s = jnp.where(both, 0.0, log_p - log_q)
        gain = d.reward(start + s) - d.reward(start)
        return jnp.sum(jnp.where(jnp.isneginf(log_q), 0.0, jnp.exp(log_q) * gain), axis=-1)

    return jnp.where(x.mask, tk.by_stretches(summed, vocab, *features, before), 0.0)
