"""On-policy distillation with the right and with the naive reward of a divergence: `python -m
experiments.figures opd_plus [--away X --updates N --seeds S]`.

Naive is to pay -f(u) for a token, u = p/q, as if the term of D_f = E_q[f(u)] were a reward. Right
(OPD+) is u f'(u) - f(u). Near the expert a reward of the log-ratio s pulls or pushes as its slope
at s = 0 says, and the naive one's is -f'(1): 1 for -log u, 0 for Jensen-Shannon, -1 for u log u. So
naive reverse KL is right, naive JS has no pull, and naive forward KL (-s e^s, which is FAIRL's)
drives the policy off its teacher. f'(1) is no property of the divergence: c (u - 1) may be added to
f. A student of the two-template language starts some way off, and is trained on its own prefixes by
sampled tokens and by exact gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax import Array

from experiments.figures.common import real_laws, real_students, students
from experiments.figures.common.base import Check, Figure, Picture, Result, Row, near
from experiments.figures.common.classes import EnumeratedTask, enumerated
from experiments.figures.common.drawing import TARGET
from experiments.gradients.published import TERMS
from experiments.gradients.world import build
from experiments.reporting import style
from fdiv import divergences, exact
from fdiv import tokens as tk
from fdiv.benchmarks import TwoTemplate
from fdiv.checks import at_least, between, seeding
from fdiv.objectives.policy_gradient import policy_gradient
from fdiv.types import Level

NAMES = ("forward_kl", "js", "reverse_kl")
KINDS = {"right": "-", "naive": "--"}
CLIP = 6.0  # of the log-ratio, as in the published re-run
DISTANCES = (0.1, 0.5, 1.5)
PAIRS, ARMS = 500, 10  # of random laws, for the cosines
POINTS = 20  # measurements along a training
RATE, BATCH = 0.05, 64
# A re-run of OPD+ with Qwen3-4B-Instruct -> Qwen3-0.6B-Base on GSM8K: accuracy at the start and at
# the end, and the mean norm of the gradient.
RERUN = {
    ("forward_kl", "naive"): (0.331, 0.039, 1941.7),
    ("forward_kl", "right"): (0.331, 0.450, 13.8),
    ("js", "naive"): (0.331, 0.134, 92.7),
    ("js", "right"): (0.331, 0.460, 1.25),
    ("reverse_kl", "naive"): (0.331, 0.494, 15.4),
    ("reverse_kl", "right"): (0.331, 0.472, 18.0),
}


@dataclasses.dataclass(frozen=True)
class Flags:
    """A table policy of the two-template language, some way off the expert."""

    away: float = 1.0
    """Standard deviation of the start's logits about the expert's."""
    updates: int = 400
    """Updates by Adam."""
    seeds: int = 5
    """Trainings with sampled strings, 64 in each update."""
    seed: int = 0
    """Which start, and which random laws."""
    model: Path | None = None
    """A pretrained model in the Hugging Face layout: the gradients also at its next-token laws, the
    student being the model without an eighth of its layers."""
    plan: int = 0
    """Compiles these laws for so many devices, from the model's config.json alone, and computes
    nothing else; 0: computes."""


Kind = tuple[str, str]  # divergence, right or naive
REWARDS: dict[Kind, Callable[[Array], Array]] = {
    (name, kind): (divergences.parse(name).reward if kind == "right" else TERMS[name])
    for name in NAMES
    for kind in KINDS
}


def make(flags: Flags) -> Result:
    """Slopes and cosines, then both trainings of every reward."""
    if flags.plan:
        model = real_students.refuse_unnamed(flags.model, flags.plan)
        return real_students.planned_laws(model, 96, flags.plan)
    between("away", flags.away, 0.01, 3)
    at_least("updates", flags.updates, POINTS)
    at_least("seeds", flags.seeds, 1)
    seeding("seed", flags.seed)
    own = at_laws(*real_laws.laws(flags.model)) if flags.model else {}
    with jax.enable_x64(True):
        task = enumerated(TwoTemplate().build())
        start = _start(task, flags)
        ratios = _visited(task, start)
        slope = {kind: float(jax.grad(r)(0.0)) for kind, r in REWARDS.items()}
        cosine = cosines(flags.seed)
        pull = {kind: _pull(reward) for kind, reward in REWARDS.items()}
        exactly = _train(task, start, flags, sampled=False)
        drawn = _train(task, start, flags, sampled=True)
    rows = [_row(kind, slope, cosine, exactly, drawn) for kind in REWARDS]
    values = {
        name: {kind: rows[i * len(KINDS) + j] for j, kind in enumerate(KINDS)}
        for i, name in enumerate(NAMES)
    }
    curve = [
        {"divergence": name, "reward": kind, "update": int(update), "seed": i}
        | {what: float(path[what][i, j]) for what in ("valid", "tv", "gradient_norm")}
        for (name, kind), path in drawn.items()
        for j, update in enumerate(_stops(flags))
        for i in range(flags.seeds)
    ]
    checks = _checks(cosine, slope, pull, exactly, drawn)
    for row in rows if own else ():
        row |= own[row["divergence"], row["reward"]]
    picture = _picture(flags, ratios, cosine, drawn, own)
    return Result({"rows": values, "clip": CLIP}, checks, rows, picture, [*rows, *curve])


def _row(kind: Kind, slope: Mapping, cosine: Mapping, exactly: Mapping, drawn: Mapping) -> Row:
    start, end, norm = RERUN[kind]
    row: Row = {"divergence": kind[0], "reward": kind[1], "slope at s = 0": slope[kind]}
    row |= {f"cosine at {x:g}": cosine[kind][i] for i, x in enumerate(DISTANCES)}
    row |= {"valid, start": float(drawn[kind]["valid"][0, 0])}
    row |= {"valid, exact": float(exactly[kind]["valid"][0, -1])}
    row |= {"valid, sampled": float(drawn[kind]["valid"][:, -1].mean())}
    row |= {"tv, start": float(drawn[kind]["tv"][0, 0])}
    row |= {"tv, sampled": float(drawn[kind]["tv"][:, -1].mean())}
    row |= {"gradient norm": float(drawn[kind]["gradient_norm"].mean())}
    return row | {"re-run start": start, "re-run end": end, "re-run norm": norm}


def _start(task: EnumeratedTask, flags: Flags) -> np.ndarray:
    """The expert's logits and noise. [states, V]"""
    expert = task.table()
    return expert + flags.away * np.random.default_rng(flags.seed).standard_normal(expert.shape)


