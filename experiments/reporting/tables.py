"""The ranking table, once as cells and then as terminal, Markdown, CSV, TeX and HTML."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any, NamedTuple

from rich.table import Table as RichTable

from fdiv.statistics import FEW_SEEDS, FEW_SEEDS_NOTE


class Cell(NamedTuple):
    text: str
    best: bool = False


class Ranking(NamedTuple):
    """Titles, rows of cells, and notes that belong under the table."""

    titles: list[str]
    rows: list[list[Cell]]
    notes: list[str]


EXACT = {  # metric -> (title, which way is better)
    "forward_kl": ("forward KL", -1),
    "reverse_kl": ("reverse KL", -1),
    "js": ("JS", -1),
    "tv": ("TV", -1),
    "valid": ("valid", 1),
    "mode_b": ("mode B", 0),
    "entropy": ("entropy", 0),
}
RETURN = {
    "reward": ("reward", 1),
    "spent": ("spent", 0),
    "kl_spent": ("KL spent", 0),
    "tv": ("TV to optimum", -1),
    "forward_kl": ("forward KL", -1),
    "reverse_kl": ("reverse KL", -1),
    "valid": ("valid", 0),
    "mode_b": ("mode B", 0),
    "entropy": ("entropy", 0),
}
ESTIMATED = {
    "validation_nll": ("validation NLL / token", -1),
    "forward_kl_token_expert": ("forward KL / token", -1),
    "reverse_kl_token": ("reverse KL / token", -1),
    "js_token": ("JS / token", -1),
    "likelihood": ("expert's NLL", 0),
    "entropy": ("entropy", 0),
    "self_bleu": ("self-BLEU", 0),
    "distinct_2": ("distinct-2", 0),
}
VERIFIED = {
    "greedy_accuracy": ("greedy accuracy", 1),
    "accuracy": ("accuracy", 1),
    "pass_8": ("pass@8", 1),
    "answer": ("right answer", 1),
    "ways": ("distinct ways", 0),
    "way_entropy": ("entropy of ways", 0),
    "penalty": ("spent", 0),
    "entropy": ("entropy", 0),
}


SHORT = {  # titles on a terminal
    "gap to class optimum": "gap",
    "forward KL": "fwd KL",
    "reverse KL": "rev KL",
    "validation NLL / token": "NLL/tok",
    "forward KL / token": "fKL/tok",
    "reverse KL / token": "rKL/tok",
    "JS / token": "JS/tok",
    "expert's NLL": "exp.NLL",
    "self-BLEU": "sBLEU",
    "distinct-2": "dist-2",
    "greedy accuracy": "greedy",
    "right answer": "answer",
    "distinct ways": "ways",
    "entropy of ways": "H(way)",
}


def columns(results: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """The metrics worth a column in this run."""
    found = {name for m in results["methods"].values() for name in m["metrics"]}
    sampled = VERIFIED if "greedy_accuracy" in found else ESTIMATED
    chosen = RETURN if "regret" in found else EXACT if results["class_optimum"] else sampled
    return {name: about for name, about in chosen.items() if name in found}


def rank_by(results: Mapping[str, Any]) -> str:
    """The metric that orders the rows: the regret where there is a reward, the accuracy where
    answers are checked; else one that no side of the KL debate owns, or the likelihood of held-out
    text."""
    for name in ("regret", "greedy_accuracy"):
        if any(name in m["metrics"] for m in results["methods"].values()):
            return name
    return "js" if results["class_optimum"] else "validation_nll"


def better(metric: str) -> int:
    """Which way is better for a metric that orders rows: 1 where high is, else -1."""
    return VERIFIED.get(metric, ("", -1))[1]


def ranking(results: Mapping[str, Any]) -> Ranking:
    """Methods, best first. An interval is the 95% bootstrap interval of the IQM over seeds."""
    shown, key = columns(results), rank_by(results)
    score = lambda m: (
        -better(key) * m["metrics"][key]["iqm"] if key in m["metrics"] else float("inf")
    )
    ordered = sorted(results["methods"].items(), key=lambda item: score(item[1]))
    best = {
        name: _best([m["metrics"][name]["iqm"] for _, m in ordered if name in m["metrics"]], way)
        for name, (_, way) in shown.items()
    }
    has_gap = any(m["gap"] for _, m in ordered)
    titles = [
        "method",
        "minimises",
        *(["gap to class optimum"] if has_gap else []),
        *(title for title, _ in shown.values()),
        "status",
    ]
    rows = []
    for name, m in ordered:
        row = [Cell(name), Cell(f"{m['minimises']} ({m['level']})")]
        if has_gap:
            row.append(Cell(interval(m["gap"]) if m["gap"] else "—"))
        for metric in shown:
            found = m["metrics"].get(metric)
            missing = Cell("not finite" if metric in m["infinite"] else "—")
            row.append(Cell(interval(found), found["iqm"] == best[metric]) if found else missing)
        rows.append([*row, Cell(m["status"])])
    return Ranking(titles, rows, _notes(results, key))


def _best(values: list[float], way: int) -> float | None:
    return (min(values) if way < 0 else max(values)) if way and values else None


def _notes(results: Mapping[str, Any], key: str) -> list[str]:
    exact = bool(results["class_optimum"])
    notes = [
        f"Rows in order of {key}. IQM over {results['seeds']} seed{'s'[: results['seeds'] > 1]} "
        "[95% stratified bootstrap interval]; nats.",
        "All values are exact, by enumerating every string."
        if exact
        else "Divergences are estimated from samples of both sides.",
    ]
    if key == "greedy_accuracy":
        notes[1] = (
            "All values are of held-out problems, but for what is spent: that is of the "
            "method's own last batch."
        )
        notes += _checked(results["start"])
    if key == "regret":
        notes.append(
            "Gap: for methods that maximise the return, the best regularised return of the "
            "class less theirs. "
            "Spent: the divergence from the reference that the return is charged for; KL "
            "spent: KL(policy||reference)."
        )
    if exact:
        notes.append(
            "Gap: a method's own divergence at its own level, minus the least that any "
            "policy of the class has."
        )
    if results["seeds"] < FEW_SEEDS:
        notes.append(FEW_SEEDS_NOTE)
    return notes


def _checked(start: Mapping[str, float]) -> list[str]:
    """What the columns mean where answers are checked, and where everyone began."""
    begun = [
        f"{title} {number(start[name])}" for name, (title, _) in VERIFIED.items() if name in start
    ]
    return [
        "Accuracy: share of right answers, of the likeliest tokens (greedy) and drawn; "
        "pass@8: that one of 8 draws is right; "
        "right answer: whatever its steps; distinct ways: right ways in 16 draws, and their "
        "entropy given the problem.",
        f"The common start: {', '.join(begun)}.",
    ]


def interval(found: Mapping[str, Any]) -> str:
    """`iqm [low, high]`, or the number alone where all seeds agree to what is shown."""
    middle, low, high = (number(x) for x in (found["iqm"], *found["ci95"]))
    return middle if low == high == middle else f"{middle} [{low}, {high}]"


def number(x: float) -> str:
    """Four decimals below 100, fewer above; a rounding error below zero is zero."""
    return f"{x:.3g}" if abs(x) >= 100 else f"{x:.4f}".replace("-0.0000", "0.0000")


# --- forms ----------------------------------------------------------------------------------------


def markdown(table: Ranking) -> str:
    mark = lambda cell: f"**{cell.text}**" if cell.best else cell.text
    lines = [
        _line(table.titles),
        _line(["---"] * len(table.titles)),
        *(_line(map(mark, row)) for row in table.rows),
    ]
    return "\n".join([*lines, "", *table.notes]) + "\n"


def _line(cells) -> str:
    return "| " + " | ".join(cells) + " |"


def comma_separated(table: Ranking) -> str:
    text = io.StringIO()
    csv.writer(text).writerows([table.titles, *([cell.text for cell in row] for row in table.rows)])
    return text.getvalue()


def tex(table: Ranking) -> str:
    """A booktabs tabular with the notes as comments."""
    safe = lambda text: text.replace("_", r"\_").replace("%", r"\%").replace("—", "--")
    mark = lambda cell: rf"\textbf{{{safe(cell.text)}}}" if cell.best else safe(cell.text)
    body = [" & ".join(map(mark, row)) + r" \\" for row in table.rows]
    head = " & ".join(map(safe, table.titles)) + r" \\"
    notes = [f"% {note}" for note in table.notes]
    columns = "ll" + "r" * (len(table.titles) - 3) + "l"
    return (
        "\n".join(
            [
                *notes,
                rf"\begin{{tabular}}{{{columns}}}",
                r"\toprule",
                head,
                r"\midrule",
                *body,
                r"\bottomrule",
                r"\end{tabular}",
            ]
        )
        + "\n"
    )


def terminal(table: Ranking, width: int) -> RichTable:
    """IQMs alone, and on a narrow screen no words but the method's and only as many columns as
    fit."""
    notes = [
        note.replace(" [95% stratified bootstrap interval]", "; intervals are in the report")
        for note in table.notes
    ]
    titles = [SHORT.get(title, title) for title in table.titles]
    texts = [[cell.text.split(" [")[0] for cell in row] for row in table.rows]
    kept = [
        i
        for i, title in enumerate(table.titles)
        if width >= 120 or title not in ("minimises", "status")
    ]
    room = lambda: sum(2 + max(len(titles[i]), *(len(row[i]) for row in texts)) for i in kept)
    left_out = []
    while room() > width and len(kept) > 2:
        left_out.insert(0, titles[kept.pop()])
    if left_out:
        notes.append(f"In the report and not here, for want of width: {', '.join(left_out)}.")
    shown = RichTable(
        box=None,
        padding=(0, 1),
        header_style="bold",
        caption="\n".join(notes),
        caption_justify="left",
    )
    for i in kept:
        shown.add_column(titles[i], justify="left" if i < 2 else "right", no_wrap=True)
    for cells, row in zip(table.rows, texts):
        shown.add_row(*(f"[bold green]{row[i]}[/]" if cells[i].best else row[i] for i in kept))
    return shown
