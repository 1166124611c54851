"""What a run says while it goes on: names as they are, columns that hold something, alarms."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.reporting.metrics import METRICS
from experiments.running.alarms import alarms
from experiments.running.console import Screen, plain_console

COLUMNS = [METRICS[name] for name in ("validation_nll", "reward")]


def test_names_are_printed_as_they_are(capsys):
    """`:tv:` is an emoji to rich, and `[red]` markup."""
    plain_console().print("adversarial:tv: [red] alpha:0.5:")
    assert capsys.readouterr().out == "adversarial:tv: [red] alpha:0.5:\n"


def test_a_column_that_no_method_fills_is_not_shown():
    screen = Screen(["sft", "dpo"], COLUMNS)
    titles = lambda: [str(column.header) for column in screen._table().columns]
    assert titles() == ["method", "progress", "tokens/s"]
    screen._rows["sft"].metrics = {"validation_nll": 2.0}
    assert titles() == ["method", "progress", "tokens/s", "NLL/tok"]


EXPERT = {"entropy": 3.0, "length": 6.0}
FINE = {
    "entropy": 2.5,
    "length": 6.0,
    "d_accuracy": 0.7,
    "d_accuracy_train": 0.75,
    "gradient_norm": 0.1,
}
RAISED = {  # a metric that is off -> the alarm, and the option that is named
    "collapse": ({"entropy": 0.2}, "--learning-rate"),  # .1 x 3.0 is .3
    "length": ({"length": 9.5}, "--adversarial.level"),  # 1.5 x 6 is 9
    "discriminator": ({"d_accuracy": 0.995}, "--adversarial.gradient-penalty"),
    "overfit": ({"d_accuracy_train": 0.9}, "--demos"),  # .9 - .7 is .2
    "no gradient": ({"gradient_norm": 1e-8}, "--batch-size"),
}


@pytest.mark.parametrize("name", RAISED)
def test_each_alarm_is_raised_by_what_it_is_of(name):
    off, option = RAISED[name]
    seeds = {key: np.array([value, value, FINE[key]]) for key, value in (FINE | off).items()}
    raised = alarms(seeds, EXPERT, "adversarial")
    assert [alarm.name for alarm in raised] == [name]
    assert option in raised[0].message


def test_a_policy_that_waits_for_its_discriminator_raises_no_alarm():
    still = {"gradient_norm": np.zeros(3), "entropy": np.full(3, 2.5)}
    assert alarms(still, EXPERT, "adversarial", warm=False) == []
    assert [alarm.name for alarm in alarms(still, EXPERT, "adversarial")] == ["no gradient"]


def test_without_a_known_expert_nothing_is_compared_with_it():
    assert alarms({"entropy": np.zeros(2), "length": np.ones(2)}, {}, "ppo") == []
