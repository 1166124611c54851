"""Tensors in safetensors files, one or several with an index, read by slice and written whole."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.models.libraries import library
from fdiv.types import UsageError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = 5_000_000_000  # bytes of a file, from which on there are several
READ = ("F32", "BF16", "F16")


class Files:
    """`fdiv.lm.weights.Tensors` of a folder. Raises `UsageError` naming a file that is not there,
    cut short, or holds what cannot be read."""

    def __init__(self, folder: Path):
        self._opened: dict[str, Any] = {}  # file -> what reads it
        self._file_of: dict[str, str] = {}  # tensor -> file
        for name, tensors in _listed(folder).items():
            reader = self._opened[name] = _opened(folder / name)
            inside = set(reader.keys())
            if absent := sorted((tensors or inside) - inside):
                raise UsageError(
                    "path",
                    str(folder / name),
                    f"does not hold {absent[0]}, which {INDEX} says it does.",
                    "Fetch the file again.",
                )
            self._file_of |= dict.fromkeys(tensors or inside, name)
        for name in self._file_of:
            if (kind := self._slice(name).get_dtype()) not in READ:
                raise UsageError(
                    "weights",
                    name,
                    f"is stored as {kind}.",
                    "Give a checkpoint in float32, bfloat16 or float16.",
                )

    def _slice(self, name: str) -> Any:
        return self._opened[self._file_of[name]].get_slice(name)

    def kinds(self) -> set[str]:
        """The types that tensors are stored in, as the files name them."""
        return {self._slice(name).get_dtype() for name in self._file_of}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape, of every tensor."""
        return {name: tuple(self._slice(name).get_shape()) for name in self._file_of}

    def rows(self, name: str, begin: int, end: int) -> np.ndarray:
        """Rows [begin, end) of one tensor."""
        return self._slice(name)[begin:end]


def names(folder: Path) -> list[str]:
    """The files of a folder's tensors, the index among them. Raises `UsageError` as `Files`
    does."""
    listed = list(_listed(folder))
    for name in listed:
        _refuse_absent(folder / name)
    return [INDEX, *listed] if (folder / INDEX).is_file() else listed


def _listed(folder: Path) -> dict[str, set[str]]:
    """Name of each file -> the tensors that an index puts into it, none where there is no index."""
    if (folder / INDEX).is_file():
        places = _places(folder / INDEX)
        files: dict[str, set[str]] = {}
        for tensor, file in places.items():
            files.setdefault(file, set()).add(tensor)
        if (folder / SINGLE).is_file() and SINGLE not in files:
            problem = f"holds both {SINGLE} and {INDEX}, which names other files."
            fix = "Remove the one that is left from another checkpoint."
            raise UsageError("path", str(folder), problem, fix)
        return files
    if not (folder / SINGLE).is_file():
        other = next((p.name for p in sorted(folder.glob("*.bin"))), None)
        problem = f"holds neither {SINGLE} nor {INDEX}."
        fix = "Give a folder with safetensors" + (f"; {other} is not read." if other else ".")
        raise UsageError("path", str(folder), problem, fix)
    return {SINGLE: set()}


def _places(index: Path) -> dict[str, str]:
    """Name of each tensor -> the file beside an index that holds it."""
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = set(places.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problem = f"is no index of tensors ({type(error).__name__})."
        raise UsageError("path", str(index), problem, "Fetch the file again.") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            problem = f"names {name!r}, which is no file beside it."
            raise UsageError("path", str(index), problem, "Fetch the file again.")
    return places


def _opened(file: Path) -> Any:
    safetensors = library("safetensors")
    _refuse_absent(file)
    try:
        return safetensors.safe_open(file, framework="numpy")
    except safetensors.SafetensorError as error:
        problem = f"cannot be read ({error}): it is cut short or no safetensors file."
        raise UsageError("path", str(file), problem, "Fetch the file again.") from error


def _refuse_absent(file: Path) -> None:
    """Raise `UsageError` for a file that an index names and that is not there."""
    if not file.is_file():
        problem = "is not there, and the index names it."
        raise UsageError("path", str(file), problem, "Fetch the missing file.")


def write(folder: Path, tensors: Iterable[tuple[str, np.ndarray]], shard: int = SHARD) -> None:
    """Put tensors into a folder, one file up to `shard` bytes, several with an index beyond."""
    groups: list[dict[str, np.ndarray]] = [{}]
    sizes = [0]
    for name, array in tensors:
        if groups[-1] and sizes[-1] + array.nbytes > shard:
            groups.append({})
            sizes.append(0)
        # the library writes an array's memory as it lies, whatever its strides say
        groups[-1][name] = np.ascontiguousarray(array)
        sizes[-1] += array.nbytes
    if len(groups) == 1:
        _save(groups[0], folder / SINGLE)
        return
    places = {}
    for i, group in enumerate(groups):
        file = f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors"
        _save(group, folder / file)
        places |= dict.fromkeys(group, file)
    index = {"metadata": {"total_size": sum(sizes)}, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _save(tensors: dict[str, np.ndarray], file: Path) -> None:
    library("safetensors.numpy").save_file(tensors, file, metadata={"format": "pt"})
    file.chmod(0o644)  # the library lets nobody else read it
