"""Searches of a network's class begin where the one for forward KL has ended."""

from __future__ import annotations

import json

import numpy as np

from experiments import assemble
from experiments.config import Evaluation, make_config
from experiments.evaluation.class_optimum import FEW, SHORT, ClassOptima
from fdiv import exact
from fdiv.benchmarks import TwoTemplate
from fdiv.policies import Architecture
from fdiv.types import Claim, Level


def test_a_network_is_searched_from_the_law_nearest_in_forward_kl(tmp_path, monkeypatch):
    config = make_config(
        benchmark=TwoTemplate(vocab=2, horizon=2),
        policy=Architecture("transformer", layers=1, width=8),
    )
    task = assemble.task(config)
    components = assemble.components(config, task)
    asked = []

    def best(d, space, expert, policy, initial, level, share, iterations, digits):
        asked.append((d.name, level, iterations, len(initial)))
        moved = {"one": np.float64(len(asked)), "from": initial[0]}
        return exact.Optimum(0.1, moved, [(0.1, moved)])

    monkeypatch.setattr(exact, "best_in_class", best)
    monkeypatch.setattr(ClassOptima, "_measure", lambda self, params: {})
    optima = ClassOptima(config.policy, Evaluation(), 0, task, components, tmp_path / "optima.json")
    optima.search("tv")  # before forward KL's own row
    optima.search("forward_kl")
    optima.of(Claim("js", Level.occupancy, ""))
    sequence = Level.sequence
    assert asked == [
        ("forward_kl", sequence, SHORT, 1),
        ("tv", sequence, FEW, 1),
        ("js", Level.occupancy, FEW, 1),
    ]
    assert f"{FEW} more from its end" in optima.note
    assert "tv sequence 1" in json.loads((tmp_path / "optima.json").read_text())
