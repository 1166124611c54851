"""Methods several at a time: what is chosen, what a fault or a stop does to the others, and that no
number depends on it."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from typing import NamedTuple

import numpy as np
import pytest

from experiments import assemble, cli, devices
from experiments.commands import compare
from experiments.config import make_config
from experiments.devices import lay_out
from experiments.evaluation import class_optimum
from experiments.running import method, side_by_side, train
from experiments.running.record import Recorder
from experiments.running.stopping import Interrupted, StopFlag
from experiments.storage import checkpoints
from experiments.storage.run_folder import RunFolder
from fdiv.benchmarks import TwoTemplate
from fdiv.policies import Architecture
from fdiv.types import UsageError

pytestmark = pytest.mark.usefixtures("few_logged")

SMALL = {
    "benchmark": TwoTemplate(vocab=2, horizon=3),
    "methods": ("sft", "js", "gail"),
    "seeds": 2,
    "policy": Architecture("full"),
}
AS_MANY_AS = {  # what differs from a small run -> methods at a time, on two cores
    "a table on a CPU": ({}, 2),
    "one method": ({"methods": ("sft",)}, 1),
    "one at a time": ({"devices": devices.Devices(at_once=1)}, 1),
    "more than cores": ({"devices": devices.Devices(at_once=8)}, 3),
    "a network": ({"policy": Architecture("transformer")}, 1),
    "strings that are not enumerated": ({"exact_limit": 0}, 1),
    "a tracker": ({"track": ("tensorboard",)}, 1),
}


@pytest.mark.parametrize("case", AS_MANY_AS)
def test_how_many_are_trained_at_a_time(case, monkeypatch):
    changed, count = AS_MANY_AS[case]
    monkeypatch.setattr(side_by_side.cores, "usable", lambda: 2)
    config = make_config(**SMALL | changed)
    layout = lay_out(config.budget.seeds, config.devices)
    assert side_by_side.at_once(config, assemble.task(config), layout) == count


# --- a crew whose methods do nothing --------------------------------------------------------------


class Context(NamedTuple):
    """What the crew itself needs of a run."""

    stop: StopFlag
    recorder: Recorder
    await_search: object = None


NAMES = ("a", "b", "c", "d")


@pytest.fixture
def crew(monkeypatch):
    """(run, what was searched, what was run); a method awaits its search, and each does what `told`
    has for it."""

    def start(told=(), count=2, stop=None):
        told, searched, done = dict(told), [], []
        context = Context(stop or StopFlag(), Recorder([]))

        def search(context, name, each, shown):
            told.get(f"search {name}", lambda stop: None)(context.stop)
            searched.append(name)

        def run(context, name, each):
            if context.stop.asked:
                raise Interrupted
            told.get(name, lambda stop: None)(context.stop)
            context.await_search(name)
            done.append(name)

        monkeypatch.setattr(method, "search", search)
        monkeypatch.setattr(method, "run", run)
        after = lambda: done.append("after")
        return lambda: side_by_side.run(context, dict.fromkeys(NAMES), count, after), searched, done

    return start


def until_asked(stop):
    """A training that goes on until it is stopped."""
    end = time.monotonic() + 20
    while not stop.asked:
        assert time.monotonic() < end
        time.sleep(0.002)
    raise Interrupted


def left_over(before: int) -> int:
    """Threads beside those of before, once the last of a crew's have had a moment to go."""
    end = time.monotonic() + 2
    while (more := threading.active_count() - before) and time.monotonic() < end:
        time.sleep(0.002)
    return more


def fails(error):
    def told(stop):
        raise error

    return told


def test_all_are_run_and_searched_in_their_order(crew):
    slow = {"search a": lambda stop: time.sleep(0.05)}
    run, searched, done = crew(slow, count=3)
    run()
    assert searched == list(NAMES)
    assert sorted(done) == sorted([*NAMES, "after"])


@pytest.mark.parametrize("where", ["b", "search c"])
def test_what_one_raises_stops_the_others_and_is_raised(crew, where):
    error = UsageError("demos", 1, "is wrong.", "Change it.")
    run, _, done = crew({"a": until_asked, where: fails(error)})
    before = threading.active_count()
    with pytest.raises(UsageError) as raised:
        run()
    assert raised.value is error
    assert "a" not in done
    assert left_over(before) == 0


def test_a_stop_ends_all_of_them(crew):
    stopping = {"a": until_asked, "search d": lambda stop: setattr(stop, "asked", True)}
    run, _, done = crew(stopping)
    with pytest.raises(Interrupted):
        run()
    assert "a" not in done


