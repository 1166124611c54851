"""How often answers that can be checked are right, and in how many of the right ways: from n tries
at each prompt.

    pass@k = 1 - C(n - c, k) / C(n, k),   c of the n tries right

is an unbiased estimate of the chance that at least one of k tries is right, for k up to n. `ways`
is how many distinct right ways the n tries hold. `way_entropy` is the entropy of which way a right
answer is, given its prompt, each right try counting once: one of m tries of its way, among c right
at its prompt, adds 1/m + ... + 1/(c - 1) in place of log(c / m), which would be too low. What is
left of that bias falls exponentially in c, and is large where one or two are right. Sources: Chen
et al. 2021 (pass@k, arXiv 2107.03374); Zhang 2012 (Entropy estimation in Turing's perspective,
Neural Computation 24)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from fdiv.checks import present
from fdiv.metrics import averages
from fdiv.types import Components, Params, Rollout, Sequences

TRIES, WITHIN = 16, 8


def pass_at_k(right: Array, tries: int, k: int) -> Array:
    """From how many of the tries were right, at each prompt. [P]

    C(n - c, k) / C(n, k) is the product over j < k of (n - c - j) / (n - j); where fewer than k
    were wrong, a factor is 0."""
    wrong = (tries - right)[:, None] - jnp.arange(k)[None]
    return 1 - jnp.prod(jnp.maximum(wrong, 0) / (tries - jnp.arange(k))[None], axis=1)


def distinct(ways: Array) -> Array:
    """How many different ways are among each prompt's tries [P, n], where -1 is none. [P]"""
    again = jnp.tril(ways[:, :, None] == ways[:, None], -1).any(-1)  # a way that an earlier try had
    return jnp.sum((ways >= 0) & ~again, axis=1)


def way_entropy(ways: Array) -> Array:
    """Entropy in nats of the way of a right answer, given its prompt, from tries [P, n]; 0 where
    nothing is right."""
    right = ways >= 0
    alike = jnp.sum(ways[:, :, None] == ways[:, None], axis=-1)
    harmonic = (
        jnp.cumsum(1 / jnp.maximum(jnp.arange(ways.shape[1]), 1)) - 1
    )  # [j]: 1 + 1/2 + ... + 1/j
    surprise = harmonic[jnp.maximum(right.sum(1, keepdims=True), 1) - 1] - harmonic[alike - 1]
    return jnp.sum(jnp.where(right, surprise, 0.0)) / jnp.maximum(right.sum(), 1)


def verified_metrics(
    components: Components,
    greedy: Rollout,
    key: Array,
    params: Params,
    prompts: Sequences,
    tries: int = TRIES,
    k: int = WITHIN,
) -> dict[str, Array]:
    """Accuracy of the likeliest answers and of drawn ones, pass@j for j of 2, 4, `k` and `tries`,
    and ways, on prompts of a task with `solutions`."""
    solutions = present(components.mdp.solutions, "verifiable answer")
    likeliest = greedy(key, components.policy, params, prompts)[0]
    answers = components.rollout(
        key,
        components.policy,
        params,
        jax.tree.map(lambda x: jnp.repeat(x, tries, axis=0), prompts),
    )[0]
    ways = solutions(answers).reshape(-1, tries)
    right = (ways >= 0).sum(1)
    measured = averages(
        {
            "greedy_accuracy": (solutions(likeliest) >= 0).astype(jnp.float32),
            "accuracy": right / tries,
            **{f"pass_{j}": pass_at_k(right, tries, j) for j in sorted({2, 4, k, tries})},
            "ways": distinct(ways).astype(jnp.float32),
        }
    )
    return measured | {"way_entropy": way_entropy(ways)}
