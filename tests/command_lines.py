"""Command lines of tests that change flags of a common one."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.cli import repeated


def over(words: Sequence[str], flags: Sequence[str]) -> list[str]:
    """The words with these flags in place of their own, as a line may give none twice."""
    own = [one.flag for one in repeated.flags(flags)]
    first = next((i for i, word in enumerate(words) if word.startswith("--")), len(words))
    kept = [one for one in repeated.flags(words) if one.flag not in own]
    return [*words[:first], *(word for one in kept for word in (one.flag, *one.words)), *flags]
