"""The frontier of precision and coverage under a verifier: `python -m experiments.figures
precision_coverage [--alphas A ... --betas B ...]`.

alpha-DPG learns base x verifier / Z, the law of what is right, in an alpha-divergence: its A = 0 is
forward KL, A -> 1 reverse KL, which is 1 less our alpha. Every string that is right is a problem
here, as likely as in the target, and a policy solves it where one of k draws writes it: coverage
(pass@k) is sum over y of p(y) (1 - (1 - q(y))^k), precision the share of draws that are right. The
policies of a class that cannot hold the target, best for each A by enumeration, against RL with a
KL penalty, max E_q[right] - b KL(q||base) in the same class, for each weight b.

`--sums N` adds the same on sums whose every right way is known (`arithmetic`'s): each sum has a
target of its own, base x verifier / Z(sum), and a small transformer is trained on it for N updates
by exact gradients of each A, and by those of the chance of a right answer, which is RL without a
penalty; and for N updates by GRPO, which draws its answers, with each weight of the KL to the base.
A sum that is never trained on is solved where one of k answers is right."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax import Array
from scipy.optimize import minimize

from experiments.figures.common import sums
from experiments.figures.common.base import Check, Figure, Picture, Result, Row, distinct, near
from experiments.figures.common.classes import EnumeratedTask, enumerated
from experiments.reporting import style
from fdiv import divergences, exact
from fdiv.benchmarks import TwoTemplate
from fdiv.checks import at_least, between
from fdiv.objectives.grpo import Grpo
from fdiv.policies import tabular

BASE = "markov"  # the base is forward KL's best of this class
KS = 2 ** np.arange(0, 13)
STARTS = 4
SUMS = (48, 2)  # width and layers of the transformer that sums are asked
GRPO = Grpo().look.colour  # as methods of a run have it
BESIDE: dict[str, Any] = {"textcoords": "offset points", "fontsize": 6.5}
LEAST = 1e-9  # alphas and betas nearer to 0 are not asked for


@dataclasses.dataclass(frozen=True)
class Flags:
    """The two-template language; right is what is valid."""

    alphas: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 0.9, 0.999)
    """A of alpha-DPG: 0 is forward KL, 1 reverse KL."""
    betas: tuple[float, ...] = (2.0, 1.0, 0.5, 0.3, 0.2, 0.1, 0.05)
    """Weights of the KL of RL."""
    samples: int = 256
    """k of the coverage."""
    sums: int = 0
    """Updates of a transformer on sums, at each A and for RL; 0: none."""
    sums_betas: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.5)
    """Weights of GRPO's KL there."""
    sums_base: int = 400
    """Updates of likelihood that make its base."""


class Task(NamedTuple):
    """What policies are judged by, [strings] each."""

    base: np.ndarray  # log-probs
    right: np.ndarray
    target: np.ndarray  # base x right / Z, probabilities
    law: Callable[[Array], Array]  # a table of the class -> log-probs
    shape: tuple[int, int]


def make(flags: Flags) -> Result:
    """The best policy for each A and for each weight."""
    distinct("alphas", flags.alphas)
    distinct("betas", flags.betas)
    for a in flags.alphas:
        between("alphas", a, -1e-9, 1 - LEAST)
    for b in flags.betas:
        between("betas", b, LEAST, 1e6)
    distinct("sums_betas", flags.sums_betas)
    for b in flags.sums_betas:
        between("sums_betas", b, -LEAST, 1e6)
    at_least("samples", flags.samples, 1)
    at_least("sums", flags.sums, 0)
    at_least("sums_base", flags.sums_base, 1)
    with jax.enable_x64(True):
        task = build(enumerated(TwoTemplate().build()))
        dpg = path(task, alpha_loss, sorted(flags.alphas))
        rl = path(task, rl_loss, sorted(flags.betas, reverse=True))
    of = lambda laws: {name: measure(task, law, flags.samples) for name, law in laws.items()}
    found = {"base": of({"": np.exp(task.base)})[""], "target": of({"": task.target})[""]}
    values = {"alpha_dpg": of(dpg), "rl": of(rl), **found}
    rows: list[Row] = [{"policy": name, **row} for name, row in found.items()]
    rows += [{"policy": f"alpha-DPG, A {a}", **row} for a, row in values["alpha_dpg"].items()]
    rows += [{"policy": f"RL, beta {b}", **row} for b, row in values["rl"].items()]
    laws = {"base": np.exp(task.base)} | {f"A {a}": law for a, law in dpg.items()}
    laws |= {f"beta {b}": law for b, law in rl.items()}
    curve = [
        {"policy": name, "k": int(k), "coverage": coverage(task, law, int(k))}
        for name, law in laws.items()
        for k in KS
    ]
    checks = _checks(task, dpg, values)
    if flags.sums:
        values["sums"] = own = on_sums(flags)
        rows += [{"policy": f"sums: {name}", **row} for name, row in own.items()]
        right = [row["pass@1"] for row in own.values()]
        inside = all(0 <= x <= 1 for x in right)
        checks.append(Check("sums: chances of a right answer", inside, f"{right}"))
    return Result(values, checks, rows, _picture(flags, values, curve), [*rows, *curve])


