"""What a context window costs: `python -m experiments.figures context_window [--windows W ...
--order K --seeds N]`.

The expert is a random chain that looks K tokens back, a policy sees the last W tokens. How far each
divergence then stays from 0, at which level it is minimised, what behaviour cloning in the window's
MDP leads to, and what trained tables and transformers reach. Results:
docs/studies/context_window.md.
"""

from __future__ import annotations

import jax
import numpy as np

from experiments.figures.common import classes
from experiments.figures.common.base import Figure, Result
from experiments.figures.context_window import task
from experiments.figures.context_window.checks import all_checks
from experiments.figures.context_window.flags import Flags, checked
from experiments.figures.context_window.picture import draw
from experiments.figures.context_window.rows import (
    nested,
    numbers,
    optima_rows,
    reverse_kl,
    student_row,
)
from experiments.figures.context_window.students import lessons, train_students
from experiments.figures.context_window.task import Views
from fdiv import statistics
from fdiv.benchmarks import Markov
from fdiv.checks import present
from fdiv.ranges import check_ranges

LONGER = 8  # times the horizon, to see what the cut at the horizon does
Spread = dict[str, dict[str, list[float]]]  # window -> number -> least, median, most


def make(flags: Flags) -> Result:
    """Recursions on tables, searches over enumerated strings, and students."""
    flags = checked(flags)
    benchmark = _benchmark(flags, flags.table_seed)
    plan = lessons(flags, benchmark)
    views = _views(flags, flags.table_seed)
    with jax.enable_x64(True):
        world = classes.enumerated(benchmark.build())
        tables = task.optima(world, flags.divergences, views, flags.order, flags.starts)
        metrics = task.measure(world, flags.divergences, tables, views)
    students = train_students(plan)
    best_rows = optima_rows(metrics)
    student_rows = [student_row(views, student) for student in students]
    chains = {times: _chains(flags, times) for times in (1, LONGER)}
    windows = {
        str(w): numbers(view) | {"reverse_kl_clock": reverse_kl(world, w, view)}
        for w, view in views.items()
    }
    values = {
        "windows": windows,
        "chains": {f"horizon x {times}": spread for times, spread in chains.items()},
        "optima": nested(best_rows, ("window", "minimises", "level")),
        "students": nested(student_rows, ("window", "policy", "method", "critic")),
        "few_seeds": flags.seeds < statistics.FEW_SEEDS,
    }
    # From the range on the levels agree, and one row of each divergence says it.
    table = [r for r in best_rows if r["level"] == "sequence" or r["window"] < flags.order]
    return Result(
        values,
        all_checks(flags, world, views, tables, metrics, students, chains),
        table + student_rows,
        draw(flags, windows, best_rows, student_rows),
        best_rows + student_rows,
    )


def _benchmark(flags: Flags, table_seed: int) -> Markov:
    size = (flags.vocab, flags.horizon, flags.order)
    chain = Markov(*size, flags.concentration, flags.mean_length, table_seed)
    check_ranges(chain)  # whose fields have the names of the flags
    return chain


def _views(flags: Flags, table_seed: int, times: int = 1) -> Views:
    """window -> with a clock or without -> what it sees of an expert."""
    expert = np.exp(present(_benchmark(flags, table_seed).build().expert, "expert").params)
    horizon = times * flags.horizon
    return {
        w: {clock: task.view(expert, w, horizon, clock) for clock in (False, True)}
        for w in flags.windows
    }


def _chains(flags: Flags, times: int) -> Spread:
    """The same over many experts, at a multiple of the horizon: least, median and most."""
    each = [_views(flags, flags.table_seed + i, times) for i in range(flags.chains)]
    spread: Spread = {}
    for window in flags.windows:
        of_chains = [numbers(views[window]) for views in each]
        spread[str(window)] = {}
        for name in of_chains[0]:
            x = [chain[name] for chain in of_chains]
            ends = float(np.min(x)), float(np.median(x)), float(np.max(x))
            spread[str(window)][name] = list(ends)
    return spread


FIGURE = Figure(
    flags=Flags,
    make=make,
    title="The context window",
    claim=(
        "Below the expert's range a window is no Markov state: a policy that writes exactly the "
        "expert's (window, token) pairs still loses what the earlier tokens tell, and the levels "
        "part; from the range on every divergence falls to 0."
    ),
    source=(
        "Ho & Ermon 2016 (arXiv 1606.03476), occupancy matching; Singh, Jaakkola & Jordan "
        "1994, aliased states"
    ),
    cluster=Flags(
        windows=(1, 2, 3, 4, 5),
        order=4,
        vocab=3,
        horizon=9,
        chains=200,
        starts=8,
        transformers=(1, 2, 3, 4),
        divergences=("forward_kl", "reverse_kl", "js", "hellinger2"),
        seeds=20,
        updates=4000,
        batch_size=512,
    ),
)
