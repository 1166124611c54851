"""What a context window costs: `python -m experiments.figures context_window [--windows W ...
--order K --seeds N]`.

The expert looks 3 tokens back. The least forward KL, reverse KL and js of strings are .804, .596,
.144 nats with a window of 1, .333, .252, .070 with 2, and 0 from 3 on; tables trained for them end
within .001 of that, transformers within .007. Forward KL's is what the prefix tells of the next
token beyond the window, I(token; prefix | window) added up. Its policy is too varied (entropy 3.58
and 3.06, the expert's 2.77), reverse KL's too short (1.76 and 3.00 tokens, the expert's 3.90).

Below the range the window is no Markov state, and that is all that fails. Reverse KL of strings is
the sum over own prefixes for every policy; over windows it adds up too, but to the strings that
cloning writes, not to the expert's. Cloning is perfect in the window MDP: with a clock it writes
the very (window, token) pairs of the expert (tv below 1e-15 on 20 chains), and loses .270 and .100
nats all the same. Without one its pairs are off by tv .003 and .008, all of it what the horizon
cuts off: the median of 20 chains is .014 at window 1, and 2e-6 at 8 times the horizon. The levels
part: at window 2 own prefixes leave forward KL .107 above the best, the expert's prefixes reverse
KL .200, occupancy the two .008 and .022; from 3 on all are one. A critic that reads no more than
the window makes every f into sft: gail's student ends at forward KL .335, reverse KL's at .336
(cloning .333), with a reverse KL of .557 where .252 can be had. One layer of attention sees its
window, each further layer a window less one token more."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from experiments.figures.common import classes
from experiments.figures.common.base import Figure, Result
from experiments.figures.context_window.checks import checks
from experiments.figures.context_window.picture import picture
from experiments.figures.context_window.rows import (
    nested,
    numbers,
    optima_rows,
    reverse_kl,
    student_row,
)
from experiments.figures.context_window.students import asked, students
from experiments.figures.context_window.task import best, measured, seen
from fdiv import divergences, statistics
from fdiv.benchmarks import Markov
from fdiv.checks import at_least
from fdiv.types import UsageError

LEAST = {"order": 1, "vocab": 2, "horizon": 2, "chains": 1, "starts": 1}
LONGER = 8  # times the horizon, to see what the cut at the horizon does


@dataclasses.dataclass(frozen=True)
class Flags:
    """A chain expert of known range, and students with windows."""

    windows: tuple[int, ...] = (1, 2, 3, 4)
    """How many tokens back the students see."""
    order: int = 3
    """How many tokens back the expert looks: the range."""
    vocab: int = 2
    """Number of tokens beside EOS."""
    horizon: int = 8
    """Most actions in a string, EOS included."""
    concentration: float = 0.5
    """Dirichlet concentration of the expert's rows."""
    mean_length: float = 5.0
    """Mean number of tokens before EOS, were there no horizon."""
    table_seed: int = 0
    """Which chain is the expert."""
    chains: int = 20
    """Experts, from that one on, for what needs no search."""
    divergences: tuple[str, ...] = ("forward_kl", "reverse_kl", "js")
    """What is minimised, at every level."""
    starts: int = 4
    """Random tables from which each search starts."""
    methods: tuple[str, ...] = ("sft", "reverse_kl", "js", "gail")
    """How students are trained; a discriminator reads the whole prefix."""
    window_critics: tuple[str, ...] = ("gail", "adversarial:reverse_kl")
    """Adversarial methods trained once more with a discriminator that reads no more than the
    student's window."""
    transformers: tuple[int, ...] = (2,)
    """Windows at which one-layer transformers are trained as well."""
    seeds: int = 5
    """Students of each method."""
    updates: int = 1000
    """Updates of each student."""
    batch_size: int = 256
    """Strings per update."""


def make(flags: Flags) -> Result:
    """Recursions on tables, searches over enumerated strings, and students."""
    flags = _checked(flags)
    benchmark = _benchmark(flags, flags.table_seed)
    lessons = asked(flags, benchmark)
    mdp = benchmark.build()
    views = _views(flags, flags.table_seed)
    with jax.enable_x64(True):
        world = classes.world(mdp)
        tables = best(world, flags.divergences, views, flags.order, flags.starts)
        found = measured(world, flags.divergences, tables, views)
    taught = students(lessons)
    optima, trained = optima_rows(found), [student_row(views, student) for student in taught]
    chains = {times: _chains(flags, times) for times in (1, LONGER)}
    values = {
        "windows": {
            str(w): numbers(view) | {"reverse_kl_clock": reverse_kl(world, w, view)}
            for w, view in views.items()
        },
        "chains": {f"horizon x {times}": kept for times, kept in chains.items()},
        "optima": nested(optima, ("window", "minimises", "level")),
        "students": nested(trained, ("window", "policy", "method", "critic")),
        "few_seeds": flags.seeds < statistics.FEW_SEEDS,
    }
    shown = [row for row in optima if row["level"] == "sequence" or row["window"] < flags.order]
    held = checks(flags, world, views, tables, found, taught, chains)
    return Result(
        values,
        held,
        shown + trained,
        picture(flags, values["windows"], optima, trained),
        optima + trained,
    )


def _checked(flags: Flags) -> Flags:
    """Windows in order, divergences by their own names."""
    for field, least in LEAST.items():
        at_least(field, getattr(flags, field), least)
    for field in ("windows", "transformers"):
        for window in getattr(flags, field):
            at_least(field, window, 1)
    kept = {"divergences": tuple(divergences.parse(name).name for name in flags.divergences)}
    kept |= {field: tuple(sorted(getattr(flags, field))) for field in ("windows", "transformers")}
    for field, values in kept.items():
        if len(set(values)) < len(values) or not (values or field == "transformers"):
            raise UsageError(
                field, getattr(flags, field), "is empty or holds one twice.", "Give each once."
            )
    return dataclasses.replace(flags, **kept)


def _benchmark(flags: Flags, table_seed: int) -> Markov:
    return Markov(
        flags.vocab, flags.horizon, flags.order, flags.concentration, flags.mean_length, table_seed
    )


def _views(flags: Flags, table_seed: int, times: int = 1) -> dict:
    """window -> with a clock or without -> what it sees of an expert."""
    expert = np.exp(_benchmark(flags, table_seed).build().expert.params)
    return {
        w: {clock: seen(expert, w, times * flags.horizon, clock) for clock in (False, True)}
        for w in flags.windows
    }


def _chains(flags: Flags, times: int) -> dict[str, dict[str, list[float]]]:
    """The same over many experts, at a multiple of the horizon: least, median and most."""
    each = [_views(flags, flags.table_seed + i, times) for i in range(flags.chains)]
    kept = {str(w): [numbers(views[w]) for views in each] for w in flags.windows}
    spread = lambda x: [float(np.min(x)), float(np.median(x)), float(np.max(x))]
    return {
        w: {name: spread([view[name] for view in seen_by]) for name in seen_by[0]}
        for w, seen_by in kept.items()
    }


FIGURE = Figure(
    flags=Flags,
    make=make,
    title="The context window",
    claim="Below the expert's range a window is no Markov state: a policy that writes "
    "exactly the expert's (window, token) "
    "pairs still loses what the earlier tokens tell, and the levels part; from the range on "
    "every divergence falls to 0.",
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
