"""What another program gives a model, to hold ours against: its logits on some tokens, whole or the
largest of each position.

A file of a large vocabulary keeps the `TOP` likeliest tokens of each position; the rest are one
event then, so a divergence of what is kept is at most that of the whole."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.models.libraries import library
from fdiv.types import UsageError

NAME = "golden.npz"  # in a model's folder
TOP = 64
LENGTH = 48  # tokens of a row


class Golden(NamedTuple):
    """Logits of what follows each token."""

    tokens: np.ndarray  # [B, T]
    values: np.ndarray  # logits [B, T, V], or log-probs of `kept` [B, T, TOP]
    kept: np.ndarray | None  # their tokens, the likeliest first; None: all
    by: str  # the program

    def of(self, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(the reference, ours) of logits [B, T, V], over all tokens or over the kept and the
        rest."""
        if self.kept is None:
            return self.values, own
        return with_rest(self.values), with_rest(picked(own, self.kept))


def log_softmax(x: np.ndarray) -> np.ndarray:
    """In float64."""
    x = np.asarray(x, np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def picked(logits: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Log-probs of these tokens alone."""
    return np.take_along_axis(log_softmax(logits), kept.astype(np.int64), axis=-1)


def with_rest(log_probs: np.ndarray) -> np.ndarray:
    """With the log-prob of all others as one more."""
    rest = np.maximum(1 - np.exp(np.asarray(log_probs, np.float64)).sum(-1, keepdims=True), 1e-12)
    return np.concatenate([log_probs, np.log(rest)], axis=-1)


def read(path: Path) -> Golden:
    """A stored one. Raises `UsageError` where it is none."""
    try:
        with np.load(path) as file:
            kept = file.get("kept")
            return Golden(file["tokens"], file["values"], kept, str(file["by"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        problem = f"holds no logits to compare with ({error})."
        raise UsageError("golden", str(path), problem, "Leave it out, or make it anew.") from error


def write(path: Path, tokens: np.ndarray, logits: np.ndarray, by: str, **more: np.ndarray) -> None:
    """Store logits [B, T, V]: the `TOP` largest of each position, or all where there are few; and
    `more` arrays beside them."""
    common: dict[str, Any] = {"tokens": tokens.astype(np.int32), "by": by, **more}
    if logits.shape[-1] <= 4 * TOP:
        np.savez_compressed(path, values=logits.astype(np.float32), **common)
        return
    kept = np.argsort(-logits, axis=-1)[..., :TOP].astype(np.uint32)
    values = picked(logits, kept).astype(np.float32)
    np.savez_compressed(path, values=values, kept=kept, **common)


def live(folder: Path, tokens: np.ndarray) -> tuple[np.ndarray, str]:
    """transformers' logits [B, T, V] in float32, by plain attention, and its name and version."""
    torch, transformers = library("torch"), library("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    )
    with torch.no_grad():
        logits = model(torch.as_tensor(tokens.astype(np.int64)), use_cache=False).logits
    return logits.float().numpy(), f"transformers {transformers.__version__}"


def tokens_of(folder: Path, vocab: int, rows: int = 3, length: int = LENGTH) -> np.ndarray:
    """[rows, length] to try a model on: varied strings where its tokenizer can be loaded, tokens at
    random where it cannot."""
    from experiments.models import varied, words

    if (folder / words.TOKENIZER).is_file():
        ids = words.at(folder).encode("\n".join(varied.strings()), special=False)
        # prose first, then scripts and characters at random
        starts = np.linspace(0, max(len(ids) - length, 0), rows).astype(int)
        if len(ids) >= length:
            return np.asarray([ids[i : i + length] for i in starts])
    return np.random.RandomState(0).randint(0, vocab, (rows, length))
