"""The ranking table, once as cells and then as terminal, Markdown, CSV, TeX and HTML."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.table import Table as RichTable
from rich.text import Text

from experiments import escapes
from experiments.reporting import scoreboards
from experiments.reporting.schema import MethodResult, RunResult, Summary
from experiments.reporting.scoreboards import Scoreboard
from experiments.storage import whole
from fdiv.statistics import FEW_SEEDS, FEW_SEEDS_NOTE

WIDE = 120  # columns of a terminal from which on words are shown too


class Cell(NamedTuple):
    text: str
    best: bool = False


class Title(NamedTuple):
    text: str
    short: str  # on a terminal


class Ranking(NamedTuple):
    """Titles, rows of cells, and notes that belong under the table."""

    headings: list[Title]
    rows: list[list[Cell]]
    notes: list[str]

    @property
    def titles(self) -> list[str]:
        """The headings in full."""
        return [heading.text for heading in self.headings]


def ranking(result: RunResult) -> Ranking:
    """Methods, best first. An interval is the 95% bootstrap interval of the IQM over seeds."""
    board = scoreboards.of_result(result)
    columns = board.shown(board.columns, result.measured)
    ordered = sorted(result.methods.items(), key=lambda item: _order(item[1], board))
    best = {name: _best([m for _, m in ordered], name, board) for name in columns}
    has_gap = any(m.gap for _, m in ordered)
    numbers = [board.metric(name) for name in [*(["gap"] if has_gap else []), *columns]]
    headings = [
        Title("method", "method"),
        Title("minimises", "minimises"),
        *(Title(metric.title, metric.short) for metric in numbers),
        Title("status", "status"),
    ]
    rows = []
    for name, m in ordered:
        row = [Cell(name), Cell(f"{m.minimises} ({m.level})")]
        if has_gap:
            row.append(Cell(interval(m.gap) if m.gap else "—"))
        row += [_cell(m, metric, best[metric]) for metric in columns]
        rows.append([*row, Cell(m.status)])
    shown = [*columns, *(["gap"] if has_gap else [])]
    return Ranking(headings, rows, _notes(result, board, shown))


def _order(m: MethodResult, board: Scoreboard) -> float:
    """Where a method stands, the best lowest; one without the metric stands last."""
    scores = m.metrics.get(board.rank_by)
    return -board.metric(board.rank_by).better * scores.iqm if scores else float("inf")


def _best(methods: Sequence[MethodResult], name: str, board: Scoreboard) -> float | None:
    better = board.metric(name).better
    values = [m.metrics[name].iqm for m in methods if name in m.metrics]
    return (min(values) if better < 0 else max(values)) if better and values else None


def _cell(m: MethodResult, metric: str, best: float | None) -> Cell:
    scores = m.metrics.get(metric)
    if scores is None:
        return Cell("not finite" if metric in m.infinite else "—")
    return Cell(interval(scores), scores.iqm == best)


def _notes(result: RunResult, board: Scoreboard, shown: Sequence[str]) -> list[str]:
    """What the numbers are, and what the columns that are shown mean."""
    penalty = board.metric("divergence_to_reference").short
    notes = [
        f"Rows in order of {board.rank_by}. IQM over {result.seeds} "
        f"seed{'s'[: result.seeds > 1]} [95% stratified bootstrap interval]; nats.",
        board.values,
        *(text.format(penalty=penalty) for name, text in board.notes.items() if name in shown),
    ]
    began = [
        f"{board.metric(name).title} {number(result.start[name])}"
        for name in board.start_columns
        if name in result.start
    ]
    notes += [f"The common start: {', '.join(began)}."] if began else []
    return notes + ([FEW_SEEDS_NOTE] if result.seeds < FEW_SEEDS else [])


def interval(scores: Summary) -> str:
    """`iqm [low, high]`, or the number alone where all seeds agree to what is shown."""
    middle, low, high = (number(x) for x in (scores.iqm, *scores.ci95))
    return middle if low == high == middle else f"{middle} [{low}, {high}]"


def number(x: float) -> str:
    """Four decimals below 100, fewer above; a rounding error below zero is zero."""
    return f"{x:.3g}" if abs(x) >= 100 else f"{x:.4f}".replace("-0.0000", "0.0000")


def write(folder: Path, table: Ranking) -> None:
    """table.md, table.csv and table.tex."""
    forms = {"md": markdown, "csv": comma_separated, "tex": tex}
    for suffix, form in forms.items():
        whole.write_text(folder / f"table.{suffix}", form(table))


# --- forms ----------------------------------------------------------------------------------------


def markdown(table: Ranking) -> str:
    lines = [
        _line(map(escapes.markdown, table.titles)),
        _line(["---"] * len(table.titles)),
        *(_line(_bold(cell) for cell in row) for row in table.rows),
    ]
    return "\n".join([*lines, "", *map(escapes.markdown, table.notes)]) + "\n"


def _bold(cell: Cell) -> str:
    text = escapes.markdown(cell.text)
    return f"**{text}**" if cell.best else text


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def comma_separated(table: Ranking) -> str:
    text = io.StringIO()
    lines = [table.titles, *([cell.text for cell in row] for row in table.rows)]
    csv.writer(text).writerows([map(escapes.csv_cell, line) for line in lines])
    return text.getvalue()


def tex(table: Ranking) -> str:
    """A booktabs tabular with the notes as comments."""
    columns = "ll" + "r" * (len(table.headings) - 3) + "l"
    lines = [
        *(f"% {escapes.one_line(note)}" for note in table.notes),
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(map(escapes.tex, table.titles)) + r" \\",
        r"\midrule",
        *(" & ".join(map(_tex_cell, row)) + r" \\" for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _tex_cell(cell: Cell) -> str:
    text = escapes.tex(cell.text)
    return rf"\textbf{{{text}}}" if cell.best else text


def terminal(table: Ranking, width: int) -> RichTable:
    """IQMs alone, and on a narrow screen no words but the method's and only as many columns as
    fit."""
    notes = [
        note.replace(" [95% stratified bootstrap interval]", "; intervals are in the report")
        for note in table.notes
    ]
    titles = [heading.short for heading in table.headings]
    texts = [[cell.text.split(" [")[0] for cell in row] for row in table.rows]
    fit, left_out = _that_fit(titles, texts, width)
    if left_out:
        notes.append(f"In the report and not here, for want of width: {', '.join(left_out)}.")
    shown = RichTable(
        box=None,
        padding=(0, 1),
        header_style="bold",
        caption=Text("\n".join(notes), style="table.caption"),
        caption_justify="left",
    )
    for i in fit:
        shown.add_column(Text(titles[i]), justify="left" if i < 2 else "right", no_wrap=True)
    for cells, row in zip(table.rows, texts):
        shown.add_row(*(Text(row[i], style="bold green" if cells[i].best else "") for i in fit))
    return shown


def _that_fit(titles: list[str], texts: list[list[str]], width: int) -> tuple[list[int], list[str]]:
    """(columns that there is room for, titles of the others but the words)"""
    words = ("minimises", "status") if width < WIDE else ()
    fit = [i for i, title in enumerate(titles) if title not in words]
    size = {i: 2 + max(len(titles[i]), *(len(row[i]) for row in texts)) for i in fit}
    left_out: list[str] = []
    while sum(size[i] for i in fit) > width and len(fit) > 2:
        left_out.insert(0, titles[fit.pop()])
    return fit, left_out
