"""f-DPG: any f to the target p = ref e^{r / beta} / Z of a reward, whose normaliser Z is estimated
on the way.

    -grad D_f(p||q) = E_q[ (reward(s) - baseline) grad log q ],
    s = log ref + r / beta - log Z^ - log q of whole strings
    Z^ <- (1 - rate) Z^ + rate mean over a batch of ref e^{r / beta} / q

p is the optimum of E_q[r] - beta KL(q||ref) (`fdiv.regularised`): where RLHF goes by reverse KL,
this goes by any f. The mean estimates Z without bias, and counts from the next batch on, so a
batch's own strings do not judge themselves (the first one's have to). A wrong Z^ is the same f to
the unnormalised p Z / Z^: to reverse_kl it is a constant, which the baseline removes; in the alpha
family (both chi-squares, forward_kl, hellinger2) it scales the gradient by (Z / Z^)^a; elsewhere it
turns it. With prompts each has a Z of its own, so only reverse_kl is left there. Sources: Go et al.
2023 (arXiv 2302.08215); Khalifa, Elsahar & Dymetman 2021 (arXiv 2012.11635) for the running
estimate; Korbak et al. 2022 (arXiv 2206.00761) for the baseline and for what RL with a KL penalty
has to do with it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.nn import logsumexp

from fdiv import divergences, prefixes
from fdiv import tokens as tk
from fdiv.checks import buildable, known_expert, positive, present
from fdiv.estimators import Scored, advantages
from fdiv.ranges import check_ranges, ranged
from fdiv.types import (
    Claim,
    Components,
    Divergence,
    Level,
    Look,
    Method,
    Model,
    Objective,
    Params,
    Sequences,
    TokenMDP,
    UsageError,
    hidden,
)

Normaliser = Literal["estimated", "exact"]
RATE = 0.1


@dataclasses.dataclass(frozen=True)
class Fdpg(Method):
    """f-divergence policy gradient to a reward's target distribution (f-DPG)."""

    kind: ClassVar = "fdpg"
    look = Look("h", "-", "score, its target's law", "#332288")
    divergence: str = hidden("")
    normaliser: Normaliser = "estimated"
    """Z of the target: estimated from the policy's strings, or exact, the known expert being the
    target."""
    rate: float = ranged(RATE, above=0, most=1)
    """estimated: share of the newest batch in the running mean."""
    learning_rate: float | None = ranged(None, above=0)
    """Learning rate of the policy, in place of the one common to all methods."""

    def check(self) -> None:
        check_ranges(self)
        if self.normaliser == "exact" and self.rate != RATE:
            raise UsageError(
                "rate",
                self.rate,
                "an exact normaliser is not averaged.",
                "Drop it, or use estimated.",
            )

    def build(self, components: Components) -> Objective:
        buildable(self, components)
        if self.normaliser == "exact":
            known_expert(components.mdp, f"fdpg:{self.divergence}")
        else:
            _refuse_without_target(components.mdp)
        return fdpg(components, divergences.parse(self.divergence), self.normaliser, self.rate)

    def claim(self) -> Claim:
        exact = self.normaliser == "exact"
        sentence = (
            f"Unbiased gradient of sequence {self.divergence} to "
            f"{'the expert' if exact else 'ref exp(r / beta) / Z'}"
        )
        if exact:
            sentence += "; its law is known."
        elif self.divergence == "reverse_kl":
            sentence += "; Z is not needed."
        else:
            sentence += ", but for the error of the estimated Z."
        return Claim(self.divergence, Level.sequence, sentence)


def _refuse_without_target(mdp: TokenMDP) -> None:
    """Raise `UsageError` where there is no ref e^{r / beta}, or it is not what the task calls its
    optimum."""
    if mdp.score is None or mdp.regulariser is None:
        fix = (
            "Use a benchmark with one (rewarded, arithmetic), or a method that learns from "
            "demonstrations."
        )
        raise UsageError(
            "methods",
            "fdpg",
            "needs a task with a score and a reference, and this one has none.",
            fix,
        )
    positive("beta", mdp.regulariser.beta)
    if mdp.regulariser.divergence != "reverse_kl":
        problem = "ref exp(r / beta) is the optimum under reverse_kl alone."
        fix = (
            "Use reverse_kl there (any f may follow fdpg:), or an exact normaliser "
            "where the expert is known."
        )
        raise UsageError("divergence", mdp.regulariser.divergence, problem, fix)


class FdpgState(NamedTuple):
    log_z: Array  # log of the running mean
    step: Array
    start: Params  # the policy when training began, where that is the reference; else ()


def fdpg(
    components: Components, d: Divergence, normaliser: Normaliser = "estimated", rate: float = RATE
) -> Objective:
    """The objective on a batch of prompts."""
    policy, mdp = components.policy, components.mdp
    estimated = normaliser == "estimated"
    known = present(mdp.regulariser, "reference").reference if estimated else mdp.expert

    def target(aux: FdpgState, x: Sequences) -> Array:
        """log p of each string, [B]; up to log Z where that is estimated."""
        model = known or Model(policy, aux.start)
        log_p = tk.log_probs(*model, x, mdp.vocab).sum(1)
        if not estimated:
            return log_p
        return log_p + present(mdp.score, "score")(x) / present(mdp.regulariser, "reference").beta

    def init(key, params):
        return FdpgState(
            jnp.zeros((), jnp.result_type(float)), jnp.zeros((), jnp.int32), () if known else params
        )

    def prepare(key, params, aux, batch):
        x, log_q = components.rollout(key, policy, params, tk.prompts_of(batch, mdp.horizon))
        if estimated and d.name != "reverse_kl" and x.tokens.shape[1] > mdp.horizon:
            fix = "Use fdpg:reverse_kl, which needs no normaliser, or rloo."
            raise UsageError(
                "methods",
                f"fdpg:{d.name}",
                "each prompt has a normaliser of its own, and one is estimated.",
                fix,
            )
        s = target(aux, x) - log_q.sum(1)
        x = x._replace(weight=jnp.where(jnp.isfinite(s), x.weight, 0.0))  # a score may be broken
        s = jnp.where(jnp.isfinite(s), s, 0.0)
        sequences = tk.normalise(x)
        log_z = aux.log_z
        if estimated:
            newest = logsumexp(s, b=sequences.weight)
            log_z = jnp.where(aux.step == 0, newest, log_z)
            share = jnp.log(jnp.asarray([1 - rate, rate], s.dtype))
            aux = aux._replace(
                log_z=jnp.logaddexp(share[0] + log_z, share[1] + newest).astype(log_z.dtype)
            )
        s = s - log_z
        all_actions = jnp.ones_like(s, bool)[:, None]
        advantage = jnp.where(x.mask, advantages(d.reward(s)[:, None], all_actions, x.weight), 0.0)
        metrics = {"tokens": x.mask.sum(), "log_z": log_z, "log_ratio": sequences.weight @ s}
        return (
            aux._replace(step=aux.step + 1),
            Scored(sequences, advantage),
            metrics | {"not_finite": jnp.mean(x.weight == 0)},
        )

    def loss(params, aux, batch):
        return prefixes.policy_gradient_loss(Model(policy, params), batch, mdp.vocab), {}

    return Objective(init, prepare, loss)
