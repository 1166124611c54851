"""What must hold of the students of `beyond_three`: laws, and their numbers calculated another
way."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import numpy as np
from scipy.special import log_softmax

from experiments.figures.beyond_three.numbers import statistics_of
from experiments.figures.beyond_three.students import (
    Plan,
    Students,
    settings,
    string_log_probs,
)
from experiments.figures.common.base import Check, near
from fdiv import divergences, exact
from fdiv import tokens as tk
from fdiv.checks import present
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
    plan: Plan, rows: Sequences, groups: dict[str, Students], values: dict[str, dict]
) -> list[Check]:
    """At any flags, but for those of training and of the claims, which need enough of both."""
    all_checks = [check for students in groups.values() for check in _measures(plan, students)]
    all_checks += [_same_gradient(plan, groups["sft"]), *_identities(groups)]
    if plan.updates >= ENOUGH and plan.rates[0] >= 0.03:
        all_checks += _trained(plan, rows, groups, values)
    return all_checks


def _measures(plan: Plan, students: Students) -> Iterator[Check]:
    """None below the best of its class; what was measured, from each table string by string,
    divergences by their bound."""
    end = {name: x[..., -1] for name, x in students.measures.items() if name != "params"}
    source = students.source
    lead = [(own - best.value) / max(1, best.value) for own, best in zip(end["own"], students.best)]
    lowest = float(np.nan_to_num(lead, nan=1).min())
    name = f"{source}: none below the best of its class"
    yield Check(name, lowest > -1e-4, f"nearest {lowest:.3g}")
    log_q = string_log_probs(plan, students.measures["params"])
    for name, x in statistics_of(plan, np.exp(log_q)).items():
        off = float(np.nanmax(np.abs(x - end[name])))
        yield near(f"{source}: {name} from the tables", off, 0.0, 1e-4)
    worst = max(_off_the_bound(plan, name, log_q, end[name]) for name in plan.names)
    yield near(f"{source}: divergences by their variational bound", worst, 0.0, 5e-3)
    if source == "distill" and "forward_kl" in students.names:
        k = students.names.index("forward_kl")
        total = plan.components.mdp.horizon * end["own"][k]
        off = float(np.nanmax(np.abs(total - end["forward_kl"][k])))
        name = "distill: tokens' forward_kl on the expert's prefixes adds up to the strings'"
        yield near(name, off, 0.0, 1e-3)


def _off_the_bound(plan: Plan, name: str, log_q: np.ndarray, ours: np.ndarray) -> float:
    """How far a divergence is from max over s of E_p[witness] - E_q[reward], which is attained at
    the true log-ratio, relative to it."""
    p, log_p = _expert(plan)
    d, s = divergences.parse(name), log_p - log_q
    with jax.enable_x64(True):
        # pyrefly: ignore[bad-argument-type]
        bound = (p * np.asarray(d.witness(s)) - np.exp(log_q) * np.asarray(d.reward(s))).sum(-1)
    finite = np.isfinite(ours)
    off = np.abs(ours - bound)[finite] / (1e-4 + np.abs(bound[finite]))
    return float(off.max(initial=0.0))


def _expert(plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    with jax.enable_x64(True):
        log_p = np.asarray(
            exact.law(plan.space, *present(plan.components.mdp.expert, "expert")).string
        )
    return np.exp(log_p), log_p


def _same_gradient(plan: Plan, sft: Students) -> Check:
    """On the whole language, distilling forward KL is SFT: the same exact gradient up to the mean
    over positions."""
    components = plan.components

    def difference(table):
        language = exact.weighted(
            plan.space, exact.law(plan.space, *present(components.mdp.expert, "expert"))
        )
        token = distill(components, divergences.forward_kl())
        string = max_likelihood(components.policy, components.mdp.vocab)
        of_tokens, of_strings = (
            exact.expected_gradient(objective, table, language) for objective in (token, string)
        )
        return jax.numpy.abs(components.mdp.horizon * of_tokens - of_strings).max()

    with jax.enable_x64(True):
        off = jax.jit(difference)(np.nan_to_num(sft.measures["params"][0, 0].astype(float)))
    name = "distill:forward_kl and SFT: same gradient on the whole language"
    return near(name, float(off), 0.0, 1e-9)


def _identities(groups: dict[str, Students]) -> Iterator[Check]:
    distilled = groups["distill"]
    pair = ("hellinger2", "alpha:0.5")
    if set(pair) <= set(distilled.names):
        # Adam does not see the factor 2, and nothing is sampled from the policy.
        a, b = (distilled.measures["js"][distilled.names.index(name), ..., -1] for name in pair)
        name = "distill: hellinger2 is half of alpha:0.5, so their students are one"
        yield near(name, float(np.abs(a - b).max()), 0.0, 1e-3)
    if "jeffreys" in distilled.names:
        for source, students in groups.items():
            x = students.measures
            both = x["forward_kl"] + x["reverse_kl"]
            off = np.abs(x["jeffreys"] - both)[np.isfinite(both)] / (1 + both[np.isfinite(both)])
            yield near(f"{source}: jeffreys is the sum of both KLs", float(off.max()), 0.0, 1e-3)


def _trained(
    plan: Plan, rows: Sequences, groups: dict[str, Students], values: dict[str, dict]
) -> Iterator[Check]:
    """Both likelihood students end at what their own demonstrations count; the claims."""
    mdp = plan.components.mdp
    targets: dict[str, Callable[[Sequences], np.ndarray]] = {
        "sft": lambda x: np.eye(mdp.vocab)[np.asarray(x.tokens)],
        "distill": lambda x: np.exp(tk.distributions(*present(mdp.expert, "expert"), x.tokens)),
    }
    for source, target in targets.items():
        students = groups[source]
        if "forward_kl" in students.names:
            tables = students.measures["params"][students.names.index("forward_kl")]
            cells = zip(settings(plan), tables)
            most = max(_excess(plan, rows, target, cell, table) for cell, table in cells)
            name = f"{source}: forward KL's students count their own demonstrations"
            yield Check(name, most < 0.05, f"at most {most:.3g} nats a string above the counts")
    if plan.seeds >= 3 and plan.demos[-1] >= PLENTY:
        yield from _claims(plan, values)


def _claims(plan: Plan, values: dict[str, dict]) -> Iterator[Check]:
    """What the expert's probabilities save, and that a member's own optimum decides how valid its
    students are."""
    most = str(plan.demos[-1])

    def of(source: str, name: str, n: str, measure: str) -> float:
        return values[source][name]["demos"][n][measure]["iqm"]

    light = [name for name in values["distill"] if not heavy(name)]
    for name in light:
        gap = of("distill", name, most, "gap")
        claim = f"distill:{name}: at the best with {most} demonstrations"
        yield Check(claim, gap < 0.01, f"gap {gap:.3g}")
    if "forward_kl" in light:
        gaps = [
            tuple(of(source, "forward_kl", str(n), "gap") for source in ("distill", "sft"))
            for n in plan.demos
        ]
        detail = ", ".join(f"{a:.2g} and {b:.2g}" for a, b in gaps)
        claim = "distill:forward_kl is nearer than SFT at every N"
        yield Check(claim, all(a < b for a, b in gaps), detail)
    best = {name: values["adversarial"][name]["optimum"]["valid"] for name in light}
    pairs = [(a, b) for a in light for b in light if best[a] > best[b] + APART]
    valid = {name: of("adversarial", name, most, "valid") for name in light}
    wrong = [f"{a} {valid[a]:.3f}, {b} {valid[b]:.3f}" for a, b in pairs if valid[a] <= valid[b]]
    claim = f"adversarial: as valid, in order, as the optima that are {APART} apart"
    yield Check(claim, not wrong, "; ".join(wrong) or f"{len(pairs)} pairs in order")


def _excess(
    plan: Plan,
    rows: Sequences,
    targets: Callable[[Sequences], np.ndarray],
    cell: tuple[int, int, float],
    table: np.ndarray,
) -> float:
    """Mean NLL of a string above the least that a table can have, which is that of the mean target
    in each state."""
    count, seed, _ = cell
    strings = jax.tree.map(lambda x: x[seed, :count], rows)
    weight, state = np.zeros(np.shape(table)), np.zeros(count, int)
    for target, token in zip(np.swapaxes(targets(strings), 0, 1), strings.tokens.T):
        np.add.at(weight, state, target / count)
        # pyrefly: ignore[bad-argument-type]
        state = np.asarray(plan.automaton.advance(state, token))
    share = weight / np.maximum(weight.sum(1, keepdims=True), 1e-300)
    log_q = log_softmax(np.asarray(table, float), axis=1)
    return float((weight * (np.log(np.maximum(share, 1e-300)) - log_q)).sum())
