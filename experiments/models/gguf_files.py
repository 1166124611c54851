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


class File:
    """A GGUF file: `fields` of its metadata, and `fdiv.lm.weights.Tensors` by a folder's names."""

    def __init__(self, path: Path):
        gguf = library("gguf")
        try:
            self._reader = gguf.GGUFReader(path)
        except (ValueError, OSError, IndexError, KeyError) as error:
            problem = f"cannot be read ({error}): it is cut short or no GGUF file."
            raise UsageError("path", str(path), problem, "Fetch the file again.") from error
        self.fields: dict[str, Any] = {
            name: field.contents() for name, field in self._reader.fields.items()
        }
        self.architecture = str(self.fields.get("general.architecture"))
        if self.architecture not in READ:
            raise UsageError(
                "path",
                self.architecture,
                f"is not read from GGUF, {', '.join(READ)} are.",
                "Give the Hugging Face folder of the same model.",
            )
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
            array = library("gguf").dequantize(tensor.data, tensor.tensor_type)
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
    """The config.json of a file. Raises `UsageError` for a rotary embedding that its fields do not
    say in full."""
    heads, width = file.own("attention.head_count"), file.own("embedding_length")
    scaling = file.own("rope.scaling.type")
    if scaling not in (None, "none") or "rope_freqs.weight" in file.shapes():
        raise UsageError(
            "path",
            scaling or "rope_freqs",
            "is a scaled rotary embedding, which is not read from GGUF.",
            "Give the Hugging Face folder of the same model.",
        )
    vocab = file.own("vocab_size") or len(file.fields["tokenizer.ggml.tokens"])
    found = {
        "model_type": file.architecture,
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": file.own("feed_forward_length"),
        "num_hidden_layers": file.own("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": file.own("attention.head_count_kv") or heads,
        "head_dim": file.own("attention.key_length") or width // heads,
        "max_position_embeddings": file.own("context_length"),
        "rms_norm_eps": float(f"{file.own('attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_theta": float(f"{file.own('rope.freq_base') or 10_000.0:.6g}"),
        "rope_scaling": None,
        "tie_word_embeddings": "lm_head.weight" not in file.shapes(),
        "torch_dtype": "float32",
    }
    ids = {"bos": "bos", "eos": "eos", "pad": "padding"}
    tokens = {
        f"{own}_token_id": file.fields.get(f"tokenizer.ggml.{theirs}_token_id")
        for own, theirs in ids.items()
    }
    return found | {name: value for name, value in tokens.items() if value is not None}
