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

from experiments.figures.common.base import Check, Figure, Result, near
from experiments.figures.distillation_grid.students import student
from experiments.reporting import style
from fdiv import divergences, exact, statistics
from fdiv.benchmarks import TwoTemplate
from fdiv.checks import at_least, share
from fdiv.types import TokenMDP, UsageError

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
    students = jax.jit(jax.vmap(lambda *cell: student(mdp, names, flags.updates, *cell)))(
        kinds, fractions, seeds
    )
    shape = (len(names), len(flags.fractions), flags.seeds)
    found = {key: np.asarray(x, float).reshape(*shape, *x.shape[1:]) for key, x in students.items()}
    values: dict = {"cells": {}, "by_quality": {}, "few_seeds": flags.seeds < statistics.FEW_SEEDS}
    rows = []
    for (k, name), (j, fraction) in itertools.product(enumerate(names), enumerate(flags.fractions)):
        cell = {key: statistics.summarise(found[key][k, j])._asdict() for key in LABELS}
        values["cells"].setdefault(name, {})[f"{fraction:g}"] = cell
        ends = {
            f"{key}_{end}": x
            for key, c in cell.items()
            for end, x in zip(("low", "high"), c["ci95"])
        }
        rows.append(
            {"divergence": name, "fraction": fraction}
            | {key: c["iqm"] for key, c in cell.items()}
            | ends
        )
    for k, name in enumerate(names):
        values["by_quality"][name] = [
            flags.fractions[j] for j in np.argsort(-found["quality"][k].mean(1))
        ]
    return Result(values, _checks(flags, names, found, mdp), rows, _picture(names, rows, mdp))


def _checked(flags: Flags) -> list[str]:
    at_least("seeds", flags.seeds, 1)
    at_least("updates", flags.updates, 1)
    for fraction in flags.fractions:
        share("fractions", fraction)
    names = [divergences.parse(name).name for name in flags.divergences]
    for field, kept in (("fractions", flags.fractions), ("divergences", names)):
        if not kept or len(set(kept)) < len(kept):
            raise UsageError(
                field, getattr(flags, field), "is empty or holds one twice.", "Give each once."
            )
    return names


def _checks(
    flags: Flags, names: list[str], found: dict[str, np.ndarray], mdp: TokenMDP
) -> list[Check]:
    """The evaluation from each student's table alone; no student below the class's least forward
    KL; the claims."""
    tables = found["table"].reshape(-1, *found["table"].shape[-2:])
    by_hand = {
        "quality": [_valid(t, mdp.horizon) for t in tables],
        "diversity": [_entropy(t, mdp.horizon) for t in tables],
    }
    off = {key: float(np.abs(found[key].ravel() - x).max()) for key, x in by_hand.items()}
    checks = [near(f"{key} from the tables", x, 0.0, 1e-4) for key, x in off.items()]
    least, lowest = _least_forward_kl(mdp), float(found["forward_kl"].min())
    checks.append(
        Check(
            "none below the least forward KL of its class",
            lowest > least - 1e-4,
            f"{lowest:.6f}, {least:.6f}",
        )
    )
    if {"forward_kl", "reverse_kl"} <= set(names) and flags.seeds > 2 and flags.updates >= ENOUGH:
        for key, sign in (("quality", 1), ("diversity", -1)):
            ahead = sign * (
                found[key][names.index("reverse_kl")] - found[key][names.index("forward_kl")]
            )  # [fractions, seeds]
            for fraction, x in zip(flags.fractions, ahead):
                errors = float(x.mean() / (x.std(ddof=1) / len(x) ** 0.5))
                said = (
                    "reverse_kl over forward_kl in "
                    f"{'valid' if sign > 0 else 'lack of entropy'} at fraction {fraction:g}"
                )
                checks.append(Check(said, errors > 2, f"ahead by {errors:.1f} standard errors"))
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
    return sum(
        float(np.prod([table[previous, v] for previous, v in zip((0, *(v + 1 for v in x)), x)]))
        for x in strings
    )


def _entropy(table: np.ndarray, horizon: int) -> float:
    """By the chain rule: the entropy of each row, weighted by how often it is used."""
    rows, at, total = -(table * np.log(table)).sum(1), np.eye(len(table))[0], 0.0
    for _ in range(horizon):
        total, at = total + at @ rows, np.concatenate([[0.0], at @ table])
    return float(total)


def _least_forward_kl(mdp: TokenMDP) -> float:
    """Of all chains: the expert's own first token and its mean transitions, both templates being
    independent draws."""
    prior, emission = (np.exp(x) for x in mdp.expert.params)
    first, pairs = prior @ emission, np.einsum("k,ka,kb->ab", prior, emission, emission)
    steps = pairs / pairs.sum(1, keepdims=True)
    cross = -np.sum(first * np.log(first)) - (mdp.horizon - 1) * np.sum(pairs * np.log(steps))
    with jax.enable_x64(True):
        law = exact.law(exact.enumerate_strings(mdp.vocab, mdp.horizon, mdp.eos), *mdp.expert)
        return float(cross - exact.entropy(law))


def _picture(names: list[str], rows: list[dict], mdp: TokenMDP):
    style.use()
    figure, axes = plt.subplots(1, 2, figsize=(6.8, 2.9), layout="constrained")
    markers = itertools.cycle("os^Dv")
    for name in names:
        mine = sorted(
            (row for row in rows if row["divergence"] == name), key=lambda row: row["fraction"]
        )
        look = {
            "color": style.colour(name),
            "marker": next(markers),
            "linestyle": "--" if ":" in name else "-",
            "markersize": 4.5,
        }
        for axis, key in zip(axes, LABELS):
            middle, low, high = (
                np.array([row[k] for row in mine]) for k in (key, f"{key}_low", f"{key}_high")
            )
            bars = np.abs(np.stack([middle - low, high - middle]))
            axis.errorbar(
                [row["fraction"] for row in mine],
                middle,
                bars,
                capsize=2,
                linewidth=1.3,
                label=name,
                **look,
            )
            axis.set(xlabel="fraction of prefixes that are the student's", ylabel=LABELS[key])
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, columnspacing=1.2
    )
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
