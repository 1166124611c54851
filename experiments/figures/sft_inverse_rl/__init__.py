"""SFT is inverse RL: `python -m experiments.figures sft_inverse_rl [--classes C ... --seeds N]`.

No markov policy holds the two-template language. All but the strings drawn (`distinct`,
`self_bleu`) is exact; 8 seeds.

1. SFT's loss on all strings, weighted by the expert, less the expert's entropy is the forward KL of
whole strings, to 4e-15
   nats all along training, and its gradient is that of the reward e^s, to 5e-14. Minibatches
   scatter around it by chance alone. It ends at .4153 in the markov class, whose least is .4152,
   and at .0008 in the full class.
2. In the markov class reverse KL's student has 1.693 nats less entropy than SFT's (95% interval
1.685 to 1.702), 13.8 distinct
   strings in a hundred against 37.1, 1.073 nats more coverage risk, .280 more valid strings and
   2.148 nats less likelihood risk; airl's is alike. SFT cooled to the same entropy (temperature
   .645) has .890 valid strings against .943, but covers the expert .654 nats better. In the full
   class nothing is left between reverse KL and SFT (.001 nats of entropy, .0004 valid); the
   adversarial airl and gail are still .07 and .05 nats of entropy short there.
3. JS lies between, .45 of the way from SFT to reverse KL in entropy, .49 in valid strings, but only
.14 in coverage risk; gail
   is alike. It is no law: with `--classes markov_t --weight 0.8 --seeds 5` every student of js and
   gail ends in a local optimum beyond reverse KL's in valid strings (1.16, 1.21) and in lack of
   entropy (1.23, 1.30). The best of that class lies at .99.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from experiments.figures.common import classes
from experiments.figures.common.base import Check, Figure, Result
from experiments.figures.common.classes import World
from experiments.figures.sft_inverse_rl import checks as sft_checks
from experiments.figures.sft_inverse_rl import picture
from experiments.figures.sft_inverse_rl import students as imitators
from experiments.figures.sft_inverse_rl.picture import COOLED
from experiments.figures.sft_inverse_rl.students import Found, Student
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
    """Train and evaluator in each class, then compare seed by seed."""
    for field, least in (("seeds", 1), ("updates", 1), ("batch_size", 2), ("samples", 2)):
        at_least(field, getattr(flags, field), least)
    for name in flags.classes or ("",):
        if name not in tabular.AUTOMATA or flags.classes.count(name) > 1:
            fix = f"Give some of {', '.join(tabular.AUTOMATA)}, each once."
            raise UsageError("classes", name, "is no policy class, or is there twice.", fix)
    mdp = TwoTemplate(flags.vocab, flags.horizon, flags.weight, flags.noise).build()
    with jax.enable_x64(True):
        world = classes.world(mdp)
        values = {
            "expert": world.measure(world.expert),
            "classes": {},
            "few_seeds": flags.seeds < statistics.FEW_SEEDS,
        }
    rows, checks, curve = [], [], []
    for name in flags.classes:
        values["classes"][name], tests, points = study(flags, world, name)
        checks, curve = checks + tests, curve + points
        rows += [picture.row(name, key, values["classes"][name]) for key in MEASURES]
    return Result(
        values, checks, rows, picture.draw(values, curve), curve + picture.drawn(values) + rows
    )


def study(flags: Flags, world: World, name: str) -> tuple[dict, list[Check], list[dict]]:
    """One class: what was found, the checks, SFT's training curve."""
    components, ones = imitators.components(world, name), np.ones(flags.seeds)
    stops = [int(n) for n in np.unique(np.geomspace(1, flags.updates, POINTS).round())]
    train = lambda m: imitators.course(
        components, m, stops if m == "sft" else stops[-1:], flags.seeds, flags.batch_size, RATE
    )
    courses = {method: train(method) for method in METHODS}
    students = {method: Student(course.params[-1], ones) for method, course in courses.items()}
    with jax.enable_x64(True):
        judged = imitators.evaluator(world, name, flags.samples)
        found = {method: judged(student) for method, student in students.items()}
        students[COOLED] = imitators.at_entropy(
            judged, students["sft"].params, found["reverse_kl"]["entropy"]
        )
        found[COOLED] = judged(students[COOLED]) | {"temperature": students[COOLED].temperature}
        cooler = {f"{T:g}": judged(Student(students["sft"].params, T * ones)) for T in TEMPERATURES}
        best = judged(imitators.best(world, name))
        curve = sft_checks.curve(world, components, courses["sft"], flags.batch_size)
    drawn = imitators.diversity(components, flags.samples)
    found = {who: of | drawn(students[who]) for who, of in found.items()}
    gaps = {
        method: found[method][d] - best[d][imitators.DIVERGENCES.index(d)]
        for method, d in METHODS.items()
    }
    result = compare(found, best) | {
        "sft_at_temperature": {T: _summaries(of) for T, of in cooler.items()},
        "gap": _summaries(gaps),
    }
    checks = sft_checks.follows(name, curve) + sft_checks.adds_up(
        name, [*found.values(), *cooler.values()], gaps
    )
    checks.append(sft_checks.counted(name, found))
    if flags.updates >= ENOUGH and flags.seeds >= statistics.FEW_SEEDS:
        checks += sft_checks.claims(name, result)
    return result, checks, sft_checks.rows(name, stops, curve)


def compare(found: dict[str, Found], best: Found) -> dict:
    """Students over seeds, differences seed by seed, and, in a class without the expert, where JS
    lies."""
    pairs = {f"{a} - {b}": {k: (found[a][k], found[b][k]) for k in MEASURES} for a, b in PAIRS}
    result = {
        "students": {who: _summaries(of) for who, of in found.items()},
        "differences": {
            pair: {k: statistics.paired_difference(*x)._asdict() for k, x in of.items()}
            for pair, of in pairs.items()
        },
        "best": {
            d: {key: float(x[i]) for key, x in best.items()}
            for i, d in enumerate(imitators.DIVERGENCES)
        },
    }
    if best["forward_kl"][0] > TOO_SMALL:
        place = lambda who: picture.position(found[who], found["sft"], found["reverse_kl"])
        result["position"] = {who: _summaries(place(who)) for who in ("js", "gail")}
        result["best_position"] = picture.position(
            *(result["best"][d] for d in ("js", "forward_kl", "reverse_kl"))
        )
    return result


def _summaries(table: Found) -> dict[str, dict]:
    return {key: statistics.summarise(x)._asdict() for key, x in table.items()}


FIGURE = Figure(
    flags=Flags,
    make=make,
    title="SFT is inverse RL",
    claim="SFT's loss less the expert's entropy is the forward KL of whole strings; where "
    "the class lacks the expert "
    "reverse KL's student is more faithful and less diverse than SFT's, and JS's as a rule "
    "between them.",
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
