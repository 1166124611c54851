"""What a source held, and what a reader of the results should know of it: what was read, what the
cut makes of it, which rows are held out; and why a method has nothing to learn from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from experiments.data import formats
from experiments.data.layouts import listed
from fdiv.benchmarks import text_rows
from fdiv.benchmarks.text import BYTES, FITTED, MOST, Text, Vocabulary
from fdiv.benchmarks.text_rows import Cut, Row, Split, Symbols, demonstrated
from fdiv.types import Model, TokenMDP, UsageError

SHOWN = 5  # bad rows quoted in a message; all of them go to the run's folder
NAMED = 8  # rows named by number in a note
LEARNS = {"pairs": "comparisons", "labels": "completions that are liked and ones that are not"}
SIDES = {"prompt": "their prompts as the policy sees them", "answer": "their strings after the cut"}


class InFiles(Protocol):
    """Rows that stay on the host: `experiments.data.store.Store`."""

    def __len__(self) -> int: ...

    @property
    def name(self) -> str:
        """A digest of what was read, and how."""
        ...

    def fitted(self, config: Text) -> Text:
        """The config with both lengths."""
        ...

    def trained_lengths(self, config: Text) -> np.ndarray:
        """Columns of each string that is trained on, of a fitted config."""
        ...

    def notes(self, config: Text) -> list[str]:
        """What a reader of the results should know of the rows."""
        ...


class Reading(NamedTuple):
    """What a source held."""

    source: str
    rows: list[Row]
    bad: list[tuple[int, str]]  # row number from 1, reason
    kind: str = ""  # of its files
    numbers: Sequence[int] = ()  # each row's number in the source, from 1
    read: tuple[str, ...] = ()  # columns
    unread: Mapping[str, int] = {}  # columns and fields of messages -> records that have them
    taken_off: int = 0  # rows whose answers began with their prompt
    fitted: tuple[str, ...] = ()  # lengths that no flag gave: the rows decide them
    vocabulary: Vocabulary = BYTES  # what rows are made of
    tokenizer: str = ""  # the digest of the one that made them
    told: tuple[str, ...] = ()  # what is to be known of how
    chats: int = 0  # how many rows were conversations
    store: InFiles | None = None  # the rows, where they are in files and not in `rows`
    extra: tuple[str, ...] = ()  # columns that a user's reward reads, as `Row.extra` has them

    def fitted_to(self, config: Text) -> Text:
        """The config with the lengths that its rows decide."""
        return config.fitted(self.rows) if self.store is None else self.store.fitted(config)

    def demonstrations(self, config: Text) -> int:
        """How many strings are trained on, of a fitted config."""
        return len(self.trained_lengths(config))

    def trained_lengths(self, config: Text) -> np.ndarray:
        """Columns of each string that is trained on, of a fitted config."""
        if self.store is not None:
            return self.store.trained_lengths(config)
        cut, rows = config.cut, self.rows
        train = (rows[i] for i in config.split(rows).train)
        strings = map(cut.string, filter(demonstrated, train))
        return np.array([len(prompt) + len(answer) + end for prompt, answer, end in strings])

    def digest(self) -> str:
        """A hash of the good rows, in order, and of the tokenizer that read them."""
        if self.store is not None:
            return self.store.name
        state = hashlib.sha256(self.tokenizer.encode())
        for row in self.rows:
            prompt, answer = _raw(row.prompt), _raw(row.completion)
            state.update(len(row.prompt).to_bytes(8, "big") + prompt + b"\0" + answer)
            state.update(b"" if row.rejected is None else b"\0" + _raw(row.rejected))
            state.update(b"" if row.liked is None else bytes([1, row.liked]))
            state.update(b"" if row.end is None else b"\0" + _raw((row.end,)))
            state.update(b"" if not row.extra else b"\0" + json.dumps(row.extra).encode())
        return state.hexdigest()

    def notes(self, config: Text) -> list[str]:
        """What a reader of the results should know of the data."""
        return notes(self, config)

    def bad_rows(self) -> str:
        """How many rows were bad, and the first of them with their reasons; nothing if none."""
        if not self.bad:
            return ""
        quoted = "; ".join(f"row {number}: {reason}" for number, reason in self.bad[:SHOWN])
        more = f"; and {len(self.bad) - SHOWN:,} more" if len(self.bad) > SHOWN else ""
        return f"{len(self.bad):,} rows were bad and left out: {quoted}{more}."


def _raw(symbols: Symbols) -> bytes:
    return symbols if isinstance(symbols, bytes) else np.asarray(symbols, "<u4").tobytes()


def notes(reading: Reading, config: Text) -> list[str]:
    """A sentence or two for each thing that is worth knowing."""
    if reading.store is not None:
        said = [_columns(reading), *reading.told, *reading.store.notes(config), reading.bad_rows()]
        return [note for note in said if note]
    config = config.fitted(reading.rows)
    division = config.split(reading.rows)
    said = [
        _source(reading),
        _columns(reading),
        *reading.told,
        _lengths(reading, config),
        _ends(reading, config),
        _sides(reading),
        _taken_off(reading),
        _unasked(reading),
        _equal(reading, config.cut),
        _repeated(reading, config.cut),
        _split(reading.rows, division),
        reading.bad_rows(),
    ]
    return [note for note in said if note]


def _source(reading: Reading) -> str:
    kind = f" ({reading.kind})" if reading.kind in formats.KINDS else ""
    records = len(set(reading.numbers))
    talks = any(row.conversation is not None for row in reading.rows)
    each = f", one for each answer in {records:,} conversations" if talks else ""
    return f"{len(reading.rows):,} rows from {reading.source}{kind}{each}."


def _columns(reading: Reading) -> str:
    if not reading.read:
        return ""
    said = f"Columns read: {listed(reading.read)}"
    others = [f"{listed([name])} ({count:,})" for name, count in reading.unread.items()]
    if not others:
        return f"{said}; there are no others."
    more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
    return f"{said}. NOT read (rows that have them): {', '.join(others[:NAMED])}{more}."


def _lengths(reading: Reading, config: Text) -> str:
    """Which lengths the file decided, and what they cut."""
    cut, rows, unit = config.cut, reading.rows, reading.vocabulary.unit
    if any(row.stretches for row in rows):
        size, context = cut.horizon, cut.prompt_length
        return f"Rows are blocks of {size} {unit} behind {context} of context."
    said = ""
    if reading.fitted and config.path is not None:
        chosen = [
            f"--benchmark.{field.replace('_', '-')} {length}"
            + (" (no more is fitted)" if length == MOST[field] else "")
            for field in reading.fitted
            if (length := getattr(config, field)) is not None
        ]
        said = f"Lengths that no flag gives fit {FITTED:.0%} of the rows: {' '.join(chosen)}. "
    long = sum(len(row.completion) >= cut.horizon for row in rows)
    short = sum(len(row.prompt) > cut.prompt_length for row in rows)
    compared = [row for row in rows if row.rejected is not None]
    other = sum(len(row.rejected or b"") >= cut.horizon for row in compared)
    if not (long or short or other):
        return f"{said}Nothing is cut."
    also = f" (of the rejected {_share(other, len(compared))})" if compared else ""
    return (
        f"{said}{_share(long, len(rows))} of completions{also} are longer than "
        f"{cut.horizon - 1} {unit} and are cut; {_share(short, len(rows))} of prompts keep only "
        f"their last {cut.prompt_length} {unit}{_enough(rows, short, unit)}."
    )


def _enough(rows: Sequence[Row], short: int, unit: str) -> str:
    """Which length keeps all prompts whole, whose beginning may be that of a chat template."""
    if not short or unit == "bytes":
        return ""
    longest = max(len(row.prompt) for row in rows)
    return f" (--benchmark.prompt-length {longest} keeps all of them whole)"


def _ends(reading: Reading, config: Text) -> str:
    """In how many rows the end is learned."""
    shown = [row for row in reading.rows if demonstrated(row)]
    if any(row.stretches for row in reading.rows):
        return "Plain text has no ends: EOS is not learned."
    ended = sum(len(row.completion) < config.cut.horizon for row in shown)
    said = f"EOS is learned in {ended:,} of {len(shown):,} rows ({_share(ended, len(shown))})"
    other = [row for row in shown if row.rejected is not None]
    if other:
        whole = sum(len(row.rejected or b"") < config.cut.horizon for row in other)
        said += f", and ends {whole:,} of the rejected"
    if ended >= FITTED * len(shown):
        return f"{said}."
    lengths = sorted(len(row.completion) + 1 for row in shown)
    enough = lengths[min(len(lengths) - 1, int(FITTED * len(lengths)))]
    return f"{said}: --benchmark.horizon {enough} would teach it in {FITTED:.0%}."


def kept(reading: Reading, config: Text) -> str:
    """How many rows are whole, how many are cut, and in how many EOS is kept."""
    rows, cut = reading.rows, config.fitted(reading.rows).cut
    sides = [[row.completion] + ([] if row.rejected is None else [row.rejected]) for row in rows]
    long = [any(not cut.answer(side)[1] for side in own) for own in sides]
    short = [len(row.prompt) > cut.prompt_length for row in rows]
    whole = sum(not (a or b) for a, b in zip(long, short))
    return (
        f"Of {len(rows):,} rows {whole:,} are whole, {sum(short):,} have their prompt cut and "
        f"{sum(long):,} an answer; EOS is kept in {len(rows) - sum(long):,}."
    )


def _sides(reading: Reading) -> str:
    """What is judged."""
    compared = sum(row.rejected is not None for row in reading.rows)
    labels = [row.liked for row in reading.rows if row.liked is not None]
    if compared:
        return f"{compared:,} comparisons; what was preferred is demonstrated."
    if labels:
        liked = sum(labels)
        return f"Labels: {liked:,} liked, which are demonstrated, and {len(labels) - liked:,} not."
    return ""


def _taken_off(reading: Reading) -> str:
    if not reading.taken_off:
        return ""
    return f"In {reading.taken_off:,} rows the answers began with their prompt: it was taken off."


def _unasked(reading: Reading) -> str:
    """How many rows have an empty prompt where others have one."""
    rows = [row for row in reading.rows if not row.stretches]
    without = [i for i, row in enumerate(reading.rows) if not (row.prompt or row.stretches)]
    if not without or len(without) == len(rows):
        return ""
    which = _numbered(reading, without)
    return (
        f"{len(without):,} of {len(rows):,} rows have an empty prompt ({which}): their answers are "
        "learned as if nothing had been asked."
    )


def _equal(reading: Reading, cut: Cut) -> str:
    equal = equal_pairs(reading.rows, cut)
    if not equal:
        return ""
    compared = sum(row.rejected is not None for row in reading.rows)
    return (
        f"{len(equal):,} of {compared:,} comparisons are equal after the cut "
        f"({_numbered(reading, equal)}): preference losses leave them out; a longer "
        "--benchmark.horizon tells them apart."
    )


def _repeated(reading: Reading, cut: Cut) -> str:
    said = []
    if again := text_rows.repeated(reading.rows, cut):
        said.append(f"{again:,} rows are the same as an earlier one after the cut.")
    kinds: dict[object, set[bool]] = {}
    for row in reading.rows:
        if row.liked is not None:
            kinds.setdefault(cut.string(row), set()).add(row.liked)
    if both := sum(len(kind) > 1 for kind in kinds.values()):
        said.append(f"{both:,} strings are liked in one row and not in another.")
    return " ".join(said)


def _split(rows: Sequence[Row], division: Split) -> str:
    train, held = len(division.train), len(division.held_out)
    said = f"{train:,} rows are trained on and {held:,} held out"
    if division.by == "stretch":
        said += f", by stretches of the text; {len(division.left_out):,} where both meet, or that "
        return f"{said}occur on both sides, are on neither."
    said += f", by {SIDES[division.by]}"
    if division.nearest:
        said += " (none fell into the share of --benchmark.validation: the nearest was taken)"
    return f"{said}."


def equal_pairs(rows: Sequence[Row], cut: Cut) -> list[int]:
    """Comparisons whose answers are one and the same string to the policy, by their place."""
    return [i for i, row in enumerate(rows) if cut.equal(row)]


def overlaps(rows: Sequence[Row], division: Split, cut: Cut) -> tuple[int, int]:
    """(held-out rows with a string that is trained on, held-out rows with a prompt that is)."""
    trained = {string for i in division.train for string in cut.strings(rows[i])}
    prompts = {prompt for i in division.train if (prompt := cut.prompt(rows[i]))}
    held = [rows[i] for i in division.held_out]
    return (
        sum(not trained.isdisjoint(cut.strings(row)) for row in held),
        sum(cut.prompt(row) in prompts for row in held),
    )


def _numbered(reading: Reading, places: Sequence[int]) -> str:
    numbers = [f"{reading.numbers[i] if reading.numbers else i + 1:,}" for i in places[:NAMED]]
    more = f" and {len(places) - NAMED:,} more" if len(places) > NAMED else ""
    return f"row{'s'[: len(places) > 1]} {', '.join(numbers)}{more}"


def _share(part: int, whole: int) -> str:
    """A percentage that is 0 or 100 only where it is all."""
    percent = 100 * part / max(1, whole)
    if 0 < percent < 1:
        return "less than 1%"
    return f"{min(99, round(percent)) if part < whole else 100}%"


# --- what cannot be learned -----------------------------------------------------------------------


def build(reading: Reading, config: Text, teacher: Model | None = None) -> TokenMDP:
    """The task of a reading. Where its rows do not make one, the `UsageError` begins with the rows
    that were bad."""
    try:
        return config.build(reading.rows, teacher, reading.vocabulary)
    except UsageError as error:
        raise _with_bad_rows(reading, config, error.under("benchmark")) from error


def lacking(reading: Reading, config: Text, reads: str) -> tuple[str, str] | None:
    """Why there is nothing to learn from for a method that reads demos, pairs or labels, and what
    to do; None where there is something."""
    if reading.store is not None and reads != "demos":
        fix = "Use a method that learns from demonstrations, or drop --benchmark.store host."
        return f"rows on the host are demonstrations: there are no {reads}.", fix
    unit = reading.vocabulary.unit
    reasons = {"pairs": _no_pairs, "labels": _no_labels}
    if reads not in reasons:
        return None
    config = config.fitted(reading.rows)
    train = [reading.rows[i] for i in config.split(reading.rows).train]
    return reasons[reads](reading.rows, train, config.cut, unit)


def suits(reading: Reading, config: Text, methods: Mapping[str, str]) -> None:
    """Raise `UsageError` for a method (name -> demos, pairs or labels) that has nothing to learn
    from these rows, with the reason."""
    why = {reads: lacking(reading, config, reads) for reads in set(methods.values())}
    for name, reads in methods.items():
        if (reason := why[reads]) is not None:
            problem, fix = reason
            error = UsageError("methods", name, f"learns from {LEARNS[reads]}, and {problem}", fix)
            raise _with_bad_rows(reading, config, error)


def _with_bad_rows(reading: Reading, config: Text, error: UsageError) -> UsageError:
    if not reading.bad:
        return error
    rest = "" if error.field == "benchmark.path" else f"{error.field} = {error.value!r} "
    problem = f"{reading.bad_rows()} With the rest, {rest}{error.problem}"
    return UsageError("benchmark.path", str(config.path), problem, error.fix)


def _no_pairs(
    rows: Sequence[Row], train: Sequence[Row], cut: Cut, unit: str
) -> tuple[str, str] | None:
    """Why there is no comparison to learn from, and what to do."""
    compared = [row for row in train if row.rejected is not None]
    if any(not cut.equal(row) for row in compared):
        return None
    if compared:
        most = max(len(row.completion) for row in compared)
        problem = f"all {len(compared):,} are equal after the cut at {cut.horizon:,} {unit}."
        return (
            problem,
            f"Keep more of them, such as --benchmark.horizon {max(most, 2 * cut.horizon)}.",
        )
    if any(row.rejected is not None for row in rows):
        return "all of them are held out.", "Give more rows."
    fix = "Give columns chosen and rejected, or use a method that learns from demonstrations."
    return "there are no pairs to learn from here.", fix


def _no_labels(
    rows: Sequence[Row], train: Sequence[Row], cut: Cut, unit: str
) -> tuple[str, str] | None:
    """Why there is nothing to learn from labels, and what to do."""
    if _no_pairs(rows, train, cut, unit) is None:
        return None
    labels = [row.liked for row in train if row.liked is not None]
    if len(set(labels)) == 2:
        return None
    if labels:
        kind, other = ("true", "false") if labels[0] else ("false", "true")
        side = "" if len({row.liked for row in rows} - {None}) == 1 else " that are trained on"
        fix = f"Give rows whose label is {other}, or use a method for demonstrations, such as sft."
        return f"all {len(labels):,} labels{side} are {kind}.", fix
    if any(row.rejected is not None for row in rows):
        return _no_pairs(rows, train, cut, unit)
    fix = "Give a column label, or use a method that learns from demonstrations."
    return "there are no labels to learn from here.", fix


def counted(reading: Reading, config: Text, reads: str) -> str:
    """How much there is to learn from of a kind."""
    rows, config = reading.rows, config.fitted(reading.rows)
    train = [rows[i] for i in config.split(rows).train]
    pairs = sum(row.rejected is not None and not config.cut.equal(row) for row in train)
    if reads == "pairs":
        return f"{pairs:,} comparisons"
    labels = [row.liked for row in train if row.liked is not None]
    if reads == "labels":
        liked = pairs + sum(labels)
        return f"{liked:,} liked and {pairs + len(labels) - sum(labels):,} not"
    return f"{sum(map(demonstrated, train)):,} rows"
