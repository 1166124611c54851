"""Reward models: a learned number R(x) for every string, the sum of a scorer's numbers over its
actions.

Each predicts something by a logit and learns by the logistic loss, E[-log P(what was so)]:

    bradley_terry  x is preferred to y        R(x) - R(y)
    with_noise     x is preferred to y        (R(x) - R(y)) e^-t,   t the log of its temperature
    classifier     x is a demonstration       R(x)                  best at log p(x) / ref(x)

Comparisons say what R is up to a constant for each prompt. With noise, (R, t) and (e^c R, t + c)
predict the same for any c: adding (E t)^2 to the loss makes E t = 0 at the minimum and bends
nothing else, so R is in units of the comparisons' geometric mean temperature. t reads the prompt
and both strings' first actions, in either order. Noise u(x) + u(y) of whole strings would read more
and say less: R / (1 + c R) with u - log(1 + c R) predicts the same, so no more than R's order would
be known. Sources: Bradley & Terry 1952; Christiano et al. 2017 (arXiv 1706.03741); Kendall & Gal
2017 (arXiv 1703.04977) for a learned noise; Goodfellow et al. 2014 for the classifier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.nn import sigmoid, softplus

from fdiv import tokens as tk
from fdiv.types import PAD, Pairs, Params, Scorer, Sequences


class Predictions(NamedTuple):
    """Predictions, and what was to be predicted."""

    logits: Array  # [m]
    truth: Array  # [m] 1 or 0
    weight: Array  # [m] adding up to one, or all 0


class RewardModel(NamedTuple):
    """Its evidence are comparisons, or demonstrations (as chosen) and samples (as rejected); each
    side's weights sum to one."""

    init: Callable[[Array, Params], Params]  # key, the policy's starting params -> params
    reward: Callable[[Params, Sequences], Array]  # R of each string [B]
    predict: Callable[[Params, Pairs], Predictions]
    loss: Callable[[Params, Pairs], Array]


def bradley_terry(scorer: Scorer, vocab: int) -> RewardModel:
    """Every comparison is as noisy as any other."""
    reward = _summed(scorer, vocab)

    def predict(params: Params, pairs: Pairs) -> Predictions:
        return _either_way(pairs, reward(params, pairs.chosen) - reward(params, pairs.rejected))

    return RewardModel(
        scorer.init, reward, predict, lambda params, pairs: logistic(predict(params, pairs))
    )


def with_noise(scorer: Scorer, vocab: int, horizon: int) -> RewardModel:
    """Some comparisons are noisier than others; params are {"reward", "noise"}."""
    summed = _summed(scorer, vocab)

    def init(key: Array, start: Params) -> Params:
        own, noise = jax.random.split(key)
        return {"reward": scorer.init(own, start), "noise": scorer.init(noise, start)}

    def reward(params: Params, x: Sequences) -> Array:
        return summed(params["reward"], x)

    def noise(params: Params, pairs: Pairs) -> Array:
        orders = (pairs, pairs[::-1])
        parts = [summed(params["noise"], first_actions(x, y, horizon)) for x, y in orders]
        return parts[0] + parts[1]

    def predict(params: Params, pairs: Pairs) -> Predictions:
        margin = reward(params, pairs.chosen) - reward(params, pairs.rejected)
        return _either_way(pairs, margin * jnp.exp(-noise(params, pairs)))

    def loss(params: Params, pairs: Pairs) -> Array:
        return logistic(predict(params, pairs)) + (pairs.chosen.weight @ noise(params, pairs)) ** 2

    return RewardModel(init, reward, predict, loss)


def classifier(scorer: Scorer, vocab: int) -> RewardModel:
    """Demonstrations against samples, one as likely as the other."""
    reward = _summed(scorer, vocab)

    def predict(params: Params, evidence: Pairs) -> Predictions:
        demos, samples = evidence
        logits = jnp.concatenate([reward(params, demos), reward(params, samples)])
        return Predictions(
            logits, _truth(demos, samples), jnp.concatenate([demos.weight, samples.weight]) / 2
        )

    return RewardModel(
        scorer.init, reward, predict, lambda params, evidence: logistic(predict(params, evidence))
    )


def _summed(scorer: Scorer, vocab: int) -> Callable[[Params, Sequences], Array]:
    return lambda params, x: tk.taken(scorer, params, x, vocab).sum(1)


def _either_way(pairs: Pairs, margin: Array) -> Predictions:
    """A comparison is two predictions: of x before y, and of y before x."""
    weight = pairs.chosen.weight
    return Predictions(
        jnp.concatenate([margin, -margin]), _truth(*pairs), jnp.concatenate([weight, weight]) / 2
    )


def _truth(first: Sequences, second: Sequences) -> Array:
    return jnp.concatenate([jnp.ones_like(first.weight), jnp.zeros_like(second.weight)])


def first_actions(x: Sequences, y: Sequences, horizon: int) -> Sequences:
    """The prompt, the first action of x and that of y, the last of these alone an action: what a
    scorer of (x, y) reads."""
    column = lambda z: jnp.argmax(z.mask, axis=1)[:, None]
    first = lambda z: jnp.where(
        z.mask.any(1)[:, None], jnp.take_along_axis(z.tokens, column(z), axis=1), PAD
    )
    both = tk.append(tk.prompts_of(x, horizon), jnp.concatenate([first(x), first(y)], axis=1), None)
    return both._replace(mask=both.mask & (jnp.cumsum(both.mask, axis=1) == 2))


# --- learning -------------------------------------------------------------------------------------


def logistic(x: Predictions) -> Array:
    """Weighted mean of -log P(truth)."""
    chex.assert_rank(x.logits, 1)
    chex.assert_equal_shape([x.logits, x.truth, x.weight])
    return x.weight @ softplus(jnp.where(x.truth > 0, -x.logits, x.logits))


def fit(
    model: RewardModel,
    tx: optax.GradientTransformation,
    state: Any,
    evidence: Callable[[Array], Pairs],
    key: Array,
    steps: Array | int,
) -> Any:
    """`state` (params, optimiser state) after so many steps; `steps` may be traced, and at 0 costs
    nothing."""

    def step(i: Array, state):
        params, opt = state
        slope = jax.grad(model.loss)(params, evidence(jax.random.fold_in(key, i)))
        updates, opt = tx.update(slope, opt, params)
        return optax.apply_updates(params, updates), opt

    return jax.lax.fori_loop(0, steps, step, state)


# --- health ---------------------------------------------------------------------------------------


def accuracy(x: Predictions) -> Array:
    """Share predicted rightly; a logit of 0 is half right."""
    right = jnp.where(x.truth > 0, jnp.sign(x.logits), -jnp.sign(x.logits))
    return x.weight @ (1 + right) / 2


def calibration(x: Predictions, bins: int = 10) -> Array:
    """Expected calibration error over bins of equal width (Guo et al. 2017, arXiv 1706.04599)."""
    chance = sigmoid(x.logits)
    member = (
        jnp.clip((chance * bins).astype(jnp.int32), 0, bins - 1)[:, None] == jnp.arange(bins)[None]
    )
    return jnp.abs((member * (x.weight * (chance - x.truth))[:, None]).sum(0)).sum()
