"""What must hold of the students of `beyond_three`: laws, and their numbers calculated another
way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from scipy.special import log_softmax

from experiments.figures.beyond_three.numbers import judged
from experiments.figures.beyond_three.student import Course
from experiments.figures.beyond_three.students import Students, settings, string_log_probs
from experiments.figures.common.base import Check, near
from fdiv import divergences, exact
from fdiv import tokens as tk
from fdiv.objectives.distill import distill
from fdiv.objectives.max_likelihood import max_likelihood
from fdiv.types import Sequences

ENOUGH, PLENTY = 400, 1024  # updates and demonstrations from which training and claims are held to
APART = 0.04  # optima whose students must be told apart


def heavy(name: str) -> bool:
    """Whether a member's tails may keep its students from the best."""
    family, _, a = name.partition(":")
    return name in ("neyman_chi2", "pearson_chi2", "jeffreys") or (
        family == "alpha" and not 0 <= float(a) <= 1
    )


def checks(
    course: Course, rows: Sequences, groups: dict[str, Students], found: dict[str, dict]
) -> list[Check]:
    """At any flags, but for those of training and of the claims, which need enough of both."""
    made = [check for students in groups.values() for check in _measures(course, students)]
    made += [_same_gradient(course, groups["sft"]), *_identities(groups)]
    if course.updates >= ENOUGH and course.rates[0] >= 0.03:
        made += list(_trained(course, rows, groups, found))
    return made


def _measures(course: Course, students: Students) -> Iterator[Check]:
    """None below the best of its class; what was measured, from each table string by string,
    divergences by their bound."""
    end, source = (
        {name: x[..., -1] for name, x in students.found.items() if name != "params"},
        students.source,
    )
    lead = [(own - best.value) / max(1, best.value) for own, best in zip(end["own"], students.best)]
    lowest = float(np.nan_to_num(lead, nan=1).min())
    yield Check(
        f"{source}: none below the best of its class", lowest > -1e-4, f"nearest {lowest:.3g}"
    )
    log_q = string_log_probs(course, students.found["params"])
    p, log_p = _expert(course)
    for name, x in judged(course, np.exp(log_q)).items():
        yield near(
            f"{source}: {name} from the tables", float(np.nanmax(np.abs(x - end[name]))), 0.0, 1e-4
        )
    worst = 0.0
    with jax.enable_x64(True):
        for name in (
            course.names
        ):  # max over s of E_p[witness] - E_q[reward], attained at the true log-ratio
            d, s = divergences.parse(name), log_p - log_q
            bound = (p * np.asarray(d.witness(s)) - np.exp(log_q) * np.asarray(d.reward(s))).sum(-1)
            ours = end[name]
            off = np.abs(ours - bound)[np.isfinite(ours)] / (
                1e-4 + np.abs(bound[np.isfinite(ours)])
            )
            worst = max(worst, float(off.max(initial=0.0)))
    yield near(f"{source}: divergences by their variational bound", worst, 0.0, 5e-3)
    if source == "distill" and "forward_kl" in students.names:
        k = students.names.index("forward_kl")
        off = float(
            np.nanmax(np.abs(course.components.mdp.horizon * end["own"][k] - end["forward_kl"][k]))
        )
        yield near(
            "distill: tokens' forward_kl on the expert's prefixes adds up to the strings'",
            off,
            0.0,
            1e-3,
        )


def _expert(course: Course) -> tuple[np.ndarray, np.ndarray]:
    with jax.enable_x64(True):
        log_p = np.asarray(exact.law(course.space, *course.components.mdp.expert).string)
    return np.exp(log_p), log_p


def _same_gradient(course: Course, sft: Students) -> Check:
    """On the whole language, distilling forward KL is SFT: the same exact gradient up to the mean
    over positions."""
    components = course.components

    def difference(table):
        whole = exact.weighted(course.space, exact.law(course.space, *components.mdp.expert))
        token, string = (
            distill(components, divergences.forward_kl()),
            max_likelihood(components.policy, components.mdp.vocab),
        )
        gradient = lambda objective: exact.expected_gradient(objective, table, whole)
        return jax.numpy.abs(components.mdp.horizon * gradient(token) - gradient(string)).max()

    with jax.enable_x64(True):
        off = jax.jit(difference)(np.nan_to_num(sft.found["params"][0, 0].astype(float)))
    return near(
        "distill:forward_kl and SFT: same gradient on the whole language", float(off), 0.0, 1e-9
    )


