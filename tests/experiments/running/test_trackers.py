"""Trackers: names of the field beside ours, real libraries offline, and one that fails."""

from __future__ import annotations

import dataclasses
import sys
import types

import numpy as np
import pytest

from experiments.config import make_config
from experiments.running import trackers
from experiments.running.record import Report
from experiments.running.trackers import Opened, Tracker
from fdiv.types import UsageError

LINES = [{"seed": 0, "prompt": "p", "completion": "c"}]


@dataclasses.dataclass
class Noted:
    """A tracker's run that notes what it is told."""

    opened: Opened
    heard: list
    where = "https://x.y"

    def log(self, values, step):
        self.heard.append((self.opened.name, step, dict(values)))

    def alert(self, title, text):
        self.heard.append((self.opened.name, "alert", text))

    def texts(self, name, rows):
        self.heard.append((self.opened.name, name, len(rows)))

    def picture(self, name, path):
        self.heard.append((self.opened.name, name, path.name))

    def finish(self):
        self.heard.append((self.opened.name, "finish", None))


@pytest.fixture
def tracker(monkeypatch, tmp_path):
    heard: list = []
    monkeypatch.setitem(trackers.TRACKERS, "wandb", lambda opened: Noted(opened, heard))
    config = make_config(track=("wandb",), methods=("sft", "gail"), seeds=2, updates=100)
    (one,) = trackers.make(config, tmp_path / "run", heard.append)
    return one, heard


def report(method, update, seconds, **metrics):
    values = {name: np.array(value) for name, value in metrics.items()}
    return Report(method, update, 100, seconds, np.array([10.0, 20.0]), values or None)


def test_every_seed_is_a_run_under_the_fields_names(tracker):
    one, heard = tracker
    with one:
        one.resumed("sft", -1)
        one.progress(report("sft", 0, 0.0, gradient_norm=[1.0, 2.0], js=[0.3, np.nan]))
        one.progress(report("sft", 10, 1.0))  # between evaluations
        one.progress(report("sft", 20, 4.0, kl_to_reference=[0.1, 0.2]))
        one.samples("sft", LINES)
        one.alarm("sft", "collapsed")
        one.progress(report("gail", 0, 0.0, js=[0.1, 0.1]))
    first = dict(zip(("grad_norm", "fdiv/gradient_norm", "fdiv/js"), (1.0, 1.0, 0.3)))
    pace = {"num_tokens": 10.0, "learning_rate": 0.05}
    assert heard[0] == ("sft-0", 0, first | pace)
    assert heard[1][2].keys() == {"grad_norm", "fdiv/gradient_norm", "num_tokens", "learning_rate"}
    third = heard[2]
    assert third[:2] == ("sft-0", 20) and third[2]["kl"] == third[2]["fdiv/kl_to_reference"] == 0.1
    assert third[2]["step_time"] == 0.2  # 4 seconds over 20 updates
    # cosine: half of (1 + cos(pi / 5)) of .05
    assert third[2]["learning_rate"] == pytest.approx(0.05 * 0.5 * (1 + np.cos(np.pi / 5)))
    assert heard[4:8] == [
        ("sft-0", "samples", 1),
        ("sft-0", "alert", "collapsed"),
        ("sft-0", "finish", None),
        ("sft-1", "finish", None),
    ]
    assert [entry[0] for entry in heard[8:]] == ["gail-0", "gail-1", "gail-0", "gail-1"]


def test_a_run_that_goes_on_has_its_key_again(tracker, tmp_path):
    one, _ = tracker
    one._try(one._run, "sft", 1)
    opened = one._open["sft", 1].opened
    assert opened.group == "sft" and opened.project == "fdiv" and opened.after == -1
    (again,) = trackers.make(one._config, tmp_path / "run", print)
    again.resumed("sft", 40)
    other = again._run("sft", 1).opened
    again._run("sft", 0)
    kept = trackers.runs(tmp_path / "run")
    assert [(run["name"], run["id"], run["where"]) for run in kept] == [
        ("sft-1", opened.key, "https://x.y"),
        ("sft-0", again._run("sft", 0).opened.key, "https://x.y"),
    ]
    assert other.key == opened.key != again._run("sft", 0).opened.key and other.after == 40


def test_the_end_is_a_run_of_its_own(tracker, tmp_path):
    one, heard = tracker
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "curves.png").write_bytes(b"")
    (tmp_path / "table.md").write_text("| a |")
    one.report(tmp_path)
    assert [entry[1] for entry in heard] == ["figures/curves", "table", "finish"]


