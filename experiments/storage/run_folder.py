"""What a run leaves on disk, and how a later one tells whether it is finished, goes on, or belongs
to something else."""

from __future__ import annotations

import errno
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib import metadata
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

import jax

from experiments.config import difference
from experiments.storage import files
from experiments.storage.files import write_json
from fdiv.types import UsageError

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy")


Parsed = TypeVar("Parsed")
PARTS = ("methods", "figures", "checkpoints")  # folders in a run's


def file_name(method: str) -> str:
    """A method's name as part of a file's."""
    return method.replace(":", "-").replace("/", "-")


def unusable(folder: Path, error: OSError) -> UsageError:
    """What is the matter with a folder in which something could not be read or written, and what to
    do about it."""
    causes = {
        "is on a full disk": (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
        "cannot be written": (errno.EROFS, errno.EACCES, errno.EPERM),
    }
    problem = next(
        (text for text, numbers in causes.items() if error.errno in numbers),
        f"cannot be used: {error}",
    )
    fix = {"is on a full disk": "Free some space", "cannot be written": "Make it writable"}.get(
        problem, "See to it"
    )
    if not Path(folder).exists():
        problem, fix = "has gone", "Bring it back (is its file system mounted?)"
    return UsageError(
        "out",
        str(folder),
        f"{problem}.",
        f"{fix}; what was saved is whole, and the same command goes on from it.",
    )


class RunFolder:
    """The folder of one config. Opening it raises `UsageError` if it holds anything else; nothing
    is then touched."""

    def __init__(self, out: Path, identity: dict[str, Any]):
        self.path, self._identity = Path(out), json.loads(json.dumps(identity, default=files.plain))
        self._refuse_if_taken()

    def _refuse_if_taken(self) -> None:
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise UsageError(
                "out",
                str(self.path),
                "is a file.",
                "Give a folder, new or of an earlier run of this config.",
            )
        config = self.path / "config.json"
        if not config.exists():
            if any(self.path.iterdir()):
                raise UsageError(
                    "out",
                    str(self.path),
                    "holds files that are no run's.",
                    "Give a new or empty folder.",
                )
            return
        try:
            other = files.load(config, lambda data: dict(data["config"]))
        except files.Damaged as error:
            # whose the folder is cannot be told from anything else in it
            raise UsageError(
                "out",
                str(self.path),
                f"has a damaged config.json: {error}.",
                f"Give another --out, or put {config} back from a copy.",
            ) from error
        differ = difference(other, self._identity)
        if differ:
            shown = ", ".join(
                f"{k} is {a!r} there and {b!r} here" for k, (a, b) in list(differ.items())[:4]
            )
            more = f" and {len(differ) - 4} more fields" if len(differ) > 4 else ""
            fix = "Give another --out, or the same flags to go on with that run."
            raise UsageError(
                "out", str(self.path), f"belongs to another config: {shown}{more}.", fix
            )

    def create(self, preset: str, changed: dict[str, Any]) -> None:
        """Make the folder and write the config (once) and the environment (at every start)."""
        for part in (self.path / name for name in PARTS):
            if part.exists() and not part.is_dir():
                files.set_aside(part, "it is no folder")
            part.mkdir(parents=True, exist_ok=True)
        if not (self.path / "config.json").exists():
            files.write_checked(
                self.path / "config.json",
                {"preset": preset, "changed": changed, "config": self._identity},
            )
        write_json(self.path / "environment.json", environment())

    def results(self, parse: Callable[[Any], Parsed]) -> Parsed | None:
        """What an earlier run of this config has left."""
        return files.read(self.path / "results.json", parse)

    # --- methods ----------------------------------------------------------------------------------

    def method(self, name: str, parse: Callable[[Any], Parsed]) -> Parsed | None:
        """A finished method's result."""
        return files.read(self._method(name), parse)

    def keep_method(self, name: str, result: dict[str, Any]) -> None:
        """Mark a method as finished."""
        files.write_checked(self._method(name), result)

    def _method(self, name: str) -> Path:
        return self.path / "methods" / f"{file_name(name)}.json"

    def checkpoints(self, name: str) -> Path:
        """Where a method's saves go while it runs."""
        return self.path / "checkpoints" / file_name(name)

    # --- lines ------------------------------------------------------------------------------------

    def append(self, name: str, lines: Iterable[dict[str, Any]]) -> None:
        """Add lines to a .jsonl file."""
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line, default=files.plain) + "\n" for line in lines)

    def lines(self, name: str) -> list[dict[str, Any]]:
        """All sound lines of one of `LINES`."""
        return files.read_lines(self.path / name, LINES[name])

    def drop_lines(self, name: str, method: str, after: int = -1) -> None:
        """Take out a method's lines past an update, so that a run that goes on holds no step
        twice."""
        lines = [
            line
            for line in self.lines(name)
            if line.get("method") != method or line.get("update", 0) <= after
        ]
        texts = [json.dumps(line).encode() for line in lines]
        files.write_lines(self.path / name, texts)


def _metric_line(line: dict[str, Any]) -> None:
    """Raise `ValueError` for what is no line of metrics.jsonl."""
    _check_fields(line, {"method": str, "seed": int, "update": int})
    for name, value in line.items():
        if name != "method" and value is not None and not _is_number(value):
            raise ValueError(f"{name[:40]} is no number")


def _sample_line(line: dict[str, Any]) -> None:
    """Raise `ValueError` for what is no line of samples.jsonl."""
    fields = {"method": str, "seed": int, "index": int, "prompt": str, "completion": str}
    _check_fields(line, fields)


def _check_fields(line: dict[str, Any], fields: dict[str, type]) -> None:
    for name, kind in fields.items():
        value = line[name]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{name} is {repr(value)[:40]}")
        if kind is int and value < 0:
            raise ValueError(f"{name} is below 0")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


LINES = {"metrics.jsonl": _metric_line, "samples.jsonl": _sample_line}  # file -> its lines' check


def environment() -> dict[str, Any]:
    """Versions, device, commit and command."""
    devices = jax.devices()
    return {
        "command": " ".join(sys.argv),
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "devices": [f"{d.platform}:{d.id} {d.device_kind}" for d in devices],
        "cores": os.cpu_count(),
    }


def _commit() -> str | None:
    """The git commit of this code, marked where files differ from it; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    ask = lambda *words: subprocess.run(
        ["git", "-C", str(root), *words],
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
        errors="replace",
    )
    try:
        head = ask("rev-parse", "--short", "HEAD")
    except OSError:
        return None
    if head.returncode:
        return None
    return head.stdout.strip() + (
        "+changes" if ask("status", "--porcelain", "-uno").stdout.strip() else ""
    )
