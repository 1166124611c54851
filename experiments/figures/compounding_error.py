"""How errors add up with length: `python -m experiments.figures compounding_error [--errors E ...
--recovery R --horizon T]`.

The cliff: each action errs with probability e, an error costs 1 a step until recovered from (with
probability R a step), so without recovery J = T - (1-e)(1-(1-e)^T)/e. Log-log slopes over T = 8 ..
128 are 1.948, 1.837, 1.341 at e = .001, .01, .1, and 1 with full recovery. Exposure bias: of the
markov fits to the two-template language, how much more their next-token KL adds up over their own
prefixes than over the expert's, in %: 0, 43.3, 66.3, 95.6, 117.2, 141.3 at lengths 3 .. 8 for
forward KL, and less than nothing for reverse KL. Two tokens are too few: there forward KL's fit has
no error at all."""

from __future__ import annotations

import dataclasses
import math

import jax
import matplotlib.pyplot as plt
import numpy as np

from experiments.figures.common import classes
from experiments.figures.common.base import Check, Figure, Picture, Result, near
from experiments.reporting import style
from fdiv import exact
from fdiv.benchmarks.two_template import TwoTemplate
from fdiv.checks import at_least, between, present, share
from fdiv.divergences import parse
from fdiv.types import Level

TIMES = np.array([8, 16, 32, 64, 128])
STEPS = np.arange(1, TIMES[-1] + 1)
FITTED = ("forward_kl", "reverse_kl")
SHORTEST = 3  # tokens from which on a markov policy errs
EPISODES = 20_000
NOTHING = 1e-12  # an accumulated error below this is rounding


@dataclasses.dataclass(frozen=True)
class Flags:
    """The cliff, and the two-template language."""

    errors: tuple[float, ...] = (0.001, 0.01, 0.1)
    """Probabilities of an error at a step of the cliff."""
    recovery: float = 0.0
    """Probability a step of getting back from an error."""
    vocab: int = 2
    """Number of tokens of the language."""
    horizon: int = 8
    """Length of its strings."""
    weight: float = 0.55
    """Weight of template A."""
    noise: float = 0.05
    """Probability that a position leaves its template."""


def make(flags: Flags) -> Result:
    """The cliff by dynamic programming, the language by enumeration."""
    share("recovery", flags.recovery)
    at_least("horizon", flags.horizon, SHORTEST)
    for e in flags.errors or (math.nan,):
        between("errors", e, 0, 1)
    costs = {r: {str(e): _cliff(e, r) for e in flags.errors} for r in (flags.recovery, 1.0)}
    slope = lambda cost: float(np.polyfit(np.log(TIMES), np.log(cost[TIMES - 1]), 1)[0])
    slopes = {r: {e: slope(cost) for e, cost in of_error.items()} for r, of_error in costs.items()}
    checks = [check for e in flags.errors for check in _cliff_checks(e, flags.recovery, slopes)]
    rows, fitted = _exposure(flags)
    excess = {
        d: {str(row["length"]): row["excess_percent"] for row in rows if row["fit"] == d}
        for d in FITTED
    }
    values = {
        "cliff_slope": slopes[flags.recovery],
        "full_recovery_slope": slopes[1.0],
        "excess_accumulated_error": excess,
    }
    table = [
        {"cliff_error": e, "slope": slopes[flags.recovery][e], "with_full_recovery": slopes[1.0][e]}
        for e in slopes[1.0]
    ]
    runs = [(r, e, cost) for r, of_error in costs.items() for e, cost in of_error.items()]
    curve = [
        {"cliff_error": e, "recovery": r, "T": int(T), "cost": cost[T - 1]}
        for r, e, cost in runs
        for T in STEPS
    ]
    picture = _picture(flags, costs, excess)
    return Result(values, checks + fitted, table + rows, picture, curve + rows)


def _cliff(error: float, recovery: float) -> np.ndarray:
    """J(T) for T = 1 .. 128: each step's probability of being in error, stepped forward and added
    up."""
    off, costs = 0.0, []
    for _ in STEPS:
        off = error + (1 - error) * (1 - recovery) * off
        costs.append(off)
    return np.cumsum(costs)


