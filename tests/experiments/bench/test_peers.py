"""Ours and a peer in turn: a peer in plain Python, and the whole command on works that are made
up."""

import dataclasses
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import cli
from experiments.bench import __main__ as bench
from experiments.bench import machine, measure, small_works, works
from experiments.bench.machine import Pace
from experiments.bench.peer import FOLDER, Peer, PeerFailed
from experiments.devices import cores
from experiments.models import counts

FAKE = """
import sys


def sft(line, asked):
    print("said by a library")
    if asked["prompt"] == 0:
        raise ValueError("no prompt\\nat all")
    if asked["prompt"] == 99:
        sys.exit("it fell")
    line.serve(lambda updates: 10.0 * updates, {"batch": asked["batch"]}, ["pip"])


def grpo(line, asked):
    step_ended = line.timed(7.0, {}, [])
    while True:
        step_ended()


WORKS = {"sft": sft, "grpo": grpo}
"""


@pytest.fixture
def script(tmp_path) -> Path:
    path = tmp_path / "fake_peer.py"
    path.write_text(FAKE)
    return path


def begun(script: Path, **asked) -> Peer:
    asked = {"work": "sft", "batch": 4, "prompt": 2, **asked}
    return Peer(Path(sys.executable), script, asked, script.with_suffix(".log"))


def test_a_peer_answers_as_often_as_it_is_asked(script):
    peer = begun(script)
    assert peer.settings == {"batch": 4}
    assert set(peer.versions) == {"pip"}
    assert [peer.repeat(n).tokens for n in (1, 3)] == [10, 30]
    assert peer.repeat(2).seconds >= 0
    peer.close()
    assert "said by a library" in script.with_suffix(".log").read_text()


def test_a_trainers_steps_are_counted(script):
    peer = begun(script, work="grpo")
    assert [peer.repeat(n).tokens for n in (2, 1)] == [14, 7]
    peer.close()


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"prompt": 0}, "ValueError: no prompt"),
        ({"prompt": 99}, "it fell"),
        ({"work": "nothing"}, "KeyError"),
    ],
)
def test_a_peer_that_fails_says_why(asked, reason, script):
    with pytest.raises(PeerFailed, match=reason):
        begun(script, **asked)


def test_sides_take_turns():
    """Updates of .25 s and 2 s: four and one make a repeat of a second; who begins changes."""
    order = []

    def side(name, seconds):
        def repeat(updates):
            order.append((name, updates))
            return measure.Taken(updates * seconds, updates * 100.0)

        return repeat

    paces = iter([Pace(1, 10), Pace(3, 30), Pace(2, 20)])
    sides = [side("ours", 0.25), side("peer", 2.0)]
    (ours, peer), pace = measure.in_turn(sides, lambda: next(paces), repeats=3, seconds=1.0)
    turns = [("ours", 4), ("peer", 1)]
    assert order == [("ours", 1), ("peer", 1), *turns, *turns[::-1], *turns]
    assert ours == ((0.25,) * 3, 100)
    assert peer == ((2.0,) * 3, 100)
    assert pace == Pace(2, 20)


def test_the_machines_pace_is_measured():
    pace = machine.Gauge(side=64, large=1 << 12)(seconds=0.002)
    assert pace.flops > 1e6 and pace.bytes > 1e6
    assert cores.usable() >= 1
    assert re.match(r"\d+ cores, .*jax \d", machine.description())


def test_requirements_are_pinned():
    files = sorted(FOLDER.glob("requirements*.txt"))
    assert len(files) == 2
    for file in files:
        lines = [x for x in file.read_text().splitlines() if not x.startswith("#")]
        assert lines and all(re.fullmatch(r"[\w-]+==[\w.]+", x) for x in lines), file


