"""What must hold of `trained_errors`: each sum a second way, the closed forms that students must
reach, the claims."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.figures.common.base import Check, near
from experiments.figures.trained_errors.errors import Walk, fit
from fdiv import statistics
from fdiv.benchmarks import TwoTemplate

ENOUGH = 500  # updates from which students are held to where they must end, and the claims to them
LONG, SHORT = 12, 8  # a length that the claims need, and the longest that they call short
EPISODES = 20_000
LANGUAGE = {"vocab": 2, "weight": 0.55, "noise": 0.05, "order": 1}  # what the claims are about

Students = dict[tuple[str, int], Any]  # (name, length) -> students


def checks(
    flags: Any, language: TwoTemplate, students: Students, fitted: Walk, cost: float, values: dict
) -> list[Check]:
    """All of them; what takes training only where there was enough of it. `cost`: of the first SFT
    student rolled out."""
    apart = lambda a, b: float(np.max(np.abs(a - b) / np.maximum(1, np.abs(b))))
    summed = max(apart(a, b) for s in students.values() for a, b in zip(s.errors, s.walk.errors))
    level = max(apart(a[:, -1], b) for s in students.values() for a, b in zip(s.errors, s.ends))
    logged = max(apart(a, b) for (_, T), s in students.items() for a, b in _logged(T, s))
    above = min(
        float(np.min(s.errors.expert[:, -1] - fitted.errors.expert[0, T - 1]))
        for (_, T), s in students.items()
    )
    counted = _apart(fit(language, flags.order), centre("forward_kl", fitted, 0.0), fitted)
    found = [
        near("sums by enumeration and by dynamic programming", summed, 0.0, 1e-9),
        near("sums and T times the token level, or the sequence level", level, 0.0, 1e-9),
        near("sums and what compare logs in single precision", logged, 0.0, 2e-3),
        near("closed-form fit and the expert's counts", counted, 0.0, 1e-9),
        Check(
            "none below the closed-form fit on the expert's prefixes",
            above > -1e-9,
            f"nearest {above:.3g} above",
        ),
        _episodes(
            language.vocab, students["sft", flags.rolled_from].tables[0], flags.rolled_to, cost
        ),
    ]
    if flags.updates >= ENOUGH:
        found += _trained(students, values)
    alike = (
        all(getattr(flags, field) == value for field, value in LANGUAGE.items())
        and flags.lengths[-1] >= LONG
    )
    if alike and flags.updates >= ENOUGH and flags.seeds >= statistics.FEW_SEEDS:
        found += _claims(flags, values)
    return found


def centre(divergence: str, walk: Walk, own: float) -> np.ndarray:
    """The table nearest to what the expert says in each state, with that share of own prefixes:
    where their mean is, or for reverse KL their geometric mean."""
    mean, log_mean = (x[0] * own + x[1] * (1 - own) for x in (walk.mean, walk.log_mean))
    mass = np.maximum(mean.sum(-1, keepdims=True), 1e-300)
    rows = np.exp(log_mean / mass) if divergence == "reverse_kl" else mean
    return rows / np.maximum(rows.sum(-1, keepdims=True), 1e-300)


def _apart(a: np.ndarray, b: np.ndarray, walk: Walk) -> float:
    """Greatest total variation between the tables' rows, of those that the expert has any use
    for."""
    return float(np.max((np.abs(a - b).sum(-1) / 2)[walk.mean[1].sum(-1) > 1e-2]))


def _logged(T: int, student: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """The ends, and the same from the metrics of a head-to-head."""
    e, log = student.errors, student.logged
    pairs = [(e.own[:, -1], T * log["forward_kl_token"]), (e.expert[:, -1], log["forward_kl"])]
    return [
        *pairs,
        (e.reverse[:, -1], log["reverse_kl"]),
        (e.cost[:, -1] - e.cost[:, -2], 1 - log["valid"]),
    ]


def _episodes(vocab: int, table: np.ndarray, length: int, found: float) -> Check:
    """The cost of a chain's strings again: write some, look at every prefix."""
    draw, state, cost = np.random.default_rng(0), np.zeros(EPISODES, int), np.zeros(EPISODES)
    misses = np.zeros((2, EPISODES), int)
    for _ in range(length):
        token = np.minimum(
            (draw.random((EPISODES, 1)) > table[state].cumsum(-1)).sum(-1), vocab - 1
        )
        state = (state * (vocab + 1) + token + 1) % len(table)
        misses += token != np.array([[0], [1]])
        cost += (misses > 1).all(0)
    return near(
        f"sft's cost over {EPISODES:,} strings of {length}",
        cost.mean(),
        found,
        4 * cost.std() / EPISODES**0.5,
    )


def _trained(students: Students, values: dict[str, Any]) -> list[Check]:
    """SFT and distillation end where, their prefixes held as they are, no table is nearer to the
    expert."""
    furthest: dict[str, float] = {}
    for (name, _), s in students.items():
        _, _, kind = name.partition(":")
        divergence, _, own = ("forward_kl@0" if name == "sft" else kind).partition("@")
        if own and divergence in ("forward_kl", "reverse_kl"):
            off = _apart(s.tables, centre(divergence, s.walk, float(own)), s.walk)
            furthest[name] = max(off, furthest.get(name, 0.0))
    found = [
        near(f"{name}: nothing to gain on its prefixes", off, 0.0, 0.03)
        for name, off in furthest.items()
    ]
    for key, closed in values["closed_form_slopes"].items():
        mine = values["slopes"]["sft"]["all"][key]["slope"]["iqm"]
        found.append(near(f"sft's slope and the closed-form fit's: {key}", mine, closed, 0.05))
    return found


def _claims(flags: Any, values: dict[str, Any]) -> list[Check]:
    """Credit for later prefixes flattens the growth; own prefixes held fixed add errors while
    strings are short."""
    found = []
    for name in sorted({"reverse_kl", "js", "gail"} & set(flags.methods)):
        low, high = values["slopes"][name]["all"]["own"]["minus_sft"]["ci95"]
        found.append(
            Check(
                f"{name}'s errors grow slower than sft's",
                high < 0,
                f"slope less sft's in ({low:.3f}, {high:.3f})",
            )
        )
    short = max((T for T in flags.lengths if T <= SHORT), default=None)
    for d in flags.distilled if short and {0.0, 1.0} <= set(flags.shares) else ():
        held, data = (values["ends"][f"distill:{d}@{own}"]["own"][short]["ci95"] for own in (1, 0))
        detail = f"from {held[0]:.3f}, against at most {data[1]:.3f}"
        found.append(
            Check(
                f"distill:{d} errs more on its own prefixes at length {short}",
                held[0] > data[1],
                detail,
            )
        )
    return found
