"""Rewards of a user's own: plain Python over decoded strings, or JAX over tokens.

    def brief(prompts, completions, answer):     # lists of str, and a column of the rows
        return [-len(text) for text in completions]

    add_reward("brief", brief)

A function of strings is called on the host while the program waits (`jax.pure_callback`), once for
each run of the program, and has to give the same number for the same string. A function of tokens
(`tokens=True`) is part of the program. Columns of the rows reach either by the names of its
parameters, those of the row whose prompt the policy answers.

What is wrong with a number is kept, with the row and the value, until `raise_failed` is asked: an
exception inside a program would be said by the runtime, in its own words."""

from __future__ import annotations

import difflib
import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fdiv.benchmarks.answers import prompt_hashes
from fdiv.types import PAD, Sequences, UsageError

STRINGS = ("prompts", "completions")  # what a function of strings may ask for beside columns
LONGEST = 60  # characters of a string or a value that an error quotes
FIX = "Give a finite number for each string."
Spell = Callable[[np.ndarray, np.ndarray], str]  # tokens [T], mask [T] -> what the marked ones say
Encode = Callable[[str], Sequence[int]]


class Reward(NamedTuple):
    """A function that strings are rewarded by."""

    name: str
    function: Callable[..., Any]
    tokens: bool  # of tokens, in jax.numpy
    columns: tuple[str, ...]  # of the rows
    optional: frozenset[str]  # those that the rows may lack
    strings: frozenset[str]  # which of `STRINGS` it asks for


REWARDS: dict[str, Reward] = {}
_FAILED: list[UsageError] = []


def add_reward(name: str, function: Callable[..., Any], *, tokens: bool = False) -> None:
    """Let tasks be rewarded by a function, which they name.

    `function(prompts, completions, **columns)` takes lists of B decoded strings and gives B
    numbers; parameters of other names are columns of the rows, a list of B values each, and one
    with a default may be lacking there. With `tokens` it is `function(strings, **columns)` in
    jax.numpy: tokens and mask [B, T] of `fdiv.types.Sequences`, columns as arrays: numbers [B], or
    text as tokens [B, L] with `PAD` behind. Raises `UsageError` for a name that cannot be one, and
    for a function whose parameters have no names."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name == "table":
        fix = "Use small letters, digits and underscores, such as right_answer."
        raise UsageError("reward", name, "is no name of a reward.", fix)
    wanted, optional = _parameters(name, function)
    if tokens:
        if not wanted:
            raise UsageError("reward", name, "takes no strings.", "Write def reward(strings): ...")
        wanted = wanted[1:]
    strings = frozenset(() if tokens else (x for x in STRINGS if x in wanted))
    if not (tokens or strings):
        fix = "Name a parameter completions; with tokens=True the first one is the strings."
        raise UsageError("reward", name, "takes neither prompts nor completions.", fix)
    columns = tuple(x for x in wanted if x not in strings)
    REWARDS[name] = Reward(name, function, tokens, columns, optional & {*columns}, strings)


def _parameters(name: str, function: Callable[..., Any]) -> tuple[list[str], frozenset[str]]:
    """Names of a function's parameters, and those that have a default."""
    fix = "Write def reward(prompts, completions): ..., with columns of the rows by their names."
    try:
        given = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise UsageError("reward", name, "is no function with named parameters.", fix) from error
    for one in given:
        if one.kind in (one.POSITIONAL_ONLY, one.VAR_POSITIONAL):
            raise UsageError("reward", name, f"has a parameter without a name ({one}).", fix)
    named = [one for one in given if one.kind is not one.VAR_KEYWORD]
    return [x.name for x in named], frozenset(x.name for x in named if x.default is not x.empty)


def known(name: str) -> Reward:
    """A reward by its name. Raises `UsageError` with the nearest names."""
    if name not in REWARDS:
        near = difflib.get_close_matches(name, REWARDS, n=3, cutoff=0.4) or sorted(REWARDS)
        fix = f"The nearest: {', '.join(near)}." if near else "Import a file that calls add_reward."
        raise UsageError("reward", name, "is no reward that an imported file adds.", fix)
    return REWARDS[name]