def test_every_work_of_a_language_model_has_a_peer():
    text = (FOLDER / "trl_peer.py").read_text()
    table = text[text.index("WORKS = {") :]
    assert set(re.findall(r'^    "(\w+)":', table, flags=re.M)) == set(works.WORKS)


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def made_up(monkeypatch, tmp_path, script):
    """SFT at once, sampling that fails, a machine that is not measured, and the fake peer."""

    def sft(shape, model):
        step = lambda updates: updates * 10.0
        return works.Ours(step, counts.together(counts.Phase("", 1e3, 0, 0)), {"made": "up"})

    def fails(shape, model):
        raise ValueError("no such thing")

    for name, build in (("sft", sft), ("sampling", fails)):
        monkeypatch.setitem(works.WORKS, name, works.WORKS[name]._replace(build=build))
    monkeypatch.setattr(machine, "Gauge", lambda **_: lambda: Pace(1e9, 1e9))
    (tmp_path / "trl_peer.py").write_text(script.read_text())
    monkeypatch.setattr(bench, "FOLDER", tmp_path)
    # programs of other tests would be let go, and traced again
    monkeypatch.setattr(bench, "_forget", lambda: None)
    return tmp_path


def call(place: Path, *words: str, out: str = "out") -> int:
    own = ["--out", str(place / out), "--page", str(place / "page.md")]
    return bench.main(["--seconds", "0.001", "--repeats", "2", *own, *words])


def test_one_work_that_fails_leaves_the_others(made_up, capsys):
    words = ["--works", "sampling", "sft", "--sizes", "w64"]
    assert call(made_up, *words, "--peers", sys.executable) == 1
    kept = json.loads((made_up / "out" / "bench.json").read_text())
    assert [row["work"] for row in kept] == ["sampling", "sft"]
    assert kept[0]["error"] == "ValueError: no such thing"
    assert kept[1]["peer"]["settings"] == {"batch": 32}
    assert len(kept[1]["ratios"]) == 2
    text = (made_up / "page.md").read_text()
    assert "failed: ValueError: no such thing" in text and "![ours and the peers]" in text
    assert (made_up / "out" / "bench.png").exists() and (made_up / "bench.png").exists()
    assert "sft w64" in capsys.readouterr().out


def test_rows_of_earlier_runs_into_a_folder_stay(made_up, capsys):
    assert call(made_up, "--works", "sft", "--sizes", "w64") == 0
    assert call(made_up, "--works", "sft", "--sizes", "w256") == 0
    kept = json.loads((made_up / "out" / "bench.json").read_text())
    assert [row["size"] for row in kept] == ["w64", "w256"]
    text = (made_up / "page.md").read_text()
    assert "| width 64, 2 layers |" in text and "| width 256, 4 layers |" in text
    (made_up / "out" / "bench.json").write_text('[{"nothing": 1}]')
    assert call(made_up, "--works", "sft", "--sizes", "w64") == cli.USAGE_EXIT
    assert "Give another folder" in capsys.readouterr().err


def test_the_chart_of_a_page_with_more_works_stays(made_up):
    """Of a run of a part, into a folder of its own."""
    words = ["--peers", sys.executable, "--sizes", "w64", "--works", "sft"]
    assert call(made_up, *words, "sampling") == 1
    (made_up / "bench.png").write_bytes(b"of both")
    assert call(made_up, *words, out="part") == 0
    assert (made_up / "part" / "bench.png").exists()
    assert (made_up / "bench.png").read_bytes() == b"of both"
    assert "failed: ValueError: no such thing" in (made_up / "page.md").read_text()
    assert call(made_up, *words, "sampling", out="part") == 1
    assert (made_up / "bench.png").read_bytes() != b"of both"


def test_another_precision_has_a_row_of_its_own(made_up):
    words = ["--works", "sft", "--sizes", "w64"]
    assert call(made_up, *words) == 0
    assert call(made_up, *words, "--precision", "bfloat16") == 0
    kept = json.loads((made_up / "out" / "bench.json").read_text())
    assert [row["size"] for row in kept] == ["w64", "w64-bfloat16"]
    assert [len(row["wanted"]) for row in kept] == [1, 0]
    assert "| width 64, 2 layers, bfloat16 |" in (made_up / "page.md").read_text()


def test_a_peer_that_is_not_there_leaves_ours_and_the_bound(made_up):
    words = ["--works", "sft", "--sizes", "w64"]
    assert call(made_up, *words, "--peers", str(made_up / "nowhere")) == 0
    (row,) = json.loads((made_up / "out" / "bench.json").read_text())
    assert row["peer"] is None and row["bound"]["flops"] == 1e3
    assert "make bench-peers" in row["peer_missing"]


