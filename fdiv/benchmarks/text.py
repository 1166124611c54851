"""Real text: prompts and completions become strings over 256 bytes and an EOS, or over the tokens
of a vocabulary that is handed in with the rows.

A prompt keeps its last `prompt_length` symbols, a completion its first `horizon`; one that is cut
has no EOS. The split is by a hash of the prompt as it is then (`text_rows.split`), so that no
string that is trained on is held out as well. The expert is a teacher, where there is one. Rows may
be comparisons (a second completion, rejected) or labelled alone: what was preferred or liked is
demonstrated."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from fdiv import divergences
from fdiv import tokens as tk
from fdiv.benchmarks import answers, own_reward, text_rows
from fdiv.benchmarks.text_rows import Cut, Row, Split, Symbols, demonstrated, joined
from fdiv.checks import present
from fdiv.ranges import MOST_LAYERS, check_ranges, ranged
from fdiv.types import PAD, Model, Pairs, Pieces, Regulariser, Sequences, TokenMDP, UsageError

BuiltIn = Literal["docstrings", "questions", "pairs", "sums"]
Rows = TypeVar("Rows", Sequences, Pairs)
EOS = 256
VOCAB = 257
PROMPT_LENGTH, HORIZON = 48, 64  # where nothing is fitted: docstrings and plain text
FITTED = 0.9  # share of a file's prompts and answers that fitted lengths keep whole
STEP = 8  # fitted lengths are multiples of it
LONGEST_TEXT = 1 << 14  # of lengths that are given: every row is padded to them
MOST = {"prompt_length": 256, "horizon": 512}  # and no longer than this


def decode(tokens, mask) -> str:
    """Bytes of the marked tokens as text, up to EOS; what is no UTF-8 shows as a replacement
    mark."""
    kept = [int(t) for t, m in zip(np.asarray(tokens), np.asarray(mask)) if m and t != EOS]
    return bytes(kept).decode("utf-8", errors="replace")


class Vocabulary(NamedTuple):
    """The symbols that rows are made of."""

    size: int  # rows of a model over them
    end: int  # what is put after an answer whose row names no end of its own
    eos: tk.Eos  # what ends a string
    unit: str  # what one is called, in the plural
    pieces: Pieces | None = None  # of text, where they are no bytes
    # tokens [T], mask [T] -> what the marked ones say
    spell: Callable[[np.ndarray, np.ndarray], str] = decode
    token: Callable[[int], str] | None = None  # one of them as people read it; None: they are bytes


BYTES = Vocabulary(VOCAB, EOS, EOS, "bytes")


@dataclasses.dataclass(frozen=True)
class Text:
    """A user's text, or the standard library's docstrings where no path is given."""

    path: Path | None = None
    """A file of rows (JSON lines, JSON, CSV, TSV, parquet, arrow; also .gz, .zst, .bz2, .xz) or of
    plain text, a folder or a glob of such files; none: the docstrings of this Python's standard
    library."""
    rows: BuiltIn = "docstrings"
    """What is read where no path is given: docstrings (of the standard library, behind their
    names), questions (conversations that ask for one), pairs (one preferred to that of another
    name), or sums (of two numbers, behind one that is solved)."""
    prompt_field: tuple[str, ...] = ()
    """Column of the prompts, or several that make up a prompt, a line each; none: as the layouts in
    docs/data_layouts.md name them."""
    completion_field: str | None = None
    """Column of the completions; of the preferred ones where there is a rejected-field."""
    rejected_field: str | None = None
    """Column of the completions that were not preferred; none: rejected, beside chosen."""
    label_field: str | None = None
    """Column that says whether a completion is liked; none: label."""
    tokenizer: Path | None = None
    """What text is read as: bytes, or the tokens of a pretrained model (its folder, a GGUF file, or
    a tokenizer.json); none: those of the policy where it is such a model, else bytes."""
    turns: Literal["all", "last"] | None = None
    """Which of the assistant's messages in a conversation are learned: each (all), or the last
    alone; none: all."""
    prompt_length: int | None = ranged(None, least=0, most=LONGEST_TEXT)
    """Tokens (bytes, without a tokenizer) of a prompt that the policy sees, the last ones; none: as
    many as 9 of 10 of the file's prompts have, at most 256 (48 for docstrings and plain text)."""
    horizon: int | None = ranged(None, least=1, most=LONGEST_TEXT)
    """Tokens (bytes) of a completion that it learns and writes, the first ones, EOS included; none:
    such that 9 of 10 of the file's are whole, at most 512 (64 for docstrings and plain text)."""
    store: Literal["memory", "host"] | None = None
    """Where rows lie: memory (and the devices), or files of token ids in the cache folder, from
    which the next batches are read while a model trains (host: demonstrations of records alone);
    none: memory, but files for a source too large for it."""
    buckets: int | None = ranged(None, least=1, most=16)
    """Widths that a step's rows are computed in, each group of like length in the first that holds
    it, so that short rows do not pay for long ones; each is compiled. 1: that of the longest alone;
    none: as many as keep padding under 15%, but 1 for bytes."""
    validation: float = ranged(0.05, above=0, below=1)
    """Share of rows held out, chosen by a hash of the prompt."""
    teacher: str | None = None
    """The known expert: trained (a transformer, by likelihood on the same rows), the path of a
    pretrained model over the same tokens, base (what a pretrained policy is made of, without
    adapters), whole (the same with all its layers) or none; none given: trained, but none for a
    pretrained policy."""
    teacher_system: str | None = None
    """A message that a pretrained teacher alone reads before each prompt: a system message where
    rows are conversations, else plain text and an empty line. The policy learns to answer as if it
    had read it."""
    teacher_updates: int = ranged(600, least=0)
    """Updates of likelihood training that make the teacher, the known expert; kept and used
    again."""
    teacher_width: int = ranged(128, least=1)
    """Width of the teacher's transformer."""
    teacher_layers: int = ranged(3, least=1, most=MOST_LAYERS)
    """Its layers."""
    teacher_cache: bool = False
    """Compute the teacher at the rows that are trained on once, and keep its features there: for
    distill at the expert's prefixes."""
    checked: answers.Which | None = None
    """What is rewarded: that the first, or the last, number of an answer is its row's; none:
    answers are not checked."""
    reward: str | None = None
    """What is rewarded: a function that an imported file adds (docs/rewards.md), in place of the
    checked number where both are given; none: that, or nothing."""
    beta: float = ranged(0.1, above=0)
    """Comparisons and rewarded answers: weight of the divergence from the reference, which is the
    common start."""
    divergence: str = "reverse_kl"
    """Comparisons and rewarded answers: that divergence, D_f(reference||policy); reverse_kl is
    KL(policy||reference)."""

    def __post_init__(self) -> None:
        if isinstance(self.prompt_field, str):  # one column, as a word of its own
            object.__setattr__(self, "prompt_field", (self.prompt_field,))
        object.__setattr__(self, "prompt_field", tuple(self.prompt_field or ()))

    def check(self) -> None:
        """Raise `UsageError` naming a field that is out of range."""
        check_ranges(self)
        divergences.parse(self.divergence)
        if self.reward is not None:
            own_reward.known(self.reward)

    @property
    def cut(self) -> Cut:
        """What the policy sees of a row; of a config that is not fitted yet, by the fixed
        lengths."""
        return Cut(
            PROMPT_LENGTH if self.prompt_length is None else self.prompt_length,
            HORIZON if self.horizon is None else self.horizon,
        )

    def fitted(self, rows: Sequence[Row]) -> Text:
        """The config with both lengths: as given, else such that a share `FITTED` of prompts and of
        answers is whole. Plain text, which has no ends, and docstrings keep fixed lengths."""
        fixed = self.path is None or not rows or any(row.stretches for row in rows)
        fits = {"prompt_length": PROMPT_LENGTH, "horizon": HORIZON}
        if not fixed:
            answers = [len(row.completion) + 1 for row in rows]
            answers += [len(row.rejected) + 1 for row in rows if row.rejected is not None]
            lengths = {"prompt_length": [len(row.prompt) for row in rows], "horizon": answers}
            fits = {field: min(_quantile(lengths[field]), MOST[field]) for field in fits}
        given = {field: getattr(self, field) for field in fits}
        chosen = {k: v if given[k] is None else given[k] for k, v in fits.items()}
        return dataclasses.replace(self, **chosen)

    def split(self, rows: Sequence[Row]) -> Split:
        """Which rows are held out."""
        return text_rows.split(rows, self.fitted(rows).cut, self.validation)

    def build(
        self, rows: Sequence[Row], teacher: Model | None = None, vocabulary: Vocabulary = BYTES
    ) -> TokenMDP:
        """The task from rows that a reader has found sound, which are made of this vocabulary.

        Raises `UsageError` where no row can be demonstrated, or none be held out."""
        self.check()
        return self.fitted(rows)._build(rows, teacher, vocabulary)

    def _build(
        self, rows: Sequence[Row], teacher: Model | None, vocabulary: Vocabulary
    ) -> TokenMDP:
        division = self.split(rows)
        sides = [[rows[i] for i in side] for side in (division.train, division.held_out)]
        shown = [[row for row in side if demonstrated(row)] for side in sides]
        self._refuse(rows, shown, division)
        demos, held_out = (_drawn_from(self.encode(side, vocabulary)) for side in shown)
        horizon = self.cut.horizon
        prompts = lambda key, n: tk.prompts_of(demos(key, n), horizon)
        size, eos, pieces = vocabulary.size, vocabulary.eos, vocabulary.pieces
        mdp = TokenMDP(size, horizon, eos, prompts, demos, held_out, teacher, pieces=pieces)
        mdp = mdp._replace(**self._judged(sides, vocabulary))
        return mdp if self.checked is None else self._checked(mdp, rows, vocabulary)

    def _checked(self, mdp: TokenMDP, rows: Sequence[Row], vocabulary: Vocabulary) -> TokenMDP:
        """The task with a reward: 1 where an answer's number is that of a row with its prompt.
        Raises `UsageError` where no row says a number."""
        which = present(self.checked, "kind of number")
        spell = vocabulary.token or (lambda i: chr(i) if i < 128 else "")
        known = None if vocabulary.pieces is None else vocabulary.pieces.known
        named = range(vocabulary.size) if known is None else set(np.asarray(known).tolist())
        of = answers.digits(lambda i: spell(i) if i in named else "", vocabulary.size)
        key = answers.key_of(which, of, jax.tree.map(jnp.asarray, self.encode(rows, vocabulary)))
        if not bool((key.numbers != 0).any()):
            problem = "asks for numbers, and the answers hold none within the horizon."
            raise UsageError("checked", which, problem, "Drop it, or give a longer horizon.")
        right = lambda x: answers.right(which, of, key, x)
        score = lambda x: right(x).astype(jnp.float32)
        return mdp._replace(
            score=score,
            statistics={"reward": score},
            regulariser=Regulariser(self.divergence, self.beta),
            solutions=lambda x: jnp.where(right(x), answers.texts(x), -1),
        )

    def _refuse(self, rows: Sequence[Row], shown: list[list[Row]], division: Split) -> None:
        """Raise `UsageError` where a side has nothing to demonstrate, with the reason."""
        if rows and not any(map(demonstrated, rows)):
            problem = f"has {len(rows):,} labels, all of them false: nothing is to be copied."
            fix = "Give rows that are liked as well; or another column says what is (label_field)."
            raise UsageError("path", str(self.path), problem, fix)
        for side, name in zip(shown, ("training", "validation")):
            if side:
                continue
            problem = f"leaves no {name} row of {len(rows):,}."
            fix = "Change the share, or give more rows."
            if division.groups == 1 and len(rows) > 1:
                problem = f"leaves no {name} row of {len(rows):,}: all are alike after the cut."
                fix = "Keep more of them (a longer horizon or prompt_length)."
                if any(row.stretches for row in rows):
                    problem = f"leaves no {name} row of {len(rows):,}: the text is one stretch."
                    fix = "Give a longer text; or a shorter horizon, for which it has more rows."
            elif name == "validation" and self._of_one_prompt(rows):
                count = sum(map(demonstrated, rows))
                problem = (
                    f"leaves no {name} row: the {count:,} that are to be copied are all of one "
                    "prompt, whose answers stay on one side."
                )
                fix = "Give liked rows of other prompts; or keep more of them (prompt_length)."
            raise UsageError("validation", self.validation, problem, fix)

    def _of_one_prompt(self, rows: Sequence[Row]) -> bool:
        """Whether rows that are demonstrated have one prompt, of several in all."""
        shown = {self.cut.prompt(row) for row in rows if demonstrated(row)}
        return len(shown) == 1 and len({self.cut.prompt(row) for row in rows}) > 1

    def _judged(self, sides: list[list[Row]], vocabulary: Vocabulary) -> dict:
        """What there is to learn from comparisons and labels: nothing, labels alone, or pairs that
        serve as labels too. A pair whose answers the cut makes equal says nothing, and of labels
        that are all alike nothing can be learned."""
        cut = self.cut
        pairs = [
            [row for row in side if row.rejected is not None and not cut.equal(row)]
            for side in sides
        ]
        labels = [row for row in sides[0] if row.liked is not None] + pairs[0]
        if not pairs[0] and len({row.liked for row in labels}) < 2:
            return {}
        judged = {
            "regulariser": Regulariser(self.divergence, self.beta),
            "labels": _drawn_from(self.compare(labels, vocabulary)),
        }
        for name, side in zip(("pairs", "held_out_pairs"), pairs):
            if side:
                judged[name] = _drawn_from(self.compare(side, vocabulary))
        return judged

    def compare(self, rows: Sequence[Row], vocabulary: Vocabulary = BYTES) -> Pairs:
        """Comparisons in numpy; a completion that was judged alone stands on its side, and opposite
        with weight 0."""
        chosen = self.encode(rows, vocabulary)
        other = [
            row if row.rejected is None else row._replace(completion=row.rejected) for row in rows
        ]
        rejected = self.encode(other, vocabulary)
        # in numpy, as the strings are: they go to a device when rows are drawn
        weight: Callable[[bool], Any] = lambda other: np.array(
            [row.liked is not other for row in rows], np.float32
        )
        return Pairs(chosen._replace(weight=weight(False)), rejected._replace(weight=weight(True)))

    def encode(self, rows: Sequence[Row], vocabulary: Vocabulary = BYTES) -> Sequences:
        """Rows as strings [N, prompt_length + horizon] in numpy."""
        cut = self.cut
        width = sum(cut)
        tokens = np.full((len(rows), width), PAD, np.int32)
        mask = np.zeros((len(rows), width), bool)
        for i, row in enumerate(rows):
            prompt, answer, ended = cut.string(row)
            begin, end = len(prompt), len(prompt) + len(answer)
            tokens[i, :end] = _numbers(joined(prompt, answer))
            if ended:
                tokens[i, end] = vocabulary.end if row.end is None else row.end
            mask[i, begin : end + ended] = True
        arrays: tuple[Any, ...] = (tokens, mask, np.ones(len(rows), np.float32))
        return Sequences(*arrays)


def _quantile(lengths: Sequence[int]) -> int:
    """The `FITTED` quantile of lengths, rounded up to a multiple of `STEP`; 0 where all are 0."""
    ranked = sorted(lengths)
    length = ranked[max(0, math.ceil(FITTED * len(ranked)) - 1)]
    return STEP * math.ceil(length / STEP)


def _numbers(symbols: Symbols) -> np.ndarray:
    """The symbols as numbers."""
    if isinstance(symbols, bytes):
        return np.frombuffer(symbols, np.uint8)
    return np.asarray(symbols, np.int32)


@dataclasses.dataclass(frozen=True, eq=False)
class Drawn(Generic[Rows]):
    """Rows drawn with replacement: (key, n) -> [n, ...]."""

    rows: Rows  # all of them, [N, ...]

    def __call__(self, key: jax.Array, n: int) -> Rows:
        size = len(jax.tree.leaves(self.rows)[0])
        chosen = jax.random.randint(key, (n,), 0, size)
        return jax.tree.map(lambda x: x[chosen], self.rows)


def _drawn_from(rows: Rows) -> Drawn[Rows]:
    """On a device."""
    return Drawn(jax.tree.map(jnp.asarray, rows))
