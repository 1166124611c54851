"""Adversarial imitation at the token level: the expert's next token against the policy's, at the
expert's own prefixes.

    critic  E_prefix[ softplus(-s(prefix, expert's token)) + sum_v q(v | prefix) softplus(s(prefix, v)) ]
    policy  maximises E_prefix[ sum_v q(v | prefix) reward(s(prefix, v)) ], s held fixed

Both sums over the vocabulary are exact, so no string is sampled and no credit is assigned: with the
optimal critic this is the exact gradient of E_{prefix ~ p}[D_f(p(.|prefix) || q(.|prefix))]. What a
critic of whole strings sees at a glance on long text (any early slip gives a string away) one of
single tokens cannot use. The policy never sees its own prefixes. Source: the conditional form of
Goodfellow et al. 2014, with the family's laws in place of their game."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.nn import softplus

from fdiv import tokens as tk
from fdiv.discriminator import Training, health, length_accuracy
from fdiv.types import Components, Divergence, Objective, Params, Sequences


class Contrast(NamedTuple):
    """Demonstrations and what every next token is worth at each of their prefixes."""

    sequences: Sequences
    reward: Array  # [B, T, V]


class ContrastState(NamedTuple):
    params: Any
    opt: Any
    start: Params  # the policy's when training began
    step: Array


def adversarial_token(
    components: Components,
    d: Divergence,
    paid: Divergence,
    *,
    training: Training = "logistic",
    structured: bool = False,
    learning_rate: float = 0.05,
    steps: int = 1,
    gradient_penalty: float = 0.0,
    entropy: float = 0.0,
    warmup: int = 0,
) -> Objective:
    """The objective on a batch of demonstrations; `paid` has the reward that the policy gets, `d`
    the critic's bound."""
    policy, mdp, scorer = components.policy, components.mdp, components.scorer
    tx = optax.adam(learning_rate, b1=0.5)

    def ratio(critic: Any, log_q: Array, log_start: Array, tokens: Array) -> Array:
        """s for every next token, [B, T, V]; with `structured` it is a reward that corrects the
        start, minus log q."""
        return tk.distributions(scorer, critic, tokens) + (log_start - log_q if structured else 0.0)

    def over_prefixes(demos: Sequences, each: Array) -> Array:
        return jnp.sum(demos.weight[:, None] * jnp.where(demos.mask, each, 0.0)) / mdp.horizon

    def critic_loss(critic: Any, demos: Sequences, log_q: Array, log_start: Array) -> Array:
        s = ratio(critic, log_q, log_start, demos.tokens)
        real = tk.pick(s, demos.tokens, demos.mask)
        gain = (
            (softplus(-real), softplus(s))
            if training == "logistic"
            else (-d.witness(real), d.reward(s))
        )
        value = over_prefixes(demos, gain[0] + jnp.sum(jnp.exp(log_q) * gain[1], axis=-1))
        if gradient_penalty:  # the mean over one redrawn token, exactly
            value += gradient_penalty * over_prefixes(
                demos, jnp.mean((s - real[..., None]) ** 2, axis=-1)
            )
        return value

    def init(key: Array, params: Params) -> ContrastState:
        critic = scorer.init(key, params)
        return ContrastState(critic, tx.init(critic), params, jnp.zeros((), jnp.int32))

    def prepare(key: Array, params: Params, aux: ContrastState, batch: Sequences):
        demos = tk.normalise(batch)
        known = lambda x: (
            tk.distributions(policy, params, x.tokens),
            tk.distributions(policy, aux.start, x.tokens),
        )
        log_q, log_start = known(demos)

        def learn(_, carry):
            critic, opt = carry
            updates, opt = tx.update(
                jax.grad(critic_loss)(critic, demos, log_q, log_start), opt, critic
            )
            return optax.apply_updates(critic, updates), opt

        critic, opt = jax.lax.fori_loop(0, steps, learn, (aux.params, aux.opt))
        reward = paid.reward(ratio(critic, log_q, log_start, demos.tokens))
        reward = jnp.where(aux.step < warmup, 0.0, reward - entropy * log_q)
        metrics = {"tokens": demos.mask.sum(), **check(key, params, aux, demos)}
        return ContrastState(critic, opt, aux.start, aux.step + 1), Contrast(demos, reward), metrics

    def check(key: Array, params: Params, aux: ContrastState, demos: Sequences) -> dict:
        """Health on held-out demonstrations, fresh tokens of the policy, and these demonstrations
        before learning from them."""
        held_key, token_key = jax.random.split(key)
        held = mdp.held_out(held_key, demos.tokens.shape[0])

        def logits(x: Sequences, tokens: Array | None) -> Array:
            log_q = tk.distributions(policy, params, x.tokens)
            s = ratio(aux.params, log_q, tk.distributions(policy, aux.start, x.tokens), x.tokens)
            drawn = jax.random.categorical(token_key, log_q) if tokens is None else tokens
            # a place without an action repeats the string's first one
            first = jnp.argmax(x.mask, axis=1)[:, None]
            picked = tk.pick(s, drawn, x.mask)
            return jnp.where(x.mask, picked, jnp.take_along_axis(picked, first, axis=1))

        found = health(logits(held, held.tokens), logits(held, None), logits(demos, demos.tokens))
        return found | {"length_accuracy": length_accuracy(demos, demos, held)}

    def loss(params: Params, aux: ContrastState, batch: Contrast):
        chance = jnp.exp(tk.distributions(policy, params, batch.sequences.tokens))
        return -over_prefixes(batch.sequences, jnp.sum(chance * batch.reward, axis=-1)), {}

    return Objective(init, prepare, loss)
