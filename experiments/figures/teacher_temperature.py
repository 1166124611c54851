"""What the temperature of a teacher trades: `python -m experiments.figures teacher_temperature
[--temperatures T ...]`.

A student that cannot hold all of its teacher is learned by maximum likelihood. The colder the
teacher, the more of what the student says is likely under the truth (precision, E_q log p) and the
less of the truth it covers (recall, E_p log q). First on the plane: p is eight Gaussians on a ring
of a 3 x 3 grid, the teacher a mixture of four, its weights raised to a power, the student one
Gaussian, whose best fit has the teacher's moments. Then on the two-template language: the teacher
is the expert sampled at a temperature, a student of each policy class is its nearest in forward KL,
in closed form, and both measures are sums over all strings."""

from __future__ import annotations

import dataclasses
import itertools
from typing import NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Ellipse
from scipy.special import logsumexp

from experiments.figures.common.base import Check, Figure, Picture, Result, Row, distinct, near
from experiments.figures.common.classes import EnumeratedTask, enumerated
from experiments.figures.common.drawing import TARGET
from experiments.reporting import style
from fdiv import exact
from fdiv.benchmarks import TwoTemplate
from fdiv.checks import at_least, between, seeding
from fdiv.policies import tabular

CENTRES = np.array([c for c in itertools.product((-1.0, 0.0, 1.0), repeat=2) if any(c)])
VARIANCE, COMPONENTS = 0.025, 4
STARTS, ROUNDS = 12, 120  # of EM
CLASSES = {"independent": ":", "markov": "-"}
STUDENTS = ("direct", "distilled")
# The printed output of the notebook of arXiv 2505.13111, section 3: (recall, precision)
PRINTED = {"direct": (-2.646, -20.266), "distilled": (-42.445, -0.703)}


@dataclasses.dataclass(frozen=True)
class Flags:
    """A mixture on the plane, and the two-template language."""

    powers: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)
    """Powers of the teacher's weights on the plane; the last is the one that is drawn."""
    temperatures: tuple[float, ...] = (0.5, 0.65, 0.8, 0.875, 0.95, 1.0)
    """Temperatures of the language's teacher."""
    points: int = 2_000
    """Points of the plane that the teacher is fitted to."""
    seed: int = 0
    """Which points."""


