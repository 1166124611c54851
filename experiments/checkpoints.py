"""Saving and restoring the lanes of a run, through Orbax: one numbered folder a save, the newest sound one is used.

A save is written beside its place and renamed into it, so a half-written one is never taken for a save. A checksum of all
arrays is kept with it: Orbax restores flipped bytes without a word.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

KEEP = 2


def save(folder: Path, step: int, lane: Any, about: dict[str, Any]) -> None:
    """Write `lane` (host or device arrays, [count, ...]) and plain data `about` as save number `step`."""
    arrays = _numpy(lane)
    place, draft = folder / f"{step:09d}", folder / f"draft-{step:09d}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save((draft / "arrays").resolve(), arrays)
    (draft / "about.json").write_text(json.dumps({**about, "checksum": _checksum(arrays)}))
    shutil.rmtree(place, ignore_errors=True)
    draft.rename(place)
    for old in _places(folder)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)


def restore(folder: Path, like: Any) -> tuple[Any, dict[str, Any]] | None:
    """(lane shaped as `like`, about) from the newest save that is whole, or None where there is none."""
    for place in reversed(_places(folder)):
        try:
            about = json.loads((place / "about.json").read_text())
            with ocp.StandardCheckpointer() as checkpointer:
                arrays = checkpointer.restore((place / "arrays").resolve(), _numpy(like))
            if _checksum(arrays) != about.pop("checksum"):
                raise ValueError("its checksum does not match")
        except Exception as error:  # whatever is wrong with it, the save before may be sound
            place.rename(place.with_name(f"damaged-{place.name}"))
            print(f"set aside the damaged checkpoint {place} ({error})")
            continue
        return _like(arrays, like), about
    return None


def _places(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("[0-9]*") if p.is_dir()) if folder.exists() else []


def _is_key(x: Any) -> bool:
    return isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def _numpy(tree: Any) -> list[np.ndarray]:
    """Leaves in order, typed keys as their data: a list restores into any structure of the same leaves."""
    return [np.asarray(jax.random.key_data(x) if _is_key(x) else x) for x in jax.tree.leaves(tree)]


def _like(arrays: list[np.ndarray], like: Any) -> Any:
    leaves, structure = jax.tree.flatten(like)
    typed = [jax.random.wrap_key_data(a) if _is_key(x) else jax.numpy.asarray(a) for a, x in zip(arrays, leaves)]
    return jax.tree.unflatten(structure, typed)


def _checksum(arrays: list[Any]) -> str:
    state = hashlib.sha256()
    for array in map(np.ascontiguousarray, arrays):
        state.update(f"{array.dtype} {array.shape} ".encode() + array.tobytes())
    return state.hexdigest()
