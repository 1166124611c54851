"""What was found of a context window, as numbers, rows and a tree."""

from __future__ import annotations

import numpy as np

from experiments.figures.common.classes import World
from experiments.figures.context_window.students import Student
from experiments.figures.context_window.task import apart, strings, written
from fdiv import statistics

SHOWN = ("forward_kl", "reverse_kl", "tv", "entropy", "cross_entropy", "expert_nll", "length")


def numbers(view: dict) -> dict[str, float]:
    """What behaviour cloning loses in nats, the part of it that a clock would not bring back, and
    how its own pairs differ."""
    plain, clocked = view[False], view[True]
    differ = {
        f"own_pairs_tv{'_clock' * clock}": apart(x.pairs, x.own, clock) for clock, x in view.items()
    }
    return {"lost": plain.lost, "lost_clock": clocked.lost, **differ}


def reverse_kl(world: World, window: int, view: dict) -> float:
    """KL from the strings that cloning with a clock writes to the expert."""
    q = strings(world, view[True].table, window)
    return float(np.exp(q) @ (q - np.asarray(world.expert.string)))


def optima_rows(found: dict) -> list[dict]:
    """One row for each window, divergence and level: the sequence-level value of that level's
    minimiser."""
    rows = []
    for (window, name, level), x in found.items():
        least = found[window, name, "sequence"][name]
        head = {
            "window": window,
            "policy": "markov",
            "method": "best",
            "critic": "",
            "minimises": name,
            "level": level,
        }
        rows.append(
            head
            | {"value": x[name], "excess": x[name] - least}
            | {key: x[key] for key in (*SHOWN, "pairs_tv")}
        )
    return rows


def student_row(views: dict, student: Student) -> dict:
    """The interquartile mean over seeds of what it minimises, its interval, and means of the
    rest."""
    value = statistics.summarise(student.metrics[student.minimises])
    head = {
        "window": student.window,
        "policy": student.policy,
        "method": student.method,
        "critic": student.critic,
    }
    head |= {"minimises": student.minimises, "level": "sequence"}
    head |= {"value": value.iqm, "low": value.ci95[0], "high": value.ci95[1]}
    pairs = views[student.window][False].pairs
    away = np.mean([apart(pairs, written(table, len(pairs)), False) for table in student.tables])
    return (
        head
        | {key: float(student.metrics[key].mean()) for key in SHOWN}
        | {"pairs_tv": float(away)}
    )


def nested(rows: list[dict], keys: tuple[str, ...]) -> dict:
    """Rows as a tree, by the values of their keys."""
    tree: dict = {}
    for row in rows:
        at = tree
        for key in keys[:-1]:
            at = at.setdefault(str(row[key]), {})
        at[row[keys[-1]]] = {k: v for k, v in row.items() if k not in keys}
    return tree
