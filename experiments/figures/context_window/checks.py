"""What must hold of an expert seen through windows: recursions against strings, laws of the levels,
what students reach."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.figures.common.base import Check, near
from experiments.figures.common.classes import World
from experiments.figures.context_window.students import SIZES, Student, reach
from experiments.figures.context_window.task import LEVELS, apart, moved, strings, visits, written
from fdiv import statistics

ENOUGH = 500  # updates from which the claims are held against the students
ROUNDING = 1e-9
SEARCHED = 1e-5  # what a search may miss of a minimum


def checks(
    flags: Any, world: World, views: dict, tables: dict, found: dict, taught: list, chains: dict
) -> list[Check]:
    """All of them."""
    held = [
        check for window, view in views.items() for check in _window(flags, world, window, view)
    ]
    worst = max(
        view["own_pairs_tv_clock"][-1] for kept in chains.values() for view in kept.values()
    )
    held.append(
        near("all chains: with a clock cloning writes the expert's pairs", worst, 0.0, ROUNDING)
    )
    held += _levels(flags, found) + _chain_rule(flags, views, tables, found)
    return (
        held
        + _students(flags, found, taught)
        + (_transformers(flags, taught) if flags.transformers else [])
    )


def _window(flags: Any, world: World, window: int, view: dict) -> list[Check]:
    """What cloning loses, from strings and from entropies; its pairs, the expert's with a clock,
    else but for cut strings."""
    held, p = [], np.asarray(world.expert.string)
    for clock, said in ((False, "cloning"), (True, "cloning with a clock")):
        kl = float(np.exp(p) @ (p - strings(world, view[clock].table, window)))
        name = f"window {window}: forward KL of {said} is the information beyond its state"
        held.append(near(name, kl, view[clock].lost, ROUNDING))
    plain = view[False]
    extra, cut = (
        (plain.own - plain.pairs).sum((0, 2)),
        moved(plain.pairs[-1]) - moved(plain.own[-1]),
    )
    onward = np.stack(
        [moved(row) for row in np.eye(len(extra))[:, :, None] * plain.table]
    )  # [W, W'] from window to window
    off = float(np.abs(extra - np.linalg.solve(np.eye(len(extra)) - onward.T, cut)).max())
    held.append(
        near(
            f"window {window}: cloning's own windows differ by what the horizon cuts off",
            off,
            0.0,
            ROUNDING,
        )
    )
    tv, lost = apart(view[True].pairs, view[True].own, True), view[True].lost
    below = window < flags.order and window + 2 <= flags.horizon
    said = (
        "the expert's pairs, and yet not its strings" if below else "the expert's pairs and strings"
    )
    right = tv < ROUNDING and (lost > ROUNDING if below else abs(lost) < ROUNDING)
    return [
        *held,
        Check(
            f"window {window}, clock: {said}", right, f"pairs' tv {tv:.2g}, {lost:.6g} nats lost"
        ),
    ]


def _levels(flags: Any, found: dict) -> list[Check]:
    """Zero from the range on, no wider window worse, each level's minimiser best there, and the two
    KLs' identities."""
    suffix = {level: "" if level == "sequence" else f"_{level}" for level in LEVELS}
    value = lambda key, level: found[key][
        key[1] + suffix[level]
    ]  # of a table, what it minimises, at any level
    least = {key: value(key, key[2]) for key in found}
    beyond = [abs(value(key, level)) for key in found if key[0] >= flags.order for level in LEVELS]
    kinds = {key[1:] for key in found}
    worse = [
        least[w, *key] - least[v, *key]
        for v, w in zip(flags.windows, flags.windows[1:])
        for key in kinds
    ]
    beaten = [
        least[w, d, level] - value((w, d, other), level)
        for w, d, level in found
        for other in LEVELS
    ]
    held = (
        [near("from the range on every divergence is 0", max(beyond), 0.0, ROUNDING)]
        if beyond
        else []
    )
    held += (
        [Check("no wider window is worse", max(worse) < SEARCHED, f"at most {max(worse):.2g}")]
        if worse
        else []
    )
    most = max(beaten)
    held.append(
        Check(
            "each level's minimiser is the best at its level",
            most < SEARCHED,
            f"beaten by {most:.2g}",
        )
    )
    for name, level, prefixes in (
        ("forward_kl", "token_expert", "the expert's"),
        ("reverse_kl", "token", "its own"),
    ):
        total = max(
            abs(flags.horizon * x[f"{name}_{level}"] - x[name]) / max(1.0, x[name])
            for x in found.values()
        )
        held.append(
            near(
                f"{name} of strings is the sum over {prefixes} prefixes, any policy",
                total,
                0.0,
                ROUNDING,
            )
        )
        if name in flags.divergences:
            excess = max(
                found[w, name, level][name] - found[w, name, "sequence"][name]
                for w in flags.windows
            )
            held.append(
                near(
                    f"{name}: least on {prefixes} prefixes is least on strings",
                    excess,
                    0.0,
                    SEARCHED,
                )
            )
    return held


