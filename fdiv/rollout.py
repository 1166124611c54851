"""The only autoregressive loop: a scan with a cache, in stretches where strings may end early.

Between two stretches strings that have ended may be left behind: once no more than half of a
batch's strings go on, they are gathered into a batch of half the size, and so on. Each string has
random numbers of its own, those of its row, and a step computes rows one by one, so that the
strings are the same, and their log-probs but for rounding."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from fdiv import tokens as tk
from fdiv.checks import present
from fdiv.head import most
from fdiv.parted import each, rows_are_parted
from fdiv.types import PAD, Model, Params, Policy, Readout, Rollout, Sequences, TokenMDP

# (uniforms [B], log-probs [B, V]) -> tokens [B]
Choose = Callable[[Array, Array], Array]
STRETCH = 32  # most tokens that are written between two looks at which strings have ended
SHARES = (2, 8)  # a batch shrinks to these parts of it: each has a step of its own to compile
FEWEST = 4  # strings of the smallest batch
FEWEST_ON_ACCELERATORS = 64  # where a step of fewer is bound by its number of operations


def draw(uniform: Array, log_probs: Array) -> Array:
    """Tokens [B] by the inverse distribution function, from uniforms [B] and log-probs [B, V].

    One uniform a token instead of V; scaling by the total keeps rounding from ever choosing a token
    past the last."""
    cumulative = jnp.cumsum(jnp.exp(log_probs), axis=-1)
    return jnp.sum(uniform[:, None] * cumulative[:, -1:] >= cumulative[:, :-1], axis=-1).astype(
        jnp.int32
    )


def draw_by_blocks(uniform: Array, log_probs: Array) -> Array:
    """As `draw`, but sums of about sqrt(V) tokens are searched first and then one sum's tokens, so
    that no sum over all tokens before each is taken. The two differ where a uniform is within
    rounding of a token's edge."""
    batch, vocab = log_probs.shape
    size = 1 << round(math.log2(vocab) / 2)
    count = -(-vocab // size)
    shares = jnp.pad(jnp.exp(log_probs), [(0, 0), (0, count * size - vocab)])
    shares = shares.reshape(batch, count, size)
    ends = _running(shares.sum(-1))
    wanted = uniform * ends[:, -1]
    block = jnp.sum(wanted[:, None] >= ends[:, :-1], axis=-1)
    before = jnp.take_along_axis(jnp.pad(ends, [(0, 0), (1, 0)]), block[:, None], axis=1)
    inside = _running(jnp.take_along_axis(shares, block[:, None, None], axis=1)[:, 0])
    # a token behind which none has a share is the last that can be, whatever rounding made of it
    passed = ((wanted[:, None] - before) >= inside) & (inside < inside[:, -1:])
    return (block * size + passed.sum(-1)).astype(jnp.int32)


def _running(x: Array) -> Array:
    """Sums of x [B, n] up to each column and with it, n being small."""
    upper = jnp.triu(jnp.ones((x.shape[1], x.shape[1]), x.dtype))
    return jnp.matmul(x, upper, precision=jax.lax.Precision.HIGHEST)


def likeliest(uniform: Array, log_probs: Array) -> Array:
    """The token of most probability, in place of a draw; the first where several are alike."""
    return jnp.argmax(log_probs, axis=-1).astype(jnp.int32)


def among(tokens: Array, choose: Choose = draw) -> Choose:
    """`choose` from these tokens [N] alone. What others would have had goes to all of these in
    proportion, and the log-prob that is reported of the chosen one is the model's own."""
    return lambda uniform, log_probs: tokens[choose(uniform, log_probs[:, tokens])]


def sampler_of(mdp: TokenMDP, choose: Choose = draw) -> Rollout:
    """`sampler` for a task, of whose symbols those that stand for nothing are never chosen."""
    known = None if mdp.pieces is None else mdp.pieces.known
    choice = choose if known is None else among(jnp.asarray(known), choose)
    return sampler(mdp.horizon, mdp.eos, choice)


def greedy(horizon: int, eos: tk.Eos) -> Rollout:
    """As `sampler`, but every action is the likeliest, so the key changes nothing."""
    return sampler(horizon, eos, likeliest)


def sampler(horizon: int, eos: tk.Eos, choose: Choose = draw) -> Rollout:
    """(key, policy, params, prompts [B, P]) -> sampled strings [B, P + horizon] and the log-probs
    of their actions.

    A long horizon is taken in stretches of at most `STRETCH` tokens. None is begun once every
    string has ended, and where a policy can, those that have are left behind (`stages`). What is
    drawn is the same, log-probs but for rounding; of several seeds mapped at once, the one with
    the most strings that go on decides for all."""

    def rollout(
        key: Array, policy: Policy, params: Params, prompts: Sequences
    ) -> tuple[Sequences, Array]:
        uniforms = jax.random.uniform(key, (horizon, prompts.tokens.shape[0]))
        own = lambda params, rows: written(policy, params, *rows)
        return each(own, params, (prompts, uniforms.T))

    def written(
        policy: Policy, params: Params, prompts: Sequences, uniforms: Array
    ) -> tuple[Sequences, Array]:
        """Of uniforms [B, H], those of each string."""
        uniforms = uniforms.T
        act = _act(policy, params, eos, choose)
        first = _first(policy, params, prompts, horizon)
        if eos is None or horizon <= STRETCH:
            _, (actions, log_probs) = jax.lax.scan(act, first, uniforms)
        else:
            fewer = lambda carry, rows: _fewer(policy, params, carry, rows)
            sizes = stages(policy, prompts.tokens.shape[0])
            actions, log_probs = _in_stretches(act, fewer, first, uniforms, sizes)
        return _placed(prompts, actions.T, log_probs.T, eos)

    return rollout


def stages(policy: Policy, batch: int) -> tuple[int, ...]:
    """Sizes that a batch of strings shrinks through as its strings end. The batch alone where the
    policy cannot leave strings behind, and where one program has its rows on several devices, which
    a string would have to be moved between."""
    if policy.fewer is None or rows_are_parted():
        return (batch,)
    least = FEWEST if jax.default_backend() == "cpu" else FEWEST_ON_ACCELERATORS
    smaller = [-(-batch // share) for share in SHARES]
    return (batch, *(size for size in smaller if least <= size < batch))


def _fewer(policy: Policy, params: Params, carry: Any, rows: Array) -> Any:
    """What a step carries on of these rows alone."""
    cache, token, alive = carry
    return present(policy.fewer, "fewer")(params, cache, rows), token[rows], alive[rows]


def _in_stretches(
    act: Callable, fewer: Callable, first: Any, uniforms: Array, sizes: tuple[int, ...]
) -> tuple[Array, Array]:
    """Actions and their log-probs [H, B] of a scan of `act`, as long as a string goes on, in
    batches of these sizes; `fewer(carry, rows)` is the carry of some rows."""
    horizon, batch = uniforms.shape
    count = -(-horizon // STRETCH)
    size = -(-horizon // count)  # of one length; the steps beyond the horizon are dropped
    uniforms = jnp.pad(uniforms, [(0, count * size - horizon), (0, 0)])
    like = jax.eval_shape(act, first, uniforms[0])[1]
    written = jax.tree.map(lambda x: jnp.zeros((count * size, batch), x.dtype), like)
    written = (jnp.full_like(written[0], PAD), written[1])
    going_on = lambda i, alive, least: (i < count) & (most(alive.sum()) > least)

    def stage(i: Array, carry: Any, written: Any, uniforms: Array, sizes: tuple[int, ...]) -> Any:
        """All that is written from stretch i on of as many rows as the first size."""
        after = sizes[1] if len(sizes) > 1 else 0

        def stretch(state):
            i, carry, written = state
            own = jax.lax.dynamic_slice_in_dim(uniforms, i * size, size)
            carry, new = jax.lax.scan(act, carry, own)
            put = lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, i * size, axis=0)
            return i + 1, carry, jax.tree.map(put, written, new)

        more = lambda state: going_on(state[0], state[1][2], after)
        i, carry, written = jax.lax.while_loop(more, stretch, (i, carry, written))
        if len(sizes) == 1:
            return written

        def rest(i, carry, written):
            rows = jnp.argsort(~carry[2], stable=True)[:after]  # those that go on come first
            part = jax.tree.map(lambda x: x[:, rows], written)
            part = stage(i, fewer(carry, rows), part, uniforms[:, rows], sizes[1:])
            return jax.tree.map(lambda x, new: x.at[:, rows].set(new), written, part)

        as_it_is = lambda i, carry, written: written
        return jax.lax.cond(going_on(i, carry[2], 0), rest, as_it_is, i, carry, written)

    written = stage(jnp.asarray(0), first, written, uniforms, sizes)
    return jax.tree.map(lambda x: x[:horizon], written)


def until_ended(horizon: int, eos: tk.Eos, choose: Choose = draw) -> Rollout:
    """The strings and log-probs of `sampler`, and no step is taken once every string has ended."""

    def rollout(
        key: Array, policy: Policy, params: Params, prompts: Sequences
    ) -> tuple[Sequences, Array]:
        batch = prompts.tokens.shape[0]
        uniforms = jax.random.uniform(key, (horizon, batch))
        act = _act(policy, params, eos, choose)

        def step(state):
            i, carry, actions, log_probs = state
            carry, (action, log_prob) = act(carry, uniforms[i])
            return i + 1, carry, actions.at[i].set(action), log_probs.at[i].set(log_prob)

        more = lambda state: (state[0] < horizon) & jnp.any(state[1][2])
        carry = _first(policy, params, prompts, horizon)
        actions = jnp.full((horizon, batch), PAD, jnp.int32)
        state = (jnp.asarray(0), carry, actions, jnp.zeros((horizon, batch)))
        _, _, actions, log_probs = jax.lax.while_loop(more, step, state)
        return _placed(prompts, actions.T, log_probs.T, eos)

    return rollout


def _first(policy: Policy, params: Params, prompts: Sequences, horizon: int):
    """What a step carries on: the cache, the token to read, whether each string goes on."""
    batch = prompts.tokens.shape[0]
    return policy.start(params, prompts, horizon), tk.last(prompts.tokens), jnp.ones(batch, bool)


def _act(policy: Policy, params: Params, eos: tk.Eos, choose: Choose) -> Callable:
    """One step: (carry, uniforms [B]) -> carry, (actions [B], their log-probs [B])."""
    if choose is draw and policy.readout is not None:  # a table's strings stay as they were
        choose = draw_by_blocks

    def act(carry, uniform):
        cache, token, alive = carry
        cache, log_probs = policy.step(params, cache, token)
        token = choose(uniform, log_probs)
        log_prob = jnp.take_along_axis(log_probs, token[:, None], axis=1)[:, 0]
        action = jnp.where(alive, token, PAD)
        if eos is not None:
            alive &= ~tk.is_eos(token, eos)
        return (cache, token, alive), (action, jnp.where(action != PAD, log_prob, 0.0))

    return act


def _placed(
    prompts: Sequences, actions: Array, log_probs: Array, eos: tk.Eos
) -> tuple[Sequences, Array]:
    """Actions [B, H] right after their prompts, and their log-probs at the same places."""
    sequences = tk.append(prompts, actions, eos)
    if prompts.tokens.shape[1] == 0:
        return sequences, log_probs
    order = jnp.maximum(jnp.cumsum(sequences.mask, axis=1) - 1, 0)
    taken = jnp.take_along_axis(log_probs, order, axis=1)
    return sequences, jnp.where(sequences.mask, taken, 0.0)


def demonstrations(
    expert: Model, prompts: Callable[[Array, int], Sequences], horizon: int, eos: tk.Eos
) -> Callable:
    """Fresh samples of a known expert: (key, n) -> strings [n, P + horizon]."""
    rollout = sampler(horizon, eos)

    def demos(key: Array, n: int) -> Sequences:
        prompt_key, sample_key = jax.random.split(key)
        return rollout(sample_key, expert.policy, expert.params, prompts(prompt_key, n))[0]

    return demos


def tempered(policy: Policy, temperature: Array | float) -> Policy:
    """The policy at another temperature: log-probs divided by it and normalised again, in training
    as in sampling."""
    soften = lambda log_probs: jax.nn.log_softmax(log_probs / temperature)

    def step(params: Params, cache, token: Array):
        cache, log_probs = policy.step(params, cache, token)
        return cache, soften(log_probs)

    def readout(params: Params) -> Readout:
        own = present(policy.readout, "readout")(params)
        return own._replace(temperature=own.temperature * temperature)

    return policy._replace(
        head=lambda params, features: soften(policy.head(params, features)),
        step=step,
        readout=readout if policy.readout else None,
    )
