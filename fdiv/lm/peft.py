"""Low-rank adapters as PEFT's files have them: names, orientation, and one adapter for a tensor
that holds several kernels.

A module's weight [outputs, inputs] has lora_A [rank, inputs] and lora_B [outputs, rank], and adds
scale x B A. Where a file's tensor is query, key and value below one another (Phi-3), its one A
serves all three; written, the As of its kernels stand below one another, and B is made of their Bs
along a diagonal, which is the same sum."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fdiv.lm import weights
from fdiv.lm.lora import COLLECTION, MODULES, Adapters
from fdiv.lm.spec import Spec
from fdiv.types import Params, UsageError

PREFIX = "base_model.model.model.layers"
TENSOR = re.compile(
    rf"^{re.escape(PREFIX)}\.(?P<layer>\d+)\.(?P<module>[\w.]+)\.lora_(?P<side>[AB])\.weight$"
)
HONOURED = (
    "peft_type",
    "r",
    "lora_alpha",
    "lora_dropout",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
)
# fields of adapter_config.json that change no number of a forward pass
HARMLESS = (
    "auto_mapping",
    "base_model_name_or_path",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "megatron_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "target_modules",
    "task_type",
)
PLAIN = {"bias": "none"}  # fields whose usual value is not empty
# how adapters were begun, where that left the weights below them as they were; others (PiSSA,
# OLoRA, LoftQ ...) took the adapters out of the weights, and belong to what was left
BEGUN = (None, True, False, "gaussian", "orthogonal", "eva")


class Loaded(NamedTuple):
    """Adapters from a file."""

    adapters: Adapters
    params: Params  # numpy, layers stacked


class _Module(NamedTuple):
    """The adapters of one tensor of a checkpoint, layers stacked."""

    a: np.ndarray  # [layers, rank, inputs]
    b: np.ndarray  # [layers, outputs, rank]
    scale: float


def check(config: Mapping[str, Any]) -> None:
    """Raise `UsageError` naming a field of adapter_config.json that cannot be honoured."""
    if config.get("peft_type") != "LORA":
        problem = "is no LoRA, and other adapters are not computed."
        raise UsageError("peft_type", config.get("peft_type"), problem, "Give a LoRA.")
    begun = config.get("init_lora_weights")
    if not any(begun is known or (isinstance(begun, str) and begun == known) for known in BEGUN):
        problem = "of adapter_config.json changed the weights that these adapters are put on."
        fix = "Have PEFT convert them to plain ones (path_initial_model_for_weight_conversion)."
        raise UsageError("init_lora_weights", begun, problem, fix)
    if config.get("use_rslora") not in (None, True, False):
        problem = "is neither true nor false."
        raise UsageError("use_rslora", config["use_rslora"], problem, "Mend adapter_config.json.")
    for name, value in config.items():
        if name in (*HONOURED, *HARMLESS, "init_lora_weights"):
            continue
        layer = isinstance(value, int) and not isinstance(value, bool)  # 0 is one, and not nothing
        if (not value and not layer) or value == PLAIN.get(name):
            continue
        problem = "of adapter_config.json is not computed."
        raise UsageError(name, value, problem, "Give adapters that were trained without it.")


def described(
    spec: Spec, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> Adapters:
    """What adapters a file holds, from its config and the shapes of its tensors. Raises
    `UsageError` for a field or a tensor that belongs to nothing here."""
    check(config)
    ranks = _ranks(spec, shapes)
    for name, rank in ranks.items():
        stated = _number("r", _of_module(config, "r", "rank_pattern", name))
        if stated != rank:
            problem = f"is the rank of {name} in adapter_config.json, and its tensors have {rank}."
            raise UsageError("r", stated, problem, "Give the two files of one folder.")
    scales = {name: _scale(config, name, rank) for name, rank in ranks.items()}
    kernels = [part.path[1] for name in ranks for part in weights.matrices(spec)[name]]
    targets = tuple(name for name in MODULES if name in kernels)
    # one rank and one scale for all: lower ranks are filled up with zeros, scales put into B
    dropout = _dropout(config.get("lora_dropout"))
    return Adapters(max(ranks.values()), scales[next(iter(ranks))], targets, dropout)


def from_tensors(
    spec: Spec, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]
) -> Loaded:
    """The adapters of a file. Raises `UsageError` as `described` does."""
    adapters = described(spec, config, {name: x.shape for name, x in tensors.items()})
    layers: dict[str, dict[str, Any]] = {}
    for name in _ranks(spec, {name: x.shape for name, x in tensors.items()}):
        stack = lambda side, name=name: np.stack(
            [np.asarray(tensors[_tensor(i, name, side)], np.float32) for i in range(spec.layers)]
        )
        a, b = stack("A"), stack("B")
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            problem = "has adapters with numbers that are not finite."
            raise UsageError("weights", name, problem, "Fetch them again, or train them anew.")
        b = b * np.float32(_scale(config, name, a.shape[1]) / adapters.scale)
        room = adapters.rank - a.shape[1]
        a = np.pad(a, [(0, 0), (0, room), (0, 0)])
        b = np.pad(b, [(0, 0), (0, 0), (0, room)])
        begin = 0
        for part in weights.matrices(spec)[name]:
            module, kernel, _ = part.path
            inputs, outputs = _shape(part)
            rows = b[:, begin : begin + part.stored[0]]
            layers.setdefault(module, {})[kernel] = {
                "a": a.swapaxes(1, 2).reshape(spec.layers, *inputs, adapters.rank).copy(),
                "b": rows.swapaxes(1, 2).reshape(spec.layers, adapters.rank, *outputs).copy(),
            }
            begin += part.stored[0]
    return Loaded(adapters, {COLLECTION: {"layers": layers}})


def to_tensors(
    spec: Spec, adapters: Adapters, params: Params
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(tensors by name, adapter_config.json) of adapters."""
    tensors: dict[str, np.ndarray] = {}
    targets, ranks = [], {}
    for name, parts in weights.matrices(spec).items():
        own = [part for part in parts if part.path[1] in adapters.targets]
        if not own:
            continue
        module = name.rpartition(".")[2]
        targets.append(module)
        ranks[module] = adapters.rank * len(own)
        for layer in range(spec.layers):
            a, b = _written(parts, params, layer, adapters)
            tensors[_tensor(layer, name, "A")] = a
            tensors[_tensor(layer, name, "B")] = b
    other = {module: rank for module, rank in ranks.items() if rank != adapters.rank}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": adapters.rank,
        "lora_alpha": _tidy(adapters.scale * adapters.rank),
        "lora_dropout": adapters.dropout,
        "bias": "none",
        "target_modules": targets,
        "rank_pattern": other,
        "alpha_pattern": {name: _tidy(adapters.scale * rank) for name, rank in other.items()},
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "use_rslora": False,
        "use_dora": False,
    }
    return tensors, config


