"""A command line that forgives: what people type, help on one screen, a run's config to start from,
a folder that is taken, and what a run would cost."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
import run_folders

from experiments import __main__ as scripts
from experiments import card, cli, compare, score, short_help, spelling, train
from experiments import config as configs
from experiments.config import make_config
from experiments.running import head_to_head
from experiments.running.console import Screen
from experiments.running.record import Report
from experiments.running.stopping import STOPPING, StopFlag
from experiments.storage import files
from fdiv.benchmarks import TwoTemplate
from fdiv.types import UsageError

ROOT = Path(__file__).parents[2]
PROGRAM = "experiments.compare"
KINDS = {
    "report": bool,
    "policy.remat": bool | None,
    "methods": tuple[str, ...],
    "temperatures": tuple[float, ...],
    "learning_rate": float,
    "updates": int,
    "out": Path,
}
TYPED = {  # what is typed -> what the parser is given
    "--report": "--report True",
    "--report false": "--report False",
    "--report=FALSE": "--report False",
    "--report TRUE --updates 3": "--report True --updates 3",
    "--report --updates 3": "--report True --updates 3",
    "--policy.remat true": "--policy.remat True",
    "--policy.remat None": "--policy.remat None",
    "--report maybe": "--report maybe",  # the parser refuses it
    "--methods sft,gail": "--methods sft gail",
    "--methods sft, gail,js airl": "--methods sft gail js airl",
    "--methods sft,distill:ab:1,0.5,gail": "--methods sft distill:ab:1,0.5 gail",
    "--methods=sft,gail": "--methods sft gail",
    "--temperatures 0.5,1": "--temperatures 0.5 1",
    "--out a,b": "--out a,b",
    "--updates -1": "--updates -1",
    "--unknown 1,2": "--unknown 1,2",
}


@pytest.mark.parametrize("typed", TYPED)
def test_what_is_typed_is_taken(typed):
    assert spelling.completed(typed.split(), KINDS) == TYPED[typed].split()


def test_a_switch_before_an_argument_leaves_it_alone():
    words = spelling.completed(["--report", "runs/x"], KINDS, positional=True)
    assert words == ["--report", "True", "runs/x"]


@pytest.mark.parametrize(
    ("typed", "own"),
    [("--lr", "--learning-rate"), ("--method", "--methods"), ("--max_steps", "--updates")],
)
def test_another_programs_name_gets_ours(typed, own):
    for words in ([typed, "3"], [f"{typed}=3"]):
        with pytest.raises(UsageError, match=f"It is called {own} here: {own} 3"):
            spelling.completed(words, KINDS)


def test_every_synonym_is_an_option_of_some_preset():
    from experiments import fields

    known = {
        f"--{name.replace('_', '-')}"
        for _, config in cli.presets().values()
        for name in fields.table(config)
    }
    assert set(spelling.SYNONYMS.values()) <= known
    assert not set(spelling.SYNONYMS) & known


def test_a_part_of_a_name_finds_the_whole(capsys):
    assert card.main(["kl"]) == 2
    said = capsys.readouterr().err
    assert all(name in said for name in ("forward_kl", "reverse_kl", "skew_kl"))


@pytest.mark.wide
def test_names_are_no_emoji(capsys):
    """`:tv:` is one to rich; a card's name and the formulas in it are printed as they are."""
    with pytest.raises(SystemExit):
        cli.parse(PROGRAM, ["two-template", "--methods", "adversarial:tv", "--help"])
    assert card.main(["alpha:0.5"]) == 0
    assert "adversarial:tv" in (said := capsys.readouterr().out) and "alpha:0.5" in said


def parsed(*words):
    return cli.parse(PROGRAM, ["two-template", *words])[1]


def test_switches_and_commas_reach_the_config():
    config = parsed("--methods", "sft,gail", "--plain", "--report", "FALSE", "--dry-run")
    assert config.methods == ("sft", "gail")
    assert config.output.plain and config.output.dry_run and not config.output.report


def test_what_a_run_prints_decides_nothing():
    assert configs.identity(parsed("--plain", "--quiet")) == configs.identity(parsed())


def test_scripts_take_switches_too(capsys):
    assert score.main(["/nowhere", "--text", "x", "--json"]) == 2
    assert "model" in capsys.readouterr().err


# --- help -----------------------------------------------------------------------------------------


@pytest.mark.few(1)
@pytest.mark.parametrize("program", [(PROGRAM, None), ("experiments.train", train.one_run)])
def test_help_fits_a_screen(program, capsys):
    for preset, (about, config) in cli.presets().items():
        own = program[1](config) if program[1] else config
        shown = short_help.text(program[0], preset, about, own)
        lines = shown.splitlines()
        assert len(lines) <= 60, preset
        assert max(map(len, lines)) <= 110, preset
        assert lines.index("examples:") < 6
        assert f"python -m {program[0]} {preset} --help-all" in lines[-1]
        assert "... and more" not in shown
        for name in ("--methods", "--updates", "--learning-rate", "--out", "--dry-run"):
            assert name in shown, (preset, name)


def test_help_has_the_groups_that_are_read(capsys):
    for methods, read, unread in (
        ("sft", "max-lik", "adversarial"),
        ("gail", "adversarial", "ppo"),
    ):
        with pytest.raises(SystemExit) as end:
            cli.parse(PROGRAM, ["two-template", "--methods", methods, "--help"])
        shown = capsys.readouterr().out
        assert end.value.code == 0
        assert f"--{read}" in shown and f"--{unread}.  " not in shown
    sizes = re.search(r"--policy\.  (.*)", shown)[1]
    assert "order" in sizes and "layers" not in sizes


