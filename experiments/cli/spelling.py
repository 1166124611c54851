"""Words of a command line as its parser takes them, from what people type: a switch without `True`,
`true` in any case, several names with commas between them, and the words of other programs."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fdiv.types import UsageError

BETWEEN_NAMES = r",(?=[A-Za-z]|$)"  # a comma before a number is a name's own: distill:ab:1,0.5
TRUTH = {"true": "True", "false": "False"}
# what other programs call an option -> what it is called here
SYNONYMS = {
    "--batch": "--batch-size",
    "--bs": "--batch-size",
    "--clip-grad-norm": "--max-grad-norm",
    "--data": "--benchmark.path",
    "--dataset": "--benchmark.path",
    "--grad-clip": "--max-grad-norm",
    "--gradient-accumulation-steps": "--accumulate",
    "--gradient-checkpointing": "--policy.remat",
    "--iterations": "--updates",
    "--lr": "--learning-rate",
    "--lr-scheduler-type": "--schedule",
    "--max-steps": "--updates",
    "--method": "--methods",
    "--model": "--policy.path",
    "--num-seeds": "--seeds",
    "--num-train-epochs": "--epochs-over-data",
    "--optimizer": "--optimiser",
    "--output": "--out",
    "--output-dir": "--out",
    "--per-device-train-batch-size": "--batch-size",
    "--scheduler": "--schedule",
    "--steps": "--updates",
    "--warmup": "--warm-up",
    "--warmup-steps": "--warm-up",
    "--wd": "--weight-decay",
}


def completed(argv: Sequence[str], kinds: Mapping[str, Any], positional: bool = False) -> list[str]:
    """The words for options of these types, by the name of the field. `positional`: whether a word
    after a switch may be another argument. Raises `UsageError` for another program's name of an
    option that this one has, and for an empty path."""
    words: list[str] = []
    flag: str | None = None  # the option that values belong to, where they are looked at
    for i, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if not is_flag(argument):
            _refuse_empty(argument, flag, kinds, positional)
            words += _value(argument, kinds.get(flag or ""))
            continue
        flag = name.removeprefix("--").replace("-", "_")
        following = argv[i + 1] if i + 1 < len(argv) else None
        if flag not in kinds:
            _refuse_synonym(name, value if equals else following, kinds)
        kind = kinds.get(flag)
        if equals:
            _refuse_empty(value, flag, kinds, positional)
        if equals and (is_switch(kind) or is_several(kind)):
            words += [name, *_value(value, kind)]
            flag = None
        elif is_switch(kind) and not _is_value(following, positional):
            words += [name, "True"]
            flag = None
        else:
            words.append(argument)
    return words


def is_flag(word: str) -> bool:
    """Whether the command line takes a word for the name of a flag; -1 is none."""
    return word.startswith("--") and word[2:3].isalpha()


def is_switch(kind: Any) -> bool:
    """Whether a type is true or false, or nothing."""
    return bool in _options(kind) and set(_options(kind)) <= {bool, types.NoneType}


def is_several(kind: Any) -> bool:
    """Whether a type is a tuple, or nothing."""
    return any(typing.get_origin(one) is tuple for one in _options(kind))


def _options(kind: Any) -> tuple[Any, ...]:
    if typing.get_origin(kind) is typing.Annotated:
        return _options(typing.get_args(kind)[0])
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return typing.get_args(kind) if union else (kind,)


def _is_value(word: str | None, positional: bool) -> bool:
    if word is None or is_flag(word):
        return False
    return not positional or word.lower() in (*TRUTH, "none")


def _value(word: str, kind: Any) -> list[str]:
    if is_switch(kind):
        return [TRUTH.get(word.lower(), word)]
    if is_several(kind) and "," in word:
        comma = BETWEEN_NAMES if "str" in str(kind) else ","
        return [part for part in re.split(comma, word) if part]
    return [word]


def _refuse_empty(word: str, flag: str | None, kinds: Mapping[str, Any], positional: bool) -> None:
    """Raise `UsageError` for a path that is an empty word, as a shell's variable is that nobody
    set: it would be the folder of now."""
    if word or (flag is None and not positional):
        return
    if flag is None or Path in _options(kinds.get(flag)):
        problem = "is an empty word, as of a variable that is not set."
        raise UsageError(flag or "path", word, problem, "Give a path; . is the folder of now.")


def _refuse_synonym(name: str, value: str | None, kinds: Mapping[str, Any]) -> None:
    """Raise `UsageError` where an option is known by another name here."""
    own = SYNONYMS.get(name.replace("_", "-").lower())
    if own is None or own.removeprefix("--").replace("-", "_") not in kinds:
        return
    shown = f"{own} {value}" if value is not None and not is_flag(value) else own
    fix = f"It is called {own} here: {shown}."
    raise UsageError(name.removeprefix("--"), value, "is no option.", fix)
