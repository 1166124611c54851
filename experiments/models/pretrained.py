"""Pretrained models as policies and teachers: read once a process, their weights on the devices."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import hashlib
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from experiments.devices import Layout
from experiments.models import adapters as adapter_files
from experiments.models import folder, safetensor_files
from experiments.models.libraries import library
from fdiv.lm import lora, weights
from fdiv.lm.spec import Spec
from fdiv.policies import Architecture
from fdiv.types import Model, Params, Policy, Scorer, UsageError

if TYPE_CHECKING:
    from fdiv.lm.block import Compute

HUB = re.compile(r"^hf:/+(?P<name>[^/@]+/[^/@]+)(@(?P<revision>[^@]+))?$")
FETCHED = ("*.json", "*.safetensors", "*.jinja", "additional_chat_templates/*", "tokenizer*")
KEPT = 3  # sets of weights that stay read: a policy's, a teacher's, another layout's

Stored = Literal["file", "float32"]


class Pretrained(NamedTuple):
    """A model whose weights are on the devices."""

    path: Path
    spec: Spec
    params: Params
    config: dict[str, Any]  # its config.json


def local(path: str | Path) -> Path:
    """Where a model lies on this machine; `hf://ORGANISATION/NAME` is fetched by huggingface_hub.
    Raises `UsageError` where that cannot be."""
    text = str(path)
    if not text.startswith("hf:/"):
        return Path(os.path.expanduser(text))
    if (match := HUB.match(text)) is None:
        problem = "does not name a model of the Hugging Face hub."
        raise UsageError("path", text, problem, "Give hf://ORGANISATION/NAME.")
    if text not in _FETCHED:
        _FETCHED[text] = _fetched(text, match["name"], match["revision"])
    return _FETCHED[text]


_FETCHED: dict[str, Path] = {}


def _fetched(text: str, name: str, revision: str | None) -> Path:
    """The folder of a model of the hub."""
    hub = library("huggingface_hub")
    try:
        place = hub.snapshot_download(name, revision=revision, allow_patterns=list(FETCHED))
    except Exception as error:  # the network's, the hub's and the file system's, of many classes
        reason = " ".join(str(error).split())[:300]
        problem = f"cannot be fetched ({type(error).__name__}: {reason})."
        fix = "Look at its name and the network, or give the folder of a copy on this machine."
        raise UsageError("path", text, problem, fix) from error
    return Path(place)


def source(path: str | Path) -> folder.Source:
    """What a model says of itself. Raises `UsageError` about `path` for what cannot be read or
    computed."""
    with _about(path):
        place = local(path)
        file = place if place.suffix == ".gguf" else place / folder.CONFIG
        if not file.is_file():
            return folder.source(place)  # which says what is wrong
        if (key := _stamp(file)) not in _SOURCES:
            _SOURCES[key] = folder.source(place)
        return _SOURCES[key]


_SOURCES: dict[tuple, folder.Source] = {}


def read(
    path: str | Path,
    stored: Stored = "file",
    layout: Layout | None = None,
    kept: tuple[int, ...] | None = None,
) -> Pretrained:
    """A model with its weights on the devices of `layout`, as programs close over them; with `kept`
    of these layers alone. The same path gives the same arrays, until its files change. Raises
    `UsageError` about `path`."""
    described = source(path)
    spec = described.spec if kept is None else described.spec.only(kept)
    if _SHAPES_ALONE.get():
        from fdiv.lm import model

        shapes = jax.eval_shape(model.policy(spec).init, jax.random.key(0))
        return Pretrained(described.path, spec, shapes, described.config)
    with _about(path):
        dtype = _dtype(described, stored)
        model = (*_stamps(described), dtype, "" if layout is None else _devices(layout))
        if (model, kept) not in _READ:
            while len(_READ) >= KEPT:
                del _READ[next(iter(_READ))]
            _READ[model, kept] = _placed(described, dtype, layout, model, kept)
    return Pretrained(described.path, spec, _READ[model, kept], described.config)


@contextlib.contextmanager
def shapes_alone() -> Iterator[None]:
    """In here no weights are read: a model has the shapes of its parameters in their place, a
    policy is over all of them, and what is made is built and not run. Of a folder its config.json
    is enough."""
    token = _SHAPES_ALONE.set(True)
    try:
        yield
    finally:
        _SHAPES_ALONE.reset(token)


_SHAPES_ALONE: contextvars.ContextVar[bool] = contextvars.ContextVar("shapes_alone", default=False)
_READ: dict[tuple[tuple, tuple[int, ...] | None], Params] = {}


def _placed(
    described: folder.Source,
    dtype: str,
    layout: Layout | None,
    model: tuple,
    kept: tuple[int, ...] | None,
) -> Params:
    """Weights read now, but for what is there already of the same model with other layers."""
    place = layout.share if layout is not None else _on_default_device
    params = folder.loaded(described, folder.numpy_type(dtype)).params
    params = params if kept is None else weights.only(params, kept)
    other = next((x for (of, _), x in _READ.items() if of == model), {"params": {}})
    there = {name: x for name, x in other["params"].items() if name != "layers"}
    own = {name: x for name, x in params["params"].items() if name not in there}
    placed = place({"params": own})["params"] | there
    _refuse_not_finite(placed)
    return {"params": placed}


def _refuse_not_finite(params: Params) -> None:
    """Raise `UsageError` for weights of which no law can be made."""
    finite = jax.jit(lambda tree: jax.tree.map(lambda x: jnp.isfinite(x).all(), tree))(params)
    for path, whole in jax.tree_util.tree_leaves_with_path(finite):
        if not whole:
            name = ".".join(part.key for part in path)
            problem = "has numbers that are not finite."
            raise UsageError("weights", name, problem, "Fetch the weights again.")


def _on_default_device(params: Params) -> Params:
    return jax.tree.map(jnp.asarray, params)


def _devices(layout: Layout) -> str:
    """What sets apart layouts on which arrays lie differently."""
    return f"{type(layout).__name__} {layout} {[device.id for device in layout.devices]}"


def _dtype(described: folder.Source, stored: Stored) -> str:
    """The narrowest type that holds all of a file's numbers."""
    if stored == "float32" or described.file is not None:
        return "float32"
    kinds = safetensor_files.Files(described.path).kinds()
    only = next(iter(kinds)) if len(kinds) == 1 else ""
    return {"BF16": "bfloat16", "F16": "float16"}.get(only, "float32")


