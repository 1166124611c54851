"""Distillation by a mix of both KLs, and RL after it: `python -m experiments.figures kl_mixing
[--weights W ... --updates N ...]`.

A student is distilled from the exact expert of the two-template language by w forward KL + (1-w)
reverse KL, on the expert's prefixes or on its own, with exact gradients. From there GRPO is run on
a score of whole strings, without a penalty: either what is valid in the language, or the rarer
template alone (mode_b). Two classes of policies: one law for all positions, which has to drop a
template or mix both, and Markov. What RL makes of a start depends on whether groups of the start's
answers differ in their score at all. With `--model` the same with a pretrained model and itself
without some of its layers, with adapters, on sums whose answer is one token, the right one paid
for."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax import Array

from experiments.figures.common import real_students, students
from experiments.figures.common.base import Check, Figure, Picture, Result, Row, distinct, near
from experiments.figures.common.classes import EnumeratedTask, enumerated, projection
from experiments.gradients.world import build
from experiments.reporting import style
from fdiv import divergences, exact
from fdiv import tokens as tk
from fdiv.benchmarks import TwoTemplate
from fdiv.checks import at_least, share
from fdiv.objectives.distill import distill
from fdiv.objectives.grpo import grpo
from fdiv.penalties import Penalty
from fdiv.types import Divergence, Objective, Regulariser, Sequences

CLASSES = ("independent", "markov")
SCORES = ("valid", "mode_b")
PREFIXES = ("expert", "policy")
RATE, RL_RATE, BATCH, GROUP = 0.05, 0.03, 64, 8
POINTS = 20
MEASURES = ("valid", "mode_b", "entropy")
SHOTS = "1+2=3\n4+2=6\n"  # before each sum that a model is asked
LARGEST, ASKED = 9, 12  # a sum's most, and how many sums are trained on
# Decoupling (arXiv 2605.16826), Qwen3-0.6B: score before and after GRPO
PUBLISHED = {0.0: (45, 36), 1.0: (40, 45)}


@dataclasses.dataclass(frozen=True)
class Flags:
    """Mixes of both KLs, then GRPO."""

    weights: tuple[float, ...] = (0.0, 0.2, 0.5, 0.8, 1.0)
    """Weights of forward KL; the rest is reverse KL's."""
    distilled: int = 300
    """Updates of distillation, by exact gradients."""
    updates: int = 200
    """Updates of GRPO, 64 strings in groups of 8."""
    seeds: int = 4
    """Runs of GRPO from each start."""
    model: Path | None = None
    """A pretrained model in the Hugging Face layout, whose student is itself without a fifth of its
    layers."""
    model_weights: tuple[float, ...] = (0.0, 0.5, 1.0)
    """Weights of forward KL for the model's students."""
    model_distilled: int = 16
    """Updates of their distillation, by exact gradients at 12 sums."""
    model_updates: int = 16
    """Updates of GRPO, 8 answers to each of these sums."""
    model_seeds: int = 2
    """Runs of GRPO from each of these starts."""
    plan: int = 0
    """Compiles an update of the model's students for so many devices, from its config.json alone,
    and trains nothing; 0: trains."""


def make(flags: Flags) -> Result:
    """Both stages in both classes, then of the model where one is given."""
    if flags.plan:
        return _planned(flags)
    distinct("weights", flags.weights)
    for w in flags.weights:
        share("weights", w)
    at_least("distilled", flags.distilled, 1)
    at_least("updates", flags.updates, POINTS)
    at_least("seeds", flags.seeds, 1)
    own = of_model(flags) if flags.model else []
    cells = list(itertools.product(PREFIXES, flags.weights))
    task = enumerated(TwoTemplate().build())
    starts = {name: distilled(task, name, cells, flags) for name in CLASSES}
    paths = {name: reinforced(task, name, starts[name], flags) for name in CLASSES}
    rows: list[Row] = []
    values: dict = {}
    for name, (j, (prefix, w)) in itertools.product(CLASSES, enumerate(cells)):
        path = {k: x[:, j] for k, x in paths[name].items()}  # [scores, seeds, points]
        row = {"class": name, "prefixes": prefix, "forward weight": w}
        row |= {f"{k}, start": float(path[k][0, 0, 0]) for k in MEASURES}
        for i, score in enumerate(SCORES):
            row[f"{score} after RL on it"] = float(path[score][i, :, -1].mean())
            row[f"least {score}"] = float(path[score][i, :, -1].min())
        row["entropy after RL on valid"] = float(path["entropy"][0, :, -1].mean())
        rows.append(row)
        values.setdefault(name, {}).setdefault(prefix, {})[f"{w:g}"] = row
    values["published"] = {f"{w:g}": list(pair) for w, pair in PUBLISHED.items()}
    curve = [
        {"class": name, "score": score, "prefixes": prefix, "forward weight": w}
        | {"update": int(update)}
        | {k: float(paths[name][k][i, j, :, n].mean()) for k in MEASURES}
        for name in CLASSES
        for i, score in enumerate(SCORES)
        for j, (prefix, w) in enumerate(cells)
        for n, update in enumerate(_stops(flags))
    ]
    checks = _checks(flags, task, starts, cells, values)
    if own:
        values["model"] = {row["about"]: row for row in own}
        checks += _of_model(own)
        rows += [{"class": "model", **row} for row in own]
    return Result(values, checks, rows, _picture(flags, cells, paths, own), [*rows, *curve])