def _cliff_checks(
    error: float, recovery: float, slopes: dict[float, dict[str, float]]
) -> list[Check]:
    """The geometric sum, simulated episodes, and a slope between linear and quadratic; linear with
    full recovery."""
    T, stay, total = int(TIMES[-1]), (1 - error) * (1 - recovery), _cliff(error, recovery)[-1]
    at = f"cliff {error}:"
    closed = error / (1 - stay) * (T - stay * (1 - stay**T) / (1 - stay))
    draw, off, cost = np.random.default_rng(0), np.zeros(EPISODES, bool), np.zeros(EPISODES)
    for _ in range(T):
        off = (draw.random(EPISODES) < error) | (off & (draw.random(EPISODES) >= recovery))
        cost += off
    slope, linear = slopes[recovery][str(error)], slopes[1.0][str(error)]
    rounding = 1e-9 * closed + 1e-13 * T / (1 - stay)
    by_chance = 4 * math.sqrt(T * total / EPISODES)
    between_both = 1 - 1e-9 <= slope <= 2
    return [
        near(f"{at} cost in closed form", total, closed, rounding),
        near(f"{at} cost of {EPISODES:,} episodes", cost.mean(), total, by_chance),
        Check(f"{at} between linear and quadratic", between_both, f"{slope:.6g}"),
        near(f"{at} linear with full recovery", linear, 1.0, 1e-9),
    ]


def _exposure(flags: Flags) -> tuple[list[dict], list[Check]]:
    """Either fit's accumulated KL(p(.|prefix) || q(.|prefix)) on its own prefixes and on the
    expert's."""
    mdp = TwoTemplate(flags.vocab, flags.horizon, flags.weight, flags.noise).build()
    rows, checks = [], []
    with jax.enable_x64(True):
        world = classes.enumerated(mdp)
        policy, space, p = world.policy("markov"), world.space, world.expert
        kl = parse("forward_kl")
        closed = world.law("markov", classes.projection(world, "markov"))
        projected = world.measure(closed)["forward_kl"]
        family = {d: parse(d) for d in FITTED}
        search = exact.ClassSearch(family, space, present(mdp.expert, "expert"), policy)
        for d in family:
            best = search.best(d, exact.random_starts(policy, 9))
            q = world.law("markov", best.params)
            own, expert = (classes.accumulated_kl(world, q, x.arrival).tolist() for x in (q, p))
            for n, (R, E) in enumerate(zip(own, expert), 1):
                if n >= SHORTEST:
                    row = {"fit": d, "length": n, "own_prefixes": R, "expert_prefixes": E}
                    excess = 100 * (R / E - 1) if E > NOTHING else 0.0
                    rows.append(row | {"excess_percent": excess})
            sums = (("own", R, Level.token_policy), ("the expert's", E, Level.token_expert))
            for whose, total, level in sums:
                token = flags.horizon * float(exact.divergence(kl, space, p, q, level))
                name = f"{d} fit: {whose} prefixes add up to the token level"
                checks.append(near(name, total, token, 1e-9 * max(1, token)))
            if d == "forward_kl":
                checks.append(near("forward_kl fit in closed form", E, projected, 1e-8))
    return rows, checks


def _picture(
    flags: Flags, costs: dict[float, dict[str, np.ndarray]], excess: dict[str, dict[str, float]]
) -> Picture:
    style.use()
    figure, (cliff, bias) = plt.subplots(1, 2, figsize=(6.8, 2.9), layout="constrained")
    shades = plt.get_cmap("viridis")(np.linspace(0.05, 0.75, len(costs[1.0])))
    for (e, cost), shade in zip(costs[flags.recovery].items(), shades):
        cliff.plot(STEPS, cost, color=shade, label=f"e = {e}")
        cliff.plot(STEPS, costs[1.0][e], color=shade, linestyle="--", linewidth=1.0)
    cliff.plot([], [], color=style.OTHER, linestyle="--", linewidth=1.0, label="full recovery")
    cliff.set(xscale="log", yscale="log", xlabel="horizon T", ylabel="expected cost J")
    cliff.set_xticks([1, *TIMES], [1, *TIMES])
    cliff.set_xticks([], minor=True)
    cliff.legend(handlelength=1.8, borderaxespad=0.1)
    for d, line in excess.items():
        lengths = [int(n) for n in line]
        look = {"color": style.colour(d), "marker": "o", "markersize": 4, "label": f"{d} fit"}
        bias.plot(lengths, line.values(), **look)
    bias.axhline(0, color=style.EXPERT, linewidth=0.8)
    bias.set(xlabel="length (tokens)", ylabel="excess accumulated error (%)", xticks=lengths)
    bias.legend()
    return figure


FIGURE = Figure(
    flags=Flags,
    make=make,
    title="Compounding error",
    claim=(
        "Without recovery an imitator's cost grows as the square of the horizon until it "
        "saturates, with recovery linearly; forward KL's fit errs ever more on its own prefixes "
        "than on the expert's, reverse KL's less."
    ),
    source=(
        "Ross & Bagnell 2010, Efficient reductions for imitation learning; Arora et al. "
        "2022 (arXiv 2204.01171), ExAccErr"
    ),
)
