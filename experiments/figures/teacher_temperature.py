"""What the temperature of a teacher trades: `python -m experiments.figures teacher_temperature
[--temperatures T ...]`.

A student that cannot hold all of its teacher is learned by maximum likelihood. The colder the
teacher, the more of what the student says is likely under the truth (precision, E_q log p) and the
less of the truth it covers (recall, E_p log q). First on the plane: p is eight Gaussians on a ring
of a 3 x 3 grid, the teacher a mixture of four, its weights raised to a power, the student one
Gaussian, whose best fit has the teacher's moments. Then on the two-template language: the teacher
is the expert sampled at a temperature, a student of each policy class is its nearest in forward KL,
in closed form, and both measures are sums over all strings. With `--model`, a pretrained model
teaches itself without some of its layers, with adapters, at a temperature, on two texts; both
measures are of the next token on another text, sums over the vocabulary."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax import Array
from matplotlib.patches import Ellipse
from scipy.special import logsumexp

from experiments.figures.common import real_laws, real_students
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
ALSO_READ = (
    "A baker who had moved to the coast found that her bread would not rise as it used to. She "
    "blamed the flour, then the oven, and at last the water, which tasted of iron. A neighbour "
    "told her to let it stand overnight in a wooden bucket. The next morning the dough was soft "
    "and full of air, and nobody on the street could say why."
)
HELD_OUT = (
    "When the train stopped between two stations, the passengers first looked at their watches "
    "and then at each other. A boy counted the cows in the field. After ten minutes a man in a "
    "uniform came through and said that there was a tree on the line. Someone asked how large it "
    "was, and he held his hands apart as a fisherman does. They were an hour late, and the tea "
    "was cold."
)
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
    model: Path | None = None
    """A pretrained model in the Hugging Face layout: teaches itself without a fifth of its
    layers."""
    model_temperatures: tuple[float, ...] = (1.0, 0.8, 0.5)
    """Temperatures of the model as a teacher."""
    model_updates: int = 24
    """Updates of its students, by Adam, on some 190 places of text each."""
    plan: int = 0
    """Compiles an update of the model's students for so many devices, from its config.json alone,
    and trains nothing; 0: trains."""


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
    """The plane, then the language, then the model's students where one is given."""
    if flags.plan:
        return _planned(flags)
    distinct("powers", flags.powers)
    distinct("temperatures", flags.temperatures)
    for power in flags.powers:
        between("powers", power, 0.999, 1000.001)
    for t in flags.temperatures:
        between("temperatures", t, 0.05, 20)
    at_least("points", flags.points, 100)
    seeding("seed", flags.seed)
    own = of_model(flags) if flags.model else {}
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
    rows += [{"where": "model", "student": who, **row} for who, row in own.items()]
    values = {"plane": plane, "language": language} | ({"model": own} if own else {})
    checks = _checks(flags, teacher, direct, plane, language)
    if own:
        checks += _of_model(flags, own)
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


# --- a pretrained model ---------------------------------------------------------------------------


def of_model(flags: Flags) -> dict[str, Row]:
    """Students of the model at each temperature, and the student before: mean recall and precision
    over the places of a text that none was trained on, in nats a token, the half widths of their
    95% intervals, and how far each is from the student of the warmest teacher."""
    distinct("model_temperatures", flags.model_temperatures)
    for t in flags.model_temperatures:
        between("model_temperatures", t, 0.05, 20)
    at_least("model_updates", flags.model_updates, 1)
    assert flags.model is not None
    texts = real_students.encoded(flags.model, [real_laws.TEXT, ALSO_READ, HELD_OUT])
    students = real_students.read(flags.model)
    places, held_out = real_students.everywhere(texts[:2]), real_students.everywhere(texts[2:])
    log_p = real_students.of_teacher(students, places)
    truth = real_students.of_teacher(students, held_out)
    order = sorted(flags.model_temperatures, reverse=True)
    start = real_students.begun(students, len(order), flags.seed)
    learned = real_students.learn(
        students, start, places, log_p, likelihood, order, flags.model_updates, flags.seed
    )
    before = real_students.of_students(students, jax.tree.map(lambda x: x[:1], start), held_out)
    after = real_students.of_students(students, learned.params, held_out)
    each = [at_places(truth, log_q) for log_q in (*before, *after)]
    names = ["no teacher", *(f"T {t:g}" for t in order)]
    found = {name: _interval(own, each[1]) for name, own in zip(names, each)}
    entropy = float(-(np.exp(truth) * truth).sum(1).mean())
    return found | {"the model itself": {"recall": -entropy, "precision": -entropy}}


