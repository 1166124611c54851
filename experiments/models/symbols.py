"""What the policies of runs read and write: the symbols of their task, spelled as a report spells
them. Bytes for text, characters where a task has them, numbers with blanks between them otherwise.

A policy of a run has a law of the first token. What stands before it is a token here, the first of
every text: that which ends a text begins one too (in a task without one, a number of its own). So
a text of n symbols is n + 1 tokens, of which each but the first has a log-prob, as in a pretrained
model with such a token."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from fdiv.types import PAD, Params, Policy, Sequences, UsageError

END, START = "end", "start"  # how they are spelled among numbers


class Bounds(NamedTuple):
    """Of the strings of a task that has no others: none is longer, and nothing follows an end."""

    length: int  # most tokens of a string, prompt included
    horizon: int  # most tokens after its prompt
    eos: tuple[int, ...]  # what ends one

    @property
    def end(self) -> int | None:
        """The token that is spelled as the end, where there is one alone."""
        return self.eos[0] if len(self.eos) == 1 else None

    def room(self, ids: Sequence[int]) -> int:
        """Most tokens that may follow a beginning, whose first token stands before the text."""
        return max(0, min(self.horizon, self.length - len(ids) + 1))

    def over(self, ids: Sequence[int]) -> bool:
        """Whether nothing follows."""
        return len(ids) > self.length or (len(ids) > 1 and ids[-1] in self.eos)


class Symbols(NamedTuple):
    """As `words.Words`, of a run's task."""

    vocab: int  # symbols of the policy
    bos: int  # the token before every text
    eos: tuple[int, ...]  # the token that ends one, where there is one
    parse: Callable[[str], list[int]]
    spell: Callable[[Sequence[int], bool], str]  # tokens, whether ends are shown
    bounds: Bounds | None = None  # None: text may go on for as long as it likes
    biases: Mapping[str, Any] = {}

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Tokens; `special` puts that before it which stands before every text. Raises `UsageError`
        for what the task has no symbol for, and for what is no beginning of a string of it."""
        ids = [self.bos, *self.parse(text)]
        if self.bounds is not None:
            self._check(text, ids, self.bounds)
        return ids if special else ids[1:]

    def _check(self, text: str, ids: list[int], bounds: Bounds) -> None:
        if len(ids) - 1 > bounds.length:
            problem = f"has {len(ids) - 1} symbols, and strings of this task at most "
            raise UsageError("text", text, f"{problem}{bounds.length}.", "Give a shorter one.")
        if set(bounds.eos) & set(ids[1:-1]):
            raise UsageError("text", text, "goes on after its end.", "Leave out what follows.")

    def prompt(self, text: str) -> list[int]:
        """The tokens of a text to continue, which may be empty. Raises `UsageError` for a whole
        string."""
        ids = self.encode(text)
        if self.bounds is not None and self.bounds.over(ids):
            problem = "is a whole string of this task: nothing follows it."
            raise UsageError("prompt", text, problem, "Give the beginning of one.")
        return ids

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        """The text of tokens, with those that begin and end one where they are asked for."""
        return self.spell(ids, special)

    def continued(self, prompt: Sequence[int], ids: Sequence[int], special: bool = False) -> str:
        """The text of tokens after a prompt, which may end within a character."""
        if self.bounds is not None:
            return self.decode(ids, special)
        before, whole = self.decode(prompt, special), self.decode([*prompt, *ids], special)
        return whole[len(before) :] if whole.startswith(before) else self.decode(ids, special)

    def chat(self, messages: Sequence[Any], **how: Any) -> str:
        """Raises `UsageError`: a run's policy has no template."""
        problem = "needs a chat template, and the policy of a run has none."
        raise UsageError("chat", True, problem, "Leave it out to continue plain text.")

    def known(self) -> list[int]:
        """All symbols."""
        return list(range(self.vocab))


