"""Best-of-N as a law, and preferences that are followed too far: `python -m experiments.figures
best_of_n [--most N --pairs M ...]`.

The best of N draws of a reference has the law p_N(y) = P(r <= r(y))^N - P(r < r(y))^N, shared as
the reference has it where rewards are the same: known exactly where strings can be listed. BOND
learns it. Its reward is held against the most that any law earns for the same KL from the reference
(the tilted one), its KL against log N - (N-1)/N, and students that cannot hold it are fitted in
forward KL, reverse KL and Jeffreys. Then DPO and chi-PO (KL and half of chi-square, link
z + log z, z = pi/ref) on finitely many comparisons over a few answers, of which some are wrong:
what a law really earns, against how far it went from the reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from jax import Array

from experiments.figures.common.base import Check, Figure, Picture, Result, Row, near
from experiments.reporting import style
from fdiv import divergences, exact
from fdiv.benchmarks import Rewarded
from fdiv.checks import at_least, between, present, seeding, share
from fdiv.policies import tabular
from fdiv.regularised import bisect
from fdiv.types import Model

FITTED = ("forward_kl", "jeffreys", "reverse_kl")
LINKS = {  # u = pi/ref: KL(pi||ref) reads forward_kl, and its own
    "DPO": "forward_kl",
    "chi-PO": "mix:forward_kl+0.5*pearson_chi2",
}
COLOURS = {"DPO": style.colour("forward_kl"), "chi-PO": "#882255"}
BETAS = np.geomspace(0.02, 3.0, 12)
STEPS, RATE = 400, 0.05


@dataclasses.dataclass(frozen=True)
class Flags:
    """The strings of the `rlhf` task with a table of rewards; and a few answers."""

    most: int = 64
    """Largest N; all its halves are taken too."""
    fitted: int = 8
    """N that students are fitted to."""
    answers: int = 30
    """Answers that are compared."""
    pairs: int = 150
    """Comparisons."""
    noise: float = 0.1
    """Share of comparisons that are turned round."""
    seeds: int = 20
    """Sets of rewards, references and comparisons."""
    seed: int = 0
    """The first of them."""


def make(flags: Flags) -> Result:
    """The laws of best-of-N and their students, then preferences."""
    at_least("most", flags.most, 2)
    at_least("fitted", flags.fitted, 2)
    at_least("answers", flags.answers, 2)
    at_least("pairs", flags.pairs, 1)
    at_least("seeds", flags.seeds, 1)
    share("noise", flags.noise)
    between("fitted", flags.fitted, 1, 1025)
    seeding("seed", flags.seed)
    with jax.enable_x64(True):
        mdp = Rewarded(reward="table").build()
        space = exact.enumerate_strings(mdp.vocab, mdp.horizon, mdp.eos)
        reference = present(present(mdp.regulariser, "penalty").reference, "reference")
        log_ref = np.asarray(exact.known_law(space, reference).string, np.float64)
        rewards = np.asarray(present(mdp.score, "score")(space.sequences), np.float64)
        counts = sorted({1, *(max(1, flags.most // 2**i) for i in range(12)), flags.fitted})
        laws = {n: best_of(n, rewards, log_ref) for n in counts}
        frontier = [compare(n, laws[n], rewards, log_ref) for n in counts]
        students = fit(space, laws[flags.fitted], rewards, log_ref)
    preferences = follow(flags)
    rows: list[Row] = [{"law": f"best of {row['N']}", **row} for row in frontier]
    rows += [{"law": f"student in {d}", **row} for d, row in students.items()]
    rows += [{"law": name, **row} for name, row in summary(preferences).items()]
    values = {
        "best_of": {str(row["N"]): row for row in frontier},
        "students": students,
        "preferences": summary(preferences),
    }
    curve = [
        {"law": name, "beta": float(beta), "KL": float(kl), "reward": float(reward)}
        for name, found in preferences.items()
        for beta, kl, reward in zip(BETAS, found["kl"].mean(0), found["reward"].mean(0))
    ]
    checks = _checks(flags, laws, frontier, students, rewards, log_ref, preferences)
    picture = _picture(flags, frontier, students, preferences, rewards, log_ref)
    return Result(values, checks, rows, picture, [*rows, *curve])


# --- the law of best-of-N -------------------------------------------------------------------------


def best_of(n: int, rewards: np.ndarray, log_ref: np.ndarray) -> np.ndarray:
    """p_N of every string: draws of one reward share what falls to it as the reference has it."""
    ref = np.exp(log_ref)
    levels, level = np.unique(rewards, return_inverse=True)
    mass = np.bincount(level, ref, len(levels))
    up_to = np.minimum(np.cumsum(mass), 1.0)
    up_to[-1] = 1.0
    below = np.concatenate([[0.0], up_to[:-1]])
    each = up_to**n - below**n
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(mass[level] > 0, ref * each[level] / mass[level], 0.0)


def tilted(kl: float, rewards: np.ndarray, log_ref: np.ndarray) -> float:
    """The most that a law at a KL from the reference earns: that of ref e^(r / beta) / Z."""

    def law(log_beta: Array | float) -> Array:
        return jax.nn.log_softmax(log_ref + rewards * jnp.exp(-log_beta))

    def over(x: Array) -> Array:
        log_pi = law(-x)
        return jnp.sum(jnp.exp(log_pi) * (log_pi - log_ref)) - kl

    log_beta = -bisect(over, jnp.asarray(-12.0), jnp.asarray(12.0))
    return float(jnp.exp(law(log_beta)) @ rewards)


def compare(n: int, law: np.ndarray, rewards: np.ndarray, log_ref: np.ndarray) -> dict:
    """Reward and KL of a law, and the most for that KL."""
    kept = law > 0
    kl = float(law[kept] @ (np.log(law[kept]) - log_ref[kept]))
    row = {"N": n, "KL": kl, "log N - (N-1)/N": float(np.log(n) - (n - 1) / n)}
    row |= {"reward": float(law @ rewards)}
    return row | {"most for that KL": tilted(kl, rewards, log_ref) if n > 1 else row["reward"]}


def fit(
    space: exact.Space, law: np.ndarray, rewards: np.ndarray, log_ref: np.ndarray
) -> dict[str, dict[str, float]]:
    """The Markov policy nearest to best-of-N in each divergence; the reference is Markov too."""
    with np.errstate(divide="ignore"):
        table = tabular.written(space, np.log(law))
    full = tabular.policy(tabular.full(space.vocab, space.horizon), space.vocab)
    target = Model(full, table)
    automaton = tabular.markov(space.vocab, space.horizon)
    policy = tabular.policy(automaton, space.vocab)
    p = exact.known_law(space, target)
    start = tabular.nearest(automaton, space, p)
    start = start - start.max(1, keepdims=True)
    start = np.maximum(start, -12.0)
    found = {}
    family = {d: divergences.parse(d) for d in FITTED}
    search = exact.ClassSearch(family, space, target, policy)
    for d in family:
        best = search.best(d, [start], iterations=200)
        log_q = np.asarray(exact.known_law(space, Model(policy, best.params)).string)
        q = np.exp(log_q)
        found[d] = {"KL": float(q @ (log_q - log_ref)), "reward": float(q @ rewards), d: best.value}
    return found


# --- preferences ----------------------------------------------------------------------------------


def follow(flags: Flags) -> dict[str, dict[str, np.ndarray]]:
    """KL from the reference and true reward of each link's law at each beta. [seeds, betas]"""
    drawn = [_comparisons(flags, flags.seed + i) for i in range(flags.seeds)]
    rewards, log_ref, wins = (np.stack(each) for each in zip(*drawn))

    def law(name: str, beta: Array, wins: Array, log_ref: Array) -> Array:
        link, tx = divergences.parse(LINKS[name]).witness, optax.adam(RATE)

        def policy(w: Array) -> Array:  # the smaller beta, the farther a law may go
            return jax.nn.log_softmax(log_ref + w / beta)

        def loss(w: Array) -> Array:
            margin = beta * link(policy(w) - log_ref)
            return -jnp.sum(wins * jax.nn.log_sigmoid(margin[:, None] - margin[None]))

        def step(carry, _):
            w, opt = carry
            updates, opt = tx.update(jax.grad(loss)(w), opt)
            return (optax.apply_updates(w, updates), opt), None

        start = jnp.zeros_like(log_ref)
        (w, _), _ = jax.lax.scan(step, (start, tx.init(start)), None, length=STEPS)
        return policy(w)

    found = {}
    for name in LINKS:
        of_betas = jax.vmap(lambda b, w, ref, n=name: law(n, b, w, ref), (0, None, None))
        log_pi = jax.jit(jax.vmap(of_betas, (None, 0, 0)))(
            jnp.asarray(BETAS, jnp.float32),
            jnp.asarray(wins, jnp.float32),
            jnp.asarray(log_ref, jnp.float32),
        )
        log_pi = np.asarray(log_pi, np.float64)
        pi = np.exp(log_pi)
        found[name] = {
            "kl": (pi * (log_pi - log_ref[:, None])).sum(-1),
            "reward": (pi * rewards[:, None]).sum(-1)
            - (np.exp(log_ref) * rewards).sum(-1)[:, None],
        }
    return found