def test_every_script_is_listed(capsys):
    assert scripts.main([]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 125
    floor = re.search(r"\{\s+\"experiments.__main__\",(.*?)\}", (ROOT / "tests" / "test_layers.py")
                      .read_text(), flags=re.S)[1]  # fmt: skip
    named = set(re.findall(r"experiments\.(\w+)", floor)) | {"bench", "sweep"}
    assert set(scripts.SCRIPTS) == named
    assert all(f"experiments.{name} " in shown for name in named)
    assert scripts.main(["compare", "rlhf"]) == 2
    assert "python -m experiments.compare rlhf" in capsys.readouterr().err


# --- a run's config, and a folder that is taken ---------------------------------------------------


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished run where compare puts it."""
    monkeypatch.chdir(tmp_path)
    config = make_config(benchmark=TwoTemplate(vocab=2, horizon=3), methods=("sft",), seeds=2)
    out = tmp_path / "runs" / "compare"
    run_folders.made(out, config, spread=None)
    kept = files.load(out / "config.json", dict)
    files.write_checked(out / "config.json", kept | {"preset": "two-template"})
    return config


def test_a_command_starts_from_a_runs_config(run):
    for words in (
        ["--config", "runs/compare/config.json"],
        ["two-template", "--config=runs/compare"],
    ):
        preset, config = cli.parse(PROGRAM, words)
        assert preset == "two-template" and configs.identity(config) == configs.identity(run)
    changed = cli.parse(PROGRAM, ["--config", "runs/compare", "--seeds", "3"])[1]
    assert changed.budget.seeds == 3 and changed.benchmark.vocab == 2


NO_CONFIG = {
    "another preset": (["rlhf", "--config", "runs/compare"], ["of two-template, not of rlhf"]),
    "no file": (["--config", "runs/other.json"], ["config = 'runs/other.json'"]),
    "no config": (["--config", "other.json"], ["no run's config.json"]),
}


@pytest.mark.few(1)
@pytest.mark.parametrize("case", NO_CONFIG)
def test_a_config_that_is_none_is_said(case, run, capsys, tmp_path):
    (tmp_path / "other.json").write_text('{"a": 1}')
    argv, says = NO_CONFIG[case]
    assert cli.run(compare.main, PROGRAM, argv) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert all(text in said for text in says), said


def placed(config, *words):
    cli.parse(PROGRAM, ["two-template", *words])  # which says whether a folder was named
    identity = configs.identity(config)
    return head_to_head._folder(config, make_config(), identity).path


def test_a_changed_command_gets_a_folder_of_its_own(run, capsys):
    usual = Path("runs/compare")
    other = make_config(seeds=3)
    assert placed(run) == usual and capsys.readouterr().out == ""
    assert placed(other) == Path("runs/compare-2")
    assert "runs/compare holds another config, so this run goes to runs/compare-2" in (
        capsys.readouterr().out
    )
    run_folders.made(Path("runs/compare-2"), other, spread=None)
    assert placed(other) == Path("runs/compare-2")  # the same command finds its own again
    assert placed(make_config(seeds=4)) == Path("runs/compare-3")
    with pytest.raises(UsageError, match="belongs to another config"):
        placed(other, "--out", "runs/compare")


def test_a_usual_folder_that_is_no_runs_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "compare").mkdir(parents=True)
    (tmp_path / "runs" / "compare" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"thesis\.txt"):
        placed(make_config())


@pytest.mark.wide
def test_a_dry_run_says_what_it_costs_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = ["--benchmark.vocab", "2", "--benchmark.horizon", "3", "--batch-size", "32"]
    words = ["two-template", *small, "--methods", "sft", "--updates", "50", "--dry-run"]
    assert cli.run(compare.main, PROGRAM, words) == 0
    shown = capsys.readouterr().out
    assert "updates" in shown and "(preset: 2000)" in shown
    assert re.search(r"sft +\S+ s +\S+ s", shown)
    assert "In all about" in shown and "disk" in shown
    assert list(tmp_path.iterdir()) == []
    assert (
        cli.run(compare.main, PROGRAM, [*words, "--methods", "gial"]) == 2
    )  # checked all the same


# --- the screen -----------------------------------------------------------------------------------


def report(method, update, seconds):
    return Report(method, update, 100, seconds, np.array([10.0]), None)


def test_time_left_counts_training_and_not_compiling():
    screen = Screen(["a", "b", "c"], [])
    screen.state("a", "compiling")
    time.sleep(0.05)
    assert screen._left() == 0
    screen.progress(report("a", 50, 2.0))  # 4 s in all
    assert screen._left() == pytest.approx(2 + 4 + 4)
    screen.state("a", "done in 4.0 s")  # its last half went at once
    assert screen._left() == pytest.approx(2 * 2)
    screen.state("b", "kept")
    assert screen._left() == pytest.approx(2)


def test_a_quiet_screen_says_alarms_alone(capsys):
    with Screen(["a"], [], quiet=True) as screen:
        screen.say("devices"), screen.state("a", "compiling"), screen.progress(report("a", 100, 1))
        screen.alarm("a", "collapsed")
    assert capsys.readouterr().out.split() == ["a:", "collapsed"]


def test_a_live_screen_shows_that_it_stops(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    stop = StopFlag()
    written = []
    monkeypatch.setattr(os, "write", lambda place, text: written.append(text))
    with stop, Screen(["a"], [], stop) as screen:
        assert screen.live is not None and stop.shown
        stop._ask(2, None)
        assert screen._table().caption == STOPPING
    assert not stop.shown and written == []
    stop.asked = False
    stop._ask(2, None)
    assert STOPPING in written[0].decode()
