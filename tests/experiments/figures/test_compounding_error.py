"""Compounding error by other recursions."""

from __future__ import annotations

import dataclasses
from collections import defaultdict

import numpy as np
import pytest
from laws import two_template_strings

from experiments.figures import (
    compounding_error,
)


@pytest.mark.wide
def test_compounding_error_by_other_recursions(made):
    task = {"vocab": 3, "horizon": 4, "weight": 0.7, "noise": 0.2}
    flags = compounding_error.Flags(errors=(0.05,), recovery=0.3, **task)
    values = made(compounding_error, **dataclasses.asdict(flags)).values
    chain = np.array([[0.95, 0.05], [0.3 * 0.95, 1 - 0.3 * 0.95]])
    law, cost = np.array([1.0, 0.0]), []
    for _ in range(128):
        law = law @ chain
        cost.append(law[1])
    at = np.array([8, 16, 32, 64, 128])
    slope = np.polyfit(np.log(at), np.log(np.cumsum(cost)[at - 1]), 1)[0]
    assert values["cliff_slope"] == {"0.05": pytest.approx(slope, abs=1e-9)}
    assert values["full_recovery_slope"] == {"0.05": pytest.approx(1, abs=1e-9)}

    # Forward KL's markov fit by counting, its errors by two walks.
    rows, p = two_template_strings(3, 4, 0.7, 0.2)
    first = np.array([p[rows[:, 0] == b].sum() for b in range(3)])
    counts = [
        [p @ ((rows[:, :-1] == a) & (rows[:, 1:] == b)).sum(1) for b in range(3)] for a in range(3)
    ]
    pairs = np.array(counts)
    table = np.concatenate([first[None], pairs / pairs.sum(1, keepdims=True)])
    own, expert = (errors_of(table, flags, table_walks=walks) for walks in (True, False))
    for n in (3, 4):
        wanted = 100 * (own[n - 1] / expert[n - 1] - 1)
        excess = values["excess_accumulated_error"]["forward_kl"][str(n)]
        assert excess == pytest.approx(wanted, abs=1e-4)
    assert list(values["excess_accumulated_error"]["reverse_kl"]) == ["3", "4"]


def errors_of(table, flags, table_walks):
    """Accumulated KL(p(.|prefix) || q(.|prefix)) over (count of 0s less count of 1s, last token),
    all that either law reads."""
    emission = np.full((2, flags.vocab), flags.noise / (flags.vocab - 1))
    emission[[0, 1], [0, 1]] = 1 - flags.noise
    odds, mass, totals = emission[0, 0] / emission[1, 0], {(0, 0): 1.0}, []
    for _ in range(flags.horizon):
        arrived, total = defaultdict(float), 0.0
        for (lead, state), m in mass.items():
            a = flags.weight * odds**lead / (flags.weight * odds**lead + 1 - flags.weight)
            p, q = a * emission[0] + (1 - a) * emission[1], table[state]
            total += m * (p @ np.log(p / q))
            for token in range(flags.vocab):
                then = lead + (token == 0) - (token == 1), token + 1
                arrived[then] += m * (q if table_walks else p)[token]
        mass = arrived
        totals.append(total)
    return np.cumsum(totals)


BAD = [
    ({"errors": (0.1, 1.0)}, "errors"),
    ({"errors": ()}, "errors"),
    ({"recovery": 1.5}, "recovery"),
    ({"horizon": 2}, "horizon"),
    ({"horizon": 40}, "horizon"),
    ({"noise": 1.0}, "noise"),
]


@pytest.mark.parametrize(("flags", "field"), BAD)
def test_flags_that_cannot_be_are_refused(flags, field, refused):
    refused(compounding_error, flags, field=field)
