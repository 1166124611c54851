"""What a run leaves on disk, and how a later one tells whether it is finished, goes on, or belongs
to something else."""

from __future__ import annotations

import itertools
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from importlib import metadata
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

import jax

from experiments import escapes, paths
from experiments.config import difference
from experiments.storage import files
from experiments.storage.files import write_json
from fdiv.types import UsageError

METRICS = "metrics.jsonl"
FOLDERS = ("methods", "figures", "checkpoints")
TABLES = ("results.parquet", "table.md", "table.csv", "table.tex")
RESULTS = ("results.json", "report.html", *TABLES, "class_optimum.json")
# what a start writes before its first update
LEFT = ("config.json", "environment.json", "bad_rows.json", "metrics.jsonl", "samples.jsonl")
FILES = (*LEFT, *RESULTS, "files.json")
PASSING = ("draft-", "old-")  # folders of saves that are being written or thrown away
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy")
# the file of a script, as Python writes it in the place of the script's name
SCRIPT = re.compile(r"(?:.*/)?experiments/(?:commands/)?(\w+(?:/\w+)*?)(?:/__main__)?\.py")


Parsed = TypeVar("Parsed")


def file_name(method: str) -> str:
    """A method's name as part of a file's."""
    return method.replace(":", "-").replace("/", "-")


def final(path: Path, method: str) -> Path:
    """Where the last state of a finished method is kept in the folder of a run."""
    return path / "checkpoints" / file_name(f"{method}-final")


def result_of(path: Path, method: str) -> Path:
    """The file that marks a method as finished, and holds its result."""
    return path / "methods" / f"{file_name(method)}.json"


def fresh(path: Path) -> Path:
    """The path itself where nothing is there, else the first of PATH-2, PATH-3 ... that is free."""
    numbered = (path.with_name(f"{path.name}-{i}") for i in itertools.count(2))
    return next(p for p in itertools.chain([path], numbered) if not os.path.lexists(p))


def _as_kept(identity: dict[str, Any]) -> dict[str, Any]:
    """An identity as a file gives it back."""
    return escapes.finite_json(json.loads(json.dumps(identity, default=files.plain)))


