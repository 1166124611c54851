"""Tokens that one model reads before strings which do not show them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Hidden(NamedTuple):
    """What stands before the strings, and in place of how many of their first tokens."""

    tokens: tuple[int, ...]
    replaced: int = 0

    @property
    def longer(self) -> int:
        """How many more tokens are read than the strings have."""
        return len(self.tokens) - self.replaced


def hidden_message(plain: Sequence[int], told: Sequence[int]) -> Hidden:
    """From the tokens of one prompt without a message and with it: what the two do not have in
    common before where they end alike."""
    shorter = min(len(plain), len(told))
    same = 0
    while same < shorter and plain[-1 - same] == told[-1 - same]:
        same += 1
    return Hidden(tuple(told[: len(told) - same]), len(plain) - same)
