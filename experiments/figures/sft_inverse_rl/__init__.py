"""SFT is inverse RL: `python -m experiments.figures sft_inverse_rl [--classes C ... --seeds N]`.

SFT's loss less the expert's entropy against the forward KL of whole strings, and its gradient
against that of the reward e^s, all along training; then five methods in a policy class that lacks
the expert and in one that holds it: how faithful and how diverse their students are, seed by seed,
and SFT sampled cooler beside them. Results: docs/studies/sft_inverse_rl.md."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from experiments.figures.common import classes
from experiments.figures.common.base import Check, Figure, Result, Row
from experiments.figures.common.classes import EnumeratedTask
from experiments.figures.sft_inverse_rl import checks as sft_checks
from experiments.figures.sft_inverse_rl import picture
from experiments.figures.sft_inverse_rl import students as imitators
from experiments.figures.sft_inverse_rl.picture import COOLED
from experiments.figures.sft_inverse_rl.students import Measures, Student
from fdiv import statistics
from fdiv.benchmarks import TwoTemplate
from fdiv.checks import at_least
from fdiv.policies import tabular
from fdiv.types import UsageError

RATE, POINTS = 0.05, 18  # Adam's step; points of the training curve
TEMPERATURES = np.round(np.linspace(0.4, 1.0, 13), 2)  # of SFT, the baseline
METHODS = {
    "sft": "forward_kl",
    "reverse_kl": "reverse_kl",
    "airl": "reverse_kl",
    "js": "js",
    "gail": "js",
}
PAIRS = (*((method, "sft") for method in METHODS if method != "sft"), ("reverse_kl", COOLED))
MEASURES = ("entropy", "distinct", "self_bleu", "cross_entropy", "mode_b", "valid", "expert_nll")
ENOUGH = 1000  # updates from which the claims are held against the students
TOO_SMALL = 0.1  # nats of least forward KL from which a class counts as lacking the expert


@dataclasses.dataclass(frozen=True)
class Flags:
    """Five methods on the two-template language, in a policy class that lacks the expert and in the
    one that holds it."""

    vocab: int = 3
    """Number of tokens."""
    horizon: int = 6
    """Length of every string."""
    weight: float = 0.6
    """Weight of template A."""
    noise: float = 0.1
    """Probability that a position leaves its template."""
    classes: tuple[str, ...] = ("markov", "full")
    """Policy classes: independent, markov, markov_t, or full, which holds the expert."""
    seeds: int = 8
    """Students of each method."""
    updates: int = 2000
    """Adam steps of each student."""
    batch_size: int = 512
    """Strings per step."""
    samples: int = 100
    """Strings among which distinct ones are counted."""


def make(flags: Flags) -> Result:
    """Train and measure in each class, then compare seed by seed."""
    for field, least in (("seeds", 1), ("updates", 1), ("batch_size", 2), ("samples", 2)):
        at_least(field, getattr(flags, field), least)
    for name in flags.classes or ("",):
        if name not in tabular.AUTOMATA or flags.classes.count(name) > 1:
            fix = f"Give some of {', '.join(tabular.AUTOMATA)}, each once."
            raise UsageError("classes", name, "is no policy class, or is there twice.", fix)
    mdp = TwoTemplate(flags.vocab, flags.horizon, flags.weight, flags.noise).build()
    with jax.enable_x64(True):
        world = classes.enumerated(mdp)
        values: dict = {"expert": world.measure(world.expert), "classes": {}}
    values["few_seeds"] = flags.seeds < statistics.FEW_SEEDS
    rows, checks, curve = [], [], []
    for name in flags.classes:
        values["classes"][name], tests, points = study(flags, world, name)
        checks, curve = checks + tests, curve + points
        rows += [picture.row(name, key, values["classes"][name]) for key in MEASURES]
    every_row = curve + picture.panel_rows(values) + rows
    return Result(values, checks, rows, picture.draw(values, curve), every_row)


def study(flags: Flags, world: EnumeratedTask, name: str) -> tuple[dict, list[Check], list[Row]]:
    """One class: its values, the checks, SFT's training curve."""
    components, ones = imitators.components(world, name), np.ones(flags.seeds)
    stops = [int(n) for n in np.unique(np.geomspace(1, flags.updates, POINTS).round())]
    size = (flags.seeds, flags.batch_size, RATE)
    courses = {
        method: imitators.course(
            components, method, stops if method == "sft" else stops[-1:], *size
        )
        for method in METHODS
    }
    students = {method: Student(course.params[-1], ones) for method, course in courses.items()}
    with jax.enable_x64(True):
        evaluate = imitators.evaluator(world, name, flags.samples)
        measures = {method: evaluate(student) for method, student in students.items()}
        sft = students["sft"].params
        cooled = imitators.at_entropy(evaluate, sft, measures["reverse_kl"]["entropy"])
        students[COOLED] = cooled
        measures[COOLED] = evaluate(cooled) | {"temperature": cooled.temperature}
        cooler = {f"{T:g}": evaluate(Student(sft, T * ones)) for T in TEMPERATURES}
        best = evaluate(imitators.best(world, name))
        curve = sft_checks.curve(world, components, courses["sft"], flags.batch_size)
    diversity = imitators.diversity(components, flags.samples)
    measures = {who: of | diversity(students[who]) for who, of in measures.items()}
    gaps = {
        method: measures[method][d] - best[d][imitators.DIVERGENCES.index(d)]
        for method, d in METHODS.items()
    }
    result = compare(measures, best) | {"gap": _summaries(gaps)}
    result["sft_at_temperature"] = {T: _summaries(of) for T, of in cooler.items()}
    checks = sft_checks.follows(name, curve)
    checks += sft_checks.adds_up(name, [*measures.values(), *cooler.values()], gaps)
    checks.append(sft_checks.counted(name, measures))
    if flags.updates >= ENOUGH and flags.seeds >= statistics.FEW_SEEDS:
        checks += sft_checks.claims(name, result)
    return result, checks, sft_checks.rows(name, stops, curve)