def on_sums(flags: Flags) -> dict[str, Row]:
    """What each policy is worth on sums that none was trained on, as `of_sums` has it."""
    world = sums.world(*SUMS)
    start = sums.base(world, flags.sums_base)
    settings = [*sorted(flags.alphas), 1.0]
    tuned = sums.tuned(world, start, settings, flags.sums)
    first = jax.tree.map(lambda x: jnp.asarray(x)[None], start)
    betas = sorted(flags.sums_betas, reverse=True)
    grpo = sums.by_grpo(world, start, betas, flags.sums)
    every = jax.tree.map(lambda *x: jnp.concatenate(x), first, tuned, grpo)
    names = ["base", *(f"A {a:g}" for a in sorted(flags.alphas)), "RL, no penalty"]
    names += [f"GRPO, beta {b:g}" for b in betas]
    laws, learned = (sums.judged(world, every, x) for x in (world.others, world.trained))
    trained = [float(np.exp(law).sum(1).mean()) for law in learned]
    return {
        name: of_sums(law, laws[0], flags.samples) | {"pass@1, trained on": right}
        for name, law, right in zip(names, laws, trained)
    }


def of_sums(log_q: np.ndarray, log_base: np.ndarray, samples: int) -> Row:
    """Of log-probs of right ways [N, K]: the chance that one answer is right and that one of many
    is, means over sums with half their 95% intervals and those of their distance to the base's;
    the entropy of the way of a right answer, given its sum."""
    right, before = (np.minimum(np.exp(x).sum(1), 1 - 1e-12) for x in (log_q, log_base))
    row: Row = {}
    for k in (1, samples):
        solved, then = (-np.expm1(k * np.log1p(-x)) for x in (right, before))
        for name, x in ((f"pass@{k}", solved), (f"pass@{k}, less base", solved - then)):
            row[name] = float(x.mean())
            row[f"{name} +-"] = float(1.96 * x.std(ddof=1) / len(x) ** 0.5)
    share = np.exp(log_q - np.log(right)[:, None])
    surprise = np.where(share > 0, share * -np.log(np.maximum(share, 1e-300)), 0).sum(1)
    return row | {"entropy of right": float(right @ surprise / right.sum())}


def build(task: EnumeratedTask) -> Task:
    """The base is the best Markov fit, whose strings are right or not."""
    automaton, policy = task.automaton(BASE), task.policy(BASE)
    table = tabular.nearest(automaton, task.space, task.expert)
    base = np.asarray(task.law(BASE, table).string)
    right = np.asarray(task.mdp.statistics["valid"](task.space.sequences), np.float64)
    mass = np.exp(base) * right
    law = lambda logits: exact.law(task.space, policy, logits).string
    return Task(base, right, mass / mass.sum(), law, table.shape)


def alpha_loss(task: Task, log_q: Array, a: Array) -> Array:
    """alpha-DPG's divergence at A: sum over y of (p^(1-A) q^A - ...) / (-A (1-A)), forward KL in
    the limit of 0."""
    kept = np.flatnonzero(task.target)
    log_p, log_q = np.log(task.target[kept]), log_q[kept]
    small = jnp.maximum(a, LEAST)
    sum_of = jnp.sum(jnp.exp((1 - small) * log_p + small * log_q))
    inside = (1 - sum_of) / (small * (1 - small))
    return jnp.where(a <= LEAST, jnp.sum(np.exp(log_p) * (log_p - log_q)), inside)


