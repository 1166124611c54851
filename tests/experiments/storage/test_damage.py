"""Damaged files of a run and of a sweep: set aside by name and made again, never a traceback, never
another number."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import cli
from experiments.commands import compare
from experiments.evaluation import class_optimum
from experiments.reporting import schema
from experiments.storage import files, run_folder
from experiments.storage.run_folder import LINES
from experiments.sweep import slurm, status
from experiments.sweep.folder import End, Line, SweepFolder, plan_text
from experiments.sweep.plan import _refuse_if_taken
from fdiv.types import UsageError

FLAGS = [
    *[
        "two-template",
        "--benchmark.vocab",
        "2",
        "--benchmark.horizon",
        "3",
        "--policy.name",
        "full",
    ],
    *[
        "--seeds",
        "2",
        "--updates",
        "8",
        "--batch-size",
        "8",
        "--evaluations",
        "1",
        "--samples",
        "8",
        "--methods",
        "sft",
    ],
    *["--temperatures", "1.0", "--report", "False"],
]


def run(folder: Path) -> int:
    return cli.run(compare.main, "experiments.compare", [*FLAGS, "--out", str(folder)])


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run that has come to its end."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert run(folder) == 0
    return folder


LINES_OF_PLAN: list[Line] = [
    {
        "line": i,
        "preset": "two-template",
        "flags": ["--learning-rate", rate],
        "point": {"learning_rate": float(rate)},
        "imports": [],
        "config": {"learning_rate": float(rate)},
    }
    for i, rate in enumerate(["0.1", "0.2", "0.3"])
]


@pytest.fixture
def sweep(tmp_path) -> SweepFolder:
    """Three lines, of which the first is done."""
    for part in ("runs", "ends", "leases", "logs", "slurm"):
        (tmp_path / "sweep" / part).mkdir(parents=True)
    (tmp_path / "sweep" / "plan.jsonl").write_text(plan_text(LINES_OF_PLAN))
    made = SweepFolder(tmp_path / "sweep")
    made.keep_end(made.lines[0], "done", "", 33.0)
    return made


# --- what is done to a file -----------------------------------------------------------------------


def edited(change: Callable[[dict], Any]) -> Callable[[Path], None]:
    """A file whose object is changed by a hand that leaves its checksum."""

    def damage(path: Path) -> None:
        value = json.loads(path.read_text())
        path.write_text(json.dumps(change(value) or value))

    return damage


def first_number(value: Any, new: Any) -> bool:
    """Change the first number met, whole numbers of versions aside."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if isinstance(item, (int, float)) and not isinstance(item, bool) and key != "schema":
            value[key] = new
            return True
        if isinstance(item, (dict, list)) and first_number(item, new):
            return True
    return False


def without_a_key(value: dict) -> dict:
    """Without a field, and without the checksum: as of an earlier version that lacked both."""
    keys = [key for key in value if key not in ("checksum", "schema")]
    inner = value[keys[0]]
    if isinstance(inner, dict) and inner:  # files of named entries, any of which may lack
        inner.pop(next(iter(inner)))
    else:
        value.pop(keys[0])
    value.pop("checksum")
    return value


def folder_in_place(path: Path) -> None:
    path.unlink()
    (path / "x").mkdir(parents=True)


def doubled(path: Path) -> None:
    text = path.read_text().strip()
    path.write_text(text[:-1] + ', "checksum": "0"}')


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "its last bytes lost": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "random bytes": lambda path: path.write_bytes(np.random.default_rng(0).bytes(300)),
    "UTF-16": lambda path: path.write_bytes(path.read_text().encode("utf-16")),
    "a list": lambda path: path.write_text(f"[{path.read_text()}]"),
    "no field": lambda path: path.write_text("{}"),
    "null": lambda path: path.write_text("null"),
    "a number": lambda path: path.write_text("390"),
    "one field of another name": edited(
        lambda v: {"x" + k if k != "checksum" else k: v[k] for k in v}
    ),
    "another number": edited(lambda v: first_number(v, 390) and None),
    "a number as text": edited(lambda v: first_number(v, "33") and None),
    "NaN": edited(lambda v: first_number(v, float("nan")) and None),
    "a field lost": edited(without_a_key),
    "a key twice": doubled,
    "deep": lambda path: path.write_text("[" * 100_000),
    "deep in an object": lambda path: path.write_text('{"a":' * 50_000 + "1" + "}" * 50_000),
    "a long number": lambda path: path.write_text('{"a": ' + "9" * 9000 + "}"),
    "a folder": folder_in_place,
}
READ: dict[str, Callable[[Path], Any]] = {  # file of a run -> what reads it
    "methods/sft.json": lambda path: files.read(path, schema.method),
    "results.json": schema.kept,
    "class_optimum.json": lambda path: files.read(path, class_optimum._optima),
}


