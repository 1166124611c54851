"""What must hold of an expert seen through windows: recursions against strings, laws of the levels,
what students reach."""

from __future__ import annotations

import numpy as np

from experiments.figures.common.base import Check, near
from experiments.figures.common.classes import EnumeratedTask
from experiments.figures.context_window.flags import Flags
from experiments.figures.context_window.students import SIZES, Student, reach
from experiments.figures.context_window.task import (
    LEVELS,
    Metrics,
    Tables,
    Views,
    WindowView,
    next_contexts,
    own_pairs,
    pairs_tv,
    string_log_probs,
    visits,
)
from fdiv import statistics

ENOUGH = 500  # updates from which the claims are held against the students
ROUNDING = 1e-9
SEARCHED = 1e-5  # what a search may miss of a minimum


def all_checks(
    flags: Flags,
    world: EnumeratedTask,
    views: Views,
    tables: Tables,
    metrics: Metrics,
    students: list[Student],
    chains: dict[int, dict[str, dict[str, list[float]]]],
) -> list[Check]:
    """All of them."""
    checks = [c for window, view in views.items() for c in _window(flags, world, window, view)]
    spreads = [numbers for of_windows in chains.values() for numbers in of_windows.values()]
    worst = max(numbers["own_pairs_tv_clock"][-1] for numbers in spreads)
    name = "all chains: with a clock cloning writes the expert's pairs"
    checks.append(near(name, worst, 0.0, ROUNDING))
    checks += _levels(flags, metrics) + _chain_rule(flags, views, tables, metrics)
    checks += _students(flags, metrics, students)
    return checks + (_transformers(flags, students) if flags.transformers else [])


def _window(
    flags: Flags, world: EnumeratedTask, window: int, view: dict[bool, WindowView]
) -> list[Check]:
    """What cloning loses, from strings and from entropies; its pairs, the expert's with a clock,
    else but for cut strings."""
    checks, p = [], np.asarray(world.expert.string)
    for clock, who in ((False, "cloning"), (True, "cloning with a clock")):
        kl = float(np.exp(p) @ (p - string_log_probs(world, view[clock].table, window)))
        name = f"window {window}: forward KL of {who} is the information beyond its state"
        checks.append(near(name, kl, view[clock].lost, ROUNDING))
    off = _off_the_cut(view[False])
    name = f"window {window}: cloning's own windows differ by what the horizon cuts off"
    checks.append(near(name, off, 0.0, ROUNDING))
    tv, lost = pairs_tv(view[True].pairs, view[True].own, True), view[True].lost
    below = window < flags.order and window + 2 <= flags.horizon
    claim = (
        "the expert's pairs, and yet not its strings" if below else "the expert's pairs and strings"
    )
    holds = tv < ROUNDING and (lost > ROUNDING if below else abs(lost) < ROUNDING)
    detail = f"pairs' tv {tv:.2g}, {lost:.6g} nats lost"
    return [*checks, Check(f"window {window}, clock: {claim}", holds, detail)]


def _off_the_cut(plain: WindowView) -> float:
    """By how much the windows of cloning and of the expert differ beyond what the strings that the
    horizon cuts off would have gone on to be: visits solve v = v P + source."""
    extra = (plain.own - plain.pairs).sum((0, 2))
    cut = next_contexts(plain.pairs[-1]) - next_contexts(plain.own[-1])
    one_hot = np.eye(len(extra))
    onward = np.stack([next_contexts(row) for row in one_hot[:, :, None] * plain.table])  # [W, W']
    return float(np.abs(extra - np.linalg.solve(one_hot - onward.T, cut)).max())


def _levels(flags: Flags, metrics: Metrics) -> list[Check]:
    """Zero from the range on, no wider window worse, each level's minimiser best there, and the two
    KLs' identities."""
    value = {  # (window, minimised divergence, level minimised, level measured)
        (*key, level): x[key[1] + ("" if level == "sequence" else f"_{level}")]
        for key, x in metrics.items()
        for level in LEVELS
    }
    checks = []
    beyond = [abs(x) for (window, *_), x in value.items() if window >= flags.order]
    if beyond:
        checks.append(near("from the range on every divergence is 0", max(beyond), 0.0, ROUNDING))
    worse = [
        value[wide, name, level, level] - value[narrow, name, level, level]
        for narrow, wide in zip(flags.windows, flags.windows[1:])
        for name, level in {key[1:] for key in metrics}
    ]
    if worse:
        most = max(worse)
        checks.append(Check("no wider window is worse", most < SEARCHED, f"at most {most:.2g}"))
    most = max(
        value[*key, key[2]] - value[key[0], key[1], other, key[2]]
        for key in metrics
        for other in LEVELS
    )
    name = "each level's minimiser is the best at its level"
    checks.append(Check(name, most < SEARCHED, f"beaten by {most:.2g}"))
    for name, level, whose in (
        ("forward_kl", "token_expert", "the expert's"),
        ("reverse_kl", "token", "its own"),
    ):
        total = max(
            abs(flags.horizon * x[f"{name}_{level}"] - x[name]) / max(1.0, x[name])
            for x in metrics.values()
        )
        claim = f"{name} of strings is the sum over {whose} prefixes, any policy"
        checks.append(near(claim, total, 0.0, ROUNDING))
        if name in flags.divergences:
            excess = max(
                metrics[w, name, level][name] - metrics[w, name, "sequence"][name]
                for w in flags.windows
            )
            claim = f"{name}: least on {whose} prefixes is least on strings"
            checks.append(near(claim, excess, 0.0, SEARCHED))
    return checks


