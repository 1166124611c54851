"""Whose prefixes, which divergence: `python -m experiments.figures distillation_grid [--fractions F
... --divergences D ...]`.

A one-layer transformer that sees one token back (so it cannot hold the two-template language) is
distilled from the exact expert on prefixes of which a fraction are its own. Quality is the share of
valid strings, diversity the entropy, both by enumeration. At every fraction reverse KL is more
valid and less diverse than forward KL by far more than two standard errors; the more of the
prefixes are its own, the less valid and the more diverse a student is, under every divergence."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax import Array

from experiments.figures.common import students
from experiments.figures.common.base import Check, Figure, Picture, Result, Row, distinct, near
from experiments.reporting import style
from fdiv import divergences, exact, statistics
from fdiv import tokens as tk
from fdiv.benchmarks import TwoTemplate
from fdiv.checks import at_least, present, share
from fdiv.objectives.distill import distill
from fdiv.policies import transformer
from fdiv.rollout import sampler
from fdiv.types import Components, Divergence, Objective, Sequences, TokenMDP

BATCH, RATE = 64, 0.02
# One token back, so that its law is a Markov chain, which cannot hold the two-template language.
SHAPE = transformer.Shape(layers=1, width=16, heads=2, kv_heads=1, window=1)
ENOUGH = 100  # updates from which the claims are held against the students
LABELS = {"quality": "share of valid strings", "diversity": "entropy (nats)"}


@dataclasses.dataclass(frozen=True)
class Flags:
    """Distillation over a grid of prefixes and divergences."""

    fractions: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0)
    """Shares of the prefixes that are the student's own."""
    divergences: tuple[str, ...] = ("forward_kl", "reverse_kl", "gjs:0.1", "gjs:0.5", "gjs:0.9")
    """What is minimised at each prefix."""
    seeds: int = 5
    """Students per cell."""
    updates: int = 200
    """Adam steps of each student, on 64 strings of either kind."""


def make(flags: Flags) -> Result:
    """Train all students side by side in one program and measure them exactly."""
    names = _checked(flags)
    cells = list(itertools.product(range(len(names)), flags.fractions, range(flags.seeds)))
    kinds, fractions, seeds = (jnp.array(column) for column in zip(*cells))
    mdp = TwoTemplate().build()
    each = jax.jit(jax.vmap(lambda *cell: student(mdp, names, flags.updates, *cell)))
    shape = (len(names), len(flags.fractions), flags.seeds)
    measured: dict[str, Array] = each(kinds, fractions, seeds)
    measures = {
        key: np.asarray(x, float).reshape(*shape, *x.shape[1:]) for key, x in measured.items()
    }
    values: dict = {"cells": {}, "by_quality": {}, "few_seeds": flags.seeds < statistics.FEW_SEEDS}
    rows = []
    for (k, name), (j, fraction) in itertools.product(enumerate(names), enumerate(flags.fractions)):
        cell = {key: statistics.summarise(measures[key][k, j]) for key in LABELS}
        values["cells"].setdefault(name, {})[f"{fraction:g}"] = {
            key: summary._asdict() for key, summary in cell.items()
        }
        row = {"divergence": name, "fraction": fraction}
        row |= {key: summary.iqm for key, summary in cell.items()}
        for key, summary in cell.items():
            row |= {f"{key}_low": summary.ci95[0], f"{key}_high": summary.ci95[1]}
        rows.append(row)
    for k, name in enumerate(names):
        order = np.argsort(-measures["quality"][k].mean(1))
        values["by_quality"][name] = [flags.fractions[j] for j in order]
    return Result(values, _checks(flags, names, measures, mdp), rows, _picture(names, rows))


def _checked(flags: Flags) -> list[str]:
    at_least("seeds", flags.seeds, 1)
    at_least("updates", flags.updates, 1)
    for fraction in flags.fractions:
        share("fractions", fraction)
    names = [divergences.parse(name).name for name in flags.divergences]
    distinct("fractions", flags.fractions)
    distinct("divergences", names)
    return names


# --- students -------------------------------------------------------------------------------------


def student(
    mdp: TokenMDP, names: list[str], updates: int, kind: Array, fraction: Array, seed: Array
) -> dict[str, Array]:
    """One student from start to finish; everything about it may be traced, so that all of them are
    one program."""
    policy = transformer.policy(SHAPE, mdp.vocab)
    components = Components(policy, mdp, sampler(mdp.horizon, mdp.eos))
    family = [divergences.parse(name) for name in names]

    def perspective(log_p: Array, log_q: Array) -> Array:
        return jnp.stack([d.perspective(log_p, log_q) for d in family])[kind]

    # distillation measures and learns by the perspective alone
    # pyrefly: ignore[bad-argument-type]
    one_of_them = Divergence("one of them", perspective, None, None)
    training = students.adam(mixed(distill(components, one_of_them, 0.5), fraction), RATE, updates)
    start_key, run_key, data_key = jax.random.split(jax.random.fold_in(jax.random.key(0), seed), 3)

    def batches(step: Array) -> Sequences:
        return mdp.demos(jax.random.fold_in(data_key, step), BATCH)

    state = training.init(run_key, policy.init(start_key))
    state, _ = students.advance(training, state, batches, updates)
    space = exact.enumerate_strings(mdp.vocab, mdp.horizon, mdp.eos)
    p, q = exact.law(space, *present(mdp.expert, "expert")), exact.law(space, policy, state.params)
    # The law of the first token, then what follows each token.
    twice = jnp.repeat(jnp.arange(mdp.vocab)[:, None], 2, axis=1)
    after = tk.distributions(policy, state.params, twice)
    return {
        "quality": exact.expectation(q, mdp.statistics["valid"](space.sequences)),
        "diversity": exact.entropy(q),
        "forward_kl": exact.divergence(divergences.forward_kl(), space, p, q),
        "table": jnp.exp(jnp.concatenate([after[:1, 0], after[:, 1]])),
    }