@contextlib.contextmanager
def _about(path: str | Path) -> Iterator[None]:
    """What is wrong with a file is said of the path that was given."""
    try:
        yield
    except UsageError as error:
        if error.field == "path":
            raise
        problem = f"cannot be used: {error.field} = {error.value!r} {error.problem}"
        raise UsageError("path", str(path), problem, error.fix) from error
    except OSError as error:
        own = "" if error.filename in (None, str(path)) else f" ({error.filename})"
        problem = f"cannot be read{own}: {error.strerror or error}."
        raise UsageError("path", str(path), problem, "Give one that can be read.") from error


# --- identity -------------------------------------------------------------------------------------


def files(described: folder.Source) -> list[Path]:
    """The files that decide a model's numbers."""
    if described.file is not None:
        return [described.path]
    names = safetensor_files.names(described.path)
    return [described.path / folder.CONFIG, *(described.path / name for name in sorted(names))]


def _stamps(described: folder.Source) -> tuple:
    """What changes when one of a model's files is written anew."""
    return tuple(map(_stamp, files(described)))


def _stamp(path: Path) -> tuple[str, int, int]:
    """What changes when a file is written anew."""
    stat = path.stat()
    return str(path.resolve()), stat.st_size, stat.st_mtime_ns


def digest(path: str | Path) -> str:
    """SHA-256 of the contents of a model's files, whatever they are called. Raises `UsageError`
    about `path`."""
    with _about(path):
        return _digest_of(files(source(path)))


def _digest_of(paths: list[Path]) -> str:
    whole = hashlib.sha256()
    for path in paths:
        if (key := _stamp(path)) not in _DIGESTS:
            with path.open("rb") as file:
                _DIGESTS[key] = hashlib.file_digest(file, "sha256").digest()
        whole.update(_DIGESTS[key])
    return whole.hexdigest()


_DIGESTS: dict[tuple[str, int, int], bytes] = {}


DIGESTS = ("model", "adapters")  # what `identity` may hold


