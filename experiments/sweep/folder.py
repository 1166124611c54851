"""The folder of a sweep: what is planned, who works, how each line ended. Nothing here needs JAX.

plan.jsonl            one run a line: its number, preset, flags, point of the grid and whole config
runs/0003/            what `experiments.compare` leaves of line 3
ends/0003.json        how its last attempt ended
leases/0003.0001      who works, or worked, on it
logs/0003.log         all that it said
slurm/                what was submitted
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, TypedDict

from experiments.storage import lease
from fdiv.types import UsageError

PARTS = ("runs", "ends", "leases", "logs", "slurm")
MOST_DEATHS = 3  # a line that has cost so many workers is not tried again until `resume`


class Line(TypedDict):
    """One run, a line of plan.jsonl."""

    line: int  # its number
    preset: str
    flags: list[str]
    point: dict[str, Any]  # the axes of the grid -> values, as resolved
    imports: list[str]  # files of `--import`
    config: dict[str, Any]  # what decides the numbers


class End(TypedDict):
    """How an attempt at a line ended."""

    state: str  # done, failed, refused or preempted
    reason: str
    seconds: float
    worker: dict[str, Any]  # host, pid, job


class SweepFolder:
    """A planned sweep. Opening it raises `UsageError` where there is none."""

    def __init__(self, path: Path, lapse: float = 120.0):
        self.path, self.lapse = Path(path), lapse
        if not (self.path / "plan.jsonl").is_file():
            fix = "Make it first: python -m experiments.sweep plan GRID --out DIR."
            raise UsageError("dir", str(path), "holds no plan of a sweep.", fix)
        self.lines: list[Line] = [
            json.loads(text)
            for text in (self.path / "plan.jsonl").read_text(encoding="utf-8").splitlines()
        ]

    def run(self, line: Line) -> Path:
        """Where a line's run goes."""
        return self.path / "runs" / name(line)

    def log(self, line: Line) -> Path:
        """Where what it says goes."""
        return self.path / "logs" / f"{name(line)}.log"

    @property
    def leases(self) -> Path:
        """The folder of locks."""
        return self.path / "leases"

    @property
    def stop(self) -> Path:
        """A file that asks every worker to save and leave."""
        return self.path / "stop"

    # --- ends -------------------------------------------------------------------------------------

    def end(self, line: Line) -> End | None:
        """How a line's last attempt ended; None before the first end."""
        path = self.path / "ends" / f"{name(line)}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def keep_end(self, line: Line, state: str, reason: str = "", seconds: float = 0.0) -> None:
        """Say how an attempt ended: done, failed, refused or preempted."""
        end = End(state=state, reason=reason, seconds=seconds, worker=lease.me())
        write_whole(self.path / "ends" / f"{name(line)}.json", json.dumps(end) + "\n")

    def open_lines(self) -> list[Line]:
        """What is still to be run, whether or not somebody is at it."""
        return [
            line
            for line in self.lines
            if (self.end(line) or {"state": "preempted"})["state"] == "preempted"
        ]

    def idle_lines(self) -> list[Line]:
        """What is still to be run and nobody is at."""
        seen = lease.read(self.leases, self.lapse)
        return [
            line
            for line in self.open_lines()
            if not (name(line) in seen and seen[name(line)].held(self.lapse))
        ]

    def forget_failures(self) -> int:
        """Open every line again that failed or was refused; how many."""
        failed = [
            line
            for line in self.lines
            if (self.end(line) or {}).get("state") in ("failed", "refused")
        ]
        for line in failed:
            (self.path / "ends" / f"{name(line)}.json").unlink()
        lease.forgive(self.leases)
        return len(failed)


def name(line: Line) -> str:
    """A line's number as part of a file's name."""
    return f"{line['line']:04d}"


def write_whole(path: Path, text: str) -> None:
    """Write all of a file or nothing."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)
