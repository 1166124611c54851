"""What reinforcement learning from a score does before its loss: strings are written, scored,
charged and compared.

    maximise E_q[score] - beta D_f(ref||q)

The score is earned by a string's last action; what the divergence costs is estimated and applied as
a `fdiv.penalties.Penalty` says, and weighed as a `fdiv.control.Control` does, whose state is part
of `aux`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from fdiv import divergences, groups
from fdiv import tokens as tk
from fdiv.control import Control, Weight
from fdiv.estimators import Baseline, advantages, discounted_to_go, to_actions
from fdiv.penalties import Penalty, at_prefixes, last_action
from fdiv.types import (
    ALONE,
    Alike,
    Claim,
    Components,
    Divergence,
    Model,
    Params,
    Regulariser,
    Sequences,
    TokenMDP,
    UsageError,
)

GROUP = 8  # answers to one prompt, unless said otherwise


class Charged(NamedTuple):
    """The state of every method here: the penalty's weight, and the policy as it was (() where the
    reference is known)."""

    weight: Weight
    start: Params


class Episodes(NamedTuple):
    """Strings of the policy, as they were drawn."""

    sequences: Sequences  # weight 0 where the score was not finite
    log_old: Array  # [B, T]
    log_ref: Array  # [B, T]
    score: Array  # [B]
    mask: Array  # [B, H], from here on in action coordinates
    ratio: Array  # [B, H] log ref - log q
    charges: Array  # [B, H] what the penalty pays each action as a reward
    rewards: Array  # [B, H] what each action earns: the charges, and at the last the score
    groups: int  # of how many strings each answers one prompt
    alike: Alike  # which strings begin alike


class Stage(NamedTuple):
    """What the methods share, built from a kit."""

    init: Callable[[Params], Charged]
    play: Callable[
        [Array, Params, Charged, Sequences, int], Episodes
    ]  # key, params, aux, batch, group
    after: Callable[[Charged, Episodes], tuple[Charged, dict]]  # -> next state, metrics
    # the penalty's differentiated part, a sum over rows, from the log-probs of the actions [B, T]
    charge: Callable[[Params, Charged, Any, Array], Array]
    in_loss: bool  # whether it has one
    beta: float


def _scored(mdp: TokenMDP) -> tuple[Callable[[Sequences], Array], Regulariser]:
    """A task's score and what leaving its reference costs. Raises `UsageError` where it lacks
    either."""
    if mdp.score is None or mdp.regulariser is None:
        fix = (
            "Use a benchmark with one (rewarded, arithmetic, or text with checked or reward), or "
            "a method that learns from demonstrations."
        )
        problem = "needs a task with a score, and this one has none."
        raise UsageError("methods", "reinforcement learning", problem, fix)
    return mdp.score, mdp.regulariser


def stage(components: Components, penalty: Penalty) -> Stage:
    """Raises `UsageError` where the task has no score or no reference to be near."""
    policy, mdp, control = components.policy, components.mdp, components.control or Control()
    score, regulariser = _scored(mdp)
    d, beta = divergences.parse(regulariser.divergence), regulariser.beta
    penalty.check()
    penalty.refuse_unless_kl(d.name)
    known = regulariser.reference
    in_loss = penalty.placement != "reward" or penalty.estimator == "exact"
    control.init(beta)

    def reference(aux: Charged) -> Model:
        return known or Model(policy, aux.start)

    def exactly(params: Params, aux: Charged, x: Sequences) -> Array | None:
        return (
            at_prefixes(d, reference(aux), policy, params, x, mdp.vocab)
            if penalty.estimator == "exact"
            else None
        )

    def init(params: Params) -> Charged:
        return Charged(control.init(beta), () if known else params)

    def play(key: Array, params: Params, aux: Charged, batch: Sequences, group: int) -> Episodes:
        prompts = tk.prompts_of(batch, mdp.horizon)
        prompts = prompts if components.enumerated else repeated(prompts, group)
        alike = ALONE if components.enumerated else Alike(group, prompts.tokens.shape[1])
        writer = groups.writer(policy, alike)
        strings, log_old = components.rollout(key, writer, params, prompts)
        log_ref = groups.log_probs_of_given(*reference(aux), strings, mdp.vocab, alike)
        given = jnp.asarray(score(strings), jnp.result_type(float))  # scores may be integers
        finite = jnp.isfinite(given)
        given = jnp.where(finite, given, 0.0)
        actions = lambda x: to_actions(x, strings.mask, mdp.horizon)
        mask, ratio = actions(strings.mask), actions(log_ref - log_old)
        exact = exactly(params, aux, strings)
        charges = penalty.rewards(d, ratio, mask, None if exact is None else actions(exact))
        charges = discounted_to_go(charges, penalty.discount)
        charges = (
            charges - jnp.pad(charges, [(0, 0), (0, 1)])[:, 1:]
        )  # per action again: adding up undoes it
        charges = aux.weight.beta * charges
        rewards = last_action(mask) * given[:, None] + charges
        strings = strings._replace(weight=jnp.where(finite, strings.weight, 0.0))
        group = strings.tokens.shape[0] if components.enumerated else group
        return Episodes(
            strings, log_old, log_ref, given, mask, ratio, charges, rewards, group, alike
        )

    def after(aux: Charged, x: Episodes) -> tuple[Charged, dict]:
        share = x.sequences.weight / x.sequences.weight.sum()
        divergence = share @ measured(d, x.ratio.sum(1))
        strings = x.score.shape[0]
        weight = control.update(aux.weight, beta, divergence, strings)
        metrics = {
            "tokens": x.sequences.mask.sum(),
            "score": share @ x.score,
            "penalty": divergence,
            "beta": aux.weight.beta,
        }
        return aux._replace(weight=weight), metrics | {
            "not_finite": jnp.mean(x.sequences.weight == 0)
        }

    def charge(params: Params, aux: Charged, x: Any, log_q: Array) -> Array:
        if not in_loss:
            return jnp.zeros(())
        old, ref = (jnp.where(x.sequences.mask, a, 0.0) for a in (x.log_old, x.log_ref))
        each = penalty.loss(log_q, old, ref, exactly(params, aux, x.sequences))
        return aux.weight.beta * (x.sequences.weight @ each)

    return Stage(init, play, after, charge, in_loss, beta)


def measured(d: Divergence, s: Array) -> Array:
    """An unbiased estimate of D_f(ref||q) from each string of q, given its s: -s for reverse_kl,
    else f(e^s)."""
    return -s if d.name == "reverse_kl" else d.perspective(s, jnp.zeros_like(s))


def repeated(prompts: Sequences, group: int) -> Sequences:
    """The first B / group prompts, each `group` times in a row."""
    rows = prompts.tokens.shape[0]
    if rows % group:
        raise UsageError(
            "batch_size",
            rows,
            f"does not divide into groups of {group}.",
            f"Give a multiple of {group}.",
        )
    return jax.tree.map(lambda x: jnp.repeat(x[: rows // group], group, axis=0), prompts)


def penalty_of(own: Penalty | None, components: Components) -> Penalty:
    """A method's own penalty, or the one that all methods share."""
    return own or components.penalty or Penalty()


