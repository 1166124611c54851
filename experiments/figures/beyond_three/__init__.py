"""Beyond the usual three divergences: `python -m experiments.figures beyond_three [--divergences D
... --demos N ...]`.

Markov students of the two-template language, five seeds. A gap is a student's own divergence less
the best of its class, in nats per string over f''(1), the unit in which all members agree near p =
q. Demonstrations until the gap is .05: SFT 89; adversarial forward_kl 133, reverse_kl, js, both
gjs, both skews and alpha:0.75 201-250, alpha:0.25 334, alpha:0.5 (hellinger2 is half of it) 430,
alpha:2 457, jeffreys 1167, alpha:-1 never (stuck). With the expert's probabilities 16-20, alpha:-1
and alpha:2 31 and 39. With 16, one adversarial seed in five under alpha:2 ends at 1663. Modes: the
smaller alpha, the more valid and the less diverse: .954 at 0 (reverse_kl), .676 at 1 (forward_kl),
.560 at 2. At equal entropy reverse_kl has .052 more valid strings than SFT sampled cooler, gjs:0.9
.050, js .030, alpha:2 .016 fewer. None drops a mode: mode B has .82 to .95 of its share; a
temperature of .25 leaves it .16 under reverse_kl, .46 under SFT. Stability: with the policy's step
at .05, as the discriminator's, three of five seeds of alpha:-1 are stuck in local optima and no
others. At .1 three of jeffreys, two of alpha:-1, one each of js and alpha in (0, 1); at .2 none of
reverse_kl, two of gjs:0.9, three or more of the rest, with gradients of 2000 times the median under
forward_kl and 12000 under alpha:2. No table overflows, and no student of SFT or distillation is
stuck."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from experiments.figures.beyond_three import checks as beyond_three_checks
from experiments.figures.beyond_three import numbers, picture
from experiments.figures.beyond_three.student import WARMUP, Course
from experiments.figures.beyond_three.students import curvature, demonstrations, train
from experiments.figures.common.base import Figure, Result
from fdiv import divergences, exact, statistics
from fdiv.benchmarks import TwoTemplate
from fdiv.checks import at_least, positive
from fdiv.policies import tabular
from fdiv.rollout import sampler
from fdiv.types import Components, UsageError


@dataclasses.dataclass(frozen=True)
class Flags:
    """Students of many divergences, from demonstrations alone and with the expert's
    probabilities."""

    divergences: tuple[str, ...] = (
        "forward_kl",
        "reverse_kl",
        "js",
        "alpha:-1",
        "alpha:0.25",
        "alpha:0.5",
        "alpha:0.75",
        "alpha:2",
        "hellinger2",
        "jeffreys",
        "skew_kl:0.1",
        "skew_reverse_kl:0.1",
        "gjs:0.1",
        "gjs:0.9",
    )
    """What the students minimise."""
    demos: tuple[int, ...] = (16, 64, 256, 1024, 4096)
    """Fixed demonstrations that a student learns from, ascending."""
    temperatures: tuple[float, ...] = (0.25, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0, 1.2, 1.5)
    """Sampling temperatures of the trained students."""
    rates: tuple[float, ...] = (0.05, 0.1, 0.2)
    """Adam's step for the policy: the first everywhere, the others with the most demonstrations, to
    see what training bears."""
    seeds: int = 5
    """Students per cell."""
    updates: int = 1000
    """Adam steps of each student."""
    batch: int = 64
    """Strings per update."""
    points: int = 20
    """Points of training at which all is measured."""
    starts: int = 4
    """Random starts of the search for each class optimum."""
    policy: str = "markov"
    """The class of the students, a table: independent, markov, markov_t or full."""
    scorer: str = "full"
    """The class of the discriminators, likewise."""
    vocab: int = 3
    """Number of tokens of the two-template language."""
    horizon: int = 6
    """Length of its strings."""
    weight: float = 0.6
    """Weight of template A, the major mode."""
    noise: float = 0.1
    """Probability that a position leaves its template."""


def make(flags: Flags) -> Result:
    """Train the students of each source in one program, and measure them exactly."""
    course = _course(flags)
    rows = demonstrations(course)
    kinds = {"sft": [course.names.index("forward_kl")]}
    kinds |= dict.fromkeys(("adversarial", "distill"), range(len(flags.divergences)))
    groups = {
        source: train(course, source, rows, list(which), flags.starts)
        for source, which in kinds.items()
    }
    truth = numbers.expert(course)
    found = {
        source: numbers.numbers(students, groups["sft"], truth)
        for source, students in groups.items()
    }
    values = {"expert": truth, "few_seeds": flags.seeds < statistics.FEW_SEEDS, **found}
    told = [(source, name, of) for source, many in found.items() for name, of in many.items()]
    table, curve = [_row(*x) for x in told], [line for x in told for line in picture.lines(*x)]
    checks = beyond_three_checks.checks(course, rows, groups, found)
    return Result(values, checks, table, picture.draw(course, found, truth), curve)


def _row(source: str, name: str, of: dict) -> dict[str, Any]:
    """A line of the table that is printed."""
    row: dict[str, Any] = {"source": source, "divergence": name}
    row |= {f"gap@{n}": measures["gap"]["iqm"] for n, measures in of["demos"].items()}
    last = list(of["demos"].values())[-1]
    row |= {"demos_needed": of["demos_needed"]} | {
        m: last[m]["iqm"] for m in ("valid", "mode_share", "entropy")
    }
    row["valid_over_sft"] = of["over_sft_at_equal_entropy"]["valid"]["iqm"]
    row |= {f"stuck@{rate}": x["stuck"] for rate, x in of["stability"].items()}
    steady = next(iter(of["stability"].values()))
    return row | {"peak_gradient": steady["peak_over_median"], "wobble": steady["wobble"]}


def _course(flags: Flags) -> Course:
    for field, least in (
        ("seeds", 1),
        ("batch", 2),
        ("points", 4),
        ("starts", 1),
        ("horizon", 3),
        ("updates", 2 * WARMUP),
    ):
        at_least(field, getattr(flags, field), least)
    if not 0.5 <= flags.weight < 1:
        raise UsageError(
            "weight",
            flags.weight,
            "does not make template A the major mode.",
            "Give .5 or more, below 1.",
        )
    names = tuple(divergences.parse(name).name for name in flags.divergences)
    _distinct("divergences", names)
    for field in ("demos", "rates", "temperatures"):
        for value in _distinct(field, getattr(flags, field)):
            positive(field, value)
    if list(flags.demos) != sorted(flags.demos):
        raise UsageError("demos", flags.demos, "is not ascending.", "Give the fewest first.")
    if flags.updates % flags.points:
        raise UsageError(
            "updates", flags.updates, f"is no multiple of {flags.points} points.", "Change either."
        )
    for name in names:
        if not curvature(name) > 0:
            raise UsageError(
                "divergences", name, "has a kink at p = q, so no unit of its gap.", "Leave it out."
            )
    for field in ("policy", "scorer"):
        if getattr(flags, field) not in tabular.AUTOMATA:
            raise UsageError(
                field,
                getattr(flags, field),
                "is no table.",
                f"Use one of {', '.join(tabular.AUTOMATA)}.",
            )
    mdp = TwoTemplate(flags.vocab, flags.horizon, flags.weight, flags.noise).build()
    space = exact.enumerate_strings(mdp.vocab, mdp.horizon, mdp.eos)
    policy, scorer = (
        tabular.AUTOMATA[name](mdp.vocab, mdp.horizon) for name in (flags.policy, flags.scorer)
    )
    made = (
        tabular.policy(policy, mdp.vocab),
        mdp,
        sampler(mdp.horizon, mdp.eos),
        tabular.scorer(scorer, mdp.vocab),
    )
    measured = tuple(dict.fromkeys([*names, "forward_kl", "reverse_kl", "js"]))
    budget = flags.seeds, flags.updates, flags.batch, flags.points
    return Course(
        Components(*made),
        policy,
        space,
        measured,
        flags.demos,
        flags.rates,
        *budget,
        flags.temperatures,
    )


def _distinct(field: str, values: Sequence[Any]) -> Sequence[Any]:
    if not values or len(set(values)) < len(values):
        raise UsageError(field, values, "is empty or holds one twice.", "Give each once.")
    return values


FIGURE = Figure(
    flags=Flags,
    make=make,
    title="Divergences beyond the usual three",
    claim="The smaller alpha, the more valid and the less diverse a student, and below 1 "
    "better than SFT sampled cooler; "
    "jeffreys and alpha outside [0, 1] need the most demonstrations, and reverse KL bears "
    "the longest steps.",
    source="Ghasemipour et al. 2019 (arXiv 1911.02256); Agarwal et al. 2023 (GKD, arXiv "
    "2306.13649); Ko et al. 2024 (DistiLLM, "
    "arXiv 2402.03898); Caccia et al. 2018 (arXiv 1811.02549), Language GANs falling short",
    cluster=Flags(
        demos=(16, 64, 256, 1024, 4096, 16384),
        seeds=20,
        updates=4000,
        batch=256,
        points=40,
        starts=12,
        horizon=8,
    ),
)
