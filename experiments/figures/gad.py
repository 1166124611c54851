"""Adversarial distillation of a black box: `python -m experiments.figures gad [--weight W
--turns N ...]`.

GAD trains a discriminator on pairs, -log sigmoid(D(y) - D(y')) with y of the teacher and y' of the
student, and pays the student D. At its best D is log p/q and a constant, so what the student
descends is reverse KL: it seeks, where SeqKD (maximum likelihood on the teacher's answers) covers.
On ten answers, a teacher of two modes and a student that is one discretised Gaussian, all in
expectation: the student from SeqKD on by GAD, by a discriminator that classifies (cross-entropy,
its logit as the reward) and by one that is frozen after its warm-up, whose reward goes on rising
while the student leaves the teacher. GAD seeks where reverse KL leads there from the start: with
modes farther apart and nearly as heavy SeqKD's fit is by a local minimum, and GAD stays at it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from jax import Array

from experiments.figures.common.base import Check, Figure, Picture, Result, near
from experiments.figures.common.drawing import TARGET
from experiments.reporting import style
from fdiv import exact
from fdiv.checks import at_least, between, positive
from fdiv.divergences import parse

ANSWERS = 10
LOOKS = {  # how a student is trained -> its colour and line
    "seqkd": (style.colour("forward_kl"), "-"),
    "pairs": (style.colour("reverse_kl"), "-"),
    "bce": ("#7F3C8D", "--"),
    "frozen": (style.OTHER, "-."),
}
LABELS = {
    "seqkd": "SeqKD",
    "pairs": "GAD",
    "bce": "GAD, cross-entropy",
    "frozen": "GAD, frozen",
}


@dataclasses.dataclass(frozen=True)
class Flags:
    """A teacher of two modes and a student of one."""

    weight: float = 0.8
    """Weight of the teacher's first mode."""
    means: tuple[float, float] = (2.5, 7.0)
    """Its modes, on answers 0 to 9."""
    std: float = 0.8
    """Width of either mode."""
    updates: int = 1500
    """Updates of the student."""
    turns: int = 5
    """Updates of the discriminator before each of the student's."""
    warm_up: int = 300
    """Updates of the discriminator alone before the first."""
    rate: float = 0.003
    """Learning rate of the student, Adam's; the discriminator's is five times that."""


def make(flags: Flags) -> Result:
    """Both optima, then the three trainings."""
    between("weight", flags.weight, 0, 1)
    positive("std", flags.std)
    positive("rate", flags.rate)
    for field in ("updates", "turns", "warm_up"):
        at_least(field, getattr(flags, field), 1)
    with jax.enable_x64(True):
        log_p = teacher(flags)
        optima = {d: best(d, log_p) for d in ("forward_kl", "reverse_kl")}
        paths = {kind: train(kind, log_p, optima["forward_kl"], flags) for kind in TRAINED}
        ends = {"seqkd": optima["forward_kl"]} | {
            k: path["params"][-1] for k, path in paths.items()
        }
        laws = {kind: np.asarray(student(jnp.asarray(z))) for kind, z in ends.items()}
        rows = [{"student": kind, **measure(log_p, law)} for kind, law in laws.items()]
        seeking = np.asarray(student(jnp.asarray(optima["reverse_kl"])))
        rows.append({"student": "best reverse_kl", **measure(log_p, seeking)})
        checks = _checks(flags, log_p, optima, paths)
    values = {"students": {row["student"]: row for row in rows}}
    values |= {"frozen": _hack(paths["frozen"])}
    curve = [
        {"student": kind, "update": i} | {k: float(path[k][i]) for k in ("reverse_kl", "reward")}
        for kind, path in paths.items()
        for i in range(flags.updates)
    ]
    return Result(values, checks, rows, _picture(log_p, laws, paths, values), curve)


def teacher(flags: Flags) -> np.ndarray:
    """log p of the ten answers: a mixture of two discretised Gaussians."""
    y = np.arange(ANSWERS)
    modes = [np.exp(-0.5 * ((y - m) / flags.std) ** 2) for m in flags.means]
    a, b = (mode / mode.sum() for mode in modes)
    return np.log(flags.weight * a + (1 - flags.weight) * b)


def student(z: Array) -> Array:
    """log q of the ten answers: one discretised Gaussian of mean z_0 and log width z_1."""
    y = jnp.arange(ANSWERS)
    return jax.nn.log_softmax(-0.5 * ((y - z[0]) / jnp.exp(z[1])) ** 2)