def distilled(task: EnumeratedTask, name: str, cells: list, flags: Flags) -> Array:
    """A table of a class for each (prefixes, weight), [cells, states, V]."""
    policy = task.policy(name)
    start = policy.init(jax.random.key(0))
    components = build(task.space, policy, start, task.mdp.expert).exact
    demos = exact.weighted(task.space, task.expert)
    kls = divergences.forward_kl(), divergences.reverse_kl()

    def one(own: Array, w: Array) -> Array:
        def perspective(log_p: Array, log_q: Array) -> Array:
            return w * kls[0].perspective(log_p, log_q) + (1 - w) * kls[1].perspective(log_p, log_q)

        # distillation measures and learns by the perspective alone
        # pyrefly: ignore[bad-argument-type]
        mixture = Divergence("mix", perspective, None, None)
        objective = prefixed(distill(components, mixture, 0.5), own)
        training = students.adam(objective, RATE, flags.distilled)
        state = training.init(jax.random.key(0), start)
        return students.advance(training, state, lambda _: demos, flags.distilled)[0].params

    own, w = (jnp.array(x) for x in zip(*((float(p == "policy"), w) for p, w in cells)))
    return jax.jit(jax.vmap(one))(own, w)


def prefixed(halves: Objective, own: Array) -> Objective:
    """Half expert's and half own prefixes, reweighted to either, which may then be traced."""

    def prepare(key, params, aux, batch):
        aux, both, metrics = halves.prepare(key, params, aux, batch)
        mine = jnp.arange(both.weight.shape[0]) >= batch.weight.shape[0]
        return aux, both._replace(weight=2 * jnp.where(mine, own, 1 - own) * both.weight), metrics

    return halves._replace(prepare=prepare)


def reinforced(task: EnumeratedTask, name: str, starts: Array, flags: Flags) -> dict:
    """What GRPO makes of each start under each score, [scores, cells, seeds, points]."""
    policy, space = task.policy(name), task.space
    components = build(space, policy, starts[0], task.mdp.expert).sampled
    rows = tk.completions(jnp.zeros((BATCH, space.horizon), jnp.int32), None)  # none is read
    statistics = {k: np.asarray(f(space.sequences)) for k, f in task.mdp.statistics.items()}

    def run(kind: Array, start: Array, key: Array) -> dict[str, Array]:
        def score(x: Sequences) -> Array:
            return jnp.stack([task.mdp.statistics[k](x) for k in SCORES])[kind]

        mdp = components.mdp._replace(score=score, regulariser=Regulariser("reverse_kl", 0.0, None))
        objective = grpo(components._replace(mdp=mdp), Penalty(), GROUP)
        training = students.adam(objective, RL_RATE, flags.updates)

        def measured(params: Array) -> dict[str, Array]:
            q = exact.law(space, policy, params)
            shares = {k: jnp.exp(q.string) @ x for k, x in statistics.items()}
            return {"entropy": exact.entropy(q), **shares}

        def stretch(state, _):
            stride = flags.updates // POINTS
            state, _ = students.advance(training, state, lambda _: rows, stride)
            return state, measured(state.params)

        first = training.init(key, start)
        found = jax.lax.scan(stretch, first, None, length=POINTS)[1]
        return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), measured(start), found)

    of_seeds = jax.vmap(run, (None, None, 0))
    of_cells = jax.vmap(of_seeds, (None, 0, None))
    keys = jax.random.split(jax.random.key(1), flags.seeds)
    every = jax.jit(jax.vmap(of_cells, (0, None, None)))
    return jax.device_get(every(jnp.arange(len(SCORES)), starts, keys))


# --- a pretrained model ---------------------------------------------------------------------------


