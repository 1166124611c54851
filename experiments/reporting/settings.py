"""Settings in a few words, as the beginning of a run and its report show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def spelled(fields: Mapping[str, Any]) -> str:
    """`name markov, order 2`: what is set; a list is its words, and an empty one is not set."""
    return ", ".join(f"{k} {_words(v)}" for k, v in fields.items() if v is not None and v != [])


def _words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
