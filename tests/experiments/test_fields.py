"""Options without a use are refused: for each field, a run that reads it and one that does not."""

from __future__ import annotations

import dataclasses

import pytest

from experiments import cli, validation
from experiments.config import GROUPS, as_dict, flatten, make_config
from experiments.fields import READERS, reader
from fdiv.benchmarks import BENCHMARKS
from fdiv.types import UsageError, is_hidden


def fields() -> list[str]:
    """Every field that has a flag, those of all benchmarks among them."""
    own = {".".join(field.split(".")[:2]) for field in flatten(as_dict(make_config()))}
    of_benchmarks = {
        f"benchmark.{field.name}"
        for kind in BENCHMARKS.values()
        for field in dataclasses.fields(kind)
    }
    return sorted(own | of_benchmarks)


def test_every_field_has_a_reader_and_every_entry_a_field():
    for field in fields():
        reader(field)
    groups = {field.partition(".")[0] for field in fields()}
    for field in READERS:
        assert field in fields() or field.removesuffix(".*") in groups, field


def test_every_option_of_a_method_is_read_by_one_of_its_class():
    for group, kind in GROUPS.items():
        for field in dataclasses.fields(kind):
            if not is_hidden(field):
                assert reader(f"{group}.{field.name}").needs


# field: (preset, a value, the methods (and more) that read it, those that do not)
SGD = ["--methods", "sft"]
CASES = {
    "demos": ("rlhf", ["256"], ["--methods", "sft"], ["--methods", "rloo", "grpo"]),
    "learning-rate": (
        "rlhf",
        ["0.1"],
        ["--methods", "rloo"],
        ["--methods", "rloo", "--rloo.learning-rate", "0.2"],
    ),
    "decay-share": (
        "two-template",
        ["0.5"],
        ["--schedule", "wsd"],
        ["--schedule", "linear"],
    ),
    "weight-decay": (
        "two-template",
        ["0.1"],
        ["--optimiser", "adamw"],
        ["--optimiser", "adam"],
    ),
    "temperatures": ("two-template", ["1.0"], SGD, ["--methods", "gail"]),
    "exact-limit": ("two-template", ["1000"], SGD, None),
    "optimum-starts": (
        "two-template",
        ["3"],
        ["--policy.name", "markov"],
        ["--policy.name", "full"],
    ),
    "scorer.name": ("two-template", ["markov"], ["--methods", "gail"], SGD),
    "penalty.estimator": ("rlhf", ["k3"], ["--methods", "rloo"], ["--methods", "rloo:k2-loss"]),
    "control.kind": ("rlhf", ["linear"], ["--methods", "rloo"], ["--methods", "dpo"]),
    "devices.process": ("two-template", ["1"], ["--devices.processes", "2"], SGD),
    "benchmark.table-seed": ("rlhf", ["3"], ["--benchmark.reward", "table"], ["--methods", "rloo"]),
    "benchmark.flips": ("rlhf", ["0.1"], ["--methods", "dpo"], ["--methods", "rloo"]),
    "benchmark.slips": ("rlhf", ["0.1"], ["--methods", "sft"], ["--methods", "rloo"]),
    "benchmark.beta": ("arithmetic", ["0.2"], ["--methods", "rloo"], SGD),
    "benchmark.divergence": ("arithmetic", ["js"], ["--methods", "rloo"], SGD),
    "benchmark.teacher-width": (
        "text",
        ["16"],
        ["--benchmark.teacher-updates", "5"],
        ["--benchmark.teacher-updates", "0"],
    ),
    "adversarial.warmup": ("two-template", ["3"], ["--methods", "airl"], SGD),
    "grpo.clip": (
        "rlhf",
        ["0.1"],
        ["--methods", "grpo", "--epochs", "2"],
        ["--methods", "grpo"],
    ),
    "ppo.clip": ("rlhf", ["0.1"], ["--methods", "ppo", "--minibatches", "2"], ["--methods", "ppo"]),
    "ppo.value-clip": (
        "rlhf",
        ["0.1"],
        ["--methods", "ppo"],
        ["--methods", "ppo", "--ppo.value-steps", "1"],
    ),
    "ppo.gae-lambda": ("rlhf", ["0.5"], ["--methods", "bt_ppo"], ["--methods", "bt_rloo"]),
    "grpo.learning-rate": ("rlhf", ["0.1"], ["--methods", "grpo"], ["--methods", "bt_grpo"]),
    "rloo.group": (
        "rlhf",
        ["4"],
        ["--methods", "bt_rloo"],
        ["--methods", "bt_rloo", "--reward-model.group", "16"],
    ),
}


def check(preset: str, words: list[str]) -> None:
    _, config = cli.parse("experiments.compare", [preset, *words])
    validation.check(config, cli.presets()[preset][1])


@pytest.mark.parametrize("field", CASES)
@pytest.mark.few(3)
def test_an_option_is_read_or_refused(field):
    preset, value, reading, without = CASES[field]
    option = [f"--{field}", *value]
    check(preset, [*reading, *option])
    if without is None:
        preset, without = "text", []
    check(preset, without)  # fine without the option
    with pytest.raises(UsageError) as refused:
        check(preset, [*without, *option])
    assert refused.value.field == field.replace("-", "_")
    assert "Drop it" in refused.value.fix


FIXED = {
    "dagger": ("markov", "distill.policy-prefixes", "0", "1"),
    "relativistic": ("two-template", "adversarial.training", "logistic", "pairs"),
}


@pytest.mark.parametrize("name", FIXED)
def test_a_default_that_is_named_is_refused_where_the_method_fixes_another(name):
    """Trap: the flag stands in config.json, and was not in force."""
    preset, flag, default, own = FIXED[name]
    other = flag.partition(".")[0].replace("adversarial", "gail")
    for option in ([f"--{flag}", default], [f"--{flag}={default}"]):
        with pytest.raises(UsageError, match=f"{name} fixes it at") as refused:
            check(preset, ["--methods", name, *option])
        assert refused.value.field == flag.replace("-", "_")
        check(preset, ["--methods", name, other, *option])  # which the other reads
    check(preset, ["--methods", name, f"--{flag}", own])
    check(preset, ["--methods", name])


def test_a_rate_that_a_followers_reward_model_has_is_not_advised_to_the_follower():
    with pytest.raises(UsageError) as refused:
        check("rlhf", ["--methods", "bt_ppo", "--ppo.learning-rate", "0.001"])
    assert "(ppo)" in refused.value.fix


def test_noise_in_demonstrations_is_refused_where_comparisons_alone_are_read():
    slips = ["--benchmark.slips", "0.2"]
    check("rlhf", ["--methods", "dpo", "sft", *slips])
    check("rlhf", ["--methods", "dpo", "--warm-start", "5", *slips])
    for methods in (["dpo"], ["kto", "bt_rloo"]):
        with pytest.raises(UsageError, match="slips"):
            check("rlhf", ["--methods", *methods, *slips])


def test_the_presets_own_values_are_fine_whoever_reads_them():
    for config in (preset for _, preset in cli.presets().values()):
        if config.policy.name != "hf":  # whose files are not here
            validation.check(config, config)
    check("arithmetic", ["--methods", "sft"])  # its value function's options stand, unread
