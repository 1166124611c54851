"""Paths that flags give: what the system refuses is said of the path that it refused, under the
flag that gave it."""

from __future__ import annotations

import errno
import importlib
import os
from pathlib import Path

import pytest

from experiments import cli, devices, figures, paths
from experiments.commands import check_gradients
from experiments.storage import whole
from experiments.storage.run_folder import RunFolder
from fdiv.types import UsageError


def below_a_file(folder: Path) -> Path:
    (folder / "file").write_text("x")
    return folder / "file" / "below" / "deep"


def a_file(folder: Path) -> Path:
    (folder / "file").write_text("x")
    return folder / "file"


def a_dangling_link(folder: Path) -> Path:
    (folder / "link").symlink_to(folder / "nowhere")
    return folder / "link"


def below_a_dangling_link(folder: Path) -> Path:
    return a_dangling_link(folder) / "run"


def a_circle(folder: Path) -> Path:
    (folder / "circle").symlink_to(folder / "circle")
    return folder / "circle" / "run"


REFUSED = {  # a folder that cannot be -> what is said of it
    below_a_file: "lies below a file",
    a_file: "is a file where a folder is to be",
    a_dangling_link: "is a link to",
    below_a_dangling_link: "is a link to",
    a_circle: "link",
    (lambda folder: folder / ("x" * 300)): "a name that is too long",
    (lambda folder: folder / "new" / ("x" * 300)): "a name that is too long",
    (lambda folder: Path("/proc/fdiv")): "cannot be made",
}


@pytest.mark.parametrize("place", REFUSED, ids=lambda place: place.__name__)
def test_a_folder_that_cannot_be_is_refused_by_name(place, tmp_path):
    path = place(tmp_path)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(UsageError) as refused:
        paths.try_folder("out", path)
    assert refused.value.field == "out"
    assert refused.value.value == str(path)
    assert REFUSED[place] in refused.value.problem
    assert sorted(os.listdir(tmp_path)) == before


CODES = {
    errno.EROFS: "cannot be written",
    errno.EACCES: "cannot be written",
    errno.EPERM: "cannot be written",
    errno.ENOSPC: "full disk",
    errno.EDQUOT: "full disk",
    errno.EIO: "cannot be used",
}


@pytest.mark.parametrize("number", CODES, ids=errno.errorcode.get)
@pytest.mark.parametrize("where", ["mkdir", "write"])
def test_what_a_disk_refuses_is_said_before_anything_is_written(
    number, where, tmp_path, monkeypatch
):
    def refuse(*words, **more):
        raise OSError(number, os.strerror(number))

    if where == "mkdir":
        monkeypatch.setattr(Path, "mkdir", refuse)
    else:
        monkeypatch.setattr(paths.tempfile, "TemporaryFile", refuse)
    with pytest.raises(UsageError) as refused:
        paths.try_folder("cache", tmp_path / "new" / "run")
    assert refused.value.field == "cache"
    assert CODES[number] in refused.value.problem
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("runs/a/methods/sft.json", "out"),
        ("runs/a", "out"),
        ("runs", "out"),  # above it
        ("runs/a/cache/teachers/12", "cache"),
        ("data/rows.jsonl", "benchmark.path"),
        ("elsewhere", "file"),
    ],
)
def test_the_flag_whose_path_failed_is_named(path, field, tmp_path):
    flags = {
        "out": tmp_path / "runs/a",
        "cache": tmp_path / "runs/a/cache",
        "benchmark.path": tmp_path / "data/rows.jsonl",
        "none": None,
    }
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / path))
    refused = paths.unusable(error, flags, "what was saved is whole")
    assert refused.field == field
    assert refused.value == str(tmp_path / path)
    assert "full disk" in refused.problem
    assert refused.fix == "Free some space; what was saved is whole."


def test_an_error_without_a_path_blames_none(tmp_path):
    refused = paths.unusable(OSError(errno.EAGAIN, "try later"), {"out": tmp_path})
    assert refused.field == "system"
    assert "try later" in str(refused)


def test_a_path_that_has_gone_is_said_to_have(tmp_path):
    error = FileNotFoundError(errno.ENOENT, "No such file", str(tmp_path / "a/run/config.json"))
    refused = paths.unusable(error, {"out": tmp_path / "a/run"})
    assert "has gone" in refused.problem


def test_a_file_is_there_whole_or_as_it_was(tmp_path, monkeypatch):
    place = tmp_path / "report.html"
    whole.write_text(place, "first")
    with pytest.raises(KeyboardInterrupt), whole.draft(place) as draft:
        draft.write_text("half")
        raise KeyboardInterrupt
    with pytest.raises(OSError) as full, whole.draft(place) as draft:
        raise OSError(errno.ENOSPC, "full", str(draft))
    assert full.value.filename == str(place)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert place.read_text() == "first"


