"""The only autoregressive loop: one scan with a cache."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from fdiv import tokens as tk
from fdiv.checks import present
from fdiv.types import PAD, Model, Params, Policy, Readout, Rollout, Sequences


def last_tokens(prompts: Sequences) -> Array:
    """The last token of each prompt, `PAD` where the prompt is empty. [B]"""
    batch, width = prompts.tokens.shape
    if width == 0:
        return jnp.full(batch, PAD, jnp.int32)
    size = (prompts.tokens != PAD).sum(1)
    last = jnp.take_along_axis(prompts.tokens, jnp.maximum(size - 1, 0)[:, None], axis=1)[:, 0]
    return jnp.where(size > 0, last, PAD).astype(jnp.int32)


def draw(uniform: Array, log_probs: Array) -> Array:
    """Tokens [B] by the inverse distribution function, from uniforms [B] and log-probs [B, V].

    One uniform a token instead of V; scaling by the total keeps rounding from ever choosing a token
    past the last."""
    cumulative = jnp.cumsum(jnp.exp(log_probs), axis=-1)
    return jnp.sum(uniform[:, None] * cumulative[:, -1:] >= cumulative[:, :-1], axis=-1).astype(
        jnp.int32
    )


def likeliest(uniform: Array, log_probs: Array) -> Array:
    """The token of most probability, in place of a draw; the first where several are alike."""
    return jnp.argmax(log_probs, axis=-1).astype(jnp.int32)


def greedy(horizon: int, eos: int | None) -> Rollout:
    """As `sampler`, but every action is the likeliest, so the key changes nothing."""
    return sampler(horizon, eos, likeliest)


def sampler(
    horizon: int, eos: int | None, choose: Callable[[Array, Array], Array] = draw
) -> Rollout:
    """(key, policy, params, prompts [B, P]) -> sampled strings [B, P + horizon] and the log-probs
    of their actions."""

    def rollout(
        key: Array, policy: Policy, params: Params, prompts: Sequences
    ) -> tuple[Sequences, Array]:
        batch, width = prompts.tokens.shape
        uniforms = jax.random.uniform(key, (horizon, batch))

        def act(carry, uniform):
            cache, token, alive = carry
            cache, log_probs = policy.step(params, cache, token)
            token = choose(uniform, log_probs)
            log_prob = jnp.take_along_axis(log_probs, token[:, None], axis=1)[:, 0]
            action = jnp.where(alive, token, PAD)
            if eos is not None:
                alive &= token != eos
            return (cache, token, alive), (action, jnp.where(action != PAD, log_prob, 0.0))

        first = (
            policy.start(params, prompts, horizon),
            last_tokens(prompts),
            jnp.ones(batch, bool),
        )
        _, (actions, log_probs) = jax.lax.scan(act, first, uniforms)
        sequences = tk.append(prompts, actions.T, eos)
        if width == 0:
            return sequences, log_probs.T
        order = jnp.maximum(jnp.cumsum(sequences.mask, axis=1) - 1, 0)
        return sequences, jnp.where(
            sequences.mask, jnp.take_along_axis(log_probs.T, order, axis=1), 0.0
        )

    return rollout


def demonstrations(
    expert: Model, prompts: Callable[[Array, int], Sequences], horizon: int, eos: int | None
) -> Callable:
    """Fresh samples of a known expert: (key, n) -> strings [n, P + horizon]."""
    rollout = sampler(horizon, eos)

    def demos(key: Array, n: int) -> Sequences:
        prompt_key, sample_key = jax.random.split(key)
        return rollout(sample_key, expert.policy, expert.params, prompts(prompt_key, n))[0]

    return demos


def tempered(policy: Policy, temperature: Array | float) -> Policy:
    """The policy at another temperature: log-probs divided by it and normalised again, in training
    as in sampling."""
    soften = lambda log_probs: jax.nn.log_softmax(log_probs / temperature)

    def step(params: Params, cache, token: Array):
        cache, log_probs = policy.step(params, cache, token)
        return cache, soften(log_probs)

    def readout(params: Params) -> Readout:
        own = present(policy.readout, "readout")(params)
        return own._replace(temperature=own.temperature * temperature)

    return policy._replace(
        head=lambda params, features: soften(policy.head(params, features)),
        step=step,
        readout=readout if policy.readout else None,
    )
