"""GGUF files (llama.cpp's): tensors made plain numbers again, and the config that they belong to.

Two things differ from the checkpoint that a file was made from. For llama alone, rows of queries
and keys are kept in another order, in which a pair that turns together lies side by side. And eps
is kept in float32, so 1e-5 reads as 9.999999747378752e-06: it is rounded to 6 digits. A wrong order
or eps leaves text fluent, so only numbers tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments.models.libraries import library
from fdiv.types import UsageError

# name in the file -> name in a folder, within a layer
LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTSIDE = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
# architectures whose file says all that a config has to
READ = ("llama", "qwen2", "qwen3")
REORDERED = ("llama",)
# fields of an architecture that a config is made of, and those that change no number; another may
# change one (a window, experts, a scale of logits), unless it is nothing
HONOURED = (
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "vocab_size",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "rope.freq_base",
    "rope.scaling.type",
)
HARMLESS = ("tensor_data_layout", "rope.scaling.finetuned", "rope.scaling.original_context_length")
NEUTRAL = {"rope.scaling.factor": 1, "rope.scale_linear": 1, "rope.scaling.attn_factor": 1}


class File:
    """A GGUF file: `fields` of its metadata, and `fdiv.lm.weights.Tensors` by a folder's names."""

    def __init__(self, path: Path):
        gguf = library("gguf")
        try:
            self._reader = gguf.GGUFReader(path)
            self.fields: dict[str, Any] = {
                name: field.contents() for name, field in self._reader.fields.items()
            }
        except Exception as error:  # of numpy and the library, of any class where bytes are wrong
            problem = f"cannot be read ({error}): it is cut short or no GGUF file."
            raise UsageError("path", str(path), problem, "Fetch the file again.") from error
        self.architecture = str(self.fields.get("general.architecture"))
        if self.architecture not in READ:
            raise UsageError(
                "path",
                self.architecture,
                f"is not read from GGUF, {', '.join(READ)} are.",
                "Give the Hugging Face folder of the same model.",
            )
        if self.fields.get("split.count", 0) not in (0, 1):
            problem = "is one of several files that hold a model together."
            fix = "Merge them with llama.cpp's gguf-split --merge, and give that file."
            raise UsageError("path", str(path), problem, fix)
        self._tensors = {_folder_name(t.name): t for t in self._reader.tensors}
        self._last: tuple[str, np.ndarray] | None = None  # rows of one tensor are asked in turn

    def own(self, name: str) -> Any:
        """A field of this architecture, None where there is none."""
        return self.fields.get(f"{self.architecture}.{name}")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape; the file counts dimensions from the last."""
        return {n: tuple(int(x) for x in t.shape[::-1]) for n, t in self._tensors.items()}

    def rows(self, name: str, begin: int, end: int) -> np.ndarray:
        """Rows [begin, end) of one tensor, float32."""
        if self._last is None or self._last[0] != name:
            tensor = self._tensors[name]
            array = _plain(name, tensor)
            array = np.asarray(array, np.float32).reshape(self.shapes()[name])
            self._last = name, self._in_order(name, array)
        return self._last[1][begin:end]

    def _in_order(self, name: str, array: np.ndarray) -> np.ndarray:
        """Rows of queries and keys with the halves of a head that turn together apart again."""
        if self.architecture not in REORDERED or not ("q_proj" in name or "k_proj" in name):
            return array
        heads = self.own("attention.head_count")
        heads = heads if "q_proj" in name else self.own("attention.head_count_kv") or heads
        pairs = array.reshape(int(heads), -1, 2, *array.shape[1:])
        return pairs.swapaxes(1, 2).reshape(array.shape)


def _plain(name: str, tensor: Any) -> np.ndarray:
    """A tensor's numbers. Raises `UsageError` for a type that the library does not make plain."""
    try:
        return library("gguf").dequantize(tensor.data, tensor.tensor_type)
    except NotImplementedError as error:
        problem = f"is stored as {tensor.tensor_type.name}, which is not made plain."
        fix = "Give a file of another type, or the Hugging Face folder of the same model."
        raise UsageError("weights", name, problem, fix) from error


def _folder_name(name: str) -> str:
    """A tensor's name in a folder; an unknown one as it is, to be refused by it."""
    stem, _, kind = name.rpartition(".")
    if stem in OUTSIDE:
        return f"{OUTSIDE[stem]}.{kind}"
    parts = stem.split(".")
    if len(parts) == 3 and parts[0] == "blk" and parts[2] in LAYER:
        return f"model.layers.{parts[1]}.{LAYER[parts[2]]}.{kind}"
    return name


def config(file: File) -> dict[str, Any]:
    """The config.json of a file. Raises `UsageError` for a field that may change a number and is
    not read."""
    _refuse_scaled(file)
    heads, width = file.own("attention.head_count"), file.own("embedding_length")
    tokens = file.fields.get("tokenizer.ggml.tokens")
    whole = isinstance(heads, int) and isinstance(width, int) and heads > 0
    head_dim = file.own("attention.key_length") or (width // heads if whole else None)
    _refuse_rest(file, {"attention.value_length": head_dim, "rope.dimension_count": head_dim})
    found = {
        "model_type": file.architecture,
        "vocab_size": file.own("vocab_size") or (len(tokens) if tokens else None),
        "hidden_size": width,
        "intermediate_size": file.own("feed_forward_length"),
        "num_hidden_layers": file.own("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": file.own("attention.head_count_kv") or heads,
        "head_dim": head_dim,
        "max_position_embeddings": file.own("context_length"),
        "rms_norm_eps": _rounded(file.own("attention.layer_norm_rms_epsilon")),
        "rope_theta": _rounded(file.own("rope.freq_base") or 10_000.0),
        "rope_scaling": None,
        "tie_word_embeddings": "lm_head.weight" not in file.shapes(),
        "torch_dtype": "float32",
    }
    ids = {"bos": "bos", "eos": "eos", "pad": "padding"}
    special = {
        f"{own}_token_id": file.fields.get(f"tokenizer.ggml.{theirs}_token_id")
        for own, theirs in ids.items()
    }
    return found | {name: value for name, value in special.items() if value is not None}


def _rounded(value: object) -> object:
    """A number that was kept in float32, to 6 digits."""
    return float(f"{value:.6g}") if isinstance(value, float | int) else value


def _refuse_scaled(file: File) -> None:
    scaling = file.own("rope.scaling.type")
    if scaling not in (None, "none") or "rope_freqs.weight" in file.shapes():
        raise UsageError(
            "path",
            scaling or "rope_freqs",
            "is a scaled rotary embedding, which is not read from GGUF.",
            "Give the Hugging Face folder of the same model.",
        )


def _refuse_rest(file: File, stated: dict[str, Any]) -> None:
    """Refuse fields of the architecture that say what is not computed; `stated` ones may repeat
    what is."""
    prefix = f"{file.architecture}."
    for field, value in file.fields.items():
        name = field.removeprefix(prefix)
        if name == field or name in (*HONOURED, *HARMLESS) or not value:
            continue
        usual = (stated | NEUTRAL).get(name)
        if usual is None or value != usual:
            problem = "of the GGUF file is not computed" + (
                f", {usual} alone is." if usual else "."
            )
            fix = "Give the Hugging Face folder of the same model."
            raise UsageError(field, value, problem, fix)
