"""The results of `context_window` as numbers, rows and a tree."""

from __future__ import annotations

import numpy as np

from experiments.figures.common.base import Row
from experiments.figures.common.classes import EnumeratedTask
from experiments.figures.context_window.students import Student
from experiments.figures.context_window.task import (
    Metrics,
    Views,
    WindowView,
    own_pairs,
    pairs_tv,
    string_log_probs,
)
from fdiv import statistics

COLUMNS = ("forward_kl", "reverse_kl", "tv", "entropy", "cross_entropy", "expert_nll", "length")


def numbers(view: dict[bool, WindowView]) -> dict[str, float]:
    """What behaviour cloning loses in nats, the part of it that a clock would not bring back, and
    how its own pairs differ."""
    plain, clocked = view[False], view[True]
    return {
        "lost": plain.lost,
        "lost_clock": clocked.lost,
        "own_pairs_tv": pairs_tv(plain.pairs, plain.own, False),
        "own_pairs_tv_clock": pairs_tv(clocked.pairs, clocked.own, True),
    }


def reverse_kl(world: EnumeratedTask, window: int, view: dict[bool, WindowView]) -> float:
    """KL from the strings that cloning with a clock writes to the expert."""
    q = string_log_probs(world, view[True].table, window)
    return float(np.exp(q) @ (q - np.asarray(world.expert.string)))


def optima_rows(metrics: Metrics) -> list[Row]:
    """One row for each window, divergence and level: the sequence-level value of that level's
    minimiser."""
    rows = []
    for (window, name, level), x in metrics.items():
        least = metrics[window, name, "sequence"][name]
        row = {"window": window, "policy": "markov", "method": "best", "critic": ""}
        row |= {"minimises": name, "level": level, "value": x[name], "excess": x[name] - least}
        rows.append(row | {key: x[key] for key in (*COLUMNS, "pairs_tv")})
    return rows


def student_row(views: Views, student: Student) -> Row:
    """The interquartile mean over seeds of what it minimises, its interval, and means of the
    rest."""
    value = statistics.summarise(student.metrics[student.minimises])
    row = {"window": student.window, "policy": student.policy, "method": student.method}
    row |= {"critic": student.critic, "minimises": student.minimises, "level": "sequence"}
    row |= {"value": value.iqm, "low": value.ci95[0], "high": value.ci95[1]}
    row |= {key: float(student.metrics[key].mean()) for key in COLUMNS}
    pairs = views[student.window][False].pairs
    off = [pairs_tv(pairs, own_pairs(table, len(pairs)), False) for table in student.tables]
    return row | {"pairs_tv": float(np.mean(off))}


def nested(rows: list[Row], keys: tuple[str, ...]) -> dict:
    """Rows as a tree, by the values of their keys."""
    tree: dict = {}
    for row in rows:
        at = tree
        for key in keys[:-1]:
            at = at.setdefault(str(row[key]), {})
        at[row[keys[-1]]] = {k: v for k, v in row.items() if k not in keys}
    return tree
