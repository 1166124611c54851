"""A sweep whose workers are killed at random collects into the table of the undisturbed one.

Of 12 runs, or as many as `--runs 200` asks for."""

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
from sweeping import FEW, ROOT, TINY, planned, queue, states, sweep, wait

from experiments.storage import lease
from experiments.sweep.folder import SweepFolder

WORKERS, LAPSE = 2, 5.0


@pytest.fixture(scope="module")
def runs(pytestconfig) -> int:
    return pytestconfig.getoption("runs")


@pytest.fixture(scope="module")
def grid(runs) -> dict:
    return {
        "preset": "two-template",
        "flags": TINY | {"updates": 20, "evaluations": 1},
        "product": {"learning_rate": [0.1, 0.03], "seed": list(range(runs // 2))},
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory, grid) -> Path:
    """The undisturbed sweep, collected."""
    out = planned(tmp_path_factory.mktemp("whole") / "w", grid, "--import", FEW)
    sweep("run", out, "--local", WORKERS)
    sweep("collect", out)
    return out


def rows(out: Path) -> list[dict]:
    return pyarrow.parquet.read_table(out / "collected.parquet").to_pylist()


def killing(out: Path, generator: random.Random, share: float, running) -> int:
    """Kill the holder of a share of the leases, at a random moment of its work, while `running()`;
    how many."""
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
            if generator.random() < share:
                time.sleep(generator.uniform(0, 3))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(seen.holder["pid"], signal.SIGKILL)
                    killed += 1
        time.sleep(0.1)
    return killed


def share_of(runs: int) -> float:
    """One lease in ten, and of a few runs enough that some are killed."""
    return max(0.1, 4 / runs)


def same_as(whole: Path, out: Path, runs: int) -> None:
    """Complete, no row twice, and equal."""
    sweep("collect", out)
    table = rows(out)
    keys = [(row["line"], row["method"], row["metric"], row["seed"]) for row in table]
    assert len(set(keys)) == len(keys)
    assert {row["line"] for row in table} == set(range(runs))
    assert table == rows(whole)


def test_local_workers_killed_at_random_and_the_whole_command_too(whole, grid, runs, tmp_path):
    out, generator = planned(tmp_path / "local", grid, "--import", FEW), random.Random(2)
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
    while states(out)["done"] < runs:
        rounds += 1
        assert rounds < 10, states(out)
        time.sleep(LAPSE if rounds > 1 else 0)  # for the leases of the dead
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as parent:
            enough = generator.uniform(0.1, 0.3) * runs if rounds == 1 else float("inf")
            killed += killing(
                out,
                generator,
                share_of(runs),
                lambda parent=parent, enough=enough: (
                    parent.poll() is None and states(out)["done"] < enough
                ),
            )
            parent.kill()  # the first time in the middle: its workers go on without it
    assert killed >= max(1, runs // 40)
    same_as(whole, out, runs)


def test_array_tasks_killed_at_random(slurm, whole, grid, runs, tmp_path):
    out, generator = planned(tmp_path / "slurm", grid, "--import", FEW), random.Random(1)
    words = (
        "--partition",
        "main",
        "--lines-per-task",
        max(1, runs // 6),
        "--concurrent",
        WORKERS,
        "--lapse",
        LAPSE,
    )
    killed, rounds = 0, 0
    while states(out)["done"] < runs:
        rounds += 1
        assert rounds < 10, states(out)
        time.sleep(LAPSE if rounds > 1 else 0)  # for the leases of the dead
        sweep("resume", out, *words)
        wait("the array to start", 60, queue)
        killed += killing(out, generator, share_of(runs), queue)
    assert killed >= max(1, runs // 40)
    same_as(whole, out, runs)
