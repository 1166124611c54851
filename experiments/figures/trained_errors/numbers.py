"""The numbers of `trained_errors`: ends, slopes, their differences from SFT's, and rows
to print and to keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.figures.common.base import Row
from experiments.figures.trained_errors.errors import Errors
from experiments.figures.trained_errors.students import StudentErrors
from fdiv import statistics

NOTHING = 1e-12  # an accumulated error below this is rounding
Ends = dict[str, np.ndarray]  # measure -> [lengths, seeds]


def brief(scores: np.ndarray) -> dict[str, Any]:
    """Interquartile mean over seeds and its interval."""
    summary = statistics.summarise(scores)
    return {"iqm": summary.iqm, "ci95": summary.ci95}


def slope(lengths: Sequence[int], sums: np.ndarray) -> np.ndarray:
    """Of log error against log length, seed by seed: [lengths, seeds] -> [seeds]."""
    return np.polyfit(np.log(lengths), np.log(sums), 1)[0]


def slopes(lengths: Sequence[int], ends: Ends, sft: Ends) -> dict[str, Any]:
    """Over all lengths and over the shorter and the longer half of them, each with its difference
    from SFT's."""
    half, by_part = len(lengths) // 2, {}
    parts = {"all": slice(None), "short": slice(0, half + 1), "long": slice(half, None)}
    for name, part in parts.items():
        if len(lengths[part]) > 1:
            by_part[name] = {}
            for key in Errors._fields:
                own, of_sft = (slope(lengths[part], x[key][part]) for x in (ends, sft))
                by_part[name][key] = {"slope": brief(own), "minus_sft": brief(own - of_sft)}
    return by_part


def excess(errors: Errors) -> np.ndarray:
    """ExAccErr, in %: by how much errors on the policy's own prefixes exceed those on the
    expert's."""
    ratio = errors.own / np.maximum(errors.expert, NOTHING)
    return 100 * np.where(errors.expert > NOTHING, ratio - 1, 0.0)


def doublings(start: int, end: int) -> list[int]:
    """start, 2 start, 4 start ... up to the end."""
    return [start << k for k in range(end.bit_length()) if start << k <= end]


def rolled_out(
    at: Sequence[int], errors: Errors, sft: Errors, trained: dict[int, np.ndarray]
) -> dict[str, Any]:
    """A student of the length `at[0]` at those lengths; and over students `trained` at a length,
    where there are some."""
    own, of_sft = (x.own[:, np.array(at) - 1].T for x in (errors, sft))
    numbers = {
        key: {T: brief(getattr(errors, key)[:, T - 1]) for T in at} for key in Errors._fields
    }
    mine, its = slope(at, own), slope(at, of_sft)
    numbers |= {"slope": brief(mine), "minus_sft": brief(mine - its)}
    numbers["over_sft"] = dict(zip(at, map(brief, own / of_sft)))
    numbers["over_trained"] = {T: brief(errors.own[:, T - 1] / x) for T, x in trained.items()}
    return numbers


def summary(
    lengths: Sequence[int],
    students: dict[tuple[str, int], StudentErrors],
    walks: dict[str, Errors],
    at: Sequence[int],
) -> dict[str, Any]:
    """What is kept as JSON of every student; `walks` are those trained at `at[0]`, rolled out."""
    ends: dict[str, Ends] = {}
    for name in walks:
        each = [students[name, T].errors for T in lengths]
        last = (np.stack([x[:, -1] for x in sums]) for sums in zip(*each))
        ends[name] = dict(zip(Errors._fields, last))
    values: dict[str, Any] = {"ends": {}, "excess_percent": {}, "slopes": {}, "rolled": {}}
    for name, of in ends.items():
        values["ends"][name] = {key: dict(zip(lengths, map(brief, x))) for key, x in of.items()}
        values["excess_percent"][name] = {
            T: brief(excess(students[name, T].errors)[:, -1]) for T in lengths
        }
        values["slopes"][name] = slopes(lengths, of, ends["sft"])
        there = {T: x for T, x in zip(lengths, of["own"]) if at[0] < T <= at[-1]}
        values["rolled"][name] = rolled_out(at, walks[name], walks["sft"], there)
    return values


def rows(values: dict[str, Any]) -> list[Row]:
    """The table: a student a row."""
    table = []
    for name, mine in values["slopes"].items():
        row = {"student": name}
        for key in ("own", "reverse", "cost"):
            row[f"{key}_slope"] = mine["all"][key]["slope"]["iqm"]
        low, high = mine["all"]["own"]["minus_sft"]["ci95"]
        row |= {"own_less_sft_low": low, "own_less_sft_high": high}
        T, last = list(values["excess_percent"][name].items())[-1]
        row[f"excess_percent_{T}"] = last["iqm"]
        row["rolled_slope"] = values["rolled"][name]["slope"]["iqm"]
        table.append(row)
    return table


def curve(name: str, trained: int, kind: str, errors: Errors) -> list[Row]:
    """The CSV behind the picture: every sum at every length, of students trained at one."""
    lines = []
    for t in range(1, errors.own.shape[1] + 1):
        row = {"student": name, "kind": kind, "trained_at": trained, "length": t}
        for key, x in (*errors._asdict().items(), ("excess_percent", excess(errors))):
            mine = brief(x[:, t - 1])
            row |= {key: mine["iqm"], f"{key}_low": mine["ci95"][0], f"{key}_high": mine["ci95"][1]}
        lines.append(row)
    return lines