def identity(architecture: Architecture) -> dict[str, str]:
    """What decides a policy's start beside its flags: digests of files. Nothing for a policy that
    is made of no file."""
    if architecture.name != "hf":
        return {}
    path = given_path(architecture)
    if architecture.init == "random":
        described = source(path)
        of_config = described.path if described.file else described.path / folder.CONFIG
        found = {"model": _digest_of([of_config])}
    else:
        found = {"model": digest(path)}
    if architecture.lora.path is not None:
        with _adapters_blamed():
            found["adapters"] = _digest_of(adapter_files.files(local(architecture.lora.path)))
    return found


# --- policies -------------------------------------------------------------------------------------


def given_path(architecture: Architecture) -> str:
    """Raises `UsageError` where none is given."""
    if not architecture.path:
        problem = "names no model."
        fix = "Give a folder in the Hugging Face layout, a GGUF file, or hf://ORGANISATION/NAME."
        raise UsageError("path", architecture.path or "", problem, fix)
    return architecture.path


def check(architecture: Architecture) -> Spec:
    """The architecture of an `hf` policy, read from its config alone. Raises `UsageError` naming
    the field that cannot be."""
    architecture.sizes()
    path = given_path(architecture)
    try:
        architecture.lora.check()
    except UsageError as error:
        raise error.under("lora") from error
    if architecture.lora.wanted and architecture.init == "random":
        problem = "leaves weights that nobody has trained frozen below the adapters."
        raise UsageError("init", "random", problem, "Drop it, or the adapters.")
    if architecture.stored is not None and not architecture.lora.wanted:
        problem = "is the type of frozen weights, and all are trained, in float32."
        raise UsageError("stored", architecture.stored, problem, "Drop it, or give lora.rank.")
    spec = source(path).spec
    kept = architecture.kept_layers(spec.layers)
    compute(architecture).check(spec)
    return spec.only(kept)


def compute(architecture: Architecture) -> Compute:
    """How it is computed; layers are computed again for the gradient unless that is refused."""
    from fdiv.lm.block import Compute  # flax is the slowest import of all

    return Compute(
        precision=architecture.precision or "float32",
        remat=True if architecture.remat is None else architecture.remat,
        attention=architecture.attention or "auto",
        remat_policy=architecture.remat_policy or "nothing_saveable",
    )


def policy(
    architecture: Architecture, layout: Layout | None = None, bos: int | None = None
) -> Policy:
    """An `hf` policy: over adapters of a frozen model, or over all of its weights.

    `bos` is read before every string, for tasks without prompts. Raises `UsageError` naming a field
    of the architecture."""
    from fdiv.lm import model

    spec = check(architecture)
    own = model.policy(spec, compute(architecture), bos)
    if architecture.init == "random" or _SHAPES_ALONE.get():
        return own
    frozen = architecture.lora.wanted
    # weights that are trained are each seed's own, which are laid out with all else that it trains
    base = _weights(architecture, layout if frozen else None)
    if not frozen:
        return own._replace(init=lambda key: base)
    if architecture.lora.path is None:
        return lora.policy(own, base, spec, architecture.lora.adapters())
    with _adapters_blamed():
        loaded = adapter_files.read(local(architecture.lora.path), spec)
    adapted = lora.policy(own, base, spec, _with_dropout(loaded.adapters, architecture))
    start = jax.tree.map(jnp.asarray, loaded.params)
    return adapted._replace(init=lambda key: start)


def base(architecture: Architecture, layout: Layout | None = None) -> Model:
    """What an `hf` policy is made of, without adapters, computed in float32: over the same arrays
    as a policy with adapters, where no layer is left out. Raises `UsageError` as `policy` does, and
    where the weights are random."""
    from fdiv.lm import model

    spec = check(architecture)
    if architecture.init == "random":
        problem = "leaves nothing of the pretrained model to learn from."
        raise UsageError("init", "random", problem, "Drop it, or give another teacher.")
    return Model(model.policy(spec), _weights(architecture, layout))


def _weights(architecture: Architecture, layout: Layout | None) -> Params:
    """Those that an `hf` policy begins from, or has frozen."""
    path = given_path(architecture)
    stored = (architecture.stored or "file") if architecture.lora.wanted else "float32"
    layers = source(path).spec.layers
    kept = architecture.kept_layers(layers)
    return read(path, stored, layout, kept if len(kept) < layers else None).params


def teacher(path: str | Path, layout: Layout | None = None) -> Model:
    """A model as it is, computed in float32. Raises `UsageError` about `path`."""
    from fdiv.lm import model

    whole = read(path, "file", layout)
    return Model(model.policy(whole.spec), whole.params)