def _comparisons(flags: Flags, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True rewards, log of the reference, and the share of comparisons that i won of j."""
    draw, size = np.random.default_rng(seed), flags.answers
    rewards, ref = draw.standard_normal(size), draw.dirichlet(np.ones(size))
    first, second = draw.choice(size, (2, flags.pairs), p=ref)
    chance = 1 / (1 + np.exp(rewards[second] - rewards[first]))
    chance = (1 - flags.noise) * chance + flags.noise * (1 - chance)
    won = draw.random(flags.pairs) < chance
    wins = np.zeros((size, size))
    np.add.at(wins, (np.where(won, first, second), np.where(won, second, first)), 1 / flags.pairs)
    return rewards, np.log(ref), wins


def summary(preferences: Mapping) -> dict[str, dict[str, float]]:
    """The best beta's gain over the reference, that of the smallest beta, and what is lost."""
    found = {}
    for name, each in preferences.items():
        mean, kl = each["reward"].mean(0), each["kl"].mean(0)
        top = int(np.argmax(mean))
        found[name] = {
            "beta": float(BETAS[top]),
            "KL": float(kl[top]),
            "reward": float(mean[top]),
            "KL at the least beta": float(kl[0]),
            "reward at the least beta": float(mean[0]),
        }
    return found


def _checks(flags, laws, frontier, students, rewards, log_ref, preferences) -> list[Check]:
    checks = []
    for n, law in laws.items():
        checks.append(near(f"best of {n}: mass", float(law.sum()), 1.0, 1e-9))
    draws = np.random.default_rng(0).choice(
        len(rewards), (20_000, flags.fitted), p=np.exp(log_ref) / np.exp(log_ref).sum()
    )
    sampled = rewards[draws].max(1)
    expected = float(laws[flags.fitted] @ rewards)
    error = 4 * float(sampled.std()) / len(sampled) ** 0.5
    checks.append(
        near(f"best of {flags.fitted} by draws: reward", float(sampled.mean()), expected, error)
    )
    for row in frontier:
        if row["N"] == 1:
            continue
        bound, kl = row["log N - (N-1)/N"], row["KL"]
        checks.append(
            Check(
                f"best of {row['N']}: KL at most log N - (N-1)/N",
                kl <= bound + 1e-9,
                f"{kl:.4f} of {bound:.4f}",
            )
        )
        lost = row["most for that KL"] - row["reward"]
        checks.append(
            Check(
                f"best of {row['N']}: no law earns less than the tilted",
                lost > -1e-6,
                f"{lost:.4g} below",
            )
        )
    for d, row in students.items():
        most = tilted(row["KL"], rewards, log_ref) if row["KL"] > 1e-9 else row["reward"]
        checks.append(
            Check(
                f"student in {d}: below the tilted law",
                row["reward"] <= most + 1e-6,
                f"{row['reward']:.4f} of {most:.4f}",
            )
        )
    found = summary(preferences)
    if flags.seeds >= 10:
        fall = {k: row["reward"] - row["reward at the least beta"] for k, row in found.items()}
        detail = " ".join(f"{k} {x:.3f}" for k, x in fall.items())
        checks.append(
            Check("past its peak DPO loses more than chi-PO", fall["DPO"] > fall["chi-PO"], detail)
        )
    return checks


def _picture(flags, frontier, students, preferences, rewards, log_ref) -> Picture:
    """The frontier, KLs against their bound, what preferences really earn."""
    style.use()
    shape = {"figsize": (7.6, 3.1), "layout": "constrained"}
    figure, (plane, bound, tuned) = plt.subplots(1, 3, **shape)
    kl, reward = ([row[k] for row in frontier] for k in ("KL", "reward"))
    grid = np.linspace(1e-3, 1.15 * max(kl), 40)
    with jax.enable_x64(True):
        most = [tilted(x, rewards, log_ref) for x in grid]
    plane.plot(grid, most, color=style.EXPERT, linewidth=1.2, label="tilted: the most")
    best = style.colour("alpha")
    plane.plot(kl, reward, "o", color=best, markersize=4.5, label="best of N")
    for row in frontier:
        if row["N"] in (1, flags.fitted, flags.most):
            where = {"textcoords": "offset points", "xytext": (6, -3), "fontsize": 7.5}
            plane.annotate(f"{row['N']}", (row["KL"], row["reward"]), color=best, **where)
    for d, row in students.items():
        plane.plot(row["KL"], row["reward"], "D", color=style.colour(d), label=f"student, {d}")
    plane.set(xlabel="KL from the reference (nats)", ylabel="reward")
    n = [row["N"] for row in frontier]
    bound.plot(
        n,
        [row["log N - (N-1)/N"] for row in frontier],
        color=style.EXPERT,
        linestyle=":",
        label="log N \N{MINUS SIGN} (N\N{MINUS SIGN}1)/N",
    )
    bound.plot(n, kl, "-o", color=best, markersize=4.5)
    bound.set(xscale="log", xlabel="N", ylabel="KL from the reference (nats)")
    bound.set_xticks(n, [str(x) for x in n])
    bound.set_xticks([], minor=True)
    for name, each in preferences.items():
        mean, at = each["reward"].mean(0), each["kl"].mean(0)
        error = each["reward"].std(0) / flags.seeds**0.5
        tuned.plot(at, mean, "-o", color=COLOURS[name], markersize=4, label=name)
        tuned.fill_between(
            at, mean - error, mean + error, color=COLOURS[name], alpha=0.15, linewidth=0
        )
    tuned.set(xlabel="KL from the reference (nats)", ylabel="true reward gained")
    lines = [axis.get_legend_handles_labels() for axis in (plane, bound, tuned)]
    handles, names = ([x for pair in lines for x in pair[i]] for i in (0, 1))
    figure.legend(handles, names, loc="outside lower center", ncols=4)
    return figure


FIGURE = Figure(
    flags=Flags,
    make=make,
    title="Best of N as a law, and preferences followed too far",
    claim=(
        "Best-of-N earns nearly the most for its KL; students that cannot hold it land where their "
        "divergence leads; a small beta takes DPO past its peak, and chi-PO not so far."
    ),
    source=(
        "Sessa et al. 2024 (arXiv 2407.14622), BOND; Beirami et al. 2024 (arXiv 2401.01879) for "
        "the bound; Huang et al. 2024 (arXiv 2407.13399), chi-PO"
    ),
)
