"""Saving and restoring the runs of a run, through Orbax: one numbered folder a save, the newest
sound one is used.

A save is written beside its place and renamed into it, so a half-written one is never taken for a
save. Its about.json holds plain data, the number of the format, and two checksums: of the arrays,
which Orbax restores with flipped bytes without a word, and of all else in about.json. A save that
fails a checksum is damaged and set aside, and the one before it is used. A sound save in another
format is refused, as to train over it would lose what it holds."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from experiments.devices.keys import is_key
from experiments.storage import files
from fdiv.types import UsageError

# Which leaves a save holds, in which order, and which fields about.json has. Raise it with any
# change to `TrainState` or what it is made of. Format 1 had no number and no sum of about.json.
FORMAT = 2
KEEP = 2
ROOM = 1 << 20  # bytes that must be left beside the arrays
OWN_FIELDS = ("format", "checksum", "about_checksum")  # of about.json; the others are the caller's
# Orbax tells its parts apart by numbers of the process: two saves at once, of methods that train
# side by side, make each other's folders
_ONE_AT_A_TIME = threading.Lock()
Tree = TypeVar("Tree")  # a pytree of arrays
About = dict[str, Any]  # plain data, for JSON


def save(folder: Path, step: int, train_state: Any, about: About, keep: int = KEEP) -> None:
    """Write `train_state` (a pytree of host or device arrays) and plain data `about` as save number
    `step`; keep the last few.

    Raises `OSError` where it cannot be written; the saves before it are whole all the same.
    """
    _write(folder, step, _numpy(train_state), about, keep)


@contextlib.contextmanager
def writer(folder: Path, keep: int) -> Iterator[Callable[[int, Any, About], None]]:
    """`save` in the background: arrays are copied at the call, and what went wrong with a save is
    raised by the next one, or at the end, which waits for the last."""
    under_way: list[Future] = []

    def submit(step: int, train_state: Any, about: About) -> None:
        if under_way:
            under_way.pop().result()
        under_way.append(thread.submit(_write, folder, step, _numpy(train_state), about, keep))

    with ThreadPoolExecutor(1) as thread:
        yield submit
        if under_way:
            under_way.pop().result()


def restore(folder: Path, like: Tree, lacking: int = 0) -> tuple[Tree, About] | None:
    """(pytree shaped as `like`, about) from the newest save that is whole, or None where there is
    none. An earlier version's may lack the last `lacking` leaves, which are then as in `like`.

    Raises `UsageError` where the newest whole save is in another format than this code's."""
    if folder.exists() and not folder.is_dir():
        files.set_aside(folder, "it is no folder")
    for place in reversed(_places(folder)):
        try:
            about = _read_about(place)
            if about.get("update", int(place.name)) != int(place.name):
                raise ValueError(f"it says that it is save {about['update']}")
            arrays = _read_arrays(place, about, like, lacking) if about["format"] == FORMAT else []
        except Exception as error:  # whatever is wrong with it, the save before may be sound
            _set_aside(place, _first_line(error))
            continue
        if about["format"] != FORMAT:
            raise _other_format(place, about["format"])
        own = {name: value for name, value in about.items() if name not in OWN_FIELDS}
        return _like(arrays, like), own
    return None


def read(folder: Path) -> tuple[list[np.ndarray], About]:
    """(leaves, about) of the newest save: its arrays in order, typed keys as their data, whatever
    structure they had. It is for a reader, so nothing is set aside. Raises `UsageError` where there
    is no save, where it is damaged, and where it is in another format."""
    if not (places := _places(folder)):
        raise UsageError("checkpoint", str(folder), "holds no save.", "Run the command again.")
    try:
        about = _read_about(places[-1])
        number = about["format"]
        arrays = _read_arrays(places[-1], about) if number == FORMAT else []
    except Exception as error:  # whatever is wrong with it
        problem = f"is damaged: {_first_line(error)}."
        fix = "Put it back from a copy, or delete it and run the command again."
        raise UsageError("checkpoint", str(places[-1]), problem, fix) from error
    if number != FORMAT:
        raise _other_format(places[-1], number)
    return arrays, about


def refuse_other_format(folder: Path) -> None:
    """Raise `UsageError` where `restore` will, without reading the arrays: before other parts of
    the run are trained. What is damaged is left to `restore`."""
    for place in reversed(_places(folder)):
        with contextlib.suppress(Exception):
            number = _read_about(place)["format"]
            break
    else:
        return
    if number != FORMAT:
        raise _other_format(place, number)


def _other_format(place: Path, number: int) -> UsageError:
    whose = "an older" if number < FORMAT else "a newer"
    return UsageError(
        "checkpoint",
        str(place),
        f"was saved in format {number} by {whose} version of fdiv, and this one reads format "
        f"{FORMAT} alone.",
        f"Start anew with another --out, delete {place.parent} to train this part anew, or go on "
        "with the version that made it.",
    )