@pytest.mark.few(20)
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", READ)
def test_a_damaged_file_of_a_run_is_set_aside(name, damage, finished, tmp_path, capsys):
    path = tmp_path / Path(name).name
    shutil.copy(finished / name, path)
    assert READ[name](path) is not None
    capsys.readouterr()
    DAMAGE[damage](path)
    assert READ[name](path) is None
    assert not path.exists()
    said = capsys.readouterr().out
    assert str(path) in said and f"{path.name}.damaged" in said and len(said) < 600
    assert READ[name](path) is None  # and nothing more is said of what is not there
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["methods/sft.json", "results.json"])
def test_a_file_of_a_newer_version_is_refused_and_left(name, finished, tmp_path):
    path = tmp_path / "file.json"
    value = json.loads((finished / name).read_text()) | {"schema": schema.VERSION + 1}
    value.pop("checksum")
    files.write_checked(path, value)
    with pytest.raises(UsageError, match="newer version"):
        READ[name](path)
    assert path.is_file()


@pytest.mark.parametrize("damage", [name for name in DAMAGE if name != "a field lost"])
@pytest.mark.few(7)
def test_a_damaged_config_is_refused_by_name(damage, finished, tmp_path, capsys):
    """Whose the folder is cannot be told without it: nothing is taken over."""
    folder = shutil.copytree(finished, tmp_path / "run")
    DAMAGE[damage](folder / "config.json")
    before = sorted(folder.rglob("*"))
    assert run(folder) == cli.USAGE_EXIT
    said = " ".join(capsys.readouterr().err.split())
    assert "config.json" in said and "damaged" in said
    assert sorted(folder.rglob("*")) == before


# --- lines ----------------------------------------------------------------------------------------

