"""How often intervals over seeds hold the truth: `python -m experiments.intervals [flags]`.

The first table draws scores of few seeds from laws of several shapes, again and again, and counts
how often 95 % intervals of several kinds hold the law's own IQM. `fdiv.statistics.interval`, the
one that results report, is the last column. The second judges policies that differ from seed to
seed from samples, as where strings cannot be enumerated, though here the truth is known, and counts
how often the reported interval holds the IQM of the policies' true values: with strings of each
seed's own, as a run judges, and with the same strings for all."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments import assemble, cli, devices
from experiments.config import make_config
from experiments.evaluation.evaluator import (
    Evaluator,
    Measured,
    enumerated,
    exact_measures,
    judging_keys,
    known_expert,
)
from fdiv import divergences, exact, statistics
from fdiv.benchmarks import TwoTemplate
from fdiv.checks import at_least, between
from fdiv.policies import Architecture, tabular
from fdiv.types import UsageError

Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
Ends = tuple[np.ndarray, np.ndarray]  # low and high, [runs]
Row = dict[str, float]  # column -> share of intervals that hold the truth
LAWS: Mapping[str, Draw] = {
    "normal": lambda random, shape: random.standard_normal(shape),
    "uniform": lambda random, shape: random.random(shape),
    "exponential (skewed)": lambda random, shape: random.exponential(size=shape),
    "log-normal (skewed)": lambda random, shape: np.exp(random.standard_normal(shape)),
    "Student's t, 3 d.f. (heavy tails)": lambda random, shape: random.standard_t(3, shape),
    "Cauchy (heavier tails)": lambda random, shape: random.standard_cauchy(shape),
    "two modes, 80:20, 6 apart": lambda random, shape: _two_modes(random, shape, 0.2, 6.0),
    "two modes, 50:50, 3 apart": lambda random, shape: _two_modes(random, shape, 0.5, 3.0),
    "two modes, 50:50, 6 apart": lambda random, shape: _two_modes(random, shape, 0.5, 6.0),
}
HORIZON = 3  # of the task whose policies are judged from samples
POPULATION = 1_000_000  # scores that a law's own IQM is read from
KINDS = ("percentile bootstrap", "t of the Winsorised variance", "t of the bootstrap error")
METRICS = ("validation_nll", "entropy", "valid", "js", "reverse_kl_token")


@dataclasses.dataclass(frozen=True)
class Options:
    """How often intervals over seeds hold the truth."""

    seeds: tuple[int, ...] = (3, 5, 10)
    """Numbers of seeds."""
    repetitions: int = 2000
    """Intervals of each law."""
    runs: int = 1000
    """Runs of each number of seeds that are judged from samples; 0 for none."""
    samples: int = 64
    """Strings that judge a policy."""
    spread: float = 0.1
    """Standard deviation of a seed's logits about the best of the class."""
    seed: int = 0
    """Which draws."""


def main(argv: list[str] | None = None) -> int:
    """Simulate and print both tables as Markdown; `USAGE_EXIT` where flags are refused."""
    return cli.script("python -m experiments.intervals", Options, __doc__, _simulate, argv)


def _simulate(options: Options) -> int:
    _check(options)
    table = {
        f"{law} | {n}": over_laws(law, n, options.repetitions, options.seed)
        for law in LAWS
        for n in options.seeds
    }
    print(_markdown("law of the scores | seeds", table))
    if options.runs:
        judged = {
            f"{metric} | {n}": row
            for n in options.seeds
            for metric, row in from_samples(n, options).items()
        }
        print(_markdown("judged from samples | seeds", judged))
    return 0


def _check(options: Options) -> None:
    if not options.seeds or min(options.seeds) < 2:
        fix = "Give numbers of seeds from 2 on; one seed has no interval."
        raise UsageError("seeds", options.seeds, "has no interval to look at.", fix)
    at_least("repetitions", options.repetitions, 1)
    at_least("runs", options.runs, 0)
    at_least("samples", options.samples, 2)
    between("spread", options.spread, 0, 10)


