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
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

from experiments import paths
from experiments.storage import files, lease, shapes
from fdiv.types import UsageError

COUNT = "of"  # the field of a plan's line that says how many there are
PARTS = ("runs", "ends", "leases", "logs", "slurm")
STATES = ("done", "failed", "refused", "preempted")  # how an attempt at a line may end
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
        self.path, self.lapse = paths.expanded("dir", Path(path)), lapse
        if not (self.path / "plan.jsonl").is_file():
            fix = "Make it first: python -m experiments.sweep plan GRID --out DIR."
            raise UsageError("dir", str(path), "holds no plan of a sweep.", fix)
        self.lines = read_plan(self.path / "plan.jsonl")
        self.trusted = False  # though the plan is another user's

    def refuse_strangers(self, trust: bool) -> None:
        """Raise `UsageError` where somebody else can have written the plan, unless it is trusted:
        to run it is to execute the files that it imports, with whatever flags it has."""
        status = (self.path / "plan.jsonl").stat()
        foreign = status.st_uid != os.geteuid()
        imports = list(dict.fromkeys(path for line in self.lines for path in line["imports"]))
        if (foreign or status.st_mode & stat.S_IWOTH) and not trust:
            whose = f"is of user {status.st_uid}, not yours" if foreign else "is anybody's to write"
            named = f", and it executes {', '.join(imports)}" if imports else ""
            fix = "Read its plan.jsonl, then say --trust True."
            raise UsageError("dir", str(self.path), f"its plan {whose}{named}.", fix)
        if imports:
            print(f"Each line executes {', '.join(imports)}.", flush=True)
        self.trusted = trust

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
        """How a line's last attempt ended; None before the first end, and where what was said of
        it was damaged: the line is then open again, and a finished run says so at once."""
        return files.read(self._end(line), _end)

    def keep_end(self, line: Line, state: str, reason: str = "", seconds: float = 0.0) -> None:
        """Say how an attempt ended: done, failed, refused or preempted."""
        end = End(state=state, reason=reason, seconds=seconds, worker=lease.me())
        files.write_checked(self._end(line), end)

    def open_again(self, line: Line) -> None:
        """Forget how a line ended."""
        self._end(line).unlink(missing_ok=True)

    def _end(self, line: Line) -> Path:
        return self.path / "ends" / f"{name(line)}.json"

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
            self.open_again(line)
        lease.forgive(self.leases)
        return len(failed)


def name(line: Line) -> str:
    """A line's number as part of a file's name."""
    return f"{line['line']:04d}"


def _end(data: dict[str, Any]) -> End:
    shapes.check(data, End)
    if data["state"] not in STATES:
        raise ValueError(f"its state is {data['state'][:40]!r}")
    return cast(End, {name: data[name] for name in End.__annotations__})


def read_plan(path: Path) -> list[Line]:
    """The lines of a plan. Raises `UsageError` for a damaged one, of which no line can be trusted:
    what is trained is what it says."""
    fix = "Plan the same grid again with the same --out, which writes it anew."
    found = files.split_lines(path.read_bytes(), _check_line)
    for number, _, reason in found.bad:
        files.refuse(path, f"line {number}: {reason}", fix)
    lines = [value for _, value in found.good]
    wanted = lines[0].get(COUNT, len(lines)) if lines else 1
    if [line["line"] for line in lines] != list(range(wanted)):
        files.refuse(path, f"it holds {len(lines)} lines, not the {wanted} that were planned", fix)
    return [_planned(line) for line in lines]


def plan_text(lines: Sequence[Line]) -> str:
    """A plan as it is written: each line with how many there are and a checksum."""
    whole = [{**line, COUNT: len(lines)} for line in lines]
    return "".join(
        json.dumps({**line, files.CHECKSUM: files.checksum(line)}) + "\n" for line in whole
    )


def sound_lines(path: Path) -> list[Line]:
    """Those lines of a plan, damaged or not, that are as they were written."""
    return [_planned(v) for _, v in files.split_lines(path.read_bytes(), _check_line).good]


def _check_line(value: dict[str, Any]) -> None:
    shapes.check(files.checked(value), Line)


def _planned(value: dict[str, Any]) -> Line:
    return cast(Line, {name: value[name] for name in Line.__annotations__})
