"""The text benchmark of rows that stay on the host (`experiments.data.store`)."""

from __future__ import annotations

import glob
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import files, formats, store, tokenised
from experiments.data.on_host import OnHost, sequences
from experiments.data.reading import Reading
from experiments.data.store import Store
from experiments.data.tokenised import Tokenizer
from experiments.devices import memory
from fdiv import tokens as tk
from fdiv.benchmarks.text import BYTES, Drawn, Text
from fdiv.types import Model, TokenMDP, UsageError

HELD_OUT = 1 << 12  # held-out rows that lie on the devices, at most
IN_MEMORY = 16  # bytes that a byte of a file takes as rows in memory, about


def wanted(config: Text) -> bool:
    """Whether rows are to stay on the host: asked for, or of a source that memory does not
    hold."""
    if config.store is not None or config.path is None:
        return config.store == "host"
    if _on_disk(config.path) * IN_MEMORY <= memory.of_machine():
        return False  # as nearly always, without a look into the files
    try:
        sources = formats.sources(Path(config.path))
    except (UsageError, OSError):  # said where it is read
        return False
    if sources[0].kind not in files.IN_PIECES:
        return False
    return sum(source.length() for source in sources) * IN_MEMORY > memory.of_machine()


def _on_disk(path: Path) -> int:
    """Bytes of a file, or of all files of a folder or a pattern."""
    if path.is_dir():
        places = list(path.rglob("*"))
    else:
        places = [path] if path.exists() else map(Path, glob.glob(str(path), recursive=True))
    try:
        return sum(place.stat().st_size for place in places if place.is_file())
    except OSError:  # said where they are read
        return 0


def read(
    config: Text, tokenizer: Tokenizer | None, cache: Path, passing: Path | None = None
) -> Reading:
    """The rows of a config's source, written to `passing` instead of the cache where that is given
    and lacks them. Raises `UsageError` for one that cannot be kept so."""
    made = store.at(config, tokenizer, cache, passing)
    about = made.about
    told: tuple[str, ...] = ()
    if tokenizer is not None:
        ends = Counter({int(token): count for token, count in about["counts"]["ends"]})
        counts = tokenised.Counts(**about["counts"] | {"ends": ends})
        told = tuple(tokenised.notes(tokenizer, counts, about["chats"]))
    return Reading(
        listed_files(about["files"]),
        [],
        [(number, reason) for number, reason in about["bad"]],
        read=tuple(about["columns"]),
        unread=about["unread"],
        taken_off=about["taken_off"],
        vocabulary=BYTES if tokenizer is None else tokenizer.vocabulary,
        tokenizer="" if tokenizer is None else tokenizer.digest,
        told=told,
        store=made,
    )


def listed_files(names: list[str]) -> str:
    """What a source is called."""
    return names[0] if len(names) == 1 else f"{len(names):,} files"


def build(reading: Reading, config: Text, teacher: Model | None = None) -> TokenMDP:
    """The task of a reading in files. Held-out rows lie on the devices, the first `HELD_OUT` of
    them. Raises `UsageError` where no row is trained on, or none held out."""
    made, vocabulary = reading.store, reading.vocabulary
    assert isinstance(made, Store), "the rows are in memory"
    config = made.fitted(config)
    sides, cut = made.sides(config), config.cut
    for numbers, name in ((sides.train, "training"), (sides.held_out, "validation")):
        if not len(numbers):
            problem = f"leaves no {name} row of {len(made):,}."
            fix = "Change the share, or give more rows."
            raise UsageError("benchmark.validation", config.validation, problem, fix)
    demos = OnHost(made, sides.train, cut, vocabulary.end)
    few = OnHost(made, sides.held_out[:HELD_OUT], cut, vocabulary.end)
    held_out = sequences(jax.tree.map(jnp.asarray, few.read(np.arange(len(few)))))
    return TokenMDP(
        vocabulary.size,
        cut.horizon,
        vocabulary.eos,
        lambda key, n: tk.prompts_of(demos(key, n), cut.horizon),
        demos,
        Drawn(held_out),
        teacher,
        pieces=vocabulary.pieces,
    )