def of_bytes(end: int, name: str) -> Symbols:
    """Text as its UTF-8; `name` is how the token that ends and begins it is shown."""

    def parse(text: str) -> list[int]:
        try:
            return list(text.encode())
        except UnicodeEncodeError as error:  # a command line keeps such bytes as half characters
            problem = f"holds {text[error.start]!r} at {error.start}, which is no character."
            raise UsageError("text", text, problem, "Give text in UTF-8.") from error

    def spell(ids: Sequence[int], special: bool) -> str:
        mark = name.encode() if special else b""
        whole = b"".join(mark if i == end else bytes([i]) for i in ids)
        return whole.decode("utf-8", errors="replace")

    return Symbols(end + 1, end, (end,), parse, spell)


def of_pieces(pieces: Sequence[str], bounds: Bounds) -> Symbols:
    """Text as pieces of it, one for each symbol; a symbol whose piece is empty cannot be given."""
    ids = {piece: i for i, piece in enumerate(pieces) if piece}
    longest_first = sorted(ids, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def parse(text: str) -> list[int]:
        found, at = [], 0
        while at < len(text):
            if (match := pattern.match(text, at)) is None:
                raise _unknown(text, text[at], longest_first)
            found.append(ids[match.group()])
            at = match.end()
        return found

    def spell(tokens: Sequence[int], special: bool) -> str:
        marks = dict.fromkeys(bounds.eos, f"<{END}>") if special else {}
        inside = lambda i: pieces[i] if 0 <= i < len(pieces) else f"<{START}>" if special else ""
        return "".join(marks.get(i) or inside(i) for i in tokens)

    return _bounded(len(pieces), bounds, parse, spell)


def of_numbers(vocab: int, bounds: Bounds) -> Symbols:
    """Symbols as numbers with blanks between them, and `end` for the one that ends a string."""
    end = bounds.end

    def parse(text: str) -> list[int]:
        return [number(text, word) for word in text.split()]

    def number(text: str, word: str) -> int:
        if word == END and end is not None:
            return end
        if not re.fullmatch(r"[0-9]{1,9}", word) or int(word) >= vocab or int(word) == end:
            shown = [str(i) for i in range(vocab) if i != end]
            raise _unknown(text, word, shown + [END] * (end is not None))
        return int(word)

    def spell(tokens: Sequence[int], special: bool) -> str:
        last = len(tokens) - 1
        words = [
            START if i == vocab or (i == end and not at and last) else
            END if i == end else str(i)
            for at, i in enumerate(tokens)
        ]  # fmt: skip
        return " ".join(word for word in words if special or word != START)

    return _bounded(vocab, bounds, parse, spell)


def _bounded(
    vocab: int,
    bounds: Bounds,
    parse: Callable[[str], list[int]],
    spell: Callable[[Sequence[int], bool], str],
) -> Symbols:
    bos = vocab if bounds.end is None else bounds.end
    return Symbols(vocab, bos, bounds.eos, parse, spell, bounds)


def _unknown(text: str, word: str, known: Sequence[str]) -> UsageError:
    few = " ".join(known[:20]) + (" ..." if len(known) > 20 else "")
    problem = f"holds {word!r}, which is no symbol of this task."
    return UsageError("text", text, problem, f"It has: {few}")


def preceded(policy: Policy, start: int) -> Policy:
    """A policy with a law of the first token as one that reads `start` before every string: the
    first column of its tokens, which stands for what the policy itself needs no token for."""

    def trunk(params: Params, tokens: Array) -> Array:
        features = policy.trunk(params, tokens[:, 1:])
        return jnp.pad(features, [(0, 0), (1, 0)] + [(0, 0)] * (features.ndim - 2))

    def begin(params: Params, prompts: Sequences, horizon: int) -> Any:
        inside = Sequences(prompts.tokens[:, 1:], prompts.mask[:, 1:], prompts.weight)
        return policy.start(params, inside, horizon)

    def step(params: Params, cache: Any, token: Array) -> tuple[Any, Array]:
        # an end is read by a string that has ended alone
        return policy.step(params, cache, jnp.where(token == start, PAD, token))

    return policy._replace(trunk=trunk, start=begin, step=step, answers=None)