def likelihood(log_q: Array, log_p: Array, temperature: Array, key: Array) -> Array:
    """What maximum likelihood minimises on all that a teacher at a temperature would write there:
    the cross entropy, a mean over places."""
    taught = jax.nn.log_softmax(log_p / temperature)
    return -jnp.sum(jnp.exp(taught) * log_q, axis=-1).mean()


def at_places(log_p: np.ndarray, log_q: np.ndarray) -> dict[str, np.ndarray]:
    """E_p log q and E_q log p at each place, laws [N, V]."""
    return {
        "recall": (np.exp(log_p) * log_q).sum(1),
        "precision": (np.exp(log_q) * log_p).sum(1),
    }


def _interval(own: dict[str, np.ndarray], warmest: dict[str, np.ndarray]) -> Row:
    row: Row = {}
    for name, values in own.items():
        row[name], row[f"{name} +-"] = real_students.mean_and_error(values)
        apart = real_students.mean_and_error(values - warmest[name])
        row[f"{name}, less warmest"], row[f"{name}, less warmest +-"] = apart
    return row


def _of_model(flags: Flags, own: dict[str, Row]) -> list[Check]:
    """Laws of a held-out text: Gibbs, and that training has come nearer."""
    least = own["the model itself"]["recall"]
    trained = {name: row for name, row in own.items() if name.startswith("T ")}
    best = max(row["recall"] for row in trained.values())
    checks = [Check("model: no recall above -H(p)", best <= least, f"{best:.4f}, {least:.4f}")]
    if 1.0 in flags.model_temperatures:
        before, after = own["no teacher"]["recall"], own["T 1"]["recall"]
        nearer = f"{before:.4f} -> {after:.4f}"
        checks.append(Check("model: the teacher at 1 is learned from", after > before, nearer))
    return checks


def _planned(flags: Flags) -> Result:
    """An update of as many students as there are temperatures, on texts as long as these."""
    model = real_students.refuse_unnamed(flags.model, flags.plan)
    places = real_students.everywhere([[0] * 96] * 2)
    count = len(flags.model_temperatures)
    return real_students.planned(model, places, likelihood, count, flags.plan)


# --- the picture ----------------------------------------------------------------------------------


def _picture(flags: Flags, teacher: Gaussians, students: dict, values: dict) -> Picture:
    """The plane with both students, its trade-off with the printed numbers, the language's."""
    style.use()
    panels = 3 + ("model" in values)
    figure, axes = plt.subplots(1, panels, figsize=(7.6 + 2.5 * (panels - 3), 3.1))
    figure.set_layout_engine("constrained")
    plane, trade, language = axes[:3]
    if "model" in values:
        _draw_model(axes[3], values["model"])
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


def _draw_model(axis: plt.Axes, own: dict[str, Row]) -> None:
    """Its students on a held-out text, with the intervals of their means."""
    rows = {name: row for name, row in own.items() if "recall +-" in row}
    for name, row in rows.items():
        error = {"xerr": row["recall +-"], "yerr": row["precision +-"], "elinewidth": 0.6}
        axis.errorbar(row["recall"], row["precision"], marker="o", color=style.EXPERT, **error)
        at = {"textcoords": "offset points", "xytext": (5, 5), "fontsize": 7.5}
        axis.annotate(name, (row["recall"], row["precision"]), **at)
    axis.set(xlabel=r"recall $E_p \log q$, a token", title="a language model")


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
    cluster=Flags(
        model=Path("models/llama-1b"),
        model_temperatures=(1.0, 0.95, 0.9, 0.875, 0.8, 0.7, 0.6, 0.5),
        model_updates=500,
    ),
)
