"""The cards of the family: `python -m experiments.card [NAME ...]`, names as `alpha:0.5`; none
prints every member's."""

from __future__ import annotations

import dataclasses
import sys

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments import cli
from fdiv import conventions, divergences
from fdiv.types import UsageError


def card(spec: str) -> Table:
    """One member: its formula, where it comes from, who else calls it what, and its parameter
    elsewhere."""
    member = divergences.card(spec)
    table = Table(
        box=None,
        show_header=False,
        padding=(0, 2),
        title=f"[bold]{escape(_title(spec))}[/]",
        title_justify="left",
    )
    rows = {"f(u), u = p/q": member.formula, "source": member.source, "known as": member.names}
    for name, text in (rows | conventions.equivalents(spec)).items():
        table.add_row(f"[dim]{escape(name)}[/]", escape(text))
    return table


def _title(spec: str) -> str:
    """The member's name, and what it is measured as where that has another."""
    name = divergences.over_vocabulary(spec).name
    own = spec.strip().lower().replace("-", "_").partition(":")[0]
    return name if name.partition(":")[0] == own else f"{spec.strip()}: measured as {name}"


@dataclasses.dataclass(frozen=True)
class Command:
    """What each member of the family is: its formula, its source, its names elsewhere."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Divergences, such as js or alpha:0.5; none: every one."""


def main(argv: list[str] | None = None) -> int:
    """Print the cards asked for."""
    try:
        asked = tyro.cli(Command, prog="python -m experiments.card", args=cli.arguments(argv))
        names = asked.names or divergences.examples()
        tables = [card(name) for name in names]
    except UsageError as error:
        return cli.refused(error)
    console = Console(highlight=False, emoji=False)
    for table in tables:
        console.print(table)
        console.print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