# --- what went wrong ------------------------------------------------------------------------------


def raise_failed() -> None:
    """Raise the `UsageError` of the first number that could not be, where there was one."""
    if any(reward.tokens for reward in REWARDS.values()):
        jax.effects_barrier()  # what programs have to say of their numbers has been said
    if _FAILED:
        error = _FAILED[0]
        _FAILED.clear()
        raise error


class _Unsound(Exception):
    """What is wrong with a reward's numbers, and which string of the batch is to blame."""

    def __init__(self, problem: str, at: int | None = None, fix: str = FIX):
        super().__init__(problem)
        self.problem, self.at, self.fix = problem, at, fix


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def numbers(given: Any, count: int) -> np.ndarray:
    """What a function of strings gave as numbers [count], or `_Unsound` saying what is wrong."""
    if given is None:
        raise _Unsound(f"gives None for {count} strings.")
    unordered = (str, bytes, Mapping, set, frozenset)
    if isinstance(given, unordered) or not hasattr(given, "__len__"):
        raise _Unsound(f"gives {_short(given)}, a {type(given).__name__}, for {count} strings.")
    shape = getattr(given, "shape", (len(given),))
    if tuple(shape) != (count,):
        many = f"shape {tuple(shape)}" if len(shape) != 1 else f"{len(given)} numbers"
        raise _Unsound(f"gives {many} for {count} strings.")
    values = np.zeros(count)
    for i, value in enumerate(given):
        try:
            if value is None or isinstance(value, (str, bytes)):
                raise TypeError
            values[i] = float(value)
        except (TypeError, ValueError) as error:
            raise _Unsound(f"gives {_short(value)}, which is no number,", i) from error
        if not np.abs(values[i]) <= np.finfo(np.float32).max:  # what programs compute with
            raise _Unsound(f"gives {values[i]:g}", i)
    return values


# --- the rows -------------------------------------------------------------------------------------


class Rows(NamedTuple):
    """The rows that prompts are of: what of them a reward reads, and what an error calls them."""

    strings: Sequences  # [N, T] in numpy, as the policy sees them
    numbers: Sequence[int]  # in their file
    columns: Mapping[str, Sequence[Any]] = {}  # name -> [N]


