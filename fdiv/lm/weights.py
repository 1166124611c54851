"""Which tensor of a checkpoint is which parameter: one table a family, read both ways.

Reading takes rows of a tensor's parts into stacked parameters [layers, ...], and writing puts the
same rows together again, so the exporter is the loader read backwards. A matrix of a file is
[outputs, inputs]; a kernel here is [*inputs, *outputs]."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

from fdiv.lm.spec import FAMILIES, Spec
from fdiv.types import Params, UsageError

# tensors that no text model reads: buffers of old versions, and what sees images
UNREAD = re.compile(r"(rotary_emb\.inv_freq$|^(model\.)?(vision_tower|multi_modal_projector)\.)")


class Tensors(Protocol):
    """Named arrays of a checkpoint, read by slices."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every tensor."""
        ...

    def rows(self, name: str, begin: int, end: int) -> np.ndarray:
        """Rows [begin, end) of one tensor, in the type that it is stored in."""
        ...


class Arrays(NamedTuple):
    """`Tensors` in memory."""

    arrays: dict[str, np.ndarray]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape."""
        return {name: array.shape for name, array in self.arrays.items()}

    def rows(self, name: str, begin: int, end: int) -> np.ndarray:
        """Rows [begin, end)."""
        return self.arrays[name][begin:end]


class Part(NamedTuple):
    """Rows of a tensor that are one parameter, or one layer of a stacked one."""

    path: tuple[str, ...]  # below "params"
    shape: tuple[int, ...]  # of the parameter, without layers
    stored: tuple[int, ...]  # of the rows in the file
    matrix: bool = False  # stored [outputs, inputs]

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The parameter of its rows."""
        return (rows.T if self.matrix else rows).reshape(self.shape)

    def write(self, parameter: np.ndarray) -> np.ndarray:
        """The rows of a parameter."""
        if self.matrix:
            return parameter.reshape(self.stored[::-1]).T
        return parameter.reshape(self.stored)


def _kernel(path: tuple[str, ...], shape: tuple[int, ...], inputs: int = 1) -> Part:
    """A matrix whose first `inputs` dimensions are summed over."""
    stored = math.prod(shape[inputs:]), math.prod(shape[:inputs])
    return Part((*path, "kernel"), shape, stored, True)


def _plain(path: tuple[str, ...], shape: tuple[int, ...]) -> Part:
    """A table or a vector, the same in both."""
    return Part(path, shape, shape)


class Entry(NamedTuple):
    """A tensor of the file: its parts below one another."""

    name: str
    parts: tuple[Part, ...]
    layer: int | None = None  # of stacked parameters

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole tensor."""
        return sum(part.stored[0] for part in self.parts), *self.parts[0].stored[1:]


def table(spec: Spec) -> list[Entry]:
    """Every tensor of a checkpoint of this model."""
    rows = (spec.vocab, spec.width)
    entries = [Entry("model.embed_tokens.weight", (_plain(("embedding",), rows),))]
    for layer in range(spec.layers):
        entries += _layer(spec, layer)
    entries.append(Entry("model.norm.weight", (_plain(("norm", "scale"), (spec.width,)),)))
    if not spec.tied:
        entries.append(Entry("lm_head.weight", (_plain(("head",), rows),)))
    return entries


def _layer(spec: Spec, layer: int) -> Iterator[Entry]:
    """The tensors of one layer."""

    def entry(name: str, *parts: Part) -> Entry:
        stacked = tuple(part._replace(path=("layers", *part.path)) for part in parts)
        return Entry(f"model.layers.{layer}.{name}", stacked, layer)

    yield from (entry(f"{name}.weight", *parts) for name, parts in matrices(spec).items())
    for name, long in {"q": "query", "k": "key", "v": "value"}.items():
        if spec.qkv_bias:
            shape = (spec.heads if name == "q" else spec.kv_heads, spec.head_dim)
            part = Part(("attention", long, "bias"), shape, (math.prod(shape),))
            yield entry(f"self_attn.{name}_proj.bias", part)
        if spec.qk_norm and name != "v":
            part = _plain(("attention", f"{long}_norm", "scale"), (spec.head_dim,))
            yield entry(f"self_attn.{name}_norm.weight", part)
    for name, own in _norms(spec).items():
        yield entry(f"{name}.weight", _plain((own, "scale"), (spec.width,)))


def matrices(spec: Spec) -> dict[str, tuple[Part, ...]]:
    """Name within a layer -> its kernels."""
    width, size = spec.width, spec.head_dim
    query = _kernel(("attention", "query"), (width, spec.heads, size))
    key, value = (_kernel(("attention", n), (width, spec.kv_heads, size)) for n in ("key", "value"))
    gate, up = (_kernel(("mlp", name), (width, spec.hidden)) for name in ("gate", "up"))
    if FAMILIES[spec.family].fused:
        inner: dict[str, tuple[Part, ...]] = {
            "self_attn.qkv_proj": (query, key, value),
            "mlp.gate_up_proj": (gate, up),
        }
    else:
        inner = {
            "self_attn.q_proj": (query,),
            "self_attn.k_proj": (key,),
            "self_attn.v_proj": (value,),
            "mlp.gate_proj": (gate,),
            "mlp.up_proj": (up,),
        }
    return inner | {
        "self_attn.o_proj": (_kernel(("attention", "out"), (spec.heads, size, width), 2),),
        "mlp.down_proj": (_kernel(("mlp", "down"), (spec.hidden, width)),),
    }


def _norms(spec: Spec) -> dict[str, str]:
    """Name within a layer -> the norm's own name. Families with four norms call the one before the
    MLP otherwise."""
    if not spec.four_norms:
        return {"input_layernorm": "norm_attention", "post_attention_layernorm": "norm_mlp"}
    return {
        "input_layernorm": "norm_attention",
        "post_attention_layernorm": "norm_mixed",
        "pre_feedforward_layernorm": "norm_mlp",
        "post_feedforward_layernorm": "norm_out",
    }


def load(spec: Spec, tensors: Tensors, dtype: Any = np.float32) -> Params:
    """The parameters of a checkpoint as numpy arrays. Raises `UsageError` naming a tensor that is
    missing, of another shape, or read by nothing."""
    entries, shapes = table(spec), tensors.shapes()
    names = _names(entries, shapes)
    _check(spec, entries, names, shapes, tensors)
    leaves: dict[tuple[str, ...], np.ndarray] = {}
    for entry in entries:
        begin = 0
        for part in entry.parts:
            end = begin + part.stored[0]
            parameter = part.read(tensors.rows(names[entry.name], begin, end))
            if entry.layer is None:
                leaves[part.path] = np.array(parameter, dtype)
            else:
                shape = (spec.layers, *part.shape)
                leaves.setdefault(part.path, np.empty(shape, dtype))[entry.layer] = parameter
            begin = end
    return {"params": _nested(leaves)}


def stored(spec: Spec, params: Params, dtype: Any = np.float32) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of every tensor of a checkpoint of these parameters, one at a time. Arrays are
    contiguous: a writer that takes their memory as it lies must not see a transposed view."""
    for entry in table(spec):
        rows = []
        for part in entry.parts:
            leaf = params["params"]
            for name in part.path:
                leaf = leaf[name]
            parameter = np.asarray(leaf if entry.layer is None else leaf[entry.layer])
            rows.append(part.write(parameter))
        yield entry.name, np.ascontiguousarray(np.concatenate(rows).astype(dtype))


