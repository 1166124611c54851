"""PPO with a penalty for leaving a reference: a clipped ratio, and a learned value function in
place of a baseline.

    A_k   = sum over j >= k of lambda^(j - k) (r_j + V(after j) - V(before j)),   V = 0 at the end
    loss  = -E[ sum_k min(rho_k A_k, clip(rho_k, 1 - c, 1 + c) A_k) ] - entropy bonus
    rho   = q / q_old, r_j the reward of action j

V learns E[A_k + V] by squared error, its change clipped likewise. At lambda 1 the gradient is exact
whatever V is; below, where V is. Sources: Schulman et al. 2017 (arXiv 1707.06347), 2016 (GAE, arXiv
1506.02438); Ziegler et al. 2019 (arXiv 1909.08593) for the penalty."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jax import Array

from fdiv import prefixes
from fdiv import tokens as tk
from fdiv.checks import buildable, present
from fdiv.episodes import Charged, penalty_of, return_claim, stage
from fdiv.estimators import discounted_to_go, to_actions, to_columns
from fdiv.penalties import Drawn, Penalty, marker
from fdiv.ranges import MOST_STEPS, check_ranges, ranged
from fdiv.surrogates import clipped, stopped
from fdiv.types import (
    Claim,
    Components,
    Look,
    Method,
    Model,
    Objective,
    Sequences,
    hidden,
)


@dataclasses.dataclass(frozen=True)
class Ppo(Method):
    """Proximal policy optimisation."""

    kind: ClassVar = "ppo"
    needs = ("critic",)
    reusable = True
    charges = True
    penalty: Penalty | None = hidden(None)
    clip: float = ranged(0.2, above=0, below=1)
    """How far the ratio q / q_old may leave 1 and still be paid for."""
    gae_lambda: float = ranged(0.95, least=0, most=1)
    """Weight of later surprises in an advantage: 1 trusts returns, 0 the value function."""
    entropy: float = ranged(0.0, least=0)
    """Coefficient of an entropy bonus of next-token laws; it changes the optimum."""
    value_learning_rate: float = ranged(0.02, above=0)
    """Learning rate of the value function."""
    value_steps: int = ranged(4, least=1, most=MOST_STEPS)
    """Value steps per update."""
    value_clip: float = ranged(0.2, above=0)
    """How far a value may move in one update."""
    learning_rate: float | None = ranged(None, above=0)
    """Learning rate of the policy, in place of the one common to all methods."""

    @property
    def look(self) -> Look:
        return Look(marker(self.penalty, "P"), "-", "score, value function", "#D55E00")

    def check(self) -> None:
        check_ranges(self)

    def build(self, components: Components) -> Objective:
        buildable(self, components)
        return ppo(
            components,
            penalty_of(self.penalty, components),
            clip=self.clip,
            gae_lambda=self.gae_lambda,
            entropy=self.entropy,
            value_learning_rate=self.value_learning_rate,
            value_steps=self.value_steps,
            value_clip=self.value_clip,
        )

    def claim(self) -> Claim:
        biases = (
            [f"advantages trust the value function (lambda {self.gae_lambda:g})"]
            if self.gae_lambda < 1
            else []
        )
        biases += [f"an entropy bonus of {self.entropy:g}"] if self.entropy else []
        return return_claim(
            self.penalty, "Clipped policy gradient with a value function", "; ".join(biases)
        )

    def variants(self) -> Sequence[Mapping[str, Any]]:
        return [] if self.penalty else [{"gae_lambda": 1.0}, {"entropy": 0.1}]


class PpoState(NamedTuple):
    charged: Charged
    value: Any  # (params, optimiser state)


def ppo(
    components: Components,
    penalty: Penalty,
    clip: float = 0.2,
    gae_lambda: float = 0.95,
    entropy: float = 0.0,
    value_learning_rate: float = 0.02,
    value_steps: int = 4,
    value_clip: float = 0.2,
) -> Objective:
    """The objective on a batch of prompts."""
    on, critic, horizon = (
        stage(components, penalty),
        present(components.critic, "critic"),
        components.mdp.horizon,
    )
    tx = components.optimiser(value_learning_rate)

    def values(params, x: Sequences) -> Array:
        """V before each action, [B, H]; 0 after the last."""
        every = jnp.where(x.mask, critic.head(params, critic.trunk(params, x.tokens))[..., 0], 0.0)
        return to_actions(every, x.mask, horizon)

    def init(key, params):
        value = critic.init(key, params)
        return PpoState(on.init(params), (value, tx.init(value)))

    def prepare(key, params, aux, batch):
        x = on.play(key, params, aux.charged, batch, 1)
        before = values(aux.value[0], x.sequences)
        surprise = x.rewards + jnp.pad(before, [(0, 0), (0, 1)])[:, 1:] - before
        advantage = jnp.where(x.mask, discounted_to_go(surprise, gae_lambda), 0.0)
        sequences = tk.normalise(x.sequences)
        value = _learn(aux.value, sequences, before, before + advantage)
        charged, metrics = on.after(aux.charged, x)
        explained = 1 - jnp.sum(sequences.weight @ advantage**2) / jnp.maximum(
            jnp.sum(sequences.weight @ (advantage + before) ** 2), 1e-9
        )
        advantage = to_columns(advantage, x.sequences.mask)
        metrics |= {"value_explained": explained}
        return PpoState(charged, value), Drawn(sequences, x.log_old, x.log_ref, advantage), metrics

    def _learn(state, x: Sequences, before: Array, wanted: Array):
        def loss(params):
            now = values(params, x)
            chex.assert_equal_shape([now, before, wanted])
            bounded = before + jnp.clip(now - before, -value_clip, value_clip)
            mask = to_actions(x.mask, x.mask, horizon)
            return 0.5 * jnp.sum(
                x.weight
                @ jnp.where(mask, jnp.maximum((now - wanted) ** 2, (bounded - wanted) ** 2), 0.0)
            )

        def step(state, _):
            params, opt = state
            updates, opt = tx.update(jax.grad(loss)(params), opt, params)
            return (optax.apply_updates(params, updates), opt), None

        return jax.lax.scan(step, state, None, length=value_steps)[0]

    def loss(params, aux, batch):
        x = batch.sequences
        log_q = tk.log_probs(components.policy, params, x, components.mdp.vocab)
        earned = jnp.sum(x.weight @ clipped(batch, log_q, clip))
        total = on.charge(params, aux.charged, batch, log_q) - earned
        if entropy:
            own = Model(components.policy, params)
            total -= entropy * prefixes.entropy_sum(own, x, components.mdp.vocab)
        return total, {"clip_share": stopped(batch, log_q, clip)}

    return Objective(init, prepare, loss)