def mixed(halves: Objective, fraction: Array) -> Objective:
    """Half expert's and half own prefixes, reweighted to any fraction, which may then be traced."""

    def prepare(key, params, aux, batch):
        aux, both, metrics = halves.prepare(key, params, aux, batch)
        own = jnp.arange(both.weight.shape[0]) >= batch.weight.shape[0]
        weight = 2 * jnp.where(own, fraction, 1 - fraction) * both.weight
        return aux, both._replace(weight=weight), metrics

    return halves._replace(prepare=prepare)


# --- checks ---------------------------------------------------------------------------------------


def _checks(
    flags: Flags, names: list[str], measures: dict[str, np.ndarray], mdp: TokenMDP
) -> list[Check]:
    """The evaluation from each student's table alone; no student below the class's least forward
    KL; the claims."""
    tables = measures["table"].reshape(-1, *measures["table"].shape[-2:])
    by_hand = {
        "quality": [_valid(t, mdp.horizon) for t in tables],
        "diversity": [_entropy(t, mdp.horizon) for t in tables],
    }
    off = {key: float(np.abs(measures[key].ravel() - x).max()) for key, x in by_hand.items()}
    checks = [near(f"{key} from the tables", x, 0.0, 1e-4) for key, x in off.items()]
    least, lowest = _least_forward_kl(mdp), float(measures["forward_kl"].min())
    name, detail = "none below the least forward KL of its class", f"{lowest:.6f}, {least:.6f}"
    checks.append(Check(name, lowest > least - 1e-4, detail))
    if {"forward_kl", "reverse_kl"} <= set(names) and flags.seeds > 2 and flags.updates >= ENOUGH:
        forward, reverse = names.index("forward_kl"), names.index("reverse_kl")
        for key, sign, what in (("quality", 1, "valid"), ("diversity", -1, "lack of entropy")):
            ahead = sign * (measures[key][reverse] - measures[key][forward])  # [fractions, seeds]
            for fraction, x in zip(flags.fractions, ahead):
                errors = float(x.mean() / (x.std(ddof=1) / len(x) ** 0.5))
                claim = f"reverse_kl over forward_kl in {what} at fraction {fraction:g}"
                checks.append(Check(claim, errors > 2, f"ahead by {errors:.1f} standard errors"))
    return checks


def _valid(table: np.ndarray, horizon: int) -> float:
    """Probability of strings at most one token off all-0 or all-1, one by one, from the chain's
    table [V + 1, V]."""
    strings = {(a,) * horizon for a in (0, 1)}
    strings |= {
        (*x[:t], b, *x[t + 1 :])
        for x in set(strings)
        for t in range(horizon)
        for b in range(table.shape[1])
    }
    paths = ([(0, x[0]), *((a + 1, b) for a, b in itertools.pairwise(x))] for x in strings)
    return sum(float(np.prod([table[step] for step in path])) for path in paths)


def _entropy(table: np.ndarray, horizon: int) -> float:
    """By the chain rule: the entropy of each row, weighted by how often it is used."""
    rows, at, total = -(table * np.log(table)).sum(1), np.eye(len(table))[0], 0.0
    for _ in range(horizon):
        total, at = total + at @ rows, np.concatenate([[0.0], at @ table])
    return float(total)


def _least_forward_kl(mdp: TokenMDP) -> float:
    """Of all chains: the expert's own first token and its mean transitions, both templates being
    independent draws."""
    prior, emission = (np.exp(x) for x in present(mdp.expert, "expert").params)
    first, pairs = prior @ emission, np.einsum("k,ka,kb->ab", prior, emission, emission)
    steps = pairs / pairs.sum(1, keepdims=True)
    cross = -np.sum(first * np.log(first)) - (mdp.horizon - 1) * np.sum(pairs * np.log(steps))
    with jax.enable_x64(True):
        law = exact.law(
            exact.enumerate_strings(mdp.vocab, mdp.horizon, mdp.eos), *present(mdp.expert, "expert")
        )
        return float(cross - exact.entropy(law))


def _picture(names: list[str], rows: list[Row]) -> Picture:
    style.use()
    figure, axes = plt.subplots(1, 2, figsize=(6.8, 2.9), layout="constrained")
    markers = itertools.cycle("os^Dv")
    for name in names:
        mine = [row for row in rows if row["divergence"] == name]
        mine.sort(key=lambda row: row["fraction"])
        fractions = [row["fraction"] for row in mine]
        look = {"color": style.colour(name), "marker": next(markers), "markersize": 4.5}
        look |= {"linestyle": "--" if ":" in name else "-", "linewidth": 1.3, "capsize": 2}
        for axis, key in zip(axes, LABELS):
            columns = (key, f"{key}_low", f"{key}_high")
            middle, low, high = (np.array([row[k] for row in mine]) for k in columns)
            bars = np.abs(np.stack([middle - low, high - middle]))
            axis.errorbar(fractions, middle, bars, label=name, **look)
            axis.set(xlabel="fraction of prefixes that are the student's", ylabel=LABELS[key])
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=5, columnspacing=1.2)
    return figure


FIGURE = Figure(
    flags=Flags,
    make=make,
    title="Whose prefixes, which divergence",
    claim=(
        "On any mixture of prefixes reverse KL's student writes more valid and less "
        "diverse strings than forward KL's."
    ),
    source="Agarwal et al. 2023 (GKD, arXiv 2306.13649), On-Policy Distillation of Language Models",
)
