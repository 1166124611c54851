"""Whose a run's folder is: with one finished update it belongs to its config, before that to
nobody."""

from __future__ import annotations

import pytest

from experiments.storage.run_folder import RunFolder, typed
from fdiv.types import UsageError

WORK = {  # what took a finished update to make
    "metrics.jsonl": '{"method": "sft", "seed": 0, "update": 3}\n',
    "checkpoints/sft/000000003/about.json": "{}",
    "checkpoints/teacher/000000003/about.json": "{}",
    "methods/sft.json": "{}",
    "results.json": "{}",
}
NO_WORK = {  # what a start leaves that was refused or killed before its first update
    "metrics.jsonl": '{"method": "sft", "seed": 0, "update": 0}\n',
    "samples.jsonl": '{"method": "start"}\n',
    "checkpoints/sft/draft-000000003/arrays": "x",
    "bad_rows.json": "[]",
}


COMMANDS = {  # as Python has it, as it is typed; the second is of earlier versions
    "/me/fdiv/experiments/commands/compare.py rlhf --seeds 3": "experiments.compare rlhf --seeds 3",
    "/me/fdiv/experiments/compare.py two-template": "experiments.compare two-template",
    "/me/experiments/fdiv/experiments/commands/train.py text": "experiments.train text",
    "/me/fdiv/experiments/sweep/__main__.py run s": "experiments.sweep run s",
    "experiments/commands/speed.py": "experiments.speed",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_told_as_it_is_typed(command):
    assert typed(command) == f"python -m {COMMANDS[command]}"


@pytest.mark.parametrize("command", ["/me/own.py --out x", "-c", "/me/experiments.py", ""])
def test_another_programs_command_is_left_as_it_is(command):
    assert typed(command) == command


def claimed(path, seed: int) -> RunFolder:
    folder = RunFolder(path, {"seed": seed})
    folder.create("preset", {})
    return folder


def put(path, name: str, text: str) -> None:
    (path / name).parent.mkdir(parents=True, exist_ok=True)
    (path / name).write_text(text)


@pytest.mark.parametrize("name", WORK)
def test_work_is_protected(name, tmp_path):
    claimed(tmp_path / "run", 0)
    put(tmp_path / "run", name, WORK[name])
    with pytest.raises(UsageError, match="another config: seed is 0 there and 1 here"):
        RunFolder(tmp_path / "run", {"seed": 1})
    assert (tmp_path / "run" / name).read_text() == WORK[name]
    assert RunFolder(tmp_path / "run", {"seed": 0}).begun


@pytest.mark.parametrize("name", NO_WORK)
def test_a_folder_without_one_finished_update_is_taken_over(name, tmp_path):
    claimed(tmp_path / "run", 0)
    put(tmp_path / "run", name, NO_WORK[name])
    (tmp_path / "run" / "notes.txt").write_text("the user's own")
    folder = RunFolder(tmp_path / "run", {"seed": 1})
    assert not folder.begun
    folder.create("preset", {})
    assert folder.begun
    assert not folder.lines("metrics.jsonl")
    assert not list(folder.path.glob("checkpoints/*"))
    assert (tmp_path / "run" / "notes.txt").read_text() == "the user's own"


def test_a_start_that_was_killed_before_its_config_is_no_obstacle(tmp_path):
    for name in ("leases", "methods", "figures"):
        (tmp_path / "run" / name).mkdir(parents=True)
    (tmp_path / "run" / ".draft-config.json").write_text("{")
    assert claimed(tmp_path / "run", 0).begun


FOREIGN = {  # what is no run's, and what is said of it
    "thesis.tex": "holds files that are no run's",
    "samples.jsonl": "holds files that are no run's",
    "figures/own.png": "holds files that are no run's",
    "metrics.jsonl": "holds files that are no run's",
    "config.json": "another config|damaged config.json",
}


@pytest.mark.parametrize("text", ['{"config": {"seed": 3}}', '{"hidden_size": 64}', "{half"])
@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_something_else_are_left_alone(name, text, tmp_path):
    """A model's folder has a config.json too."""
    put(tmp_path, name, text)
    if name == "config.json":
        put(tmp_path, "model.safetensors", "x")
    with pytest.raises(UsageError, match=FOREIGN[name]):
        RunFolder(tmp_path, {"seed": 0})
    assert (tmp_path / name).read_text() == text


@pytest.mark.parametrize("name", ["report.html", "table.md", "metrics.jsonl", "figures"])
def test_what_stands_in_the_way_of_the_end_is_moved_at_the_start(name, tmp_path, capsys):
    place = claimed(tmp_path / "run", 0).path / name
    if place.is_dir():
        place.rmdir()
        place.write_text("x")
    else:
        place.mkdir()
    claimed(tmp_path / "run", 0)
    assert (tmp_path / "run" / f"{name}.damaged").exists()
    assert not place.is_dir() or name == "figures"
    assert f"{name}.damaged" in capsys.readouterr().out


def test_a_path_of_the_same_home_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    RunFolder(tmp_path / "run", {"path": "~/rows"}).create("preset", {})
    put(tmp_path / "run", "methods/sft.json", "{}")
    assert RunFolder(tmp_path / "run", {"path": str(tmp_path / "rows")}).begun