def test_sides_that_are_measured_apart_make_one_row(made_up, capsys):
    words = ["--works", "sft", "--sizes", "w64", "--peers", sys.executable, "--sides"]
    assert call(made_up, *words, "peer") == cli.USAGE_EXIT  # there is nothing to join
    assert "--sides ours before" in capsys.readouterr().err
    assert call(made_up, *words, "ours") == 0
    (ours,) = json.loads((made_up / "out" / "bench.json").read_text())
    assert ours["peer"] is None and ours["peer_missing"] == "not asked for"
    assert call(made_up, *words, "peer") == 0
    (both,) = json.loads((made_up / "out" / "bench.json").read_text())
    assert both["ours"] == ours["ours"] and both["bound"] == ours["bound"]
    assert both["peer"]["settings"]["batch"] == 32 and not both["peer_missing"]
    assert len(both["ratios"]) == 2


def test_a_peer_that_fails_alone_leaves_ours(made_up):
    words = ["--works", "sft", "--sizes", "w64", "--sides"]
    assert call(made_up, *words, "ours") == 0
    assert call(made_up, *words, "peer", "--peers", str(made_up / "nowhere")) == 0
    (row,) = json.loads((made_up / "out" / "bench.json").read_text())
    assert row["ours"] and row["peer"] is None and "make bench-peers" in row["peer_missing"]


def test_a_model_that_is_not_there_is_said_in_its_row(made_up):
    words = ["--works", "sft", "--sizes", "smollm2", "--model", str(made_up / "nowhere")]
    assert call(made_up, *words) == 1
    assert "make smollm2" in (made_up / "page.md").read_text()


@pytest.mark.parametrize(
    ("words", "field"),
    [(["--repeats", "0"], "repeats"), (["--seconds", "0"], "seconds"),
     (["--sides", "ours", "--works", "start"], "sides"), (["--devices", "999"], "devices"),
     (["--profile", "nothing:gail"], "profile"), (["--profile", "two-template"], "profile"),
     (["--profile", "two-template:sft", "--precision", "bfloat16"], "precision"),
     (["--profile", "two-template:sft", "--devices", "1"], "devices")],
)  # fmt: skip
def test_what_cannot_be_is_refused(words, field, tmp_path, capsys):
    own = ["--out", str(tmp_path / "out"), "--page", str(tmp_path / "page.md")]
    assert bench.main([*own, *words]) == cli.USAGE_EXIT
    assert f"error: {field}" in capsys.readouterr().err
    assert not (tmp_path / "page.md").exists()


def test_the_order_is_small_works_first():
    jobs = bench._jobs(bench.Options())
    assert jobs[0] == ("sft", "w64") and jobs[-1] == ("sampling", "smollm2")
    assert len(jobs) == len(set(jobs)) == 5 + 5 + 2 + 3 + 2
    assert {work for work, _ in jobs} == set(bench.ORDER)


# --- our side -------------------------------------------------------------------------------------

TINY = works.Shape("tiny", 11, 8, 1, 24, 2, 1, batch=2, prompt=2, new=3)


@pytest.mark.wide
@pytest.mark.parametrize("name", works.WORKS)
def test_our_side_of_each_work(name):
    ours = works.WORKS[name].build(TINY, Path())
    rows = 8 if name == "grpo" else 2  # one prompt, eight answers
    tokens = rows * (5 if name == "sft" else 3)
    assert [ours.step(n) for n in (1, 2)] == [tokens, 2 * tokens]
    assert ours.counted.flops > 0
    assert works.asked(name, TINY, Path()).get("batch") == rows


def test_both_sides_and_the_bound_take_the_precision():
    """Weights that are read weigh half; those that are trained, and their moments, do not."""
    half = dataclasses.replace(TINY, precision="bfloat16")
    assert works.architecture(half, Path()).precision == "bfloat16"
    assert works.asked("grpo", half, Path())["precision"] == "bfloat16"
    moved = lambda shape: [
        p.bytes for p in counts.sampling(shape.dimensions, 2, 2, 3, weight=shape.weight)
    ]
    weights = TINY.dimensions.kernels + TINY.dimensions.head
    assert np.subtract(moved(TINY), moved(half)).tolist() == [
        2 * TINY.dimensions.kernels,
        2 * 3 * weights,
    ]


@pytest.mark.wide
def test_our_side_of_gail():
    step, settings, _ = small_works.gail()
    assert step(2) == 2 * 512 * 6
    assert settings["seeds"] == 1
