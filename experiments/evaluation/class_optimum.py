"""The best that the policy class can do: one search for each divergence and level, remembered.

A search depends on where it begins, the expert's law, the class and the divergence, and on nothing
else of a run. So other runs with the same ones, those of a sweep above all, read what the first has
found, under a digest of all that and of the code that searches. What is read is measured again, and
searched again where the two differ."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax import Array

import fdiv
from experiments import assemble, escapes
from experiments.assemble import Task
from experiments.config import Evaluation
from experiments.evaluation.evaluator import (
    enumerated,
    exact_measures,
    known_expert,
    known_reference,
    measured_as,
)
from experiments.storage import files, shapes
from fdiv import divergences, exact, metrics
from fdiv.policies import NETWORKS, Architecture
from fdiv.types import Claim, Components, Divergence, Level, Params

STANDARD = ("forward_kl", "reverse_kl", "js", "tv", "hellinger2", "alpha:0.5")
NEAR = 0.005  # a seed this close to a local optimum's value has ended in it
SMALL = 5000  # entries of a table up to which a search starts from many points and runs to the end
LONG, SHORT = 5000, 200  # iterations of a search of a small policy, of a large one
# of a network's, which begins where that for forward KL has ended: it holds nearly every law, so
# that one law is near the best in each divergence, and an iteration costs a tenth of a second
FEW, WIDTHS = 30, (3, 5)  # and the widths that a kink is rounded over on the way
OFF = 1e-3  # of a search's start from another divergence's end
KEPT = 200_000  # entries of a policy up to which an end is kept for other runs
SAME = 1e-9  # relative: what two measurements of one policy may differ by, on two machines


class ClassOptimum(NamedTuple):
    """The best in the class for one divergence at one level."""

    value: float
    metrics: dict[str, float]  # every divergence and statistic at that policy
    local: list[float]  # values of the local optima met, best first
    end: list[Any] = []  # the leaves of its parameters, where later searches start from it too


class ClassOptima:
    """Searches, remembered in a file so that a run that goes on does not search again."""

    def __init__(
        self,
        architecture: Architecture,
        evaluation: Evaluation,
        seed: int,
        task: Task,
        components: Components,
        path: Path,
        extra: Sequence[str] = (),
        kept: Path | None = None,
    ):
        """`extra` are divergences to measure beside the standard ones, `path` the file, `kept` the
        folder of what other runs have found; None where code of the user's own has a part in it,
        which no digest sees."""
        self._full = architecture.name == "full"
        self._pretrained = architecture.name == "hf"
        self._starts, self._seed = evaluation.optimum_starts, seed
        self._task, self._components, self._path = task, components, path
        self._extra, self._kept = tuple(extra), kept
        self._table = tuple(dict.fromkeys([*STANDARD, *extra]))
        self._architecture = architecture
        self.read = 0  # how many searches of earlier runs have taken the place of one
        self._known = files.read(path, _optima) or {}
        shape = jax.eval_shape(components.policy.init, jax.random.key(0))
        self._network = architecture.name in NETWORKS
        self._size = sum(leaf.size for leaf in jax.tree.leaves(shape))
        self._large = self._network or self._size > SMALL

    @property
    def available(self) -> bool:
        """Whether strings are enumerated, so that an optimum can be searched at all; those of
        pretrained models are not."""
        return self._task.space is not None and not self._pretrained

    @property
    def note(self) -> str:
        """How far the optima are to be trusted."""
        if self._full:
            return "The class holds every law, so its optimum is the expert itself."
        if self._large:
            more = f" for forward KL, and {FEW} more from its end for each other divergence"
            return (
                f"The class optimum is one L-BFGS search of {SHORT} iterations"
                f"{more if self._network else ''}: an upper bound, and a gap may be below 0."
            )
        return (
            "The class optimum is the best of L-BFGS in double precision from "
            f"{self._starts} starts."
        )

    def of(self, claim: Claim) -> ClassOptimum:
        """The best in the class for what a method claims to minimise."""
        own = measured_as(claim, self._task)
        # whose prefixes count is read of the policy's alone: elsewhere all shares are one search
        share = claim.policy_prefixes if claim.level == Level.token_policy else 1.0
        return self._best(claim.metric, claim.level, share, own)

    def table(self, names: list[str]) -> dict[str, dict[str, float]]:
        """Sequence-level optima: minimised divergence -> metric -> value."""
        return {
            name: self._best(name, Level.sequence, 1.0).metrics
            for name in dict.fromkeys([*STANDARD, *names])
        }

    def lacking(self, names: list[str]) -> list[str]:
        """Which rows of that table are still to be searched."""
        return [
            name
            for name in dict.fromkeys([*STANDARD, *names])
            if _key(name, Level.sequence, 1.0) not in self._known
        ]

    def search(self, name: str) -> None:
        """Find one row of it."""
        self._best(name, Level.sequence, 1.0)

    def _best(
        self,
        name: str,
        level: Level | Literal["return"],
        share: float,
        own: Divergence | None = None,
    ) -> ClassOptimum:
        """The search of that name, made where it is not remembered; `own` is what is minimised
        where no divergence has the name."""
        key = _key(name, level, share)
        if key not in self._known:
            place = self._place(name, level, share, own)
            optimum = self._from_before(place) if place else None
            if optimum is None:
                optimum = self._optimum(name, level, share, own)
                if place:
                    place.parent.mkdir(parents=True, exist_ok=True)
                    files.write_checked(place, optimum._asdict())
            self._known[key] = optimum._replace(end=[]) if self._large else optimum
            files.write_checked(self._path, {k: v._asdict() for k, v in self._known.items()})
        return self._known[key]

    def _optimum(
        self, name: str, level: Level | Literal["return"], share: float, own: Divergence | None
    ) -> ClassOptimum:
        """Searched now."""
        value, params, local = self._search(name, level, share, own)
        leaves = jax.tree.leaves(params) if self._size <= KEPT else []
        end = [np.asarray(leaf).tolist() for leaf in leaves]
        return ClassOptimum(value, self._measure(params), local, end)

    def _place(
        self, name: str, level: Level | Literal["return"], share: float, own: Divergence | None
    ) -> Path | None:
        """Where other runs look for this search; None for one that each run makes: of what only
        this task can measure, and of a policy that is long to write."""
        if self._kept is None or self._size > KEPT or own is not None or level == "return":
            return None
        if self._full:  # nothing is searched
            return None
        about = repr((_key(name, level, share), self._architecture, jax.default_backend()))
        digest = hashlib.sha256(f"{_code()} {about}".encode())
        space = enumerated(self._task).sequences.tokens
        for leaf in jax.tree.leaves((self._initial(), self._expert_law, space)):
            array = np.asarray(leaf)
            digest.update(f"{array.shape} {array.dtype}".encode() + array.tobytes())
        return self._kept / f"{digest.hexdigest()[:32]}.json"

    def _from_before(self, place: Path) -> ClassOptimum | None:
        """What an earlier run has found, if it measures here as it did there."""
        leaves, structure = jax.tree.flatten(self._initial()[0])

        def parse(data: dict[str, Any]) -> ClassOptimum:
            optimum = _one_optimum(data)
            if list(map(np.shape, optimum.end)) != list(map(np.shape, leaves)):
                raise ValueError("its end is of another class")
            return optimum

        found = files.read(place, parse)
        if found is None:
            return None
        measured = self._measure(structure.unflatten(map(np.array, found.end)))
        both = measured.keys() & found.metrics.keys()
        here, there = ([of[name] for name in sorted(both)] for of in (measured, found.metrics))
        if not both or not np.allclose(here, there, rtol=SAME, atol=SAME, equal_nan=True):
            return None
        self.read += 1
        return found._replace(metrics=measured)

    def _search(
        self, name: str, level: Level | Literal["return"], share: float, own: Divergence | None
    ) -> tuple[float, Params | None, list[float]]:
        """(the least value, where it is, the values of all local optima met)"""
        if self._full:  # it holds every law, the expert's too: no search is as exact
            return 0.0, None, [0.0]
        if self._network and (name, level) == ("forward_kl", Level.sequence):
            best = self._nearest
        elif self._network:
            best = self._from(name, level, share, [self._nearest.params], FEW, own)
        else:
            initial = self._initial(known=own is not None and level == Level.sequence)
            most = SHORT if self._large else LONG
            best = self._from(name, level, share, initial, most, own)
        return best.value, best.params, [value for value, _ in best.minima]

    @functools.cached_property
    def _nearest(self) -> exact.Optimum:
        """A network near the expert, from which searches for every divergence set out."""
        return self._from("forward_kl", Level.sequence, 1.0, self._initial(), SHORT)

    def _from(
        self,
        name: str,
        level: Level | Literal["return"],
        share: float,
        initial: list[Params],
        iterations: int,
        own: Divergence | None = None,
    ) -> exact.Optimum:
        if level == "return":
            return exact.best_policy([self._regret()], initial, iterations=iterations)
        if own is None and (level, share) == (Level.sequence, 1.0) and name in self._table:
            search = self._rows
        else:
            family = {name: own or divergences.over_vocabulary(name)}
            search = self._class_search(family, level, share)
        return search.best(name, initial, iterations)

    @functools.cached_property
    def _rows(self) -> exact.ClassSearch:
        """For every row of the table."""
        family = {name: divergences.over_vocabulary(name) for name in self._table}
        return self._class_search(family, Level.sequence, 1.0)

    def _class_search(
        self, family: dict[str, Divergence], level: Level, share: float
    ) -> exact.ClassSearch:
        space, policy = enumerated(self._task), self._components.policy
        digits = WIDTHS if self._network else exact.DIGITS
        return exact.ClassSearch(family, space, self._expert_law, policy, level, share, digits)

    def _initial(self, known: bool = False) -> list[Params]:
        """Where a search starts: one point of a large class, many of a small one. Of what is dear
        to compute, such as a sum over all pairs of strings, where others have ended (`known`)."""
        policy = self._components.policy
        if self._large:
            return [jax.tree.map(np.asarray, policy.init(jax.random.key(self._seed)))]
        initial = exact.random_starts(policy, self._starts, self._seed)
        ends = self._ends(initial[0])
        return ends if known and ends else initial + ends

    def _ends(self, like: Params) -> list[Params]:
        """Beside the optima met so far: where random starts miss a basin, another divergence's end
        may lie in it. On it the search's own slope may be 0 by symmetry, at a saddle or the worst
        of all, where it would stop."""
        structure = jax.tree.structure(like)
        generator = np.random.default_rng(self._seed)
        beside = lambda x: np.array(x) + OFF * generator.standard_normal(np.shape(x))
        return [
            structure.unflatten(map(beside, best.end)) for best in self._known.values() if best.end
        ]

    def _regret(self) -> Callable[[Params], Array]:
        """What a policy's regularised return lacks of the best."""
        mdp, space, reference = self._task.mdp, enumerated(self._task), known_reference(self._task)
        assert reference is not None, "what the return is charged for is not known"
        with jax.enable_x64(True):
            p, ref = self._expert_law, exact.known_law(space, reference)

        def regret(params: Params) -> Array:
            law = exact.law(space, self._components.policy, params)
            return metrics.return_metrics(space, mdp, p.string, ref, law)["regret"]

        return regret

    @functools.cached_property
    def _expert_law(self) -> exact.Law:
        with jax.enable_x64(True):
            return exact.known_law(enumerated(self._task), known_expert(self._task))

    def _measure(self, params: Params | None) -> dict[str, float]:
        with jax.enable_x64(True):
            return {k: float(v) for k, v in self._everything(params).items()}

    @functools.cached_property
    def _everything(self) -> Callable[[Params | None], dict[str, Array]]:
        """All metrics of a policy of the class; of the expert itself for no parameters."""
        task = self._task
        family = [
            divergences.over_vocabulary(name)
            for name in dict.fromkeys([*divergences.logged(), *self._extra])
        ]
        of_law = exact_measures(task, family, self._expert_law)

        def everything(params: Params | None) -> dict[str, Array]:
            policy = known_expert(task) if params is None else (self._components.policy, params)
            return of_law(exact.law(enumerated(task), *policy))

        return jax.jit(everything)


