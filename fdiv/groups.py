"""Several answers to each prompt, standing in a row: what the prompt costs is paid once a group.

A policy says how by `types.Answers`. Where it does not, and where one program has its rows on
several devices, each string is computed by itself, as everywhere else; numbers agree but for
rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from fdiv import head
from fdiv import tokens as tk
from fdiv.checks import present
from fdiv.estimators import first_action, to_actions, to_columns
from fdiv.parted import each, rows_are_parted
from fdiv.types import ALONE, PAD, Alike, Answers, Params, Policy, Sequences

AT_ONCE = 1024  # tokens that are read together where no gradient is asked for
LARGE = 8 * AT_ONCE  # tokens of a batch from which on it is read in parts


def with_params(answers: Answers | None, of: Callable[[Params], Params]) -> Answers | None:
    """The same of a policy whose params are made from others by `of`."""
    if answers is None:
        return None
    own = answers
    return Answers(
        lambda params, prompts, *sizes: own.start(of(params), prompts, *sizes),
        lambda params, prompts, actions: own.features(of(params), prompts, actions),
    )


def rows_with_params(
    fewer: Callable[[Params, Any, Array], Any] | None, of: Callable[[Params], Params]
) -> Callable[[Params, Any, Array], Any] | None:
    """`Policy.fewer` of such a policy."""
    own = fewer
    return None if own is None else lambda params, cache, rows: own(of(params), cache, rows)


def shares(policy: Policy, alike: Alike) -> bool:
    """Whether prompts are computed once a group."""
    several = alike.group > 1 and alike.columns > 1
    return several and None not in (policy.answers, policy.readout) and not rows_are_parted()


def writer(policy: Policy, alike: Alike) -> Policy:
    """The policy for a rollout whose prompts [B, P] are alike: it reads the first of each group."""

    def start(params: Params, prompts: Sequences, horizon: int):
        # known only here, where it is the rows of one device if each has a program of its own
        if not shares(policy, within(alike, prompts.tokens.shape[0])):
            return policy.start(params, prompts, horizon)
        first = jax.tree.map(lambda x: x[:: alike.group], prompts)
        answers = present(policy.answers, "answers")
        return answers.start(params, first, horizon, alike.group)

    return policy._replace(start=start)


def within(alike: Alike, rows: int) -> Alike:
    """What is known of some rows of a batch: nothing where they may cut a group."""
    return ALONE if rows % alike.group else alike


def of_actions(
    policy: Policy, params: Params, x: Sequences, alike: Alike
) -> tuple[head.Head, Sequences]:
    """The heads before each action of strings [B, T] that begin alike, and the actions themselves,
    in action coordinates [B, H]."""
    horizon = x.tokens.shape[1] - alike.columns
    size = first_action(x.mask)[:: alike.group]
    tokens = x.tokens[:: alike.group, : alike.columns]
    tokens = jnp.where(jnp.arange(alike.columns)[None] < size, tokens, PAD)
    prompts = Sequences(tokens, jnp.zeros_like(tokens, bool), x.weight[:: alike.group])
    own = x._replace(
        tokens=to_actions(x.tokens, x.mask, horizon), mask=to_actions(x.mask, x.mask, horizon)
    )
    features = present(policy.answers, "answers").features(params, prompts, own.tokens)
    return head.Head(features, present(policy.readout, "readout")(params)), own


def log_probs(policy: Policy, params: Params, x: Sequences, vocab: int, alike: Alike) -> Array:
    """`tokens.log_probs` of strings that begin alike. [B, T]"""
    if not shares(policy, alike):
        return tk.log_probs(policy, params, x, vocab)
    own, actions = of_actions(policy, params, x, alike)
    return to_columns(head.log_probs(own, actions.tokens, actions.mask), x.mask)


def log_probs_of_given(
    policy: Policy, params: Params, x: Sequences, vocab: int, alike: Alike = ALONE
) -> Array:
    """`log_probs` where nobody asks for a gradient. On a CPU a network takes few rows of a large
    batch at a time: what it makes of more does not stay in the processor's cache. [B, T]"""
    own = lambda params, x: _of_given(policy, params, x, vocab, within(alike, x.tokens.shape[0]))
    return each(own, params, x)


def _of_given(policy: Policy, params: Params, x: Sequences, vocab: int, alike: Alike) -> Array:
    """`log_probs_of_given` of the rows of one program."""
    rows, length = x.tokens.shape
    at_once = _at_once(rows, length, alike.group)
    whole = policy.readout is None or rows_are_parted() or jax.default_backend() != "cpu"
    if whole or at_once == rows:
        return log_probs(policy, params, x, vocab, alike)
    split = jax.tree.map(lambda y: y.reshape(rows // at_once, at_once, *y.shape[1:]), x)
    each = jax.lax.map(lambda part: log_probs(policy, params, part, vocab, alike), split)
    return each.reshape(rows, length)


def _at_once(rows: int, length: int, group: int) -> int:
    """How many of so many rows, in whole groups, are about `AT_ONCE` tokens; all of a batch that is
    not large."""
    if rows * length < LARGE or rows % group:
        return rows
    count = rows // group
    most = max(1, AT_ONCE // (length * group))
    return group * next(n for n in range(min(most, count), 0, -1) if count % n == 0)
