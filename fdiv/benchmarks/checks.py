"""What benchmark fields must satisfy, said in one way."""

from __future__ import annotations

import math

from fdiv.types import UsageError


def at_least(field: str, value: int, least: int) -> None:
    if value < least:
        raise UsageError(field, value, "is too small.", f"Give an integer of at least {least}.")


def between(field: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low < value < high):
        raise UsageError(field, value, "is out of range.", f"Give a number strictly between {low:g} and {high:g}.")


def positive(field: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise UsageError(field, value, "is not positive.", "Give a finite number above 0.")
