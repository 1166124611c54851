"""From launch to the first update, compile cache cold and warm: `python -m experiments.speed start
[PRESET] [flags]`.

Each start is a process of its own that runs the real command into an empty folder and is ended
after its first update. The cache is a new folder, filled by the first start. Flags are those of
`compare`; default: two-template with --methods sft."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from experiments import cli

WARM = 3  # starts with the cache that the first one left
LIMIT = 1800.0  # seconds after which a start is taken to hang
GOAL = 0.5  # of the cold start


def main(argv: list[str]) -> int:
    """Print the times; 1 where a warm start takes more than half of a cold one, or a start
    fails."""
    cli.answer_version(argv)  # `--import` is for the command that is timed
    if {"-h", "--help"} & set(argv):
        print(f"{__doc__}\nIts flags: python -m experiments.compare PRESET --help")
        return 0
    command = argv or ["two-template", "--methods", "sft"]
    with tempfile.TemporaryDirectory() as folder:
        times = [
            first_update(command, Path(folder) / "cache", Path(folder) / f"run-{i}")
            for i in range(1 + WARM)
        ]
    cold, *others = [seconds for seconds in times if seconds is not None] or [0.0]
    if len(others) < WARM:  # a start failed, and said why
        return 1
    warm = float(np.median(others))
    each = ", ".join(f"{seconds:.1f}" for seconds in others)
    print(
        f"{' '.join(command)}: first update {cold:.1f} s after a cold launch, {warm:.1f} s "
        f"after a warm one ({each})."
    )
    print(
        f"warm / cold = {warm / cold:.2f}, "
        f"{'at most' if warm <= GOAL * cold else 'more than'} {GOAL:g}"
    )
    return int(warm > GOAL * cold)


def first_update(command: list[str], cache: Path, out: Path) -> float | None:
    """Seconds from launch until the first update's line is on disk; None, its last words printed,
    where it ended before."""
    flags = [
        *command,
        "--updates",
        "1",
        "--evaluations",
        "1",
        "--cache",
        str(cache),
        "--out",
        str(out),
    ]
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "experiments.compare", *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
    ) as process:
        while not _updated(out / "metrics.jsonl"):
            time.sleep(0.005)
            if process.poll() is not None or time.perf_counter() - began > LIMIT:
                process.kill()
                print(f"no update: {process.communicate()[1].strip()[-500:]}", file=sys.stderr)
                return None
        seconds = time.perf_counter() - began
        process.kill()
    return seconds


def _updated(metrics: Path) -> bool:
    return metrics.exists() and '"update": 1,' in metrics.read_text(encoding="utf-8")
