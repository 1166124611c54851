"""Exact expected gradients of every way to apply a KL penalty, and of both KLs, for a table policy
over all strings."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.figures.common import enumerated
from fdiv import divergences, exact
from fdiv.objectives.distill import distill
from fdiv.penalties import kl_penalty
from fdiv.policies import tabular

PLACED = {  # name -> estimator, placement, unit, discount
    "k1_reward": ("k1", "reward", "token"),
    "k1_reward_no_to_go": ("k1", "reward", "string"),
    "k1_reward_gamma0": ("k1", "reward", "token", 0.0),
    "k1_loss": ("k1", "loss", "token"),
    "k2_reward": ("k2", "reward", "token"),
    "k2_loss_string": ("k2", "loss", "string"),
    "k2_loss_token": ("k2", "loss", "token"),
    "k3_reward": ("k3", "reward", "token"),
    "k3_reward_no_to_go": ("k3", "reward", "string"),
    "k3_loss_string": ("k3", "loss", "string"),
    "k3_loss_token": ("k3", "loss", "token"),
    "k3_times_ratio_string": ("k3", "ratio", "string"),
    "k3_times_ratio": ("k3", "ratio", "token"),
}


def gradients(space: exact.Space, logits: Any, params: Any) -> tuple[dict, dict]:
    """Of every placement; and of both KLs, as they are and with the policy's prefixes fixed (T
    times the sum over V)."""
    policy = tabular.policy(tabular.full(space.vocab, space.horizon), space.vocab)
    components = enumerated.components(space, policy, logits)
    gradient = lambda objective: exact.expected_gradient(objective, params, space.sequences)
    law = lambda x: exact.law(space, policy, x)
    truth = {"zero": jnp.zeros_like(params)}
    for name, d in (("backward", divergences.reverse_kl()), ("forward", divergences.forward_kl())):
        truth[name] = jax.grad(lambda x, d=d: exact.divergence(d, space, law(logits), law(x)))(
            params
        )
        truth[f"{name}_fixed"] = space.horizon * gradient(
            distill(components, d, policy_prefixes=1.0)
        )
    found = {
        name: gradient(kl_penalty(components, components.mdp.expert, *how))
        for name, how in PLACED.items()
    }
    return found | {"exact_sum_fixed_prefixes": truth["backward_fixed"]}, truth


def recursion(logits: np.ndarray, params: np.ndarray) -> np.ndarray:
    """grad KL(q||ref) of a table over the prefix tree: arrival x q x (the token's cost and all that
    follows, centred)."""
    normal = lambda x: x - np.logaddexp.reduce(x, axis=1, keepdims=True)
    log_q, log_ref = normal(params), normal(logits)
    q, (states, vocab) = np.exp(log_q), params.shape
    children = lambda n: slice(n * vocab + 1, (n + 1) * vocab + 1)
    arrival, to_go, slope = (
        np.ones(states * vocab + 1),
        np.zeros(states * vocab + 1),
        np.zeros_like(q),
    )
    for n in range(states):
        arrival[children(n)] = arrival[n] * q[n]
    for n in reversed(range(states)):
        cost = log_q[n] - log_ref[n] + to_go[children(n)]
        to_go[n] = q[n] @ cost
        slope[n] = arrival[n] * q[n] * (cost - to_go[n])
    return slope
