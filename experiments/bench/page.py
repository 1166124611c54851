"""The page of measured speeds: each work has a block between two comments, which a run of that work
writes anew; all else on the page is written by hand and stays."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.bench.rows import MISSED, Row, Side, Want
from experiments.storage import whole

OPENING, CLOSING = "<!-- bench {} -->", "<!-- /bench {} -->"
ALL = "all"  # the block that holds the others
BLOCK = re.compile(r"<!-- bench (\w+) -->\n(.*?)<!-- /bench \1 -->", flags=re.S)
HEADING = """## Beside other codes, and beside what the machine can do

Written by `python -m experiments.bench`. Ours and the peer take turns in one run on one machine;
numbers are medians, in brackets (slowest - fastest) / median; ratios are medians of those within a
repeat, in brackets the least and the largest. The bound is the least time in which the machine, at
the pace of matrix products and memory that it had beside the repeats, does the operations and moves
the bytes that the work needs (counted by hand, `experiments/models/counts.py`; what fits into the
processor's cache need not come from memory). Peak and bandwidth are the shares of these two paces
that our update reaches, of the second above 100 % where a cache serves.
"""
FULL = 1e-3  # below this share nothing is said


def write(path: Path, rows: Sequence[Row], order: Sequence[str], picture: str | None) -> None:
    """Put the blocks of these rows' works into the page, which is begun where there is none.
    `order` is that of all works, `picture` the chart's place from the page."""
    text = path.read_text(encoding="utf-8") if path.exists() else "# Measured speeds\n"
    whole.write_text(path, written(text, rows, order, picture))


def written(text: str, rows: Sequence[Row], order: Sequence[str], picture: str | None) -> str:
    """The page with these rows' blocks in the place of those of the same works."""
    region, blocks = _parts(text)
    works = list(dict.fromkeys(row.work for row in rows))
    blocks |= {work: block([row for row in rows if row.work == work]) for work in works}
    inner = [_marked(work, blocks[work]) for work in order if work in blocks]
    chart = f"\n![ours and the peers]({picture})\n" if picture else ""
    new = _marked(ALL, HEADING + chart + "\n" + "\n\n".join(inner) + "\n")
    if region:
        return text[: region.start()] + new + text[region.end() :]
    before, heading, after = text.partition("\n## ")
    return before.rstrip("\n") + "\n\n" + new + "\n" + heading + after


def works(path: Path) -> set[str]:
    """The works that the page has blocks of."""
    return set(_parts(path.read_text(encoding="utf-8"))[1]) if path.exists() else set()


def _parts(text: str) -> tuple[re.Match[str] | None, dict[str, str]]:
    """Where the page's blocks stand, and the text of each."""
    region = re.search(_between(ALL), text, flags=re.S)
    return region, dict(BLOCK.findall(region.group(1))) if region else {}


def _between(name: str) -> str:
    """A pattern of a block, its text in a group."""
    return re.escape(OPENING.format(name)) + "\n(.*)" + re.escape(CLOSING.format(name))


def _marked(name: str, text: str) -> str:
    return OPENING.format(name) + "\n" + text.rstrip("\n") + "\n" + CLOSING.format(name)


def block(rows: Sequence[Row]) -> str:
    """One work: its table, then where it was measured and each side's settings."""
    titles = ["", "ours", "peer", "ours / peer", "bound", "of bound", "peak", "bandwidth", "wanted"]
    lines = [f"### {rows[0].title}", "", *table(titles, [_cells(row) for row in rows])]
    lines += ["", *_notes(rows)]
    return "\n".join(lines)


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of Markdown."""
    line = lambda cells: f"| {' | '.join(cells)} |"
    return [line(titles), line(["---"] * len(titles)), *map(line, rows)]


def _cells(row: Row) -> list[str]:
    if row.error:
        return [row.size_title, f"failed: {_flat(row.error)}", *[""] * 7]
    m = row.measures
    share = lambda name: f"{m[name]:.0%}" if m.get(name, 0) >= FULL else ""
    ratio = f"{m['of peer']:.3g}" if "of peer" in m else ""
    if row.ratios:
        ratio += f" ({min(row.ratios):.3g} to {max(row.ratios):.3g})"
    tokens = row.ours.tokens if row.ours else 0
    least = row.bound.seconds if row.bound else 0
    limit = _number(tokens / least if tokens else least, tokens) if least else ""
    return [
        row.size_title,
        _of_side(row.ours),
        _of_side(row.peer),
        ratio,
        limit,
        share("of bound"),
        share("of peak"),
        share("of bandwidth"),
        _wanted(row),
    ]


def _of_side(side: Side | None) -> str:
    if side is None:
        return ""
    number = _number(side.rate if side.tokens else side.median, side.tokens)
    return number if len(side.seconds) < 2 else f"{number} ({side.spread:.0%})"


def _number(value: float, tokens: float) -> str:
    """Of tokens a second, or of seconds."""
    return f"{value:,.0f} tokens/s" if tokens else f"{value:.1f} s"


def _wanted(row: Row) -> str:
    return ", ".join(_verdict(row, want, verdict) for want, verdict in row.judged)


def _verdict(row: Row, want: Want, verdict: str) -> str:
    if not verdict:
        return f"{_spelled(want)}: not measured"
    measured = row.measures[want.what]
    missed = "**missed**" if verdict == MISSED else verdict
    return f"{_spelled(want)}: {measured:,.3g}, {missed}"


def _spelled(want: Want) -> str:
    sign = "at most" if want.at_most else "at least"
    value = f"{want.value:,.3g}" if want.value < 1e4 else f"{want.value:,.0f}"
    return f"{want.what} {sign} {value}"


def _notes(rows: Sequence[Row]) -> list[str]:
    """Each said once, whatever number of rows it holds of."""
    said = [
        f"{row.when}, `{row.command}`; {row.machine}; a load of {row.load:.1f} before."
        for row in rows
    ]
    for row in rows:
        said += [f"{row.size_title}: {text}." for text in _numbers(row)]
        for name, side in (("Ours", row.ours), ("Peer", row.peer)):
            if side is not None and side.settings:
                said.append(f"{name}{_named(row, side)}: {_listed(side.settings)}.")
    return [f"- {text}" for text in dict.fromkeys(said)]


def _numbers(row: Row) -> list[str]:
    """What the table has no column for."""
    said = []
    if (bound := row.bound) is not None:
        said.append(
            f"{bound.flops / 1e9:,.3g} GFLOP and {bound.bytes / 1e9:,.3g} GB an update; beside it "
            f"the machine gave {bound.flops_a_second / 1e9:,.0f} GFLOP/s and "
            f"{bound.bytes_a_second / 1e9:,.1f} GB/s"
        )
    judged = {want.what for want, _ in row.judged}
    if others := {k: f"{v:,.3g}" for k, v in row.numbers.items() if k not in judged}:
        said.append(_listed(others))
    if row.peer_missing:
        said.append(f"no peer, {_flat(row.peer_missing)}")
    return said


def _named(row: Row, side: Side) -> str:
    """A peer's name with its versions; of ours nothing."""
    if side is row.ours:
        return ""
    return f" {side.name}" + (f" ({_listed(side.versions)})" if side.versions else "")


def _listed(fields: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in fields.items())


def _flat(text: str) -> str:
    """On one line, and no cell's end."""
    return " ".join(text.split()).replace("|", "\\|")
