"""How errors of trained students add up: `python -m experiments.figures trained_errors [--lengths T
... --shares S ...]`.

Chains that see one token back, trained on the two-template language at several lengths. Error:
next-token KL(p||q) summed over the policy's own prefixes. Cost: positions at which a string is two
misses or more off either template. `distill:F@s`: a share s of its prefixes is the student's own
and held fixed; at 1 it is DAgger's. Results: docs/studies/trained_errors.md."""

from __future__ import annotations

import numpy as np

from experiments.figures.common.base import Figure, Result
from experiments.figures.trained_errors.checks import all_checks
from experiments.figures.trained_errors.errors import closed_form, walk
from experiments.figures.trained_errors.flags import Flags, language_of
from experiments.figures.trained_errors.numbers import curve, doublings, rows, slope, summary
from experiments.figures.trained_errors.picture import draw
from experiments.figures.trained_errors.students import train_students
from fdiv import statistics


def make(flags: Flags) -> Result:
    """Train at every length, add up the errors, fit slopes."""
    language, lengths = language_of(flags), flags.lengths
    students = {(name, T): x for T in lengths for name, x in train_students(flags, T)}
    rolled = {
        name: walk(language, student.tables, flags.rolled_to).errors
        for (name, T), student in students.items()
        if flags.rolled_from == T
    }
    fit = walk(language, closed_form(language, flags.order), lengths[-1])
    at = np.array(lengths) - 1
    values = summary(lengths, students, rolled, doublings(flags.rolled_from, flags.rolled_to))
    values["closed_form_slopes"] = {
        key: float(slope(lengths, sums[:, at].T)[0]) for key, sums in fit.errors._asdict().items()
    }
    values["expert_cost"] = dict(zip(lengths, fit.expert_cost[at].tolist()))
    values["few_seeds"] = flags.seeds < statistics.FEW_SEEDS
    checks = all_checks(flags, language, students, fit, float(rolled["sft"].cost[0, -1]), values)
    lines = []
    for (name, T), student in students.items():
        lines += curve(name, T, "trained", student.errors)
    for name, errors in rolled.items():
        lines += curve(name, flags.rolled_from, "rolled", errors)
    return Result(values, checks, rows(values), draw(values), lines)


FIGURE = Figure(
    flags=Flags,
    make=make,
    title="Compounding error of trained students",
    claim=(
        "Errors and cost grow slower than SFT's where a method is credited for later prefixes; "
        "prefixes that are its own but held fixed add errors while strings are short."
    ),
    source=(
        "Ross & Bagnell 2010, Efficient reductions for imitation learning; Ross, Gordon & "
        "Bagnell 2011 (DAgger); Arora et al. 2022 (arXiv 2204.01171), ExAccErr"
    ),
    cluster=Flags(
        lengths=(4, 5, 6, 8, 10, 12, 14, 16, 17),
        shares=(0.0, 0.25, 0.5, 0.75, 1.0),
        rolled_to=192,
        seeds=20,
        updates=3000,
        batch_size=512,
    ),
)
