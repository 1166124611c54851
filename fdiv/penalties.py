"""Penalties for leaving a reference, KL(q||ref): how they are estimated, and what each way to apply them has as its gradient.

With `r = ref / q` of what was sampled from q, and `s = log r`:

    k1 = -log r            unbiased; takes either sign
    k2 = (log r)^2 / 2     biased, never negative
    k3 = r - 1 - log r     unbiased, never negative (`f(r)` of reverse_kl); infinite variance where ref's tails are heavy

An estimate of a value need not be a loss. With k of whole strings, the expected gradient on policy is

    reward   -k is earned by the string       k1: exact; k2, k3: of second order, so next to nothing near the reference
    loss     k itself is differentiated       k1: zero; k2: exact; k3: the gradient of KL(ref||q)
    ratio    so is k q / q_old                k1, k3: exact; k2: exact plus what k2 earns as a reward

Token by token, `reward` with all that follows (discount 1) stays what it is for k1; `loss` and `ratio` hold prefixes fixed,
as does `reward` at discount 0. Sources: Schulman 2020 (joschu.net/blog/kl-approx.html); Tang & Munos 2025 (arXiv 2506.09477).
"""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jax import Array

from fdiv import tokens as tk
from fdiv.checks import one_of, share
from fdiv.estimators import Scored, advantages, discounted_to_go, score_function_loss, to_actions, to_columns
from fdiv.types import Kit, Model, Objective, Sequences, UsageError

Estimator = Literal["k1", "k2", "k3"]
Placement = Literal["reward", "loss", "ratio"]
Unit = Literal["token", "string"]


def k1(s: Array) -> Array:
    """-log r, elementwise in s = log r."""
    return -s


def k2(s: Array) -> Array:
    """(log r)^2 / 2, elementwise in s = log r."""
    return 0.5 * s**2


def k3(s: Array) -> Array:
    """r - 1 - log r, elementwise in s = log r."""
    return jnp.expm1(s) - s


ESTIMATORS = {"k1": k1, "k2": k2, "k3": k3}


@dataclasses.dataclass(frozen=True)
class Penalty:
    """How KL(policy||reference) is estimated and applied."""

    estimator: Estimator = "k1"
    """k1 (the log-ratio), k2 (half its square) or k3 (r - 1 - log r)."""
    placement: Placement = "reward"
    """Earned as a reward, differentiated as a loss, or as a loss times q / q_old."""
    unit: Unit = "token"
    """What k is taken of: each token, or whole strings."""
    discount: float = 1.0
    """Rewards per token: weight of what follows an action; 0 holds later prefixes fixed."""

    def check(self) -> None:
        """Raise `UsageError` for what cannot be, or cannot have been meant."""
        for field, choices in (("estimator", Estimator), ("placement", Placement), ("unit", Unit)):
            one_of(f"penalty.{field}", getattr(self, field), choices)
        share("penalty.discount", self.discount)
        if self.discount != 1 and (self.placement, self.unit) != ("reward", "token"):
            problem = f"a {self.placement} per {self.unit} has nothing to discount."
            raise UsageError("penalty.discount", self.discount, problem, "Leave it at 1, or use a reward per token.")
        if (self.estimator, self.placement) == ("k1", "loss"):
            problem = "the expected gradient of k1 as a loss is exactly zero."
            raise UsageError("penalty.placement", self.placement, problem, "Use k1 as a reward, or k2 per string as a loss.")

    def build(self, kit: Kit, reference: Model) -> Objective:
        """The penalty alone, as an objective."""
        self.check()
        return kl_penalty(kit, reference, **dataclasses.asdict(self))


class Drawn(NamedTuple):
    """The policy's strings, the log-probs of their actions when drawn and under the reference, and what each was worth."""

    sequences: Sequences
    log_old: Array  # [B, T]
    log_ref: Array  # [B, T]
    advantages: Array  # [B, T]


def kl_penalty(
    kit: Kit,
    reference: Model,
    estimator: Estimator = "k1",
    placement: Placement = "reward",
    unit: Unit = "token",
    discount: float = 1.0,
) -> Objective:
    """Any estimator in any placement, the vain ones too, on the prompts of a batch."""
    policy, mdp, estimate = kit.policy, kit.mdp, ESTIMATORS[estimator]
    per_unit = (lambda x: x.sum(1, keepdims=True)) if unit == "string" else (lambda x: x)

    def prepare(key, params, aux, batch):
        sequences, log_old = kit.rollout(key, policy, params, tk.prompts_of(batch, mdp.horizon))
        log_ref = tk.log_probs(*reference, sequences, mdp.vocab)
        mask = to_actions(sequences.mask, sequences.mask, mdp.horizon)
        earned = -estimate(per_unit(to_actions(log_ref - log_old, sequences.mask, mdp.horizon)))
        returns = discounted_to_go(earned, discount) if unit == "token" else jnp.broadcast_to(earned, mask.shape)
        worth = to_columns(advantages(returns, mask, sequences.weight), sequences.mask)
        return aux, Drawn(tk.normalise(sequences), log_old, log_ref, worth), {"tokens": sequences.mask.sum()}

    def loss(params, aux, batch):
        log_q = tk.log_probs(policy, params, batch.sequences, mdp.vocab)
        if placement == "reward":
            return score_function_loss(log_q, Scored(batch.sequences, batch.advantages)), {}
        k = estimate(per_unit(batch.log_ref - log_q))
        if placement == "ratio":
            k *= jnp.exp(per_unit(log_q - batch.log_old))
        return jnp.sum(batch.sequences.weight[:, None] * k), {}

    return Objective(lambda key, params: (), prepare, loss)