def only(params: Params, layers: tuple[int, ...]) -> Params:
    """The parameters of these layers alone, as `Spec.only` is their architecture."""
    index = np.asarray(layers)
    cut = lambda tree: {k: cut(v) if isinstance(v, dict) else v[index] for k, v in tree.items()}
    inner = params["params"]
    return {"params": {**inner, "layers": cut(inner["layers"])}}


def _renamed(name: str) -> list[str]:
    """What a tensor is called in checkpoints: of a language model, of one with a vision tower (old
    and new), and of a trunk saved without its head."""
    inner = name.removeprefix("model.")
    new = f"model.language_model.{inner}" if name != inner else name
    return [name, f"language_model.{name}", new, inner]


def _names(entries: list[Entry], shapes: dict[str, tuple[int, ...]]) -> dict[str, str]:
    """Name in the table -> name in this checkpoint."""
    called = _renamed(entries[0].name)
    way = next((i for i, name in enumerate(called) if name in shapes), 0)
    return {entry.name: _renamed(entry.name)[way] for entry in entries}


def _check(
    spec: Spec,
    entries: list[Entry],
    names: dict[str, str],
    shapes: dict[str, tuple[int, ...]],
    tensors: Tensors,
) -> None:
    """Refuse a checkpoint that is not this model's."""
    if missing := [name for name in names.values() if name not in shapes]:
        raise UsageError(
            "weights",
            _some(missing),
            f"is not in the checkpoint, {len(missing)} of {len(entries)} tensors in all.",
            "Give the checkpoint that config.json belongs to, whole.",
        )
    for entry in entries:
        if shapes[names[entry.name]] != entry.shape:
            raise UsageError(
                "weights",
                names[entry.name],
                f"has shape {list(shapes[names[entry.name]])}, and config.json makes it "
                f"{list(entry.shape)}.",
                "Give the config.json that belongs to these weights.",
            )
    extra = {name for name in shapes if not UNREAD.search(name)} - set(names.values())
    head = next((name for name in _renamed("lm_head.weight") if name in extra), None)
    if spec.tied and head is not None:
        _check_tied(head, names["model.embed_tokens.weight"], shapes, tensors)
        extra.remove(head)
    if extra:
        raise UsageError(
            "weights",
            _some(sorted(extra)),
            f"belongs to nothing in this model, {len(extra)} tensors in all.",
            "Give the config.json that belongs to these weights.",
        )


def _check_tied(
    head: str, embedding: str, shapes: dict[str, tuple[int, ...]], tensors: Tensors
) -> None:
    """A head that is written although it is the embedding has to be the embedding."""
    step, count = 8192, shapes[embedding][0]
    of = lambda name, begin: tensors.rows(name, begin, min(begin + step, count))
    same = shapes[head] == shapes[embedding] and all(
        np.array_equal(of(head, i), of(embedding, i)) for i in range(0, count, step)
    )
    if not same:
        raise UsageError(
            "weights",
            head,
            "differs from the embedding, and config.json says that they are one.",
            "Write tie_word_embeddings: false into config.json if the head counts.",
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _nested(leaves: dict[tuple[str, ...], np.ndarray]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        branch = tree
        for name in path[:-1]:
            branch = branch.setdefault(name, {})
        branch[path[-1]] = leaf
    return tree
