"""Low-rank adapters from disk and back, in PEFT's layout: adapter_config.json and
adapter_model.safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from experiments.models.folder import read_fields
from experiments.models.libraries import library
from experiments.models.safetensor_files import READ
from fdiv.lm import peft
from fdiv.lm.lora import Adapters
from fdiv.lm.peft import Loaded
from fdiv.lm.spec import Spec
from fdiv.types import Params, UsageError

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"


def files(path: Path) -> list[Path]:
    """The files that decide the adapters' numbers. Raises `UsageError` where one is missing."""
    for name in (CONFIG, TENSORS):
        if not (path / name).is_file():
            problem = f"holds no {name}." if path.is_dir() else "is no folder."
            fix = f"Give a folder with {CONFIG} and {TENSORS}, as PEFT writes it."
            raise UsageError("path", str(path), problem, fix)
    return [path / CONFIG, path / TENSORS]


def described(path: Path, spec: Spec) -> Adapters:
    """What adapters a folder holds, without their numbers. Raises `UsageError` as `read` does."""
    with _opened(path) as tensors:
        names = tensors.keys()
        shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in names}
    try:
        return peft.described(spec, read_fields(files(path)[0]), shapes)
    except UsageError as error:
        raise _about(path, error) from error


def read(path: Path, spec: Spec) -> Loaded:
    """The adapters of a folder for a model. Raises `UsageError` about `path`."""
    with _opened(path) as opened:
        names = opened.keys()
        tensors: dict[str, np.ndarray] = {name: opened.get_tensor(name) for name in names}
    try:
        return peft.from_tensors(spec, read_fields(files(path)[0]), tensors)
    except UsageError as error:
        raise _about(path, error) from error


def write(
    path: Path, spec: Spec, adapters: Adapters, params: Params, base: str | None = None
) -> None:
    """A folder of adapters, to be put on the model called `base`. The folder is made where it is
    not there; files in it are written over."""
    tensors, config = peft.to_tensors(spec, adapters, params)
    path.mkdir(parents=True, exist_ok=True)
    config["base_model_name_or_path"] = base
    (path / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    # the library writes an array's memory as it lies, whatever its strides say
    tensors = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
    file = path / TENSORS
    library("safetensors.numpy").save_file(tensors, file, metadata={"format": "pt"})
    file.chmod(0o644)  # the library lets nobody else read it


def _opened(path: Path) -> Any:
    safetensors = library("safetensors")
    _, file = files(path)
    try:
        opened = safetensors.safe_open(file, framework="numpy")
    except safetensors.SafetensorError as error:
        problem = f"cannot be read ({error}): it is cut short or no safetensors file."
        raise UsageError("path", str(file), problem, "Fetch the file again.") from error
    names = opened.keys()
    for name in names:
        if (kind := opened.get_slice(name).get_dtype()) not in READ:
            problem = f"holds {name} stored as {kind}."
            fix = "Give adapters in float32, bfloat16 or float16."
            raise UsageError("path", str(file), problem, fix)
    return opened


def base_of(path: Path) -> str | None:
    """The model that a folder's adapters were made for, where it says so."""
    base = read_fields(files(path)[0]).get("base_model_name_or_path")
    return base if isinstance(base, str) and base else None


def _about(path: Path, error: UsageError) -> UsageError:
    problem = f"cannot be used: {error.field} = {error.value!r} {error.problem}"
    return UsageError("path", str(path), problem, error.fix)