def test_a_tracker_that_fails_is_left_and_said_once(tracker, monkeypatch):
    one, heard = tracker

    def fails(*arguments):
        raise ConnectionError("no route to host\nmore")

    monkeypatch.setattr(Noted, "log", fails)
    with one:
        for update in (0, 10):
            one.progress(report("sft", update, 1.0, js=[0.1, 0.1]))
        one.alarm("sft", "x")
    assert heard == ["wandb is left: no route to host. The run goes on without it."]


@pytest.mark.parametrize(
    ("name", "says"), [("neptune", "trackio, wandb"), ("wandb", "pip install wandb")]
)
def test_what_cannot_be_used_is_said_before_anything_runs(name, says, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as where it is not installed
    with pytest.raises(UsageError, match=says):
        trackers.check([name])


BROKEN = {  # what a library's name leads to -> what is said
    "a folder of its own runs": (types.ModuleType("wandb"), "No module named 'wandb'"),
    "no library": (None, "pip install wandb"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_library_that_is_none_is_said_before_anything_runs(case, monkeypatch):
    module, says = BROKEN[case]
    monkeypatch.setitem(sys.modules, "wandb", module)
    with pytest.raises(UsageError, match=says):
        trackers.check(["wandb"])


def test_a_library_that_breaks_as_it_loads_and_one_named_twice_are_said(tmp_path, monkeypatch):
    (tmp_path / "wandb.py").write_text("raise AttributeError('another version of numpy')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", types.ModuleType("wandb"))  # put back at the end
    del sys.modules["wandb"]
    with pytest.raises(UsageError, match="another version of numpy"):
        trackers.check(["wandb"])
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(__file__="here"))
    with pytest.raises(UsageError, match="named twice"):
        trackers.check(["wandb", "wandb"])


@pytest.mark.parametrize("error", [SystemExit(1), RuntimeError(), ValueError("")], ids=repr)
def test_whatever_a_tracker_does_the_run_goes_on(error, tracker, monkeypatch):
    one, heard = tracker

    def fails(*arguments):
        raise error

    monkeypatch.setattr(Noted, "log", fails)
    with one:
        one.progress(report("sft", 0, 1.0, js=[0.1, 0.1]))
    assert len(heard) == 1 and heard[0].startswith("wandb is left: ")


def test_arguments_that_a_library_does_not_take_are_left_out(monkeypatch, tmp_path):
    """Trackio of an early version knows neither groups nor steps."""
    heard = []
    old = types.ModuleType("trackio")
    run = types.SimpleNamespace(log=lambda metrics: heard.append(metrics), finish=lambda: None)
    old.init = lambda project, name=None, config=None: run
    monkeypatch.setitem(sys.modules, "trackio", old)
    own = trackers.Trackio(Opened("fdiv", "sft", "sft-0", "k", -1, tmp_path, {}))
    own.log({"loss": 1.0}, 3)
    own.alert("a", "b"), own.texts("t", LINES), own.picture("p", tmp_path), own.finish()
    assert heard == [{"loss": 1.0}]


# --- the real ones, where they are installed ------------------------------------------------------


def followed(kind, path):
    config = make_config(track=(kind,), methods=("sft",), seeds=2, updates=100)
    said: list[str] = []
    with Tracker(kind, config, path, said.append) as one:
        one.resumed("sft", -1)
        for update in (0, 50, 100):
            one.progress(report("sft", update, update / 10, js=[0.1 * update, 0.2]))
        one.samples("sft", LINES)
        one.alarm("sft", "collapsed")
    return said


def test_tensorboard_files_are_read_back(tmp_path):
    pytest.importorskip("tensorboardX")
    assert followed("tensorboard", tmp_path) == []
    events = [*(tmp_path / "trackers" / "tensorboard" / "sft-0").glob("events*")]
    content = events[0].read_bytes()
    assert all(name in content for name in (b"fdiv/js", b"num_tokens", b"step_time", b"collapsed"))


def test_wandb_offline_keeps_a_run_for_each_seed(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert followed("wandb", tmp_path) == []
    kept = [*tmp_path.rglob("*.wandb")]
    assert len(kept) == 2 and all(b"fdiv/js" in p.read_bytes() for p in kept)


def test_trackio_is_local(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    assert followed("trackio", tmp_path) == []
    assert any((tmp_path / "trackio").rglob("*"))