@contextlib.contextmanager
def _adapters_blamed() -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        raise error.under("lora") from error


def adapters(architecture: Architecture) -> lora.Adapters | None:
    """Those of an `hf` policy; None where it has none."""
    if architecture.lora.path is not None:
        with _adapters_blamed():
            own = adapter_files.described(local(architecture.lora.path), check(architecture))
        return _with_dropout(own, architecture)
    return architecture.lora.adapters() if architecture.lora.wanted else None


def _with_dropout(adapters: lora.Adapters, architecture: Architecture) -> lora.Adapters:
    """Adapters of a file, with the dropout that is asked for in the place of the file's."""
    own = architecture.lora.dropout
    return adapters if own is None else adapters._replace(dropout=own)


def base_of_adapters(architecture: Architecture) -> str | None:
    """The model that adapters from a file say they were made for."""
    given = architecture.lora.path
    return None if given is None else adapter_files.base_of(local(given))


def in_training(architecture: Architecture) -> Callable[[Params, Array], Params] | None:
    """(parameters, key) -> what a loss that is differentiated computes with; None: the parameters
    themselves."""
    if architecture.name != "hf" or _SHAPES_ALONE.get():
        return None
    own = adapters(architecture)
    return lora.in_training if own is not None and own.dropout else None


def start(architecture: Architecture, own: Policy) -> Params | None:
    """What every run of this policy starts from; None where a run's key decides."""
    fresh = architecture.init == "random" or architecture.lora.rank is not None
    if architecture.name != "hf" or fresh:
        return None
    return own.init(jax.random.key(0))


# --- scorers --------------------------------------------------------------------------------------


def of_scorer(architecture: Architecture, policy: Architecture) -> Architecture:
    """A scorer's architecture; an `hf` one without a path is made of what the policy is made of."""
    if architecture.name != "hf" or architecture.path or policy.name != "hf":
        return architecture
    without = architecture.without_layers or policy.without_layers
    return dataclasses.replace(architecture, path=policy.path, without_layers=without)


def check_scorer(architecture: Architecture) -> Spec:
    """The architecture of an `hf` scorer. Raises `UsageError` naming the field that cannot be."""
    problem = "and a scorer reads out what a pretrained model, which stays frozen, makes of text."
    for field in ("init", "stored"):
        if (value := getattr(architecture, field)) is not None:
            raise UsageError(field, value, f"is of a policy, {problem}", "Drop it.")
    if (adapted := architecture.lora.path) is not None:
        raise UsageError("lora.path", adapted, f"is of a policy, {problem}", "Give lora.rank.")
    if dropout := architecture.lora.dropout:
        own = "is of a policy's loss, and a scorer's is computed without."
        raise UsageError("lora.dropout", dropout, own, "Give 0, or leave it out.")
    return check(architecture)


def scorer(
    architecture: Architecture,
    outputs: int | None = None,
    layout: Layout | None = None,
    bos: int | None = None,
) -> Scorer:
    """A discriminator (a number per next token), or with `outputs` a value function, on the
    features of a frozen model; where the policy is made of the same one, over the same arrays.
    Raises `UsageError` naming a field of the architecture."""
    from fdiv.lm import model
    from fdiv.lm.scorer import Base
    from fdiv.lm.scorer import scorer as reading

    spec = check_scorer(architecture)
    path = given_path(architecture)
    layers = source(path).spec.layers
    kept = architecture.kept_layers(layers)
    frozen = read(path, "file", layout, kept if len(kept) < layers else None).params
    own = Base(model.policy(spec, compute(architecture), bos), frozen, spec)
    return reading(own, adapters(architecture), outputs)


def scorer_parameters(architecture: Architecture) -> int:
    """How many numbers an `hf` scorer trains."""
    spec, own = check_scorer(architecture), adapters(architecture)
    return spec.width**2 + (0 if own is None else own.size(spec))


def parameters(architecture: Architecture) -> tuple[int, int]:
    """(numbers that are trained, bytes that are frozen) of an `hf` policy."""
    spec = check(architecture)
    whole = size(spec)
    given = adapters(architecture)
    if given is None:
        return whole, 0
    narrow = architecture.stored != "float32" and spec.dtype != "float32"
    return given.size(spec), whole * (2 if narrow else 4)


def size(spec: Spec) -> int:
    """How many numbers a model has."""
    return sum(math.prod(entry.shape) for entry in weights.table(spec))
