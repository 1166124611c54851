"""A learned log-ratio: from strings of the expert and of the policy to `s = log p - log q`.

Three losses, least at the true log-ratio:

    logistic  E_p softplus(-s) + E_q softplus(s)
    bound     E_q reward(s) - E_p witness(s), -D_f at its minimum
    pairs     E_{p x q} softplus(s(y) - s(x)), x of p and y of q: least at the log-ratio plus any
              constant, which a policy that follows s itself does not see

At the sequence level s is the sum of the scorer's numbers over a string's actions; at the occupancy
level each number is the log-ratio of its (prefix, token) pair, and a finished string keeps its last
one (the absorbing state). Sources: Goodfellow et al. 2014 (logistic); Nowozin, Cseke & Tomioka 2016
(bound, arXiv 1606.00709); Ye et al. 2025 (GAD, pairs, arXiv 2511.10643)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.nn import softplus

from fdiv import tokens as tk
from fdiv.estimators import to_actions
from fdiv.reward_model import Predictions, calibration
from fdiv.types import Divergence, Level, Optimiser, Params, Scorer, Sequences

Training = Literal["logistic", "bound", "pairs"]
State = tuple[Params, optax.OptState]


class Evidence(NamedTuple):
    """Strings with weights that sum to one, and what AIRL's logit contains of the policy: its
    log-probs of their actions."""

    sequences: Sequences
    log_q: Array  # [B, T] the policy's now
    log_start: Array  # [B, T] the policy's when training began


class Discriminator(NamedTuple):
    """`state` is (params, optimiser state)."""

    init: Callable[[Array, Any], Any]  # key, the policy's starting params -> state
    learn: Callable[[Array, Any, Evidence, Evidence], Any]  # key, state, demos, samples -> state
    ratio: Callable[
        [Any, Evidence], Array
    ]  # state, evidence -> s after each action [B, H], constant after the end
    health: Callable[
        [Any, Evidence, Evidence, Evidence], dict
    ]  # state, held-out demos, fresh samples, training demos


def discriminator(
    scorer: Scorer,
    d: Divergence,
    optimiser: Optimiser,
    *,
    horizon: int,
    vocab: int,
    eos: tk.Eos,
    level: Level,
    training: Training,
    structured: bool,
    learning_rate: float,
    steps: int,
    gradient_penalty: float,
) -> Discriminator:
    """With `structured` the logit is AIRL's reward minus log q, else the scorer's number alone.

    AIRL's reward is g + h' - h + log q_start: written as a correction to the starting policy, it is
    silent at first, where a reward from zero would call every string the expert's by as much as the
    policy thinks it unlikely."""
    init_params, score = shaped(scorer, vocab) if structured else plain(scorer, vocab)
    tx = optimiser(learning_rate, betas=(0.5, 0.999))

    def prefix_ratio(params, evidence: Evidence) -> Array:
        sequences, log_q, log_start = evidence
        logits = score(params, sequences)
        logits = to_actions(
            logits + log_start - log_q if structured else logits, sequences.mask, horizon
        )
        if level == Level.sequence:
            return jnp.cumsum(logits, axis=1)
        return tk.hold(logits, to_actions(sequences.mask, sequences.mask, horizon))

    def logits_of(params, evidence: Evidence) -> Array:
        """What is asked about: whole strings [B, 1], or each position [B, H]."""
        ratio = prefix_ratio(params, evidence)
        return ratio[:, -1:] if level == Level.sequence else ratio

    def loss(params, key: Array, demos: Evidence, samples: Evidence) -> Array:
        real, fake = logits_of(params, demos), logits_of(params, samples)
        chex.assert_rank([real, fake], 2)
        value = told_apart(training, d, real, fake, demos.sequences, samples.sequences)
        if gradient_penalty:
            value += gradient_penalty * roughness(
                key, lambda x: score(params, x), demos.sequences, vocab, eos
            )
        return value

    def init(key: Array, start: Any):
        params = init_params(key, start)
        return params, tx.init(params)

    def learn(key: Array, state, demos: Evidence, samples: Evidence):
        def step(state, step_key):
            params, opt = state
            updates, opt = tx.update(jax.grad(loss)(params, step_key, demos, samples), opt, params)
            return (optax.apply_updates(params, updates), opt), None

        if steps == 1:
            return step(state, key)[0]
        return jax.lax.scan(step, state, jax.random.split(key, steps))[0]

    def check(state, held_out: Evidence, samples: Evidence, demos: Evidence) -> dict:
        logits = [logits_of(state[0], x) for x in (held_out, samples, demos)]
        return health(logits[0], logits[1], logits[2]) | {
            "length_accuracy": length_accuracy(
                demos.sequences, samples.sequences, held_out.sequences
            )
        }

    return Discriminator(
        init, learn, lambda state, evidence: prefix_ratio(state[0], evidence), check
    )


def told_apart(
    training: Training,
    d: Divergence,
    real: Array,
    fake: Array,
    demos: Sequences,
    samples: Sequences,
) -> Array:
    """The loss of logits [B, K] of either side."""
    if training == "pairs":  # each with each, of one logit a string
        each = softplus(fake[:, 0][None, :] - real[:, 0][:, None])
        return demos.weight @ each @ samples.weight
    real, fake = (
        (softplus(-real), softplus(fake))
        if training == "logistic"
        else (-d.witness(real), d.reward(fake))
    )
    return jnp.sum(demos.weight * real.mean(1)) + jnp.sum(samples.weight * fake.mean(1))


Scoring = tuple[
    Callable, Callable[[Any, Sequences], Array]
]  # init; (params, strings) -> [B, T], 0 off the mask


def plain(scorer: Scorer, vocab: int) -> Scoring:
    """The scorer's own number for each action."""
    return scorer.init, lambda params, x: tk.taken(scorer, params, x, vocab)