def before(tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The mask of a string's prompt. [..., T]"""
    return (tokens != PAD) & (np.cumsum(mask, axis=-1) == 0)


def places(name: str, rows: Rows) -> dict[bytes, int]:
    """Prompt -> its first row, for the reward of that name. Raises `UsageError` where two rows of
    one prompt have other values in a column, of which neither would be right."""
    first: dict[bytes, int] = {}
    strings = np.asarray(rows.strings.tokens)
    prompts = before(strings, np.asarray(rows.strings.mask))
    for i, (tokens, own) in enumerate(zip(strings, prompts)):
        at = first.setdefault(tokens[own].tobytes(), i)
        for title, column in rows.columns.items():
            if at != i and column[at] != column[i]:
                two = f"{rows.numbers[at]} and {rows.numbers[i]}"
                problem = (
                    f"reads {title}, which differs in rows {two} "
                    f"({_short(column[at])} and {_short(column[i])}), whose prompts are one and "
                    "the same to the policy."
                )
                fix = "Keep more of the prompts, or leave one of the two rows out."
                raise UsageError("reward", name, problem, fix)
    return first


# --- as a task's score ----------------------------------------------------------------------------


def score_of(
    reward: Reward, spell: Spell, rows: Rows | None = None, encode: Encode | None = None
) -> Callable[[Sequences], Array]:
    """A reward as the score of a task: strings -> [B]. `rows` are where its columns are read and
    rows are named from, `encode` makes tokens of a column's text. Raises `UsageError` for columns
    that no row has."""
    lacking = {*reward.columns} - {*(rows.columns if rows else {})} - reward.optional
    if lacking:
        name = sorted(lacking)[0]
        fix = "Use rows that have it, or give the parameter a default."
        raise UsageError("reward", reward.name, f"reads {name}, which no row here has.", fix)
    of = _Judge(reward, spell, rows)
    return of.score if not reward.tokens else _in_program(of, encode)


class _Judge:
    """A reward at work on a task's strings."""

    def __init__(self, reward: Reward, spell: Spell, rows: Rows | None):
        self.reward, self.spell, self.rows = reward, spell, rows
        self.places = {} if rows is None else places(reward.name, rows)

    def score(self, strings: Sequences) -> Array:
        """A function of decoded strings, asked on the host."""
        tokens, mask = jnp.asarray(strings.tokens), jnp.asarray(strings.mask)
        out = jax.ShapeDtypeStruct(tokens.shape[:-1], jnp.result_type(float))
        host = functools.partial(self.on_host, out.dtype)
        return jax.pure_callback(host, out, tokens, mask, vmap_method="broadcast_all")

    def on_host(self, kind: np.dtype, tokens: Any, mask: Any) -> np.ndarray:
        """Of strings [..., B, T]: one call for each of the runs in front, whose strings know
        nothing of each other. NaN once something is wrong."""
        tokens, mask = np.asarray(tokens), np.asarray(mask)
        flat = (x.reshape(-1, *x.shape[-2:]) for x in (tokens, mask))
        values = [self.of_batch(*pair) for pair in zip(*flat)]
        return np.asarray(values, kind).reshape(tokens.shape[:-1])

    def of_batch(self, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Of strings [B, T]."""
        if _FAILED:
            return np.full(len(tokens), np.nan)
        try:
            return self.asked(tokens, mask)
        except _Unsound as error:
            self.fail(error, tokens, mask)
            return np.full(len(tokens), np.nan)

    def asked(self, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """The function's numbers, or `_Unsound`."""
        arguments = self.arguments(tokens, mask)
        count = len(tokens)  # the function may change its lists
        try:
            return numbers(self.reward.function(**arguments), count)
        except _Unsound:
            raise
        except (Exception, SystemExit) as error:
            at = self.culprit(self.arguments(tokens, mask))
            raise _Unsound(f"raises {_said(error)}", at, "Mend the function.") from error

    def arguments(self, tokens: np.ndarray, mask: np.ndarray) -> dict[str, list[Any]]:
        """What the function is called with."""
        prompts = before(tokens, mask)
        texts = {
            "prompts": lambda: [self.spell(*pair) for pair in zip(tokens, prompts)],
            "completions": lambda: [self.spell(*pair) for pair in zip(tokens, mask)],
        }
        own = {name: texts[name]() for name in STRINGS if name in self.reward.strings}
        there = {} if self.rows is None else self.rows.columns
        wanted = [name for name in self.reward.columns if name in there]
        if not wanted:
            return own
        at = []
        for i, (string, prompt) in enumerate(zip(tokens, prompts)):
            place = self.places.get(string[prompt].tobytes())
            if place is None:
                fix = "Score prompts of the rows alone."
                raise _Unsound("is asked about a prompt that no row has,", i, fix)
            at.append(place)
        return own | {name: [there[name][i] for i in at] for name in wanted}

    def culprit(self, arguments: Mapping[str, list[Any]]) -> int | None:
        """The first string that the function fails on alone; None where it is none of them."""
        for i in range(len(next(iter(arguments.values())))):
            try:
                self.reward.function(**{name: [x[i]] for name, x in arguments.items()})
            except (Exception, SystemExit):
                return i
        return None

    def fail(self, error: _Unsound, tokens: np.ndarray, mask: np.ndarray) -> None:
        """Keep what is wrong, with the row that it is wrong of."""
        where = "" if error.at is None else self.named(tokens[error.at], mask[error.at])
        problem = f"{error.problem} {where}".strip()
        problem = problem if problem.endswith(".") else f"{problem}."
        _FAILED.append(UsageError("reward", self.reward.name, problem, error.fix))

    def named(self, tokens: np.ndarray, mask: np.ndarray) -> str:
        """A string by its row, its prompt and its completion."""
        prompt = before(tokens, mask)
        place = self.places.get(tokens[prompt].tobytes())
        row = "" if place is None or self.rows is None else f"row {self.rows.numbers[place]}, "
        asked = f"prompt {_short(self.spell(tokens, prompt))}, " if prompt.any() else ""
        return f"at {row}{asked}completion {_short(self.spell(tokens, mask))}"

    def look(self, bad: Any, value: Any, tokens: Any, mask: Any) -> None:
        """Keep a number of a program that is not finite."""
        if bool(bad) and not _FAILED:
            own = np.asarray(tokens)[None], np.asarray(mask)[None]
            self.fail(_Unsound(f"gives {float(value):g}", 0), *own)


def _said(error: BaseException) -> str:
    reason = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {reason}" if reason else type(error).__name__


# --- inside a program -----------------------------------------------------------------------------


def _in_program(judge: _Judge, encode: Encode | None) -> Callable[[Sequences], Array]:
    """A function of tokens, whose numbers are looked at by the host where they are not finite."""
    reward, rows = judge.reward, judge.rows
    there = {} if rows is None else rows.columns
    wanted = [name for name in reward.columns if name in there]
    array = lambda name: _as_array(reward.name, name, there[name], rows, encode)
    columns = {name: array(name) for name in wanted}
    keys = None if not columns or rows is None else prompt_hashes(_in_jax(rows.strings))

    def score(strings: Sequences) -> Array:
        strings, own, found = _in_jax(strings), {}, None
        if keys is not None:
            same = (prompt_hashes(strings)[:, None] == keys[None]).all(-1)
            found, at = same.any(1), jnp.argmax(same, axis=1)
            own = {name: jnp.asarray(column)[at] for name, column in columns.items()}
        values = _of_program(reward, strings, own)
        if values.shape != strings.tokens.shape[:1]:
            problem = f"gives shape {values.shape} for {strings.tokens.shape[0]} strings."
            fix = "Give a number for each string, [B], computed in jax.numpy."
            raise UsageError("reward", reward.name, problem, fix)
        values = values if found is None else jnp.where(found, values, jnp.nan)
        bad = ~jnp.isfinite(values)
        at = jnp.argmax(bad)
        jax.debug.callback(judge.look, bad[at], values[at], strings.tokens[at], strings.mask[at])
        return values

    return score


def _of_program(reward: Reward, strings: Sequences, columns: Mapping[str, Any]) -> Array:
    """What a function of tokens gives, while it is traced. Raises `UsageError` where it fails, or
    gives no real numbers."""
    fix = "Give a number for each string, [B], computed in jax.numpy."
    try:
        given = reward.function(strings, **columns)
        if given is None or jnp.iscomplexobj(given):
            raise TypeError(f"it gives {_short(given)}, which is no real number")
        return jnp.asarray(given, float)
    except UsageError:
        raise
    except (Exception, SystemExit) as error:  # of the user's own code
        problem = f"fails on strings of this task ({_said(error)})."
        raise UsageError("reward", reward.name, problem, fix) from error


def _in_jax(strings: Sequences) -> Sequences:
    return jax.tree.map(jnp.asarray, strings)


def _as_array(
    name: str, title: str, column: Sequence[Any], rows: Rows | None, encode: Encode | None
) -> np.ndarray:
    """A column as numbers [N], or as tokens [N, L] where it is text. Raises `UsageError` naming a
    row whose value is neither."""
    if encode is not None and all(isinstance(value, str) for value in column):
        ids = [list(encode(value)) for value in column]
        table = np.full((len(ids), max(map(len, ids), default=0)), PAD, np.int32)
        for i, own in enumerate(ids):
            table[i, : len(own)] = own
        return table
    for i, value in enumerate(column):
        if not isinstance(value, (bool, int, float)):
            row = i + 1 if rows is None else rows.numbers[i]
            problem = (
                f"reads {title}, which is {_short(value)} in row {row}: no number, and "
                "not all rows have text there."
            )
            fix = "Give rows of one kind, or a function of strings, without tokens=True."
            raise UsageError("reward", name, problem, fix)
    whole = all(isinstance(value, int) and abs(value) < 2**31 for value in column)
    return np.asarray(column, np.int32 if whole else np.float32)


def tabled(reward: Reward, strings: Sequences, spell: Spell) -> np.ndarray:
    """A reward of each of a task's strings, in numpy [N], for a task that has them all. Raises
    `UsageError` where one has no finite number."""
    values = np.asarray(score_of(reward, spell)(strings), float)
    raise_failed()
    return values
