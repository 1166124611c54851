"""The paths that flags give: homes put in for `~`, tried before they are needed, and named where
the system refuses one."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from fdiv.types import UsageError

Fields = TypeVar("Fields")  # a dataclass of flags
CAUSES = (  # numbers of the system's errors, what is wrong with the path, what to do about it
    ((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "is on a full disk", "Free some space"),
    ((errno.EROFS, errno.EACCES, errno.EPERM), "cannot be written", "Make it writable"),
    ((errno.ENAMETOOLONG,), "has a name that is too long", "Give a shorter one"),
    ((errno.ENOTDIR, errno.EEXIST), "lies below a file", "Give another path"),
    ((errno.EISDIR,), "is a folder where a file is to be", "Move it, or give another path"),
    ((errno.ELOOP,), "is a link that leads back to itself", "Mend the link, or give another path"),
    ((errno.EMFILE, errno.ENFILE), "is one file too many", "Raise the limit of ulimit -n"),
)
DEEPEST = 200  # folders of a path
# where `experiments.smollm2` brings its model, and presets look for it: in the folder of caches
SMOLLM2 = os.path.join(
    os.environ.get("FDIV_CACHE") or "~/.cache/fdiv", "models", "SmolLM2-135M-Instruct"
)


def given(fields: Any, unnamed: Collection[str] = (), prefix: str = "") -> dict[str, Path]:
    """The paths of a dataclass of flags, groups in groups, each by the name of its flag."""
    known: dict[str, Path] = {}
    for field in dataclasses.fields(fields):
        value, name = getattr(fields, field.name), prefix + field.name
        if isinstance(value, Path):
            known[name] = value
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            known |= given(value, unnamed, prefix if field.name in unnamed else f"{name}.")
    return known


def expanded(field: str, path: Path) -> Path:
    """A path with the home folder in place of a leading `~`. Raises `UsageError` where the user it
    names, or this one, has no home."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        problem = "begins with a home folder that is not known."
        raise UsageError(field, str(path), problem, "Give the whole path.") from error


def with_homes(fields: Fields, unnamed: Collection[str] = (), prefix: str = "") -> Fields:
    """A dataclass of flags, groups in groups, with `expanded` paths. An error names the flag, to
    which the groups in `unnamed` add no prefix."""
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(fields):  # pyrefly: ignore[bad-argument-type]
        value, name = getattr(fields, field.name), prefix + field.name
        if isinstance(value, Path):
            new: Any = expanded(name, value)
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            new = with_homes(value, unnamed, prefix if field.name in unnamed else f"{name}.")
        else:
            continue
        if new is not value and new != value:
            changed[field.name] = new
    # pyrefly: ignore[bad-specialization]
    return dataclasses.replace(fields, **changed) if changed else fields


# --- what the system refuses ----------------------------------------------------------------------


@contextlib.contextmanager
def naming(path: Path, always: bool = False) -> Iterator[None]:
    """An `OSError` that names no file, as that of a full disk does, gets this one's name; `always`:
    in place of another name too."""
    try:
        yield
    except OSError as error:
        if error.filename is None or always:
            error.filename, error.filename2 = str(path), None
        raise


def unusable(error: OSError, flags: Mapping[str, Path | None], then: str = "") -> UsageError:
    """What is the matter with the path that the system refused, under the flag that gave it.

    `flags` are the paths that were given, by field; the longest that the refused one lies in is
    blamed, and the path alone where it lies in none. `then`: what to know besides the fix."""
    if isinstance(error, BrokenPipeError):
        problem, fix = "is read by nobody any more.", "Give it a reader that stays, or a file."
        return UsageError("output", "a pipe", problem, _sentence(fix.rstrip("."), then))
    if error.filename is None:
        reason = error.strerror or " ".join(str(error).split())[:200] or type(error).__name__
        return UsageError("system", reason, "is what the system answered.", _sentence("", then))
    path = Path(os.fsdecode(error.filename))
    field = _owner(path, flags)
    given = flags.get(field)
    problem, fix = _cause(error, path if given is None else given)
    return UsageError(field, str(path), f"{problem}.", _sentence(fix, then))


def _sentence(fix: str, then: str) -> str:
    text = "; ".join(filter(None, (fix, then))) or "Try again"
    return f"{text[0].upper()}{text[1:]}."


