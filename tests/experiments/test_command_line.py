"""A command line that forgives: what people type, help on one screen, a run's config to start from,
a folder that is taken, and what a run would cost."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import recorded
import run_folders

from experiments import __main__ as scripts
from experiments import assemble, cli, validation
from experiments import config as configs
from experiments.cli import short_help, spelling
from experiments.commands import (
    card,
    check_gradients,
    compare,
    doctor,
    generate,
    score,
    show_data,
    train,
)
from experiments.config import make_config
from experiments.figures import __main__ as figures
from experiments.running import head_speed, head_to_head
from experiments.running.console import Screen
from experiments.running.record import Report
from experiments.running.stopping import STOPPING, StopFlag
from experiments.storage import files
from experiments.sweep import __main__ as sweep
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


TWICE = {  # what is typed -> what the refusal names; None: nothing is refused
    "--seeds 1 --seeds 2": "--seeds 1 and --seeds 2",
    "--seeds=1 --seeds 2": "--seeds 1 and --seeds 2",
    "--seeds 1 --updates 3 --seeds=2": "--seeds 1 and --seeds 2",
    "--batch-size 8 --batch_size 16": "--batch-size 8 and --batch_size 16",
    "--clip 1 --max-grad-norm 2": "--clip 1 and --max-grad-norm 2",
    "--max_grad_norm 2 --clip=1": "--max_grad_norm 2 and --clip 1",
    "--control.horizon 5 --control.adapt_over 6": "--control.horizon 5 and --control.adapt_over 6",
    "--noise .1 --benchmark.slips .2": "--noise .1 and --benchmark.slips .2",
    "--benchmark.beta 1 --beta 2": "--benchmark.beta 1 and --beta 2",
    "--plain False --plain": "--plain False and --plain.",
    "--plain --plain=False": "--plain and --plain False",
    "--methods sft gail --methods js": "--methods sft gail and --methods js",
    "--methods sft gail --methods=sft,js": "--methods sft gail and --methods sft,js",
    "--policy.order 1 --policy.order 2": "--policy.order 1 and --policy.order 2",
    "--config a --config b": "--config a and --config b",
    "--seed 1 --seed -1": "--seed 1 and --seed -1",
    "--seeds 1 --seeds 1": None,
    "--seeds 1 --seeds=1": None,
    "--plain --plain True": None,
    "--clip 1 --max-grad-norm 1": None,
    "--seed 1 --seeds 2": None,
    "--noise .1 --benchmark.beta 2": None,
}


@pytest.mark.parametrize("typed", TWICE)
def test_a_flag_with_two_values_is_refused(typed):
    said = TWICE[typed]
    if said is None:
        assert cli.arguments(["preset", *typed.split()]) == ["preset", *typed.split()]
        return
    with pytest.raises(UsageError, match="is given twice: ") as refusal:
        cli.arguments(["preset", *typed.split()])
    assert said in str(refusal.value)


def compared(words):
    return cli.run(compare.main, PROGRAM, words)


@pytest.mark.parametrize(
    ("main", "words"),
    [
        (compared, ["two-template", "--seeds", "1", "--seeds", "2"]),
        (score.main, ["model", "--text", "a", "--text", "b"]),
        (generate.main, ["model", "--prompt=a", "--prompt=b"]),
        (show_data.main, ["rows", "--benchmark.horizon", "1", "--benchmark.horizon", "2"]),
        (figures.main, ["die", "--out", "a", "--out", "b"]),
        (sweep.main, ["run", "dir", "--workers", "1", "--workers", "2"]),
        (card.main, ["kl", "--other", "1", "--other", "2"]),
        (check_gradients.main, ["--vocab", "2", "--vocab", "3"]),
        (head_speed.main, ["--width", "2", "--width", "3"]),
        (doctor.main, ["--out", "a", "--out", "b"]),
    ],
)
def test_every_command_refuses_two_values(main, words, capsys):
    assert main(words) == cli.USAGE_EXIT
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "is given twice" in said and "Traceback" not in said


@pytest.mark.parametrize("main", [check_gradients.main, doctor.main])
@pytest.mark.parametrize(
    ("words", "said"), [(["--out", ""], "out = ''"), (["--output-dir", "x"], "called --out here")]
)
def test_commands_without_a_preset_read_flags_as_the_others_do(main, words, said, capsys):
    assert main(words) == cli.USAGE_EXIT
    assert said in capsys.readouterr().err


def test_imports_may_be_several(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "IMPORTED", [])
    words = []
    for name in "ab":
        (tmp_path / f"{name}.py").write_text("X = 1")
        words += ["--import", str(tmp_path / f"{name}.py")]
    assert cli.arguments(words) == [] and len(cli.IMPORTED) == 2


@pytest.mark.parametrize(
    ("main", "words", "field"),
    [
        (compared, ["two-template", "--out", ""], "out"),
        (compared, ["two-template", "--out="], "out"),
        (compared, ["text", "--benchmark.path", ""], "benchmark.path"),
        (compared, ["text", "--benchmark.tokenizer="], "benchmark.tokenizer"),
        (show_data.main, [""], "path"),
        (show_data.main, ["rows", "--benchmark.path", ""], "benchmark.path"),
        (generate.main, ["", "--prompt", ""], "path"),
        (figures.main, ["die", "--out", ""], "out"),
        (sweep.main, ["status", ""], "path"),
    ],
)
def test_an_empty_word_is_no_path(main, words, field, capsys):
    """It would be the folder of now, and its files the data."""
    assert main(words) == cli.USAGE_EXIT
    said = capsys.readouterr().err
    assert said.startswith(f"error: {field} = ''") and "variable that is not set" in said


def test_an_empty_text_is_one():
    kinds = {"prompt": str, "system": str | None}
    words = ["--prompt", "", "--system="]
    assert spelling.completed(words, kinds, positional=True) == words


def test_a_script_takes_its_groups_flags_as_people_type_them():
    kinds = cli.kinds_of(show_data.Options)
    words = ["--benchmark.prompt-field", "a,b", "--benchmark.teacher-cache"]
    said = ["--benchmark.prompt-field", "a", "b", "--benchmark.teacher-cache", "True"]
    assert spelling.completed(words, kinds, positional=True) == said


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


SAME = {  # what is typed behind --methods -> the second of the two that are one, and the first
    ("two-template", "gail adversarial:js"): ("adversarial:js", "gail"),
    ("two-template", "adversarial:JS sft gail"): ("gail", "adversarial:JS"),
    ("two-template", "sft js policy_gradient:js"): ("policy_gradient:js", "js"),
    ("two-template", "distill:js distill"): ("distill", "distill:js"),
    ("two-template", "alpha_irl Alpha-IRL:0.5"): ("alpha_irl:0.5", "alpha_irl"),
    ("two-template", "alpha_irl:0 alpha_irl:-0"): ("alpha_irl:-0", "alpha_irl:0"),
    ("two-template", "adversarial:alpha:.50 alpha_irl"): ("alpha_irl", "adversarial:alpha:.50"),
    ("rlhf", "rloo:k1-reward rloo"): ("rloo", "rloo:k1-reward"),
    ("rlhf", "rloo:k2-reward rloo:k2-reward-token"): ("rloo:k2-reward-token", "rloo:k2-reward"),
    ("rlhf", "grpo grpo:k3-loss --penalty.estimator k3 --penalty.placement loss"): (
        "grpo:k3-loss",
        "grpo",
    ),
    ("rlhf", "dpo f_dpo:reverse_kl"): ("f_dpo:reverse_kl", "dpo"),
}


@pytest.mark.parametrize("typed", SAME)
def test_two_names_of_one_method_are_refused(typed):
    (preset, words), (second, first) = typed, SAME[typed]
    config = cli.parse(PROGRAM, [preset, "--methods", *words.split()])[1]
    with pytest.raises(UsageError, match="by another name") as refusal:
        validation.check(config, cli.presets()[preset][1])
    assert refusal.value.field == "methods" and refusal.value.value == second
    assert refusal.value.problem.startswith(f"is {first} by")


def test_methods_that_differ_in_anything_are_several():
    words = ("grpo", "grpo_std", "grpo:k3-loss", "grpo:k3-loss-string", "rloo", "ppo")
    config = cli.parse(PROGRAM, ["rlhf", "--methods", *words])[1]
    validation.check(config, cli.presets()["rlhf"][1])


def test_no_preset_has_a_method_twice():
    for preset, (_, config) in cli.presets().items():
        methods = list(configs.resolve(config).values())
        assert all(one not in methods[:i] for i, one in enumerate(methods)), preset


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
    files = (ROOT / "experiments" / "commands").glob("[!_]*.py")
    folders = (ROOT / "experiments").glob("*/__main__.py")
    named = {file.stem for file in files} | {file.parent.name for file in folders}
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


# --- files that are read from elsewhere -----------------------------------------------------------

EDITED = {  # a field of a run's config, what it is changed to, what is said
    "a word": ("updates", "3", ["updates = '3'"]),
    "a list": ("updates", [3], ["updates = [3]"]),
    "nothing": ("updates", None, ["updates = None"]),
    "a part": ("updates", 3.5, ["updates = 3.5"]),
    "no benchmark": ("benchmark", "text", ["benchmark = 'text'"]),
    "a benchmark without a name": ("benchmark", {"vocab": 3}, ["benchmark = None"]),
    "methods in one word": ("methods", "sft", ["methods = 'sft'", "no list"]),
    "methods by number": ("methods", [3], ["methods"]),
    "a class in a list": ("policy", [1], ["policy = [1]"]),
    "betas in a word": ("betas", "ab", ["betas = 'ab'"]),
    "one beta": ("betas", [0.9], ["betas"]),
    "a rate in words": ("learning_rate", "fast", ["learning_rate = 'fast'"]),
    "a switch in words": ("report", "no", ["report = 'no'"]),
    "a path by number": ("start_from", 3, ["start_from = 3"]),
    "a group in a word": ("grpo", "x", ["grpo = 'x'"]),
}


@pytest.mark.few(5)
@pytest.mark.parametrize("case", EDITED)
def test_a_config_that_was_edited_is_refused_by_field(case, run, tmp_path, capsys):
    field, value, says = EDITED[case]
    kept = files.load(tmp_path / "runs/compare/config.json", dict)
    kept["config"][field] = value
    (tmp_path / "own.json").write_text(json.dumps(kept))
    assert cli.run(compare.main, PROGRAM, ["--config", "own.json"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert all(text in said for text in says), said


DAMAGED = {
    "not there": (None, "is not there"),
    "deep": ("[" * 100_000, "no run's config.json"),
    "a key twice": ('{"preset": "two-template", "preset": "rlhf", "config": {}}', "no run's"),
    "a preset in a list": ('{"preset": ["two-template"], "config": {}}', "no run's"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_what_is_no_config_is_said(case, tmp_path, monkeypatch, capsys):
    text, says = DAMAGED[case]
    if text is not None:
        (tmp_path / "own.json").write_text(text)
    assert cli.run(compare.main, PROGRAM, ["--config", str(tmp_path / "own.json")]) == 2
    assert says in " ".join(capsys.readouterr().err.split())


def test_files_of_one_name_are_both_part_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "IMPORTED", [])
    digests = []
    for first in ("VALUE = 1", "VALUE = 3"):
        for name, text in (("a", first), ("b", "VALUE = 2")):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "own.py").write_text(text)
        cli.load_plugins([f"--import={tmp_path / name / 'own.py'}" for name in "ab"])
        assert len(cli.IMPORTED) == 2  # the same file again takes its own place
        assert len({module.__name__ for module in cli.IMPORTED}) == 2
        digests.append(cli.imported()["own.py"])
    assert digests[0] != digests[1]


@pytest.mark.wide
def test_sweeps_and_figures_take_switches_too(tmp_path, monkeypatch, capsys):
    from experiments.figures import __main__ as figures
    from experiments.sweep import __main__ as sweep

    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.yaml").write_text("preset: two-template\nproduct: {seed: [0, 1]}\n")
    assert sweep.main(["plan", "grid.yaml", "--out", "s", "--cost", "false"]) == 0
    assert sweep.main(["status", "s", "--every"]) == 0
    assert sweep.main(["collect", "--partial", "s"]) == 2
    assert "lines are not done" in capsys.readouterr().err
    assert figures.main(["DIE"]) == 2 and "die" in capsys.readouterr().err


# --- a metric of one's own ------------------------------------------------------------------------

TAKEN = ["js", "js_token", "js_occupancy_stderr", "entropy_stderr", "seed", "update", "tokens",
         "loss", "skew_kl", "Loud"]  # fmt: skip
ONE = lambda strings: strings.mask.sum(1)
NO_METRIC = {
    **{name: (name, ONE, {}) for name in TAKEN},
    "no strings": ("own", lambda: 1, {}),
    "two parameters": ("own", lambda strings, more: 1, {}),
    "no function": ("own", 3, {}),
    "a direction": ("own", ONE, {"better": 2}),
}


@pytest.mark.parametrize("case", NO_METRIC)
def test_what_is_no_metric_is_refused_where_it_is_added(case, monkeypatch):
    from experiments import add_metric
    from fdiv import metrics

    name, function, more = NO_METRIC[case]
    monkeypatch.setattr(metrics, "STATISTICS", {})
    with pytest.raises(UsageError):
        add_metric(name, function, **more)
    assert not metrics.STATISTICS


@pytest.mark.parametrize("values", [jnp.zeros(2), 1j * jnp.ones(5)], ids=["always two", "complex"])
def test_a_metric_is_looked_at_for_every_number_of_strings(values, monkeypatch):
    from fdiv import metrics
    from fdiv.types import Sequences

    monkeypatch.setattr(metrics, "STATISTICS", {"own": lambda strings: values[: len(strings.mask)]})
    strings = Sequences(jnp.zeros((5, 3), jnp.int32), jnp.ones((5, 3), bool), jnp.ones(5))
    with pytest.raises(UsageError, match="metric = 'own'"):
        assemble.task(make_config(benchmark=TwoTemplate(vocab=2, horizon=3))).mdp.statistics["own"](
            strings
        )


def test_a_metric_without_a_finite_number_is_named(monkeypatch):
    """No column shows it: there is nothing to rank or to draw."""
    from experiments.running import finish
    from fdiv import metrics

    for name in ("never", "once", "always"):
        monkeypatch.setitem(metrics.STATISTICS, name, ONE)
    method = recorded.method({"js": [0.1, 0.2], "always": [1.0, 2.0]})
    other = recorded.method({"js": [0.1, 0.2], "once": [1.0, 2.0]})
    methods = {
        "sft": dataclasses.replace(method, infinite=["never", "once"]),
        "js": dataclasses.replace(other, infinite=["never"]),
    }
    assert finish._not_finite(methods) == ["never has no finite number, of any method on any seed."]


def test_no_text_of_a_group_of_flags_is_looked_for_in_source_code(monkeypatch):
    """The parser would parse a file for each of two dozen, and took three quarters of its time so.
    One stays: a preset's benchmark has the text of its own class. (Under pytest the parser now and
    then does again what it has kept, to compare.)"""
    words = ["two-template", "--updates", "3"]
    cli.parse("experiments.compare", words)  # what is looked for once in a process
    searched = []
    original = inspect.findsource
    monkeypatch.setattr(inspect, "findsource", lambda of: (searched.append(of), original(of))[1])
    cli.parse("experiments.compare", words)
    assert len(searched) < 5, searched
