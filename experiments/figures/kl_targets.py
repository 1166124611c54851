"""What reward minus beta KL asks for, either way round: `python -m experiments.figures kl_targets
[--rewards R ...]`.

    reverse_kl  E_pi r - beta KL(pi||ref)   pi_i = ref_i e^{r_i / beta} / Z
    forward_kl  E_pi r - beta KL(ref||pi)   pi_i = beta ref_i / (lambda - r_i),
                                            lambda > max r with sum_i pi_i = 1

Arms of equal reward keep the reference's ratio under both, at every beta: 10 at the defaults. A
second instance gives the rarer of the two best arms `gap` more reward: at gap .1 and beta 1e-3 the
reverse KL multiplies its odds by e^100."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import brentq
from scipy.special import logsumexp

from experiments.figures.common.base import Check, Figure, Picture, Result, Row, distinct, near
from experiments.reporting import style
from fdiv import divergences
from fdiv.checks import between, positive
from fdiv.types import UsageError

DIRECTIONS = {"reverse_kl": r"KL($\pi$||ref)", "forward_kl": r"KL(ref||$\pi$)"}


@dataclasses.dataclass(frozen=True)
class Flags:
    """A reference over a few arms, and what each arm earns."""

    reference: tuple[float, ...] = (0.60, 0.06, 0.20, 0.14)
    """Probabilities of the arms under the reference."""
    rewards: tuple[float, ...] = (1.0, 1.0, 0.0, 0.0)
    """Reward of each arm."""
    betas: tuple[float, ...] = (1.0, 0.1, 0.01, 0.001)
    """Weights of the KL."""
    gap: float = 0.1
    """Reward added to the rarer of the two best arms in the second instance."""


def make(flags: Flags) -> Result:
    """Both optima at every beta, with all ratios in logs: at a small beta they overflow."""
    ref, rewards = _checked(flags)
    # Of equal rewards the likelier under the reference comes first.
    best, rarer = (int(i) for i in np.lexsort((-ref, -rewards))[:2])
    raised = rewards + flags.gap * (np.arange(len(ref)) == rarer)
    pairs = list(itertools.combinations(range(len(ref)), 2))

    def gap_factor(name: str, beta: float) -> float:
        """By how much the gap raises the log-odds of the rarer arm."""
        change = optimum(name, ref, raised, beta) - optimum(name, ref, rewards, beta)
        return float(change[rarer] - change[best])

    values: dict = {"modes": [best + 1, rarer + 1]}
    values |= {"log_probability": {}, "log_ratio": {}, "log_gap_factor": {}}
    rows, checks = [], []
    for name, beta in itertools.product(DIRECTIONS, flags.betas):
        log_pi = optimum(name, ref, rewards, beta)
        factor = gap_factor(name, beta)
        at_beta = {
            "log_probability": log_pi.tolist(),
            "log_ratio": {f"{i + 1}/{j + 1}": float(log_pi[i] - log_pi[j]) for i, j in pairs},
            "log_gap_factor": factor,
        }
        for key, value in at_beta.items():
            values[key].setdefault(name, {})[f"{beta:g}"] = value
        row = {"direction": name, "beta": beta}
        row |= {f"pi_{i}": float(np.exp(x)) for i, x in enumerate(log_pi, 1)}
        row |= {"log_mode_ratio": float(log_pi[best] - log_pi[rarer]), "log_gap_factor": factor}
        rows.append(row)
        checks += [c for r in (rewards, raised) for c in _laws(name, ref, r, beta)]
        if name == "reverse_kl":
            ratio = flags.gap / beta
            checks.append(near(f"gap / beta at beta {beta:g}", factor, ratio, 1e-9 * (1 + ratio)))
    betas = np.geomspace(min(flags.betas) / 2, 2 * max(flags.betas), 61)
    curve = [
        {"direction": name, "beta": float(beta), "log_gap_factor": gap_factor(name, beta)}
        for name in DIRECTIONS
        for beta in betas
    ]
    picture = _picture(flags, rows, curve, best + 1, rarer + 1)
    return Result(values, checks, rows, picture, [*rows, *curve])


def _checked(flags: Flags) -> tuple[np.ndarray, np.ndarray]:
    ref, rewards = np.array(flags.reference), np.array(flags.rewards)
    if len(ref) < 2 or abs(ref.sum() - 1) > 1e-6:
        fix = "Give at least two probabilities that sum to 1."
        raise UsageError("reference", flags.reference, "is not a law.", fix)
    if len(rewards) != len(ref) or not np.isfinite(rewards).all():
        problem = f"is not {len(ref)} finite numbers."
        fix = "Give one reward for each arm of the reference."
        raise UsageError("rewards", flags.rewards, problem, fix)
    distinct("betas", flags.betas)
    for probability in flags.reference:
        between("reference", probability, 0, 1)
    for beta in flags.betas:
        positive("betas", beta)
    positive("gap", flags.gap)
    return ref / ref.sum(), rewards


def optimum(direction: str, ref: np.ndarray, rewards: np.ndarray, beta: float) -> np.ndarray:
    """log pi of the law that maximises reward less beta KL."""
    below = (rewards.max() - rewards) / beta
    if direction == "reverse_kl":
        return np.log(ref) - below - logsumexp(np.log(ref) - below)

    def excess(t: float) -> float:
        return float(np.sum(ref / (t + below))) - 1

    # t = (lambda - max r) / beta lies between the best arms' mass and 1.
    low, high = float(ref[below == 0].sum()) * (1 - 1e-12), 1 + 1e-12
    t = brentq(excess, low, high, xtol=1e-300, rtol=1e-15)
    return np.log(ref) - np.log(t + below)


def _laws(name: str, ref: np.ndarray, rewards: np.ndarray, beta: float) -> list[Check]:
    """A law; stationary, by the family's own dD/dpi = -reward(s); equal rewards at the reference's
    ratio."""
    log_pi = optimum(name, ref, rewards, beta)
    at = f"{name} at beta {beta:g}, rewards {' '.join(f'{r:g}' for r in rewards)}"
    chance = np.exp(log_pi)
    with jax.enable_x64(True):
        # pyrefly: ignore[bad-argument-type]
        payoff = rewards + beta * np.asarray(divergences.parse(name).reward(np.log(ref) - log_pi))
    slope = np.abs(chance * (payoff - np.sum(chance * payoff))).max() / (1 + np.abs(rewards).max())
    checks = [
        near(f"{at}: sums to one", float(chance.sum()), 1.0, 1e-9),
        near(f"{at}: stationary", float(slope), 0.0, 1e-9),
    ]
    for i, j in itertools.combinations(range(len(ref)), 2):
        if rewards[i] == rewards[j]:
            odds, before = float(np.exp(log_pi[i] - log_pi[j])), float(ref[i] / ref[j])
            about = f"{at}: ratio of arms {i + 1} and {j + 1}"
            checks.append(near(about, odds, before, 1e-9 * before))
    return checks


def _picture(flags: Flags, rows: list[Row], curve: list[Row], best: int, rarer: int) -> Picture:
    style.use()
    shape = {"figsize": (6.8, 2.8), "width_ratios": (1, 1.15), "layout": "constrained"}
    figure, (bars, odds) = plt.subplots(1, 2, **shape)
    arm, beta = np.arange(1, len(flags.rewards) + 1), sorted(flags.betas)[len(flags.betas) // 2]
    bars.bar(arm - 0.27, flags.reference, 0.25, color=style.EXPERT, label="reference")
    for shift, row in zip((0.0, 0.27), [row for row in rows if row["beta"] == beta]):
        name = row["direction"]
        heights = [row[f"pi_{i}"] for i in arm]
        look = {"color": style.colour(name), "label": DIRECTIONS[name]}
        bars.bar(arm + shift, heights, 0.25, **look)
    labels = [f"arm {i}\nr = {r:g}" for i, r in zip(arm, flags.rewards)]
    bars.set(ylabel="probability", xticks=arm, xticklabels=labels)
    bars.set_title(rf"best law at $\beta$ = {beta:g}")
    bars.grid(axis="x", visible=False)
    bars.legend()
    for name, (points, look) in itertools.product(DIRECTIONS, ((curve, "-"), (rows, "o"))):
        here = [(row["beta"], row["log_gap_factor"]) for row in points if row["direction"] == name]
        odds.plot(*zip(*here), look, color=style.colour(name), markersize=4.5)
    odds.set(xscale="log", yscale="log", xlabel=r"$\beta$")
    odds.set_title(f"arm {rarer} earns {flags.gap:g} more")
    odds.set_ylabel(rf"log factor on $\pi_{{{rarer}}} / \pi_{{{best}}}$ (nats)")
    odds.invert_xaxis()
    return figure


FIGURE = Figure(
    flags=Flags,
    make=make,
    title="What reward minus beta KL asks for",
    claim=(
        "Under either KL equal rewards keep the reference's odds at every beta; at a small "
        "beta a small gap decides all."
    ),
    source=(
        "GX-Chen et al. 2025 (arXiv 2510.20817), KL-Regularized Reinforcement Learning is "
        "Designed to Mode Collapse"
    ),
)