def _markdown(first: str, table: Mapping[str, Row]) -> str:
    columns = list(next(iter(table.values())))
    lines = [[first, *columns], ["---"] * (first.count("|") + 1 + len(columns))]
    lines += [[name, *(f"{row[column]:.3f}" for column in columns)] for name, row in table.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


# --- scores from known laws -----------------------------------------------------------------------


def _two_modes(
    random: np.random.Generator, shape: tuple[int, int], share: float, apart: float
) -> np.ndarray:
    """Seeds that end in one of two local optima."""
    return random.standard_normal(shape) + apart * (random.random(shape) < share)


def over_laws(law: str, seeds: int, repetitions: int, seed: int = 0) -> Row:
    """How often each kind of interval over so many seeds holds the law's IQM."""
    random = np.random.default_rng([seed, seeds, list(LAWS).index(law)])
    truth = statistics.iqm(LAWS[law](random, (1, POPULATION))[0])
    kinds = dict(zip(KINDS, (percentile, winsorised, statistics.intervals)))
    scores = LAWS[law](random, (repetitions, seeds))
    return {kind: coverage(of(scores), truth) for kind, of in kinds.items()}


def coverage(ends: Ends, truth: float) -> float:
    """The share of intervals that hold the truth."""
    low, high = ends
    return float(np.mean((low <= truth) & (truth <= high)))


def percentile(scores: np.ndarray) -> Ends:
    """The percentile bootstrap of each run."""
    ends = np.array([statistics.bootstrap(run, repetitions=400) for run in scores])
    return ends[:, 0], ends[:, 1]


def winsorised(scores: np.ndarray) -> Ends:
    """IQM +- t se of a trimmed mean by the variance of the scores with those that are cut drawn in
    to the nearest that is kept, and as many degrees of freedom as scores are kept, less one.

    Source: Tukey & McLaughlin 1963 (Sankhya A 25)."""
    from scipy import stats  # slow to load

    n = scores.shape[1]
    cut = int(statistics.CUT * n)
    ranked, kept = np.sort(scores, axis=1), n - 2 * cut
    drawn_in = np.clip(ranked, ranked[:, [cut]], ranked[:, [n - 1 - cut]])
    error = drawn_in.std(1, ddof=1) * np.sqrt(n) / kept
    half = stats.t.ppf(0.5 + statistics.CONFIDENCE / 2, kept - 1) * error
    middle = ranked[:, cut : n - cut].mean(1)
    return middle - half, middle + half


# --- policies judged from samples -----------------------------------------------------------------


def from_samples(seeds: int, options: Options, names: Sequence[str] = METRICS) -> dict[str, Row]:
    """How often the reported interval over so many seeds holds the IQM of what the seeds' policies
    truly score, each metric a row."""
    count = options.runs * seeds
    keys = judging_keys(options.seed, count)
    shared = jnp.repeat(keys[::seeds], seeds)  # one for all seeds of a run
    truth, measured = _judged(count, jnp.concatenate([keys, shared]), options)
    truth["validation_nll"] = truth["cross_entropy"] / HORIZON  # all strings are as long
    rows = {}
    for name in names:
        of = measured[name].astype(float).reshape(2, options.runs, seeds)
        shares = (coverage(statistics.intervals(x), statistics.iqm(truth[name])) for x in of)
        rows[name] = dict(zip(("strings of each seed's own", "the same strings"), shares))
    return rows


def _judged(count: int, keys: Array, options: Options) -> tuple[Measured, Measured]:
    """(exact metrics of so many policies, their estimates twice over, by the keys' strings).

    The task has 27 strings, and its class of Markov policies does not hold the expert."""
    config = make_config(
        benchmark=TwoTemplate(vocab=3, horizon=HORIZON),
        policy=Architecture("markov"),
        samples=options.samples,
    )
    task = assemble.task(config)
    components = assemble.components(config, task)
    space = enumerated(task)
    automaton = config.policy.automaton(task.mdp.vocab, task.length)
    with jax.enable_x64(True):
        expert = exact.known_law(space, known_expert(task))
        middle = tabular.nearest(automaton, space, expert).astype(np.float32)
    around = lambda key: middle + options.spread * jax.random.normal(key, middle.shape)
    tables = jax.vmap(around)(jax.random.split(jax.random.key(options.seed), count))
    family = [divergences.parse(name) for name in ("forward_kl", "reverse_kl", "js")]
    measure = exact_measures(task, family, exact.known_law(space, known_expert(task)))
    of_table = lambda table: measure(exact.law(space, components.policy, table))
    truth: Measured = jax.device_get(jax.jit(jax.vmap(of_table))(tables))
    layout = devices.lay_out(len(keys), config.devices)
    twice = layout.put(jnp.concatenate([tables, tables]))
    hidden = task._replace(space=None)
    evaluator = Evaluator(config.evaluation, keys, hidden, components, layout, twice)
    return truth, evaluator.estimates(twice)


if __name__ == "__main__":
    sys.exit(main())
