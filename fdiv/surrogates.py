"""Surrogate losses that let a batch of the policy's strings serve several steps: the ratio q /
q_old is clipped, so that a step gains nothing from going far.

    sum_k min(rho_k A_k, clip(rho_k, 1 - c, 1 + c) A_k),   rho = q / q_old of each token or of the
    whole string

Sources: Schulman et al. 2017 (PPO, arXiv 1707.06347); Zheng et al. 2025 (GSPO, arXiv 2507.18071)
for the ratio of strings."""

from __future__ import annotations

from typing import Literal

import chex
import jax.numpy as jnp
from jax import Array

from fdiv.penalties import Drawn

Ratio = Literal["token", "sequence"]


def clipped(batch: Drawn, log_q: Array, clip: float, ratio: Ratio = "token") -> Array:
    """The clipped surrogate of each action, [B, T], from log-probs [B, T] under the policy now.

    With `sequence` the ratio is the geometric mean over a string's tokens."""
    chex.assert_equal_shape([log_q, batch.log_old, batch.advantages, batch.sequences.mask])
    change = jnp.where(batch.sequences.mask, log_q - batch.log_old, 0.0)
    if ratio == "sequence":
        size = jnp.maximum(batch.sequences.mask.sum(1, keepdims=True), 1)
        change = change.sum(1, keepdims=True) / size
    rho = jnp.exp(change)
    bounded = jnp.clip(rho, 1 - clip, 1 + clip)
    advantages = jnp.where(batch.sequences.mask, batch.advantages, 0.0)
    return jnp.minimum(rho * advantages, bounded * advantages)