def _chain_rule(flags: Any, views: dict, tables: dict, found: dict) -> list[Check]:
    """With the window as the state reverse KL adds up as well, but to what cloning writes; lengths
    by recursion."""
    off, lengths, searched = [], [], []
    for key, table in tables.items():
        apparent, x = views[key[0]][False].table, found[key]
        total = np.sum(written(table, flags.horizon) * (np.log(table) - np.log(apparent)))
        off.append(abs(total - x["to_apparent"]) / max(1.0, x["to_apparent"]))
        lengths.append(abs(visits(table, flags.horizon).sum() - x["length"]))
        if key[1:] == ("forward_kl", "sequence"):
            searched.append(abs(x["forward_kl"] - views[key[0]][False].lost))
    held = (
        [near("forward_kl: the search ends at cloning's policy", max(searched), 0.0, SEARCHED)]
        if searched
        else []
    )
    held.append(
        near("over windows reverse KL adds up to cloning's strings", max(off), 0.0, ROUNDING)
    )
    return [*held, near("lengths by recursion", max(lengths), 0.0, ROUNDING)]


def _students(flags: Any, found: dict, taught: list[Student]) -> list[Check]:
    """None below its class, the identity in training too; with enough of both, each reaches what it
    should."""
    held, known = [], lambda s: (s.window, s.minimises, "sequence") in found
    if judged := [s for s in taught if known(s)]:
        under = max(
            found[s.window, s.minimises, "sequence"][s.minimises] - s.metrics[s.minimises].min()
            for s in judged
        )
        held.append(
            Check("no student below the best of its window", under < 1e-4, f"under by {under:.2g}")
        )
    if taught:
        total = max(
            np.abs(flags.horizon * s.metrics["reverse_kl_token"] - s.metrics["reverse_kl"]).max()
            for s in taught
        )
        held.append(
            near("students: reverse_kl of strings is the sum over own prefixes", total, 0.0, 1e-3)
        )
    if flags.seeds > 2 and flags.updates >= ENOUGH:
        held += [check for s in judged for check in _claims(flags, found, s)]
    return held


def _claims(flags: Any, found: dict, s: Student) -> list[Check]:
    """Without a critic the best of the window is reached; with one that reads the window alone,
    cloning, whatever the f."""
    name, best = (
        f"{s.policy} {s.method}, window {s.window}",
        found[s.window, s.minimises, "sequence"],
    )
    if s.critic == "none" and s.policy == "markov":
        end, wanted = statistics.iqm(s.metrics[s.minimises]), best[s.minimises]
        return [
            near(f"{name} ends at the best of its window", end, wanted, max(0.02, 0.05 * wanted))
        ]
    cloned = found.get((s.window, "forward_kl", "sequence"))
    if s.critic != "window" or s.window >= flags.order or s.minimises == "forward_kl" or not cloned:
        return []
    end, least, own = (
        statistics.iqm(s.metrics["forward_kl"]),
        cloned["forward_kl"],
        best["forward_kl"],
    )
    said = f"forward_kl {end:.4f}: cloning {least:.4f}, best {s.minimises} {own:.4f}"
    return [
        Check(f"{name}, window critic, ends at cloning", end - least < 0.2 * (own - least), said)
    ]


def _transformers(flags: Any, taught: list[Student]) -> list[Check]:
    """One layer sees the window, each further layer a window less one more."""
    held = []
    for layers in (1, 2):
        window = max(flags.transformers)
        sees, wanted = reach(window, layers), layers * (window - 1) + SIZES["layers"]
        held.append(
            near(f"{layers} layer(s) of window {window} see so many tokens back", sees, wanted, 0)
        )
    spread = max((s.spread for s in taught if s.policy == "transformer"), default=0.0)
    return [
        *held,
        near("transformers: one law for all prefixes that end in one window", spread, 0.0, 1e-4),
    ]