def _owner(path: Path, flags: Mapping[str, Path | None]) -> str:
    """The flag whose path is the refused one, or holds it."""
    whole = Path(os.path.abspath(path))
    inside = {}
    for field, given in flags.items():
        own = Path(os.path.abspath(given)) if given is not None else None
        if own is not None and (whole == own or own in whole.parents or whole in own.parents):
            inside[field] = len(own.parts) if whole == own or own in whole.parents else 0
    return max(inside, key=lambda field: inside[field], default="file")


def _cause(error: OSError, given: Path) -> tuple[str, str]:
    path = Path(os.fsdecode(error.filename))
    link = next((p for p in (path, given, *given.parents) if _dangling(p)), None)
    if link is not None:
        return f"leads to nothing: {link} is a link to {os.readlink(link)}", "Mend the link"
    for numbers, problem, fix in CAUSES:
        if error.errno in numbers:
            below = next((p for p in (*given.parents, given) if os.path.isfile(p)), None)
            if problem == "lies below a file" and below in (None, path):
                return "is a file where a folder is to be", "Move it, or give another path"
            return problem, fix
    reason = error.strerror or " ".join(str(error).split())[:200] or type(error).__name__
    if isinstance(error, FileNotFoundError) and not os.path.exists(given):
        if os.path.exists(given.parent):
            return f"has gone, or cannot be made there ({reason})", "Give another path"
        return "has gone", "Bring it back (is its file system mounted?)"
    return f"cannot be used ({reason})", "See to it"


def _dangling(path: Path) -> bool:  # by os.path, which a name that is too long does not stop
    return os.path.islink(path) and not os.path.exists(path)


def refuse_blocked(field: str, folder: Path) -> None:
    """Raise `UsageError` where a file or a link to nothing stands on the way to a folder."""
    place = next((p for p in (folder, *folder.parents) if os.path.lexists(p)), None)
    if place is not None and not os.path.isdir(place):
        error = OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
        raise unusable(error, {field: folder})


def try_and_leave(field: str, folder: Path) -> None:
    """The same as `try_folder`, which leaves nothing behind: for what is written much later, or may
    still be refused."""
    before = [p for p in (folder, *folder.parents) if not os.path.lexists(p)]
    try_folder(field, folder)
    for made in before:
        with contextlib.suppress(OSError):
            made.rmdir()


def refuse_unsavable(field: str, folder: Path) -> None:
    """Raise `UsageError` for a path below which saves could be written and not be read again: Orbax
    takes brackets for a pattern, and TensorStore a backslash for an escape."""
    whole = os.path.abspath(folder)
    wrong = re.search(r"\\|\[.*\]|[\ud800-\udfff]", whole, re.DOTALL)
    if wrong is None:
        return
    if "\ud800" <= wrong.group() <= "\udfff":
        problem = "has characters in its path that this locale (LC_ALL, LANG) does not know."
        raise UsageError(field, str(folder), problem, "Set PYTHONUTF8=1, or LC_ALL=C.UTF-8.")
    part = wrong.group() if wrong.group().isprintable() else ascii(wrong.group())[1:-1]
    problem = f"has {part} in its path ({whole}), below which saves could not be read again."
    raise UsageError(field, str(folder), problem, "Give a plainer path.")


def _refuse_deep(field: str, folder: Path) -> None:
    """Raise `UsageError` for more folders in folders than Python makes at once."""
    if len(folder.parts) > DEEPEST:
        problem = f"lies {len(folder.parts):,} folders deep."
        raise UsageError(field, str(folder), problem, "Give a shorter path.")


def try_folder(field: str, folder: Path) -> None:
    """Make a folder and write a file in it, which is taken away again: what only the end of a run
    writes is not refused then.

    Raises `UsageError` naming the field; folders that were made on the way there are then removed.
    """
    _refuse_deep(field, folder)
    before = next((p for p in (folder, *folder.parents) if os.path.lexists(p)), folder)
    try:
        with naming(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"1" * 4096)
                file.flush()
    except OSError as error:
        for made in (folder, *folder.parents):
            if made == before:
                break
            with contextlib.suppress(OSError):
                made.rmdir()
        error.filename = str(folder)
        raise unusable(error, {field: folder}) from error