def shaped(scorer: Scorer, vocab: int) -> Scoring:
    """A reward net with potential-based shaping, g_t + h_t - h_{t-1}, h = 0 before the first and
    after the last token.

    Source: Fu, Luo & Levine 2018 (AIRL, arXiv 1710.11248), with discount 1.
    """

    def init(key: Array, start: Any):
        reward, potential = jax.random.split(key)
        return {"reward": scorer.init(reward, start), "potential": scorer.init(potential, start)}

    def score(params, x: Sequences) -> Array:
        goes_on = jnp.pad(x.mask, [(0, 0), (0, 1)])[:, 1:]
        potential = jnp.where(goes_on, tk.taken(scorer, params["potential"], x, vocab), 0.0)
        before = jnp.pad(potential, [(0, 0), (1, 0)])[:, :-1]
        return tk.taken(scorer, params["reward"], x, vocab) + jnp.where(
            x.mask, potential - before, 0.0
        )

    return init, score


def roughness(key: Array, score: Callable, sequences: Sequences, vocab: int, eos: tk.Eos) -> Array:
    """E[(score(x) - score(x'))^2], x' being x with one action redrawn: a gradient penalty for
    functions of tokens.

    Strings have no input gradient; the change under one token is its discrete counterpart. EOS is
    neither replaced nor put in. Source: the penalty on the data side, R1 of Mescheder et al. 2018
    (arXiv 1801.04406)."""
    place_key, token_key = jax.random.split(key)
    ends = () if eos is None else eos if isinstance(eos, tuple) else (eos,)
    changeable = sequences.mask
    for end in ends:
        changeable = changeable & (sequences.tokens != end)
    noise = jnp.where(changeable, jax.random.uniform(place_key, changeable.shape), -1.0)
    chosen = changeable & (noise == noise.max(1, keepdims=True))
    other = jax.random.randint(token_key, sequences.tokens.shape, 0, vocab - len(ends))
    for end in sorted(ends):  # from the smallest on, so that each is stepped over
        other = other + (other >= end)
    changed = sequences._replace(tokens=jnp.where(chosen, other, sequences.tokens))
    return jnp.sum(sequences.weight * (score(sequences).sum(1) - score(changed).sum(1)) ** 2)


# --- health ---------------------------------------------------------------------------------------


class Places(NamedTuple):
    """For `health`: which logits [B, K] count, of each of its three arguments."""

    held_out: Array
    samples: Array
    demos: Array


def health(
    held_out: Array, samples: Array, demos: Array, places: Places | None = None
) -> dict[str, Array]:
    """From logits [B, K] on held-out demonstrations, fresh samples and the training demonstrations.

    `d_accuracy` is on strings the discriminator has not seen; `d_accuracy_train` has the training
    demonstrations in their place, so the difference is overfitting. `d_calibration` is the expected
    calibration error over ten bins (Guo et al. 2017), `d_saturated` the share of |logit| > 10.
    `places` leaves out what is no action; None: every logit counts."""
    if places is None:
        places = Places(*(jnp.ones_like(x, bool) for x in (held_out, samples, demos)))
    real, fake, seen = places
    right = lambda logits, where: 0.5 * (_share(logits > 0, where) + _share(samples <= 0, fake))
    large = lambda logits, where: _share(jnp.abs(logits) > 10, where)
    return {
        "d_accuracy": right(held_out, real),
        "d_accuracy_train": right(demos, seen),
        "d_calibration": _calibration(held_out, samples, real, fake),
        "d_saturated": 0.5 * (large(held_out, real) + large(samples, fake)),
    }


def _share(x: Array, where: Array) -> Array:
    return jnp.mean(x.astype(jnp.float32), where=where)


def _calibration(real: Array, fake: Array, real_at: Array, fake_at: Array) -> Array:
    logits = jnp.concatenate([real.ravel(), fake.ravel()])
    label = jnp.concatenate([jnp.ones(real.size), jnp.zeros(fake.size)])
    weight = jnp.concatenate([0.5 * at.ravel() / at.sum() for at in (real_at, fake_at)])
    return calibration(Predictions(logits, label, weight))


def length_accuracy(demos: Sequences, samples: Sequences, held_out: Sequences) -> Array:
    """What a discriminator that sees the length alone achieves: the share of the real one's
    accuracy that needs no content.

    Its histograms are fitted on the demonstrations and every other sample, and judged on the rest.
    """
    columns = jnp.arange(demos.mask.shape[1] + 1)[None]
    histogram = lambda size: (size[:, None] == columns).mean(0) + 1e-6
    margin = jnp.log(histogram(tk.lengths(demos))) - jnp.log(histogram(tk.lengths(samples)[::2]))
    right = lambda x: jnp.mean(jnp.where(x > 0, 1.0, jnp.where(x == 0, 0.5, 0.0)))
    return 0.5 * (right(margin[tk.lengths(held_out)]) + right(-margin[tk.lengths(samples)[1::2]]))
