"""Numbers that others have published, for comparison and display only: nothing here enters a computation."""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """A number at a figure's default flags."""

    value: str  # dotted path into the figure's values, keys may hold dots
    number: float
    tolerance: float
    source: str


PUBLISHED: dict[str, list[Published]] = {}
