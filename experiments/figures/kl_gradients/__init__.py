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
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np

from experiments.figures.common.base import Figure, Result, near
from experiments.figures.kl_gradients.gradients import PLACED, gradients, recursion
from experiments.reporting import style
from fdiv import exact
from fdiv.checks import at_least, between
from fdiv.policies import tabular

EXPECTED = {  # what must be the gradient of what, at any flags
    "backward": ("k1_reward", "k1_reward_no_to_go", "k2_loss_string", "k3_times_ratio_string"),
    "backward_fixed": ("k1_reward_gamma0", "k2_loss_token", "k3_times_ratio"),
    "forward": ("k3_loss_string",), "forward_fixed": ("k3_loss_token",),
}  # fmt: skip
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
    at_least("seed", flags.seed, 0)
    space = exact.enumerate_strings(flags.vocab, flags.horizon, None)
    shape = (2, tabular.full(flags.vocab, flags.horizon).states, flags.vocab)
    reference, away = np.random.default_rng(flags.seed).standard_normal(shape)
    with jax.enable_x64(True):
        at = jax.jit(lambda size: gradients(space, reference, reference + size * away))
        found, truth = jax.device_get(at(flags.perturbation))
        small = [_norm_ratio(*at(size), "k3_reward") for size in (2e-3, 1e-3)]
    rows = {name: _compare(found[name], truth) for name in (*PLACED, "exact_sum_fixed_prefixes")}
    pairs = [(name, of) for of, names in EXPECTED.items() for name in names]
    checks = [
        near(f"{n} is {VERDICTS[of][0]}: relative error", _off(found[n], truth[of]), 0, 1e-10)
        for n, of in pairs
    ]
    checks.append(near("k1_loss is zero: norm", float(np.linalg.norm(found["k1_loss"])), 0, 1e-12))
    by_hand = recursion(reference, reference + flags.perturbation * away)
    checks.append(
        near(
            "KL(q||ref) by recursion over prefixes: relative error",
            _off(by_hand, truth["backward"]),
            0,
            1e-10,
        )
    )
    checks.append(
        near(
            "k3_reward: norm ratio at perturbation .002 over that at .001",
            small[0] / small[1],
            2,
            0.1,
        )
    )
    return Result(
        {"rows": rows},
        checks,
        [{"estimator": name, **row} for name, row in rows.items()],
        _picture(rows),
    )


def _off(x: Any, y: Any) -> float:
    """|x - y| / |y|, or |x| where y is zero."""
    return float(np.linalg.norm(x - y) / (np.linalg.norm(y) or 1.0))


def _norm_ratio(found: dict, truth: dict, name: str) -> float:
    return float(np.linalg.norm(found[name]) / np.linalg.norm(truth["backward"]))


def _compare(g: np.ndarray, truth: dict[str, np.ndarray]) -> dict[str, float | str]:
    same = next((name for name in EXPECTED if _off(g, truth[name]) < 1e-10), "none")
    same = (
        "zero" if np.linalg.norm(g) < 1e-12 else same
    )  # what is left is rounding, and has no direction
    cosine = lambda y: (
        float("nan")
        if same == "zero"
        else float(np.sum(g * y) / np.linalg.norm(g) / np.linalg.norm(y))
    )
    return {
        "relative_error": _off(g, truth["backward"]),
        "cosine": cosine(truth["backward"]),
        "norm_ratio": float(np.linalg.norm(g) / np.linalg.norm(truth["backward"])),
        "cosine_forward": cosine(truth["forward"]),
        "gradient_of": VERDICTS[same][0],
    }


def _picture(rows: dict[str, dict]):
    style.use()
    look = dict(VERDICTS.values())
    names = sorted(rows, key=lambda name: list(look).index(rows[name]["gradient_of"]))
    colours, place = [look[rows[name]["gradient_of"]] for name in names], np.arange(len(names))
    off = [max(rows[name]["relative_error"], LEAST) for name in names]
    figure, (errors, norms) = plt.subplots(
        1, 2, figsize=(6.8, 3.9), sharey=True, layout="constrained"
    )
    errors.hlines(place, LEAST, off, colours, linewidth=1.2)
    errors.scatter(off, place, color=colours, s=26, zorder=3)
    errors.set(
        xscale="log",
        xlim=(LEAST, 30),
        xlabel="relative error to grad KL(q||ref)",
        yticks=place,
        yticklabels=names,
    )
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
    where = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0), "ncols": 3}
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
