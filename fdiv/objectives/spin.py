"""SPIN, self-play fine-tuning: the policy learns to tell demonstrations from strings of an older
self.

    loss = -E_{x ~ p, y ~ old}[ log sigmoid(h(x) - h(y)) ],   h = beta log q / old of whole strings

and old becomes q every so many updates. Of all laws old (p / old)^{1 / beta} has the least loss:
with beta 1 that is the expert, with less it is beyond it, and rounds run to their ends swing ever
wider for beta < 1/2 (the error is multiplied by 1 - 1 / beta). While q is old the expected gradient
is beta / 2 times forward KL's, whatever they are, so that a class that does not hold the expert
comes to rest where likelihood would.

That loss is js's of `fdiv.pairwise`, whose bound h maximises: `spin:F` has any other f's, and with
the form `single` the bound of single strings,

    loss = E_{y ~ old}[ reward(h(y)) ] - E_{x ~ p}[ witness(h(x)) ],

for js noise-contrastive estimation against the old policy (SPACE's regime), for forward_kl
likelihood itself at beta 1, for pearson_chi2 SPIF's regime. Either bound is reached at the same h,
so what was said of the least loss and of rounds holds for every f; while q is old the gradient is
2 beta f''(1) times forward KL's with pairs, and half of that without. They differ in between.
Sources: Chen et al. 2024 (SPIN, arXiv 2401.01335); Liao et al. 2026 (IRIS, arXiv 2604.20933),
which sorts self-play losses by divergence; that SPIN's is JS of pairs is computed here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from fdiv import divergences, pairwise
from fdiv import tokens as tk
from fdiv.checks import buildable
from fdiv.comparisons import Compared, log_probs, report
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
    Pairs,
    Params,
    Sequences,
    hidden,
)

Form = Literal["pairs", "single"]
BETWEEN = (  # what a table says of it
    "between renewals of the older self its gradient is no divergence's of the two laws; what is "
    "shown is forward_kl, whose direction it has just after one, and whose fixed points."
)
Loss = Callable[[Array, Array], Array]  # h of demonstrations, h of the old policy's -> of each row


@dataclasses.dataclass(frozen=True)
class Spin(Method):
    """Self-play fine-tuning (SPIN), by any f's bound."""

    kind: ClassVar = "spin"
    reusable = True
    beta: float = ranged(1.0, above=0)
    """Weight of the log-ratio to the old policy in what is told apart."""
    refresh: int = ranged(20, least=1)
    """Updates after which the old policy is the policy as it then is."""
    form: Form = "pairs"
    """What is told apart: pairs of a demonstration and an old answer (SPIN), or single strings
    (SPACE, SPIF)."""
    learning_rate: float | None = ranged(None, above=0)
    """Learning rate of the policy, in place of the one common to all methods."""
    divergence: str = hidden("js")

    @property
    def look(self) -> Look:
        own = {"colour": "#44AA99"} if self.divergence == "js" else {}
        return Look("<" if self.form == "pairs" else ">", "-.", "an older self", **own)

    def check(self) -> None:
        check_ranges(self)

    def build(self, components: Components) -> Objective:
        buildable(self, components)
        d = divergences.parse(self.divergence)
        divergences.refuse_steps(d)
        return spin(components, self.beta, self.refresh, loss_of(d, self.form))

    def claim(self) -> Claim:
        pairs = 2.0 if self.form == "pairs" else 1.0
        factor = f"{pairs * self.beta / 4:g}"  # f''(1) of js is 1/4
        if self.divergence != "js":
            factor = f"{pairs * self.beta:g} f''(1)"
        sentence = (
            f"{factor} times the gradient of sequence forward_kl just after the old policy is "
            "renewed"
        )
        later = (
            ", as at every update."
            if self.refresh == 1
            else "; no divergence's in between, with the same fixed points."
        )
        aside = "" if self.refresh == 1 else BETWEEN
        return Claim("forward_kl", Level.sequence, sentence + later, aside=aside)

    def variants(self) -> Sequence[Mapping[str, Any]]:
        return [{"divergence": "pearson_chi2", "form": "single"}] if self.divergence == "js" else ()


def loss_of(d: Divergence, form: Form = "pairs") -> Loss:
    """Of rows of one demonstration and one old answer each."""
    if form == "pairs":
        return lambda demos, samples: pairwise.lost(d, demos - samples)
    return lambda demos, samples: d.reward(samples) - d.witness(demos)


class SpinState(NamedTuple):
    old: Params
    step: Array


def spin(
    components: Components, beta: float = 1.0, refresh: int = 20, each: Loss | None = None
) -> Objective:
    """The objective on a batch of demonstrations, whose prompts the old policy answers as well."""
    policy, mdp = components.policy, components.mdp
    each = each or loss_of(divergences.js())

    def told(log_q: tuple[Array, Array], x: Compared) -> tuple[Array, Array]:
        demos, samples = (beta * (new - old) for new, old in zip(log_q, x.log_ref))
        return demos, samples

    def prepare(key, params, aux, batch):
        renew = aux.step % refresh == 0
        old = jax.tree.map(lambda new, before: jnp.where(renew, new, before), params, aux.old)
        samples = components.rollout(key, policy, old, tk.prompts_of(batch, mdp.horizon))[0]
        pairs = pair_up(tk.normalise(batch), tk.normalise(samples), components.enumerated)
        x = Compared(pairs, log_probs(components, Model(policy, old), pairs))
        log_q = log_probs(components, Model(policy, params), pairs)
        demos, answers = told(log_q, x)
        return SpinState(old, aux.step + 1), x, report(pairs, log_q, demos - answers)

    def loss(params, aux, batch):
        log_q = log_probs(components, Model(policy, params), batch.pairs)
        return batch.pairs.chosen.weight @ each(*told(log_q, batch)), {}

    return Objective(lambda key, params: SpinState(params, jnp.zeros((), jnp.int32)), prepare, loss)


def pair_up(demos: Sequences, samples: Sequences, whole: bool) -> Pairs:
    """Row with row; of whole populations each with each, by the product of their weights."""
    if not whole:
        return Pairs(demos, samples._replace(weight=demos.weight))
    rows, others = demos.tokens.shape[0], samples.tokens.shape[0]
    weight = jnp.outer(demos.weight, samples.weight).ravel()
    demos = jax.tree.map(lambda x: jnp.repeat(x, others, axis=0), demos)
    samples = jax.tree.map(lambda x: jnp.tile(x, (rows, *[1] * (x.ndim - 1))), samples)
    return Pairs(demos._replace(weight=weight), samples._replace(weight=weight))
