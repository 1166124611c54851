"""`run --local N`: N workers on this machine, each with one GPU where there are any; one that dies
is replaced."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from experiments.cli import STOPPED_EXIT
from experiments.storage import lease
from experiments.sweep.folder import SweepFolder
from fdiv.types import UsageError

LEFT = (0, STOPPED_EXIT)  # how a worker ends that has not died


def run(sweep: SweepFolder, count: int, launcher: str = "") -> int:
    """Run all open lines; 0 when every line is done, 1 when some failed, 130 when interrupted."""
    asked = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda *_: asked.append(True))
    count = max(1, min(count, len(sweep.idle_lines())))
    workers = {slot: _start(sweep, slot, launcher) for slot in range(count) if sweep.open_lines()}
    told, shown = 0, ""
    while workers:
        time.sleep(0.2)
        if len(asked) > told:
            told = len(asked)
            print("Asking the workers to save and leave.", flush=True)
            for worker in workers.values():
                worker.send_signal(signal.SIGTERM)
        for slot, worker in list(workers.items()):
            if worker.poll() is not None:
                del workers[slot]
                if not asked and _died(sweep, worker) and sweep.idle_lines():
                    workers[slot] = _start(sweep, slot, launcher)
        shown = _show(sweep, shown)
    states = Counter((sweep.end(line) or {"state": "open"})["state"] for line in sweep.lines)
    return (
        0
        if states["done"] == len(sweep.lines)
        else STOPPED_EXIT
        if asked or sweep.stop.exists()
        else 1
    )


def _start(sweep: SweepFolder, slot: int, launcher: str) -> subprocess.Popen:
    """A worker in a session of its own, so that Ctrl-C reaches it once, through us."""
    gpus = visible_gpus()
    chosen = {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {}
    words = ["run", str(sweep.path), "--worker", "True", "--lapse", str(sweep.lapse)]
    words += ["--launcher", launcher] if launcher else []
    words += ["--trust", "True"] if sweep.trusted else []
    with (sweep.path / "logs" / f"worker-{slot}.log").open("ab") as log:
        command = [sys.executable, "-m", "experiments.sweep", *words]
        return subprocess.Popen(
            command,
            env=os.environ | chosen,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )


def _died(sweep: SweepFolder, worker: subprocess.Popen) -> bool:
    """Whether a worker died at a line, which is then free at once. Raises `UsageError` for one that
    never got to a line."""
    if worker.returncode in LEFT:
        return False
    buried = lease.bury(sweep.leases, **lease.me() | {"pid": worker.pid})
    print(f"A worker died ({_cause(worker.returncode)}).", flush=True)
    if not buried and worker.returncode > 0:
        logs = sweep.path / "logs"
        raise UsageError(
            "dir",
            str(sweep.path),
            "a worker ended before it took a line.",
            f"See worker-*.log in {logs}.",
        )
    return True


def _cause(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _show(sweep: SweepFolder, shown: str) -> str:
    """Print a line when the count of ends changes."""
    kept = Counter(path.stem for path in Path(sweep.path / "ends").glob("[0-9]*.json"))
    text = f"{len(kept)} of {len(sweep.lines)} lines have ended."
    if text != shown:
        print(text, flush=True)
    return text


def visible_gpus() -> list[str]:
    """Numbers of the GPUs that a worker may be given, one each."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [number for number in given.split(",") if number]
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(
        ["nvidia-smi", "--list-gpus"],
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
        errors="replace",
    )
    return [
        str(i) for i in range(sum(line.startswith("GPU ") for line in listed.stdout.splitlines()))
    ]
