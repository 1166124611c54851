"""Rows that stay on the host: token ids in files that are mapped into memory, made once.

A source is read in pieces (each process reads its share of them), its rows become tokens, and what
is written is two files: `tokens`, the ids of all rows one after the other, and `index`, which says
where each row begins. Rows are whole there; what the policy sees of them is cut when they are read,
so that other lengths need no other files. The folder is named by a digest of the source's bytes, of
the tokenizer, and of what decides which columns are read.

Which rows are held out is decided by a hash of their prompts, a group at a time as in
`fdiv.benchmarks.text_rows.split`: rows of one conversation stay together, and a held-out row whose
prompt or string is trained on as well is on neither side."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.data import files, formats, tokenised, travel
from experiments.data.layouts import listed
from experiments.data.sources import Share
from experiments.data.tokenised import Tokenizer
from experiments.devices import memory, processes
from fdiv.benchmarks.text import BYTES, FITTED, MOST, STEP, Text
from fdiv.benchmarks.text_rows import Cut, Row
from fdiv.types import PAD, UsageError

VERSION = 2  # raise it when what is written changes
BLOCK = 1 << 16  # rows that are looked at together
FIELD = "benchmark.store"
NO_END = -1  # of a row that names no end of its own
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio, odd
INDEX = np.dtype(
    [("start", "<i8"), ("prompt", "<i4"), ("answer", "<i4"), ("end", "<i4"), ("talk", "<i8")]
)


class Sides(NamedTuple):
    """Rows of each side, by their number from 0."""

    train: np.ndarray
    held_out: np.ndarray
    left_out: int  # held-out rows that are trained on as well


@dataclasses.dataclass(frozen=True, eq=False)
class Store:
    """The rows of a source, on disk."""

    folder: Path
    about: dict[str, Any]  # what was written beside them

    @functools.cached_property
    def index(self) -> np.ndarray:
        """Where each row begins, how long its prompt and its answer are, [N] of `INDEX`."""
        return _mapped(self.folder / "index", INDEX)

    @functools.cached_property
    def tokens(self) -> np.ndarray:
        """The ids of all rows: prompt, answer, prompt, answer ..."""
        return _mapped(self.folder / "tokens", np.dtype(self.about["type"]))

    def __len__(self) -> int:
        return len(self.index)

    def row(self, number: int) -> Row:
        """One row, whole."""
        at = self.index[number]
        ids = self.tokens[at["start"] : at["start"] + at["prompt"] + at["answer"]]
        end = None if at["end"] == NO_END else int(at["end"])
        symbols = tuple(map(int, ids))
        if self.about["bytes"]:
            return Row(bytes(symbols[: at["prompt"]]), bytes(symbols[at["prompt"] :]), end=end)
        return Row(symbols[: at["prompt"]], symbols[at["prompt"] :], end=end)

    def strings(self, numbers: np.ndarray, cut: Cut, end: int) -> tuple[np.ndarray, np.ndarray]:
        """(tokens [..., T], column of each string's first action [...]) of rows [...] as the policy
        sees them; `end` is the token that ends those that name no other."""
        shape, at = np.shape(numbers), self.index[np.ravel(numbers)]
        prompt, answer = (at[name].astype(np.int64) for name in ("prompt", "answer"))
        seen, kept = np.minimum(prompt, cut.prompt_length), np.minimum(answer, cut.horizon)
        column = np.arange(sum(cut))[None]
        place = (at["start"] + prompt - seen)[:, None] + column
        inside = column < (seen + kept)[:, None]
        made = np.full((len(at), sum(cut)), PAD, np.int32)
        made[inside] = self.tokens[place[inside]]
        whole = np.flatnonzero(answer < cut.horizon)
        ends = np.where(at["end"] == NO_END, end, at["end"])
        made[whole, (seen + kept)[whole]] = ends[whole]
        return made.reshape(*shape, sum(cut)), seen.astype(np.int32).reshape(shape)

    def lengths(self, numbers: np.ndarray, cut: Cut) -> np.ndarray:
        """Columns of each of these strings."""
        at = self.index[numbers]
        ended = at["answer"] < cut.horizon
        seen = np.minimum(at["prompt"], cut.prompt_length)
        return seen + np.minimum(at["answer"], cut.horizon) + ended

    def fitted(self, config: Text) -> Text:
        """The config with both lengths, as `Text.fitted` of rows in memory."""
        given = {"prompt_length": self.index["prompt"], "horizon": self.index["answer"] + 1}
        fits = {}
        for field, sizes in given.items():
            rank = max(0, int(np.ceil(FITTED * len(sizes))) - 1)
            size = int(np.partition(sizes, rank)[rank])
            fits[field] = min(STEP * -(-size // STEP), MOST[field])
        own: dict[str, Any] = {k: v for k, v in fits.items() if getattr(config, k) is None}
        return dataclasses.replace(config, **own)

    @property
    def name(self) -> str:
        """A digest of what was read, and how."""
        return self.folder.name

    def trained_lengths(self, config: Text) -> np.ndarray:
        """Columns of each string that is trained on, of a fitted config."""
        return self.lengths(self.sides(config).train, config.cut)

    def notes(self, config: Text) -> list[str]:
        """What a reader of the results should know of the rows."""
        config = self.fitted(config)
        cut, sides, index = config.cut, self.sides(config), self.index
        share = lambda part: f"{int(part.sum()):,}"
        size = self.index.nbytes + self.tokens.nbytes
        unit = "bytes" if self.about["bytes"] else "tokens"
        whole = index["answer"] < cut.horizon
        taken = self.about["taken_off"]
        off = f" In {taken:,} rows the answers began with their prompt: it was taken off."
        return [
            f"{len(self):,} rows from {listed(self.about['files'], 4)} stay on the host, as "
            f"{self.about['tokens']:,} {unit} in {self.folder} ({memory.spelled(size)}); batches "
            f"are read ahead.{off if taken else ''}",
            f"Prompts keep {cut.prompt_length:,} {unit} and answers {cut.horizon:,}, their end "
            f"among them: {share(index['prompt'] > cut.prompt_length)} prompts and "
            f"{share(~whole)} answers are cut; EOS is kept in {share(whole)} rows.",
            f"{len(sides.train):,} rows are trained on and {len(sides.held_out):,} held out, by "
            f"a hash of their prompts; {sides.left_out:,} that would be on both sides are on "
            "neither.",
        ]

    def sides(self, config: Text) -> Sides:
        """Which rows are held out, of a fitted config."""
        return _sides(self, config.cut, config.validation)

    def blocks(self) -> Iterator[np.ndarray]:
        """Numbers of neighbouring rows."""
        for begin in range(0, len(self), BLOCK):
            yield np.arange(begin, min(begin + BLOCK, len(self)))


def _mapped(path: Path, kind: np.dtype) -> np.ndarray:
    return np.memmap(path, kind, mode="r") if path.stat().st_size else np.zeros(0, kind)


# --- the split ------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=8)
def _sides(store: Store, cut: Cut, validation: float) -> Sides:
    hashes = [_hashes(store, block, cut) for block in store.blocks()]
    prompts, strings = map(np.concatenate, zip(*hashes))
    prompted = store.index["prompt"] > 0
    alone = len(np.unique(prompts)) == 1  # one prompt tells no row from another
    group = np.where(prompted & ~alone, prompts, strings)
    talk = np.asarray(store.index["talk"])
    if (talk >= 0).any():  # the least of a conversation's decides for all of its rows
        least = np.full(int(talk.max()) + 1, np.iinfo(np.uint64).max, np.uint64)
        inside = talk >= 0
        np.minimum.at(least, talk[inside], group[inside])
        group = np.where(inside, least[np.maximum(talk, 0)], group)
    held = group < np.uint64(validation * 2.0**64)
    again = held & np.isin(strings, strings[~held])
    if not alone:
        again |= held & prompted & np.isin(prompts, prompts[~held & prompted])
    return Sides(np.flatnonzero(~held), np.flatnonzero(held & ~again), int(again.sum()))


def _hashes(store: Store, numbers: np.ndarray, cut: Cut) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of prompts and of whole strings as the policy sees them, [n] uint64 each."""
    tokens, first = store.strings(numbers, cut, end=0)
    column = np.arange(tokens.shape[1])[None]
    values = (tokens + 2).astype(np.uint64)  # an end that a row does not name is token 0
    # a prompt's columns are counted from its end, so that what is cut off before does not matter
    place = np.where(column < first[:, None], first[:, None] - column, column - first[:, None])
    behind = np.where(column < first[:, None], np.uint64(0), np.uint64(1 << 32))
    mixed = _mixed(values * MULTIPLIER + _mixed(place.astype(np.uint64) + behind))
    mixed = np.where(tokens == PAD, np.uint64(0), mixed)
    of_prompt = np.where(column < first[:, None], mixed, np.uint64(0)).sum(1, dtype=np.uint64)
    return _mixed(of_prompt), _mixed(mixed.sum(1, dtype=np.uint64))


def _mixed(x: np.ndarray) -> np.ndarray:
    """Each bit of the input changes half of the output's. Steele, Lea & Flood 2014 (SplitMix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


# --- making it ------------------------------------------------------------------------------------


def at(
    config: Text, tokenizer: Tokenizer | None, cache: Path, passing: Path | None = None
) -> Store:
    """The store of a config's source, made now where it is not there yet: in the cache, or in
    `passing`. Raises `UsageError`, in
    every process, for a source that cannot be read or kept so."""
    place = cache / "rows" / _digest(config, tokenizer)
    # each process asks for itself, and all make it where one lacks it
    if processes.any_of(not (place / "about.json").is_file()):
        place = place if passing is None else passing / "rows" / place.name
        _make(config, tokenizer, place)
    return Store(place, json.loads((place / "about.json").read_text(encoding="utf-8")))


def _digest(config: Text, tokenizer: Tokenizer | None) -> str:
    """A name for what is read: bytes, columns, tokenizer."""
    if config.path is None:
        fix = "Give --benchmark.path, or drop it."
        raise UsageError(FIELD, "host", "keeps a file's rows, and there is no file.", fix)
    whole = hashlib.sha256()
    with formats.readable(config.path):
        for source in formats.sources(Path(config.path)):
            with source.open() as opened:
                whole.update(f"{source.kind} {source.length()} ".encode())
                while content := opened.read(1 << 24):
                    whole.update(content)
    columns = [config.prompt_field, config.completion_field, config.turns == "last"]
    columns += [x for x in (config.rejected_field, config.label_field) if x]  # which are refused
    content = [VERSION, whole.hexdigest(), tokenizer and tokenizer.digest, columns]
    return tokenised.digest_of(content)[:24]


def _make(config: Text, tokenizer: Tokenizer | None, place: Path) -> None:
    """Each process writes the pieces that it reads; the first one puts them together."""
    # of this run, by its first process's number and clock: others may make the same one meanwhile
    run = f"{processes.first(os.getpid())}-{processes.first(int(time.time()) % 10**9)}"
    drafts = place.with_name(f"draft-{place.name}-{run}")
    drafts.mkdir(parents=True, exist_ok=True)
    share = Share(jax.process_index(), jax.process_count())
    own, error = {}, None
    try:
        for part in files.stream(config, share, tokenizer):
            own[part.number] = _written(drafts, part, config, tokenizer)
    except Exception as caught:  # said in every process: the others wait for it
        error = caught
    told = {"parts": own, "error": travel.error_as_json(error)}
    everyone = processes.exchanged(told, lambda x: x, lambda x: x)
    for each in everyone:
        if (raised := travel.error_of_json(each["error"])) is not None:
            raise raised if error is None else error
    parts = {int(k): v for each in everyone for k, v in each["parts"].items()}
    if jax.process_index() == 0:
        _put_together(drafts, [parts[i] for i in sorted(parts)], config, tokenizer, place)
    processes.meet("rows")


def _written(
    drafts: Path, part: files.Streamed, config: Text, tokenizer: Tokenizer | None
) -> dict[str, Any]:
    """A piece's rows as files of its own, and what is to be known of it."""
    collected = files.collect([(part.file, part.piece)], False, tokenizer)
    for row in collected.rows:
        if row.rejected is not None or row.liked is not None:
            kind = "comparisons" if row.rejected is not None else "labels"
            problem = f"keeps demonstrations, and {part.file} has {kind}."
            raise UsageError(FIELD, "host", problem, "Drop it: such rows are read into memory.")
    index = np.zeros(len(collected.rows), INDEX)
    kind = _kind(tokenizer)
    flat: list[np.ndarray] = []
    start = 0
    for i, row in enumerate(collected.rows):
        end = NO_END if row.end is None else row.end
        talk = -1 if row.conversation is None else row.conversation
        index[i] = (start, len(row.prompt), len(row.completion), end, talk)
        flat += [np.array(list(side), kind) for side in (row.prompt, row.completion)]
        start += len(row.prompt) + len(row.completion)
    names = {name: f"{part.number:07}.{name}" for name in ("tokens", "index")}
    for name, array in (("tokens", np.concatenate([*flat, np.zeros(0, kind)])), ("index", index)):
        draft = drafts / f"{os.getpid()}-{names[name]}"
        array.tofile(draft)
        os.replace(draft, drafts / names[name])
    read, unread = files.columns([part.piece])
    return {
        "names": names,
        "file": part.file,
        "records": part.piece.numbers,
        "tokens": start,
        "bad": collected.bad,
        "counts": dataclasses.asdict(collected.counts)
        | {"ends": list(collected.counts.ends.items())},
        "chats": collected.chats,
        "taken_off": collected.taken_off,
        "parting": collected.parting._asdict(),
        "columns": read,
        "unread": unread,
    }


def _kind(tokenizer: Tokenizer | None) -> np.dtype:
    size = BYTES.size if tokenizer is None else tokenizer.vocabulary.size
    return np.dtype("<u2" if size <= 1 << 16 else "<u4")


def _put_together(
    drafts: Path,
    parts: Sequence[dict[str, Any]],
    config: Text,
    tokenizer: Tokenizer | None,
    place: Path,
) -> None:
    """All pieces as one store, renamed into its place when it is whole."""
    whole = drafts / "whole"
    whole.mkdir(parents=True, exist_ok=True)
    bad: list[tuple[int, str]] = []
    tokens = records = rows = 0
    several = len({part["file"] for part in parts}) > 1
    starts: dict[str, int] = {}
    with (whole / "tokens").open("wb") as flat, (whole / "index").open("wb") as indices:
        for part in parts:
            with (drafts / part["names"]["tokens"]).open("rb") as file:
                shutil.copyfileobj(file, flat, 1 << 24)
            index = np.fromfile(drafts / part["names"]["index"], INDEX)
            index["start"] += tokens
            index["talk"] = np.where(index["talk"] < 0, -1, index["talk"] + records)
            index.tofile(indices)
            own = records - starts.setdefault(part["file"], records)  # of its file, before it
            for number, reason in part["bad"]:
                where = f"{part['file']}, its row {own + number}: " if several else ""
                bad.append((records + number, where + reason))
            tokens, records = tokens + part["tokens"], records + part["records"]
            rows += len(index)
    _refuse_apart(drafts, parts)
    if not rows:
        shutil.rmtree(drafts)
        reasons = "; ".join(f"row {number}: {reason}" for number, reason in bad[:5])
        problem = f"has no good row ({reasons})." if reasons else "has no row."
        raise formats.refuse(str(config.path), problem, "Mend the file, or name its columns.")
    about = {
        "rows": rows,
        "tokens": tokens,
        "records": records,
        "type": _kind(tokenizer).str,
        "bytes": tokenizer is None,
        "bad": bad,
        **_summed(parts),
    }
    (whole / "about.json").write_text(json.dumps(about), encoding="utf-8")
    try:
        whole.rename(place)
    except OSError:
        if not (place / "about.json").is_file():  # else another run was faster
            raise
    shutil.rmtree(drafts, ignore_errors=True)


def _refuse_apart(drafts: Path, parts: Sequence[dict[str, Any]]) -> None:
    """Raise `UsageError` where a prompt is taken off the middle of words in one piece and would not
    be, had all rows been looked at together."""
    parting = [part["parting"] for part in parts]
    if any(one["taken"] for one in parting) and not all(one["every"] for one in parting):
        shutil.rmtree(drafts)
        problem = (
            "keeps rows that are read piece by piece, and whether these answers begin with their "
            "prompts takes all of them to tell."
        )
        fix = "Drop it: the rows are read into memory then. Or take the prompts off the answers."
        raise UsageError(FIELD, "host", problem, fix)


def _summed(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What all pieces together were."""
    counts = dict.fromkeys(("apart", "blank", "inner", "begun", "special"), 0)
    first, records = None, 0  # the first row with special tokens, and records before a part
    ends: dict[int, int] = {}
    unread: dict[str, int] = {}
    for part in parts:
        for name in counts:
            counts[name] += part["counts"][name]
        if first is None and part["counts"]["first"] is not None:
            number, token = part["counts"]["first"]
            first = (records + number, token)
        records += part["records"]
        for token, count in part["counts"]["ends"]:
            ends[token] = ends.get(token, 0) + count
        for name, count in part["unread"].items():
            unread[name] = unread.get(name, 0) + count
    return {
        "counts": counts | {"ends": list(ends.items()), "first": first},
        "chats": sum(part["chats"] for part in parts),
        "taken_off": sum(part["taken_off"] for part in parts),
        "columns": list(dict.fromkeys(name for part in parts for name in part["columns"])),
        "unread": unread,
        "files": list(dict.fromkeys(part["file"] for part in parts)),
    }
