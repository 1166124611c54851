"""The ranking table, once as cells and then as terminal, Markdown, CSV, TeX and HTML."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table as RichTable
from rich.text import Text

from experiments import escapes
from experiments.reporting import scoreboards, wording
from experiments.reporting.schema import MethodResult, Row, RunResult, Summary
from experiments.reporting.scoreboards import Scoreboard
from experiments.storage import whole
from fdiv.statistics import distinguishable

EXACT_DECIMALS = 4
UNKNOWN_DECIMALS = 2  # of an estimate whose error nobody knows
NOTHING = "—"
INTERVAL = re.compile(r" \[\S+, \S+\]")
TEX_NUMBERS = 6  # of columns that fit a column of text
WIDE = 120  # columns of a terminal from which on words are shown too


class Cell(NamedTuple):
    text: str
    best: bool = False
    scores: Summary | None = None  # over seeds, where it is a number
    value: float | None = None  # where it is a number of no seeds


class Title(NamedTuple):
    text: str
    short: str  # on a terminal and in TeX
    number: bool = False
    metric: str = ""


class Ranking(NamedTuple):
    """Titles, rows of cells, and notes that belong under the table."""

    headings: list[Title]
    rows: list[list[Cell]]  # a method each, best first
    references: list[list[Cell]]  # what methods are held against: the expert, the start
    notes: list[str]

    @property
    def titles(self) -> list[str]:
        """The headings in full."""
        return [heading.text for heading in self.headings]

    @property
    def all_rows(self) -> list[list[Cell]]:
        """Methods, and under them what they are held against."""
        return [*self.rows, *self.references]


def ranking(result: RunResult) -> Ranking:
    """Methods, best first, then the expert and the start as far as they are known."""
    board = scoreboards.of_result(result)
    columns = board.shown(board.columns, result.measured)
    ordered = sorted(result.methods.items(), key=lambda item: _order(item[1], board))
    winners = {name: _winner(result, name, board) for name in columns}
    gap = ["gap"] if any(m.gap for _, m in ordered) else []
    numbers = [board.metric(name) for name in [*gap, *columns]]
    headings = [
        Title("method", "method"),
        Title("minimises", "minimises"),
        *(Title(metric.title, metric.short, True, metric.name) for metric in numbers),
        Title("status", "status"),
    ]
    rows = []
    for name, m in ordered:
        row = [Cell(name), Cell(f"{m.objective} ({m.level})")]
        row += [Cell(interval(m.gap), False, m.gap) if m.gap else Cell(NOTHING) for _ in gap]
        row += [_cell(m, metric, winners[metric] == name, board) for metric in columns]
        rows.append([*row, Cell(wording.status(m))])
    references = {
        who: [Cell(NOTHING) for _ in gap] + [_reference_cell(row, c, board) for c in columns]
        for who, row in ((board.expert, result.expert), ("start", result.start))
        if set(columns) & set(row)
    }
    beside = [
        [Cell(who), Cell(NOTHING), *cells, Cell(NOTHING)] for who, cells in references.items()
    ]
    notes = wording.under_table(result, [*columns, *gap], references)
    return Ranking(headings, rows, beside, notes)


def _order(m: MethodResult, board: Scoreboard) -> tuple[int, float]:
    """Where a method stands, the best lowest; below those whose seeds are all finite stand those
    that lost some, and last those without the metric."""
    scores = m.metrics.get(board.rank_by)
    if scores is None:
        return 2, 0.0
    return int(not scores.whole), -board.metric(board.rank_by).better * scores.iqm


def _winner(result: RunResult, metric: str, board: Scoreboard) -> str | None:
    """The method that is best in a metric by more than the error of its difference from every
    other, and by what is shown; None where several share the first place, where there is no other,
    or where the best exceeds the expert itself (a higher share of valid strings than the expert's
    is no success)."""
    better = board.metric(metric).better
    known = {name: m.metrics[metric] for name, m in result.methods.items() if metric in m.metrics}
    scores = {name: own for name, own in known.items() if own.whole}
    if not better or len(scores) < 2:
        return None
    first = max(scores, key=lambda name: better * scores[name].iqm)
    best = scores.pop(first)
    if better > 0 and best.iqm > result.expert.get(metric, float("inf")):
        return None
    shown = _value(best, board)
    apart = all(
        distinguishable(best.seeds, other.seeds) and _value(other, board) != shown
        for other in scores.values()
    )
    return first if apart else None


# --- cells ----------------------------------------------------------------------------------------


def _cell(m: MethodResult, metric: str, best: bool, board: Scoreboard) -> Cell:
    scores = m.metrics.get(metric)
    if scores is None:
        lost = metric in m.infinite
        return Cell("not finite", value=math.nan) if lost else Cell(NOTHING)
    return Cell(interval(scores, board.estimated), best, scores)


def _reference_cell(row: Row, metric: str, board: Scoreboard) -> Cell:
    """A value of the expert or of the start, with the digits of its own standard error where it is
    estimated."""
    if metric not in row:
        return Cell(NOTHING)
    error = row.get(f"{metric}_stderr", 0.0 if not board.estimated else None)
    text = number(row[metric], decimals(None if error is None else 2 * error))
    return Cell(text, value=row[metric])


def _value(scores: Summary, board: Scoreboard) -> str:
    """The number alone, as it is shown."""
    return interval(scores, board.estimated).split(" [")[0]


def interval(scores: Summary, estimated: bool = False) -> str:
    """`iqm [low, high]`, or the number alone where all seeds agree to what is shown; with the count
    where some seeds are not finite, and so are not in it."""
    text = _interval(scores, estimated)
    return text if scores.whole else f"{text} ({len(scores.seeds)} of {scores.of} finite)"


def _interval(scores: Summary, estimated: bool) -> str:
    """An estimate has the digits that its interval supports. One seed has no interval; its estimate
    has the standard error of sampling behind it, where that is known, as `iqm ± error`."""
    if scores.ci95 is None:
        error = scores.stderr[0] if scores.stderr else None
        if not estimated or error is None:
            return number(scores.iqm, decimals(None) if estimated else EXACT_DECIMALS)
        digits = decimals(2 * error)
        return f"{number(scores.iqm, digits)} ± {number(error, digits + 1)}"
    low, high = scores.ci95
    digits = decimals((high - low) / 2) if estimated else EXACT_DECIMALS
    texts = [number(x, digits) for x in (scores.iqm, low, high)]
    return texts[0] if len(set(texts)) == 1 else f"{texts[0]} [{texts[1]}, {texts[2]}]"


def decimals(half_width: float | None) -> int:
    """Decimals that an error supports: the last one shown is worth at most half of the interval's
    half-width, and more than a twentieth of it. `None` for an error that nobody knows."""
    if half_width is None or not math.isfinite(half_width):
        return UNKNOWN_DECIMALS
    if half_width <= 0:
        return EXACT_DECIMALS
    return min(max(math.ceil(-math.log10(half_width / 2)), 0), EXACT_DECIMALS)


def number(x: float, decimals: int = EXACT_DECIMALS) -> str:
    """Four decimals below 100, fewer above and where an error supports fewer; a rounding error
    below zero is zero."""
    if abs(x) >= 100 and decimals > 0:
        return f"{x:.3g}"
    text = f"{x:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text


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
        *(_line(_bold(cell) for cell in row) for row in table.all_rows),
    ]
    return "\n".join([*lines, "", *map(escapes.markdown, table.notes)]) + "\n"


def _bold(cell: Cell) -> str:
    text = escapes.markdown(cell.text)
    return f"**{text}**" if cell.best else text


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def comma_separated(table: Ranking) -> str:
    """One number a cell, with all of its digits: the IQM, and where some method has an interval its
    ends in columns of their own; where some seeds are not finite, how many are. What nobody has
    measured is empty, and what is not finite on any seed is nan."""
    columns = []
    for i, heading in enumerate(table.headings):
        cells = [row[i] for row in table.all_rows]
        if heading.number:
            columns += _columns(heading.text, cells)
        else:
            empty = lambda cell: "" if cell.text == NOTHING else cell.text
            columns.append([heading.text, *map(empty, cells)])
    text = io.StringIO()
    csv.writer(text).writerows([map(escapes.csv_cell, line) for line in zip(*columns)])
    return text.getvalue()


def _columns(title: str, cells: list[Cell]) -> list[list[str]]:
    """The columns of one metric: its values, and what else some cell knows of them."""
    plain = lambda x: "" if x is None else repr(float(x))
    value = lambda cell: cell.scores.iqm if cell.scores else cell.value
    ends = [cell.scores.ci95 if cell.scores else None for cell in cells]
    columns = [[title, *(plain(value(cell)) for cell in cells)]]
    if any(ends):
        for i, end in enumerate(("low", "high")):
            columns.append([f"{title} {end}", *(plain(two[i] if two else None) for two in ends)])
    if any(cell.scores and not cell.scores.whole for cell in cells):
        counts = [str(len(cell.scores.seeds)) if cell.scores else "" for cell in cells]
        columns.append([f"{title} finite seeds", *counts])
    return columns


def plain(table: Ranking) -> list[dict[str, Any]]:
    """A dictionary for each row: words, and numbers with their seeds and interval where these are
    known; what nobody has measured is left out."""
    rows = []
    for cells in table.all_rows:
        row: dict[str, Any] = {}
        for title, cell in zip(table.titles, cells):
            if cell.scores:
                row[title] = {"iqm": cell.scores.iqm, "seeds": cell.scores.seeds}
                row[title] |= {"ci95": cell.scores.ci95} if cell.scores.ci95 else {}
            elif cell.text != NOTHING:
                row[title] = cell.text if cell.value is None else cell.value
        rows.append(row)
    return rows


def tex(table: Ranking) -> str:
    """A booktabs tabular that fits a column of text: IQMs alone, of the first metrics; the notes,
    and what was left out, as comments."""
    numbers = [i for i, heading in enumerate(table.headings) if heading.number]
    shown, beyond = [0, *numbers[:TEX_NUMBERS]], numbers[TEX_NUMBERS:]
    notes = list(table.notes)
    if beyond:
        titles = ", ".join(table.titles[i] for i in beyond)
        notes.append(f"In table.csv and not here, for want of width: {titles}.")
    body = lambda rows: [" & ".join(_tex_cell(row[i]) for i in shown) + r" \\" for row in rows]
    lines = [
        *(f"% {escapes.one_line(note)}" for note in notes),
        r"% needs \usepackage{booktabs}",
        rf"\begin{{tabular}}{{@{{}}l{'r' * (len(shown) - 1)}@{{}}}}",
        r"\toprule",
        " & ".join(escapes.tex(table.headings[i].short) for i in shown) + r" \\",
        r"\midrule",
        *body(table.rows),
        *([r"\midrule"] if table.references else []),
        *body(table.references),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _tex_cell(cell: Cell) -> str:
    text = escapes.tex(INTERVAL.sub("", cell.text))
    return rf"\textbf{{{text}}}" if cell.best else text


def terminal(table: Ranking, width: int) -> RichTable:
    """IQMs alone, and on a narrow screen no words but the method's and only as many columns as
    fit."""
    notes = [
        note.replace(f" {wording.INTERVAL}", "; intervals are in the report")
        for note in table.notes
    ]
    titles = [heading.short for heading in table.headings]
    texts = [[INTERVAL.sub("", cell.text) for cell in row] for row in table.all_rows]
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
    for cells, row in zip(table.all_rows, texts):
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
