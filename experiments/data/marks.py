"""Special tokens whose text stands in what people wrote.

A conversation is written by a chat template and the whole text read into tokens, as transformers
does. So the text of a special token is that token wherever it stands: a user's message that holds
`<|im_end|>` ends its own turn, and may begin another's. Such a conversation is no good row. Special
tokens that part no turns are read as transformers reads them, and counted."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from experiments.data.conversations import Turn, rendered
from experiments.data.templates import CLOCK, TODAY, TRIED, Render, Writer
from fdiv.types import UsageError

# conversations whose text has all that a template writes around messages. The last message is a
# user's: some templates write more around an assistant's last one, which belongs to its words
PROBES = (
    ("user", "assistant", "user"),
    ("system", "user", "assistant", "user"),
    ("user", "assistant", "tool", "assistant", "user"),
)


class Added(NamedTuple):
    """A token that is read wherever its text stands."""

    text: str
    special: bool  # that stands for no words: <|im_end|> does, <think> may not


class Words(Writer, Protocol):
    """What this reads of a tokenizer: `experiments.models.words.Words`."""

    @property
    def bos(self) -> int | None:
        """The token before every text."""
        ...

    @property
    def eos(self) -> tuple[int, ...]:
        """The tokens that end one."""
        ...

    @property
    def templates(self) -> Mapping[str, str]:
        """Name -> a chat template."""
        ...

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Tokens; `special` adds what the tokenizer puts around a text."""
        ...

    def added(self) -> Mapping[int, tuple[str, bool]]:
        """Token -> its text and whether it is special, as `Added` has them."""
        ...


class Marks:
    """A tokenizer's special tokens."""

    def __init__(self, words: Words):
        self._words = words
        added = {token: Added(*each) for token, each in words.added().items()}
        self.texts = {token: each.text for token, each in added.items()}
        written = frozenset(_written(words)) & added.keys()
        self.turns = written | {*words.eos, *({words.bos} - {None})}
        """Tokens that end or begin a text, or that the chat template writes around messages."""
        self.special = self.turns | {token for token, each in added.items() if each.special}
        """These, and all others that stand for no words."""
        texts = (re.escape(self.texts[token]) for token in self.turns if token in self.texts)
        self._seen = re.compile("|".join(texts) or "(?!)", re.IGNORECASE)

    def held(self, text: str) -> str | None:
        """The text of the first token in a message that would end or begin a turn; None where there
        is none."""
        if not self._seen.search(text):  # as nearly always, without a look at tokens
            return None
        ids = self._words.encode(text, special=False)
        return next((self.texts.get(i, str(i)) for i in ids if i in self.turns), None)

    def first(self, ids: Iterable[int], chat: bool) -> int | None:
        """The first special token among these; of a conversation, whose turns a template parts, the
        first that parts none."""
        odd = self.special - self.turns if chat else self.special
        return None if odd.isdisjoint(ids) else next(i for i in ids if i in odd)

    def guarded(self, render: Render | None) -> Render:
        """How conversations are written (as lines `role: text` where no template does), which
        raises `ValueError` for a message that holds a token which ends or begins a turn."""

        def write(before: Sequence[Turn], answer: str) -> tuple[str, str]:
            for turn in (*before, Turn("assistant", answer)):
                if (mark := self.held(turn.text)) is not None:
                    raise ValueError(
                        f"the {turn.role}'s message holds {mark!r}, which is read as a token that "
                        "ends or begins a turn or a text, not as words: write it otherwise"
                    )
            return (rendered(before), answer) if render is None else render(before, answer)

        return write


def _written(words: Words) -> Iterable[int]:
    """The tokens of conversations as the chat template writes them; none without one."""
    for roles in PROBES if words.templates else ():
        texts = [TRIED[i % len(TRIED)] for i, _ in enumerate(roles)]
        messages = [{"role": role, "content": text} for role, text in zip(roles, texts)]
        with contextlib.suppress(UsageError):  # a conversation that the template does not write
            text = words.chat(messages, generate=False, **{CLOCK: TODAY.strftime})
            yield from words.encode(text, special=False)
