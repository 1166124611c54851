"""Recorded numbers, and what is said of new ones."""

from __future__ import annotations

import importlib
import json
import pkgutil

import pytest
import run_folders

import configs
from experiments import cli, load
from experiments.commands import reproduce
from experiments.commands.reproduce import RECORDED, Number
from experiments.storage import files, run_folder

INTERVAL = {"iqm": 0.2, "ci95": [0.1, 0.3]}
VERDICTS = {  # recorded, here -> verdict
    "same": (INTERVAL, {"iqm": 0.20004, "ci95": None}),
    "inside": (INTERVAL, {"iqm": 0.29, "ci95": None}),
    "inside ": (INTERVAL, {"iqm": 0.35, "ci95": [0.29, 0.4]}),
    "outside": (INTERVAL, {"iqm": 0.31, "ci95": None}),
    "outside ": ({"iqm": 0.2, "ci95": None}, {"iqm": 0.2002, "ci95": None}),
    # of one seed two standard errors: .25 - .04 against .2 + .02, and .3 - .04
    "inside  ": (
        {"iqm": 0.2, "ci95": None, "stderr": 0.01},
        {"iqm": 0.25, "ci95": None, "stderr": 0.02},
    ),
    "outside  ": (
        {"iqm": 0.2, "ci95": None, "stderr": 0.01},
        {"iqm": 0.3, "ci95": None, "stderr": 0.02},
    ),
    "missing": (INTERVAL, None),
}


@pytest.mark.parametrize("verdict", VERDICTS)
def test_verdicts(verdict):
    assert Number("sft", "js", *VERDICTS[verdict]).verdict == verdict.strip()


def test_what_is_recorded_is_of_presets_as_they_are():
    """Each file names its preset, its methods, and where it was measured."""
    for place in RECORDED.glob("*.json"):
        kept = json.loads(place.read_text())
        config = cli.presets()[place.stem][1]
        assert kept["preset"] == place.stem and tuple(kept["methods"]) == config.methods
        assert kept["seeds"] == config.budget.seeds and kept["where"]["commit"]
    recorded = json.loads((RECORDED / "two-template.json").read_text())
    assert f"{recorded['methods']['sft']['js']['iqm']:.4f}" == "0.1099"  # as the README has it


def test_the_page_has_what_is_recorded():
    assert reproduce.PAGE.read_text() == reproduce.page()
    for place in RECORDED.glob("*.json"):  # each preset's header says how to have it again
        assert f"experiments.reproduce {place.stem}" in header(place.stem)


def header(preset: str) -> str:
    """What the module of configs that has a preset says of itself."""
    found = (module.name for module in pkgutil.iter_modules(configs.__path__))
    modules = [importlib.import_module(f"configs.{name}") for name in found]
    (own,) = (module for module in modules if preset in module.PRESETS)
    return " ".join(own.__doc__.split())


def test_a_run_is_recorded_and_compared(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reproduce, "RECORDED", tmp_path / "recorded")
    (tmp_path / "recorded").mkdir()
    monkeypatch.setattr(reproduce, "PAGE", tmp_path / "recorded.md")
    run_folders.made(tmp_path / "run", cli.presets()["two-template"][1], spread=None)
    kept = files.load(tmp_path / "run" / "config.json", dict)
    files.write_checked(tmp_path / "run" / "config.json", kept | {"preset": "two-template"})
    words = ["two-template", "--run", str(tmp_path / "run")]
    assert reproduce.main(words) == 2 and "no recorded numbers" in capsys.readouterr().err
    assert reproduce.main([*words, "--record"]) == 0
    assert "## two-template" in (tmp_path / "recorded.md").read_text()
    assert reproduce.main(words) == 0
    assert "7 same" in capsys.readouterr().out
    assert load(tmp_path / "run").complete
    kept = json.loads((tmp_path / "recorded" / "two-template.json").read_text())
    kept["methods"]["sft"]["js"] = {"iqm": 0.5, "ci95": None}
    (tmp_path / "recorded" / "two-template.json").write_text(json.dumps(kept))
    assert reproduce.main(words) == 1
    assert "1 outside, 6 same" in " ".join(capsys.readouterr().out.split())
    assert reproduce.main(["rlhf", "--run", str(tmp_path / "run"), "--record"]) == 2
    assert reproduce.main(["two-templates"]) == 2
    assert "or all." in " ".join(capsys.readouterr().err.split())


def test_without_a_preset_what_is_recorded_is_listed(tmp_path, monkeypatch, capsys):
    """Nothing is run; --record and --run have to be told of what."""
    assert reproduce.main([]) == 0
    listed = capsys.readouterr().out
    assert all(place.stem in listed for place in RECORDED.glob("*.json"))
    assert reproduce.main(["--record"]) == reproduce.main(["--run", "runs/x"]) == 2
    monkeypatch.setattr(reproduce, "RECORDED", tmp_path)
    assert reproduce.main([]) == 0 and reproduce.main(["lm"]) == 2
    assert "has no recorded numbers. Recorded are none;" in capsys.readouterr().err


THEN = {"commit": "abc", "devices": ["cpu:0 cpu"], "cores": 2, "jax": "1"}
SAID = {  # the run's environment, today's commit -> what is said of them
    "the same": ({}, "abc", "Here all of that is the same."),
    "another machine": ({"cores": 4}, "abc", "as recorded: cores 4 (2)."),
    "an earlier run": ({}, "def", "The run is of commit abc, and this code is def"),
    "outside a checkout": ({"commit": None}, None, "commit None (abc)."),
}


@pytest.mark.parametrize("case", SAID)
def test_where_a_run_was_made_is_said(case, monkeypatch):
    changed, today, said = SAID[case]
    monkeypatch.setattr(run_folder, "commit", lambda: today)
    here = {**THEN, "packages": {"jax": "1"}, **changed}
    assert said in reproduce._where(THEN, here)