def test_a_second_signal_leaves_once_programs_have_ended(crew):
    """The main thread hears it while it waits; nothing is left running behind it."""
    before = threading.active_count()
    with StopFlag() as heard:

        def until_heard(stop):
            os.kill(os.getpid(), signal.SIGTERM)
            try:
                until_asked(stop)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.05)

        run, _, _ = crew({"a": until_heard}, stop=heard)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert left_over(before) == 0


# --- what methods share ---------------------------------------------------------------------------


def test_lines_of_several_threads_are_whole(tmp_path):
    """Added to, read and cut at once."""
    folder = RunFolder(tmp_path / "run", {})
    folder.path.mkdir()
    line = lambda name, update: {"method": name, "seed": 0, "update": update, "js": 0.5}

    def write(name):
        for update in range(40):
            folder.append("metrics.jsonl", [line(name, update)])
            if update % 8 == 7:
                folder.drop_lines("metrics.jsonl", name, update - 1)

    threads = [threading.Thread(target=write, args=(name,)) for name in NAMES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = folder.lines("metrics.jsonl")
    wanted = [update for update in range(40) if update % 8 != 7]
    assert [p.name for p in folder.path.iterdir()] == ["metrics.jsonl"]
    for name in NAMES:
        assert [x["update"] for x in kept if x["method"] == name] == wanted


def test_saves_of_several_threads_are_whole(tmp_path):
    """At once, again and again: Orbax alone makes of two saves one folder, and fails."""
    failed = []

    def save(name):
        try:
            for update in range(1, 7):
                state = {"a": np.full(64, float(update)), "b": np.arange(3)}
                checkpoints.save(tmp_path / name, update, state, {"update": update}, keep=1)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=save, args=(name,)) for name in NAMES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    for name in NAMES:
        arrays, about = checkpoints.read(tmp_path / name)
        assert about["update"] == 6 and arrays[0].tolist() == [6.0] * 64


# --- a run ----------------------------------------------------------------------------------------

WORDS = [
    *("two-template", "--benchmark.vocab", "2", "--benchmark.horizon", "3"),
    *("--methods", "sft", "gail", "--seeds", "2", "--updates", "12", "--evaluations", "2"),
    *("--batch-size", "8", "--samples", "8", "--optimum-starts", "1", "--report", "False"),
    *("--policy.name", "independent", "--temperatures", "1.0"),
]


def numbers(out):
    """All that a run leaves but seconds, which may be in any order of the methods."""
    lines = lambda name: [json.loads(text) for text in (out / name).read_text().splitlines()]
    clock = ("seconds", "compile_seconds")
    timeless = lambda row: {k: v for k, v in row.items() if k not in clock}
    methods = json.loads((out / "results.json").read_text())["methods"]
    return {
        "states": {
            place.parent.name: json.loads((place / "about.json").read_text())["checksum"]
            for place in out.glob("checkpoints/*-final/0*")
        },
        "metrics": sorted(map(json.dumps, map(timeless, lines("metrics.jsonl")))),
        "samples": sorted(map(json.dumps, lines("samples.jsonl"))),
        "methods": {name: timeless(each) for name, each in methods.items()},
        "optima": json.loads((out / "class_optimum.json").read_text()),
    }


@pytest.mark.wide
def test_no_number_depends_on_how_many_are_trained_at_a_time(tmp_path, monkeypatch, capsys):
    """The ends of searches too, each of which starts from those before. A run that was begun the
    one way, and stopped while several methods were at work, goes on the other."""
    runs = {}
    # each run searches for itself
    monkeypatch.setattr(class_optimum.ClassOptima, "_place", lambda *_: None)
    for count in (1, 2):
        out = tmp_path / str(count)
        words = [*WORDS, "--devices.at-once", str(count), "--out", str(out)]
        assert cli.run(compare.main, "experiments.compare", words) == 0
        runs[count] = numbers(out)
        said = capsys.readouterr().out
        assert ("2 methods at a time" in said) == (count == 2)
    assert len(runs[1]["states"]) == 2
    assert runs[1] == runs[2]
    out, original, told = tmp_path / "stopped", train.stretches, []

    def stopping(*words):
        for progress in original(*words):
            if progress.update >= 6 and not told:
                told.append(os.kill(os.getpid(), signal.SIGTERM))
            yield progress

    monkeypatch.setattr(train, "stretches", stopping)
    words = [*WORDS, "--save-every", "0", "--out", str(out), "--devices.at-once"]
    assert cli.run(compare.main, "experiments.compare", [*words, "2"]) == cli.STOPPED_EXIT
    assert cli.run(compare.main, "experiments.compare", [*words, "1"]) == 0
    assert numbers(out) == runs[1]
