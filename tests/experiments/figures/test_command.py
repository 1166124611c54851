"""The command of figures and the page that it writes."""

from __future__ import annotations

import dataclasses
import json
import os
import signal

import matplotlib.pyplot as plt
import pytest

from experiments.figures import (
    KEYS,
    STUDIES,
    figure,
    gallery,
)
from experiments.figures import __main__ as command
from experiments.figures.common import base
from experiments.figures.common.published import Published


@dataclasses.dataclass(frozen=True)
class Stub:
    """A figure's flags."""

    size: int = 1
    """Any number."""


def stub(holds: bool = True, broken: bool = False) -> base.Figure:
    """A figure whose only check holds or not, or that cannot be made."""

    def make(flags):
        if broken:
            raise ArithmeticError("no such luck")
        check = base.Check("a check", holds, f"{flags.size} against 1")
        rows = [{"name": "x", "value": 2.0}]
        return base.Result({"a": {"b.c": 2.0}}, [check], rows, plt.figure(figsize=(1, 1)))

    return base.Figure(Stub, make, "A stub", "It claims nothing.", "nobody")


@pytest.fixture
def stubs(monkeypatch):
    """Three figures in place of all: one that holds, one whose check fails, one that raises."""
    made = {"good": stub(), "wrong": stub(holds=False), "broken": stub(broken=True)}
    monkeypatch.setattr(command, "KEYS", tuple(made))
    monkeypatch.setattr(command, "figure", made.__getitem__)
    published = [Published("a.b.c", 2, 0, "x"), Published("a.b.c", 3, 0, "y")]
    monkeypatch.setattr(gallery, "PUBLISHED", {"good": published})


def test_one_figure_leaves_its_files_and_its_table(tmp_path, capsys):
    flags = ["--faces", "4", "--loaded-probability", "0.7"]
    assert command.main(["die", *flags, "--out", str(tmp_path)]) == 0
    suffixes = {path.suffix for path in (tmp_path / "die").iterdir()}
    assert suffixes == {".pdf", ".png", ".csv", ".json"}
    kept = json.loads((tmp_path / "die" / "die.json").read_text())
    assert kept["flags"] == {"faces": 4, "loaded_probability": 0.7}
    assert all(check["pass"] for check in kept["checks"])
    shown = capsys.readouterr().out
    assert f"{kept['values']['forward_bits']:.6g}" in shown
    assert "11 of 11 checks hold" in shown


@pytest.fixture
def interrupts():
    """SIGINT is heard, which a shell has what it runs in the background ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_it_with_what_is_done(
    tmp_path, monkeypatch, stubs, interrupts, capsys, number
):
    def killed(flags):
        os.kill(os.getpid(), number)
        raise AssertionError("it went on")

    late = stub()._replace(make=killed)
    known = {"good": stub(), "late": late, "never": stub(broken=True)}
    monkeypatch.setattr(command, "KEYS", tuple(known))
    monkeypatch.setattr(command, "figure", known.__getitem__)
    before = signal.getsignal(signal.SIGTERM)
    out = ["--out", str(tmp_path)]
    assert command.main(["all", *out]) == 130
    said = " ".join(capsys.readouterr().err.split())
    assert "Stopped. late was not finished; those before it stay in" in said
    assert "(1 of 3 are made)" in said and "(late, never)" in said
    assert (tmp_path / "good" / "good.png").is_file()
    assert command.main(["late", *out]) == 130
    assert "late was not finished: none is kept. The same command" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["dice"], "The nearest: die"),
        (["die", "--faces", "1"], "faces = 1"),
        (["die", "--loaded-probability", "1.5"], "loaded_probability = 1.5"),
        (["kl_estimators", "--mean", "0", "--std", "1"], "nothing to estimate"),
        (["kl_estimators", "--std", "-1"], "std = -1"),
        (["kl_gradients", "--horizon", "20"], "Use a horizon of at most"),
        (["kl_gradients", "--perturbation", "0"], "perturbation = 0"),
        (["discriminator_rewards", "--arms", "1"], "arms = 1"),
        (["discriminator_rewards", "--pairs", "0"], "pairs = 0"),
        (["die", "--out", "README.md"], "is a file"),
    ],
)
def test_bad_flags_are_said_in_a_paragraph(argv, says, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").touch()
    assert command.main(argv) == 2
    assert says in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]  # nothing is written


def test_unknown_flags_and_help(capsys):
    for argv, code in ((["die", "--face", "6"], 2), (["die", "--help"], 0)):
        with pytest.raises(SystemExit) as ended:
            command.main(argv)
        assert ended.value.code == code
    assert "--loaded-probability" in capsys.readouterr().out
    assert command.main(["--help"]) == 0
    assert command.main([]) == 2


def test_exit_code_says_whether_checks_hold(stubs, tmp_path, capsys):
    assert command.main(["good", "--out", str(tmp_path)]) == 0
    assert command.main(["wrong", "--size", "3", "--out", str(tmp_path)]) == 1
    assert "FAIL  a check: 3 against 1" in capsys.readouterr().out


def test_all_makes_a_page_and_drops_nothing(stubs, tmp_path, capsys):
    assert command.main(["all", "--out", str(tmp_path)]) == 1
    page = (tmp_path / "index.html").read_text()
    for key in ("good", "wrong", "broken"):
        assert f"python -m experiments.figures {key}" in page
    assert page.count("<svg") == 2
    assert "ArithmeticError: no such luck" in page
    assert page.count(">agrees<") == page.count(">differs<") == 1
    assert "src=" not in page  # all of it is in the file
    assert "1 of 3 figures hold" in capsys.readouterr().out


@pytest.mark.parametrize("key", [*KEYS, *STUDIES])
def test_a_figure_says_what_it_is(key):
    known = figure(key)
    assert known.title
    assert known.claim.endswith(".")
    assert known.source
    known.flags()
