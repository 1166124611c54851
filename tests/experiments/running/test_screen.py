"""What a run says while it goes on: names as they are, columns that hold something, alarms."""

from __future__ import annotations

import concurrent.futures

import numpy as np
import pytest

from experiments import config as configs
from experiments import fields
from experiments.config import make_config
from experiments.reporting.metrics import METRICS
from experiments.running import console
from experiments.running.alarms import alarms, ending
from experiments.running.console import Screen, plain_console
from experiments.running.record import Report
from experiments.running.stopping import StopFlag
from fdiv.objectives.adversarial import Adversarial
from fdiv.objectives.max_likelihood import MaxLikelihood

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


def test_a_notebook_gets_one_line_that_is_written_anew(monkeypatch, capsys):
    monkeypatch.setattr(console, "in_notebook", lambda: True)
    with Screen(["sft"], COLUMNS) as screen:
        screen.say("two-template")
        screen.state("sft", "compiling")
        for update in (10, 20, 1000):
            screen.progress(Report("sft", update, 1000, update / 10, np.full(2, 64.0), None))
        screen.say("and then")
        screen.state("sft", "done in 2.0 s")
    lines = capsys.readouterr().out.split("\n")
    assert lines[0] == "two-template"
    assert [part.split(" updates")[0] for part in lines[1].split("\r")[1:]] == [
        "sft: compiling",
        "sft: 10/1000",
        "sft: 20/1000",
        "sft: 1000/1000",
    ]
    assert lines[2:] == ["and then", "\rsft: done in 2.0 s", ""]
    assert "\x1b" not in "".join(lines)


def test_a_run_in_a_thread_of_a_program_hears_no_signals():
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: StopFlag().__enter__().asked).result() is False


TAKES = fields.takes(make_config(), "gail")
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
    config = make_config(
        adversarial=Adversarial(level="occupancy" if name == "length" else "sequence")
    )
    raised = alarms(seeds, EXPERT, fields.takes(config, "gail"))
    assert [alarm.name for alarm in raised] == [name]
    assert option in raised[0].message


METHODS = [
    ("sft", ()),
    ("reverse_kl", ()),
    ("gail", ("warmup", "entropy", "discriminator")),
    ("airl", ("warmup", "discriminator")),  # its reward holds the policy's entropy already
    ("fairl", ("warmup", "discriminator")),  # as published
    ("adversarial:tv", ("warmup", "entropy", "discriminator")),
]


@pytest.mark.parametrize(("method", "own"), METHODS)
def test_alarms_advise_what_the_method_takes(method, own):
    """With everything off at once: each flag that is named exists, is read by this method alone,
    and is accepted by it."""
    config = make_config(methods=(method,))
    off = {name: value for wrong, _ in RAISED.values() for name, value in wrong.items()}
    seeds = {name: np.full(3, value) for name, value in off.items()}
    curve = dict.fromkeys(range(0, 300, 30), 0.3)
    takes = fields.takes(config, method)
    raised = [*alarms(seeds, EXPERT, takes), *ending(curve, 0.2, 0.1, takes)]
    said = " ".join(alarm.message for alarm in raised)
    named = {x.strip(".,") for x in said.split() if x.startswith("--")}
    assert "--learning-rate" in named
    case = fields.Case(config, configs.resolve(config))
    for flag in named:
        field = flag.removeprefix("--").replace("-", "_")
        assert fields.reader(field).reads(case), flag
    groups = {flag for flag in named if "." in flag}
    assert all(flag.startswith("--adversarial.") for flag in groups)
    assert bool(groups) == bool(own)
    assert ("--adversarial.entropy" in named) == ("entropy" in own)
    assert ("--adversarial.warmup" in named) == ("warmup" in own)
    assert "--adversarial.level" not in named  # it is at sequence already


def test_a_method_with_its_own_learning_rate_is_not_sent_to_the_common_one():
    config = make_config(methods=("sft",), max_likelihood=MaxLikelihood(learning_rate=0.1))
    assert not fields.takes(config, "sft")("learning_rate", 1e-4)
    assert fields.takes(make_config(), "sft")("learning_rate", 1e-4)


@pytest.mark.parametrize(
    ("values", "gap", "norm", "said"),
    [
        ([0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1], 0.05, 0.1, "Unfinished"),
        ([0.5, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1], 0.05, 0.1, "Stuck"),
        ([0.5, 0.2, 0.1, 0.1, 0.101, 0.102, 0.103], 0.05, 1e-9, "no gradient"),
        ([0.5, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1], 0.004, 0.1, ""),  # arrived
        ([0.5, 0.1], 0.05, 0.1, ""),  # two points say nothing of a slope
    ],
)
def test_unfinished_is_told_from_stuck(values, gap, norm, said):
    """By what a straight line through the last third of the curve falls, beside the gap."""
    curve = {100 * i: value for i, value in enumerate(values)}
    messages = [alarm.message for alarm in ending(curve, gap, norm, TAKES)]
    assert len(messages) == bool(said)
    assert all(said in message for message in messages)
    assert ("Try more --updates" in " ".join(messages)) == (said == "Unfinished")


def test_a_policy_that_waits_for_its_discriminator_raises_no_alarm():
    still = {"gradient_norm": np.zeros(3), "entropy": np.full(3, 2.5)}
    assert alarms(still, EXPERT, TAKES, warm=False) == []
    assert [alarm.name for alarm in alarms(still, EXPERT, TAKES)] == ["no gradient"]


def test_without_a_known_expert_nothing_is_compared_with_it():
    assert alarms({"entropy": np.zeros(2), "length": np.ones(2)}, {}, TAKES) == []


@pytest.mark.parametrize(
    "began, ended, raised",
    [(24.0, 24.0, []), (10.0, 24.0, ["length"]), (24.0, 2.0, ["length"]), (None, 24.0, ["length"])],
)
def test_a_length_that_was_there_at_the_start_is_no_alarm(began, ended, raised):
    expert = {"entropy": 5.0, "length": 10.0}
    seeds = {"entropy": np.full(2, 5.0), "length": np.full(2, ended)}
    at_start = None if began is None else {"length": np.full(2, began)}
    alarms_now = alarms(seeds, expert, TAKES, at_start=at_start)
    assert [alarm.name for alarm in alarms_now] == raised
