"""Who works on what: a lock that lapses when its holder stops beating, safe on a network file
system.

A lease on NAME is the file NAME.0001; whoever takes it over makes NAME.0002, and so on. A file is
only ever made with O_EXCL, never renamed or removed, so of any number of workers that see the same
lapsed lease exactly one gets the next. Ages are taken on the file server's clock, from a file just
written there: the clocks of the hosts do not matter."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

FREE, DIED = (
    "free",
    "died",
)  # what the file of a lease that was given back, or whose holder is known to be dead, says


class Seen(NamedTuple):
    """The newest lease on a name, as it stood when the folder was read."""

    generation: int
    holder: Mapping[str, Any] | None  # {host, pid, job}; none where it was given back
    age: float  # seconds since its last beat
    deaths: int  # earlier holders, and this one if it lapsed, that never gave it back

    def held(self, seconds: float) -> bool:
        """Whether somebody may be working. A lease that is dated further ahead than it lasts (the
        server's clock was set back) is as dead as an old one: a holder that lives dates it anew."""
        return self.holder is not None and abs(self.age) <= seconds


class Lease:
    """A name held by this process. `beat` it several times per lapse; `give_back` when done."""

    def __init__(self, path: Path, seconds: float, who: Mapping[str, Any] | None = None):
        self.path, self.seconds, self._beaten = path, seconds, time.monotonic()
        self._who = who

    def beat(self) -> bool:
        """Go on holding it; False when it was lost: it lapsed while this process was stopped, or
        another has taken over."""
        if time.monotonic() - self._beaten > self.seconds or _next(self.path).exists():
            return False
        os.utime(self.path)
        self._beaten = time.monotonic()
        return True

    def renew(self) -> bool:
        """Hold it again where it lapsed while this process was stopped and nobody took it over;
        False when somebody did."""
        path = _next(self.path)
        if not _made(path, me() if self._who is None else self._who):
            return False
        self.path, self._beaten = path, time.monotonic()
        return True

    def give_back(self) -> None:
        """Let others have it at once."""
        self.path.write_text(FREE, encoding="utf-8")


def take(
    folder: Path,
    name: str,
    seconds: float,
    seen: Seen | None,
    who: Mapping[str, Any] | None = None,
) -> Lease | None:
    """The lease on a name that nobody holds, or None when another was faster. `seen`: its entry of
    `read`; `who`: the holder as others will know it, `me()` where none is given."""
    if seen and seen.held(seconds):
        return None
    path = folder / f"{name}.{(seen.generation if seen else 0) + 1:04d}"
    return Lease(path, seconds, who) if _made(path, me() if who is None else who) else None


def _made(path: Path, who: Mapping[str, Any]) -> bool:
    """Whether this process made the file of a lease, which only one ever does."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(json.dumps(who))
    except OSError:  # a full disk: an empty file would be waited for
        path.unlink()
        raise
    return True


def read(folder: Path, seconds: float) -> dict[str, Seen]:
    """The newest lease on every name."""
    newest: dict[str, Seen] = {}
    now = _now(folder)
    for path in _files(folder):
        name, _, generation = path.name.rpartition(".")
        before = newest.get(name)
        text, age = _text(path), now - path.stat().st_mtime
        holder = _holder(text)
        died = text == DIED or (holder is not None and abs(age) > seconds)
        newest[name] = Seen(int(generation), holder, age, (before.deaths if before else 0) + died)
    return newest


def bury(folder: Path, mark: str = DIED, **who: Any) -> int:
    """Mark every lease of a holder of this pid, job or host that is known to be gone, so that
    nobody waits for it; how many."""
    holders = {path: _holder(_text(path)) for path in _files(folder)}
    gone = [path for path, holder in holders.items() if holder and who.items() <= holder.items()]
    for path in gone:
        path.write_text(mark, encoding="utf-8")
    return len(gone)


def forgive(folder: Path) -> None:
    """Count no deaths from here on."""
    for path in _files(folder):
        if _text(path) == DIED or _next(path).exists():
            path.write_text(FREE, encoding="utf-8")


def me() -> dict[str, Any]:
    """This process, as others will know it."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "job": os.environ.get("SLURM_JOB_ID")}


def _files(folder: Path) -> list[Path]:
    """All leases of a folder, those on one name in their order."""
    return sorted(p for p in folder.glob("*.[0-9]*") if p.suffix[1:].isdigit() and p.is_file())


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _next(path: Path) -> Path:
    name, _, generation = path.name.rpartition(".")
    return path.with_name(f"{name}.{int(generation) + 1:04d}")


def _holder(text: str) -> Any:
    with contextlib.suppress(ValueError, RecursionError):
        holder = json.loads(text)
        return holder if isinstance(holder, dict) else {}
    return None if text in (FREE, DIED) else {}  # being written: somebody's


def _now(folder: Path) -> float:
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock-") as file:
        file.write(b".")
        file.flush()
        return os.fstat(file.fileno()).st_mtime
