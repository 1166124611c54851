"""Rows as tokens: a tokenizer's reading of prompts and answers, and what to know of it.

A row is read as one text, so that its tokens are those of the text without a border in it. Where a
token would lie over the border, as where a prompt ends in the blank that the next word's token
begins with, prompt and answer are read apart, and counted."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence

from experiments.data.layouts import listed
from experiments.data.marks import Marks, Words
from experiments.data.templates import CLOCK, TODAY
from fdiv.benchmarks.text import Vocabulary
from fdiv.benchmarks.text_rows import Row, Symbols

DEFAULT = "default"  # name of the chat template that serves where none is asked for


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A tokenizer as rows are read with it."""

    name: str  # as it was given
    words: Words
    vocabulary: Vocabulary
    digest: str  # of all that decides tokens and texts

    @property
    def has_template(self) -> bool:
        """Whether it writes conversations itself."""
        return DEFAULT in self.words.templates

    @functools.cached_property
    def marks(self) -> Marks:
        """Its special tokens."""
        return Marks(self.words)

    def lead(self) -> list[int]:
        """What the tokenizer puts before a text."""
        plain, whole = (self.words.encode("a", special=special) for special in (False, True))
        return next(
            (whole[:i] for i in range(len(whole)) if whole[i : i + len(plain)] == plain), []
        )


@dataclasses.dataclass
class Counts:
    """How rows were read."""

    apart: int = 0  # prompt and answer read apart
    blank: int = 0  # prompts that end in white space
    inner: int = 0  # answers that hold a token that ends text
    begun: int = 0  # rows without a prompt, before which the token stands that begins text
    special: int = 0  # rows whose own text holds special tokens
    first: tuple[int, int] | None = None  # the first of these: its number, and its token
    ends: Counter[int] = dataclasses.field(default_factory=Counter)  # as a template wrote them


class Reader:
    """Reads rows one by one, and counts."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer, self._lead = tokenizer, tokenizer.lead()
        self._ends = set(tokenizer.words.eos)
        self.counts = Counts()

    def row(self, row: Row, chat: bool, number: int) -> Row:
        """A row of bytes as one of tokens; `chat`: of a conversation; `number`: of its record.
        Raises `ValueError` saying why it is none."""
        if not isinstance(row.prompt, bytes):  # plain text, which was read whole
            self._count_special(row.completion, False, number)
            return row._replace(prompt=self._begun(row.prompt))
        chat &= self._tokenizer.has_template  # which has written the special tokens too
        prompt = _text(row.prompt)
        self.counts.blank += bool(prompt) and prompt[-1].isspace() and not chat
        head = self._encode(prompt)
        given = [row.completion] if row.rejected is None else [row.completion, row.rejected]
        sides, ends = zip(*(self._answer(prompt, head, _text(x), chat) for x in given))
        usual = self._tokenizer.vocabulary.end
        if len({usual if end is None else end for end in ends}) > 1:
            raise ValueError("its two answers end with different tokens")
        whole = head if chat else [*self._lead, *head]
        self._count_special([*head, *(token for side in sides for token in side)], chat, number)
        made = row._replace(prompt=self._begun(whole), completion=sides[0], end=ends[0])
        return made if row.rejected is None else made._replace(rejected=sides[1])

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.words.encode(text, special=False)

    def _count_special(self, ids: Iterable[int], chat: bool, number: int) -> None:
        token = self._tokenizer.marks.first(ids, chat)
        if token is not None:
            self.counts.special += 1
            self.counts.first = self.counts.first or (number, token)

    def _begun(self, prompt: Sequence[int]) -> tuple[int, ...]:
        """A prompt, of which a pretrained model needs one token at least."""
        if prompt:
            return tuple(prompt)
        bos = self._tokenizer.words.bos
        if bos is None:
            raise ValueError("has no prompt, and the tokenizer names no token that begins a text")
        self.counts.begun += 1
        return (bos,)

    def _answer(
        self, prompt: str, head: Sequence[int], answer: str, chat: bool
    ) -> tuple[tuple[int, ...], int | None]:
        """The answer's tokens up to its end, and the token that ends it, where one is there."""
        whole = self._encode(prompt + answer)
        tokens = whole[len(head) :]
        if whole[: len(head)] != list(head) or not tokens:
            self.counts.apart += 1
            tokens = self._encode(answer)
        end = next((i for i, token in enumerate(tokens) if token in self._ends), None)
        if end is None:
            return _some(tokens), None
        if chat:  # a conversation's messages hold no such token, so the template wrote it
            self.counts.ends[tokens[end]] += 1
        else:
            self.counts.inner += 1
        return _some(tokens[:end]), tokens[end]


