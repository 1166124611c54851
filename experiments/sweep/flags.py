"""From the flags of a line to its config, as the command line would make it, fast enough for a grid
of 10,000 lines.

The command line's parser is built anew for every parse, which takes most of a second. Here each
value is parsed alone, by the parser of its own flag, and once in a process. The first line of each
shape (preset and flags) is parsed both ways: where the two differ, or a value is refused, the
command line has the word."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import itertools
import typing
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from experiments import cli
from experiments.config import LIFTED, Config
from fdiv.types import UsageError, is_hidden

PROGRAM = "experiments.compare"
TRUTH = {
    "true": "True",
    "yes": "True",
    "on": "True",
    "false": "False",
    "no": "False",
    "off": "False",
}


class Leaf(NamedTuple):
    """A field of a config that is a flag."""

    path: tuple[str, ...]  # attributes from the config down to it
    kind: Any  # its annotation


class Given(NamedTuple):
    """A flag of a line and the words after it."""

    flag: str  # by the field's name: batch_size, policy.order
    words: tuple[str, ...]


def spelled(words: Sequence[str]) -> list[Given]:
    """The flags of a line under their names of today, in order."""
    grouped: list[list[str]] = []
    for word in cli.spelled_out(words):
        if is_flag(word):
            grouped.append([word])
        else:
            grouped[-1].append(word)
    return [Given(name(flag), tuple(rest)) for flag, *rest in grouped]


def once(words: Sequence[str]) -> list[str]:
    """A line as a command line takes it, which refuses a flag with two values: of a flag that the
    line gives again under another name, the last, which is what the line was resolved with."""
    last = {one.flag: one.words for one in spelled(words)}
    each = ((f"--{flag.replace('_', '-')}", *own) for flag, own in last.items())
    return list(itertools.chain.from_iterable(each))


def is_flag(word: str) -> bool:
    """Whether the command line takes a word for the name of a flag; -1 is none."""
    return word.startswith("--") and word[2:3].isalpha()


def name(flag: str) -> str:
    """`--policy.order` as the field is called."""
    return flag.removeprefix("--").replace("-", "_")


def parsed(preset: str, words: Sequence[str], where: str) -> Config:
    """The config of a line; what the command line refuses is said with `where` it stands."""
    given = tuple(spelled(words))
    shape = (preset, tuple(one.flag for one in given))
    if _agree.get(shape, True):
        quick = _quickly(preset, given)
        if quick is not None and shape in _agree:
            return quick
        config = _by_command_line(preset, command_line(preset, given), where)
        if quick is not None:
            _agree[shape] = quick == config
        return config
    return _by_command_line(preset, command_line(preset, given), where)


_agree: dict[tuple, bool] = {}  # shape -> whether its first line was the same both ways


def command_line(preset: str, given: Iterable[Given]) -> list[str]:
    """A line as the command line takes it, under the names of today. A flag that is true or false
    takes YAML's words for these too."""
    leaves, words = _leaves(preset, len(cli.IMPORTED)), []
    for flag, values in given:
        leaf = leaves.get(flag)
        truth = leaf is not None and leaf.kind is bool
        own = [TRUTH.get(value.lower(), value) if truth else value for value in values]
        words += [f"--{flag.replace('_', '-')}", *own]
    return words


def _by_command_line(preset: str, words: Sequence[str], where: str) -> Config:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return cli.parse(PROGRAM, [preset, *words])[1]
    except SystemExit as error:  # tyro's own way out
        reason = " ".join("".join(c for c in said.getvalue() if c.isascii()).split())
        fix = "Names and values are those of the flags."
        raise UsageError("grid", where, reason, fix) from error


def _quickly(preset: str, given: Sequence[Given]) -> Config | None:
    """The config from each value alone; None where a flag or a value is not known to be one."""
    leaves = _leaves(preset, len(cli.IMPORTED))
    config = presets(len(cli.IMPORTED)).get(preset)
    if config is None or any(flag not in leaves for flag, _ in given):
        return None
    for flag, values in given:
        leaf = leaves[flag]
        own = tuple(TRUTH.get(v.lower(), v) for v in values) if leaf.kind is bool else values
        try:
            config = _with(config, leaf.path, _value(leaf.kind, own))
        except (_Refused, TypeError, ValueError):
            return None
    return config


class _Refused(Exception):
    """A value that its flag does not take."""


def _with(node: Any, path: Sequence[str], value: Any) -> Any:
    first, *rest = path
    return dataclasses.replace(
        node, **{first: _with(getattr(node, first), rest, value) if rest else value}
    )


@functools.lru_cache(maxsize=100_000)
def _value(kind: Any, words: tuple[str, ...]) -> Any:
    """What a flag of this annotation makes of its words."""
    import tyro

    holder = dataclasses.make_dataclass("Holder", [("value", kind)])
    marks = (tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            return tyro.cli(holder, args=["--value", *words], config=marks).value
    except SystemExit as error:
        raise _Refused from error


@functools.cache
def presets(imported: int) -> dict[str, Config]:
    """The configs of all presets, with those of so many imported files."""
    return {name: config for name, (_, config) in cli.presets().items()}


@functools.cache
def _leaves(preset: str, imported: int) -> dict[str, Leaf]:
    """The flags of a preset whose values are no groups; `imported` files may bring more presets."""
    known = presets(imported)
    return dict(_of(known[preset], (), "")) if preset in known else {}


def _of(node: Any, path: tuple[str, ...], prefix: str) -> Iterable[tuple[str, Leaf]]:
    hints = typing.get_type_hints(type(node), include_extras=True)
    for field in dataclasses.fields(node):
        if not field.init or is_hidden(field):
            continue
        value, here = getattr(node, field.name), (*path, field.name)
        if dataclasses.is_dataclass(value):
            lifted = not path and field.name in LIFTED.values()
            yield from _of(value, here, prefix if lifted else f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", Leaf(here, hints[field.name])