def rl_loss(task: Task, log_q: Array, b: Array) -> Array:
    """Less the reward, plus the penalty."""
    q = jnp.exp(log_q)
    return -jnp.sum(q * task.right) + b * jnp.sum(q * (log_q - task.base))


def path(task: Task, loss: Callable, settings: Sequence[float]) -> dict[str, np.ndarray]:
    """The best law of the class at each setting, by L-BFGS from the last one's and from others."""
    slope = jax.jit(
        jax.value_and_grad(lambda x, at: loss(task, task.law(x.reshape(task.shape)), at))
    )
    draw = np.random.default_rng(0)
    others = [draw.standard_normal(task.shape).ravel() for _ in range(STARTS)]
    found, last = {}, np.zeros(np.prod(task.shape))
    for at in settings:
        value = lambda x, at=at: tuple(np.asarray(y, np.float64) for y in slope(x, at))
        ends = [minimize(value, x, jac=True, method="L-BFGS-B") for x in (last, *others)]
        last = min(ends, key=lambda end: end.fun).x
        last = last - last.reshape(task.shape).max(1).repeat(task.shape[1])
        found[f"{at:g}"] = np.exp(np.asarray(task.law(jnp.asarray(last.reshape(task.shape)))))
    return found


def coverage(task: Task, law: np.ndarray, k: int) -> float:
    """The chance that one of k draws is the string wanted, on average over the target."""
    return float(task.target @ -np.expm1(k * np.log1p(-np.minimum(law, 1 - 1e-15))))


def measure(task: Task, law: np.ndarray, samples: int) -> dict[str, float]:
    """Precision, coverage by one and by many draws, entropy of what is right."""
    inside = law * task.right / (law @ task.right)
    kept = inside > 0
    return {
        "precision": float(law @ task.right),
        "coverage@1": coverage(task, law, 1),
        f"coverage@{samples}": coverage(task, law, samples),
        "entropy of right": float(-(inside[kept] @ np.log(inside[kept]))),
    }


def _checks(task: Task, dpg: dict[str, np.ndarray], values: dict) -> list[Check]:
    many = next(k for k in values["base"] if k.startswith("coverage@") and k != "coverage@1")
    checks = []
    for a in (0.25, 0.75):
        log_q = jnp.asarray(task.base)
        with jax.enable_x64(True):
            own = float(alpha_loss(task, jnp.asarray(task.base), jnp.asarray(a)))
            with np.errstate(divide="ignore"):
                log_p = jnp.asarray(np.log(task.target))
            d = divergences.parse(f"alpha:{1 - a:g}")
            member = float(d.perspective(log_p, log_q).sum())
        checks.append(near(f"alpha-DPG's A {a:g} is alpha:{1 - a:g}", own, member, 1e-7))
    rows = list(values["alpha_dpg"].values())
    for what, sign in (("precision", 1), (many, -1), ("entropy of right", -1)):
        each = np.array([row[what] for row in rows])
        word = "rises" if sign > 0 else "falls"
        holds = bool((sign * np.diff(each) >= -1e-4).all())
        detail = " ".join(f"{x:.4f}" for x in each)
        checks.append(Check(f"{what} {word} with A", holds, detail))
    for name, row in values["alpha_dpg"].items():
        above = [r for r in values["rl"].values() if r["precision"] > row["precision"] + 1e-4]
        above = [r for r in above if r[many] > row[many] + 1e-4]
        detail = f"{row['precision']:.4f}, {row[many]:.4f}; {len(above)} better in both"
        checks.append(Check(f"A {name}: no weight of RL is better in both", not above, detail))
    return checks


