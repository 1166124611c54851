"""What each way to apply a KL penalty is the gradient of: `python -m experiments.figures
kl_gradients [--horizon T --seed S]`.

Exact expected gradients over all V^T strings, of a table policy some way off its reference. Exact
for KL(q||ref): k1 as a reward with all that follows, k2 of whole strings as a loss. Zero: k1 as a
loss. KL(ref||q): k3 of whole strings as a loss. One and the same biased gradient, which loses the
effect on later prefixes: k2 per token as a loss, k3 per token times the ratio, the exact sum over
the vocabulary, k1 as a reward at discount 0. Of second order, so next to nothing: k3 as a reward.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from experiments.figures.common.base import Figure, Picture, Result, near
from experiments.gradients.world import build
from experiments.reporting import style
from fdiv import divergences, exact
from fdiv.checks import at_least, between, present, seeding
from fdiv.objectives.distill import distill
from fdiv.penalties import kl_penalty
from fdiv.policies import tabular
from fdiv.types import Divergence, Model, Objective

PLACED: dict[str, tuple[Any, ...]] = {  # name -> estimator, placement, unit, discount
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
EXPECTED = {  # what must be the gradient of what, at any flags
    "backward": ("k1_reward", "k1_reward_no_to_go", "k2_loss_string", "k3_times_ratio_string"),
    "backward_fixed": ("k1_reward_gamma0", "k2_loss_token", "k3_times_ratio"),
    "forward": ("k3_loss_string",),
    "forward_fixed": ("k3_loss_token",),
}
VERDICTS = {  # a gradient -> (in words, colour: paler where prefixes are held fixed)
    "backward": ("KL(q||ref)", style.colour("reverse_kl")),
    "backward_fixed": ("KL(q||ref), prefixes fixed", "#F0B48A"),
    "forward": ("KL(ref||q)", style.colour("forward_kl")),
    "forward_fixed": ("KL(ref||q), prefixes fixed", "#85BBDD"),
    "zero": ("nothing: zero", style.EXPERT),
    "none": ("no KL: second order", style.OTHER),
}
LEAST = 1e-17  # where the axis of errors begins


@dataclasses.dataclass(frozen=True)
class Flags:
    """A table policy over all strings, its logits a perturbation away from the reference's."""

    vocab: int = 3
    """Number of tokens V (at least 2)."""
    horizon: int = 5
    """Length T of every string."""
    perturbation: float = 0.1
    """Standard deviation of the policy's logits around the reference's."""
    seed: int = 0
    """Where both draws start."""


def make(flags: Flags) -> Result:
    """Every placement's exact expected gradient against both KLs'."""
    at_least("vocab", flags.vocab, 2)
    at_least("horizon", flags.horizon, 1)
    between("perturbation", flags.perturbation, 1e-4, 5)
    seeding("seed", flags.seed)
    space = exact.enumerate_strings(flags.vocab, flags.horizon, None)
    shape = (2, tabular.full(flags.vocab, flags.horizon).states, flags.vocab)
    reference, away = np.random.default_rng(flags.seed).standard_normal(shape)
    with jax.enable_x64(True):
        at = jax.jit(lambda size: gradients(space, reference, reference + size * away))
        placements, truth = jax.device_get(at(flags.perturbation))
        both = [at(size) for size in (2e-3, 1e-3)]
        small = [_norm_ratio(found, exactly, "k3_reward") for found, exactly in both]
    rows = {name: _compare(gradient, truth) for name, gradient in placements.items()}
    checks = []
    for target, names in EXPECTED.items():
        for name in names:
            off = _off(placements[name], truth[target])
            checks.append(near(f"{name} is {VERDICTS[target][0]}: relative error", off, 0, 1e-10))
    size = float(np.linalg.norm(placements["k1_loss"]))
    checks.append(near("k1_loss is zero: norm", size, 0, 1e-12))
    by_hand = recursion(reference, reference + flags.perturbation * away)
    off = _off(by_hand, truth["backward"])
    checks.append(near("KL(q||ref) by recursion over prefixes: relative error", off, 0, 1e-10))
    name = "k3_reward: norm ratio at perturbation .002 over that at .001"
    checks.append(near(name, small[0] / small[1], 2, 0.1))
    table = [{"estimator": name, **row} for name, row in rows.items()]
    return Result({"rows": rows}, checks, table, _picture(rows))


