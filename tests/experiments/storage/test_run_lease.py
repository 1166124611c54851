"""One run in a folder at a time, and none kept out by the dead."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time

import pytest

from experiments.storage import lease, run_lease
from fdiv.types import UsageError


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(run_lease, "LAPSE", 1.0)
    monkeypatch.setattr(run_lease, "LOOK", 0.05)
    monkeypatch.setattr(run_lease, "BEAT", 0.1)


def held_by(out, **who):
    """A folder whose lease a process with this in place of our own marks left behind."""
    (out / "leases").mkdir()
    holder = lease.me() | run_lease.life() | who
    return lease.take(out / "leases", run_lease.NAME, 120.0, None, who=holder)


def a_dead_process() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_a_second_run_is_refused_by_host_process_and_age(tmp_path):
    first, second = run_lease.hold(tmp_path), run_lease.hold(tmp_path)
    with first, pytest.raises(UsageError) as refused, second:
        pass
    said = str(refused.value)
    assert refused.value.field == "out"
    assert f"process {os.getpid()} on {lease.me()['host']}" in said
    assert "0 s after its last sign" in said
    with run_lease.hold(tmp_path):  # given back
        pass


@pytest.mark.parametrize(
    "gone",
    [
        {"pid": a_dead_process},
        {"began": lambda: "1"},  # another process had this number
        {"job": lambda: "12", "host": lambda: "node1", "restart": lambda: "0"},  # queued again
    ],
    ids=["dead", "number used again", "queued again"],
)
def test_the_dead_are_followed_at_once(gone, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    held_by(tmp_path, **{key: value() for key, value in gone.items()})
    began = time.monotonic()
    with run_lease.hold(tmp_path):
        assert time.monotonic() - began < 5
        assert (tmp_path / "leases/run.0002").exists()


def test_a_process_that_nobody_has_waited_for_is_dead():
    process = subprocess.Popen(["true"])
    deadline = time.monotonic() + 10
    while run_lease._state(process.pid)[0] not in ("Z", "") and time.monotonic() < deadline:
        time.sleep(0.01)
    holder = lease.me() | run_lease.life() | {"pid": process.pid}
    holder["began"] = run_lease._state(process.pid)[1]
    assert run_lease.alive(holder) is False
    process.wait()


def test_a_silent_run_elsewhere_is_waited_for_and_followed(tmp_path, quick, capsys):
    held_by(tmp_path, host="elsewhere", pid=7)
    with run_lease.hold(tmp_path):
        pass
    assert "whether the run of process 7 on elsewhere lives" in capsys.readouterr().out


def test_a_run_elsewhere_that_beats_is_refused(tmp_path, quick):
    other, over = held_by(tmp_path, host="elsewhere", pid=7), threading.Event()

    def beat():
        while not over.wait(0.3):
            os.utime(other.path)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UsageError, match="process 7 on elsewhere"), run_lease.hold(tmp_path):
            pass
    finally:
        over.set()
        thread.join()


def test_a_run_that_was_stopped_goes_on_where_nobody_came_and_ends_where_somebody_did(tmp_path):
    first = lease.take(tmp_path, "run", 10.0, None)
    first._beaten -= 20  # stopped for longer than the lapse
    assert not first.beat()
    assert first.renew()
    assert first.beat()
    assert json.loads(first.path.read_text())["pid"] == os.getpid()
    seen = lease.read(tmp_path, 10.0)["run"]
    second = lease.take(tmp_path, "run", 10.0, seen._replace(holder=None))
    assert second is not None
    assert not first.beat()
    assert not first.renew()
