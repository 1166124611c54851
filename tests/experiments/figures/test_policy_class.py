"""The best policy of a class against a scan."""

from __future__ import annotations

import numpy as np
import pytest
from laws import PLAIN, two_template_strings

from experiments.figures import (
    policy_class,
)
from experiments.figures.common import classes
from fdiv.benchmarks.two_template import TwoTemplate


@pytest.mark.wide
def test_best_independent_policies_are_what_a_scan_finds(made):
    """One token law for all positions, two tokens: a line of policies, scanned."""
    flags = {"vocab": 2, "horizon": 3, "weight": 0.7, "noise": 0.2}
    values = made(policy_class, **flags, classes=("full", "independent")).values
    rows, p = two_template_strings(2, 3, 0.7, 0.2)
    thetas = np.linspace(0.001, 0.999, 9981)
    laws = np.stack([theta ** rows.sum(1) * (1 - theta) ** (3 - rows.sum(1)) for theta in thetas])
    for name, plain in PLAIN.items():
        scan = plain(p, laws).sum(1)
        best = values["optimum"]["independent"][name]
        assert best[name] == pytest.approx(scan.min(), abs=1e-4 if name == "tv" else 1e-6)
        if name != "tv":
            q = laws[scan.argmin()]
            assert best["entropy"] == pytest.approx(-(q * np.log(q)).sum(), abs=2e-3)
            assert best["mode_b"] == pytest.approx(q[(rows != 1).sum(1) <= 1].sum(), abs=2e-3)
            assert best["js"] == pytest.approx(PLAIN["js"](p, q).sum(), abs=2e-3)
    assert list(values["optimum"]) == ["independent", "full"]
    # Of three tokens, two are always alike.
    assert values["expert"]["valid"] == pytest.approx(p.sum())


@pytest.mark.usefixtures("double")
def test_projection_counts_and_a_larger_class_repeats_the_smaller():
    world = classes.enumerated(TwoTemplate(3, 3, 0.6, 0.1).build())
    rows, p = two_template_strings(3, 3, 0.6, 0.1)
    logits = classes.projection(world, "markov")
    first = [p[rows[:, 0] == b].sum() for b in range(3)]
    after = [
        [p @ ((rows[:, :-1] == a) & (rows[:, 1:] == b)).sum(1) for b in range(3)] for a in range(3)
    ]
    assert np.exp(logits[1:]) == pytest.approx(np.array(after), abs=1e-12)  # state 0 is the start
    assert np.exp(logits[0]) == pytest.approx(first, abs=1e-12)
    narrow = np.random.default_rng(0).standard_normal((4, 3))
    wide = world.law("full", classes.embed(world, "markov", "full", narrow))
    np.testing.assert_allclose(wide.string, world.law("markov", narrow).string, atol=1e-12)


BAD = [
    ({"classes": ("markov", "neural")}, "classes"),
    ({"classes": ()}, "classes"),
    ({"horizon": 30}, "horizon"),
    ({"weight": 0.0}, "weight"),
    ({"vocab": 1}, "vocab"),
]


@pytest.mark.parametrize(("flags", "field"), BAD)
def test_flags_that_cannot_be_are_refused(flags, field, refused):
    refused(policy_class, flags, field=field)
