"""What cannot be done is said in one paragraph naming field, value and fix; exit code 2; nothing is
written over."""

from __future__ import annotations

import dataclasses
import functools
import json

import pytest

from experiments import cli
from experiments.bench import __main__ as bench
from experiments.commands import (
    card,
    check_gradients,
    check_model,
    compare,
    doctor,
    export,
    generate,
    score,
    show_data,
    smollm2,
    speed,
    train,
)
from experiments.figures import __main__ as figures
from experiments.running import head_speed, pace, start_up
from experiments.sweep import __main__ as sweep
from fdiv import objectives
from fdiv.types import is_hidden

COMMANDS = {
    "compare": (compare.main, None),
    "train": (train.main, train.one_run),
    "speed": (speed.main, None),
}


def call(program: str, *argv: str) -> int:
    main, adapt = COMMANDS[program]
    return cli.run(main, f"experiments.{program}", list(argv), adapt)


NETWORKS = ["two-template", "--methods", "gail", "--policy.name", "transformer"]
NETWORKS += ["--scorer.name", "transformer"]
BAD = {
    "unknown preset": (["two-templates"], ["two-templates", "two-template"]),
    "unknown method": (["two-template", "--methods", "gial"], ["methods = 'gial'", "gail"]),
    "no method": (["two-template", "--methods"], ["methods"]),
    "method twice": (["two-template", "--methods", "sft", "sft"], ["twice"]),
    "unknown divergence": (
        ["two-template", "--methods", "adversarial:hellinger"],
        ["hellinger", "hellinger2"],
    ),
    "parameter out of range": (
        ["two-template", "--methods", "distill:gjs:1.5"],
        ["gjs:1.5", "between 0 and 1"],
    ),
    "argument not taken": (["two-template", "--methods", "sft:js"], ["sft", "no argument"]),
    "unknown flag": (["two-template", "--batchsize", "4"], ["batch-size"]),
    "not a number": (["two-template", "--seeds", "many"], ["seeds", "many"]),
    "no seeds": (["two-template", "--seeds", "0"], ["seeds = 0", "at least 1"]),
    "negative temperature": (
        ["two-template", "--temperatures", "0.5", "-1"],
        ["temperatures = -1.0", "above 0"],
    ),
    "learning rate not finite": (
        ["two-template", "--learning-rate", "nan"],
        ["learning_rate", "above 0"],
    ),
    "weight out of range": (
        ["two-template", "--benchmark.weight", "1.5"],
        ["benchmark.weight = 1.5", "between 0 and 1"],
    ),
    "too long to enumerate": (
        ["two-template", "--benchmark.horizon", "40"],
        ["horizon = 40", "at most 11", "--exact-limit"],
    ),
    "batch does not divide": (
        ["two-template", "--batch-size", "10", "--accumulate", "4"],
        ["batch_size = 10", "multiple of 4"],
    ),
    "more devices than there are": (
        ["two-template", "--devices.count", "99"],
        ["devices.count = 99"],
    ),
    "two axes of what is left": (
        ["text", "--devices.data", "-1", "--devices.fsdp", "-1"],
        ["devices.fsdp = -1", "data and fsdp cannot both be what is left"],
    ),
    "no number of devices": (
        ["text", "--devices.tensor", "0"],
        ["devices.tensor = 0", "-1 or at least 1"],
    ),
    "mesh over too few devices": (
        ["two-template", "--devices.data", "99"],
        ["devices", "there are 1 devices", "take 99"],
    ),
    "too many trials": (["two-template", "--trials", "9"], ["trials = 9", "from 1 to 5"]),
    "option without a use": (
        ["two-template", "--methods", "sft", "--adversarial.warmup", "3"],
        ["adversarial.warmup", "no method"],
    ),
    "entropy counted twice": (
        ["two-template", "--methods", "airl", "--adversarial.entropy", "1"],
        ["entropy", "twice"],
    ),
    "unknown level": (["two-template", "--adversarial.level", "word"], ["word", "occupancy"]),
    "size of the policy": (
        [*NETWORKS, "--policy.width", "10"],
        ["policy.width = 10", "4 heads"],
    ),
    "size of the scorer": (
        [*NETWORKS, "--scorer.width", "10"],
        ["scorer.width = 10", "4 heads"],
    ),
    "size that a scorer has not": (
        ["two-template", "--methods", "gail", "--scorer.width", "10"],
        ["scorer.width = 10", "full has no such size"],
    ),
    "another method's group": (
        ["rlhf", "--methods", "bt_grpo", "--grpo.group", "1"],
        ["grpo.group = 1", "at least 2"],
    ),
    "table too large": (
        ["markov", "--benchmark.vocab", "200", "--policy.order", "4", "--exact-limit", "0"],
        ["transformer"],
    ),
    "no such file": (
        ["text", "--benchmark.path", "/nowhere/rows.jsonl"],
        ["benchmark.path", "is not a file"],
    ),
    "no such import": (
        ["two-template", "--import", "/nowhere/mine.py"],
        ["import = '/nowhere/mine.py'", "Python file"],
    ),
    "samples cannot be reused": (["two-template", "--epochs", "2"], ["epochs", "reverse_kl"]),
    "prefixes cannot be reused": (
        ["two-template", "--methods", "dagger", "--epochs", "2"],
        ["epochs", "dagger"],
    ),
    "short for two flags": (["rlhf", "--noise", "1.5"], ["benchmark.flips = 1.5", "from 0 to 1"]),
    "short for a flag": (["rlhf", "--beta=-1"], ["benchmark.beta = -1.0", "above 0"]),
}


