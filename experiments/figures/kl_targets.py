"""What reward minus beta KL asks for, either way round: `python -m experiments.figures kl_targets
[--rewards R ...]`.

    reverse_kl  E_pi r - beta KL(pi||ref)   pi_i = ref_i e^{r_i / beta} / Z
    forward_kl  E_pi r - beta KL(ref||pi)   pi_i = beta ref_i / (lambda - r_i), lambda > max r with sum_i pi_i = 1

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

from experiments.figures.common.base import Check, Figure, Result, near
from experiments.reporting import style
from fdiv import divergences
from fdiv.checks import between, positive
from fdiv.types import UsageError

SHOWN = {"reverse_kl": r"KL($\pi$||ref)", "forward_kl": r"KL(ref||$\pi$)"}


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
    best, rarer = (
        int(i) for i in np.lexsort((-ref, -rewards))[:2]
    )  # of equal rewards the likelier under the reference
    raised = rewards + flags.gap * (np.arange(len(ref)) == rarer)
    pairs = list(itertools.combinations(range(len(ref)), 2))

    def grown(name: str, beta: float) -> float:
        change = optimum(name, ref, raised, beta) - optimum(name, ref, rewards, beta)
        return float(change[rarer] - change[best])

    values: dict = {
        "modes": [best + 1, rarer + 1],
        "log_probability": {},
        "log_ratio": {},
        "log_gap_factor": {},
    }
    rows, checks = [], []
    for name, beta in itertools.product(SHOWN, flags.betas):
        log_pi = optimum(name, ref, rewards, beta)
        found = {
            "log_probability": log_pi.tolist(),
            "log_ratio": {f"{i + 1}/{j + 1}": float(log_pi[i] - log_pi[j]) for i, j in pairs},
            "log_gap_factor": grown(name, beta),
        }
        for key, value in found.items():
            values[key].setdefault(name, {})[f"{beta:g}"] = value
        chance = {f"pi_{i + 1}": float(np.exp(x)) for i, x in enumerate(log_pi)}
        about = {
            "log_mode_ratio": float(log_pi[best] - log_pi[rarer]),
            "log_gap_factor": found["log_gap_factor"],
        }
        rows.append({"direction": name, "beta": beta, **chance, **about})
        checks += [c for r in (rewards, raised) for c in _laws(name, ref, r, beta)]
        if name == "reverse_kl":
            wanted = flags.gap / beta
            checks.append(
                near(
                    f"gap / beta at beta {beta:g}",
                    about["log_gap_factor"],
                    wanted,
                    1e-9 * (1 + wanted),
                )
            )
    betas = np.geomspace(min(flags.betas) / 2, 2 * max(flags.betas), 61)
    curve = [
        {"direction": k, "beta": float(b), "log_gap_factor": grown(k, b)}
        for k in SHOWN
        for b in betas
    ]
    return Result(
        values, checks, rows, _picture(flags, rows, curve, best + 1, rarer + 1), [*rows, *curve]
    )


def _checked(flags: Flags) -> tuple[np.ndarray, np.ndarray]:
    ref, rewards = np.array(flags.reference), np.array(flags.rewards)
    refuse = lambda field, problem, fix: UsageError(field, getattr(flags, field), problem, fix)
    if len(ref) < 2 or abs(ref.sum() - 1) > 1e-6:
        raise refuse("reference", "is not a law.", "Give at least two probabilities that sum to 1.")
    if len(rewards) != len(ref) or not np.isfinite(rewards).all():
        raise refuse(
            "rewards",
            f"is not {len(ref)} finite numbers.",
            "Give one reward for each arm of the reference.",
        )
    if not flags.betas or len(set(flags.betas)) < len(flags.betas):
        raise refuse("betas", "is empty or holds a number twice.", "Give each beta once.")
    for name, x in (
        *(("reference", x) for x in flags.reference),
        *(("betas", x) for x in flags.betas),
        ("gap", flags.gap),
    ):
        between(name, x, 0, 1) if name == "reference" else positive(name, x)
    return ref / ref.sum(), rewards


def optimum(direction: str, ref: np.ndarray, rewards: np.ndarray, beta: float) -> np.ndarray:
    """log pi of the law that maximises reward less beta KL."""
    below = (rewards.max() - rewards) / beta
    if direction == "reverse_kl":
        return np.log(ref) - below - logsumexp(np.log(ref) - below)
    excess = lambda t: (
        float(np.sum(ref / (t + below))) - 1
    )  # t = (lambda - max r) / beta, from the best arms' mass to 1
    t = brentq(
        excess, float(ref[below == 0].sum()) * (1 - 1e-12), 1 + 1e-12, xtol=1e-300, rtol=1e-15
    )
    return np.log(ref) - np.log(t + below)


def _laws(name: str, ref: np.ndarray, rewards: np.ndarray, beta: float) -> list[Check]:
    """A law; stationary, by the family's own dD/dpi = -reward(s); equal rewards at the reference's
    ratio."""
    log_pi, at = (
        optimum(name, ref, rewards, beta),
        f"{name} at beta {beta:g}, rewards {' '.join(f'{r:g}' for r in rewards)}",
    )
    chance = np.exp(log_pi)
    with jax.enable_x64(True):
        paid = rewards + beta * np.asarray(divergences.parse(name).reward(np.log(ref) - log_pi))
    slope = np.abs(chance * (paid - np.sum(chance * paid))).max() / (1 + np.abs(rewards).max())
    checks = [
        near(f"{at}: sums to one", float(chance.sum()), 1.0, 1e-9),
        near(f"{at}: stationary", float(slope), 0.0, 1e-9),
    ]
    for i, j in itertools.combinations(range(len(ref)), 2):
        if rewards[i] == rewards[j]:
            found, wanted = float(np.exp(log_pi[i] - log_pi[j])), float(ref[i] / ref[j])
            checks.append(
                near(f"{at}: ratio of arms {i + 1} and {j + 1}", found, wanted, 1e-9 * wanted)
            )
    return checks


def _picture(flags: Flags, rows: list[dict], curve: list[dict], best: int, rarer: int):
    style.use()
    figure, (bars, odds) = plt.subplots(
        1, 2, figsize=(6.8, 2.8), width_ratios=(1, 1.15), layout="constrained"
    )
    arm, beta = np.arange(1, len(flags.rewards) + 1), sorted(flags.betas)[len(flags.betas) // 2]
    bars.bar(arm - 0.27, flags.reference, 0.25, color=style.EXPERT, label="reference")
    for shift, row in zip((0.0, 0.27), [row for row in rows if row["beta"] == beta]):
        name = row["direction"]
        bars.bar(
            arm + shift,
            [row[f"pi_{i}"] for i in arm],
            0.25,
            color=style.colour(name),
            label=SHOWN[name],
        )
    labels = [f"arm {i}\nr = {r:g}" for i, r in zip(arm, flags.rewards)]
    bars.set(
        ylabel="probability",
        xticks=arm,
        xticklabels=labels,
        title=rf"best law at $\beta$ = {beta:g}",
    )
    bars.grid(axis="x", visible=False)
    bars.legend()
    for name, (kept, look) in itertools.product(SHOWN, ((curve, "-"), (rows, "o"))):
        here = [(row["beta"], row["log_gap_factor"]) for row in kept if row["direction"] == name]
        odds.plot(*zip(*here), look, color=style.colour(name), markersize=4.5)
    odds.set(
        xscale="log", yscale="log", xlabel=r"$\beta$", title=f"arm {rarer} earns {flags.gap:g} more"
    )
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
