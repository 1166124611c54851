"""Demonstrations or preferences, at tiny flags: labels that say nothing, and those that say all."""

from __future__ import annotations

import json

import pytest

from experiments.figures.demos_vs_preferences import FIGURE, Flags, make
from fdiv.types import UsageError

TINY = Flags(
    reward="valid",
    beta=0.1,
    reward_model="markov",
    labels=512,
    noise=(0.0, 0.5),
    spreads=(0.0,),
    methods=("sft", "dpo"),
    updates=120,
    seeds=2,
)


@pytest.fixture(scope="module")
def result():
    return make(TINY)


@pytest.mark.wide
def test_all_checks_hold_and_every_cell_is_there(result):
    assert [check.name for check in result.checks if not check.holds] == []
    json.dumps(result.values, allow_nan=False)
    assert set(result.values["cells"]) == {"sft", "dpo"}
    assert all(
        set(by_noise) == {"0", "0.5"}
        for m in result.values["cells"].values()
        for by_noise in m.values()
    )
    assert len(result.rows) == 4


@pytest.mark.wide
def test_labels_turned_round_half_the_time_say_nothing(result):
    """Comparisons at noise .5 are coin tosses, so DPO wanders off; demonstrations at .5 are still
    half the optimum's."""
    dpo, sft = (result.values["cells"][name]["0"] for name in ("dpo", "sft"))
    assert dpo["0.5"]["reward"]["iqm"] < dpo["0"]["reward"]["iqm"] - 0.1
    # .5 x 1 + .5 x .6636 of the drawn strings are valid
    assert sft["0.5"]["reward"]["iqm"] == pytest.approx(0.83, abs=0.06)
    assert sft["0"]["reward"]["iqm"] > 0.9


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"labels": 0}, "labels = 0"),
        ({"noise": (0.1, 1.2)}, "noise = 1.2"),
        ({"noise": ()}, "is empty"),
        ({"methods": ("sft", "dpoo")}, "dpo"),
        ({"reward_model": "transformer"}, "reward_model"),
    ],
)
def test_flags_that_cannot_be(fields, said):
    with pytest.raises(UsageError, match=said):
        make(Flags(**fields))


def test_the_larger_preset_is_larger():
    assert FIGURE.cluster.seeds > Flags().seeds
    assert len(FIGURE.cluster.noise) > len(Flags().noise)
