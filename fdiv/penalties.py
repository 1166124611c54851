"""Penalties for leaving a reference, KL(q||ref): how they are estimated, and what each way to apply
them has as its gradient.

With `r = ref / q` of what was sampled from q, and `s = log r`:

    k1 = -log r            unbiased; takes either sign
    k2 = (log r)^2 / 2     biased, never negative
    k3 = r - 1 - log r     unbiased, never negative (`f(r)` of reverse_kl); infinite variance where
                           ref's tails are heavy
    exact                  the sum over the vocabulary at each prefix

An estimate of a value need not be a loss. With k of whole strings, the expected gradient on policy
is

    reward   -k is a reward of the string  k1: exact; k2, k3: of second order, so next to nothing
                                           near the reference
    loss     k itself is differentiated    k1: zero; k2: exact; k3: the gradient of KL(ref||q)
    ratio    so is k q / q_old             k1, k3: exact; k2: exact plus k2 as a reward

Token by token, `reward` with all that follows (discount 1) stays what it is for k1; `loss` and
`ratio` hold prefixes fixed, as does `reward` at discount 0. The exact sum is differentiated where
it stands; as a reward what follows is earned as well, which makes it exact. Sources: Schulman 2020
(joschu.net/blog/kl-approx.html); Tang & Munos 2025 (arXiv 2506.09477)."""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import chex
import jax.numpy as jnp
from jax import Array

from fdiv import groups, prefixes
from fdiv import tokens as tk
from fdiv.checks import present
from fdiv.divergences import reverse_kl
from fdiv.estimators import (
    Scored,
    advantages,
    discounted_to_go,
    score_function_loss,
    to_actions,
    to_columns,
)
from fdiv.ranges import check_ranges, ranged
from fdiv.types import (
    ALONE,
    Alike,
    Components,
    Divergence,
    Model,
    Objective,
    Params,
    Policy,
    Sequences,
    UsageError,
)

Estimator = Literal["k1", "k2", "k3", "exact"]
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
# what is drawn at a method that sets its own penalty -> matplotlib's marker
MARKERS = {
    "k2-loss": "v",
    "k2-loss-string": "<",
    "k3-loss": "X",
    "k3-loss-string": ">",
    "exact-loss": "s",
    "exact-reward": "p",
    "k3-ratio": "h",
    "k3-ratio-string": "H",
    "k2-reward": "8",
    "k3-reward": "D",
}


@dataclasses.dataclass(frozen=True)
class Penalty:
    """How the divergence from the reference is estimated and applied."""

    estimator: Estimator = "k1"
    """k1 (the log-ratio, or any f's reward of it), k2 (half its square), k3 (r - 1 - log r) or
    exact (sum over tokens)."""
    placement: Placement = "reward"
    """Earned as a reward, differentiated as a loss, or as a loss times q / q_old."""
    unit: Unit = "token"
    """What k is taken of: each token, or whole strings."""
    discount: float = ranged(1.0, least=0, most=1)
    """Rewards per token: weight of what follows an action; 0 holds later prefixes fixed."""

    def check(self) -> None:
        """Raise `UsageError` for what cannot be, or cannot have been meant."""
        check_ranges(self)
        refuse = lambda field, problem, fix: UsageError(field, getattr(self, field), problem, fix)
        if self.discount != 1 and (self.placement, self.unit) != ("reward", "token"):
            problem = f"a {self.placement} per {self.unit} has nothing to discount."
            raise refuse("discount", problem, "Leave it at 1, or use a reward per token.")
        if (self.estimator, self.placement) == ("k1", "loss"):
            problem = "the expected gradient of k1 as a loss is exactly zero."
            raise refuse("placement", problem, "Use k1 as a reward, or k2 per string as a loss.")
        if self.estimator == "exact" and (self.placement == "ratio" or self.unit == "string"):
            field = "placement" if self.placement == "ratio" else "unit"
            raise refuse(
                field,
                "the exact sum over the vocabulary has none.",
                "Use token, and reward or loss.",
            )

    @property
    def short(self) -> str:
        """`k3-loss`, `k2-loss-string`: what is written after a method's name."""
        unit = "" if self.unit == "token" else f"-{self.unit}"
        return f"{self.estimator}-{self.placement}{unit}"

    def refuse_unless_kl(self, divergence: str) -> None:
        """Raise `UsageError` where an estimator of a KL is put before another divergence."""
        if divergence != "reverse_kl" and (self.estimator, self.placement, self.unit) != (
            "k1",
            "reward",
            "token",
        ):
            problem = (
                f"as a {self.placement} it estimates KL(policy||reference), and the "
                f"penalty is {divergence}."
            )
            fix = (
                "Leave the penalty at k1 as a reward per token, which earns any f's "
                "reward(s), or use reverse_kl."
            )
            raise UsageError("estimator", self.estimator, problem, fix)

    def bias(self) -> str:
        """What its expected gradient is instead of the penalty's, or nothing where it is the
        penalty's."""
        how = (self.estimator, self.placement, self.unit)
        if self.placement == "reward":
            if self.estimator in ("k2", "k3"):
                return (
                    f"{self.estimator} as a reward is of second order, next to nothing "
                    "near the reference"
                )
            return (
                "" if self.discount == 1 else "the penalty's effect on later prefixes is discounted"
            )
        if how in (("k2", "loss", "string"), ("k1", "ratio", "string"), ("k3", "ratio", "string")):
            return ""
        if how == ("k3", "loss", "string"):
            return "k3 as a loss has the gradient of KL(reference||policy)"
        if how == ("k3", "loss", "token"):
            return (
                "k3 as a loss has the gradient of KL(reference||policy) of tokens, "
                "prefixes held fixed"
            )
        if how[:2] == ("k2", "ratio"):
            return "k2 times the ratio also earns k2 as a reward"
        return "the penalty's effect on later prefixes is dropped"

    def rewards(self, d: Divergence, s: Array, mask: Array, exact: Array | None = None) -> Array:
        """What each action earns, to be added up over what follows. [B, H] of s = log ref - log q
        in action coordinates.

        For k1 action k earns reward(s_k) - reward(s_{k-1}) of the prefix's log-ratios: s of its own
        for reverse_kl. `exact` is the sum over the vocabulary at the prefix before each action,
        which earns nothing itself: it is differentiated."""
        chex.assert_rank(s, 2)
        chex.assert_equal_shape([s, mask])
        if self.placement != "reward":
            return jnp.zeros_like(s)
        if self.estimator == "exact":
            return -self.discount * jnp.pad(present(exact, "exact sum"), [(0, 0), (0, 1)])[:, 1:]
        if self.estimator == "k1" and self.unit == "token":
            reward = d.reward(jnp.cumsum(s, axis=1))
            return jnp.where(
                mask, jnp.diff(reward, axis=1, prepend=jnp.zeros_like(reward[:, :1])), 0.0
            )
        if self.unit == "token":
            return jnp.where(mask, -ESTIMATORS[self.estimator](s), 0.0)
        return last_action(mask) * -ESTIMATORS[self.estimator](s.sum(1, keepdims=True))

    def loss(
        self, log_q: Array, log_old: Array, log_ref: Array, exact: Array | None = None
    ) -> Array:
        """What is differentiated for each string, [B], from [B, T] in string columns (0 off the
        mask)."""
        chex.assert_rank(log_q, 2)
        chex.assert_equal_shape([log_q, log_old, log_ref])
        if self.estimator == "exact":
            return present(exact, "exact sum").sum(1)
        if self.placement == "reward":
            return jnp.zeros_like(log_q[:, 0])
        per_unit = (lambda x: x.sum(1, keepdims=True)) if self.unit == "string" else (lambda x: x)
        k = ESTIMATORS[self.estimator](per_unit(log_ref - log_q))
        if self.placement == "ratio":
            k *= jnp.exp(per_unit(log_q - log_old))
        return k.sum(1)

    def build(self, components: Components, reference: Model) -> Objective:
        """The penalty alone, as an objective."""
        self.check()
        return kl_penalty(components, reference, **dataclasses.asdict(self))