def _some(tokens: Sequence[int]) -> tuple[int, ...]:
    if not tokens:
        raise ValueError("has not one token to be learned before its end")
    return tuple(tokens)


def _text(symbols: Symbols) -> str:
    return bytes(symbols).decode()  # records are UTF-8, whatever file they came from


def read_rows(
    rows: Sequence[Row], numbers: Sequence[int], chats: Iterable[bool], tokenizer: Tokenizer
) -> tuple[list[Row], list[int], list[tuple[int, str]], Counts]:
    """Rows of tokens, their numbers, bad rows with their reasons, and how they were read."""
    reader = Reader(tokenizer)
    made: list[Row] = []
    kept: list[int] = []
    bad: list[tuple[int, str]] = []
    for row, number, chat in zip(rows, numbers, chats):
        try:
            made.append(reader.row(row, chat, number))
            kept.append(number)
        except ValueError as error:
            bad.append((number, " ".join(str(error).split())))
    return made, kept, bad, reader.counts


def notes(tokenizer: Tokenizer, counts: Counts, chats: int) -> list[str]:
    """What a reader of the results should know of how rows became tokens; `chats` are those that
    were conversations."""
    words, vocabulary = tokenizer.words, tokenizer.vocabulary
    known = None if vocabulary.pieces is None else vocabulary.pieces.known
    spare = 0 if known is None else vocabulary.size - len(known)
    more = f", {spare:,} of them without a token (never sampled)" if spare else ""
    said = [
        f"Tokenizer {tokenizer.name}: {vocabulary.size:,} rows{more}; SHA-256 of what decides "
        f"tokens {tokenizer.digest[:16]}. Text ends with "
        f"{listed([_named(tokenizer, end) for end in words.eos])}."
    ]
    if chats:
        if tokenizer.has_template:
            said.append(_ends(tokenizer, counts))
        else:
            said.append("The tokenizer has no chat template: conversations are lines `role: text`.")
    if counts.blank:
        said.append(
            f"In {counts.blank:,} rows the prompt ends in white space, where tokens begin with "
            "their blank: end it before the blank, and begin the answer with it."
        )
    if counts.apart:
        said.append(
            f"In {counts.apart:,} answers a token would lie over the border to the prompt: both "
            "were read apart, so the tokens are not those of the whole text."
        )
    if counts.inner:
        said.append(f"{counts.inner:,} answers hold a token that ends text: they end there.")
    if counts.first is not None:
        number, token = counts.first
        said.append(
            f"In {counts.special:,} rows the text itself holds special tokens, first in row "
            f"{number:,} ({_named(tokenizer, token)}): each is read as that token, not as words."
        )
    if counts.begun:
        said.append(
            f"{counts.begun:,} rows have no prompt: the token that begins text stands before them."
        )
    return said


def _ends(tokenizer: Tokenizer, counts: Counts) -> str:
    """What ends the answers of conversations."""
    ends = counts.ends.most_common()
    said = "Conversations are written by the tokenizer's chat template"
    dated = CLOCK in tokenizer.words.templates[DEFAULT]
    day = f" Its date is {TODAY:%d %B %Y} in every row." if dated else ""
    if not ends:
        token = _named(tokenizer, tokenizer.vocabulary.end)
        return f"{said}, which ends no answer: {token} is put after each.{day}"
    named = listed([f"{_named(tokenizer, end)} in {count:,}" for end, count in ends])
    return f"{said}, which ends answers with {named}.{day}"


def _named(tokenizer: Tokenizer, token: int) -> str:
    """A token by its text and its number."""
    spell = tokenizer.vocabulary.token
    return f"{token}" if spell is None else f"{spell(token)} ({token})"


def digest_of(content: object) -> str:
    """A SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
