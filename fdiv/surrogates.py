"""Surrogate losses that let a batch of the policy's strings serve several steps: the ratio q /
q_old is clipped, so that a step gains nothing from going far.

    sum_k min(rho_k A_k, clip(rho_k, 1 - c, 1 + c) A_k),   rho = q / q_old of each token or of the
    whole string

Sources: Schulman et al. 2017 (PPO, arXiv 1707.06347); Zheng et al. 2025 (GSPO, arXiv 2507.18071)
for the ratio of strings."""

from __future__ import annotations

from typing import Literal

import chex
import jax
import jax.numpy as jnp
from jax import Array

from fdiv import tokens as tk
from fdiv.penalties import Drawn

Ratio = Literal["token", "sequence"]


def clipped(batch: Drawn, log_q: Array, clip: float, ratio: Ratio = "token") -> Array:
    """The clipped surrogate of each action, [B, T], from log-probs [B, T] under the policy now.

    With `sequence` the ratio is the geometric mean over a string's tokens."""
    chex.assert_equal_shape([log_q, batch.log_old, batch.advantages, batch.sequences.mask])
    rho = _ratios(batch, log_q, ratio)
    bounded = jnp.clip(rho, 1 - clip, 1 + clip)
    advantages = jnp.where(batch.sequences.mask, batch.advantages, 0.0)
    return jnp.minimum(rho * advantages, bounded * advantages)


def stopped(
    batch: Drawn,
    log_q: Array,
    clip: float,
    ratio: Ratio = "token",
    aggregate: tk.Aggregate = "string",
    horizon: int | None = None,
) -> Array:
    """The share of actions that the clip stops: those that would gain by going further and are
    beyond it. A scalar, summed over rows whose weights `tk.normalise` has made: each counts as
    these have it, the actions of a string alike."""
    rho = _ratios(batch, jax.lax.stop_gradient(log_q), ratio)
    gains, mask = batch.advantages, batch.sequences.mask
    beyond = ((gains > 0) & (rho > 1 + clip)) | ((gains < 0) & (rho < 1 - clip))
    each, size = (mask & beyond).sum(1), jnp.maximum(mask.sum(1), 1)
    # what makes the weights add up to one over all strings
    scale = {"string": 1.0, "constant": horizon or mask.shape[1]}.get(aggregate, size)
    return jnp.sum(batch.sequences.weight * scale * each / size)


def _ratios(batch: Drawn, log_q: Array, ratio: Ratio) -> Array:
    """q / q_old of each action [B, T], or of strings [B, 1]."""
    change = jnp.where(batch.sequences.mask, log_q - batch.log_old, 0.0)
    if ratio == "sequence":
        size = jnp.maximum(batch.sequences.mask.sum(1, keepdims=True), 1)
        change = change.sum(1, keepdims=True) / size
    return jnp.exp(change)
