"""What the long tests of sweeps share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
SLOW = Path(__file__).parent / "slow.py"
FEW = Path(__file__).parent / "few.py"
TINY = {
    "benchmark.vocab": 2,
    "benchmark.horizon": 3,
    "policy.name": "full",
    "methods": "sft",
    "seeds": 1,
    "batch_size": 16,
    "temperatures": [1.0],
    "samples": 16,
    "report": False,
}
CLOCK = ("seconds", "compile_seconds")  # what differs between two runs of one config


def sweep(*words: object, check: bool = True, **environment: str) -> str:
    """`python -m experiments.sweep WORDS`; what it said."""
    command = [sys.executable, "-m", "experiments.sweep", *map(str, words)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert not check or done.returncode == 0, (
        f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    )
    return done.stdout


def planned(folder: Path, grid: dict, *words: object) -> Path:
    """A planned sweep in a new folder."""
    folder.mkdir()
    (folder / "grid.py").write_text(f"GRID = {grid!r}\n")
    sweep("plan", folder / "grid.py", "--out", folder / "sweep", "--cost", "False", *words)
    return folder / "sweep"


def states(out: Path) -> Counter:
    """How many lines are in each state."""
    from experiments.sweep import status
    from experiments.sweep.folder import SweepFolder

    return Counter(row.state for row in status.rows(SweepFolder(out, 10.0)))


def wait(what: str, seconds: float, ready: Callable[[], object]) -> None:
    """Until it is so, or fail."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.5)


def queue(*words: str) -> str:
    """What SLURM has of ours."""
    return subprocess.run(
        ["squeue", "--noheader", *words], capture_output=True, text=True, check=True
    ).stdout


def finals(out: Path, line: int = 0) -> dict:
    """A line's results without the clock."""
    methods = json.loads((out / "runs" / f"{line:04d}" / "results.json").read_text())["methods"]
    return {name: {k: v for k, v in m.items() if k not in CLOCK} for name, m in methods.items()}


def steps(out: Path, line: int = 0) -> list[tuple]:
    """(method, seed, update) of every line of a run's metrics."""
    lines = (out / "runs" / f"{line:04d}" / "metrics.jsonl").read_text().splitlines()
    return [(x["method"], x["seed"], x["update"]) for x in map(json.loads, lines)]