def sums(seed: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Pairs of digits that add up to one, those trained on and the others."""
    every = [(a, b) for a in range(1, LARGEST) for b in range(1, LARGEST) if a + b <= LARGEST]
    order = np.random.default_rng(seed).permutation(len(every))
    mixed = [every[i] for i in order]
    return mixed[:ASKED], mixed[ASKED:]


def of_model(flags: Flags) -> list[Row]:
    """What the model, its student before and each start are worth on sums that none was trained on,
    and what GRPO makes of each start: the chance of the right token, exactly, its mean over sums
    and half the 95% interval; the entropy of the answer; the least and the most over seeds."""
    distinct("model_weights", flags.model_weights)
    for w in flags.model_weights:
        share("model_weights", w)
    for field in ("model_distilled", "model_updates", "model_seeds"):
        at_least(field, getattr(flags, field), 1)
    assert flags.model is not None
    asked, held_out = sums(0)
    encode = lambda pairs: real_students.encoded(
        flags.model, [f"{SHOTS}{a}+{b}=" for a, b in pairs]
    )
    digits = [ids[-1] for ids in real_students.encoded(flags.model, [f"={i}" for i in range(10)])]
    answers = [np.array([digits[a + b] for a, b in pairs]) for pairs in (asked, held_out)]
    places, others = (real_students.ends(encode(pairs)) for pairs in (asked, held_out))
    pupils = real_students.read(flags.model)
    log_p = real_students.of_teacher(pupils, places)
    weights = list(flags.model_weights)
    start = real_students.begun(pupils, len(weights), 0)
    learned = real_students.learn(
        pupils, start, places, log_p, mixed_kls, weights, flags.model_distilled
    )
    repeated = jax.tree.map(lambda x: jnp.repeat(x, flags.model_seeds, 0), learned.params)
    runs = list(np.repeat(weights, flags.model_seeds))
    reward = paid_for(answers[0])
    paid = real_students.learn(
        pupils, repeated, places, log_p, reward, runs, flags.model_updates, seed=1
    )
    judged = lambda params: [
        judge(log_q, answers[1]) for log_q in real_students.of_students(pupils, params, others)
    ]
    before = judged(jax.tree.map(lambda x: x[:1], start))[0]
    whole = judge(real_students.of_teacher(pupils, others), answers[1])
    rows = [{"about": "the model itself", **whole}, {"about": "student before", **before}]
    after = judged(paid.params)
    for i, (w, row) in enumerate(zip(weights, judged(learned.params))):
        own = after[i * flags.model_seeds : (i + 1) * flags.model_seeds]
        right = [x["right"] for x in own]
        found = {"after RL": float(np.mean(right)), "least": min(right), "most": max(right)}
        found["entropy after RL"] = float(np.mean([x["entropy, start"] for x in own]))
        rows.append({"about": f"weight {w:g}", "forward weight": w, **row, **found})
    return rows


def mixed_kls(log_q: Array, log_p: Array, weight: Array, key: Array) -> Array:
    """w KL(p||q) + (1 - w) KL(q||p) of the next token, a mean over places."""
    forward, reverse = divergences.forward_kl(), divergences.reverse_kl()
    each = weight * forward.perspective(log_p, log_q)
    each += (1 - weight) * reverse.perspective(log_p, log_q)
    return each.sum(-1).mean()


def paid_for(answers: np.ndarray) -> real_students.Objective:
    """GRPO's loss of answers of one token, a group of them drawn at each place: 1 for the right
    one. With one step a batch q is q_old, so that nothing is clipped."""

    def loss(log_q: Array, log_p: Array, weight: Array, key: Array) -> Array:
        fixed = jax.lax.stop_gradient(log_q)
        drawn = jax.random.categorical(key, fixed, shape=(GROUP, log_q.shape[0]))
        reward = (drawn == answers[None]).astype(log_q.dtype)
        advantage = reward - reward.mean(0, keepdims=True)
        own = jnp.take_along_axis(log_q, drawn.T, axis=1)
        return -(advantage.T * own).mean()

    return loss


def judge(log_q: np.ndarray, answers: np.ndarray) -> Row:
    """Of laws at the ends of sums, [N, V]."""
    right = np.exp(log_q[np.arange(len(answers)), answers])
    mean, error = real_students.mean_and_error(right)
    entropy = float(-(np.exp(log_q) * log_q).sum(1).mean())
    return {"right": mean, "right +-": error, "entropy, start": entropy}


def _of_model(own: list[Row]) -> list[Check]:
    """That distillation has come nearer to the teacher's chance of the right token, from below."""
    whole, before, *starts = own
    best = max(row["right"] for row in starts)
    detail = f"{before['right']:.4f} -> {best:.4f}, the model itself {whole['right']:.4f}"
    return [Check("model: distillation raises the right token", best > before["right"], detail)]


def _planned(flags: Flags) -> Result:
    """An update of GRPO of as many students as there are weights and seeds."""
    model = real_students.refuse_unnamed(flags.model, flags.plan)
    count = len(flags.model_weights) * flags.model_seeds
    places = real_students.ends([[0] * 16] * ASKED)
    reward = paid_for(np.zeros(ASKED, np.int32))
    return real_students.planned(model, places, reward, count, flags.plan)


def _stops(flags: Flags) -> np.ndarray:
    return np.arange(POINTS + 1) * (flags.updates // POINTS)


def _checks(flags: Flags, task, starts, cells, values: dict) -> list[Check]:
    checks = []
    if flags.distilled >= 300 and 1.0 in flags.weights:
        for name in CLASSES:
            table = starts[name][cells.index(("expert", 1.0))]
            q = task.law(name, table)
            own = float(exact.expectation(q, task.mdp.statistics["valid"](task.space.sequences)))
            best = task.law(name, projection(task, name))
            wanted = float(
                exact.expectation(best, task.mdp.statistics["valid"](task.space.sequences))
            )
            about = f"{name}: forward KL on the expert's prefixes is its closed form: valid"
            checks.append(near(about, own, wanted, 5e-3))
    for name in CLASSES if {0.0, 1.0} <= set(flags.weights) else ():
        table = values[name]["policy"]
        reverse, forward = table["0"], table["1"]
        holds = reverse["entropy, start"] < forward["entropy, start"]
        detail = f"{reverse['entropy, start']:.3f} and {forward['entropy, start']:.3f} nats"
        checks.append(Check(f"{name}: a start in reverse KL has less entropy", holds, detail))
    return checks


def _picture(flags: Flags, cells: list, paths: dict, own: list[Row]) -> Picture:
    """The score along GRPO from each start on its own prefixes, a panel a class and score; the
    model's students before and after."""
    style.use()
    count = 4 + bool(own)
    shape = {"figsize": (7.8 * count / 4, 2.7), "sharey": True, "layout": "constrained"}
    figure, axes = plt.subplots(1, count, **shape)
    if own:
        _draw_model(axes[4], own)
    shades = plt.get_cmap("plasma")(np.linspace(0.05, 0.85, len(flags.weights)))
    panels = itertools.product(CLASSES, enumerate(SCORES))
    for axis, (name, (i, score)) in zip(axes, panels):
        for j, (prefix, w) in enumerate(cells):
            path = paths[name][score][i, j]
            colour = shades[flags.weights.index(w)]
            line = "-" if prefix == "policy" else ":"
            axis.plot(_stops(flags), path.mean(0), line, color=colour, linewidth=1.4)
        axis.set(xlabel="update of GRPO", ylim=(-0.02, 1.02))
        axis.set_title(f"{name}, {score}", fontsize=9)
    axes[0].set_ylabel("share of strings")
    handles = [
        plt.Line2D([], [], color=shade, label=f"forward weight {w:g}")
        for w, shade in zip(flags.weights, shades)
    ]
    handles += [
        plt.Line2D([], [], color=style.OTHER, label="distilled on its own prefixes"),
        plt.Line2D([], [], color=style.OTHER, linestyle=":", label="on the expert's"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def _draw_model(axis: plt.Axes, own: list[Row]) -> None:
    """The chance of the right token at each start, and after GRPO with its least and most."""
    starts = [row for row in own if "after RL" in row]
    x = np.arange(len(starts))
    axis.bar(x - 0.2, [row["right"] for row in starts], 0.38, color=style.OTHER)
    high = [row["after RL"] for row in starts]
    ends = np.array([[row["after RL"] - row["least"] for row in starts]])
    ends = np.vstack([ends, [[row["most"] - row["after RL"] for row in starts]]])
    axis.bar(x + 0.2, high, 0.38, yerr=ends, color=style.EXPERT)
    axis.axhline(own[0]["right"], color=style.OTHER, linestyle=":", linewidth=1)
    axis.set_xticks(x, [f"{row['forward weight']:g}" for row in starts])
    axis.set(xlabel="forward weight")
    axis.set_title("model, sums: start, after", fontsize=9)


FIGURE = Figure(
    flags=Flags,
    make=make,
    title="A mix of both KLs, and RL after it",
    claim=(
        "RL brings out what a start still writes: one distilled in reverse KL is ahead where its "
        "template is what is paid, and stays behind where the other one is."
    ),
    source="Decoupling KL and trajectories (arXiv 2605.16826); Shao et al. 2024 (arXiv 2402.03300)",
    cluster=Flags(
        model=Path("models/llama-1b"),
        model_weights=(0.0, 0.2, 0.5, 0.8, 1.0),
        model_distilled=300,
        model_updates=300,
        model_seeds=8,
    ),
)
