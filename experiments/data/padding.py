"""How much of a step is padding, and the widths that keep it small."""

from __future__ import annotations

from experiments.data.reading import Reading
from fdiv import buckets
from fdiv.benchmarks.text import BYTES, Text
from fdiv.buckets import Buckets

GOAL = 0.14  # share of padding that is small enough
MOST = 8  # widths that are fitted, each of which has to be compiled
BATCH = 32  # rows of a step, where there is no run that says how many


def widths(reading: Reading, config: Text, batch: int = BATCH) -> Buckets | None:
    """The widths that rows of a fitted config are computed in; None: all in that of the longest.

    As many as `config.buckets` says; where it says nothing, for tokens the fewest that leave no
    more padding than `GOAL`, and for bytes one."""
    unasked = config.buckets is None and reading.vocabulary is BYTES
    if unasked or config.buckets == 1:  # whose rows need not be looked at
        return None
    size = reading.trained_lengths(config)
    if not size.size:
        return None
    whole = sum(config.cut)
    counts = range(1, MOST + 1) if config.buckets is None else [config.buckets]
    fitted = Buckets((whole,))
    for count in counts:
        fitted = Buckets(buckets.fit(size, whole, count))
        if buckets.padding(size, fitted, batch) <= GOAL:
            break
    return None if len(fitted.widths) == 1 else fitted


def note(reading: Reading, config: Text, fitted: Buckets | None, batch: int = BATCH) -> str:
    """How much of a step's tokens is padding, with these widths and with one."""
    size, whole = reading.trained_lengths(config), sum(config.cut)
    if not size.size:
        return ""
    alone = f"{1 - size.mean() / whole:.0%} of a step's tokens are padding"
    if fitted is None:
        more = "" if size.mean() > (1 - GOAL) * whole else ": --benchmark.buckets 6 makes it less"
        return f"Rows are computed in one width of {whole:,} columns: {alone}{more}."
    share = buckets.padding(size, fitted, batch)
    *first, last = (f"{width:,}" for width in fitted.widths)
    return (
        f"Rows are computed in groups of like length, in widths of {', '.join(first)} and {last} "
        f"columns: {share:.0%} of a step's tokens are padding in batches of {batch:,}, and "
        f"{alone.split()[0]} in one width."
    )
