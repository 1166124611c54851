"""A tokenizer's tokens as the symbols of a text benchmark: how many there are, which end a text,
which stand for nothing, how many bytes of text each is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from experiments.models.words import Words
from fdiv.benchmarks.text import Vocabulary
from fdiv.types import PAD, Pieces, UsageError

BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")  # a token that is one byte, where a tokenizer has such
BLANK = "\u2581"  # what stands for a blank in tokens of SentencePiece


def of(words: Words) -> Vocabulary:
    """The vocabulary of a model's embedding. Raises `UsageError` where no token ends a text."""
    if not words.eos:
        problem = "names no token that ends a text."
        fix = "Put eos_token_id into generation_config.json beside it, or eos_token into "
        raise UsageError("path", "", problem, f"{fix}tokenizer_config.json.")
    token = words.special.get("eos_token")
    named = None if token is None else words.backend.token_to_id(token)
    end = named if named in words.eos else words.eos[0]
    eos = words.eos[0] if len(words.eos) == 1 else words.eos
    known = words.known()
    spare = None if len(known) == words.vocab else np.asarray(known, np.int32)
    # pyrefly: ignore[bad-argument-type]: in numpy, until a task is made
    pieces = Pieces(sizes(words), spare)
    spell = lambda tokens, mask: spelled(words, tokens, mask)
    token = lambda i: words.decode([i], special=True)
    return Vocabulary(words.vocab, end, eos, "tokens", pieces, spell, token)


def spelled(words: Words, tokens: np.ndarray, mask: np.ndarray) -> str:
    """What marked tokens say after those before them, without the token that ends the string."""
    tokens, mask = np.asarray(tokens), np.asarray(mask, bool)
    ids = tokens[mask].tolist()
    if ids and ids[-1] in words.eos:
        ids.pop()
    first = int(np.argmax(mask)) if mask.any() else 0
    before = [token for token in tokens[:first].tolist() if token != PAD]
    return words.continued(before, ids, special=True)


def sizes(words: Words) -> np.ndarray:
    """Bytes of text that each token stands for, [V]; 0 of special tokens and of rows without a
    token. Those of a text's tokens add up to its bytes, but for what a tokenizer normalises."""
    state: dict[str, Any] = json.loads(words.backend.to_str())
    added = {token["id"]: token for token in state["added_tokens"]}
    of_bytes = any(
        part.get("type") == "ByteLevel"
        for name in ("decoder", "pre_tokenizer")
        for part in _parts(state.get(name))
    )
    counts = np.zeros(words.vocab, np.int32)
    for i in words.known():
        token = words.backend.id_to_token(i)
        if i in added:
            counts[i] = 0 if added[i]["special"] else len(added[i]["content"].encode())
        elif of_bytes:  # in which a character stands for a byte
            counts[i] = len(token)
        elif BYTE.fullmatch(token):
            counts[i] = 1
        else:
            counts[i] = len(token.replace(BLANK, " ").encode())
    return counts


def _parts(part: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """A part of a tokenizer, and what it is made of."""
    if part is None:
        return
    yield part
    for name in ("decoders", "pretokenizers"):
        for inner in part.get(name) or ():
            yield from _parts(inner)
