"""Real text, byte by byte: prompts and completions become strings over 256 bytes and an EOS.

A prompt keeps its last `prompt_length` bytes, a completion its first `horizon`; one that is cut has
no EOS. The split is by a hash of the row, so a row stays on its side whatever else the file holds.
The expert is a teacher, where there is one. Rows may be comparisons (a second completion, rejected)
or labelled alone: what was preferred or liked is demonstrated."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from fdiv import divergences
from fdiv import tokens as tk
from fdiv.checks import at_least, between, positive
from fdiv.types import PAD, Model, Pairs, Regulariser, Sequences, TokenMDP, UsageError

Rows = TypeVar("Rows", Sequences, Pairs)
EOS = 256
VOCAB = 257


class Row(NamedTuple):
    prompt: bytes
    completion: bytes
    rejected: bytes | None = None  # the completion that was not preferred to this one
    liked: bool | None = None  # the label of one that was judged alone


@dataclasses.dataclass(frozen=True)
class Text:
    """A user's text, or the standard library's docstrings where no path is given."""

    path: Path | None = None
    """A .jsonl, .json, .parquet or plain text file; none: the docstrings of this Python's standard
    library."""
    prompt_field: str | None = None
    """Column of the prompts; none: as TRL names them (text, prompt/completion, messages)."""
    completion_field: str | None = None
    """Column of the completions."""
    prompt_length: int = 48
    """Bytes of a prompt that the policy sees: the last ones."""
    horizon: int = 64
    """Bytes of a completion that it learns and writes: the first ones, EOS included."""
    validation: float = 0.05
    """Share of rows held out, chosen by a hash of the row."""
    teacher_updates: int = 600
    """Updates of likelihood training that make the teacher, the known expert; kept and used
    again."""
    teacher_width: int = 128
    """Width of the teacher's transformer."""
    teacher_layers: int = 3
    """Its layers."""
    beta: float = 0.1
    """Comparisons: weight of the divergence from the reference, which is the common start."""
    divergence: str = "reverse_kl"
    """Comparisons: that divergence, D_f(reference||policy); reverse_kl is KL(policy||reference)."""

    def check(self) -> None:
        """Raise `UsageError` naming a field that is out of range."""
        at_least("benchmark.prompt_length", self.prompt_length, 0)
        at_least("benchmark.horizon", self.horizon, 1)
        between("benchmark.validation", self.validation, 0, 1)
        at_least("benchmark.teacher_updates", self.teacher_updates, 0)
        positive("benchmark.beta", self.beta)
        divergences.parse(self.divergence)

    def build(self, rows: list[Row], teacher: Model | None = None) -> TokenMDP:
        """The task from rows that a reader has found sound."""
        self.check()
        sides = split(rows, self.validation)
        shown = [[row for row in side if row.liked is not False] for side in sides]
        for side, name in zip(shown, ("training", "validation")):
            if not side:
                problem = f"leaves no {name} row of {len(rows)}."
                raise UsageError(
                    "benchmark.validation",
                    self.validation,
                    problem,
                    "Change the share, or give more rows.",
                )
        demos, held_out = (_drawn_from(self.encode(side)) for side in shown)
        prompts = lambda key, n: tk.prompts_of(demos(key, n), self.horizon)
        mdp = TokenMDP(VOCAB, self.horizon, EOS, prompts, demos, held_out, teacher)
        return mdp._replace(**self._judged(sides))

    def _judged(self, sides: tuple[list[Row], list[Row]]) -> dict:
        """What there is to learn from comparisons and labels: nothing, labels alone, or pairs that
        serve as labels too."""
        if not any(row.rejected is not None or row.liked is not None for row in sides[0]):
            return {}
        pairs = [[row for row in side if row.rejected is not None] for side in sides]
        labels = [
            [row for row in side if row.rejected is not None or row.liked is not None]
            for side in sides
        ]
        found = {
            "regulariser": Regulariser(self.divergence, self.beta),
            "labels": _drawn_from(self.compare(labels[0])),
        }
        found |= {"pairs": _drawn_from(self.compare(pairs[0]))} if pairs[0] else {}
        return found | ({"held_out_pairs": _drawn_from(self.compare(pairs[1]))} if pairs[1] else {})

    def compare(self, rows: list[Row]) -> Pairs:
        """Comparisons in numpy; a completion that was judged alone stands on its side, and opposite
        with weight 0."""
        chosen = self.encode(rows)
        rejected = self.encode(
            [row if row.rejected is None else Row(row.prompt, row.rejected) for row in rows]
        )
        weight = lambda other: np.array([row.liked is not other for row in rows], np.float32)
        return Pairs(chosen._replace(weight=weight(False)), rejected._replace(weight=weight(True)))

    def encode(self, rows: list[Row]) -> Sequences:
        """Rows as strings [N, prompt_length + horizon] in numpy."""
        width = self.prompt_length + self.horizon
        tokens = np.full((len(rows), width), PAD, np.int32)
        mask = np.zeros((len(rows), width), bool)
        for i, row in enumerate(rows):
            prompt = row.prompt[len(row.prompt) - min(len(row.prompt), self.prompt_length) :]
            actions = [*row.completion, EOS][: self.horizon]
            end = len(prompt) + len(actions)
            tokens[i, : len(prompt)] = list(prompt)
            tokens[i, len(prompt) : end] = actions
            mask[i, len(prompt) : end] = True
        return Sequences(tokens, mask, np.ones(len(rows), np.float32))


def split(rows: list[Row], validation: float) -> tuple[list[Row], list[Row]]:
    """Training and validation rows: a row is held out where its hash, as a number in [0, 1), is
    below the share."""

    def held(row: Row) -> bool:
        digest = hashlib.sha256(
            len(row.prompt).to_bytes(8, "big") + row.prompt + row.completion
        ).digest()
        return int.from_bytes(digest[:8], "big") / 2**64 < validation

    sides = [held(row) for row in rows]
    return [r for r, h in zip(rows, sides) if not h], [r for r, h in zip(rows, sides) if h]


def decode(tokens, mask) -> str:
    """Bytes of the marked tokens as text, up to EOS; what is no UTF-8 shows as a replacement
    mark."""
    kept = [int(t) for t, m in zip(np.asarray(tokens), np.asarray(mask)) if m and t != EOS]
    return bytes(kept).decode("utf-8", errors="replace")


def _drawn_from(rows: Rows) -> Callable[[jax.Array, int], Rows]:
    """Rows drawn with replacement: (key, n) -> [n, ...]."""
    rows = jax.tree.map(jnp.asarray, rows)
    size = len(jax.tree.leaves(rows)[0])
    return lambda key, n: jax.tree.map(lambda x: x[jax.random.randint(key, n, 0, size)], rows)
