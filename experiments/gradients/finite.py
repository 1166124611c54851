"""What the card's population does not show, as small tables of exact numbers.

groups    few answers to a prompt: the mean over all groups of 2, 4 and 8 against the population,
          and the exact variance, times the size of a group
reuse     one batch for several steps: the loss's gradient against the return's at the policy that
          has moved, and how much of the batch the clip has stopped
variance  of one string's gradient, by the position of the action and by the horizon, baselines
          being means over the population"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import escapes
from experiments.gradients import batches, cases, targets
from experiments.gradients.cases import Case
from experiments.gradients.published import PUBLISHED
from experiments.gradients.targets import QUICK
from experiments.gradients.world import World, random_world, rewarded
from fdiv import objectives
from fdiv.exact import expected_gradient
from fdiv.types import Sequences

Fields = Mapping[str, Any]
PERTURBATION, ROUNDING = 0.5, 1e-16
SIZES = (2, 4, 8)
GROUPED: Sequence[tuple[str, Fields]] = (
    ("reverse_kl", {"baseline": "none"}),
    ("reverse_kl", {"baseline": "mean"}),
    ("reverse_kl", {}),
    ("reverse_kl", {"baseline": "state"}),
    ("relativistic", {}),
    ("sampled_z_score", {}),
    ("reinforce", {}),
    ("rloo", {}),
    ("grpo", {}),
    ("grpo_std", {}),
)
EPOCHS, STEP = (1, 2, 4, 8), 0.2  # a step's length in logits
REUSED: Sequence[tuple[str, Fields]] = (
    ("rloo", {}),
    ("grpo", {}),
    ("grpo", {"clip": 0.99}),
    ("grpo", {"ratio": "sequence"}),
    ("grpo", {"ratio": "sequence", "aggregate": "string_mean"}),
    ("grpo_std", {}),
    ("ppo", {}),
)
POSITIONS, HORIZONS = 4, (2, 4, 8)
SPREAD: Sequence[tuple[str, Fields]] = (
    ("reverse_kl", {"baseline": "none"}),
    ("reverse_kl", {}),
    ("reverse_kl", {"baseline": "state"}),
    ("reverse_kl", {"discount": 0.0}),
    ("reverse_kl", {"discount": 0.0, "baseline": "state"}),
    ("dagger:reverse_kl", {}),
    ("js", {}),
    ("js", {"baseline": "state"}),
    ("forward_kl", {}),
    ("forward_kl", {"baseline": "state"}),
)


class Grid(NamedTuple):
    """A table: what stands in its columns, by row, as text and as numbers."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: dict[str, tuple[str, ...]]
    numbers: dict[str, Any]


def grids() -> list[Grid]:
    """All three. In double precision, under `jax.enable_x64`."""
    return [groups(), reuse(), variance()]


def markdown(tables: Sequence[Grid]) -> str:
    """The tables for a page."""
    parts = []
    for grid in tables:
        lines = [("objective", *grid.columns), ["---"] * (1 + len(grid.columns))]
        lines += [(label, *cells) for label, cells in grid.rows.items()]
        body = "".join("| " + " | ".join(map(escapes.markdown, line)) + " |\n" for line in lines)
        parts.append(f"\n### {grid.title}\n\n{grid.note}\n\n{body}")
    return "".join(parts)


def named(pairs: Sequence[tuple[str, Fields]]) -> list[Case]:
    """Cases of these methods with these fields."""
    known = lambda name: PUBLISHED.get(name) or objectives.resolve(name)
    return [cases.case(name, known(name), fields) for name, fields in pairs]


def at_best(world: World, case: Case) -> tuple[Any, Any]:
    """The objective over the population, and its state, what it learns beside the policy being at
    its best."""
    objective = case.method.build(batches.still(case.method, world.exact))
    start = jax.jit(objective.init, compiler_options=QUICK)(jax.random.key(0), world.params)
    return objective, cases.at_best(world, case, start)


# --- groups ---------------------------------------------------------------------------------------


def groups(sizes: Sequence[int] = SIZES, pairs: Sequence[tuple[str, Fields]] = GROUPED) -> Grid:
    """On three symbols and at most two tokens: seven strings, of which every group is listed."""
    world = rewarded(random_world(3, 2, PERTURBATION, 0), "reverse_kl")
    rows, numbers = {}, {}
    for case in named(pairs):
        objective, aux = at_best(world, case)
        mean = functools.partial(expected_gradient, objective, demos=world.demos, aux=aux)
        population = np.ravel(jax.jit(mean, compiler_options=QUICK)(world.params))
        found = [batches.in_batches(world, case.method, aux, population, n) for n in sizes]
        each = [x for x in found if x is not None]
        numbers[case.label] = {str(n): x._asdict() for n, x in zip(sizes, each)}
        rows[case.label] = tuple(
            f"{x.cosine:.4f} x {x.norm_ratio:.4f}, {x.variance:.3g}" for x in each
        )
    note = (
        "Cosine and norm ratio of the exact mean over all groups of so many answers against the "
        "population's gradient, and the variance times the size of a group. A mean that counts "
        "the answer itself shrinks by 1 - 1/n; dividing by a group's deviation turns."
    )
    return Grid("Groups of a few answers", note, tuple(f"of {n}" for n in sizes), rows, numbers)


# --- reuse ----------------------------------------------------------------------------------------


class Reused(NamedTuple):
    """A batch's loss after the policy has moved."""

    cosine: float  # of its gradient with the return's, there
    norm_ratio: float
    stopped: float  # share of the batch's actions that its clip has stopped


