"""`--help` of a preset on one screen: examples, what is most often changed with a line each, and
the other options that this run reads by name. `--help-all` has every option with its text."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Iterable
from pathlib import Path

from experiments import fields
from experiments.config import GROUPS, Config, resolve
from experiments.fields import Case, Field
from fdiv.types import UsageError

WIDTH, LONGEST = 100, 60  # columns, lines
COLUMN = 30  # at which an option's text begins
USUAL = (  # with a line of text each, in this order
    "methods",
    "benchmark.path",
    "policy.name",
    "policy.path",
    "seeds",
    "updates",
    "batch_size",
    "learning_rate",
    "demos",
    "warm_start",
    "evaluations",
    "out",
    "config",
    "track",
    "plain",
    "quiet",
    "dry_run",
)
SET = ("demos", "warm_start", "policy.path", "benchmark.path")  # shown where the preset has them
CONFIG = "The config.json of a run to start from, in place of the preset's own values."


def text(program: str, preset: str, about: str, config: Config) -> str:
    """What is printed, at most `LONGEST` lines."""
    case = _case(config)
    table = {name: field for name, field in fields.table(config).items() if _read(case, field)}
    head = f"python -m {program} {preset}"
    lines = [*_wrapped(about, ""), "", "examples:"]
    lines += [f"  {head}{words}" for words in _examples(config)]
    lines += ["", "most used (in brackets, what this preset has):"]
    texts = fields.texts(config)
    for name in USUAL:
        if name == "config":
            lines += _one("config FILE", CONFIG)
        elif name in table and not (name in SET and not table[name].value):
            lines += _one(f"{_flag(name)} {_shown(table[name])}", texts.get(name, ""))
    lines += ["", "others that this run reads, by group (--GROUP.NAME):"]
    for group, names in _grouped(table).items():
        own = {_flag(n.removeprefix(f"{group}.")): table[n] for n in names if n not in USUAL}
        rest = [f"{name} {_shown(field)}".removesuffix(" [none]") for name, field in own.items()]
        before = "" if group else "--"
        title = f"  --{_flag(group)}.  " if group else "  "
        lines += _wrapped("  ".join(before + one for one in rest), title) if rest else []
    tail = ["", f"{head} --help-all: every option with its text and its range"]
    room = LONGEST - len(tail)
    if len(lines) > room:
        lines = [*lines[: room - 1], "  ... and more"]
    return "\n".join([*lines, *tail])


def _case(config: Config) -> Case:
    """What is asked whether a field is read; of no method where one cannot be."""
    try:
        return Case(config, resolve(config))
    except UsageError:
        return Case(config, {})


def _read(case: Case, field: Field) -> bool:
    """Whether this run reads a field; where that cannot be told, it is shown."""
    group = field.name.partition(".")[0]
    if group in GROUPS and group not in case.kinds():
        return False
    if group in ("policy", "scorer") and not _of_class(case.config, field):
        return False
    try:
        return field.reader.reads(case)
    except (UsageError, KeyError):
        return True


def _of_class(config: Config, field: Field) -> bool:
    """Whether a class of functions has the size: a table has no layers."""
    from fdiv.policies import SIZES

    group, name = field.name.split(".")[:2]
    return name == "name" or name in SIZES[getattr(config, group).name]


def _examples(config: Config) -> list[str]:
    few = " ".join(list(config.methods)[:2])
    return [
        "",
        f" --methods {few} --seeds 3 --updates 500",
        " --dry-run  # what it would do and cost",
        " --config runs/compare/config.json --seeds 10",
    ]


def _grouped(table: dict[str, Field]) -> dict[str, list[str]]:
    """The names of fields by group; those without a prefix together."""
    groups: dict[str, list[str]] = {}
    for name in table:
        group, dot, _ = name.partition(".")
        groups.setdefault(group if dot else "", []).append(name)
    return groups


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _shown(field: Field) -> str:
    value = field.value
    if isinstance(value, (tuple, list)):
        shown = " ".join(map(str, value))
    elif isinstance(value, float):
        shown = f"{value:g}"
    else:
        shown = "none" if value is None else str(Path(value) if field.name == "out" else value)
    return f"[{shown}]"


def _one(flag: str, about: str) -> list[str]:
    """An option and the first sentence of its text, on one line where there is room."""
    first = re.split(r"[;:.] ", about)[0].rstrip(".:")
    line = f"  --{flag}"
    if len(line) > COLUMN - 2:
        return [textwrap.shorten(line[2:], WIDTH - 2, placeholder=" ...]").join(("  ", ""))]
    return [f"{line:<{COLUMN}}{textwrap.shorten(first, WIDTH - COLUMN, placeholder=' ...')}"]


def _wrapped(whole: str, before: str) -> Iterable[str]:
    return textwrap.wrap(
        whole, WIDTH, initial_indent=before, subsequent_indent="    ", break_on_hyphens=False
    )


def with_methods(config: Config, argv: list[str]) -> Config:
    """The config with the methods that a command line names, whatever else is wrong with it."""
    if "--methods" not in argv:
        return config
    rest = argv[argv.index("--methods") + 1 :]
    names = tuple(word for word in _until_flag(rest))
    try:
        own = dataclasses.replace(config, methods=names)
        resolve(own)
        return own if names else config
    except UsageError:
        return config


def _until_flag(words: list[str]) -> Iterable[str]:
    for word in words:
        if word.startswith("-"):
            return
        yield from filter(None, word.split(","))
