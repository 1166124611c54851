"""The cards of the family: `python -m experiments.card [NAME ...]`, names as `alpha:0.5`; none
prints every member's. `python -m experiments.card trl:DistillationConfig beta=1.0` says what
another code's configuration minimises, given as options or as a file (YAML, JSON, Python)."""

from __future__ import annotations

import dataclasses
import sys

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments import cli
from experiments.foreign import meaning, reading
from fdiv import conventions, divergences
from fdiv.types import UsageError


def card(spec: str) -> Table:
    """One member: its formula, where it comes from, who else calls it what, and its parameter
    elsewhere."""
    member = divergences.card(spec)
    rows = {"f(u), u = p/q": member.formula, "source": member.source, "known as": member.names}
    return _table(_title(spec), rows | conventions.equivalents(spec))


def _table(title: str, rows: dict[str, str]) -> Table:
    """Names and texts under a title."""
    table = Table(
        box=None,
        show_header=False,
        padding=(0, 2),
        title=f"[bold]{escape(title)}[/]",
        title_justify="left",
    )
    for name, text in rows.items():
        table.add_row(f"[dim]{escape(name.strip())}[/]", escape(text))
    return table


def _title(spec: str) -> str:
    """The member's name, and what it is measured as where that has another."""
    name = divergences.over_vocabulary(spec).name
    own = spec.strip().lower().replace("-", "_").partition(":")[0]
    return name if name.partition(":")[0] == own else f"{spec.strip()}: measured as {name}"


def foreign(asked: reading.Asked) -> Table:
    """What another code's configuration minimises. Raises `UsageError` for an option of the command
    line that is unknown, and for values that cannot be."""
    entry, given = reading.FOREIGN[asked.name], {**asked.read, **asked.typed}
    for key, near in meaning.unknown(entry, asked.typed).items():
        known = near or ", ".join(entry.options)
        fix = f"Did you mean {near}?" if near else f"What decides it: {known}."
        raise UsageError(asked.name, key, "is no option that is known of it.", fix)
    values = meaning.filled(asked.name, entry, given)
    found = entry.meaning(values)
    shown = ", ".join(f"{key} = {value}" for key, value in values.items())
    rows = {
        "options": shown,
        "minimises": found.minimises,
        "level": found.level,
        "prefixes": found.prefixes,
        "placement": found.placement,
        "exactly the gradient of": found.gradient,
        "the same here": found.command or "no command",
        **{"note" + " " * i: note for i, note in enumerate(found.notes)},
    }
    if others := meaning.unknown(entry, asked.read):
        hints = (f"{key} (did you mean {near}?)" if near else key for key, near in others.items())
        rows["not known of it"] = ", ".join(hints)
    rows["as read in"] = entry.source
    return _table(asked.name, rows)


@dataclasses.dataclass(frozen=True)
class Command:
    """What each member of the family is: its formula, its source, its names elsewhere. Or what a
    configuration of another code minimises."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Divergences, such as js or alpha:0.5; none: every one. Or a configuration with options or a
    file: trl:DistillationConfig beta=1.0."""


def _elsewhere(names: list[str]) -> bool:
    """Whether another code's configurations are asked for. Raises `UsageError` for a mixture."""
    others = [reading.is_foreign(name) or "=" in name for name in names]
    if any(others) and not all(others):
        here = names[others.index(False)]
        problem = "is a divergence, and a configuration of another code is asked for as well."
        raise UsageError("names", here, problem, "Ask for them one after the other.")
    return any(others)


def main(argv: list[str] | None = None) -> int:
    """Print the cards asked for."""
    return cli.script("python -m experiments.card", Command, Command.__doc__, _show, argv)


def _show(asked: Command) -> int:
    names = list(asked.names) or list(divergences.examples())
    tables = [foreign(each) for each in reading.asked(names)] if _elsewhere(names) else []
    tables = tables or [card(name) for name in names]
    console = Console(highlight=False, emoji=False)
    for table in tables:
        console.print(table)
        console.print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
