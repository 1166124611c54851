"""Files that are read again: JSON with a checksum of its own, and lines of JSON.

A disk, a crash or a hand may change what a run has left. A file that is not what was written is set
aside under another name, which is said, and counts as missing, so that whoever reads it makes it
again from what remains. Nothing here needs JAX."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

import numpy as np

from experiments import escapes
from experiments.storage import whole
from fdiv.types import UsageError

CHECKSUM = "checksum"  # the field of a JSON file that holds the sum of its others
SUFFIX = ".damaged"  # of what is set aside
WORDS = 160  # characters of a reason
Value = TypeVar("Value")
# what reading a value of another shape raises
SHAPE = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError)


class Damaged(ValueError):
    """Why a file is not what was written."""


# --- writing --------------------------------------------------------------------------------------


def write_json(path: Path, value: Any) -> None:
    """Write whole or not at all. Infinity, for which JSON has no name, is the string "inf"
    (`escapes.finite_json`), and NaN is null."""
    own = escapes.finite_json(json.loads(json.dumps(value, default=plain)))
    write_text(path, json.dumps(own, indent=1, allow_nan=False) + "\n")


def write_checked(path: Path, value: Mapping[str, Any]) -> None:
    """The same of an object, with a checksum for `read`."""
    own = escapes.finite_json(json.loads(json.dumps(value, default=plain)))
    write_json(path, {**own, CHECKSUM: checksum(own)})


def write_lines(path: Path, texts: list[bytes]) -> None:
    """Write lines whole or not at all."""
    write_text(path, b"".join(text + b"\n" for text in texts).decode("utf-8"))


def write_text(path: Path, text: str) -> None:
    """Write whole or not at all; a folder in the file's place is set aside."""
    if path.is_dir():
        set_aside(path, "it is a folder")
    with whole.draft(path) as place:
        place.write_text(text, encoding="utf-8")


def plain(value: Any) -> Any:
    """What JSON has no name for: arrays as lists, all else as text."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return str(value)


def checksum(value: Mapping[str, Any]) -> str:
    """Of an object as JSON reads it, whatever the order of its fields."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


# --- reading --------------------------------------------------------------------------------------


def read(path: Path, parse: Callable[[Any], Value]) -> Value | None:
    """What `parse` makes of an object in a JSON file; None where there is no file, and where it is
    damaged: it is then set aside. What `parse` raises for another shape counts as damage, but for
    `UsageError`, which is passed on."""
    try:
        return load(path, parse)
    except FileNotFoundError:
        return None
    except Damaged as error:
        set_aside(path, str(error))
        return None


def load(path: Path, parse: Callable[[Any], Value]) -> Value:
    """The same, which raises `Damaged` and sets nothing aside."""
    try:
        content = path.read_bytes()
    except (IsADirectoryError, NotADirectoryError) as error:
        raise Damaged("it is a folder, or lies in what is none") from error
    try:
        return parse(checked(loads(content)))
    except (UsageError, Damaged):
        raise
    except SHAPE as error:
        raise Damaged(_reason(error)) from error


def loads(text: bytes | str) -> Any:
    """A value of JSON. Raises `Damaged` for what is none, and for a key that stands twice in one
    object, of which Python would keep the last."""
    try:
        whole = text.decode("utf-8") if isinstance(text, bytes) else text
        return json.loads(whole, object_pairs_hook=_unique)
    except Damaged:
        raise
    except RecursionError as error:
        raise Damaged("it is nested too deeply") from error
    except ValueError as error:
        raise Damaged(f"it is not JSON: {_first_line(error)}" if text else "it is empty") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        double = next(key for key in keys if keys.count(key) > 1)
        raise Damaged(f"it has the key {double[:40]!r} twice")
    return made


def checked(value: Any) -> dict[str, Any]:
    """An object without its checksum. One of an earlier version has none."""
    if not isinstance(value, dict):
        raise Damaged(f"it holds a {type(value).__name__}, not an object")
    own = {name: x for name, x in value.items() if name != CHECKSUM}
    if CHECKSUM in value and value[CHECKSUM] != checksum(own):
        raise Damaged("its checksum does not match")
    return own


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it has no {_first_line(error)}"
    return _first_line(error)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:WORDS]


# --- lines ----------------------------------------------------------------------------------------


class Lines(NamedTuple):
    """The lines of a file, and what is wrong with the others."""

    good: list[tuple[bytes, dict[str, Any]]]  # as they stand in the file, and read
    bad: list[tuple[int, bytes, str]]  # number from 1, text, reason


def read_lines(path: Path, check: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
    """All whole lines of a .jsonl file; none where there is no file. A last one that was cut off by
    a kill is not one. Lines that are no objects, or for which `check` raises, are moved to a file
    beside it, which is said."""
    try:
        found = split_lines(path.read_bytes(), check)
    except FileNotFoundError:
        return []
    except IsADirectoryError:
        set_aside(path, "it is a folder")
        return []
    if found.bad:
        aside = unused(path.with_name(path.name + SUFFIX))
        aside.write_bytes(b"".join(text + b"\n" for _, text, _ in found.bad))
        write_lines(path, [text for text, _ in found.good])
        number, _, reason = found.bad[0]
        print(
            f"{len(found.bad)} damaged lines of {path} are set aside in {aside.name} (line "
            f"{number}: {reason})."
        )
    return [value for _, value in found.good]


def split_lines(content: bytes, check: Callable[[dict[str, Any]], None]) -> Lines:
    """The lines of a .jsonl file that are sound and those that are not."""
    texts = content.split(b"\n")
    last = len(texts) if texts[-1] else 0  # the number of one that no line feed ends
    good, bad = [], []
    for number, text in enumerate(texts, 1):
        if not text:
            continue
        try:
            value = loads(text)
            if not isinstance(value, dict):
                raise Damaged(f"it is a {type(value).__name__}, not an object")
            check(value)
        except SHAPE as error:
            if number != last or not text.startswith(b"{"):
                bad.append((number, text, _reason(error)))
        else:
            good.append((text, value))
    return Lines(good, bad)


# --- what is damaged ------------------------------------------------------------------------------


def set_aside(path: Path, reason: str) -> None:
    """Rename a damaged file, or a folder in its place, and say so. Raises `UsageError` where it
    cannot be renamed."""
    aside = unused(path.with_name(path.name + SUFFIX))
    try:
        path.rename(aside)
    except FileNotFoundError:  # another process was faster
        return
    except OSError as error:
        problem = f"is damaged ({reason}) and cannot be renamed ({error.strerror})."
        raise UsageError("file", str(path), problem, "Move it away: it is made again.") from error
    print(f"Set aside the damaged {path} as {aside.name}: {reason}.")


def refuse(path: Path, reason: str, fix: str) -> NoReturn:
    """Raise `UsageError` for a damaged file that cannot be made again."""
    raise UsageError("file", str(path), f"is damaged: {reason}.", fix)


def unused(place: Path) -> Path:
    """A name that nothing has yet."""
    number, name = 1, place
    while os.path.lexists(name):
        number += 1
        name = place.with_name(f"{place.name}-{number}")
    return name
