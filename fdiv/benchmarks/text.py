"""Real text, byte by byte: prompts and completions become strings over 256 bytes and an EOS.

A prompt keeps its last `prompt_length` bytes, a completion its first `horizon`; one that is cut has no EOS. The split is by
a hash of the row, so a row stays on its side whatever else the file holds. The expert is a teacher, where there is one.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fdiv import tokens as tk
from fdiv.checks import at_least, between
from fdiv.types import PAD, Model, Sequences, TokenMDP, UsageError

EOS = 256
VOCAB = 257


class Row(NamedTuple):
    prompt: bytes
    completion: bytes


@dataclasses.dataclass(frozen=True)
class Text:
    """A user's text, or the standard library's docstrings where no path is given."""

    path: Path | None = None
    """A .jsonl, .json, .parquet or plain text file; none: the docstrings of this Python's standard library."""
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
    """Updates of likelihood training that make the teacher, the known expert; kept and used again."""
    teacher_width: int = 128
    """Width of the teacher's transformer."""
    teacher_layers: int = 3
    """Its layers."""

    def check(self) -> None:
        """Raise `UsageError` naming a field that is out of range."""
        at_least("benchmark.prompt_length", self.prompt_length, 0)
        at_least("benchmark.horizon", self.horizon, 1)
        between("benchmark.validation", self.validation, 0, 1)
        at_least("benchmark.teacher_updates", self.teacher_updates, 0)

    def build(self, rows: list[Row], teacher: Model | None = None) -> TokenMDP:
        """The task from rows that a reader has found sound."""
        self.check()
        train, held = split(rows, self.validation)
        for side, name in ((train, "training"), (held, "validation")):
            if not side:
                problem = f"leaves no {name} row of {len(rows)}."
                raise UsageError("benchmark.validation", self.validation, problem, "Change the share, or give more rows.")
        train_rows, held_rows = self.encode(train), self.encode(held)
        demos, held_out = _drawn_from(train_rows), _drawn_from(held_rows)
        prompts = lambda key, n: tk.prompts_of(demos(key, n), self.horizon)
        return TokenMDP(VOCAB, self.horizon, EOS, prompts, demos, held_out, teacher)

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
    """Training and validation rows: a row is held out where its hash, as a number in [0, 1), is below the share."""

    def held(row: Row) -> bool:
        digest = hashlib.sha256(len(row.prompt).to_bytes(8, "big") + row.prompt + row.completion).digest()
        return int.from_bytes(digest[:8], "big") / 2**64 < validation

    sides = [held(row) for row in rows]
    return [r for r, h in zip(rows, sides) if not h], [r for r, h in zip(rows, sides) if h]


def decode(tokens, mask) -> str:
    """Bytes of the marked tokens as text, up to EOS; what is no UTF-8 shows as a replacement mark."""
    kept = [int(t) for t, m in zip(np.asarray(tokens), np.asarray(mask)) if m and t != EOS]
    return bytes(kept).decode("utf-8", errors="replace")


def _drawn_from(rows: Sequences) -> Callable[[jax.Array, int], Sequences]:
    """Rows drawn with replacement: (key, n) -> [n, T]."""
    rows = jax.tree.map(jnp.asarray, rows)
    return lambda key, n: jax.tree.map(lambda x: x[jax.random.randint(key, n, 0, len(rows.weight))], rows)
