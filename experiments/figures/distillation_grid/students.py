"""Tiny transformers distilled from the two-template expert, as many as wanted in one program.

Each sees one token back, so that its law is a Markov chain, which cannot hold the two-template
language."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from fdiv import divergences, exact
from fdiv import tokens as tk
from fdiv.learner import learner
from fdiv.objectives.distill import distill
from fdiv.policies import transformer
from fdiv.rollout import sampler
from fdiv.types import Components, Divergence, Objective, TokenMDP

BATCH, RATE = 64, 0.02
SHAPE = transformer.Shape(layers=1, width=16, heads=2, kv_heads=1, window=1)


def student(
    mdp: TokenMDP, names: list[str], updates: int, kind, fraction, seed
) -> dict[str, jax.Array]:
    """One student from start to finish; everything about it may be traced, so that all of them are
    one program."""
    components = Components(
        transformer.policy(SHAPE, mdp.vocab), mdp, sampler(mdp.horizon, mdp.eos)
    )
    family = [divergences.parse(name) for name in names]
    chosen = lambda log_p, log_q: jnp.stack([d.perspective(log_p, log_q) for d in family])[kind]
    objective = mixed(distill(components, Divergence("chosen", chosen, None, None), 0.5), fraction)
    made = learner(objective, optax.adam(optax.cosine_decay_schedule(RATE, updates)))
    start_key, run_key, data_key = jax.random.split(jax.random.fold_in(jax.random.key(0), seed), 3)

    def update(state, _):
        return made.update(state, mdp.demos(jax.random.fold_in(data_key, state.step), BATCH))[
            0
        ], None

    state, _ = jax.lax.scan(
        update, made.init(run_key, components.policy.init(start_key)), None, length=updates
    )
    space = exact.enumerate_strings(mdp.vocab, mdp.horizon, mdp.eos)
    p, q = exact.law(space, *mdp.expert), exact.law(space, components.policy, state.params)
    after = tk.distributions(
        components.policy, state.params, jnp.repeat(jnp.arange(mdp.vocab)[:, None], 2, axis=1)
    )
    return {
        "quality": exact.expectation(q, mdp.statistics["valid"](space.sequences)),
        "diversity": exact.entropy(q),
        "forward_kl": exact.divergence(divergences.forward_kl(), space, p, q),
        "table": jnp.exp(
            jnp.concatenate([after[:1, 0], after[:, 1]])
        ),  # the first token's law, then what follows each token
    }


def mixed(halves: Objective, fraction) -> Objective:
    """Half expert's and half own prefixes, reweighted to any fraction, which may then be traced."""

    def prepare(key, params, aux, batch):
        aux, both, metrics = halves.prepare(key, params, aux, batch)
        own = jnp.arange(both.weight.shape[0]) >= batch.weight.shape[0]
        return (
            aux,
            both._replace(weight=2 * jnp.where(own, fraction, 1 - fraction) * both.weight),
            metrics,
        )

    return halves._replace(prepare=prepare)
