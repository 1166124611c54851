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


def _pattern(digits: str) -> Callable[[Any], list]:
    """Words with one mark before them, numbers of `digits`, punctuation and white space."""
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
        + digits
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )

    def split(tokenizers: Any) -> list:
        parts = tokenizers.pre_tokenizers
        whole = parts.Split(tokenizers.Regex(pattern), "isolated")
        return [whole, parts.ByteLevel(add_prefix_space=False, use_regex=False)]

    return split


SPLITS: dict[str, Callable[[Any], list]] = {
    "gpt-2": _bytes,
    "smollm": _digits_and_bytes,
    "llama-bpe": _pattern(r"\p{N}{1,3}"),
    "qwen2": _pattern(r"\p{N}"),
}
COMPOSED = ("qwen2",)  # text is put into its composed form first (NFC)
UNMERGED = ("llama-bpe",)  # a word that is a token is one, whatever the merges make of it


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
    tokens = _texts(fields, "tokens")
    merges = [tuple(merge.split(" ")) for merge in _texts(fields, "merges")]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    try:
        model = tokenizers.models.BPE(vocabulary, merges, ignore_merges=split in UNMERGED)
    except Exception as error:  # the library raises no narrower class
        raise _broken("merges", f"do not belong to its tokens ({error}).") from error
    made = tokenizers.Tokenizer(model)
    if split in COMPOSED:
        made.normalizer = tokenizers.normalizers.NFC()
    made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(SPLITS[split](tokenizers))
    made.decoder = tokenizers.decoders.ByteLevel()
    whole = lambda i, special: tokenizers.AddedToken(tokens[i], special=special, normalized=False)
    kinds = fields.get("tokenizer.ggml.token_type") or []
    if len(kinds) != len(tokens):
        raise _broken("token_type", f"has {len(kinds):,} kinds of {len(tokens):,} tokens.")
    made.add_special_tokens([whole(i, True) for i, k in enumerate(kinds) if k == CONTROL])
    made.add_tokens([whole(i, False) for i, k in enumerate(kinds) if k == USER_DEFINED])
    bos = _ids(fields).get("bos")
    if fields.get("tokenizer.ggml.add_bos_token", False) and bos is not None:
        begin = tokens[bos]
        made.post_processor = tokenizers.processors.TemplateProcessing(
            f"{begin} $A", f"{begin} $A {begin} $B", [(begin, bos)]
        )
    return made


def settings(fields: dict[str, Any]) -> dict[str, Any]:
    """The tokenizer_config.json of a file's fields, its chat template in it."""
    tokens = _texts(fields, "tokens")
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": bool(fields.get("tokenizer.ggml.add_bos_token", False)),
        "add_prefix_space": bool(fields.get("tokenizer.ggml.add_space_prefix", False)),
        "clean_up_tokenization_spaces": False,
    } | {f"{name}_token": tokens[i] for name, i in _ids(fields).items()}
    template = fields.get("tokenizer.chat_template")
    return config | ({"chat_template": template} if template else {})


def generation(fields: dict[str, Any]) -> dict[str, Any]:
    """The generation_config.json of a file's fields; what ends a turn ends a text as well."""
    found: dict[str, Any] = {f"{n}_token_id": i for n, i in _ids(fields).items() if n != "unk"}
    turn = fields.get("tokenizer.ggml.eot_token_id")
    if turn is not None and found.get("eos_token_id") not in (None, turn):
        found["eos_token_id"] = [found["eos_token_id"], turn]
    return found


def _ids(fields: dict[str, Any]) -> dict[str, int]:
    names = (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
    keys = {name: f"tokenizer.ggml.{theirs}_token_id" for name, theirs in names}
    ids = {name: fields[key] for name, key in keys.items() if key in fields}
    count = len(_texts(fields, "tokens"))
    for name, i in ids.items():
        if not isinstance(i, int) or not 0 <= i < count:
            field = keys[name].removeprefix("tokenizer.ggml.")
            raise _broken(field, f"is {i!r}, and the file has {count:,} tokens.")
    return ids


def _texts(fields: dict[str, Any], name: str) -> list[str]:
    """A list of texts that a tokenizer needs."""
    texts = fields.get(f"tokenizer.ggml.{name}")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise _broken(name, "is no list of texts, so the file has no tokenizer of this kind.")
    return texts


def _broken(name: str, problem: str) -> UsageError:
    fix = "Fetch the file again, or give the Hugging Face folder of the same model."
    return UsageError("path", f"tokenizer.ggml.{name}", problem, fix)


def write(folder: Path, fields: dict[str, Any]) -> None:
    """tokenizer.json, tokenizer_config.json, the chat template and generation_config.json."""
    tokenizer(fields).save(str(folder / "tokenizer.json"))
    config = settings(fields)
    if "chat_template" in config:
        (folder / "chat_template.jinja").write_text(config["chat_template"], encoding="utf-8")
    _write_json(folder / "tokenizer_config.json", config)
    _write_json(folder / "generation_config.json", generation(fields))


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