BAD_LINES = {
    "half a line": lambda line: line[: len(line) // 2],
    "a list": lambda line: b"[1]",
    "no method": lambda line: line.replace(b'"method"', b'"other"'),
    "a seed in words": lambda line: line.replace(b'"seed": 0', b'"seed": "0"'),
    "a seed below 0": lambda line: line.replace(b'"seed": 0', b'"seed": -1'),
    "not UTF-8": lambda line: line[:-2] + b"\xff\xfe}",
    "a key twice": lambda line: line[:-1] + b', "seed": 1}',
    "deep": lambda line: b"[" * 100_000,
    "zeros": lambda line: bytes(len(line)),
}


@pytest.mark.parametrize("damage", BAD_LINES)
@pytest.mark.parametrize("name", LINES)
def test_a_damaged_line_is_set_aside_and_the_others_stay(name, damage, finished, tmp_path, capsys):
    whole = (finished / name).read_bytes().splitlines()
    number = next(i for i, line in enumerate(whole) if b'"seed": 0' in line)
    bad = BAD_LINES[damage](whole[number])
    path = tmp_path / name
    path.write_bytes(b"\n".join([*whole[:number], bad, *whole[number + 1 :], b""]))
    others = [json.loads(line) for i, line in enumerate(whole) if i != number]
    assert files.read_lines(path, LINES[name]) == others
    said = capsys.readouterr().out
    assert str(path) in said and f"line {number + 1}" in said
    assert (tmp_path / f"{name}.damaged").read_bytes() == bad + b"\n"
    assert files.read_lines(path, LINES[name]) == others  # once is enough
    assert capsys.readouterr().out == ""


def test_a_last_line_that_a_kill_cut_off_is_no_damage(finished, tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes((finished / "metrics.jsonl").read_bytes()[:-9])
    assert len(files.read_lines(path, LINES["metrics.jsonl"])) > 1
    assert capsys.readouterr().out == ""


# --- a run made whole again -----------------------------------------------------------------------


def numbers(folder: Path) -> tuple[Any, Any]:
    """What the table says, without times."""
    whole = json.loads((folder / "results.json").read_text())
    return whole["methods"]["sft"]["metrics"], whole["class_optimum"]


def test_a_lost_method_is_written_again_from_the_results(finished, tmp_path, capsys):
    folder = shutil.copytree(finished, tmp_path / "run")
    DAMAGE["another number"](folder / "methods/sft.json")
    assert run(folder) == 0
    assert "Already done" in capsys.readouterr().out
    assert (folder / "methods/sft.json").read_bytes() == (
        finished / "methods/sft.json"
    ).read_bytes()


@pytest.mark.parametrize("names", [("results.json",), (*READ, *LINES)], ids=["results", "all"])
@pytest.mark.few(1)
def test_what_is_lost_is_made_again_with_the_same_numbers(names, finished, tmp_path, capsys):
    folder = shutil.copytree(finished, tmp_path / "run")
    for name in names:
        DAMAGE["truncated" if name in READ else "zeros"](folder / name)
    (folder / "metrics.jsonl").open("ab").write(b"\n")
    capsys.readouterr()
    assert run(folder) == 0
    assert numbers(folder) == numbers(finished)
    said = capsys.readouterr().out
    for name in names:
        assert str(folder / name) in said
    for name in LINES:
        lines = files.read_lines(folder / name, LINES[name])
        assert len(lines) == len(files.read_lines(finished / name, LINES[name]))


@pytest.mark.parametrize("name", run_folder.TABLES)
@pytest.mark.few(1)
def test_a_folder_in_the_place_of_a_table_is_set_aside(name, finished, tmp_path, capsys):
    folder = shutil.copytree(finished, tmp_path / "run")
    folder_in_place(folder / name)
    assert run(folder) == 0
    assert (folder / name).is_file() and (folder / f"{name}.damaged").is_dir()


# --- a sweep --------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_end_opens_its_line_again(damage, sweep, capsys):
    path = sweep.path / "ends" / "0000.json"
    assert (sweep.end(sweep.lines[0]) or {})["state"] == "done"
    DAMAGE[damage](path)
    assert [line["line"] for line in sweep.open_lines()] == [0, 1, 2]
    assert str(path) in capsys.readouterr().out
    assert status.rows(sweep)[0].state == "not started"


def test_an_end_of_no_known_state_is_damage(sweep):
    end: End = {"state": "dnoe", "reason": "", "seconds": 0.0, "worker": {}}
    (sweep.path / "ends" / "0001.json").write_text(json.dumps(end))
    assert sweep.end(sweep.lines[1]) is None


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_submission_is_set_aside(damage, sweep, capsys):
    path = sweep.path / "slurm" / "0001.json"
    files.write_checked(path, {"job": "7", "shares": [[0], [1, 2]], "site": {}})
    assert slurm.share(sweep, 1, 1) == [1, 2]
    DAMAGE[damage](path)
    with pytest.raises(UsageError, match=r"0001\.json.*damaged"):
        slurm.share(sweep, 1, 1)
    assert slurm.submissions(sweep) == []
    assert str(path) in capsys.readouterr().out


PLANS: dict[str, Callable[[list[bytes]], bytes]] = {
    "another flag": lambda lines: b"\n".join([lines[0].replace(b"0.1", b"0.7"), *lines[1:]]),
    "a line lost": lambda lines: b"\n".join([lines[0], *lines[2:]]),
    "its end lost": lambda lines: b"\n".join(lines[:2]) + b"\n",
    "cut off": lambda lines: b"\n".join(lines)[:-30],
    "a line twice": lambda lines: b"\n".join([lines[0], *lines]),
    "zeros": lambda lines: b"\n".join([bytes(99), *lines[1:]]),
    "a list": lambda lines: b"\n".join([b"[]", *lines[1:]]),
}


@pytest.mark.parametrize("damage", PLANS)
def test_a_damaged_plan_is_refused_and_planned_again(damage, sweep):
    path = sweep.path / "plan.jsonl"
    path.write_bytes(PLANS[damage](path.read_bytes().splitlines()))
    with pytest.raises(UsageError, match=r"plan\.jsonl"):
        SweepFolder(sweep.path)
    _refuse_if_taken(sweep.path, LINES_OF_PLAN)  # the same grid may write it again
    other: list[Line] = [{**line, "flags": ["--seeds", "2"]} for line in LINES_OF_PLAN]
    with pytest.raises(UsageError, match="another plan"):
        _refuse_if_taken(sweep.path, other)


@pytest.mark.parametrize("text", ["[1]", "7", "null", "\udcff", "[" * 100_000, ""])
def test_a_damaged_lease_is_somebodys(text, sweep):
    (sweep.leases / "0001.0001").write_bytes(text.encode("utf-8", "surrogateescape"))
    (sweep.leases / "0002.0001").mkdir()
    (sweep.leases / "0001.0001-copy").write_text("x")
    assert status.rows(sweep)[1].state == "running"
