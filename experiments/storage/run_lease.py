"""One run in a folder at a time: whoever works there holds a lease on it and beats it.

A holder that is known to be dead, on this machine or before its job was queued again, is followed
at once. Whether one on another machine lives is seen by its beats, which are waited for."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments import paths
from experiments.storage import lease
from fdiv.types import UsageError

NAME = "run"
LAPSE = 120.0  # seconds without a beat after which a holder elsewhere counts as dead
BEAT = 5.0  # seconds between beats
LOOK = 0.5  # seconds between looks at a holder elsewhere
LOST_EXIT = 75  # another run has the folder: nothing more may be written


@contextlib.contextmanager
def hold(out: Path) -> Iterator[None]:
    """Hold a run's folder. Raises `UsageError` where another run is at work in it."""
    own = _take(out)
    over = threading.Event()
    thread = threading.Thread(target=_beat, args=(own, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with contextlib.suppress(OSError):  # the folder has gone
            own.give_back()


def _take(out: Path) -> lease.Lease:
    folder = out / "leases"
    folder.mkdir(parents=True, exist_ok=True)
    before: float | None = None  # its age at the last look
    while True:
        with paths.naming(folder):
            seen = lease.read(folder, LAPSE).get(NAME)
        living = seen is not None and seen.held(LAPSE) and alive(seen.holder or {})
        if not living and living is not None:
            free = seen._replace(holder=None) if seen else None
            with paths.naming(folder):
                own = lease.take(folder, NAME, LAPSE, free, who=lease.me() | life())
            if own is not None:
                return own
            continue  # another was faster
        assert seen is not None
        beaten = before is not None and seen.age < before - LOOK / 2  # since the last look
        if living or beaten:
            raise _in_use(out, seen)
        if before is None:
            print(f"Waiting up to {LAPSE - seen.age:.0f} s to see whether {_who(seen)} lives.")
            sys.stdout.flush()
        before = seen.age
        time.sleep(LOOK)


def _in_use(out: Path, seen: lease.Seen) -> UsageError:
    problem = f"is in use by {_who(seen)}, {seen.age:.0f} s after its last sign."
    return UsageError("out", str(out), problem, "Wait for it, stop it, or give another --out.")


def _who(seen: lease.Seen) -> str:
    holder = seen.holder or {}
    if "pid" not in holder:
        return "a run that has just begun"
    return f"the run of process {holder['pid']} on {holder['host']}"


def _beat(own: lease.Lease, over: threading.Event) -> None:
    """Keep the lease alive, and end this process at once where it was lost."""
    while not over.wait(BEAT):
        try:
            if own.beat() or own.renew():
                continue
        except OSError:  # the run itself meets what the matter is with its folder
            continue
        text = f"\n{own.path.parent.parent} was taken over by another run: this one ends.\n"
        os.write(2, text.encode(errors="replace"))
        os._exit(LOST_EXIT)


# --- who lives ------------------------------------------------------------------------------------


def life() -> dict[str, Any]:
    """What tells this process from an earlier one of its number: the boot and the namespace that
    numbers it, when it began, and how often its job has been queued again."""
    return {
        "boot": _read(Path("/proc/sys/kernel/random/boot_id")),
        "space": _link(Path("/proc/self/ns/pid")),
        "began": _state(os.getpid())[1],
        "restart": os.environ.get("SLURM_RESTART_COUNT", "0"),
    }


def alive(holder: Mapping[str, Any]) -> bool | None:
    """Whether the process that holds a lease lives; None where that cannot be seen from here."""
    here = lease.me() | life()
    same_job = here["job"] is not None and holder.get("job") == here["job"]
    if same_job and holder.get("restart", "0") != here["restart"]:
        return False  # before it was queued again
    if any(holder.get(key) != here[key] for key in ("host", "boot", "space")):
        return None
    pid = holder.get("pid")
    if not isinstance(pid, int) or pid <= 0:
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    state, began = _state(pid)
    return state != "Z" and began == holder.get("began")


def _state(pid: int) -> tuple[str, str]:
    """(state, when it began) of a process, as Linux counts; empty elsewhere."""
    text = _read(Path(f"/proc/{pid}/stat"))
    fields = text.rpartition(")")[2].split()  # a command's name may hold blanks
    return (fields[0], fields[19]) if len(fields) > 19 else ("", "")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
