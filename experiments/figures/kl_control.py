"""Holding a KL: `python -m experiments.figures kl_control [--target NATS --betas B ...]`.

RLOO on the two-template language with a reward, its penalty's weight constant or adapted as in
Ziegler et al. (2019), from several first weights. A constant weight ends wherever it ends; the
adapted ones all come to hold the target, and their weight comes to the one whose exact optimum
spends that much: .533 for .2 nats, from .01, .1 and 1 alike."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from experiments.config import make_config
from experiments.figures.common import trained
from experiments.figures.common.base import Check, Figure, Picture, Result, distinct
from experiments.reporting import style
from fdiv import divergences, exact, regularised, statistics
from fdiv.benchmarks import Rewarded
from fdiv.checks import at_least, positive, present
from fdiv.control import Control
from fdiv.policies import Architecture
from fdiv.types import UsageError

KINDS = {"constant": "--", "adaptive": "-"}
LATE = 1 / 3  # the last share of a run, in which the target must be held
NEAR = 0.1  # of the target
ENOUGH = 600  # updates from which that is asked


@dataclasses.dataclass(frozen=True)
class Flags:
    """Constant and adapted weights of a KL penalty on the same task."""

    target: float = 0.2
    """KL from the reference to hold, nats per string."""
    betas: tuple[float, ...] = (0.01, 0.1, 1.0)
    """First weights."""
    horizon: float = 4000.0
    """Strings over which an error of 20% changes the weight by 20%."""
    updates: int = 1200
    """Updates of 256 strings."""
    seeds: int = 5
    """Runs of each."""


def make(flags: Flags) -> Result:
    """Train from every first weight, with either kind of control."""
    _check(flags)
    weight_at_target = _weight_that_spends(flags.target)
    runs = {(kind, beta): _run(flags, kind, beta) for beta in flags.betas for kind in KINDS}
    rows, checks = [], []
    for (kind, beta), course in runs.items():
        late = course.update >= (1 - LATE) * flags.updates
        # [points, seeds]
        kl, weight = (course.metrics[name][late] for name in ("kl_to_reference", "beta"))
        row = {"control": kind, "first beta": beta, "last beta": statistics.iqm(weight[-1])}
        row |= {"KL held": statistics.iqm(kl), "lowest": float(kl.min())}
        rows.append(row | {"highest": float(kl.max())})
        if kind == "adaptive" and flags.updates >= ENOUGH:
            off = float(np.abs(kl.mean(0) / flags.target - 1).max())
            name, detail = (
                f"from {beta:g}: the KL is held within {NEAR:.0%}",
                f"seeds are off by {off:.1%}",
            )
            checks.append(Check(name, off < NEAR, detail))
            middle = statistics.iqm(weight)
            name = f"from {beta:g}: beta is the one whose optimum spends the target"
            detail = f"{middle:.4g} against {weight_at_target:.4g}"
            checks.append(Check(name, abs(np.log(middle / weight_at_target)) < 0.15, detail))
    values = {"target": flags.target, "beta_that_spends_it": weight_at_target, "runs": rows}
    curve = [
        {"control": kind, "first_beta": first, "update": int(update), "seed": seed}
        | {"kl": float(kl), "beta": float(beta)}
        for (kind, first), course in runs.items()
        for update, kls, betas in zip(
            course.update, course.metrics["kl_to_reference"], course.metrics["beta"]
        )
        for seed, (kl, beta) in enumerate(zip(kls, betas))
    ]
    least = min(float(row["beta"]) for row in curve)
    checks.append(Check("every weight stays positive", least > 0, f"the least is {least:.4g}"))
    return Result(values, checks, rows, _picture(flags, runs, weight_at_target), curve)


def _check(flags: Flags) -> None:
    positive(
        "horizon", flags.horizon
    )  # the control's adapt_over, by the name of this figure's flag
    Control("adaptive", flags.target, flags.horizon).check()
    for beta in flags.betas:
        positive("betas", beta)
    distinct("betas", flags.betas)
    for field in ("updates", "seeds"):
        at_least(field, getattr(flags, field), 1)
    most = float(_frontier(np.array([1e-4]))[0])
    if flags.target >= most:
        problem = f"no policy that follows this reward spends over {most:.3g} nats."
        raise UsageError("target", flags.target, problem, "Aim lower.")


def _frontier(betas: np.ndarray) -> np.ndarray:
    """What the optimum at each weight spends."""
    mdp = Rewarded().build()
    with jax.enable_x64(True):
        space = exact.enumerate_strings(mdp.vocab, mdp.horizon, mdp.eos)
        ref = exact.law(
            space, *present(present(mdp.regulariser, "penalty").reference, "reference")
        ).string
        rewards = jnp.asarray(present(mdp.score, "score")(space.sequences), float)
        kl = divergences.reverse_kl()
        return np.asarray(regularised.frontier(kl, rewards, ref, jnp.asarray(betas))[0])


def _weight_that_spends(target: float) -> float:
    """The weight whose optimum spends the target: what is spent falls as the weight grows."""
    betas = np.geomspace(1e-3, 1e3, 4001)
    return float(np.exp(np.interp(-target, -_frontier(betas), np.log(betas))))


def _run(flags: Flags, kind: str, beta: float) -> trained.Course:
    control = Control(kind, flags.target, flags.horizon) if kind == "adaptive" else Control()
    config = make_config(
        benchmark=Rewarded(beta=beta),
        policy=Architecture("full"),
        methods=("rloo",),
        seeds=flags.seeds,
        updates=flags.updates,
        batch_size=256,
        learning_rate=0.02,
        schedule="constant",
        evaluations=40,
        control=control,
    )
    return trained.train(config).courses["rloo"]


def _picture(
    flags: Flags, runs: dict[tuple[str, float], trained.Course], weight_at_target: float
) -> Picture:
    style.use()
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.8, 2.9), layout="constrained")
    colours = plt.get_cmap("viridis")(np.linspace(0.05, 0.8, len(flags.betas)))
    shades = dict(zip(flags.betas, colours))
    for (kind, beta), course in runs.items():
        for axis, name in ((left, "kl_to_reference"), (right, "beta")):
            each = course.metrics[name]
            middle = np.array([statistics.iqm(x) for x in each])
            line = {"color": shades[beta], "linewidth": 1.4}
            line["label"] = f"{kind}, from {beta:g}" if axis is left else None
            band = {"color": shades[beta], "alpha": 0.15, "linewidth": 0}
            axis.plot(course.update, middle, KINDS[kind], **line)
            axis.fill_between(course.update, each.min(1), each.max(1), **band)
    left.axhline(flags.target, color=style.EXPERT, linewidth=0.9, linestyle=":")
    left.annotate("target", (flags.updates, flags.target), ha="right", va="bottom", fontsize=7.5)
    right.axhline(weight_at_target, color=style.EXPERT, linewidth=0.9, linestyle=":")
    below = (flags.updates, 0.9 * weight_at_target)
    right.annotate("its optimum spends the target", below, ha="right", va="top", fontsize=7.5)
    left.set(xlabel="update", ylabel="KL from the reference (nats)", ylim=(0, None))
    right.set(xlabel="update", ylabel=r"weight $\beta$", yscale="log")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


FIGURE = Figure(
    flags=Flags,
    make=make,
    title="Holding a KL",
    claim=(
        "A constant weight ends at whatever KL it leads to; an adapted one holds the "
        "target, whatever it starts from."
    ),
    source="Ziegler et al. 2019 (arXiv 1909.08593), section 2.2",
)