def compare(measures: dict[str, Measures], best: Measures) -> dict:
    """Students over seeds, differences seed by seed, and, in a class without the expert, where JS
    lies."""
    differences = {
        f"{a} - {b}": {
            key: statistics.paired_difference(measures[a][key], measures[b][key])._asdict()
            for key in MEASURES
        }
        for a, b in PAIRS
    }
    optima = {
        d: {key: float(x[i]) for key, x in best.items()}
        for i, d in enumerate(imitators.DIVERGENCES)
    }
    result = {"students": {who: _summaries(of) for who, of in measures.items()}}
    result |= {"differences": differences, "best": optima}
    if best["forward_kl"][0] > TOO_SMALL:
        ends = measures["sft"], measures["reverse_kl"]
        places = {who: picture.position(measures[who], *ends) for who in ("js", "gail")}
        result["position"] = {who: _summaries(place) for who, place in places.items()}
        ends = optima["forward_kl"], optima["reverse_kl"]
        result["best_position"] = picture.position(optima["js"], *ends)
    return result


def _summaries(table: Measures) -> dict[str, dict]:
    return {key: statistics.summarise(x)._asdict() for key, x in table.items()}


FIGURE = Figure(
    flags=Flags,
    make=make,
    title="SFT is inverse RL",
    claim=(
        "SFT's loss less the expert's entropy is the forward KL of whole strings; where the class "
        "lacks the expert reverse KL's student is more faithful and less diverse than SFT's, and "
        "JS's as a rule between them."
    ),
    source=(
        "Sun & van der Schaar 2024 (arXiv 2405.15624), Inverse-RLignment; Ghasemipour et "
        "al. 2019 (arXiv 1911.02256)"
    ),
    cluster=Flags(
        vocab=4,
        horizon=7,
        classes=("markov", "markov_t", "full"),
        seeds=20,
        updates=8000,
        batch_size=1024,
        samples=200,
    ),
)