def _chain_rule(flags: Flags, views: Views, tables: Tables, metrics: Metrics) -> list[Check]:
    """With the window as the state reverse KL adds up as well, but to what cloning writes; lengths
    by recursion."""
    off, lengths, searched = [], [], []
    for key, table in tables.items():
        apparent, x = views[key[0]][False].table, metrics[key]
        total = np.sum(own_pairs(table, flags.horizon) * (np.log(table) - np.log(apparent)))
        off.append(abs(total - x["to_apparent"]) / max(1.0, x["to_apparent"]))
        lengths.append(abs(visits(table, flags.horizon).sum() - x["length"]))
        if key[1:] == ("forward_kl", "sequence"):
            searched.append(abs(x["forward_kl"] - views[key[0]][False].lost))
    checks = []
    if searched:
        name = "forward_kl: the search ends at cloning's policy"
        checks.append(near(name, max(searched), 0.0, SEARCHED))
    name = "over windows reverse KL adds up to cloning's strings"
    checks.append(near(name, max(off), 0.0, ROUNDING))
    return [*checks, near("lengths by recursion", max(lengths), 0.0, ROUNDING)]


def _students(flags: Flags, metrics: Metrics, students: list[Student]) -> list[Check]:
    """None below its class, the identity in training too; with enough of both, each reaches what it
    should."""
    checks = []
    comparable = [s for s in students if (s.window, s.minimises, "sequence") in metrics]
    if comparable:
        under = max(
            metrics[s.window, s.minimises, "sequence"][s.minimises] - s.metrics[s.minimises].min()
            for s in comparable
        )
        name = "no student below the best of its window"
        checks.append(Check(name, under < 1e-4, f"under by {under:.2g}"))
    if students:
        total = max(
            np.abs(flags.horizon * s.metrics["reverse_kl_token"] - s.metrics["reverse_kl"]).max()
            for s in students
        )
        name = "students: reverse_kl of strings is the sum over own prefixes"
        checks.append(near(name, total, 0.0, 1e-3))
    if flags.seeds > 2 and flags.updates >= ENOUGH:
        checks += [check for s in comparable for check in _claims(flags, metrics, s)]
    return checks


def _claims(flags: Flags, metrics: Metrics, s: Student) -> list[Check]:
    """Without a critic the best of the window is reached; with one that reads the window alone,
    cloning, whatever the f."""
    name, best = (
        f"{s.policy} {s.method}, window {s.window}",
        metrics[s.window, s.minimises, "sequence"],
    )
    if s.critic == "none" and s.policy == "markov":
        end, least = statistics.iqm(s.metrics[s.minimises]), best[s.minimises]
        slack = max(0.02, 0.05 * least)
        return [near(f"{name} ends at the best of its window", end, least, slack)]
    cloned = metrics.get((s.window, "forward_kl", "sequence"))
    if s.critic != "window" or s.window >= flags.order or s.minimises == "forward_kl" or not cloned:
        return []
    end, least, own = (
        statistics.iqm(s.metrics["forward_kl"]),
        cloned["forward_kl"],
        best["forward_kl"],
    )
    detail = f"forward_kl {end:.4f}: cloning {least:.4f}, best {s.minimises} {own:.4f}"
    holds = end - least < 0.2 * (own - least)
    return [Check(f"{name}, window critic, ends at cloning", holds, detail)]


def _transformers(flags: Flags, students: list[Student]) -> list[Check]:
    """One layer sees the window, each further layer a window less one more."""
    checks, window = [], max(flags.transformers)
    for layers in (1, 2):
        tokens, expected = reach(window, layers), layers * (window - 1) + SIZES["layers"]
        name = f"{layers} layer(s) of window {window} see so many tokens back"
        checks.append(near(name, tokens, expected, 0))
    spread = max((s.spread for s in students if s.policy == "transformer"), default=0.0)
    name = "transformers: one law for all prefixes that end in one window"
    return [*checks, near(name, spread, 0.0, 1e-4)]
