"""Settings in a few words, as the beginning of a run and its report show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def spelled(fields: Mapping[str, Any]) -> str:
    """`name markov, order 2`: what is set; a list is its words, a group its own settings in
    brackets, and an empty one is not set."""
    words = {name: _words(value) for name, value in fields.items() if value is not None}
    return ", ".join(f"{name} {value}" for name, value in words.items() if value)


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({inner})" if (inner := spelled(value)) else ""
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