def return_claim(penalty: Penalty | None, sentence: str, bias: str = "") -> Claim:
    """What a method claims that maximises the regularised return: biases are named."""
    biases = "; ".join(filter(None, (bias, penalty.bias() if penalty else "")))
    kind = f"Biased: {biases}." if biases else "Unbiased."
    return Claim("reverse_kl", "return", f"{sentence}. {kind}")


def grouped(x: Episodes, baseline: Baseline) -> Array:
    """Advantages [B, H] within each group of n answers: the score and the charges to come, less a
    baseline.

    The score's baseline is the mean of whole answers' scores, whatever their lengths: with scores 1
    and 0 and lengths 1 and 3, `mean` gives [.5] and [-.5, -.5, -.5]. The charges' is the mean at
    the same action, an answer that has ended being charged 0 from there on. `mean` takes all n
    answers, which shrinks the expected gradient by exactly 1 - 1/n; `leave_one_out` takes the
    others."""
    score = within_groups(x, x.score[:, None], baseline)
    charges = within_groups(x, discounted_to_go(x.charges, 1.0), baseline)
    return jnp.where(x.mask, score + charges, 0.0)


def within_groups(x: Episodes, values: Array, baseline: Baseline) -> Array:
    """Values [B, K] of whole answers less their group's baseline, every answer counting in every
    column."""
    split = lambda a: a.reshape(-1, x.groups, *a.shape[1:])
    less = lambda v, w: advantages(v, jnp.ones_like(v, bool), w, baseline)
    return jax.vmap(less)(split(values), split(x.sequences.weight)).reshape(values.shape)


def whole(x: Episodes) -> Array:
    """What each answer earns altogether, charges included, [B]."""
    return x.rewards.sum(1)
