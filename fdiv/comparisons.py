"""What losses of two strings share: the rows that say something, the reference's opinion of them,
what is reported.

    loss = E[ each(score(chosen) - score(rejected)) ],   score from whole strings' log q and log ref

A row whose two strings are the same, or of which one side alone is labelled, weighs 0. The other
weights add up to one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax.numpy as jnp
from jax import Array

from fdiv import tokens as tk
from fdiv.checks import positive
from fdiv.types import (
    PAD,
    Components,
    Model,
    Objective,
    Pairs,
    Params,
    Regulariser,
    Sequences,
    TokenMDP,
    UsageError,
)

# what a table says of methods whose best policy is another than ref e^{r / beta}
NO_RETURN = "its own optimum is not that of the regularised return, by which it is measured."


class Compared(NamedTuple):
    """Comparisons by weight, and the reference's log-probs of both strings."""

    pairs: Pairs
    log_ref: tuple[Array, Array]  # [n] each


def compared(
    components: Components,
    score: Callable[[Array, Array, Array], Array],
    each: Callable[[Array], Array],
    referenced: bool = True,
) -> Objective:
    """The objective on a batch of comparisons; `score(log q, log ref, actions)` is of each string,
    [n]."""
    known = regulariser(components.mdp).reference

    def margin(log_q: tuple[Array, Array], x: Compared) -> Array:
        chosen, rejected = map(score, log_q, x.log_ref, map(tk.lengths, x.pairs))
        chex.assert_rank([chosen, rejected], 1)
        chex.assert_equal_shape([chosen, rejected, x.pairs.chosen.weight])
        return chosen - rejected

    def prepare(key, params, aux, batch):
        paired, same = compare_rows(batch)
        weight = jnp.where(paired & ~same, batch.chosen.weight, 0.0)
        weight = weight / divisor(weight.sum())
        pairs = reweighted(batch, weight, weight)
        log_ref = (
            log_probs(components, known or Model(components.policy, aux), pairs)
            if referenced
            else (jnp.zeros_like(weight),) * 2
        )
        x = Compared(pairs, log_ref)
        identical = mean(same, jnp.where(paired, batch.chosen.weight, 0.0))
        return aux, x, {"tokens": tokens(pairs), "identical": identical}

    def loss(params, aux, batch):
        log_q = log_probs(components, Model(components.policy, params), batch.pairs)
        own, weight = margin(log_q, batch), batch.pairs.chosen.weight
        # of the pass that the loss takes: in `prepare` it would be one more
        return weight @ each(own), {
            "chosen_log_prob": weight @ log_q[0],
            "rejected_log_prob": weight @ log_q[1],
            "margin": weight @ own,
            "margin_accuracy": weight @ right(own),
        }

    return Objective(
        lambda key, params: start(components.mdp, params) if referenced else (), prepare, loss
    )


def regulariser(mdp: TokenMDP) -> Regulariser:
    """The task's, which says beta and the reference. Raises `UsageError` where there is none."""
    if mdp.regulariser is None:
        fix = "Use a benchmark with one (rewarded), or a method that learns from demonstrations."
        raise UsageError(
            "methods",
            "preferences",
            "need a task with a reference and a weight for leaving it.",
            fix,
        )
    positive("beta", mdp.regulariser.beta)
    return mdp.regulariser


def start(mdp: TokenMDP, params: Params) -> Params:
    """The state: the policy as it was, where that is the reference."""
    return () if regulariser(mdp).reference else params


def both(pairs: Pairs) -> Sequences:
    """The chosen strings, then the rejected ones."""
    return Sequences(*map(jnp.concatenate, zip(*pairs)))


def log_probs(components: Components, model: Model, pairs: Pairs) -> tuple[Array, Array]:
    """log q of the chosen and of the rejected strings, [n] each, in one pass."""
    chosen, rejected = jnp.split(tk.log_probs(*model, both(pairs), components.mdp.vocab).sum(1), 2)
    return chosen, rejected


def compare_rows(pairs: Pairs) -> tuple[Array, Array]:
    """Which rows compare two strings, and which of these twice the same one: that says nothing of
    either. [n] each"""
    paired = (pairs.chosen.weight > 0) & (pairs.rejected.weight > 0)
    chosen, rejected = (jnp.where(x.mask, x.tokens, PAD) for x in pairs)
    return paired, paired & jnp.all(chosen == rejected, axis=1)


def reweighted(pairs: Pairs, chosen: Array, rejected: Array) -> Pairs:
    """The same strings with other weights."""
    return Pairs(pairs.chosen._replace(weight=chosen), pairs.rejected._replace(weight=rejected))


def divisor(total: Array) -> Array:
    """What to divide weights by that add up to this: 1 where there are none."""
    return jnp.where(total > 0, total, 1.0)


def mean(x: Array, weight: Array) -> Array:
    """Weighted mean, 0 of nothing."""
    return jnp.sum(weight * x) / divisor(weight.sum())


def report(pairs: Pairs, log_q: tuple[Array, Array], margin: Array) -> dict[str, Array]:
    """Metrics of the policy as it is; `margin_accuracy` counts a margin of 0 as half right."""
    weight = jnp.where(pairs.rejected.weight > 0, pairs.chosen.weight, 0.0)
    return {
        "tokens": tokens(pairs),
        "chosen_log_prob": mean(log_q[0], pairs.chosen.weight),
        "rejected_log_prob": mean(log_q[1], pairs.rejected.weight),
        "margin": mean(margin, weight),
        "margin_accuracy": mean(right(margin), weight),
    }


def tokens(pairs: Pairs) -> Array:
    """How many actions the strings that weigh something have."""
    return jnp.asarray(sum(jnp.sum(x.mask & (x.weight > 0)[:, None]) for x in pairs))


def right(margin: Array) -> Array:
    """Whether each margin has the sign of its label; 0 is half right. [n]"""
    return (1 + jnp.sign(margin)) / 2