def _picture(flags: Flags, values: dict, curve: list[Row]) -> Picture:
    """The frontier, and coverage against the number of draws."""
    style.use()
    count = 2 + ("sums" in values)
    shape = {"figsize": (3.5 * count, 3.2), "layout": "constrained"}
    figure, axes = plt.subplots(1, count, **shape)
    plane, draws = axes[:2]
    many = f"coverage@{flags.samples}"
    shades = plt.get_cmap("plasma")(np.linspace(0.05, 0.85, len(flags.alphas)))
    colours = dict(zip((f"{a:g}" for a in sorted(flags.alphas)), shades))
    rl, dpg = values["rl"], values["alpha_dpg"]
    for table, line in ((rl, "--"), (dpg, "-")):
        x, y = ([row[k] for row in table.values()] for k in ("precision", many))
        plane.plot(x, y, line, color=style.OTHER, linewidth=1.0, zorder=1)
    x, y = ([row[k] for row in rl.values()] for k in ("precision", many))
    plane.scatter(x, y, marker="s", s=22, color=style.OTHER, zorder=2, label="RL, each weight")
    for a, row in dpg.items():
        plane.plot(row["precision"], row[many], "o", color=colours[a], label=f"A {a}", zorder=3)
    base = values["base"]
    plane.plot(base["precision"], base[many], "*", color=style.EXPERT, markersize=10, label="base")
    plane.set(xlabel="precision: share that is right", ylabel=f"coverage by {flags.samples} draws")
    for name in ("base", *(f"A {a}" for a in dpg), f"beta {list(rl)[-1]}"):
        rows = [row for row in curve if row["policy"] == name]
        k, each = ([row[c] for row in rows] for c in ("k", "coverage"))
        if name == "base":
            draws.plot(k, each, ":", color=style.EXPERT)
        elif name.startswith("beta"):
            draws.plot(k, each, "--", color=style.OTHER)
            draws.plot([], [], "--", color=style.OTHER, label=f"RL, weight {list(rl)[-1]}")
        else:
            draws.plot(k, each, color=colours[name[2:]])
    draws.set(xscale="log", xlabel="draws k", ylabel="coverage (pass@k)", ylim=(0, 1))
    if "sums" in values:
        _draw_sums(axes[2], values["sums"], colours, f"pass@{flags.samples}")
    lines = [axis.get_legend_handles_labels() for axis in (plane, draws)]
    handles, names = ([x for pair in lines for x in pair[i]] for i in (0, 1))
    handles.append(plt.Line2D([], [], color=style.EXPERT, linestyle=":"))
    names.append("base, against draws")
    if "sums" in values:
        handles.append(plt.Line2D([], [], color=GRPO, linestyle="--", marker="^"))
        names.append("GRPO, each weight of its KL")
    figure.legend(handles, names, loc="outside lower center", ncols=5)
    return figure


def _draw_sums(axis: plt.Axes, own: dict[str, Row], colours: dict, many: str) -> None:
    """pass@1 against pass@k of sums that were not trained on, both less the base's, with intervals
    of these differences, sum by sum."""
    x, y = "pass@1, less base", f"{many}, less base"
    for begin, line, colour in (("A ", "-", style.OTHER), ("GRPO", "--", GRPO)):
        rows = [row for name, row in own.items() if name.startswith(begin)]
        axis.plot([r[x] for r in rows], [r[y] for r in rows], line, color=colour, linewidth=1.0)
    for i, (name, row) in enumerate(own.items()):
        error = {"xerr": row[f"{x} +-"], "yerr": row[f"{y} +-"], "elinewidth": 0.5}
        mark = {"base": "*", "RL, no penalty": "s"}.get(name, "o")
        colour = colours.get(name[2:], style.EXPERT if name == "base" else style.OTHER)
        if name.startswith("GRPO"):
            mark, colour = "^", GRPO
            aside: dict[str, Any] = {"xytext": (4, -9)}
            if i % 2:
                aside = {"xytext": (-4, 4), "ha": "right"}
            axis.annotate(name.rpartition(" ")[2], (row[x], row[y]), **BESIDE, **aside)
        axis.errorbar(row[x], row[y], marker=mark, color=colour, zorder=3, **error)
    axis.set(xlabel="pass@1 less base's, held-out sums", ylabel=f"{many} less base's")
    axis.set_title("a transformer on sums")


FIGURE = Figure(
    flags=Flags,
    make=make,
    title="Precision and coverage under a verifier",
    claim=(
        "The alpha of a divergence to base x verifier moves a policy along the frontier of "
        "precision and coverage, on which RL with a KL penalty lies too."
    ),
    source="alpha-DPG (arXiv 2512.05962); Go et al. 2023 (arXiv 2302.08215), f-DPG",
)