@pytest.mark.few(14)
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_paragraph_and_exit_code_2(case, tmp_path, capsys):
    argv, says = BAD[case]
    out = tmp_path / "run"
    try:
        code = call("compare", *argv, "--out", str(out))
    except SystemExit as end:  # tyro's own way out
        code = end.code
    said = " ".join(capsys.readouterr().err.split())
    assert code == 2, said
    for text in says:
        assert text in said, (text, said)
    assert "Traceback" not in said
    assert not out.exists()


FILES = {
    "empty": ("rows.jsonl", "", ["is empty"]),
    "no row": ("rows.jsonl", "not json\n{\n", ["no good row", "row 1: not JSON", "row 2"]),
    "no column": ("rows.jsonl", '{"a": "x", "b": "y"}\n', ["a, b", "--benchmark.prompt-field"]),
    "not a list": ("rows.json", '{"text": "x"}', ["list of records"]),
    "not parquet": ("rows.parquet", "hello", ["not parquet"]),
    "one row": ("rows.jsonl", '{"text": "x"}\n', ["validation", "more rows"]),
}


@pytest.mark.parametrize("case", FILES)
def test_files_without_use(case, tmp_path, capsys):
    name, content, says = FILES[case]
    (tmp_path / name).write_text(content)
    assert (
        call(
            "compare",
            "text",
            "--benchmark.path",
            str(tmp_path / name),
            "--out",
            str(tmp_path / "run"),
        )
        == 2
    )
    said = " ".join(capsys.readouterr().err.split())
    assert all(text in said for text in says), said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("held", ["another config", "other files", "a file"])
def test_a_folder_that_is_taken_is_left_alone(held, tmp_path, capsys):
    out = tmp_path / "run"
    if held == "a file":
        out.write_text("mine")
    else:
        out.mkdir()
        name = "config.json" if held == "another config" else "thesis.txt"
        (out / name).write_text(json.dumps({"config": {"seeds": 3}}))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert call("compare", "two-template", "--out", str(out)) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "error: out = " in said
    if held == "another config":
        assert "seeds is 3 there and 5 here" in said
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}


def test_a_single_run_has_one_method(capsys):
    assert call("train", "two-template", "--methods", "sft", "gail") == 2
    assert "experiments.compare" in capsys.readouterr().err


def test_speed_writes_nothing_and_says_so(tmp_path, capsys):
    assert call("speed", "two-template", "--out", str(tmp_path / "x")) == 2
    assert "writes nothing" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.wide
def test_speed_prints_a_row_for_each_method(monkeypatch, capsys):
    monkeypatch.setattr(pace, "SECONDS", 0.02)
    monkeypatch.setenv("COLUMNS", "80")
    assert call("speed", "two-template", "--methods", "sft", "gail", "--batch-size", "64") == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert not any("…" in line for line in lines)
    shares = {
        line.split()[0]: float(line.split()[-1])
        for line in lines
        if line.split() and line.split()[0] in ("sft", "gail")
    }
    assert set(shares) == {"sft", "gail"}
    assert all(0 < share < 2 for share in shares.values())


def test_cards(capsys):
    assert card.main([]) == 0
    said = capsys.readouterr().out
    assert "alpha:0.5" in said
    assert "Amari" in said
    assert card.main(["jss"]) == 2
    assert "js" in capsys.readouterr().err


def test_help_lists_every_field(capsys):
    with pytest.raises(SystemExit) as end:
        call("compare", "two-template", "--help-all")
    assert end.value.code == 0
    said = capsys.readouterr().out
    for flag in (
        "--benchmark.weight",
        "--policy.name",
        "--methods",
        "--demos",
        "--adversarial.entropy",
        "--exact-limit",
    ):
        assert flag in said


