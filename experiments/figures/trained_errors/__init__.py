"""Compounding error of trained students: `python -m experiments.figures trained_errors [--lengths T
... --shares S ...]`.

Chains that see one token back, trained on the two-template language at lengths 4 .. 16 (V=2, w=.55,
noise=.05; five seeds). Error: next-token KL(p||q) summed over the policy's own prefixes. Cost:
positions at which a string is two misses or more off either template. `distill:F@s`: a share s of
its prefixes is the student's own and held fixed; at 1 it is DAgger's.

SFT's fit is the same chain at every length (closed form). Its error grows with log-log slope 2.29
(2.69 from 4 to 8, 1.95 from 8 to 16), on the expert's prefixes 1.61: its excess on its own is 44,
96, 141, 215, 270 % at 4, 6, 8, 12, 16. Where later prefixes are credited errors grow slower, by
-1.16 .. -.76 for reverse_kl, -.68 .. -.43 for js, -.44 .. -.43 for gail (95% of the difference of
slopes), and the cost at 16 is 1.20, .38, .30; SFT's is 5.7, the expert's own 1.20. But up to 8
reverse_kl's slope is no smaller (2.72): its errors stop growing when it writes one template alone,
as all but one student do at 12 and all at 16. The sum of KL(q||p) grows slower at any length: 1.72
against 2.86 up to 8. Own prefixes held fixed do not help. Up to 8 DAgger errs more than SFT under
forward KL (1.87 against 1.47 at 8, slope 2.88) and more than on expert's prefixes under reverse KL
(1.54 against 1.30, slope 2.93). At 16 it errs less (2.64 against 5.65; slope from 8 on .55) as it
leans to one template, but costs more (7.0 against 5.7; slope 3.02 against 2.96). Half and half
costs most there: 8.3 under forward KL, 6.0 under reverse KL. Trained at 6 and asked for 48 tokens,
js and gail lose nearly all their lead (.63 of SFT's error at 6, .98 at 48); reverse_kl has .58 of
it, DAgger under forward KL .84. SFT rolled out is as good as SFT trained there. Transformers
(--policy transformer, which see as far back; tried at 4, 8, 12) end at the same closed forms under
SFT and DAgger."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from experiments.figures.common.base import Figure, Result
from experiments.figures.trained_errors.checks import checks
from experiments.figures.trained_errors.errors import fit, walked
from experiments.figures.trained_errors.numbers import curve, doublings, rows, slope, summary
from experiments.figures.trained_errors.picture import picture
from experiments.figures.trained_errors.students import taught
from fdiv import exact, statistics
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


def make(flags: Flags) -> Result:
    """Train at every length, add up the errors, fit slopes."""
    language = _checked(flags)
    students = {(name, T): student for T in flags.lengths for name, student in taught(flags, T)}
    first = {name: student for (name, T), student in students.items() if flags.rolled_from == T}
    rolled = {
        name: walked(language, student.tables, flags.rolled_to).errors
        for name, student in first.items()
    }
    fitted = walked(language, fit(language, flags.order), flags.lengths[-1])
    at = np.array(flags.lengths) - 1
    values = summary(flags.lengths, students, rolled, doublings(flags.rolled_from, flags.rolled_to))
    values["closed_form_slopes"] = {
        key: float(slope(flags.lengths, sums[:, at].T)[0])
        for key, sums in fitted.errors._asdict().items()
    }
    values["expert_cost"] = dict(zip(flags.lengths, fitted.expert_cost[at].tolist()))
    values["few_seeds"] = flags.seeds < statistics.FEW_SEEDS
    found = checks(flags, language, students, fitted, float(rolled["sft"].cost[0, -1]), values)
    lines = [
        row
        for (name, T), student in students.items()
        for row in curve(name, T, "trained", student.errors)
    ]
    lines += [
        row
        for name, errors in rolled.items()
        for row in curve(name, flags.rolled_from, "rolled", errors)
    ]
    return Result(values, found, rows(values), picture(values), lines)


def _checked(flags: Flags) -> TwoTemplate:
    """The language, at the longest length. Raises `UsageError` before anything is trained."""
    for field in ("lengths", "methods", "distilled", "shares"):
        given = getattr(flags, field)
        if len(set(given)) < len(given):
            raise UsageError(field, given, "holds one twice.", "Give each once.")
    for field in ("seeds", "updates", "order"):
        at_least(field, getattr(flags, field), 1)
    one_of("policy", flags.policy, Class)
    for own in flags.shares:
        share("shares", own)
    if len(flags.lengths) < 2 or list(flags.lengths) != sorted(flags.lengths):
        raise UsageError(
            "lengths", flags.lengths, "has no slope.", "Give two or more, the shortest first."
        )
    at_least("lengths", flags.lengths[0], SHORTEST)
    language = TwoTemplate(flags.vocab, flags.lengths[-1], flags.weight, flags.noise)
    language.build()
    if exact.count_strings(flags.vocab, language.horizon, None) > exact.LIMIT:
        raise UsageError(
            "lengths", language.horizon, "has too many strings to enumerate.", "Drop the longest."
        )
    if "sft" not in flags.methods:
        raise UsageError(
            "methods", flags.methods, "lacks what the others are compared with.", "Add sft."
        )
    if flags.rolled_from not in flags.lengths:
        raise UsageError(
            "rolled_from", flags.rolled_from, "has no students.", f"Use one of {flags.lengths}."
        )
    at_least("rolled_to", flags.rolled_to, 2 * flags.rolled_from)
    return language


FIGURE = Figure(
    flags=Flags,
    make=make,
    title="Compounding error of trained students",
    claim="Errors and cost grow slower than SFT's where a method is credited for later "
    "prefixes; prefixes that are its own but "
    "held fixed add errors while strings are short.",
    source="Ross & Bagnell 2010, Efficient reductions for imitation learning; Ross, Gordon & "
    "Bagnell 2011 (DAgger); "
    "Arora et al. 2022 (arXiv 2204.01171), ExAccErr",
    cluster=Flags(
        lengths=(4, 5, 6, 8, 10, 12, 14, 16, 17),
        shares=(0.0, 0.25, 0.5, 0.75, 1.0),
        rolled_to=192,
        seeds=20,
        updates=3000,
        batch_size=512,
    ),
)
