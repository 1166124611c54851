"""KTO: every string is judged alone, desirable or not, against a reference point.

    u    = beta (log q(x) / ref(x) - z)
    loss = E[ desirable (1 - sigmoid(u)) of a chosen string, undesirable (1 - sigmoid(-u)) of a
    rejected one ]

z is KL(q||ref) as estimated from answers to other rows' prompts, at least 0, and not
differentiated. The comparison that a row may be is not read: one labelled alone counts as well. Up
to a constant the loss is -E[net(x) sigmoid(u)], net the weight of x among the chosen less that
among the rejected: what is more often rejected is driven out altogether, however close the vote,
and how good the others are is seen only through how often they win. Source: Ethayarajh et al. 2024
(arXiv 2402.01306)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import sigmoid

from fdiv import tokens as tk
from fdiv.checks import buildable
from fdiv.comparisons import (
    NO_RETURN,
    both,
    compare_rows,
    divisor,
    log_probs,
    mean,
    regulariser,
    report,
    reweighted,
    start,
)
from fdiv.estimators import to_actions
from fdiv.ranges import check_ranges, ranged
from fdiv.types import PAD, Claim, Components, Look, Method, Model, Objective, Pairs, Sequences


@dataclasses.dataclass(frozen=True)
class Kto(Method):
    """Kahneman-Tversky optimisation."""

    kind: ClassVar = "kto"
    reusable = True
    look = Look("D", ":", "labels one at a time", "#CC79A7")
    reads = "labels"
    desirable: float = ranged(1.0, above=0)
    """Weight of chosen strings."""
    undesirable: float = ranged(1.0, above=0)
    """Weight of rejected strings."""
    learning_rate: float | None = ranged(None, above=0)
    """Learning rate of the policy, in place of the one common to all methods."""

    def check(self) -> None:
        check_ranges(self)

    def build(self, components: Components) -> Objective:
        buildable(self, components)
        return kto(components, self.desirable, self.undesirable)

    def claim(self) -> Claim:
        sentence = (
            "KTO: strings rejected more often than chosen (by weight) are driven out, "
            "however close the vote; "
        )
        return Claim(
            "reverse_kl",
            "return",
            sentence + "not ref exp(r / beta), and no divergence's gradient on the way.",
            aside=NO_RETURN,
        )


class Labelled(NamedTuple):
    """Strings by weight, the reference's log-probs of them, and the reference point."""

    pairs: Pairs
    log_ref: tuple[Array, Array]  # [n] each
    point: Array  # [n] z, the same in every row


def kto(components: Components, desirable: float = 1.0, undesirable: float = 1.0) -> Objective:
    """The objective on a batch of comparisons, or of strings labelled alone."""
    mdp, (_, beta, known) = components.mdp, regulariser(components.mdp)

    def prepare(key, params, aux, batch):
        own, reference = Model(components.policy, params), known or Model(components.policy, aux)
        others = mismatched(batch, mdp.horizon, mdp.eos)
        drift = tk.log_probs(*own, others, mdp.vocab).sum(1)
        drift -= tk.log_probs(*reference, others, mdp.vocab).sum(1)
        point = jnp.maximum(mean(drift, others.weight), 0.0)

        paired, same = compare_rows(batch)
        weights = [jnp.where(same, 0.0, x.weight) for x in batch]
        total = divisor(jnp.asarray(sum(w.sum() for w in weights)))
        pairs = reweighted(batch, *(w / total for w in weights))
        log_q, log_ref = log_probs(components, own, pairs), log_probs(components, reference, pairs)
        chosen, rejected = (beta * (q - ref) for q, ref in zip(log_q, log_ref))
        metrics = {
            "identical": mean(same, jnp.where(paired, batch.chosen.weight, 0.0)),
            "reference_point": point,
        }
        x = Labelled(pairs, log_ref, jnp.broadcast_to(point, paired.shape))
        return aux, x, report(pairs, log_q, chosen - rejected) | metrics

    def loss(params, aux, batch):
        log_q = log_probs(components, Model(components.policy, params), batch.pairs)
        chosen, rejected = (beta * (q - ref - batch.point) for q, ref in zip(log_q, batch.log_ref))
        lost = desirable * batch.pairs.chosen.weight @ sigmoid(-chosen)
        return lost + undesirable * batch.pairs.rejected.weight @ sigmoid(rejected), {}

    return Objective(lambda key, params: start(mdp, params), prepare, loss)


def mismatched(pairs: Pairs, horizon: int, eos: tk.Eos) -> Sequences:
    """Each row's prompt with the next row's answers, the chosen and the rejected one, by the
    answers' weights. [2n, T]"""
    labelled = (pairs.chosen.weight > 0)[:, None]
    asked = pairs.chosen._replace(
        tokens=jnp.where(labelled, pairs.chosen.tokens, pairs.rejected.tokens),
        mask=jnp.where(labelled, pairs.chosen.mask, pairs.rejected.mask),
    )
    prompts = jax.tree.map(lambda x: jnp.concatenate([x, x]), tk.prompts_of(asked, horizon))
    answers = both(
        Pairs(*(jax.tree.map(lambda x: jnp.roll(x, -1, axis=0), side) for side in pairs))
    )
    actions = to_actions(jnp.where(answers.mask, answers.tokens, PAD), answers.mask, horizon)
    return tk.append(prompts._replace(weight=answers.weight), actions, eos)
