"""Runs that were made: listed, shown, compared, cleaned."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import run_folders

from experiments import load
from experiments.commands import runs
from experiments.config import make_config
from experiments.reporting import schema
from fdiv.benchmarks import TwoTemplate


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, updates, vocab in (("first", 2, 3), ("second", 3, 3), ("other", 2, 2)):
        config = make_config(
            benchmark=TwoTemplate(vocab=vocab, horizon=2),
            methods=("sft",),
            seeds=2,
            updates=updates,
        )
        run_folders.made(tmp_path / "runs" / name, config, spread=0.0 if name == "first" else None)
    (tmp_path / "runs" / "other" / "results.json").unlink()
    return tmp_path / "runs"


def call(*words):
    return runs.main([str(word) for word in words])


def test_runs_are_listed_and_shown(folder, capsys):
    assert call("list") == 0
    shown = capsys.readouterr().out
    lines = {line.split()[0]: line for line in shown.splitlines() if "runs/" in line}
    assert "complete" in lines["runs/first"] and "1 of 1 methods" in lines["runs/other"]
    assert "3 runs." in shown
    assert call("show", "runs/first") == 0
    assert "sft" in capsys.readouterr().out
    assert call("show", "runs/other") == 0
    assert "No results yet; finished: sft" in capsys.readouterr().out


def test_two_runs_differ_in_fields(folder, capsys):
    assert call("diff", "runs/first", "runs/second") == 0
    shown = capsys.readouterr().out
    assert "updates" in shown and "1 fields differ." in shown and "0 results differ" in shown


def test_checkpoints_are_deleted_and_results_stay(folder, capsys):
    saves = folder / "first" / "checkpoints"
    (saves / "sft" / "1").mkdir(parents=True)
    (saves / "sft" / "1" / "x").write_bytes(bytes(3000))
    assert call("clean", "runs/first") == 0 and (saves / "sft").exists()
    assert "2.9 kB in all" in capsys.readouterr().out
    assert call("clean", "runs/first", "--yes") == 0
    assert (
        not (saves / "sft").exists() and load(folder / "first").methods["sft"].params() is not None
    )
    assert call("clean", "runs/first", "--finals", "--yes") == 0
    assert not any(saves.iterdir()) and load(folder / "first").complete


REFUSED = {
    "no command": (["lst"], ["command = 'lst'", "compare"]),
    "no folder": (["list", "nowhere"], ["folder = 'nowhere'"]),
    "no run": (["show", "runs"], ["holds no run"]),
    "one run": (["compare", "runs/first"], ["two folders"]),
    "not ended": (["compare", "runs/first", "runs/other"], ["has not come to its end"]),
    "cleaned early": (["clean", "runs/other", "--yes"], ["has not come to its end"]),
    "one value": (
        ["compare", "runs/first", "runs/second", "--axis", "batch-size"],
        ["axis = 'batch_size'", "runs/first and", "batch_size=512 in both"],
    ),
    "no axis": (["compare", "runs/first", "runs/second", "--axis", "speed"], ["axis = 'speed'"]),
}


@pytest.mark.few(3)
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_said(case, folder, capsys):
    argv, says = REFUSED[case]
    assert call(*argv) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert all(text in said for text in says), said


@pytest.mark.parametrize("command", ["compare", "clean"])
def test_a_run_that_was_interrupted_has_not_ended(command, folder, capsys):
    """It has results, of the methods that were through."""
    results = folder / "second" / "results.json"
    schema.write(results, dataclasses.replace(schema.read(results), complete=False))
    assert call(command, "runs/first", "runs/second") == 2
    assert "has not come to its end" in " ".join(capsys.readouterr().err.split())


APART = {
    ("runs/a", "runs/b"): ["a", "b"],
    ("new/two", "old/two"): ["new/two", "old/two"],
    ("x/new/two/r", "x/old/two/r", "y/new/two/r"): ["x/new/two/r", "x/old/two/r", "y/new/two/r"],
}


@pytest.mark.parametrize("paths", APART)
def test_runs_are_named_by_as_little_as_tells_them_apart(paths):
    assert runs._apart([Path(path) for path in paths]) == APART[paths]


@pytest.mark.wide
def test_several_runs_are_one_report(folder, capsys):
    assert call("compare", "runs/first", "runs/second", "--axis", "updates") == 0
    assert capsys.readouterr().out.strip() == "runs/compared/report.html"
    text = (folder / "compared" / "table.md").read_text()
    assert "sft @ updates=2" in text and "sft @ updates=3" in text
    assert call("compare", "runs/first", "runs/second") == 0
    assert "sft @ first" in (folder / "compared-2" / "table.md").read_text()
    assert "Means over the runs" not in text
    assert call("list") == 0 and "merged" in capsys.readouterr().out


def test_merged_runs_of_different_tasks_are_refused(folder, capsys):
    """They have no config.json: their results say of what they are."""
    from experiments.reporting import schema

    for name in ("first", "second"):
        (folder / name / "config.json").unlink()
    result = schema.read(folder / "second" / "results.json")
    result.benchmark["vocab"] = 7
    schema.write(folder / "second" / "results.json", result)
    assert call("compare", "runs/first", "runs/second") == 2
    assert "benchmark.vocab = 7" in capsys.readouterr().err


def test_a_run_with_a_damaged_method_is_listed_with_what_is_wrong(folder, capsys):
    (folder / "other" / "methods" / "sft.json").write_text("")
    assert call("list") == 0
    shown = capsys.readouterr().out
    assert "cannot be read: is damaged" in shown and "3 runs." in shown


def test_what_is_no_folder_among_the_checkpoints_goes_too(folder):
    saves = folder / "first" / "checkpoints"
    (saves / "notes").write_text("x")
    (folder / "kept").mkdir()
    (folder / "kept" / "x").write_text("x")
    (saves / "elsewhere").symlink_to(folder / "kept")
    assert call("clean", "runs/first", "--yes") == 0
    assert (folder / "kept" / "x").exists() and not (saves / "elsewhere").is_symlink()


def test_what_is_a_mean_over_the_runs_is_said(folder):
    several = [load(folder / "first"), load(folder / "second")]
    assert runs._means(several) == ""
    several[1].result.start["js"] = 7.0
    assert runs._means(several) == " Means over the runs: the start."
