"""f-DPO's figure turns the family round: u = pi/ref here, so that D_f(pi||ref) = E_ref[f(u)] and
forward_kl is KL(pi||ref).

What a budget buys, and what f-DPO learns, over a few arms. In double precision, under
`jax.enable_x64`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from fdiv import divergences, exact, regularised
from fdiv.divergences import swapped
from fdiv.regularised import bisect
from fdiv.types import Divergence

BETAS = (1e-30, 1e6)  # the range in which budgets are met


def interior() -> dict[str, Divergence]:
    """Members of the family with f'(0) = -inf, under which every arm keeps some mass."""
    return {
        name: d for name, d in divergences.every().items() if regularised.keeps_support(swapped(d))
    }


def optimum(d: Divergence, rewards, log_ref, beta):
    """log pi of the most E_pi r - beta D_f(pi||ref)."""
    return regularised.optimum(swapped(d), rewards, log_ref, beta)


def preferred(d: Divergence, rewards: np.ndarray, log_ref: np.ndarray, beta: float) -> np.ndarray:
    """log pi of f-DPO's population minimiser over pairs drawn from the reference, by L-BFGS from
    the reference."""
    pairs = np.exp(log_ref[:, None] + log_ref[None]) / (
        1 + np.exp(rewards[None] - rewards[:, None])
    )  # [winner, loser]

    def loss(logits):
        margin = beta * d.witness(jax.nn.log_softmax(logits) - log_ref)
        return -jnp.sum(pairs * jax.nn.log_sigmoid(margin[:, None] - margin[None]))

    return np.asarray(jax.nn.log_softmax(exact.best_policy([loss], [log_ref]).params))


def cost(d: Divergence, log_pi, log_ref):
    """D_f(pi||ref), over the last axis."""
    return d.perspective(log_pi, log_ref).sum(-1)


def spend(
    d: Divergence, budgets: list[tuple[str, float]], family: dict[str, Divergence], rewards, log_ref
):
    """d's optimum at each budget (divergence, amount), by the beta that spends it. [budgets,
    arms]"""
    names = list(family)

    def one(kind, amount):
        law = lambda log_beta: optimum(d, rewards, log_ref, jnp.exp(log_beta))
        over = lambda x: (
            jnp.stack([cost(family[k], law(-x), log_ref) for k in names])[kind] - amount
        )
        return law(-bisect(over, -jnp.log(BETAS[1]), -jnp.log(BETAS[0])))

    kinds, amounts = (
        jnp.array([names.index(k) for k, _ in budgets]),
        jnp.array([amount for _, amount in budgets]),
    )
    return jax.jit(jax.vmap(one))(kinds, amounts)