def _written(
    parts: tuple[weights.Part, ...], params: Params, layer: int, adapters: Adapters
) -> tuple[np.ndarray, np.ndarray]:
    """lora_A and lora_B of one tensor of a layer."""
    own = [part for part in parts if part.path[1] in adapters.targets]
    rank, inputs = adapters.rank, parts[0].stored[1]
    a = np.zeros((rank * len(own), inputs), np.float32)
    b = np.zeros((sum(part.stored[0] for part in parts), rank * len(own)), np.float32)
    row = column = 0
    for part in parts:
        if part in own:
            module, kernel, _ = part.path
            pair = params[COLLECTION]["layers"][module][kernel]
            columns = slice(column, column + rank)
            a[columns] = np.asarray(pair["a"][layer], np.float32).reshape(inputs, rank).T
            rows = np.asarray(pair["b"][layer], np.float32).reshape(rank, part.stored[0]).T
            b[row : row + part.stored[0], columns] = rows
            column += rank
        row += part.stored[0]
    return a, b


def _tensor(layer: int, module: str, side: str) -> str:
    return f"{PREFIX}.{layer}.{module}.lora_{side}.weight"


def _shape(part: weights.Part) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(inputs, outputs) of a kernel."""
    size, count = 1, 0
    while size < part.stored[1]:
        size, count = size * part.shape[count], count + 1
    return part.shape[:count], part.shape[count:]


def _ranks(spec: Spec, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Module of a layer -> its rank. Raises `UsageError` for a tensor that belongs to nothing, is
    missing, or has another shape."""
    matrices = weights.matrices(spec)
    given: dict[str, set[int]] = {}
    for name in shapes:
        match = TENSOR.match(name)
        if match is None or match["module"] not in matrices or int(match["layer"]) >= spec.layers:
            raise UsageError(
                "weights",
                name,
                "is an adapter of nothing in this model's layers.",
                f"Give adapters of {', '.join(matrices)} in {spec.layers} layers.",
            )
        given.setdefault(match["module"], set()).add(shapes[name][0 if match["side"] == "A" else 1])
    if not given:
        raise UsageError("weights", "", "holds no adapters.", "Give PEFT's adapter_model file.")
    for module, ranks in given.items():
        outputs = sum(part.stored[0] for part in matrices[module])
        rank, inputs = max(ranks), matrices[module][0].stored[1]
        for layer in range(spec.layers):
            wanted = {"A": (rank, inputs), "B": (outputs, rank)}
            for side, shape in wanted.items():
                name = _tensor(layer, module, side)
                if shapes.get(name) != shape:
                    problem = f"is {_spelled(shapes.get(name))}, and {list(shape)} is needed."
                    fix = "Give adapters of this very model, in all of its layers."
                    raise UsageError("weights", name, problem, fix)
    return {module: max(ranks) for module, ranks in given.items()}


def _spelled(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else str(list(shape))


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """alpha / rank of a module, or alpha / sqrt(rank) (Kalajdzievski 2023, arXiv 2312.03732)."""
    alpha = _number("lora_alpha", _of_module(config, "lora_alpha", "alpha_pattern", module))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _of_module(config: Mapping[str, Any], field: str, patterns: str, module: str) -> object:
    """A module's own value, or that of all (8 where the file does not say, as in PEFT)."""
    own = config.get(patterns) or {}
    if not isinstance(own, Mapping):
        raise UsageError(patterns, own, "is no table of modules.", "Mend adapter_config.json.")
    for pattern, value in own.items():
        try:
            # a pattern is the end of a module's name, or a regular expression of one
            if re.match(rf"(.*\.)?({pattern})$", f"model.layers.0.{module}"):
                return value
        except re.error as error:
            problem = f"names no module ({error})."
            raise UsageError(patterns, pattern, problem, "Mend adapter_config.json.") from error
    return config.get(field, 8)


def _number(field: str, value: object) -> float:
    """A finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UsageError(field, value, "is no number above 0.", "Mend adapter_config.json.")
    return value


def _dropout(value: object) -> float:
    """What is left out in training; nothing where the file does not say."""
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        problem = "is no share of inputs that can be left out."
        raise UsageError("lora_dropout", value, problem, "Give at least 0, and less than 1.")
    return float(value)


def _tidy(x: float) -> int | float:
    near = round(x)
    return near if math.isclose(x, near, rel_tol=1e-9) else x
