"""Rows of text as a policy sees them, as bytes or as tokens, and which of them are held out.

A policy reads the last symbols of a prompt and writes the first ones of an answer. What is said
here of rows (that two are the same, that a string is held out) is said after that cut: rows that
differ in the file may be one and the same string to the policy."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

STRETCH = 64  # blocks of plain text that stay on one side of the split, at most
STRETCHES = 50  # and how many such stretches a short text is divided into


Symbols = bytes | tuple[int, ...]  # of one file, all are of one kind


class Row(NamedTuple):
    """A prompt and its answer, or two answers of which the first is preferred, or one that was
    judged alone."""

    prompt: Symbols
    completion: Symbols
    rejected: Symbols | None = None  # the completion that was not preferred to this one
    liked: bool | None = None  # the label of one that was judged alone
    conversation: int | None = None  # rows of one conversation stay on one side of the split
    stretches: tuple[int, ...] = ()  # of plain text: those its prompt and its block lie in
    end: int | None = None  # the token that ends its answers; None: the vocabulary's own
    extra: tuple[Any, ...] = ()  # of its record, what a user's reward reads


class Cut(NamedTuple):
    """How much of a row the policy sees."""

    prompt_length: int  # symbols of the prompt, the last ones
    horizon: int  # tokens of an answer, the first ones, EOS included

    def prompt(self, row: Row) -> Symbols:
        """What is left of its prompt."""
        return row.prompt[max(0, len(row.prompt) - self.prompt_length) :]

    def answer(self, completion: Symbols) -> tuple[Symbols, bool]:
        """What is left of an answer, and whether its end (EOS) is among it."""
        return completion[: self.horizon], len(completion) < self.horizon

    def string(self, row: Row) -> tuple[Symbols, Symbols, bool]:
        """The row's encoded string: prompt, answer, whether EOS ends it."""
        return self.prompt(row), *self.answer(row.completion)

    def equal(self, row: Row) -> bool:
        """Whether both answers of a comparison are the same string."""
        return row.rejected is not None and (
            self.answer(row.completion) == self.answer(row.rejected)
        )

    def strings(self, row: Row) -> list[tuple[Symbols, bool]]:
        """All that the row shows the policy, each as the symbols of a whole string and whether it
        is ended."""
        prompt = self.prompt(row)
        answers = [row.completion] if row.rejected is None else [row.completion, row.rejected]
        cut = map(self.answer, answers)
        return [(joined(prompt, answer), ended) for answer, ended in cut]


class Split(NamedTuple):
    """Rows of each side, by their number from 0."""

    train: list[int]
    held_out: list[int]
    left_out: list[int]  # on neither side: plain text at a border, or found on both
    by: str  # what decides: "prompt", "answer" or "stretch"
    groups: int  # how many parts of the file could be told apart
    nearest: bool  # no part fell below the share, so the nearest one is held out


def joined(first: Symbols, second: Symbols) -> Symbols:
    """Symbols of one kind, one after the other."""
    return first + second  # pyrefly: ignore[unsupported-operation]: both are bytes, or tuples


def demonstrated(row: Row) -> bool:
    """Whether the row's answer is one to be copied."""
    return row.liked is not False


def split(rows: Sequence[Row], cut: Cut, validation: float) -> Split:
    """Which rows are held out: about a share of `validation`, so that no string that the policy is
    trained on is also held out.

    Rows with the same prompt stay together, rows without a prompt (or of a file with one prompt
    alone) where their strings are the same, rows of one conversation always. A group is held out
    where the hash of its first key, as a number in [0, 1), is below the share: what else the file
    holds does not move it. Plain text goes by stretches of neighbouring blocks.
    """
    if any(row.stretches for row in rows):
        return _by_stretches(rows, cut, validation)
    prompts = {cut.prompt(row) for row in rows}
    shared = len(prompts) == 1  # they tell no row from another
    keys = [_keys(row, cut, prompted=not shared) for row in rows]
    groups = _connected(keys)
    if len(groups) == 1:  # answers that are refused alike may then be on both sides
        shown = {cut.strings(row)[0] for row in rows}
        keys = [[k for k in own if k[0] != 1 or k[1] in shown] for own in keys]
        groups = _connected(keys)
    names = {group: min(keys[i][0] for i in members) for group, members in groups.items()}
    sides, nearest = _held(rows, groups, names, validation)
    held = {i for group in sides for i in groups[group]}
    return Split(
        [i for i in range(len(rows)) if i not in held],
        sorted(held),
        [],
        "answer" if shared else "prompt",
        len(groups),
        nearest,
    )


