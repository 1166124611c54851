"""A policy that stops where its teacher would not, or goes on where it would not, is told."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.running.alarms import alarms


@pytest.mark.parametrize(
    ("own", "expert", "says"),
    [
        (-6.1, -1.0, "hardly ever ends its strings"),
        (-0.1, -5.2, "ends its strings too early"),
        (-5.9, -1.0, None),  # e^-4.9
        (float("nan"), -1.0, None),
        (None, None, None),  # bytes
    ],
)
def test_a_factor_of_e_to_the_5(own, expert, says):
    last = (
        {} if own is None else {"log_stop": np.full(3, own), "log_stop_expert": np.full(3, expert)}
    )
    said = [alarm.message for alarm in alarms(last, {}, lambda field, value: True)]
    assert [says in message for message in said] == ([] if says is None else [True])