def _write(folder: Path, step: int, arrays: list[np.ndarray], about: About, keep: int) -> None:
    # Orbax writes numpy arrays in the first process alone, whose folder is the one that stays
    if jax.process_index() > 0:
        return
    place, draft = folder / f"{step:09d}", folder / f"draft-{step:09d}"
    folder.mkdir(exist_ok=True)  # without parents: a run's folder that has gone is not made anew
    for left in (*folder.glob("draft-*"), *folder.glob("old-*")):  # by a kill
        _remove(left)
    draft.mkdir()
    try:
        _check_room(folder, arrays)
        with _ONE_AT_A_TIME, _orbax() as checkpointer:
            checkpointer.save((draft / "arrays").resolve(), arrays)
        own: About = {**about, "format": FORMAT, "checksum": _checksum(arrays)}
        text = json.dumps({**own, "about_checksum": _sum_of_about(own)})
        (draft / "about.json").write_text(text, encoding="utf-8")
        if not _holds(place, own["checksum"]):
            draft.rename(place)
    except OSError:
        raise
    # Orbax and tensorstore have errors of their own for what the system refuses
    except Exception as error:
        full = any(
            words in str(error)
            for words in ("RESOURCE_EXHAUSTED", "No space left", "quota", "File too large")
        )
        raise OSError(
            errno.ENOSPC if full else errno.EIO, _first_line(error), str(folder)
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    for old in _places(folder)[:-keep]:
        _remove(old.rename(old.with_name(f"old-{old.name}")))


def _check_room(folder: Path, arrays: list[np.ndarray]) -> None:
    """Raise `OSError` where a save would fill the disk: quieter than what Orbax says then."""
    if shutil.disk_usage(folder).free < ROOM + sum(array.nbytes for array in arrays):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def _read_about(place: Path) -> About:
    """about.json, its own sum checked; the first format, which had none, is given its number."""
    about = files.loads((place / "about.json").read_bytes())
    if "about_checksum" not in about and "format" not in about:
        if not {"checksum", "update"} <= about.keys():
            raise ValueError("its about.json has no checksum, or no update")
        return {**about, "format": 1}
    if about.pop("about_checksum", None) != _sum_of_about(about):
        raise ValueError("the checksum of its about.json does not match")
    return about


def _read_arrays(place: Path, about: About, like: Any = None, lacking: int = 0) -> list[np.ndarray]:
    """In the order of the leaves of `like`; without it, as they lie."""
    target = None if like is None else _numpy(like)
    with _ONE_AT_A_TIME, _orbax() as checkpointer:
        where = (place / "arrays").resolve()
        if target is not None and lacking and _count(checkpointer, where) == len(target) - lacking:
            arrays, beyond = checkpointer.restore(where, target[:-lacking]), target[-lacking:]
        else:
            arrays, beyond = checkpointer.restore(where, target), []
    if _checksum(arrays) != about["checksum"]:
        raise ValueError("its checksum does not match")
    return [*arrays, *beyond]


def _count(checkpointer: Any, where: Path) -> int:
    """How many arrays a save holds."""
    return len(jax.tree.leaves(checkpointer.metadata(where).item_metadata.tree))


def _orbax():
    """A checkpointer that waits for no other process: in the background that would cross with what
    devices tell each other."""
    import orbax.checkpoint as ocp  # loading it takes longer than a small run's first updates

    own = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        own, active_processes={own}, barrier_sync_key_prefix=str(own)
    )
    return ocp.StandardCheckpointer(multiprocessing_options=alone)


def _holds(place: Path, checksum: str) -> bool:
    """Whether a save of the same arrays is there already, from an earlier start of the same run.
    What else has its name is set aside."""
    if not os.path.lexists(place):
        return False
    try:
        if _read_about(place)["checksum"] == checksum:
            return True
        reason = "it holds other numbers than were made again"
    except Exception as error:  # whatever is wrong with it
        reason = _first_line(error)
    _set_aside(place, reason)
    return False


def _set_aside(place: Path, reason: str) -> None:
    aside = files.unused(place.with_name(f"damaged-{place.name}"))
    place.rename(aside)
    print(f"set aside the damaged checkpoint {place} as {aside.name} ({reason})")


def _remove(place: Path) -> None:
    """A save, or a file in its place."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink()


def _places(folder: Path) -> list[Path]:
    """What has the name of a save, oldest first."""
    return sorted(p for p in folder.glob("[0-9]*") if p.name.isdigit())


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__


def _numpy(tree: Any) -> list[np.ndarray]:
    """Copies of the leaves in order, typed keys as their data: a list restores into any structure
    of the same leaves."""
    return [np.array(jax.random.key_data(x) if is_key(x) else x) for x in jax.tree.leaves(tree)]


def _like(arrays: list[np.ndarray], like: Tree) -> Tree:
    leaves, structure = jax.tree.flatten(like)
    typed = [
        jax.random.wrap_key_data(jax.numpy.asarray(a)) if is_key(x) else jax.numpy.asarray(a)
        for a, x in zip(arrays, leaves)
    ]
    return jax.tree.unflatten(structure, typed)


def _checksum(arrays: list[Any]) -> str:
    state = hashlib.sha256()
    for array in map(np.ascontiguousarray, arrays):
        state.update(f"{array.dtype} {array.shape} ".encode() + array.tobytes())
    return state.hexdigest()


def _sum_of_about(about: About) -> str:
    """Of every field but itself; the same in all formats from 2 on, so that a damaged save of a
    newer one is still known as damaged."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