def best(name: str, log_p: np.ndarray) -> np.ndarray:
    """The student nearest in a divergence."""
    loss = lambda z: parse(name).perspective(jnp.asarray(log_p), student(z)).sum()
    starts = [np.array([m, s]) for m in (2.0, 4.5, 7.0) for s in (-0.3, 0.7)]
    return np.asarray(exact.best_policy([loss], starts, iterations=300).params)


def measure(log_p: np.ndarray, log_q: np.ndarray) -> dict[str, float]:
    """Both KLs, mean and standard deviation, mass on the second half of the answers."""
    q, y = np.exp(log_q), np.arange(ANSWERS)
    laws = jnp.asarray(log_p), jnp.asarray(log_q)
    row = {d: float(parse(d).perspective(*laws).sum()) for d in ("forward_kl", "reverse_kl")}
    mean = float(q @ y)
    row |= {"mean": mean, "std": float(np.sqrt(q @ (y - mean) ** 2))}
    return row | {"second mode": float(q[ANSWERS // 2 :].sum())}


# --- training -------------------------------------------------------------------------------------


def pairs(d: Array, p: Array, q: Array) -> Array:
    """-E log sigmoid(D(y) - D(y')), y of the teacher and y' of the student."""
    return -p @ jax.nn.log_sigmoid(d[:, None] - d[None]) @ q


def bce(d: Array, p: Array, q: Array) -> Array:
    """The two classes' cross-entropy."""
    return -p @ jax.nn.log_sigmoid(d) - q @ jax.nn.log_sigmoid(-d)


TRAINED: dict[str, Callable[[Array, Array, Array], Array]] = {
    "pairs": pairs,
    "bce": bce,
    "frozen": pairs,
}


def train(kind: str, log_p: np.ndarray, start: np.ndarray, flags: Flags) -> dict[str, np.ndarray]:
    """Parameters, reverse KL and mean reward (less the teacher's own) before each update; all
    gradients are expectations."""
    p, slope = jnp.exp(jnp.asarray(log_p)), jax.grad(TRAINED[kind])
    tx, sharp = optax.adam(flags.rate), optax.adam(5 * flags.rate)

    def learn(d: Array, opt, z: Array, times: int):
        def one(carry, _):
            updates, opt = sharp.update(slope(carry[0], p, jnp.exp(student(z))), carry[1])
            return (optax.apply_updates(carry[0], updates), opt), None

        return jax.lax.scan(one, (d, opt), None, length=times)[0]

    def step(carry, _):
        z, z_opt, d, d_opt = carry
        if kind != "frozen":
            d, d_opt = learn(d, d_opt, z, flags.turns)
        log_q = student(z)
        reward = jax.lax.stop_gradient(d - p @ d)
        down = jax.grad(lambda z: -jnp.exp(student(z)) @ reward)(z)
        updates, z_opt = tx.update(down, z_opt)
        seen = {
            "params": z,
            "reverse_kl": parse("reverse_kl").perspective(jnp.asarray(log_p), log_q).sum(),
            "reward": jnp.exp(log_q) @ reward,
        }
        return (optax.apply_updates(z, updates), z_opt, d, d_opt), seen

    def whole(z: Array) -> dict[str, Array]:
        d = jnp.zeros(ANSWERS)
        d, d_opt = learn(d, sharp.init(d), z, flags.warm_up)
        return jax.lax.scan(step, (z, tx.init(z), d, d_opt), None, length=flags.updates)[1]

    return jax.device_get(jax.jit(whole)(jnp.asarray(start)))


def _hack(path: Mapping[str, np.ndarray]) -> dict[str, float]:
    """When a student under a frozen reward is nearest to its teacher, and how far it then goes."""
    least = int(np.argmin(path["reverse_kl"]))
    kl, reward = path["reverse_kl"], path["reward"]
    return {
        "nearest after": least,
        "reverse_kl at the start": float(kl[0]),
        "reverse_kl then": float(kl[least]),
        "reverse_kl at the end": float(kl[-1]),
        "reward then": float(reward[least]),
        "reward at the end": float(reward[-1]),
    }


def _checks(flags: Flags, log_p: np.ndarray, optima: dict, paths: dict) -> list[Check]:
    log_law, log_q = jnp.asarray(log_p), student(jnp.asarray(optima["forward_kl"]))
    p, truth = jnp.exp(log_law), log_law - log_q
    checks = []
    for name, loss in (("pairs", pairs), ("bce", bce)):
        rest = float(jnp.abs(jax.grad(loss)(truth, p, jnp.exp(log_q))).max())
        checks.append(near(f"{name}: log p/q is its minimum: slope", rest, 0, 1e-12))
    shifted = float(pairs(truth + 3.0, p, jnp.exp(log_q)) - pairs(truth, p, jnp.exp(log_q)))
    checks.append(near("pairs: a constant in D changes nothing", shifted, 0, 1e-12))
    slope = jax.grad(lambda z: parse("reverse_kl").perspective(log_law, student(z)).sum())
    z = jnp.asarray(optima["forward_kl"])
    climbed = jax.grad(lambda z: jnp.exp(student(z)) @ jax.lax.stop_gradient(truth))(z)
    down = slope(z)
    off = float(jnp.linalg.norm(climbed + down) / jnp.linalg.norm(down))
    checks.append(
        near("the reward D at its best descends reverse KL: relative error", off, 0, 1e-10)
    )
    if flags.updates >= 1000:
        for kind in ("pairs", "bce"):
            end = float(jnp.abs(slope(jnp.asarray(paths[kind]["params"][-1]))).max())
            checks.append(near(f"{kind} ends where reverse KL is flat: slope", end, 0, 0.05))
        hack = _hack(paths["frozen"])
        holds = hack["reverse_kl at the end"] > hack["reverse_kl then"] + 0.05
        holds &= hack["reward at the end"] > hack["reward then"]
        detail = f"KL {hack['reverse_kl then']:.4f} -> {hack['reverse_kl at the end']:.4f}"
        checks.append(Check("frozen: the reward rises on while the student leaves", holds, detail))
    return checks


def _picture(log_p: np.ndarray, laws: dict, paths: dict, values: dict) -> Picture:
    """Laws of the students over the teacher's; reverse KL along training; the frozen reward."""
    style.use()
    shape = {"figsize": (7.4, 2.9), "width_ratios": (1.25, 1, 1), "layout": "constrained"}
    figure, (bars, curves, hack) = plt.subplots(1, 3, **shape)
    y = np.arange(ANSWERS)
    bars.bar(y, np.exp(log_p), 0.9, color=TARGET, label="teacher")
    for kind, law in laws.items():
        colour, line = LOOKS[kind]
        bars.plot(
            y, np.exp(law), line, marker="o", markersize=3.5, color=colour, label=LABELS[kind]
        )
    bars.set(xlabel="answer", ylabel="probability", xticks=y, ylim=(0, 1.05))
    bars.grid(axis="x", visible=False)
    for kind, path in paths.items():
        colour, line = LOOKS[kind]
        curves.plot(path["reverse_kl"], line, color=colour)
    least = values["students"]["best reverse_kl"]["reverse_kl"]
    curves.axhline(least, color=style.EXPERT, linewidth=0.9, linestyle=":")
    end = len(paths["pairs"]["reverse_kl"])
    curves.annotate("the least", (end, least), ha="right", va="bottom", fontsize=7.5)
    curves.set(xlabel="update", ylabel="reverse KL (nats)")
    frozen, co_trained = paths["frozen"], paths["pairs"]
    for kind, path in (("frozen", frozen), ("pairs", co_trained)):
        colour, line = LOOKS[kind]
        hack.plot(path["reward"], line, color=colour)
    hack.set(xlabel="update", ylabel="reward, less the teacher's own")
    at = values["frozen"]["nearest after"]
    for axis in (curves, hack):
        axis.axvline(at, color=style.OTHER, linewidth=0.9, linestyle=":")
    note = {"fontsize": 7.5, "color": style.OTHER, "va": "bottom"}
    middle = sum(hack.get_ylim()) / 2
    hack.annotate("frozen: nearest\nto the teacher", (at + 0.03 * end, middle), **note)
    figure.legend(*bars.get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


FIGURE = Figure(
    flags=Flags,
    make=make,
    title="Adversarial distillation seeks, and a frozen discriminator is hacked",
    claim=(
        "A discriminator of pairs makes the student descend reverse KL, so it seeks where SeqKD "
        "covers; frozen, its reward rises while the student leaves the teacher."
    ),
    source="Ye et al. 2025 (arXiv 2511.10643), Black-box on-policy distillation (GAD)",
)
