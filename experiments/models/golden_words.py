"""What another program reads and writes as words with a model's tokenizer: the tokens of varied
strings and the text of conversations, to hold ours against."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.models import varied
from experiments.models.libraries import library
from experiments.models.words import Words
from fdiv.types import UsageError

CONVERSATIONS: tuple[tuple[list[dict[str, str]], bool], ...] = (  # and whether to go on
    ([{"role": "user", "content": "What is the capital of France?"}], True),
    (
        [
            {"role": "system", "content": "Answer in one word."},
            {"role": "user", "content": "2 + 2?\n"},
            {"role": "assistant", "content": "  Four. "},
            {"role": "user", "content": "Grüße, 你好 <b>&"},
        ],
        True,
    ),
    (
        [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello."},
        ],
        False,
    ),
)


class GoldenWords(NamedTuple):
    """Strings and their tokens; conversations and their text, none where there is no template."""

    texts: list[str]
    ids: list[list[int]]
    chats: list[str]
    by: str  # the program


class Agreement(NamedTuple):
    """How many are the same."""

    texts: int
    same_texts: int
    chats: int
    same_chats: int
    first: str | None  # a text or a conversation that differs

    @property
    def holds(self) -> bool:
        """Whether all are."""
        return self.first is None

    def __str__(self) -> str:
        texts = f"tokens of {self.texts} varied strings: {self.same_texts} the same"
        chats = f"renderings of {self.chats} conversations: {self.same_chats} the same"
        differs = "" if self.first is None else f"; the first that differs: {self.first!r}"
        return f"{texts}; {chats if self.chats else 'no chat template'}{differs}"


def compare(reference: GoldenWords, words: Words) -> Agreement:
    """Tokens without those that a tokenizer adds, and conversations."""
    differs = []
    for text, ids in zip(reference.texts, reference.ids):
        if words.encode(text, special=False) != ids:
            differs.append(text)
    strings = len(reference.texts)
    same_texts = strings - len(differs)
    for chat, (messages, go_on) in zip(reference.chats, CONVERSATIONS):
        if words.chat(messages, generate=go_on) != chat:
            differs.append(chat)
    chats = len(reference.chats)
    same_chats = chats - (len(differs) - (strings - same_texts))
    first = differs[0][:60] if differs else None
    return Agreement(strings, same_texts, chats, same_chats, first)


def live(folder: Path) -> GoldenWords | None:
    """By transformers; None for a folder without a tokenizer."""
    if not (folder / "tokenizer.json").is_file():
        return None
    transformers = library("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    texts = varied.strings(tuple(theirs.all_special_tokens))
    ids = [list(theirs.encode(text, add_special_tokens=False)) for text in texts]
    chats = []
    if theirs.chat_template is not None:
        chats = [
            theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=go_on)
            for messages, go_on in CONVERSATIONS
        ]
    return GoldenWords(texts, ids, chats, f"transformers {transformers.__version__}")


def packed(words: GoldenWords | None) -> dict[str, np.ndarray]:
    """As an array of a golden file; none where there are no words."""
    if words is None:
        return {}
    content = json.dumps(words._asdict(), ensure_ascii=False, separators=(",", ":"))
    return {"words": np.frombuffer(content.encode(), np.uint8)}


def unpacked(path: Path) -> GoldenWords | None:
    """What `packed` put into a golden file. Raises `UsageError` where it is none."""
    try:
        with np.load(path) as file:
            if "words" not in file:
                return None
            fields: dict[str, Any] = json.loads(file["words"].tobytes().decode())
            return GoldenWords(**fields)
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        problem = f"holds no words to compare with ({error})."
        raise UsageError("golden", str(path), problem, "Leave it out, or make it anew.") from error
