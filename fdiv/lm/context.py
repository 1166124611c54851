"""A model that reads hidden tokens before strings which do not show them: the teacher of context
distillation. Askell et al. 2021 (arXiv 2112.00861); Snell, Klein & Zhong 2022 (arXiv
2209.15189)."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from fdiv.lm.hidden import Hidden
from fdiv.lm.model import turned
from fdiv.types import PAD, Params, Policy, Sequences


def behind(policy: Policy, hidden: Hidden) -> Policy:
    """The policy as if every string began with the hidden tokens, in place of its first
    `hidden.replaced` ones. Of strings [B, T] as they are, its features are [B, T, D]; no action may
    stand among the tokens that are replaced, whose features are zero."""
    before = np.asarray(hidden.tokens, np.int32)

    def whole(tokens: Array) -> tuple[Array, Array]:
        """(strings as they are read, in how many columns they begin later than in the first)"""
        shift = jnp.argmax(tokens != PAD, axis=1)
        rest = turned(tokens, shift)[:, hidden.replaced :]
        first = jnp.broadcast_to(before, (tokens.shape[0], before.size))
        return jnp.concatenate([first, rest], axis=1), shift

    def trunk(params: Params, tokens: Array) -> Array:
        read, shift = whole(tokens)
        features = policy.trunk(params, read)[:, before.size :]
        features = jnp.pad(features, [(0, 0), (hidden.replaced, 0), (0, 0)])
        return turned(features, -shift)

    def start(params: Params, prompts: Sequences, horizon: int) -> Any:
        read, _ = whole(prompts.tokens)
        own = Sequences(read, jnp.zeros_like(read, bool), prompts.weight)
        return policy.start(params, own, horizon)

    return policy._replace(trunk=trunk, start=start, answers=None)