def repeated(rows: Sequence[Row], cut: Cut) -> int:
    """How many rows are, after the cut, what an earlier row is."""
    seen = Counter(
        (cut.string(row), row.rejected and cut.answer(row.rejected), row.liked) for row in rows
    )
    return len(rows) - len(seen)


def _keys(row: Row, cut: Cut, prompted: bool) -> list[tuple[int, Hashable]]:
    """What the row shares with others of its group; the first decides its side."""
    prompt = cut.prompt(row)
    keys: list[tuple[int, Hashable]] = [(0, prompt)] if prompt and prompted else []
    keys += [(1, string) for string in cut.strings(row)]
    return keys + ([] if row.conversation is None else [(2, row.conversation)])


def _connected(keys: Sequence[Iterable[Hashable]]) -> dict[int, list[int]]:
    """Numbers of items that share a key, or share one with an item that does: the group's first
    number -> its members."""
    parent = list(range(len(keys)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[Hashable, int] = {}
    for i, own in enumerate(keys):
        for key in own:
            a, b = root(first.setdefault(key, i)), root(i)
            parent[max(a, b)] = min(a, b)
    groups = defaultdict(list)
    for i in range(len(keys)):
        groups[root(i)].append(i)
    return dict(groups)


def _held(
    rows: Sequence[Row],
    groups: dict[int, list[int]],
    names: Mapping[int, Hashable],
    validation: float,
) -> tuple[set[int], bool]:
    """The groups that are held out, and whether one had to be taken for want of any below the
    share."""
    place = {group: _place(name) for group, name in names.items()}
    held = {group for group, at in place.items() if at < validation}
    sizes = {g: sum(demonstrated(rows[i]) for i in members) for g, members in groups.items()}
    useful = sorted((g for g in groups if sizes[g]), key=lambda g: place[g])
    whole = sum(sizes.values())
    if len(useful) < 2:  # what cannot be split is the training side's
        return set(), False
    if not any(group in held for group in useful):
        small = [g for g in useful if 2 * sizes[g] <= whole] or useful
        return held | {small[0]}, True
    if all(group in held for group in useful):
        return held - {useful[-1]}, True
    return held, False


def _place(name: Hashable) -> float:
    return int.from_bytes(hashlib.sha256(repr(name).encode()).digest()[:8], "big") / 2**64


def _by_stretches(rows: Sequence[Row], cut: Cut, validation: float) -> Split:
    """Plain text: whole stretches are held out. A block whose prompt reaches into a stretch of the
    other side is on neither, nor is a held-out block that occurs in training as well."""
    groups: dict[int, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        groups[row.stretches[-1]].append(i)
    names = {part: rows[members[0]].completion for part, members in groups.items()}
    inner = {part: [i for i in g if len(rows[i].stretches) == 1] for part, g in groups.items()}
    held, nearest = _held(rows, inner, names, validation)
    train, held_out, left_out = [], [], []
    for i, row in enumerate(rows):
        sides = {part in held for part in row.stretches}
        (left_out if len(sides) > 1 else held_out if True in sides else train).append(i)
    trained = {s for i in train for s in cut.strings(rows[i])}
    prompts = {prompt for i in train if (prompt := cut.prompt(rows[i]))}
    again = {
        i
        for i in held_out
        if cut.prompt(rows[i]) in prompts or not trained.isdisjoint(cut.strings(rows[i]))
    }
    held_out = [i for i in held_out if i not in again]
    return Split(train, held_out, sorted({*left_out, *again}), "stretch", len(groups), nearest)


def stretch_length(blocks: int, reach: int) -> int:
    """Blocks of a stretch, for a text of so many, each of whose prompts reaches over so many blocks
    before it."""
    return max(1 + reach, min(max(STRETCH, 1 + reach), blocks // STRETCHES))
