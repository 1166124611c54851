"""One attempt at a line of a sweep: in this process, or launched as one of its own; all that it
says goes to the line's log."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from experiments.cli import STOPPED_EXIT
from experiments.sweep.folder import Line, SweepFolder, name
from fdiv.types import UsageError

STATES = {0: "done", 2: "refused", STOPPED_EXIT: "preempted"}


class Ended(NamedTuple):
    """How an attempt at a line ended."""

    code: int
    reason: str = ""

    @property
    def state(self) -> str:
        """Its word in the table of `status`."""
        return STATES.get(self.code, "failed")


def attempt(sweep: SweepFolder, line: Line, launcher: str) -> Ended:
    """Run a line to its end, or until it is stopped, and keep how it ended."""
    began = time.monotonic()
    with _into(sweep.log(line)):
        print(f"--- {name(line)}: {line['preset']} {shlex.join(line['flags'])}", flush=True)
        ended = _launched(sweep, line, launcher) if launcher else _here(sweep, line)
        print(f"--- {name(line)}: {ended.state} {ended.reason}", flush=True)
    sweep.keep_end(line, ended.state, ended.reason, time.monotonic() - began)
    return ended


def _here(sweep: SweepFolder, line: Line) -> Ended:
    """Run a line in this process."""
    try:
        from experiments import cli
        from experiments.running import head_to_head

        cli.load_plugins(
            [
                word
                for path in line["imports"]
                if path not in cli.imported_files()
                for word in ("--import", path)
            ]
        )
        preset, config = cli.parse(
            "experiments.compare", [line["preset"], *line["flags"], "--out", str(sweep.run(line))]
        )
        return Ended(head_to_head.run(preset, config, cli.presets()[preset][1]))
    except UsageError as error:
        print(f"error: {error}")
        return Ended(2, str(error))
    except KeyboardInterrupt:
        return Ended(STOPPED_EXIT, "left at once, at the second signal")
    except BaseException as error:  # a failing line must not take the others with it
        traceback.print_exc()
        return Ended(1, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def _launched(sweep: SweepFolder, line: Line, launcher: str) -> Ended:
    """Run a line as a process; whoever signals this worker signals the step of the line too, so
    nothing is passed on."""
    from experiments.sweep import flags

    imports = [word for path in line["imports"] for word in ("--import", path)]
    words = [line["preset"], *flags.once(line["flags"]), *imports, "--out", str(sweep.run(line))]
    command = [*shlex.split(launcher), sys.executable, "-m", "experiments.compare", *words]
    code = subprocess.run(command, check=False).returncode
    said = sweep.log(line).read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
    return Ended(
        code, "" if code in (0, STOPPED_EXIT) else f"exit code {code}: {''.join(said)[:300]}"
    )


@contextlib.contextmanager
def _into(path: Path) -> Iterator[None]:
    """All that this process and its children say goes to the end of a file."""
    kept = os.dup(1), os.dup(2)
    with (
        path.open("a", buffering=1, encoding="utf-8") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        try:
            yield
        finally:
            for number, before in zip((1, 2), kept):
                os.dup2(before, number)
                os.close(before)