def _visited(task: EnumeratedTask, params: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log-ratio of every token, and how often the policy writes it."""
    q = task.law("full", params)
    weight = np.exp(np.asarray(q.arrival)[:, None] + np.asarray(q.conditional))
    s = np.asarray(task.expert.conditional - q.conditional)
    return s.ravel(), weight.ravel() / task.space.horizon


def climb(q: np.ndarray, reward: np.ndarray) -> np.ndarray:
    """Policy gradient in the logits of softmax laws [..., V]: q (r - E_q r)."""
    return q * (reward - (q * reward).sum(-1, keepdims=True))


def cosines(seed: int) -> dict[Kind, np.ndarray]:
    """Mean cosine of each reward's policy gradient with -grad of its divergence, over random pairs
    at each distance. [distances]"""
    p, step = np.random.default_rng(seed).standard_normal((2, PAIRS, ARMS))
    log_softmax = lambda x: np.asarray(jax.nn.log_softmax(x))
    found: dict[Kind, list[float]] = {kind: [] for kind in REWARDS}
    for distance in DISTANCES:
        log_q = log_softmax(p + distance * step)
        s, q = log_softmax(p) - log_q, np.exp(log_q)
        for name, kind in REWARDS:
            up, down = (
                climb(q, np.asarray(REWARDS[name, each](jnp.asarray(s))))
                for each in (kind, "right")
            )
            size = np.linalg.norm(up, axis=1) * np.linalg.norm(down, axis=1)
            found[name, kind].append(float(np.mean((up * down).sum(1) / size)))
    return {kind: np.array(each) for kind, each in found.items()}


def at_laws(log_p: np.ndarray, log_q: np.ndarray) -> dict[Kind, dict[str, float]]:
    """Of each reward at a model's laws, [positions, V], clipped as in training: the mean cosine
    with -grad of its divergence, and the root mean square of one sampled token's gradient, which is
    E_q[r^2 |e_v - q|^2]."""
    s, q = np.clip(log_p - log_q, -CLIP, CLIP), np.exp(log_q)
    size = 1 - 2 * q + (q**2).sum(-1, keepdims=True)
    with jax.enable_x64(True):
        paid = {kind: np.asarray(reward(jnp.asarray(s))) for kind, reward in REWARDS.items()}
    found = {}
    for (name, kind), r in paid.items():
        up, down = climb(q, r), climb(q, paid[name, "right"])
        length = np.linalg.norm(up, axis=1) * np.linalg.norm(down, axis=1)
        found[name, kind] = {
            "model: cosine": float(np.mean((up * down).sum(1) / length)),
            "model: norm": float(np.sqrt((q * r**2 * size).sum(1).mean())),
        }
    return found


def _pull(reward: Callable[[Array], Array]) -> float:
    """How a step away from p = (.6, .3, .1) changes along the policy gradient, times its length:
    below 0 it is undone, above 0 it grows. By finite differences."""
    z, step = np.log([0.6, 0.3, 0.1]), 1e-4
    away = np.array([1.0, -0.5, -0.5])
    log_softmax = lambda x: x - np.log(np.exp(x).sum())
    up = []
    for side in (step, -step):
        log_q = log_softmax(z + side * away)
        up.append(climb(np.exp(log_q), np.asarray(reward(jnp.asarray(z - log_q)))))
    return float(away @ (up[0] - up[1]) / (2 * step))


def _train(
    task: EnumeratedTask, start: np.ndarray, flags: Flags, sampled: bool
) -> dict[Kind, dict[str, np.ndarray]]:
    """What a student is along the way: its share of valid strings, its total variation to the
    teacher, and the mean norm of the gradients before. [seeds, points]; of exact gradients there
    is one seed."""
    policy, space = task.policy("full"), task.space
    world = build(space, policy, start, task.mdp.expert)
    valid = np.asarray(task.mdp.statistics["valid"](space.sequences))
    rows = tk.completions(jnp.zeros((BATCH, space.horizon), jnp.int32), None)  # none is read
    batch = rows if sampled else space.sequences
    rewards = [clipped(reward) for reward in REWARDS.values()]

    def path(index: Array, key: Array) -> dict[str, Array]:
        d = divergences.parse(NAMES[0])._replace(
            reward=lambda s: jnp.stack([r(s) for r in rewards])[index]
        )
        components = world.sampled if sampled else world.exact
        objective = policy_gradient(components, d, Level.token_policy, "none", discount=0.0)
        training = students.adam(objective, RATE, flags.updates)

        def measured(params: Array) -> dict[str, Array]:
            q = exact.law(space, policy, params)
            tv = exact.divergence(divergences.tv(), space, task.expert, q)
            return {"valid": jnp.exp(q.string) @ valid, "tv": tv}

        def stretch(state, _):
            stride = flags.updates // POINTS
            state, metrics = students.advance(training, state, lambda _: batch, stride)
            norm = task.space.horizon * metrics["gradient_norm"].mean()
            return state, measured(state.params) | {"gradient_norm": norm}

        first = training.init(key, jnp.asarray(start))
        found = jax.lax.scan(stretch, first, None, length=POINTS)[1]
        before = measured(first.params) | {"gradient_norm": found["gradient_norm"][0]}
        return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), before, found)

    keys = jax.random.split(jax.random.key(flags.seed), flags.seeds if sampled else 1)
    all_of = jax.jit(jax.vmap(jax.vmap(path, (None, 0)), (0, None)))
    found = jax.device_get(all_of(jnp.arange(len(REWARDS)), keys))
    return {kind: {name: x[i] for name, x in found.items()} for i, kind in enumerate(REWARDS)}


def clipped(reward: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The reward of the log-ratio held to what the re-run allows."""
    return lambda s: reward(jnp.clip(s, -CLIP, CLIP))


def _stops(flags: Flags) -> np.ndarray:
    return np.arange(POINTS + 1) * (flags.updates // POINTS)


def _checks(
    cosine: Mapping, slope: Mapping, pull: Mapping, exactly: Mapping, drawn: Mapping
) -> list[Check]:
    checks = []
    for name, wanted in zip(NAMES, (-1.0, 0.0, 1.0)):
        checks.append(near(f"naive {name}: slope is -f'(1)", slope[name, "naive"], wanted, 1e-12))
        checks.append(
            near(f"right {name}: slope is f''(1)", slope[name, "right"], BENDS[name], 1e-9)
        )
    spread = float(np.array([0.6, 0.3, 0.1]) @ np.array([1, -0.5, -0.5]) ** 2) - (0.6 - 0.2) ** 2
    for kind, grown in pull.items():
        about = f"{kind[1]} {kind[0]}: near the expert a step grows by minus slope times variance"
        checks.append(near(about, grown, -slope[kind] * spread, 1e-6))
    worst = float(cosine["forward_kl", "naive"].max())
    checks.append(Check("naive forward_kl climbs: cosine < -.9", worst < -0.9, f"{worst:.4f}"))
    worst = float(cosine["js", "naive"].max())
    checks.append(Check("naive js climbs on average: cosine < 0", worst < 0, f"{worst:.4f}"))
    apart = float(np.abs(cosine["reverse_kl", "naive"] - 1).max())
    checks.append(near("naive reverse_kl descends: cosine", 1 - apart, 1.0, 1e-12))
    for what, found in (("exact", exactly), ("sampled", drawn)):
        for (name, kind), path in found.items():
            first, last = path["tv"][:, 0], path["tv"][:, -1]
            wrong = slope[name, kind] <= 0
            holds = bool((last > first).all() if wrong else (last < first).all())
            where = "farther from" if wrong else "nearer to"
            about = f"{kind} {name}, {what}: ends {where} the teacher"
            checks.append(Check(about, holds, f"tv {first.mean():.4f} -> {last.mean():.4f}"))
    return checks


BENDS = {"forward_kl": 1.0, "js": 0.25, "reverse_kl": 1.0}  # f''(1)


def _picture(
    flags: Flags,
    ratios: tuple[np.ndarray, np.ndarray],
    cosine: Mapping,
    drawn: Mapping,
    own: Mapping,
) -> Picture:
    """Rewards over the log-ratios visited, training, cosines against distance."""
    style.use()
    shape = {"figsize": (7.4, 2.9), "width_ratios": (1.1, 1.1, 0.9), "layout": "constrained"}
    figure, (rewards, training, pairs) = plt.subplots(1, 3, **shape)
    s = np.linspace(-3.2, 3.2, 200)
    counts = rewards.twinx()
    bins = np.linspace(-3.2, 3.2, 33)
    counts.hist(ratios[0], bins=bins, weights=ratios[1], color=TARGET, label="visited at the start")
    counts.set(ylim=(0, 1.15 * counts.get_ylim()[1]), yticks=[])
    counts.grid(visible=False)
    counts.spines["right"].set_visible(False)
    rewards.set_zorder(counts.get_zorder() + 1)
    rewards.patch.set_visible(False)
    for name, kind in REWARDS:
        look = {"color": style.colour(name), "linestyle": KINDS[kind]}
        r = np.asarray(REWARDS[name, kind](jnp.asarray(s)))
        rewards.plot(s, r, label=f"{name}, {kind}", **look)
        tv = drawn[name, kind]["tv"]
        training.plot(_stops(flags), tv.mean(0), **look)
        band = {"color": look["color"], "alpha": 0.15, "linewidth": 0}
        training.fill_between(_stops(flags), tv.min(0), tv.max(0), **band)
        pairs.plot(DISTANCES, cosine[name, kind], marker="o", markersize=4, **look)
        if own:
            star = {"marker": "*", "markersize": 9, "color": look["color"]}
            pairs.plot(1.8, own[name, kind]["model: cosine"], linestyle="", **star)
    rewards.set(xlabel=r"log-ratio $s = \log p - \log q$", ylabel="reward", ylim=(-4, 4))
    training.set(xlabel="update", ylabel="total variation to the teacher", ylim=(0, 1.02))
    pairs.set(xlabel="distance of random laws", ylabel=r"cosine with $-\nabla D$", ylim=(-1.1, 1.1))
    all_right = {"fontsize": 7.5, "ha": "right", "color": style.OTHER}
    training.annotate("all right, and naive reverse_kl", (flags.updates, 0.06), **all_right)
    pairs.annotate("all right,\nand naive reverse_kl", (1.5, 0.68), **all_right)
    handles, names = rewards.get_legend_handles_labels()
    more = counts.get_legend_handles_labels()
    if own:
        more[0].append(plt.Line2D([], [], marker="*", color=style.OTHER, linestyle=""))
        more[1].append("laws of the model")
    figure.legend(handles + more[0], names + more[1], loc="outside lower center", ncols=4)
    return figure


FIGURE = Figure(
    flags=Flags,
    make=make,
    title="On-policy distillation: the naive and the right reward",
    claim=(
        "Paying -f(u) for a token is right for reverse KL alone: it drives a forward-KL student "
        "off its teacher and gives a Jensen-Shannon student nothing to hold on to."
    ),
    source="OPD+ (arXiv 2606.01039); Ghasemipour et al. 2019 (arXiv 1911.02256) for FAIRL",
    cluster=Flags(model=Path("models/llama-1b"), updates=2000, seeds=20),
)
