"""Distillation by a mix of both KLs, and GRPO after it."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.figures import kl_mixing as figure
from experiments.figures.common.classes import enumerated, projection
from fdiv import exact
from fdiv.benchmarks import TwoTemplate

CELLS = [("expert", 1.0), ("policy", 0.0)]


@pytest.mark.wide
def test_forward_kl_on_the_experts_prefixes_is_the_closed_form():
    task = enumerated(TwoTemplate(horizon=4).build())
    start = figure.distilled(task, "independent", CELLS, figure.Flags(distilled=200))
    closed = projection(task, "independent")
    found = np.asarray(task.law("independent", start[0]).string)
    assert np.exp(found) == pytest.approx(
        np.exp(np.asarray(task.law("independent", closed).string)), abs=2e-3
    )
    # reverse KL on its own prefixes takes the heavier template
    q = task.law("independent", start[1])
    valid = float(exact.expectation(q, task.mdp.statistics["valid"](task.space.sequences)))
    mode_b = float(exact.expectation(q, task.mdp.statistics["mode_b"](task.space.sequences)))
    assert valid > 0.7
    assert mode_b < 0.02


@pytest.mark.wide
def test_grpo_raises_what_is_paid(monkeypatch):
    task = enumerated(TwoTemplate(horizon=4).build())
    flags = figure.Flags(updates=60, seeds=1)
    starts = np.stack([projection(task, "independent")] * 2)
    found = figure.reinforced(task, "independent", starts, flags)
    for i, score in enumerate(figure.SCORES):
        path = found[score][i, 0, 0]
        assert path[-1] > path[0] + 0.3, score
    assert found["valid"].shape == (2, 2, 1, figure.POINTS + 1)


BAD = [({"weights": (1.2,)}, "weights"), ({"updates": 3}, "updates"), ({"seeds": 0}, "seeds")]


@pytest.mark.parametrize(("flags", "field"), BAD, ids=[field for _, field in BAD])
def test_flags_that_cannot_be_are_refused(flags, field, refused):
    refused(figure, flags, field)