def marker(own: Penalty | None, otherwise: str) -> str:
    """How a method with its own penalty is marked in pictures."""
    return MARKERS.get(own.short, otherwise) if own else otherwise


def last_action(mask: Array) -> Array:
    """1 at each string's last action, else 0. [B, H]"""
    return (mask & ~jnp.pad(mask, [(0, 0), (0, 1)])[:, 1:]).astype(jnp.float32)


def at_prefixes(
    d: Divergence, reference: Model, policy: Policy, params: Params, x: Sequences, vocab: int
) -> Array:
    """D_f(ref||q) of the next token's laws, summed over the vocabulary, before each action; 0 off
    the mask. [B, T]"""
    (each,) = prefixes.divergences([d], reference, Model(policy, params), x, vocab)
    return each


class Drawn(NamedTuple):
    """The policy's strings, the log-probs of their actions when drawn and under the reference, and
    what each was worth."""

    sequences: Sequences
    log_old: Array  # [B, T]
    log_ref: Array  # [B, T]
    advantages: Array  # [B, T]
    alike: Alike = ALONE


def kl_penalty(
    components: Components,
    reference: Model,
    estimator: Estimator = "k1",
    placement: Placement = "reward",
    unit: Unit = "token",
    discount: float = 1.0,
) -> Objective:
    """Any estimator in any placement, the vain ones too, on the prompts of a batch."""
    policy, mdp, d = components.policy, components.mdp, reverse_kl()
    penalty = Penalty(estimator, placement, unit, discount)

    def exactly(params, sequences):
        return (
            at_prefixes(d, reference, policy, params, sequences, mdp.vocab)
            if estimator == "exact"
            else None
        )

    def prepare(key, params, aux, batch):
        sequences, log_old = components.rollout(
            key, policy, params, tk.prompts_of(batch, mdp.horizon)
        )
        log_ref = groups.log_probs_of_given(*reference, sequences, mdp.vocab)
        actions = lambda x: to_actions(x, sequences.mask, mdp.horizon)
        mask, exact = actions(sequences.mask), exactly(params, sequences)
        rewards = penalty.rewards(
            d, actions(log_ref - log_old), mask, None if exact is None else actions(exact)
        )
        returns = discounted_to_go(rewards, discount)
        advantage = to_columns(advantages(returns, mask, sequences.weight), sequences.mask)
        return (
            aux,
            Drawn(tk.normalise(sequences), log_old, log_ref, advantage),
            {"tokens": sequences.mask.sum()},
        )

    def loss(params, aux, batch):
        log_q = tk.log_probs(policy, params, batch.sequences, mdp.vocab)
        direct = penalty.loss(log_q, batch.log_old, batch.log_ref, exactly(params, batch.sequences))
        return score_function_loss(
            log_q, Scored(batch.sequences, batch.advantages)
        ) + batch.sequences.weight @ direct, {}

    return Objective(lambda key, params: (), prepare, loss)
