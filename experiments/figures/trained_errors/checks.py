"""What must hold of `trained_errors`: each sum a second way, the closed forms that students must
reach, the claims."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.figures.common.base import Check, near
from experiments.figures.trained_errors.errors import Walk, closed_form
from experiments.figures.trained_errors.flags import Flags
from experiments.figures.trained_errors.students import StudentErrors
from fdiv import statistics
from fdiv.benchmarks import TwoTemplate

ENOUGH = 500  # updates from which students are held to where they must end, and the claims to them
LONG, SHORT = 12, 8  # a length that the claims need, and the longest that they call short
EPISODES = 20_000
LANGUAGE = {"vocab": 2, "weight": 0.55, "noise": 0.05, "order": 1}  # what the claims are about

Students = dict[tuple[str, int], StudentErrors]  # (name, length) -> students


def all_checks(
    flags: Flags,
    language: TwoTemplate,
    students: Students,
    fit: Walk,
    cost: float,
    values: dict[str, Any],
) -> list[Check]:
    """All of them; what takes training only where there was enough of it. `cost`: of the first SFT
    student rolled out."""
    summed = max(_off(a, b) for s in students.values() for a, b in zip(s.errors, s.walk.errors))
    level = max(_off(a[:, -1], b) for s in students.values() for a, b in zip(s.errors, s.ends))
    logged = max(_off(a, b) for (_, T), s in students.items() for a, b in _logged(T, s))
    above = min(
        float(np.min(s.errors.expert[:, -1] - fit.errors.expert[0, T - 1]))
        for (_, T), s in students.items()
    )
    counts = centre("forward_kl", fit, 0.0)
    counted = _apart(closed_form(language, flags.order), counts, fit)
    name = "none below the closed-form fit on the expert's prefixes"
    table = students["sft", flags.rolled_from].tables[0]
    checked = [
        near("sums by enumeration and by dynamic programming", summed, 0.0, 1e-9),
        near("sums and T times the token level, or the sequence level", level, 0.0, 1e-9),
        near("sums and what compare logs in single precision", logged, 0.0, 2e-3),
        near("closed-form fit and the expert's counts", counted, 0.0, 1e-9),
        Check(name, above > -1e-9, f"nearest {above:.3g} above"),
        _episodes(language.vocab, table, flags.rolled_to, cost),
    ]
    if flags.updates >= ENOUGH:
        checked += _trained(students, values)
    alike = all(getattr(flags, field) == value for field, value in LANGUAGE.items())
    enough = flags.updates >= ENOUGH and flags.seeds >= statistics.FEW_SEEDS
    if alike and enough and flags.lengths[-1] >= LONG:
        checked += _claims(flags, values)
    return checked


def _off(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference, relative where b is over 1."""
    return float(np.max(np.abs(a - b) / np.maximum(1, np.abs(b))))


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


def _logged(T: int, student: StudentErrors) -> list[tuple[np.ndarray, np.ndarray]]:
    """The ends, and the same from the metrics of a head-to-head."""
    e, log = student.errors, student.logged
    pairs = [(e.own[:, -1], T * log["forward_kl_token"]), (e.expert[:, -1], log["forward_kl"])]
    last_step = e.cost[:, -1] - e.cost[:, -2]
    return [*pairs, (e.reverse[:, -1], log["reverse_kl"]), (last_step, 1 - log["valid"])]


def _episodes(vocab: int, table: np.ndarray, length: int, expected: float) -> Check:
    """The cost of a chain's strings again: write some, look at every prefix."""
    draw, state, cost = np.random.default_rng(0), np.zeros(EPISODES, int), np.zeros(EPISODES)
    misses = np.zeros((2, EPISODES), int)
    for _ in range(length):
        above = draw.random((EPISODES, 1)) > table[state].cumsum(-1)
        token = np.minimum(above.sum(-1), vocab - 1)
        state = (state * (vocab + 1) + token + 1) % len(table)
        misses += token != np.array([[0], [1]])
        cost += (misses > 1).all(0)
    name, by_chance = (
        f"sft's cost over {EPISODES:,} strings of {length}",
        cost.std() / EPISODES**0.5,
    )
    return near(name, cost.mean(), expected, 4 * by_chance)


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
    checked = [
        near(f"{name}: nothing to gain on its prefixes", off, 0.0, 0.03)
        for name, off in furthest.items()
    ]
    for key, closed in values["closed_form_slopes"].items():
        mine = values["slopes"]["sft"]["all"][key]["slope"]["iqm"]
        checked.append(near(f"sft's slope and the closed-form fit's: {key}", mine, closed, 0.05))
    return checked


def _claims(flags: Flags, values: dict[str, Any]) -> list[Check]:
    """Credit for later prefixes flattens the growth; own prefixes held fixed add errors while
    strings are short."""
    checked = []
    for name in sorted({"reverse_kl", "js", "gail"} & set(flags.methods)):
        low, high = values["slopes"][name]["all"]["own"]["minus_sft"]["ci95"]
        detail = f"slope less sft's in ({low:.3f}, {high:.3f})"
        checked.append(Check(f"{name}'s errors grow slower than sft's", high < 0, detail))
    short = max((T for T in flags.lengths if T <= SHORT), default=None)
    for d in flags.distilled if short and {0.0, 1.0} <= set(flags.shares) else ():
        ends = (values["ends"][f"distill:{d}@{share}"]["own"][short] for share in (1, 0))
        own, expert = (end["ci95"] for end in ends)
        name = f"distill:{d} errs more on its own prefixes at length {short}"
        detail = f"from {own[0]:.3f}, against at most {expert[1]:.3f}"
        checked.append(Check(name, own[0] > expert[1], detail))
    return checked
