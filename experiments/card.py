"""The cards of the family: `python -m experiments.card [NAME ...]`, names as `alpha:0.5`; none
prints every member's."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from experiments import cli
from fdiv import conventions, divergences
from fdiv.types import UsageError


def card(spec: str) -> Table:
    """One member: its formula, where it comes from, who else calls it what, and its parameter
    elsewhere."""
    found = divergences.card(spec)
    table = Table(
        box=None,
        show_header=False,
        padding=(0, 2),
        title=f"[bold]{divergences.parse(spec).name}[/]",
        title_justify="left",
    )
    rows = {"f(u), u = p/q": found.formula, "source": found.source, "known as": found.names}
    for name, text in (rows | conventions.equivalents(spec)).items():
        table.add_row(f"[dim]{name}[/]", text)
    return table


def main(argv: list[str]) -> int:
    """Print the cards asked for."""
    try:
        names = cli.load_plugins(argv) or list(divergences.every())
        tables = [card(name) for name in names]
    except UsageError as error:
        return cli.refused(error)
    console = Console(highlight=False)
    for table in tables:
        console.print(table)
        console.print()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
