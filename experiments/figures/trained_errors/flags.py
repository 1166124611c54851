"""The flags of `trained_errors`."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from fdiv import exact
from fdiv.benchmarks import TwoTemplate
from fdiv.checks import at_least, one_of, share
from fdiv.types import UsageError

SHORTEST = 4  # a shorter string over two tokens is never two misses from both templates
Class = Literal["markov", "transformer"]


@dataclasses.dataclass(frozen=True)
class Flags:
    """Students of every method at every length, each a chain that cannot hold the two-template
    language."""

    lengths: tuple[int, ...] = (4, 6, 8, 12, 16)
    """Lengths of strings, each with students of its own."""
    methods: tuple[str, ...] = ("sft", "reverse_kl", "js", "gail")
    """Methods beside distillation, as `compare` names them, sft among them."""
    distilled: tuple[str, ...] = ("forward_kl", "reverse_kl")
    """Divergences that distillation minimises at each prefix."""
    shares: tuple[float, ...] = (0.0, 0.5, 1.0)
    """Shares of distillation's prefixes that are the student's own; with 1 it is DAgger."""
    policy: Class = "markov"
    """Class of the students: a table, or a transformer of one layer."""
    order: int = 1
    """How many tokens back a student sees."""
    rolled_from: int = 6
    """Which of the lengths has students that are asked for longer strings as well."""
    rolled_to: int = 48
    """Length of those."""
    vocab: int = 2
    """Number of tokens of the language."""
    weight: float = 0.55
    """Weight of template A."""
    noise: float = 0.05
    """Probability that a position leaves its template."""
    seeds: int = 5
    """Students of each method at each length."""
    updates: int = 1000
    """Updates of each student."""
    batch_size: int = 256
    """Strings per update."""


def language_of(flags: Flags) -> TwoTemplate:
    """The language, at the longest length. Raises `UsageError` before anything is trained."""
    for field in ("lengths", "methods", "distilled", "shares"):
        values = getattr(flags, field)
        if len(set(values)) < len(values):
            raise UsageError(field, values, "holds one twice.", "Give each once.")
    for field in ("seeds", "updates", "order"):
        at_least(field, getattr(flags, field), 1)
    one_of("policy", flags.policy, Class)
    for own in flags.shares:
        share("shares", own)
    lengths = flags.lengths
    if len(lengths) < 2 or list(lengths) != sorted(lengths):
        fix = "Give two or more, the shortest first."
        raise UsageError("lengths", lengths, "has no slope.", fix)
    at_least("lengths", lengths[0], SHORTEST)
    language = TwoTemplate(flags.vocab, lengths[-1], flags.weight, flags.noise)
    language.build()
    if exact.log_count(flags.vocab, language.horizon, None) > math.log(exact.LIMIT):
        problem = "has too many strings to enumerate."
        raise UsageError("lengths", language.horizon, problem, "Drop the longest.")
    if "sft" not in flags.methods:
        problem = "lacks what the others are compared with."
        raise UsageError("methods", flags.methods, problem, "Add sft.")
    if flags.rolled_from not in lengths:
        fix = f"Use one of {lengths}."
        raise UsageError("rolled_from", flags.rolled_from, "has no students.", fix)
    at_least("rolled_to", flags.rolled_to, 2 * flags.rolled_from)
    return language