def reuse(epochs: Sequence[int] = EPOCHS, pairs: Sequence[tuple[str, Fields]] = REUSED) -> Grid:
    """The whole population drawn once, then steps of one length down the loss that it gives."""
    world = rewarded(random_world(3, 3, PERTURBATION, 0), "reverse_kl")
    lost = targets.charged(world, "reverse_kl")
    truth = jax.jit(jax.grad(lambda x: lost(x)[""]), compiler_options=QUICK)
    rows, numbers = {}, {}
    for case in named(pairs):
        found = descended(world, case, truth, max(epochs))
        numbers[case.label] = {str(n): found[n - 1]._asdict() for n in epochs}
        rows[case.label] = tuple(
            f"{x.cosine:.4f} x {x.norm_ratio:.3f}, {x.stopped:.0%}"
            for x in (found[n - 1] for n in epochs)
        )
    note = (
        f"One batch, here the whole population, serves several steps of length {STEP:g} in logits. "
        "Cosine and norm ratio of the loss's gradient at each epoch with that of the regularised "
        "return at the policy that has moved, and the share of actions that the clip has stopped. "
        "`rloo` is not meant for it: its loss has no ratio. A token's ratio leaves out that of the "
        "prefix before it."
    )
    return Grid("One batch for several epochs", note, tuple(f"{n}" for n in epochs), rows, numbers)


def descended(world: World, case: Case, truth: Any, epochs: int) -> list[Reused]:
    """What each epoch's gradient is."""
    objective, aux = at_best(world, case)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def drawn(aux: Any) -> Any:
        return objective.prepare(jax.random.key(0), world.params, aux, world.demos)[:2]

    @functools.partial(jax.jit, compiler_options=QUICK)
    def at(params: Any, after: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
        stopped = jnp.zeros(())
        if hasattr(case.method, "clip"):
            _, where = batches.ratios(
                world.exact.policy, params, batch, case.method, world.space.vocab
            )
            mass = batch.sequences.weight[:, None] * batch.sequences.mask
            stopped = jnp.sum(mass * where) / jnp.sum(mass)
        return jax.grad(lambda x: objective.loss(x, after, batch)[0])(params), stopped

    after, batch = drawn(aux)
    params, found = world.params, []
    for _ in range(epochs):
        slope, stopped = at(params, after, batch)
        own, wanted = np.ravel(slope), np.ravel(truth(params))
        compared = targets.against(own, wanted)
        found.append(Reused(compared["cosine"], compared["norm_ratio"], float(stopped)))
        params = params - STEP * slope / max(float(np.linalg.norm(own)), 1e-300)
    return found


# --- variance -------------------------------------------------------------------------------------


def variance(
    horizons: Sequence[int] = HORIZONS, pairs: Sequence[tuple[str, Fields]] = SPREAD
) -> Grid:
    """By position on the card's task, and in all on strings of two symbols that never end."""
    here = random_world(3, POSITIONS, PERTURBATION, 0)
    longer = [random_world(2, n, PERTURBATION, 0, ending=False) for n in horizons]
    rows, numbers = {}, {}
    for case in named(pairs):
        own = by_position(here, case)
        totals = [float(by_position(world, case).sum()) for world in longer]
        slope = math.log(totals[-1] / totals[-2]) / math.log(horizons[-1] / horizons[-2])
        numbers[case.label] = {"position": own.tolist(), "horizon": totals, "slope": slope}
        cells = (f"{x if x > ROUNDING else 0:.3g}" for x in (*own, *totals))
        rows[case.label] = (*cells, f"{slope:.2f}")
    columns = (
        *(f"position {k + 1}" for k in range(POSITIONS)),
        *(f"T = {n}" for n in horizons),
        "slope",
    )
    note = (
        "Variance of one string's gradient (trace of covariance), exact: by the position of the "
        "action on the card's own task; in all for strings of T tokens of two symbols, and the "
        f"slope in log T of the last two. All discounts but 0 are 1; laws differ by logits of "
        f"standard deviation {PERTURBATION:g}, so sequence forward KL's grows with the mean of u^2."
    )
    return Grid("Where the variance comes from", note, columns, rows, numbers)


def by_position(world: World, case: Case) -> np.ndarray:
    """Trace of the covariance of one string's gradient, by the position of the action, [H].

    A table over the whole prefix tree has parameters of its own for each position."""
    objective, aux = at_best(world, case)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def moments(aux: Any) -> tuple[jax.Array, jax.Array]:
        after, batch, _ = objective.prepare(jax.random.key(0), world.params, aux, world.demos)
        strings = batch if isinstance(batch, Sequences) else batch.sequences

        def slope(row: Any) -> jax.Array:
            return jax.grad(lambda x: objective.loss(x, after, row)[0])(world.params)

        # a loss is a sum over rows: each row alone, times its weight
        each = jax.vmap(slope)(jax.tree.map(lambda x: x[:, None], batch))
        share = strings.weight.reshape((-1,) + (1,) * (each.ndim - 1))
        return each.sum(0), jnp.sum(each**2 / jnp.maximum(share, 1e-300), axis=0)

    mean, square = map(np.asarray, moments(aux))
    by_state = (square - mean**2).sum(-1)
    vocab, horizon = world.space.vocab, world.space.horizon
    depth = np.repeat(np.arange(horizon), vocab ** np.arange(horizon))
    return np.bincount(depth, by_state, horizon)