class Gaussians(NamedTuple):
    """A mixture of Gaussians with diagonal covariances."""

    weights: np.ndarray  # [K]
    means: np.ndarray  # [K, 2]
    variances: np.ndarray  # [K, 2]

    def log_density(self, x: np.ndarray) -> np.ndarray:
        """[N, 2] -> [N]"""
        return logsumexp(self.joint(x), axis=1)

    def joint(self, x: np.ndarray) -> np.ndarray:
        """log of weight times density, [N, K]"""
        off = (x[:, None] - self.means) ** 2 / self.variances + np.log(2 * np.pi * self.variances)
        with np.errstate(divide="ignore"):  # a weight of 0 is a component that is not there
            return np.log(self.weights) - 0.5 * off.sum(-1)

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of either coordinate."""
        mean = self.weights @ self.means
        return mean, self.weights @ (self.variances + self.means**2) - mean**2


TRUTH = Gaussians(np.full(8, 1 / 8), CENTRES, np.full((8, 2), VARIANCE))


def make(flags: Flags) -> Result:
    """The plane, then the language."""
    distinct("powers", flags.powers)
    distinct("temperatures", flags.temperatures)
    for power in flags.powers:
        between("powers", power, 0.999, 1000.001)
    for t in flags.temperatures:
        between("temperatures", t, 0.05, 20)
    at_least("points", flags.points, 100)
    seeding("seed", flags.seed)
    draw = np.random.default_rng(flags.seed)
    teacher = fit(sample(draw, flags.points), draw)
    direct = single(TRUTH)
    distilled = {power: single(sharpened(teacher, power)) for power in flags.powers}
    plane = {"direct": measure(direct)} | {f"{b:g}": measure(q) for b, q in distilled.items()}
    with jax.enable_x64(True):
        task = enumerated(TwoTemplate().build())
        language = {
            name: {f"{t:g}": taught(task, name, t) for t in flags.temperatures} for name in CLASSES
        }
    rows: list[Row] = [
        {"where": "plane", "student": "one Gaussian", "teacher": name, **row}
        for name, row in plane.items()
    ] + [
        {"where": "language", "student": name, "teacher": f"T {t}", **row}
        for name, table in language.items()
        for t, row in table.items()
    ]
    values = {"plane": plane, "language": language}
    checks = _checks(flags, teacher, direct, plane, language)
    pictured = {"direct": direct, "distilled": distilled[flags.powers[-1]]}
    return Result(values, checks, rows, _picture(flags, teacher, pictured, values))


# --- the plane ------------------------------------------------------------------------------------


def sample(draw: np.random.Generator, count: int) -> np.ndarray:
    """Points of the truth. [N, 2]"""
    noise = draw.standard_normal((count, 2))
    return CENTRES[draw.integers(8, size=count)] + VARIANCE**0.5 * noise


def fit(x: np.ndarray, draw: np.random.Generator) -> Gaussians:
    """The likeliest mixture of four that EM comes to from random points."""

    def descend() -> tuple[float, Gaussians]:
        means = x[draw.choice(len(x), COMPONENTS, replace=False)]
        spread = np.full((COMPONENTS, 2), x.var(0).mean())
        q = Gaussians(np.full(COMPONENTS, 1 / COMPONENTS), means, spread)
        for _ in range(ROUNDS):
            joint = q.joint(x)
            share = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
            total = share.sum(0)
            means = share.T @ x / total[:, None]
            variances = share.T @ x**2 / total[:, None] - means**2
            q = Gaussians(total / len(x), means, np.maximum(variances, 1e-6))
        return float(q.log_density(x).mean()), q

    return max((descend() for _ in range(STARTS)), key=lambda pair: pair[0])[1]


def sharpened(q: Gaussians, power: float) -> Gaussians:
    """With weights raised to a power."""
    log = power * np.log(q.weights)
    return q._replace(weights=np.exp(log - logsumexp(log)))


def single(p: Gaussians) -> Gaussians:
    """The Gaussian nearest in forward KL: that of the same moments."""
    mean, variance = p.moments()
    return Gaussians(np.ones(1), mean[None], variance[None])


def measure(q: Gaussians) -> dict[str, float]:
    """Recall E_p log q in closed form, precision E_q log p by quadrature over six standard
    deviations of q."""
    mean, variance = TRUTH.moments()
    apart = variance + (mean - q.means[0]) ** 2
    recall = -0.5 * np.sum(np.log(2 * np.pi * q.variances[0]) + apart / q.variances[0])
    z, step = np.linspace(-6, 6, 301, retstep=True)
    weight = np.exp(-(z**2) / 2) * step / (2 * np.pi) ** 0.5
    grid = np.stack(np.meshgrid(z, z, indexing="ij"), -1).reshape(-1, 2)
    log_p = TRUTH.log_density(q.means[0] + np.sqrt(q.variances[0]) * grid)
    precision = np.outer(weight, weight).ravel() @ log_p
    return {"recall": float(recall), "precision": float(precision)}


# --- the language ---------------------------------------------------------------------------------


def taught(task: EnumeratedTask, name: str, temperature: float) -> dict[str, float]:
    """What a student of a class is that learned all there is from the expert at a temperature."""
    teacher = task.law("full", task.table() / temperature)
    q = task.law(name, tabular.nearest(task.automaton(name), task.space, teacher))
    valid = task.mdp.statistics["valid"](task.space.sequences)
    return {
        "recall": float(exact.expectation(task.expert, q.string)),
        "precision": float(exact.expectation(q, task.expert.string)),
        "valid": float(exact.expectation(q, valid)),
        "entropy": float(exact.entropy(q)),
    }


def _checks(
    flags: Flags, teacher: Gaussians, direct: Gaussians, plane: dict, language: dict
) -> list[Check]:
    by_hand = -np.log(2 * np.pi) - np.log(0.75 + VARIANCE) - 1  # E x^2 = 6/8 + variance
    checks = [
        near("direct recall by hand", plane["direct"]["recall"], by_hand, 1e-9),
    ]
    covered = np.array([plane[f"{b:g}"]["recall"] for b in sorted(flags.powers)])
    detail = f"recall {covered[0]:.4g} -> {covered[-1]:.4g}"
    falls = bool((np.diff(covered) <= 1e-9).all())
    checks.append(Check("plane: colder teachers cover less", falls, detail))
    for name, table in language.items():
        colder = [table[f"{t:g}"] for t in sorted(flags.temperatures, reverse=True)]
        checks.append(_order(f"language, {name}: colder teachers", colder))
    drawn = sample(np.random.default_rng(flags.seed + 1), 50_000)
    sampled = float(direct.log_density(drawn).mean())
    checks.append(near("direct recall from points", sampled, by_hand, 0.03))
    last = plane[f"{flags.powers[-1]:g}"]
    if flags.powers[-1] >= 30:
        seen = f"recall {last['recall']:.3g}, precision {last['precision']:.3g}"
        holds = last["recall"] < plane["direct"]["recall"] - 1
        holds &= last["precision"] > plane["direct"]["precision"] + 1
        checks.append(Check("distilled: far more precise, far less covering", holds, seen))
    return checks


def _order(about: str, rows: list[dict[str, float]]) -> Check:
    """From the warmest teacher to the coldest."""
    recall, precision = (np.array([row[k] for row in rows]) for k in ("recall", "precision"))
    holds = bool((np.diff(recall) <= 1e-9).all() and (np.diff(precision) >= -1e-9).all())
    detail = f"recall {recall[0]:.4g} -> {recall[-1]:.4g}, precision {precision[0]:.4g} -> "
    return Check(f"{about} cover less, precisely", holds, f"{detail}{precision[-1]:.4g}")


# --- the picture ----------------------------------------------------------------------------------


def _picture(flags: Flags, teacher: Gaussians, students: dict, values: dict) -> Picture:
    """The plane with both students, its trade-off with the printed numbers, the language's."""
    style.use()
    shape = {"figsize": (7.6, 3.1), "width_ratios": (1, 1, 1), "layout": "constrained"}
    figure, (plane, trade, language) = plt.subplots(1, 3, **shape)
    colours = dict(zip(STUDENTS, (style.colour("forward_kl"), style.colour("reverse_kl"))))
    points = sample(np.random.default_rng(flags.seed + 2), 1500)
    plane.plot(*points.T, ".", color=TARGET, markersize=2.5, zorder=1)
    for mean, variance in zip(teacher.means, teacher.variances):
        _ellipse(plane, mean, variance, edgecolor=style.EXPERT, linestyle=":", linewidth=1.1)
    for name, q in students.items():
        _ellipse(plane, q.means[0], q.variances[0], edgecolor=colours[name], linewidth=1.8)
    plane.set(xlim=(-2.2, 2.2), ylim=(-2.2, 2.2), aspect="equal", title="two standard deviations")
    powers = [values["plane"][f"{b:g}"] for b in flags.powers]
    recall, precision = ([row[k] for row in powers] for k in ("recall", "precision"))
    trade.plot(recall, precision, "-o", color=colours["distilled"], markersize=4)
    where = {"textcoords": "offset points", "xytext": (-14, -13), "fontsize": 7.5}
    trade.annotate(f"power {flags.powers[-1]:g}", (recall[-1], precision[-1]), **where)
    own = values["plane"]["direct"]
    trade.plot(own["recall"], own["precision"], "o", color=colours["direct"])
    for name, at in PRINTED.items():
        trade.plot(*at, "x", color=colours[name], markersize=7, markeredgewidth=1.6)
    trade.set(xlabel=r"recall $E_p \log q$", ylabel=r"precision $E_q \log p$", title="one Gaussian")
    for name, line in CLASSES.items():
        rows = list(values["language"][name].values())
        x, y = ([row[k] for row in rows] for k in ("recall", "precision"))
        language.plot(x, y, line, marker="o", markersize=4, color=style.EXPERT, label=name)
    language.set(xlabel=r"recall $E_p \log q$", title="two-template language")
    for name in CLASSES:
        for t in (min(flags.temperatures), max(flags.temperatures)):
            row = values["language"][name][f"{t:g}"]
            at = {"textcoords": "offset points", "xytext": (7, -2), "fontsize": 7.5}
            language.annotate(f"T {t:g}", (row["recall"], row["precision"]), **at)
    language.set(xlim=(-5.9, -3.1))
    language.legend(title="student", title_fontsize=8, loc="upper left", bbox_to_anchor=(0, 0.6))
    handles = [
        plt.Line2D([], [], color=TARGET, marker=".", linestyle="", markersize=8, label="truth"),
        plt.Line2D([], [], color=style.EXPERT, linestyle=":", label="teacher"),
        plt.Line2D([], [], color=colours["direct"], marker="o", label="student of the truth"),
        plt.Line2D([], [], color=colours["distilled"], marker="o", label="student of the teacher"),
        plt.Line2D([], [], color=style.OTHER, marker="x", linestyle="", label="printed"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=5)
    return figure


def _ellipse(axis: plt.Axes, mean: np.ndarray, variance: np.ndarray, **look) -> None:
    width, height = 4 * np.sqrt(variance)
    axis.add_patch(Ellipse(tuple(mean), width, height, fill=False, zorder=2, **look))


FIGURE = Figure(
    flags=Flags,
    make=make,
    title="What a teacher's temperature trades",
    claim=(
        "A student too small for its teacher gains precision and loses coverage as the teacher is "
        "made colder."
    ),
    source=(
        "A minimal explanation of knowledge distillation in generative models (arXiv 2505.13111); "
        "Hinton, Vinyals & Dean 2015 (arXiv 1503.02531)"
    ),
)