class RunFolder:
    """The folder of one config. Opening it raises `UsageError` if it holds anything else; nothing
    is then touched. What another config left there before its first update was finished is no
    obstacle: `create` clears it away."""

    def __init__(self, out: Path, identity: dict[str, Any]):
        self.path, self._identity = Path(out), _as_kept(identity)
        self._lock = threading.RLock()  # of its lines, which several methods may add to
        self.refuse_if_taken()

    def refuse_if_taken(self) -> None:
        """Raise `UsageError` for a path that is no folder, and for a folder of something else."""
        with paths.naming(self.path):
            if not self.path.exists():
                paths.refuse_blocked("out", self.path)
                paths.refuse_unsavable("out", self.path)
                return
            if not self.path.is_dir():
                fix = "Give a folder, new or of an earlier run of this config."
                raise UsageError("out", str(self.path), "is a file.", fix)
            if self._work() or not self._could_be_begun():
                self._refuse_unless_own()
                return
            paths.refuse_unsavable("out", self.path)
            if (foreign := self._foreign()) and not (self.path / "config.json").exists():
                problem = f"holds files that are no run's, such as {foreign[0]}."
                fix = "Give a new or empty folder."
                raise UsageError("out", str(self.path), problem, fix)

    def _could_be_begun(self) -> bool:
        """Whether config.json is a run's, if there is one, and not that of a model, say."""
        config = self.path / "config.json"
        try:
            return files.load(config, lambda data: data.keys() >= {"preset", "changed", "config"})
        except FileNotFoundError:
            return True
        except files.Damaged:
            return config.is_dir()  # which is set aside

    def _foreign(self) -> list[str]:
        """What a run would not leave there before it writes config.json."""
        places = sorted(self.path.iterdir())
        empty = {p for p in places if p.name in FOLDERS and p.is_dir() and not any(p.iterdir())}
        others = [p.name for p in places if p not in empty]
        return [name for name in others if name != "leases" and not name.startswith(".draft-")]

    def _work(self) -> bool:
        """Whether there is anything in the folder that took a finished update to make."""
        made = [
            *(p for p in self.path.glob("checkpoints/*/*") if not p.name.startswith(PASSING)),
            *self.path.glob("methods/*.json"),
            *(self.path / name for name in RESULTS if (self.path / name).exists()),
        ]
        return bool(made) or self._reported()

    def _reported(self) -> bool:
        """Whether metrics.jsonl has a line of an update, or one that is damaged."""
        try:
            content = (self.path / METRICS).read_bytes()
        except (FileNotFoundError, IsADirectoryError):
            return False
        lines = files.split_lines(content, LINES[METRICS])
        return bool(lines.bad) or any(line["update"] > 0 for _, line in lines.good)

    def _differs(self) -> dict[str, tuple[Any, Any]]:
        """The fields in which the config that is kept there differs from this one. Raises
        `UsageError` where there is none that can be read."""
        config = self.path / "config.json"
        if not config.exists():
            problem = "holds results, and no config.json that says of what."
            raise UsageError("out", str(self.path), problem, "Give a new or empty folder.")
        try:
            other = files.load(config, lambda data: dict(data["config"]))
            differ = difference(other, self._identity)
        except files.Damaged as error:
            # whose the folder is cannot be told from anything else in it
            problem = f"has a damaged config.json: {error}."
            fix = f"Give another --out, or put {config} back from a copy."
            raise UsageError("out", str(self.path), problem, fix) from error
        return {field: two for field, two in differ.items() if not _same_path(*two)}

    def _refuse_unless_own(self) -> None:
        if differ := self._differs():
            shown = ", ".join(
                f"{k} is {a!r} there and {b!r} here" for k, (a, b) in list(differ.items())[:4]
            )
            more = f" and {len(differ) - 4} more fields" if len(differ) > 4 else ""
            fix = "Give another --out, or the same flags to go on with that run."
            problem = f"belongs to another config: {shown}{more}."
            raise UsageError("out", str(self.path), problem, fix)

    @property
    def begun(self) -> bool:
        """Whether a run of this very config has claimed it."""
        try:
            return not self._differs()
        except (UsageError, OSError):
            return False

    def create(self, preset: str, changed: dict[str, Any]) -> None:
        """Make the folder and write the config (once) and the environment (at every start).

        Raises `UsageError` where what the end of a run writes could not be written: better known
        now than after all training."""
        for name in FOLDERS:
            if os.path.lexists(place := self.path / name) and not place.is_dir():
                files.set_aside(place, "it is no folder")
        for name in FILES:
            if (place := self.path / name).is_dir():
                files.set_aside(place, "it is a folder")
        for left in (*self.path.glob(".draft-*"), *self.path.glob("*/.draft-*")):  # by a kill
            left.unlink(missing_ok=True)
        for name in ("", *FOLDERS):
            paths.try_folder("out", self.path / name)
        if not self._work() and not self.begun:
            self._clear()
        for path in self.path.glob("*.jsonl"):
            path.open("ab").close()
        if not (self.path / "config.json").exists():
            files.write_checked(
                self.path / "config.json",
                {"preset": preset, "changed": changed, "config": self._identity},
            )
        write_json(self.path / "environment.json", environment())

    def _clear(self) -> None:
        """Take away what a start left that did not come to its first update."""
        for name in LEFT:
            (self.path / name).unlink(missing_ok=True)
        for path in self.path.glob("checkpoints/*"):
            shutil.rmtree(path)

    def results(self, parse: Callable[[Any], Parsed]) -> Parsed | None:
        """What an earlier run of this config has left."""
        return files.read(self.path / "results.json", parse)

    def list_figures(self) -> None:
        """Keep the names of the pictures that were drawn, for `lacking`."""
        names = sorted(p.name for p in (self.path / "figures").iterdir() if p.name[0] != ".")
        files.write_checked(self.path / "files.json", {"figures": names})

    def lacking(self, report: bool) -> list[str]:
        """The files that a finished run has to have and has not, with a report or without."""
        wanted = list(TABLES)
        if report:
            names = files.read(
                self.path / "files.json", lambda data: list(map(str, data["figures"]))
            )
            wanted += ["report.html", *(f"figures/{name}" for name in names or ())]
            if not names and not any(self.path.glob("figures/*.pdf")):
                wanted.append("figures/learning_curves.pdf")
        return [name for name in wanted if not (self.path / name).is_file()]

    # --- methods ----------------------------------------------------------------------------------

    def method(self, name: str, parse: Callable[[Any], Parsed]) -> Parsed | None:
        """A finished method's result."""
        return files.read(self._method(name), parse)

    def keep_method(self, name: str, result: dict[str, Any]) -> None:
        """Mark a method as finished."""
        files.write_checked(self._method(name), result)

    def _method(self, name: str) -> Path:
        return result_of(self.path, name)

    def checkpoints(self, name: str) -> Path:
        """Where a method's saves go while it runs."""
        return self.path / "checkpoints" / file_name(name)

    # --- lines ------------------------------------------------------------------------------------

    def append(self, name: str, lines: Iterable[dict[str, Any]]) -> None:
        """Add lines to a .jsonl file."""
        path = self.path / name
        with self._lock, paths.naming(path), path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line, default=files.plain) + "\n" for line in lines)

    def lines(self, name: str) -> list[dict[str, Any]]:
        """All sound lines of one of `LINES`."""
        with self._lock:
            return files.read_lines(self.path / name, LINES[name])

    def drop_lines(self, name: str, method: str, after: int = -1) -> None:
        """Take out a method's lines past an update, so that a run that goes on holds no step
        twice."""
        with self._lock:
            if self._without(name, method):
                return
            lines = [
                line
                for line in self.lines(name)
                if line.get("method") != method or line.get("update", 0) <= after
            ]
            texts = [json.dumps(line).encode() for line in lines]
            files.write_lines(self.path / name, texts)

    def _without(self, name: str, method: str) -> bool:
        """Whether a file of whole lines has none of a method, without reading what they say."""
        try:
            content = (self.path / name).read_bytes()
        except OSError:
            return False  # of which `lines` knows more
        return content[-1:] in (b"", b"\n") and json.dumps(method).encode() not in content


def _same_path(a: Any, b: Any) -> bool:
    """Whether two values are one path, once with `~` and once without."""
    both = isinstance(a, str) and isinstance(b, str) and "~" in (a[:1], b[:1])
    return both and os.path.expanduser(a) == os.path.expanduser(b)


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
        "command": shlex.join(sys.argv),
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "devices": [f"{d.platform}:{d.id} {d.device_kind}" for d in devices],
        "cores": os.cpu_count(),
        "float32_products": getattr(jax.config, "jax_default_matmul_precision", None) or "default",
    }


def typed(command: str) -> str:
    """The command of an environment as one types it: there it begins with the script's file, which
    earlier versions had in `experiments` itself."""
    script, _, rest = command.partition(" ")
    found = SCRIPT.fullmatch(script)
    first = f"python -m experiments.{found[1].replace('/', '.')}" if found else script
    return f"{first} {rest}".rstrip()


def commit() -> str | None:
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
