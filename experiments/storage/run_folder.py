"""What a run leaves on disk, and how a later one tells whether it is finished, goes on, or belongs
to something else."""

from __future__ import annotations

import errno
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.config import difference
from fdiv.types import UsageError

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy")


def write_json(path: Path, value: Any) -> None:
    """Write whole or not at all."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(json.dumps(value, indent=1, default=_plain) + "\n", encoding="utf-8")
    os.replace(draft, path)


def _plain(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return str(value)


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
        self.path, self._identity = Path(out), json.loads(json.dumps(identity, default=_plain))
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
            other = json.loads(config.read_text(encoding="utf-8"))["config"]
        except (ValueError, KeyError) as error:
            raise UsageError(
                "out",
                str(self.path),
                "has a config.json that cannot be read.",
                "Give another folder.",
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
        for name in ("methods", "figures", "checkpoints"):
            (self.path / name).mkdir(parents=True, exist_ok=True)
        if not (self.path / "config.json").exists():
            write_json(
                self.path / "config.json",
                {"preset": preset, "changed": changed, "config": self._identity},
            )
        write_json(self.path / "environment.json", environment())

    @property
    def finished(self) -> bool:
        """Whether an earlier run of this config came to its end."""
        results = self.path / "results.json"
        return results.exists() and bool(
            json.loads(results.read_text(encoding="utf-8")).get("complete", False)
        )

    # --- methods ----------------------------------------------------------------------------------

    def method(self, name: str) -> dict[str, Any] | None:
        """A finished method's result."""
        path = self.path / "methods" / f"{file_name(name)}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def keep_method(self, name: str, result: dict[str, Any]) -> None:
        """Mark a method as finished."""
        write_json(self.path / "methods" / f"{file_name(name)}.json", result)

    def checkpoints(self, name: str) -> Path:
        """Where a method's saves go while it runs."""
        return self.path / "checkpoints" / file_name(name)

    # --- lines ------------------------------------------------------------------------------------

    def append(self, name: str, lines: Iterable[dict[str, Any]]) -> None:
        """Add lines to a .jsonl file."""
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line, default=_plain) + "\n" for line in lines)

    def lines(self, name: str) -> list[dict[str, Any]]:
        """All whole lines of a .jsonl file; a last one that was cut off by a kill is not one."""
        path = self.path / name
        return (
            [
                line
                for text in path.read_text(encoding="utf-8").splitlines()
                if (line := _loads(text))
            ]
            if path.exists()
            else []
        )

    def drop_lines(self, name: str, method: str, after: int = -1) -> None:
        """Take out a method's lines past an update, so that a run that goes on holds no step
        twice."""
        lines = [
            line
            for line in self.lines(name)
            if line.get("method") != method or line.get("update", 0) <= after
        ]
        draft = self.path / f".{name}.draft"
        draft.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        os.replace(draft, self.path / name)


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


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