@pytest.mark.parametrize("program", [card, check_gradients])
def test_scripts_without_a_preset_have_help(program, capsys):
    with pytest.raises(SystemExit) as end:
        program.main(["--help"])
    assert end.value.code == 0
    typed = program.__name__.replace(".commands.", ".")
    assert f"python -m {typed} " in capsys.readouterr().out


def test_speed_start_has_help(capsys):
    assert start_up.main(["--help"]) == 0
    assert "python -m experiments.speed start" in capsys.readouterr().out


def test_speed_head_prints_memory_and_time_of_three_ways(capsys):
    """At this size a chunk holds all, so that no fifteenth is saved: exit code 1."""
    small = ["--tokens", "64", "--timed-tokens", "8", "--width", "4", "--repetitions", "1"]
    assert head_speed.main(["--vocabularies", "32", *small]) == 1
    printed = capsys.readouterr().out
    for way in ("plain", "checkpointed", "fused"):
        assert f" {way} " in printed
    assert head_speed.main(["--vocabularies", "1", *small]) == 2
    assert head_speed.main(["--divergence", "nothing", *small]) == 2


def test_a_method_that_lacks_its_expert_is_refused_before_anything_is_written(tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt": "q{i}", "completion": "a{i}"}}\n' for i in range(40)))
    source = ["--benchmark.path", str(rows), "--benchmark.teacher-updates", "0"]
    out = tmp_path / "out"
    assert call("compare", "text", *source, "--methods", "distill", "--out", str(out)) == 2
    assert "expert" in capsys.readouterr().err
    assert not out.exists()


SCRIPTS = {
    **{name: functools.partial(cli.run, main, name) for name, (main, _) in COMMANDS.items()},
    "speed start": start_up.main,
    "speed head": head_speed.main,
    "bench": bench.main,
    "card": card.main,
    "check_gradients": check_gradients.main,
    "doctor": doctor.main,
    "figures": figures.main,
    "show_data": show_data.main,
    "check_model": check_model.main,
    "smollm2": smollm2.main,
    "generate": generate.main,
    "score": score.main,
    "export": export.main,
    "sweep": sweep.main,
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_version(script, capsys):
    with pytest.raises(SystemExit) as end:
        SCRIPTS[script](argv=["--version"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith("fdiv ")
    assert "jax " in said


@pytest.mark.parametrize("argv", [["--clip", "2.0"], ["--clip=2.0"]])
def test_a_flag_of_an_earlier_version_is_read_and_said_once(argv, capsys, monkeypatch):
    monkeypatch.setattr(cli, "_RENAMED", set())
    for _ in range(2):
        _, config = cli.parse("experiments.compare", ["two-template", *argv])
        assert config.optimiser.max_grad_norm == 2.0
    assert capsys.readouterr().err == "--clip is now called --max-grad-norm.\n"


def test_the_horizon_of_a_penaltys_weight_has_a_new_name(capsys, monkeypatch):
    monkeypatch.setattr(cli, "_RENAMED", set())
    _, config = cli.parse("experiments.compare", ["rlhf", "--control.horizon", "50"])
    assert config.control.adapt_over == 50
    assert "--control.adapt-over" in capsys.readouterr().err


@pytest.mark.parametrize(
    "word",
    [
        "/tmp/" + "a-rather-long-folder/" * 8,
        "--max-grad-norm",
        "out = '/tmp/a folder/with spaces'",
        f"error: import = '/tmp/{'a-rather-long-folder/' * 8}'",
        """path = "/tmp/it's here" """.strip(),
    ],
)
def test_no_flag_no_path_and_no_value_is_broken(word):
    """Wherever a line ends: what is said is copied."""
    for before in range(90, 101):
        assert word in cli.filled("x" * before + f" {word} y")


def test_what_a_methods_name_fixes_is_no_option(capsys):
    with pytest.raises(SystemExit):
        cli.parse("experiments.compare", ["two-template", "--help-all"])
    helped = capsys.readouterr().out
    fixed = [
        f"--{kind}.{field.name.replace('_', '-')} "
        for kind, group in objectives.kinds().items()
        for field in filter(is_hidden, dataclasses.fields(group))
    ]
    assert "--adversarial.divergence " in fixed
    assert "--adversarial.level " in helped
    assert [option for option in fixed if option in helped] == []
    with pytest.raises(SystemExit) as refused:
        cli.parse("experiments.compare", ["two-template", "--adversarial.divergence", "tv"])
    assert refused.value.code == 2