def _optima(data: dict[str, Any]) -> dict[str, ClassOptimum]:
    if not data:
        raise ValueError("it holds no optimum")
    return {key: _one_optimum(value) for key, value in data.items()}


def _one_optimum(data: dict[str, Any]) -> ClassOptimum:
    optimum = ClassOptimum(**escapes.numbers(data))
    shapes.check(optimum, ClassOptimum)
    return optimum


@functools.cache
def _code() -> str:
    """A digest of what searches: a change of any of it may change what is found."""
    digest = hashlib.sha256()
    searching = [*Path(fdiv.__file__).parent.rglob("*.py"), *Path(__file__).parent.glob("*.py")]
    for path in sorted([*searching, Path(assemble.__file__)]):
        digest.update(path.name.encode() + path.read_bytes())
    for package in ("jax", "jaxlib", "numpy", "scipy"):
        digest.update(f"{package} {metadata.version(package)}".encode())
    return digest.hexdigest()


def _key(name: str, level: str, share: float) -> str:
    return f"{name} {level} {share:g}"


def ended_in(values: np.ndarray, best: ClassOptimum) -> list[int | None]:
    """For each seed's value, which local optimum of the class it ended in (0 the best), None if in
    none of them."""
    where: list[int | None] = []
    for value in values:
        distance = np.abs(np.array(best.local) - value)
        where.append(int(np.argmin(distance)) if distance.size and distance.min() <= NEAR else None)
    return where
