"""Holding a KL, small but whole."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.figures import __main__ as command
from experiments.figures import kl_control
from fdiv.types import UsageError


@pytest.mark.wide
def test_weights_follow_the_control(monkeypatch):
    """A few updates: the constant weight stands still, the adapted one has moved by its rule's size
    at most."""
    result = kl_control.make(
        kl_control.Flags(target=0.2, betas=(0.5,), horizon=2560.0, updates=4, seeds=2)
    )
    assert all(check.holds for check in result.checks)
    constant, adaptive = result.values["runs"]
    assert constant["last beta"] == pytest.approx(0.5)
    assert (
        0.5 * 0.98**4 * 0.999 < adaptive["last beta"] < 0.5
    )  # little is spent at first: 2% less at each update
    assert {row["control"] for row in result.curve} == {"constant", "adaptive"}


def test_the_weight_that_spends_the_target():
    """Independently: two kinds of strings (valid or not), so what is spent is a binary KL in the
    share of valid strings."""
    beta = kl_control._weight_that_spends(0.2)
    q0 = 0.66359  # the reference's share of valid strings, as the rlhf run starts
    q = q0 * np.exp(1 / beta) / (q0 * np.exp(1 / beta) + 1 - q0)
    assert q * np.log(q / q0) + (1 - q) * np.log((1 - q) / (1 - q0)) == pytest.approx(0.2, abs=1e-4)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"target": -6.0}, "target = -6.0"),
        ({"target": 6.0}, "Aim lower"),
        ({"betas": (0.0,)}, "betas = 0.0"),
        ({"betas": (-0.1,)}, "betas = -0.1"),
        ({"betas": ()}, "is empty"),
        ({"horizon": -1.0}, "horizon = -1.0"),
        ({"updates": 0}, "updates = 0"),
    ],
)
def test_what_cannot_be_held(fields, said):
    with pytest.raises(UsageError, match=said):
        kl_control.make(kl_control.Flags(**fields))


def test_the_command_says_so_too(capsys):
    assert command.main(["kl_control", "--target", "-1"]) == 2
    assert "target = -1" in " ".join(capsys.readouterr().err.split())
