"""A learned log-ratio of next tokens: the expert's against the policy's, at the expert's prefixes.

    E_prefix[ softplus(-s(prefix, expert's token)) + sum_v q(v | prefix) softplus(s(prefix, v)) ]

is least at s(prefix, v) = log p(v | prefix) - log q(v | prefix); `bound` has the divergence's
witness and reward in the place of the two softplus. Prefixes are averaged over the H positions,
those after a string's end counting 0. The sum over the vocabulary is exact, so no string is
sampled. Source: the conditional form of Goodfellow et al. 2014."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.nn import softplus

from fdiv import tokens as tk
from fdiv.checks import present
from fdiv.discriminator import Places, State, Training, health, length_accuracy
from fdiv.types import Components, Divergence, Params, Sequences


class Prefixes(NamedTuple):
    """Strings, whose weights sum to one, and next-token laws at each of their prefixes."""

    sequences: Sequences
    log_q: Array  # [B, T, V] the policy's now
    log_start: Array  # [B, T, V] the policy's when training began


class TokenDiscriminator(NamedTuple):
    """`state` is (params, optimiser state)."""

    init: Callable[[Array, Params], State]  # key, the policy's starting params -> state
    learn: Callable[[State, Prefixes], State]  # state, demonstrations -> state
    ratio: Callable[[State, Prefixes], Array]  # state, strings -> s for every token [B, T, V]
    health: Callable[
        [Array, State, Prefixes, Prefixes], dict[str, Array]
    ]  # key, state, held-out demonstrations, training demonstrations


def over_prefixes(x: Sequences, each: Array, horizon: int) -> Array:
    """Weighted sum over strings of the mean over H positions of a number per action [B, T]."""
    return jnp.sum(x.weight[:, None] * jnp.where(x.mask, each, 0.0)) / horizon


def token_discriminator(
    components: Components,
    d: Divergence,
    *,
    training: Training = "logistic",
    structured: bool = False,
    learning_rate: float = 0.05,
    steps: int = 1,
    gradient_penalty: float = 0.0,
) -> TokenDiscriminator:
    """With `structured` the logit is a reward that corrects the starting policy's law, less the
    policy's log-prob; else the scorer's number alone."""
    scorer, horizon = present(components.scorer, "scorer"), components.mdp.horizon
    tx = components.optimiser(learning_rate, betas=(0.5, 0.999))

    def ratio_of(params: Params, x: Prefixes) -> Array:
        own = tk.distributions(scorer, params, x.sequences.tokens)
        return own + (x.log_start - x.log_q if structured else 0.0)

    def loss(params: Params, x: Prefixes) -> Array:
        demos, s = x.sequences, ratio_of(params, x)
        real = tk.pick(s, demos.tokens, demos.mask)
        gain = (
            (softplus(-real), softplus(s))
            if training == "logistic"
            else (-d.witness(real), d.reward(s))
        )
        each = gain[0] + jnp.sum(jnp.exp(x.log_q) * gain[1], axis=-1)
        value = over_prefixes(demos, each, horizon)
        if gradient_penalty:  # the mean over one redrawn token, exactly
            change = jnp.mean((s - real[..., None]) ** 2, axis=-1)
            value += gradient_penalty * over_prefixes(demos, change, horizon)
        return value

    def init(key: Array, start: Params) -> State:
        params = scorer.init(key, start)
        return params, tx.init(params)

    def learn(state: State, demos: Prefixes) -> State:
        def step(_, state: State) -> State:
            params, opt = state
            updates, opt = tx.update(jax.grad(loss)(params, demos), opt, params)
            return optax.apply_updates(params, updates), opt

        return jax.lax.fori_loop(0, steps, step, state)

    def check(key: Array, state: State, held_out: Prefixes, demos: Prefixes) -> dict[str, Array]:
        """On held-out demonstrations, fresh tokens of the policy, and training demonstrations."""

        def logits(x: Prefixes, tokens: Array) -> Array:
            return tk.pick(ratio_of(state[0], x), tokens, x.sequences.mask)

        fresh = jax.random.categorical(key, held_out.log_q)
        measured = health(
            logits(held_out, held_out.sequences.tokens),
            logits(held_out, fresh),
            logits(demos, demos.sequences.tokens),
            Places(held_out.sequences.mask, held_out.sequences.mask, demos.sequences.mask),
        )
        lengths = length_accuracy(demos.sequences, demos.sequences, held_out.sequences)
        return measured | {"length_accuracy": lengths}

    return TokenDiscriminator(init, learn, lambda state, x: ratio_of(state[0], x), check)
