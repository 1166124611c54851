"""`index.html`: every figure with its claim, its source, our numbers beside the published ones, its
checks and its command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from experiments.figures.common.base import Check, Figure, Result, finite
from experiments.figures.common.published import PUBLISHED, Published
from experiments.storage import whole


class Comparison(NamedTuple):
    """A published number beside ours."""

    published: Published
    ours: Any  # None where our values hold nothing under that path
    agrees: bool


class Entry(NamedTuple):
    """One figure on the page."""

    key: str
    title: str
    claim: str
    source: str
    command: str
    svg: str = ""
    checks: list[Check] = []
    comparisons: list[Comparison] = []
    seconds: float = 0.0
    reason: str = ""  # why it could not be made
    trace: str = ""

    @property
    def holds(self) -> bool:
        """It was made, and all of its own checks hold. A published number that differs is a
        finding, not a failure."""
        return not self.reason and all(check.holds for check in self.checks)


def entry(
    key: str, figure: Figure, result: Result, svg: str, command: str, seconds: float
) -> Entry:
    """A figure that was made."""
    comparisons = compare(result.values, PUBLISHED.get(key, ()))
    about = (figure.title, figure.claim, figure.source, command)
    return Entry(key, *about, svg, result.checks, comparisons, seconds)


def failed(key: str, command: str, reason: str, trace: str) -> Entry:
    """A figure that could not be made."""
    return Entry(key, key, "", "", command, reason=reason, trace=trace)


def compare(values: Mapping[str, Any], published: Sequence[Published]) -> list[Comparison]:
    """Each published number against the value of ours under its path."""
    pairs = [(p, look_up(finite(values), p.value)) for p in published]
    return [Comparison(p, ours, _agrees(ours, p)) for p, ours in pairs]


def _agrees(ours: Any, published: Published) -> bool:
    if ours is None:
        return False
    ours = float(ours)
    return ours == published.number or abs(ours - published.number) <= published.tolerance


def look_up(tree: Any, path: str) -> Any:
    """The value under a dotted path whose keys may hold dots themselves, or None."""
    if not path:
        return None if isinstance(tree, (dict, list, tuple)) else tree
    if not isinstance(tree, dict):
        return None
    parts = path.split(".")
    heads = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    values = (look_up(tree[head], path[len(head) + 1 :]) for head in heads if head in tree)
    return next((value for value in values if value is not None), None)


def number(value: Any) -> str:
    """Six significant digits, fewer of what is only rounding."""
    if value is None or isinstance(value, str):
        return value or "—"
    text = f"{value:.{1 if abs(value) < 1e-9 else 6}g}"
    return text.replace("-", "\N{MINUS SIGN}", 1) if value < 0 else text


def write(path: Path, entries: Sequence[Entry]) -> None:
    """Fill the template: one file that holds all of itself, pictures included."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    jinja = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = jinja.get_template("gallery.html.j2").render(entries=entries, number=number)
    whole.write_text(path, page)