def test_homes_are_put_in_for_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    words = ["two-template", "--out=~/run", "--cache", "~/cache"]
    _, config = cli.parse("experiments.compare", words)
    assert config.output.out == tmp_path / "run"
    assert config.output.cache == tmp_path / "cache"
    _, config = cli.parse("experiments.compare", ["text", "--benchmark.path", "~/rows.jsonl"])
    assert config.benchmark.path == tmp_path / "rows.jsonl"


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (["two-template", "--out=~nobody-of-this-name/run"], "out"),
        (["two-template", "--cache=~nobody-of-this-name/run"], "cache"),
        (["text", "--benchmark.path=~nobody-of-this-name/rows"], "benchmark.path"),
    ],
)
def test_a_home_that_is_not_known_is_refused_under_its_flag(words, field):
    with pytest.raises(UsageError) as refused:
        cli.parse("experiments.compare", words)
    assert refused.value.field == field


def command(module: str, *words: str) -> int:
    """The exit code of a command: the `main` of a module of `experiments`."""
    return importlib.import_module(f"experiments.{module}").main(list(words))


SCRIPTS = {  # a command with its path left out, the flag that is named
    "figures": (["figures", "die", "--out={}"], "out"),
    "figures all": (["figures", "all", "--out={}"], "out"),
    "bench": (["bench.__main__", "--out={}"], "out"),
    "check_gradients": (["commands.check_gradients", "sft", "--out={}"], "out"),
    "sweep plan": (["sweep.__main__", "plan", "GRID", "--out={}"], "out"),
}


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("place", [below_a_file, a_dangling_link], ids=lambda place: place.__name__)
def test_every_script_tries_its_folder_before_it_works(name, place, tmp_path, monkeypatch, capsys):
    grid = tmp_path / "grid.yaml"
    grid.write_text("preset: two-template\nproduct: {seed: [0, 1]}\n")
    monkeypatch.setattr(check_gradients, "card", lambda *words: pytest.fail("it works"))
    monkeypatch.setattr("experiments.figures.__main__.figure", figure_that_fails)
    (module, *words), field = SCRIPTS[name]
    module = "figures.__main__" if module == "figures" else module
    path = place(tmp_path)
    words = [word.format(path).replace("GRID", str(grid)) for word in words]
    assert command(module, *words) == cli.USAGE_EXIT
    said = " ".join(capsys.readouterr().err.split())
    assert f"error: {field} = " in said
    assert REFUSED[place] in said


def figure_that_fails(key: str):
    """A figure whose making is a failure of the test."""
    whole = figures.figure(key)
    return whole._replace(make=lambda flags: pytest.fail("it works"))


def test_a_page_an_import_and_a_site_that_cannot_be_read_are_named(tmp_path, capsys):
    missing = str(tmp_path / "missing")
    for module, words, field in (
        ("commands.check_gradients", ["sft", "--page", missing], "page"),
        ("commands.check_gradients", ["sft", "--expect", missing], "expect"),
        ("commands.card", [f"--import={missing}.py"], "import"),
        ("commands.show_data", [missing], "benchmark.path"),
        ("sweep.__main__", ["status", missing], "dir"),
        ("sweep.__main__", ["plan", missing, "--out", str(tmp_path / "sweep")], "grid"),
    ):
        assert command(module, *words) == cli.USAGE_EXIT
        said = capsys.readouterr().err
        assert f"error: {field} = " in said
        assert "missing" in said


def test_homes_are_put_in_by_every_script(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.yaml").write_text("preset: two-template\nproduct: {seed: [0, 1]}\n")
    (tmp_path / "own.py").write_text("")
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n' * 2)
    words = ["plan", "~/grid.yaml", "--out=~/sweep", "--cost", "False", "--import=~/own.py"]
    assert command("sweep.__main__", *words) == 0
    cli.IMPORTED.pop()
    assert command("sweep.__main__", "status", "~/sweep") == 0
    assert (tmp_path / "sweep/plan.jsonl").is_file()
    assert command("figures.__main__", "die", "--out=~/figures") == 0
    assert (tmp_path / "figures/die/die.csv").is_file()
    command("commands.show_data", "~/rows.jsonl")
    assert "not a file" not in capsys.readouterr().err
    assert not (tmp_path / "~").exists()


def test_the_cache_of_the_environment_may_be_below_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FDIV_CACHE", "~/cache")
    assert devices.cache_folder(None) == tmp_path / "cache"
    assert devices.cache_folder(Path("~/other")) == tmp_path / "other"


UNSAVABLE = ["run[1]", "a\\b", "a\n\\b", "x[a]/below", "\udcff"]


@pytest.mark.parametrize("name", UNSAVABLE, ids=ascii)
def test_a_folder_below_which_no_save_could_be_read_is_refused_at_once(name, tmp_path):
    says = "this locale" if name == "\udcff" else "could not be read again"
    with pytest.raises(UsageError, match=says):
        RunFolder(tmp_path / name, {})
    assert not any(tmp_path.iterdir())
    for plain in ("run (1)", "a]b[c", "é|&$%{x}#?*'", "tab\t"):
        RunFolder(tmp_path / plain, {})


def test_a_path_of_thousands_of_folders_is_refused(tmp_path):
    with pytest.raises(UsageError, match="folders deep"):
        paths.try_folder("out", tmp_path.joinpath(*["a"] * 1500))
