"""Beyond the usual three divergences: `python -m experiments.figures beyond_three [--divergences D
... --demos N ...]`.

Markov students of the two-template language for many members of the family: how many demonstrations
they need, which modes they keep at which temperature, and which training bears long steps; from
demonstrations alone (SFT, adversarial) and with the expert's probabilities (distillation). A gap is
a student's own divergence less the best of its class, in nats per string over f''(1). Results:
docs/studies/beyond_three.md."""

from __future__ import annotations

import dataclasses
from typing import Any

from experiments.figures.beyond_three import checks as beyond_three_checks
from experiments.figures.beyond_three import numbers, picture
from experiments.figures.beyond_three.students import (
    WARMUP,
    Plan,
    curvature,
    demonstrations,
    train,
)
from experiments.figures.common.base import Figure, Result, Row, distinct
from fdiv import divergences, exact, statistics
from fdiv.benchmarks import TwoTemplate
from fdiv.checks import at_least, positive
from fdiv.policies import tabular
from fdiv.rollout import sampler
from fdiv.types import Components, UsageError

LEAST = {"seeds": 1, "batch": 2, "points": 4, "starts": 1, "horizon": 3, "updates": 2 * WARMUP}


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
    plan = _plan(flags)
    rows = demonstrations(plan)
    kinds = {"sft": [plan.names.index("forward_kl")]}
    kinds |= dict.fromkeys(("adversarial", "distill"), range(len(flags.divergences)))
    groups = {
        source: train(plan, source, rows, list(indices), flags.starts)
        for source, indices in kinds.items()
    }
    truth = numbers.expert(plan)
    values = {
        source: numbers.numbers(students, groups["sft"], truth)
        for source, students in groups.items()
    }
    table, curve = [], []
    for source, of_source in values.items():
        for name, of_name in of_source.items():
            table.append(_row(source, name, of_name))
            curve += picture.lines(source, name, of_name)
    checks = beyond_three_checks.checks(plan, rows, groups, values)
    about = {"expert": truth, "few_seeds": flags.seeds < statistics.FEW_SEEDS}
    return Result(about | values, checks, table, picture.draw(plan, values, truth), curve)


def _row(source: str, name: str, of: dict[str, Any]) -> Row:
    """A line of the table that is printed."""
    row: Row = {"source": source, "divergence": name}
    row |= {f"gap@{n}": measures["gap"]["iqm"] for n, measures in of["demos"].items()}
    last = list(of["demos"].values())[-1]
    row["demos_needed"] = of["demos_needed"]
    row |= {m: last[m]["iqm"] for m in ("valid", "mode_share", "entropy")}
    row["valid_over_sft"] = of["over_sft_at_equal_entropy"]["valid"]["iqm"]
    row |= {f"stuck@{rate}": x["stuck"] for rate, x in of["stability"].items()}
    steady = next(iter(of["stability"].values()))
    return row | {"peak_gradient": steady["peak_over_median"], "wobble": steady["wobble"]}


def _plan(flags: Flags) -> Plan:
    for field, least in LEAST.items():
        at_least(field, getattr(flags, field), least)
    if not 0.5 <= flags.weight < 1:
        problem = "does not make template A the major mode."
        raise UsageError("weight", flags.weight, problem, "Give .5 or more, below 1.")
    names = tuple(divergences.parse(name).name for name in flags.divergences)
    distinct("divergences", names)
    for field in ("demos", "rates", "temperatures"):
        distinct(field, getattr(flags, field))
        for value in getattr(flags, field):
            positive(field, value)
    if list(flags.demos) != sorted(flags.demos):
        raise UsageError("demos", flags.demos, "is not ascending.", "Give the fewest first.")
    if flags.updates % flags.points:
        problem = f"is no multiple of {flags.points} points."
        raise UsageError("updates", flags.updates, problem, "Change either.")
    for name in names:
        if not curvature(name) > 0:
            problem = "has a kink at p = q, so no unit of its gap."
            raise UsageError("divergences", name, problem, "Leave it out.")
    for field in ("policy", "scorer"):
        if getattr(flags, field) not in tabular.AUTOMATA:
            fix = f"Use one of {', '.join(tabular.AUTOMATA)}."
            raise UsageError(field, getattr(flags, field), "is no table.", fix)
    mdp = TwoTemplate(flags.vocab, flags.horizon, flags.weight, flags.noise).build()
    space = exact.enumerate_strings(mdp.vocab, mdp.horizon, mdp.eos)
    policy, scorer = (
        tabular.AUTOMATA[name](mdp.vocab, mdp.horizon) for name in (flags.policy, flags.scorer)
    )
    components = Components(
        tabular.policy(policy, mdp.vocab),
        mdp,
        sampler(mdp.horizon, mdp.eos),
        tabular.scorer(scorer, mdp.vocab),
    )
    return Plan(
        components=components,
        automaton=policy,
        space=space,
        names=tuple(dict.fromkeys([*names, "forward_kl", "reverse_kl", "js"])),
        demos=flags.demos,
        rates=flags.rates,
        seeds=flags.seeds,
        updates=flags.updates,
        batch=flags.batch,
        points=flags.points,
        temperatures=flags.temperatures,
    )


FIGURE = Figure(
    flags=Flags,
    make=make,
    title="Divergences beyond the usual three",
    claim=(
        "The smaller alpha, the more valid and the less diverse a student, and below 1 better than "
        "SFT sampled cooler; jeffreys and alpha outside [0, 1] need the most demonstrations, and "
        "reverse KL bears the longest steps."
    ),
    source=(
        "Ghasemipour et al. 2019 (arXiv 1911.02256); Agarwal et al. 2023 (GKD, arXiv 2306.13649); "
        "Ko et al. 2024 (DistiLLM, arXiv 2402.03898); Caccia et al. 2018 (arXiv 1811.02549), "
        "Language GANs falling short"
    ),
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