def _identities(groups: dict[str, Students]) -> Iterator[Check]:
    distilled = groups["distill"]
    pair = ("hellinger2", "alpha:0.5")
    if set(pair) <= set(
        distilled.names
    ):  # Adam does not see the factor 2, and nothing is sampled from the policy
        a, b = (distilled.found["js"][distilled.names.index(name), ..., -1] for name in pair)
        yield near(
            "distill: hellinger2 is half of alpha:0.5, so their students are one",
            float(np.abs(a - b).max()),
            0.0,
            1e-3,
        )
    if "jeffreys" in distilled.names:
        for source, students in groups.items():
            x = students.found
            both = x["forward_kl"] + x["reverse_kl"]
            off = np.abs(x["jeffreys"] - both)[np.isfinite(both)] / (1 + both[np.isfinite(both)])
            yield near(f"{source}: jeffreys is the sum of both KLs", float(off.max()), 0.0, 1e-3)


def _trained(
    course: Course, rows: Sequences, groups: dict[str, Students], found: dict[str, dict]
) -> Iterator[Check]:
    """Both likelihood students end at what their own demonstrations count; the claims."""
    counted: dict[str, Callable] = {
        "sft": lambda x: np.eye(course.components.mdp.vocab)[np.asarray(x.tokens)]
    }
    counted["distill"] = lambda x: np.exp(tk.distributions(*course.components.mdp.expert, x.tokens))
    for source, targets in counted.items():
        students = groups[source]
        if "forward_kl" in students.names:
            tables = students.found["params"][students.names.index("forward_kl")]
            excess = [
                _excess(course, rows, targets, cell, table)
                for cell, table in zip(settings(course), tables)
            ]
            said = f"{source}: forward KL's students count their own demonstrations"
            yield Check(
                said,
                max(excess) < 0.05,
                f"at most {max(excess):.3g} nats a string above the counts",
            )
    if course.seeds >= 3 and course.demos[-1] >= PLENTY:
        yield from _claims(course, found)


def _claims(course: Course, found: dict[str, dict]) -> Iterator[Check]:
    """What the expert's probabilities save, and that a member's own optimum decides how valid its
    students are."""
    most = str(course.demos[-1])
    of = lambda source, name, n, measure: found[source][name]["demos"][n][measure]["iqm"]
    light = [name for name in found["distill"] if not heavy(name)]
    for name in light:
        gap = of("distill", name, most, "gap")
        yield Check(
            f"distill:{name}: at the best with {most} demonstrations", gap < 0.01, f"gap {gap:.3g}"
        )
    if "forward_kl" in light:
        gaps = {
            n: (of("distill", "forward_kl", n, "gap"), of("sft", "forward_kl", n, "gap"))
            for n in map(str, course.demos)
        }
        said = ", ".join(f"{a:.2g} and {b:.2g}" for a, b in gaps.values())
        yield Check(
            "distill:forward_kl is nearer than SFT at every N",
            all(a < b for a, b in gaps.values()),
            said,
        )
    best = {name: found["adversarial"][name]["optimum"]["valid"] for name in light}
    pairs = [(a, b) for a in light for b in light if best[a] > best[b] + APART]
    valid = {name: of("adversarial", name, most, "valid") for name in light}
    wrong = [f"{a} {valid[a]:.3f}, {b} {valid[b]:.3f}" for a, b in pairs if valid[a] <= valid[b]]
    said = f"adversarial: as valid, in order, as the optima that are {APART} apart"
    yield Check(said, not wrong, "; ".join(wrong) or f"{len(pairs)} pairs in order")


def _excess(
    course: Course, rows: Sequences, targets: Callable, cell: tuple[int, int, float], table: Any
) -> float:
    """Mean NLL of a string above the least that a table can have, which is that of the mean target
    in each state."""
    count, seed, _ = cell
    strings = jax.tree.map(lambda x: x[seed, :count], rows)
    weight, state = np.zeros(np.shape(table)), np.zeros(count, int)
    for target, token in zip(np.swapaxes(targets(strings), 0, 1), strings.tokens.T):
        np.add.at(weight, state, target / count)
        state = np.asarray(course.automaton.advance(state, token))
    share = weight / np.maximum(weight.sum(1, keepdims=True), 1e-300)
    return float(
        (
            weight
            * (np.log(np.maximum(share, 1e-300)) - log_softmax(np.asarray(table, float), axis=1))
        ).sum()
    )
