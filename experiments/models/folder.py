"""A language model from disk, and back: a folder in the Hugging Face layout, or a GGUF file."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.models import gguf_files, safetensor_files
from fdiv.lm import weights
from fdiv.lm.spec import Spec, from_config, to_config
from fdiv.types import Params, UsageError

CONFIG, GENERATION = "config.json", "generation_config.json"
ADAPTERS = "adapter_config.json"  # of a folder without a model
# fields of a config that say nothing about numbers, and go with a model wherever it is written
CARRIED = ("bos_token_id", "eos_token_id", "pad_token_id")


class Checkpoint(NamedTuple):
    """A pretrained model: what it is and what it has learned."""

    spec: Spec
    params: Params  # numpy, layers stacked
    config: dict[str, Any]  # as it was read


class Source(NamedTuple):
    """A model whose weights are not read yet."""

    path: Path
    config: dict[str, Any]
    spec: Spec
    file: gguf_files.File | None  # None: a folder


def read(path: Path, dtype: Any = np.float32) -> Checkpoint:
    """The model of a folder or a GGUF file, its parameters in `dtype`. Raises `UsageError` with
    what is missing, unknown or broken."""
    return loaded(source(path), dtype)


def source(path: Path) -> Source:
    """What a folder or a GGUF file says of itself. Raises `UsageError` as `read` does."""
    if path.suffix != ".gguf":
        config = read_config(path)
        return Source(path, config, from_config(config), None)
    if not path.is_file():
        raise UsageError("path", str(path), "is not there.", "Give a folder or a GGUF file.")
    file = gguf_files.File(path)
    config = gguf_files.config(file)
    return Source(path, config, from_config(config), file)


def loaded(source: Source, dtype: Any = np.float32) -> Checkpoint:
    """With its weights. Raises `UsageError` as `read` does."""
    tensors = source.file or safetensor_files.Files(source.path)
    return Checkpoint(source.spec, weights.load(source.spec, tensors, dtype), source.config)


def read_config(path: Path) -> dict[str, Any]:
    """The config.json of a folder. Raises `UsageError` where there is none."""
    if not path.is_dir():
        problem = "is no folder." if path.exists() else "is not there."
        raise UsageError("path", str(path), problem, "Give a model's folder or a GGUF file.")
    if not (path / CONFIG).is_file() and (path / ADAPTERS).is_file():
        problem = "holds low-rank adapters, which are no model without the one that they are for."
        fix = "Merge them, or give the model and go on from them with --policy.lora.path."
        raise UsageError("path", str(path), problem, fix)
    if not (path / CONFIG).is_file():
        problem = f"holds no {CONFIG}."
        raise UsageError("path", str(path), problem, "Give a folder in the Hugging Face layout.")
    config = read_fields(path / CONFIG)
    if "model_type" not in config and (path / "environment.json").is_file():
        problem = "is the folder of a run, not of a model."
        fix = "Make a model of a method with python -m experiments.export, and give its folder."
        raise UsageError("path", str(path), problem, fix)
    return config


def read_fields(file: Path) -> dict[str, Any]:
    """The fields of a JSON file. Raises `UsageError` about `path` where it holds none."""
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        problem = f"is no JSON ({error})."
        raise UsageError("path", str(file), problem, "Fetch the file again.") from error
    if not isinstance(fields, dict):
        raise UsageError("path", str(file), "holds no fields.", "Fetch the file again.")
    return fields


def refuse_there(path: Path) -> None:
    """Raise `UsageError` where something is at the place of a folder that is to be written."""
    if os.path.lexists(path):
        raise UsageError("to", str(path), "is there already.", "Give another folder, or remove it.")


def write(
    path: Path,
    spec: Spec,
    params: Params,
    config: dict[str, Any] | None = None,
    more: Callable[[Path], None] | None = None,
    shard: int = safetensor_files.SHARD,
) -> None:
    """A folder of a model, in the type that its spec says: there whole or not at all. `more` puts
    other files beside it. Raises `UsageError` where the folder is there already."""
    with draft(path) as place:
        carried = {k: v for k, v in (config or {}).items() if k in CARRIED and v is not None}
        (place / CONFIG).write_text(
            json.dumps(to_config(spec) | carried, indent=2) + "\n", encoding="utf-8"
        )
        safetensor_files.write(place, weights.stored(spec, params, numpy_type(spec.dtype)), shard)
        if more is not None:
            more(place)


@contextlib.contextmanager
def draft(path: Path) -> Iterator[Path]:
    """Where to write what is to be a folder: it is renamed at the end, and removed where anything
    goes wrong. Raises `UsageError` where the folder is there already."""
    refuse_there(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        place.chmod(0o755)
        yield place
        os.replace(place, path)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


def numpy_type(dtype: str) -> Any:
    """A type of files as numpy knows it, bfloat16 by the extension that jax brings."""
    import ml_dtypes

    return ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
