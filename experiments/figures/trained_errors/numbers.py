"""What `trained_errors` makes of the errors: ends, slopes, their differences from SFT's, and rows
to print and to keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.figures.trained_errors.errors import Errors
from fdiv import statistics

NOTHING = 1e-12  # an accumulated error below this is rounding
Ends = dict[str, np.ndarray]  # measure -> [lengths, seeds]


def brief(scores: np.ndarray) -> dict[str, Any]:
    """Interquartile mean over seeds and its interval."""
    found = statistics.summarise(scores)
    return {"iqm": found.iqm, "ci95": found.ci95}


def slope(lengths: Sequence[int], sums: np.ndarray) -> np.ndarray:
    """Of log error against log length, seed by seed: [lengths, seeds] -> [seeds]."""
    return np.polyfit(np.log(lengths), np.log(sums), 1)[0]


def slopes(lengths: Sequence[int], ends: Ends, sft: Ends) -> dict[str, Any]:
    """Over all lengths and over the shorter and the longer half of them, each with its difference
    from SFT's."""
    half, found = len(lengths) // 2, {}
    for name, part in (
        ("all", slice(None)),
        ("short", slice(0, half + 1)),
        ("long", slice(half, None)),
    ):
        if len(lengths[part]) > 1:
            pairs = {
                key: [slope(lengths[part], x[key][part]) for x in (ends, sft)]
                for key in Errors._fields
            }
            found[name] = {
                key: {"slope": brief(mine), "minus_sft": brief(mine - its)}
                for key, (mine, its) in pairs.items()
            }
    return found


def excess(errors: Errors) -> np.ndarray:
    """ExAccErr, in %: by how much errors on the policy's own prefixes exceed those on the
    expert's."""
    return 100 * np.where(
        errors.expert > NOTHING, errors.own / np.maximum(errors.expert, NOTHING) - 1, 0.0
    )


def doublings(start: int, end: int) -> list[int]:
    """start, 2 start, 4 start ... up to the end."""
    return [start << k for k in range(end.bit_length()) if start << k <= end]


def rolled_out(
    at: Sequence[int], errors: Errors, sft: Errors, trained: dict[int, np.ndarray]
) -> dict[str, Any]:
    """A student of the length `at[0]` at those lengths; and over students `trained` at a length,
    where there are some."""
    own, its = (x.own[:, np.array(at) - 1].T for x in (errors, sft))
    found = {key: {T: brief(getattr(errors, key)[:, T - 1]) for T in at} for key in Errors._fields}
    found |= {"slope": brief(slope(at, own)), "minus_sft": brief(slope(at, own) - slope(at, its))}
    found["over_sft"] = dict(zip(at, map(brief, own / its)))
    return found | {
        "over_trained": {T: brief(errors.own[:, T - 1] / x) for T, x in trained.items()}
    }


def summary(
    lengths: Sequence[int],
    students: dict[tuple[str, int], Any],
    walks: dict[str, Errors],
    at: Sequence[int],
) -> dict:
    """What is kept as JSON of every student; `walks` are those trained at `at[0]`, rolled out."""
    names, found = list(walks), {"ends": {}, "excess_percent": {}, "slopes": {}, "rolled": {}}
    last = lambda name, key: np.stack(
        [getattr(students[name, T].errors, key)[:, -1] for T in lengths]
    )
    ends = {name: {key: last(name, key) for key in Errors._fields} for name in names}
    for name in names:
        found["ends"][name] = {
            key: dict(zip(lengths, map(brief, x))) for key, x in ends[name].items()
        }
        found["excess_percent"][name] = {
            T: brief(excess(students[name, T].errors)[:, -1]) for T in lengths
        }
        found["slopes"][name] = slopes(lengths, ends[name], ends["sft"])
        there = {T: x for T, x in zip(lengths, ends[name]["own"]) if at[0] < T <= at[-1]}
        found["rolled"][name] = rolled_out(at, walks[name], walks["sft"], there)
    return found


def rows(values: dict[str, Any]) -> list[dict[str, Any]]:
    """The table: a student a row."""
    found = []
    for name, mine in values["slopes"].items():
        row = {"student": name}
        for key in ("own", "reverse", "cost"):
            row[f"{key}_slope"] = mine["all"][key]["slope"]["iqm"]
        row |= zip(
            ("own_less_sft_low", "own_less_sft_high"), mine["all"]["own"]["minus_sft"]["ci95"]
        )
        T, last = list(values["excess_percent"][name].items())[-1]
        row |= {
            f"excess_percent_{T}": last["iqm"],
            "rolled_slope": values["rolled"][name]["slope"]["iqm"],
        }
        found.append(row)
    return found


def curve(name: str, trained: int, kind: str, errors: Errors) -> list[dict[str, Any]]:
    """The CSV behind the picture: every sum at every length, of students trained at one."""
    found = []
    for t in range(1, errors.own.shape[1] + 1):
        row = {"student": name, "kind": kind, "trained_at": trained, "length": t}
        for key, x in (*errors._asdict().items(), ("excess_percent", excess(errors))):
            mine = brief(x[:, t - 1])
            row |= {key: mine["iqm"], f"{key}_low": mine["ci95"][0], f"{key}_high": mine["ci95"][1]}
        found.append(row)
    return found
