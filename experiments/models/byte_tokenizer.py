"""The bytes of a text as a tokenizer.json that transformers and `tokenizers` read: token b is byte
b, and one more token ends a text and begins it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BYTES = 256
END = "<|endoftext|>"
# bytes that ByteLevel shows as the character of the same number; the others follow from 256 on
_PLAIN = [*range(33, 127), *range(161, 173), *range(174, 256)]


def alphabet() -> list[str]:
    """The character by which a byte-level tokenizer shows each byte (GPT-2's table)."""
    others = [b for b in range(BYTES) if b not in _PLAIN]
    shown = {b: chr(b) for b in _PLAIN} | {b: chr(BYTES + i) for i, b in enumerate(others)}
    return [shown[b] for b in range(BYTES)]


def write(folder: Path) -> None:
    """tokenizer.json, tokenizer_config.json, special_tokens_map.json, generation_config.json."""
    files: dict[str, dict[str, Any]] = {
        "tokenizer.json": _tokenizer(),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": END,
            "eos_token": END,
            "clean_up_tokenization_spaces": False,
        },
        "special_tokens_map.json": {"bos_token": END, "eos_token": END},
        "generation_config.json": ids(),
    }
    for name, fields in files.items():
        text = json.dumps(fields, indent=2, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")


def ids() -> dict[str, int]:
    """The token that begins and ends a text, as a config names it."""
    return {"bos_token_id": BYTES, "eos_token_id": BYTES}


def _tokenizer() -> dict[str, Any]:
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    begin = {"SpecialToken": {"id": END, "type_id": 0}}
    text = lambda name: {"Sequence": {"id": name, "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": BYTES,
                "content": END,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
        ],
        "normalizer": None,
        "pre_tokenizer": {**level, "use_regex": False},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, text("A")],
            "pair": [begin, text("A"), text("B")],
            "special_tokens": {END: {"id": END, "ids": [BYTES], "tokens": [END]}},
        },
        "decoder": {**level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {character: b for b, character in enumerate(alphabet())},
            "merges": [],
        },
    }
