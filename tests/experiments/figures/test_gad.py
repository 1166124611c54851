"""Adversarial distillation of ten answers."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.figures import gad


def test_the_teacher_is_a_law_of_two_modes():
    p = np.exp(gad.teacher(gad.Flags(weight=0.75, means=(2.0, 7.0), std=0.1)))
    assert p.sum() == pytest.approx(1)
    assert p[[2, 7]] == pytest.approx([0.75, 0.25])


@pytest.mark.wide
def test_pairs_seek_or_stay_as_reverse_kl_leads(double):
    """At the defaults down to its least; with two modes nearly as heavy and farther apart not away
    from a local minimum."""
    far = gad.Flags(weight=0.6, means=(2.0, 7.0), std=0.7, updates=300, rate=0.01)
    for flags, seeks in ((gad.Flags(updates=300, rate=0.01), True), (far, False)):
        log_p = gad.teacher(flags)
        start = np.array([np.exp(log_p) @ np.arange(10), np.log(2.2)])
        least = gad.measure(log_p, np.asarray(gad.student(gad.best("reverse_kl", log_p))))
        end = gad.train("pairs", log_p, start, flags)["reverse_kl"][-1]
        lost = end - least["reverse_kl"]
        assert lost < 0.01 if seeks else lost > 0.3


@pytest.mark.wide
def test_all_checks_hold(made, monkeypatch):
    """Of the students a frozen discriminator's alone is trained."""
    train, found = gad.train, {}

    def once(kind, *arguments):
        if not found:
            found["path"] = train("frozen", *arguments)
        return found["path"]

    monkeypatch.setattr(gad, "train", once)
    frozen = made(gad, updates=900).values["frozen"]
    assert frozen["reverse_kl at the end"] > 2 * frozen["reverse_kl then"]
    assert frozen["reward at the end"] > frozen["reward then"]


BAD = [({"std": 0.0}, "std"), ({"updates": 0}, "updates"), ({"weight": 1.0}, "weight")]


@pytest.mark.parametrize(("flags", "field"), BAD, ids=[field for _, field in BAD])
def test_flags_that_cannot_be_are_refused(flags, field, refused):
    refused(gad, flags, field)
