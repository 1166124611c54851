"""A sweep of 200 runs whose workers are killed at random collects into the table of the undisturbed
one."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet
import pytest
from sweeping import ROOT, TINY, planned, queue, states, sweep, wait

from experiments.sweep import lease
from experiments.sweep.folder import SweepFolder

RUNS = int(os.environ.get("FDIV_SWEEP_RUNS", "200"))
WORKERS, LAPSE = 2, 5.0
GRID = {
    "preset": "two-template",
    "flags": TINY | {"updates": 20, "evaluations": 1},
    "product": {"learning_rate": [0.1, 0.03], "seed": list(range(RUNS // 2))},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The undisturbed sweep, collected."""
    out = planned(tmp_path_factory.mktemp("whole") / "w", GRID)
    sweep("run", out, "--local", WORKERS)
    sweep("collect", out)
    return out


def rows(out: Path) -> list[dict]:
    return pyarrow.parquet.read_table(out / "collected.parquet").to_pylist()


def killing(out: Path, generator: random.Random, running) -> int:
    """Kill the holder of one lease in ten, at a random moment of its work, while `running()`; how
    many."""
    folder, met, killed = SweepFolder(out, LAPSE), set(), 0
    while running():
        for name, seen in lease.read(folder.leases, LAPSE).items():
            if (
                not seen.held(LAPSE)
                or not seen.holder
                or (name, seen.generation) in met
                or name == "submit"
            ):
                continue
            met.add((name, seen.generation))
            if generator.random() < 0.1:
                time.sleep(generator.uniform(0, 3))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(seen.holder["pid"], signal.SIGKILL)
                    killed += 1
        time.sleep(0.1)
    return killed


def same_as(whole: Path, out: Path) -> None:
    """Complete, no row twice, and equal."""
    sweep("collect", out)
    table = rows(out)
    keys = [(row["line"], row["method"], row["metric"], row["seed"]) for row in table]
    assert len(set(keys)) == len(keys)
    assert {row["line"] for row in table} == set(range(RUNS))
    assert table == rows(whole)


def test_local_workers_killed_at_random_and_the_whole_command_too(whole, tmp_path):
    out, generator = planned(tmp_path / "local", GRID), random.Random(0)
    command = [
        sys.executable,
        "-m",
        "experiments.sweep",
        "resume",
        str(out),
        "--local",
        str(WORKERS),
        "--lapse",
        str(LAPSE),
    ]
    killed, rounds = 0, 0
    while states(out)["done"] < RUNS:
        rounds += 1
        assert rounds < 10, states(out)
        time.sleep(LAPSE)  # for the leases of the dead
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as parent:
            end = time.monotonic() + generator.uniform(20, 60) if rounds == 1 else float("inf")
            killed += killing(
                out, generator, lambda: parent.poll() is None and time.monotonic() < end
            )
            parent.kill()  # the first time in the middle: its workers go on without it
    assert killed >= RUNS // 40
    same_as(whole, out)


def test_array_tasks_killed_at_random(slurm, whole, tmp_path):
    out, generator = planned(tmp_path / "slurm", GRID), random.Random(1)
    words = (
        "--partition",
        "main",
        "--lines-per-task",
        max(1, RUNS // 8),
        "--concurrent",
        WORKERS,
        "--lapse",
        LAPSE,
    )
    killed, rounds = 0, 0
    while states(out)["done"] < RUNS:
        rounds += 1
        assert rounds < 10, states(out)
        time.sleep(LAPSE)  # for the leases of the dead
        sweep("resume", out, *words)
        wait("the array to start", 60, queue)
        killed += killing(out, generator, queue)
    assert killed >= RUNS // 40
    same_as(whole, out)
