"""A tokenizer.json, and what stands beside it, of the tokenizer that a GGUF file describes.

The file names its way of splitting text before merging and does not spell it out; the ways that are
known here are spelt out in `SPLITS`, and another is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.models.libraries import library
from fdiv.types import UsageError

CONTROL, USER_DEFINED = 3, 4  # kinds of tokens that are never split


def _bytes(tokenizers: Any) -> list:
    return [tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)]


def _digits_and_bytes(tokenizers: Any) -> list:
    digits = tokenizers.pre_tokenizers.Digits(individual_digits=True)
    return [digits, *_bytes(tokenizers)]


SPLITS: dict[str, Callable[[Any], list]] = {
    "gpt-2": _bytes,
    "smollm": _digits_and_bytes,
}


def tokenizer(fields: dict[str, Any]) -> Any:
    """A `tokenizers.Tokenizer` from a file's fields. Raises `UsageError` for a kind that is not
    known."""
    tokenizers = library("tokenizers")
    kind, split = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre", "gpt-2")
    if kind != "gpt2" or split not in SPLITS:
        raise UsageError(
            "path",
            f"{kind}/{split}",
            f"is a tokenizer that is not read from GGUF, {', '.join(SPLITS)} are.",
            "Give the Hugging Face folder of the same model.",
        )
    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(SPLITS[split](tokenizers))
    made.decoder = tokenizers.decoders.ByteLevel()
    whole = lambda i, special: tokenizers.AddedToken(tokens[i], special=special, normalized=False)
    kinds = fields["tokenizer.ggml.token_type"]
    made.add_special_tokens([whole(i, True) for i, k in enumerate(kinds) if k == CONTROL])
    made.add_tokens([whole(i, False) for i, k in enumerate(kinds) if k == USER_DEFINED])
    return made


def write(folder: Path, fields: dict[str, Any]) -> None:
    """tokenizer.json, tokenizer_config.json, the chat template and generation_config.json."""
    tokenizer(fields).save(str(folder / "tokenizer.json"))
    tokens = fields["tokenizer.ggml.tokens"]
    ids = {
        name: fields[f"tokenizer.ggml.{theirs}_token_id"]
        for name, theirs in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
        if f"tokenizer.ggml.{theirs}_token_id" in fields
    }
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": bool(fields.get("tokenizer.ggml.add_bos_token", False)),
        "add_prefix_space": bool(fields.get("tokenizer.ggml.add_space_prefix", False)),
        "clean_up_tokenization_spaces": False,
    } | {f"{name}_token": tokens[i] for name, i in ids.items()}
    template = fields.get("tokenizer.chat_template")
    if template:
        (folder / "chat_template.jinja").write_text(template)
        config["chat_template"] = template
    _write_json(folder / "tokenizer_config.json", config)
    generation = {f"{name}_token_id": i for name, i in ids.items() if name != "unk"}
    _write_json(folder / "generation_config.json", generation)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
