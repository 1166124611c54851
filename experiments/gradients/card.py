"""The gradient card on a terminal, as JSON, CSV and heat map, and against an earlier one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import FuncNorm
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments import escapes
from experiments.gradients import finite
from experiments.gradients.finite import Grid
from experiments.reporting import style
from experiments.storage import whole
from experiments.storage.run_folder import write_json

Rows = Mapping[str, Mapping[str, Any]]
TITLES = {
    "sequence": "sequence",
    "occupancy": "occupancy",
    "token": "token,\npolicy's prefixes",
    "token_expert": "token,\nexpert's prefixes",
}
COLUMNS = (
    "objective",
    "verdict",
    "cosine",
    "norm ratio",
    "rel. error",
    "variance",
    "trained",
    "batches of 2",
    "off ratio 1",
)
MARKS = ("<!-- card: begin -->", "<!-- card: end -->")  # in a page that holds a card
FURTHER = ("<!-- tables: begin -->", "<!-- tables: end -->")  # and its further tables
EXACT = 1e-6
# Even steps of colour are even steps of the angle, since most cosines are close to 1.
EVEN_IN_ANGLE = FuncNorm((lambda x: np.arcsin(np.clip(x, -1, 1)), np.sin), -1, 1)
WIDE = 190  # columns where nothing says how wide the terminal is


def show(rows: Rows, tables: Sequence[Grid] = ()) -> None:
    """One line an objective; what a trained discriminator makes of it stands beside the optimal
    one. Then the further tables."""
    console = Console(highlight=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, emoji=False, width=WIDE)
    table = Table(box=None, padding=(0, 1), header_style="bold", caption_justify="left")
    table.caption = (
        "Cosine, norm ratio and relative error are against what the objective claims; the "
        "variance is one string's (trace of covariance). Discriminators are optimal; `trained` is "
        "the cosine with a trained one. `batches of 2`: cosine and norm ratio of the expectation "
        "over batches of two strings against the population's. `off ratio 1`: relative error of "
        "the clip after the policy has moved."
    )
    for title in COLUMNS:
        table.add_column(title, justify="left" if title in COLUMNS[:2] else "right")
    for cells in _lines(rows):
        table.add_row(*map(escape, cells))
    console.print(table)
    for grid in tables:
        further = Table(box=None, padding=(0, 1), title=grid.title, title_justify="left")
        further.caption, further.caption_justify = grid.note, "left"
        for title in ("objective", *grid.columns):
            further.add_column(title)
        for label, cells in grid.rows.items():
            further.add_row(*map(escape, (label, *cells)))
        console.print()
        console.print(further)


def _lines(rows: Rows) -> Iterator[list[str]]:
    """The cells of each objective's line."""
    for label, row in rows.items():
        if row["discriminator"] != "trained":
            numbers = (
                f"{row['cosine']:.4f} {row['norm_ratio']:.4f} "
                f"{row['relative_error']:.1e} {row['variance']:.3g}"
            ).split()
            trained = rows.get(f"{label} (trained)")
            few, moved = row.get("in_batches"), row.get("off_ratio")
            yield [
                label,
                row["verdict"],
                *numbers,
                f"{trained['cosine']:.4f}" if trained else "",
                f"{few['cosine']:.4f} x {few['norm_ratio']:.4f}" if few else "",
                "" if moved is None else f"{moved:.1e}",
            ]


def markdown(rows: Rows) -> str:
    """The same as a table in Markdown."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *_lines(rows)]
    return "".join("| " + " | ".join(map(escapes.markdown, line)) + " |\n" for line in lines)


def with_table(page: str, rows: Rows, tables: Sequence[Grid] = ()) -> str:
    """A page of Markdown with this card in place of what stood between its marks, and the further
    tables between theirs, where there are any."""
    page = _between(page, MARKS, markdown(rows))
    if tables and all(mark in page for mark in FURTHER):
        page = _between(page, FURTHER, finite.markdown(tables))
    return page


def _between(page: str, marks: tuple[str, str], text: str) -> str:
    before, _, rest = page.partition(marks[0])
    return f"{before}{marks[0]}\n{text}{marks[1]}{rest.partition(marks[1])[2]}"


def write(folder: Path, flags: Mapping[str, Any], rows: Rows, tables: Sequence[Grid] = ()) -> None:
    """gradients.json, .md, .csv, .png and .pdf."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = {k: v for k, v in flags.items() if k not in ("expect", "out", "page")}
    further = {"tables": {grid.title: grid.numbers for grid in tables}} if tables else {}
    write_json(folder / "gradients.json", {"flags": kept, "rows": rows} | further)
    whole.write_text(folder / "gradients.md", markdown(rows) + finite.markdown(tables))
    style.save(heat_map(rows), folder, "gradients", list(_long(rows)))
    print(f"written to {folder}")


def _long(rows: Rows) -> Iterator[dict[str, Any]]:
    for label, row in rows.items():
        for level, family in row["against"].items():
            for divergence, numbers in family.items():
                row = {"objective": label, "level": level, "divergence": divergence}
                yield row | numbers


def changes(rows: Rows, expected: Mapping[str, str], whole: bool) -> list[str]:
    """What differs from an earlier card: verdicts, rows that are new, and, of a whole card, rows
    that are gone."""
    lines = []
    for label, row in rows.items():
        if label not in expected:
            lines.append(f"new: {label}: {row['verdict']!r}")
        elif expected[label] != row["verdict"]:
            lines.append(f"changed: {label}: {expected[label]!r} -> {row['verdict']!r}")
    return lines + [f"gone: {label}" for label in expected if whole and label not in rows]


def heat_map(rows: Rows) -> Figure:
    """Cosines with every divergence at every level, a block a level; a dot where the gradient is
    that divergence's, exactly."""
    style.use()
    shown = {
        label: row
        for label, row in rows.items()
        if row["discriminator"] != "trained" or not row["variant"]
    }
    levels = list(next(iter(shown.values()))["against"])
    names = list(next(iter(shown.values()))["against"][levels[0]])
    size = (2.2 + 0.145 * len(names) * len(levels), 2.4 + 0.15 * len(shown))
    figure, axes = plt.subplots(1, len(levels), figsize=size, sharey=True, layout="constrained")
    for axis, level in zip(axes, levels):
        table = [[row["against"][level][name] for name in names] for row in shown.values()]
        cosines = np.array([[cell["cosine"] for cell in row] for row in table])
        image = axis.imshow(cosines, cmap="RdBu", norm=EVEN_IN_ANGLE, aspect="auto")
        errors = np.array([[cell["relative_error"] for cell in row] for row in table])
        y, x = np.nonzero(errors < EXACT)
        axis.plot(x, y, "o", color="white", markersize=2.4)
        axis.set(xticks=range(len(names)), yticks=range(len(shown)))
        axis.set_xticklabels(map(escapes.label, names), rotation=90, fontsize=6.5)
        axis.set_yticklabels(map(escapes.label, shown), fontsize=6.5)
        axis.set_title(TITLES.get(level, level), fontsize=8)
        axis.tick_params(length=0)
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)
        for label in axis.get_xticklabels():
            label.set_color(style.colour(label.get_text()))
    ticks = [-1, -0.9, -0.5, 0, 0.5, 0.9, 1]
    bar = figure.colorbar(
        # pyrefly: ignore[unbound-name]
        image,
        ax=axes,
        location="bottom",
        shrink=0.4,
        aspect=40,
        pad=0.02,
        ticks=ticks,
    )
    bar.ax.tick_params(labelsize=7)
    bar.set_label("cosine (dot: exact)", fontsize=8)
    return figure
