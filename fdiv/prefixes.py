"""What is summed over the vocabulary at each prefix, and losses that are a sum over prefixes.

A policy with a `readout` goes through `fdiv.head`, which never holds [B, T, V] and computes the
actions alone. A table goes through `tokens.by_stretches`, and so do two laws of which one is a
table's. Values are in nats."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array

from fdiv import groups, head
from fdiv import tokens as tk
from fdiv.estimators import Scored, score_function_loss, to_actions
from fdiv.types import ALONE, Alike, Divergence, Model, Sequences


def likelihood_loss(model: Model, x: Sequences, vocab: int) -> Array:
    """`-sum_b w_b log q(x_b)`: a scalar."""
    own = tk.head_of(*model, x.tokens)
    if own is None:
        return -jnp.sum(x.weight * tk.log_probs(*model, x, vocab).sum(1))
    return head.negative_log_likelihood(own, x.tokens, by_action(x))


def policy_gradient_loss(model: Model, scored: Scored, vocab: int, alike: Alike = ALONE) -> Array:
    """`estimators.score_function_loss` of the model's log-probs: a scalar."""
    x = scored.sequences
    if groups.shares(model.policy, alike):
        own, actions = groups.of_actions(*model, x, alike)
        worth = to_actions(scored.advantages, x.mask, actions.tokens.shape[1])
        weights = by_action(actions) * jnp.where(actions.mask, worth, 0.0)
        return head.negative_log_likelihood(own, actions.tokens, weights)
    own = tk.head_of(*model, x.tokens)
    if own is None:
        return score_function_loss(tk.log_probs(*model, x, vocab), scored)
    weights = by_action(x) * jnp.where(x.mask, scored.advantages, 0.0)
    return head.negative_log_likelihood(own, x.tokens, weights)


def divergence_loss(d: Divergence, target: Model, own: Model, x: Sequences, vocab: int) -> Array:
    """`sum_b w_b sum_t D_f(p||q)` of the next token's laws before each action, p the target's: a
    scalar."""
    heads = _heads(target, own, x)
    if heads is None:
        (each,) = divergences([d], target, own, x, vocab)
        return jnp.sum(x.weight[:, None] * each)
    return head.divergence(d, *heads, by_action(x))


def measured_loss(
    measure: head.Measure, target: Model, own: Model, x: Sequences, vocab: int
) -> Array:
    """`sum_b w_b sum_t measure(q, p)` of the next token's laws before each action, p the target's:
    a scalar."""
    heads = _heads(target, own, x)
    if heads is not None:
        return head.measured(measure, *heads, by_action(x))

    def each(features: Array, other: Array) -> Array:
        log_p = target.policy.head(target.params, other)
        return measure(own.policy.head(own.params, features), log_p)

    features = [model.policy.trunk(model.params, x.tokens) for model in (own, target)]
    values = tk.by_stretches(each, vocab, *features)
    return jnp.sum(x.weight @ jnp.where(x.mask, values, 0.0))


def divergences(
    family: Sequence[head.Summed], target: Model, own: Model, x: Sequences, vocab: int
) -> tuple[Array, ...]:
    """D_f(p||q), or another sum over the vocabulary, of the next token's laws before each action, p
    the target's, for each member; 0 off the mask. [B, T] each"""
    heads = _heads(target, own, x)
    if heads is not None:
        return head.divergences(family, *heads, x.mask)

    def summed(features: Array, other: Array) -> tuple[Array, ...]:
        log_p = target.policy.head(target.params, other)
        log_q = own.policy.head(own.params, features)
        return tuple(d.perspective(log_p, log_q).sum(-1) for d in family)

    features = [model.policy.trunk(model.params, x.tokens) for model in (own, target)]
    return tuple(jnp.where(x.mask, each, 0.0) for each in tk.by_stretches(summed, vocab, *features))


def entropy_sum(model: Model, x: Sequences, vocab: int) -> Array:
    """`sum_b w_b sum_t H(q)` of the next token's laws before each action: a scalar."""
    own = tk.head_of(*model, x.tokens)
    if own is not None:
        return head.entropy(own, by_action(x))

    def each(features: Array) -> Array:
        log_q = model.policy.head(model.params, features)
        return -(jnp.exp(log_q) * log_q).sum(-1)

    values = tk.by_stretches(each, vocab, model.policy.trunk(model.params, x.tokens))
    return jnp.sum(x.weight @ jnp.where(x.mask, values, 0.0))


def by_action(x: Sequences) -> Array:
    """Each string's weight at its actions, 0 off the mask. [B, T]"""
    return jnp.where(x.mask, x.weight[:, None], 0.0)


def _heads(target: Model, own: Model, x: Sequences) -> tuple[head.Head, head.Head] | None:
    """The policy's and the target's, where both have one."""
    if own.policy.readout is None or target.policy.readout is None:
        return None
    q, p = (tk.head_of(*model, x.tokens) for model in (own, target))
    return None if q is None or p is None else (q, p)