def gradients(space: exact.Space, logits: jax.Array, params: jax.Array) -> tuple[dict, dict]:
    """Of every placement; and of both KLs, as they are and with the policy's prefixes fixed (T
    times the sum over V)."""
    policy = tabular.policy(tabular.full(space.vocab, space.horizon), space.vocab)
    components = build(space, policy, params, Model(policy, logits)).exact

    def gradient(objective: Objective) -> jax.Array:
        return exact.expected_gradient(objective, params, space.sequences)

    def divergence(x: jax.Array, d: Divergence) -> jax.Array:
        ref, q = (
            exact.law(space, policy, logits)
            for logits in (present(components.mdp.expert, "expert").params, x)
        )
        return exact.divergence(d, space, ref, q)

    truth = {"zero": jnp.zeros_like(params)}
    for name, d in (("backward", divergences.reverse_kl()), ("forward", divergences.forward_kl())):
        truth[name] = jax.grad(divergence)(params, d)
        fixed = distill(components, d, policy_prefixes=1.0)
        truth[f"{name}_fixed"] = space.horizon * gradient(fixed)
    placements = {
        name: gradient(kl_penalty(components, present(components.mdp.expert, "expert"), *how))
        for name, how in PLACED.items()
    }
    return placements | {"exact_sum_fixed_prefixes": truth["backward_fixed"]}, truth


def recursion(logits: np.ndarray, params: np.ndarray) -> np.ndarray:
    """grad KL(q||ref) of a table over the prefix tree: arrival x q x (the token's cost and all that
    follows, centred)."""
    log_q, log_ref = (x - np.logaddexp.reduce(x, axis=1, keepdims=True) for x in (params, logits))
    q, (states, vocab) = np.exp(log_q), params.shape
    children = [slice(n * vocab + 1, (n + 1) * vocab + 1) for n in range(states)]
    arrival, to_go = np.ones(states * vocab + 1), np.zeros(states * vocab + 1)
    slope = np.zeros_like(q)
    for n in range(states):
        arrival[children[n]] = arrival[n] * q[n]
    for n in reversed(range(states)):
        cost = log_q[n] - log_ref[n] + to_go[children[n]]
        to_go[n] = q[n] @ cost
        slope[n] = arrival[n] * q[n] * (cost - to_go[n])
    return slope


def _off(x: np.ndarray, y: np.ndarray) -> float:
    """|x - y| / |y|, or |x| where y is zero."""
    return float(np.linalg.norm(x - y) / (np.linalg.norm(y) or 1.0))


def _norm_ratio(placements: dict, truth: dict, name: str) -> float:
    return float(np.linalg.norm(placements[name]) / np.linalg.norm(truth["backward"]))


def _compare(g: np.ndarray, truth: dict[str, np.ndarray]) -> dict[str, float | str]:
    size = np.linalg.norm(g)
    same = next((name for name in EXPECTED if _off(g, truth[name]) < 1e-10), "none")
    if size < 1e-12:  # what is left is rounding, and has no direction
        same = "zero"

    def cosine(y: np.ndarray) -> float:
        return math.nan if same == "zero" else float(np.sum(g * y) / size / np.linalg.norm(y))

    return {
        "relative_error": _off(g, truth["backward"]),
        "cosine": cosine(truth["backward"]),
        "norm_ratio": float(size / np.linalg.norm(truth["backward"])),
        "cosine_forward": cosine(truth["forward"]),
        "gradient_of": VERDICTS[same][0],
    }


def _picture(rows: dict[str, dict]) -> Picture:
    style.use()
    look = dict(VERDICTS.values())
    names = sorted(rows, key=lambda name: list(look).index(rows[name]["gradient_of"]))
    colours, place = [look[rows[name]["gradient_of"]] for name in names], np.arange(len(names))
    off = [max(rows[name]["relative_error"], LEAST) for name in names]
    shape = {"figsize": (6.8, 3.9), "sharey": True, "layout": "constrained"}
    figure, (errors, norms) = plt.subplots(1, 2, **shape)
    errors.hlines(place, LEAST, off, colours, linewidth=1.2)
    errors.scatter(off, place, color=colours, s=26, zorder=3)
    errors.set(xscale="log", xlim=(LEAST, 30), xlabel="relative error to grad KL(q||ref)")
    errors.set(yticks=place, yticklabels=names)
    norms.barh(place, [rows[name]["norm_ratio"] for name in names], 0.6, color=colours)
    norms.set(xlabel="length, grad KL(q||ref) = 1")
    errors.invert_yaxis()
    for axis in (errors, norms):
        axis.grid(axis="y", visible=False)
        axis.set_axisbelow(True)
    handles = [
        plt.Line2D([], [], color=c, marker="o", markersize=5, label=what)
        for what, c in look.items()
        if c in colours
    ]
    where: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0), "ncols": 3}
    figure.legend(handles=handles, title="gradient of", title_fontsize=8, **where)
    return figure


FIGURE = Figure(
    flags=Flags,
    make=make,
    title="What each KL penalty is the gradient of",
    claim=(
        "An estimate of a KL need not be a loss: of k1, k2, k3 and their placements few "
        "follow the KL that they estimate."
    ),
    source=(
        "Tang & Munos 2025, On a few pitfalls in KL divergence gradient estimation for RL "
        "(arXiv 2506.09477)"
    ),
)
