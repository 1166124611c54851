"""The shape of what a run leaves: `results.json` and `methods/*.json`, read and written here alone.

Version 2 says what kind the task is, and names four metrics anew (`metrics.RENAMED`). Files of
version 1 are read as if they had been written today; nothing writes them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from experiments import escapes
from experiments.evaluation.frontier import FrontierPoint
from experiments.reporting import metrics as table
from experiments.storage import files, shapes
from fdiv.objectives import METHODS
from fdiv.types import Look, UsageError

VERSION = 2
VARIED = "varied"  # in merged runs, stands for a setting that is not the same in all of them

Kind = Literal["exact", "return", "verified", "sampled"]
Row = dict[str, float]  # metric -> value
Json = dict[str, Any]  # an object as `json` reads it
HistoryLine = dict[str, Any]  # a line of metrics.jsonl: method, seed, update, tokens and metrics


@dataclasses.dataclass(frozen=True)
class Summary:
    """A metric over seeds. `ci95` is the interval of the IQM (`fdiv.statistics.interval`), which
    one seed does not give."""

    iqm: float
    mean: float
    ci95: list[float] | None
    seeds: list[float]
    estimated: bool = False  # from samples, where the metric is exact elsewhere
    stderr: list[float] | None = None  # of each seed's estimate
    numbers: list[int] | None = None
    """Which seeds these are, where others of the run are not finite and so left out."""
    of: int | None = None
    """And of how many."""

    @property
    def whole(self) -> bool:
        """Whether all seeds are finite."""
        return self.of is None

    def by_seed(self) -> dict[int, float]:
        """Number of a seed -> its value."""
        return dict(zip(self.numbers or range(len(self.seeds)), self.seeds))


def paired(a: Summary, b: Summary) -> list[tuple[int, float, float]]:
    """(seed, value of `a`, value of `b`) of the seeds on which both are finite."""
    other = b.by_seed()
    return [(seed, x, other[seed]) for seed, x in a.by_seed().items() if seed in other]


@dataclasses.dataclass(frozen=True)
class Gap(Summary):
    """A method's own divergence less the class's best, in nats."""

    ended_in: list[int | None] = dataclasses.field(default_factory=list)
    """For each seed the local optimum of the class it ended in (0 the best), None for none."""
    local_optima: list[float] = dataclasses.field(default_factory=list)
    """Their values, best first."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A method against a reference on one metric, seed by seed."""

    reference: str
    metric: str
    difference: Summary
    probability_of_improvement: float
    probability_ci95: list[float]


@dataclasses.dataclass(frozen=True)
class Trial:
    """A learning rate that was tried, and how far from the best it came: lower is better."""

    learning_rate: float
    score: float


@dataclasses.dataclass(frozen=True)
class Change:
    """What an estimated metric was at the common start, is at the end, and by how much it moved:
    means over seeds, each judged on the same prompts at both times."""

    metric: str
    start: float
    end: float
    stderr: float  # of `end - start`, the larger of what sampling and what the seeds' spread say

    @property
    def moved(self) -> float:
        return self.end - self.start

    @property
    def clear(self) -> bool:
        """Whether it moved by more than two standard errors."""
        return abs(self.moved) > 2 * self.stderr


@dataclasses.dataclass(frozen=True)
class MethodResult:
    """One method on all its seeds: an entry of `results.json`, and a file in `methods/`."""

    minimises: str  # a divergence
    level: str
    target: str  # what it really does, in one sentence
    group: str
    published: bool | str
    look: Look  # how it is drawn
    status: str  # ok or diverged
    reason: str  # why it diverged, or nothing
    seconds: float
    compile_seconds: float
    tokens: float  # learned from, all seeds together
    learning_rate: float
    metrics: dict[str, Summary]
    memory_bytes: int = 0
    trials: list[Trial] = dataclasses.field(default_factory=list)
    best: float | str | None = None  # the least of its divergence in the class
    gap: Gap | None = None
    infinite: list[str] = dataclasses.field(default_factory=list)
    """Metrics that are not finite on every seed; those of the seeds that are stay in `metrics`."""
    alarms: list[str] = dataclasses.field(default_factory=list)
    temperatures: list[Row] = dataclasses.field(default_factory=list)
    """The policy at other sampling temperatures."""
    against: Comparison | None = None
    changes: list[Change] = dataclasses.field(default_factory=list)
    """Since the start, where strings are sampled and the expert is known: what the method minimises
    on the policy's own prefixes, then precision, recall and what else tells of modes."""
    how: str = ""
    """In which way what it minimises is more than the divergence of the two laws: "of pairs"."""
    aside: str = ""
    """What a table has to say where its gradient is not that of what is shown."""

    @property
    def objective(self) -> str:
        """What it minimises, in words."""
        return f"{self.minimises} {self.how}".rstrip()


@dataclasses.dataclass(frozen=True)
class RunResult:
    """`results.json`: all methods of a run, or of many runs merged (then `VARIED` may stand for a
    setting)."""

    complete: bool
    kind: Kind
    benchmark: Json
    policy: Json
    seeds: int
    updates: int | str
    batch_size: int | str
    demos: int | str
    trials: int | str
    frontier: list[FrontierPoint]
    class_optimum: dict[str, Row]
    expert: Row
    start: Row
    methods: dict[str, MethodResult]
    notes: list[str]
    schema: int = VERSION

    @property
    def penalty(self) -> str | None:
        """The divergence that the task takes off its return; None where runs differ, or none is."""
        divergence = self.benchmark.get("divergence")
        return None if divergence == VARIED else divergence

    @property
    def temperatures(self) -> list[Row]:
        """The sweep over sampling temperatures, of the method that has one."""
        return next((m.temperatures for m in self.methods.values() if m.temperatures), [])

    @property
    def measured(self) -> set[str]:
        """Every metric that some method has."""
        return {name for m in self.methods.values() for name in m.metrics}


Scores = TypeVar("Scores", bound=Summary)


# --- to JSON --------------------------------------------------------------------------------------

# left out where they say nothing
OPTIONAL = {
    "estimated": False,
    "stderr": None,
    "against": None,
    "numbers": None,
    "of": None,
    "changes": [],
    "how": "",
    "aside": "",
}


def as_json(value: Any) -> Any:
    """A result, or a part of one, as plain data."""
    if dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {
            name: as_json(x)
            for name, x in fields.items()
            if name not in OPTIONAL or x != OPTIONAL[name]
        }
    if isinstance(value, (FrontierPoint, Look)):
        return value._asdict()
    if isinstance(value, Mapping):
        return {key: as_json(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(x) for x in value]
    return value


def write(path: Path, result: RunResult) -> None:
    """Write `results.json`, whole or not at all, with a checksum."""
    whole = as_json(result)
    files.write_checked(path, {"schema": whole.pop("schema"), **whole})


def method_as_json(result: MethodResult) -> Json:
    """What is kept of a method in `methods/`: without the comparison, which takes all of them."""
    own = as_json(dataclasses.replace(result, against=None))
    return {"schema": VERSION, **own}


# --- from JSON ------------------------------------------------------------------------------------


def read(path: Path) -> RunResult:
    """A run's result, of this version or of an older one. Raises `UsageError` for a newer one, and
    where there is none that is sound."""
    result = kept(path)
    if result is None:
        fix = "Start the run's command again, which makes it anew."
        raise UsageError("results", str(path), "is not there, or was damaged.", fix)
    return result


def kept(path: Path) -> RunResult | None:
    """The same; None where there is none, and where it is damaged and set aside."""
    return files.read(path, run)


def run(data: Json) -> RunResult:
    """`results.json`. Raises `UsageError` for a newer version, what `files.SHAPE` holds for another
    shape."""
    _refuse_newer(data, 1)
    result = _run(data)
    shapes.check(result, RunResult)
    _check_numbers("class_optimum", *result.class_optimum.values())
    _check_numbers("expert or start", result.expert, result.start)
    return result


def _refuse_newer(data: Json, otherwise: int) -> None:
    number = data.get("schema", otherwise)
    shapes.check(number, int, "schema")
    if number > VERSION:
        problem = f"is of a newer version than this code reads ({VERSION})."
        raise UsageError("schema", number, f"the file {problem}", "Update the code.")


def _check_numbers(name: str, *rows: Row) -> None:
    """Raise `ValueError` for what is not finite where only finite numbers are written."""
    if not all(math.isfinite(x) for row in rows for x in row.values()):
        raise ValueError(f"a number of {name} is not finite")


def _run(data: Json) -> RunResult:
    methods = {name: method(m) for name, m in data["methods"].items()}
    rows = {
        "class_optimum": {n: table.current_names(x) for n, x in data["class_optimum"].items()},
        "expert": table.current_names(data["expert"]),
        "start": table.current_names(data["start"]),
    }
    plain = {
        name: data[name]
        for name in [
            "complete",
            "benchmark",
            "policy",
            "seeds",
            "updates",
            "batch_size",
            "demos",
            "trials",
            "notes",
        ]
    }
    points = [FrontierPoint(**table.current_names(x)) for x in data.get("frontier", [])]
    kind = data["kind"] if "kind" in data else _kind_of_version_1(methods, rows)
    return RunResult(**plain, **rows, kind=kind, frontier=points, methods=methods)


def _kind_of_version_1(methods: Mapping[str, MethodResult], rows: Mapping[str, Json]) -> Kind:
    """Version 1 did not say it."""
    if any("regret" in m.metrics for m in methods.values()):
        return "return"
    if "greedy_accuracy" in rows["start"]:
        return "verified"
    return "exact" if rows["class_optimum"] else "sampled"


def method(data: Json) -> MethodResult:
    """A method's entry in `results.json`, or its file in `methods/`. Raises as `run` does."""
    _refuse_newer(data, 1)
    known = {field.name for field in dataclasses.fields(MethodResult)}
    fields = {name: value for name, value in data.items() if name in known}
    fields["look"] = Look(**data["look"]) if "look" in data else _look_of_kind(data["group"])
    fields["metrics"] = {table.current(n): _summary(s) for n, s in data["metrics"].items()}
    fields["infinite"] = [table.current(name) for name in data["infinite"]]
    fields["gap"] = _summary(data["gap"], Gap) if data["gap"] else None
    fields["trials"] = [Trial(**escapes.numbers(x)) for x in data.get("trials", [])]
    fields["temperatures"] = [table.current_names(x) for x in data.get("temperatures", [])]
    fields["changes"] = [Change(**x) for x in data.get("changes", [])]
    fields["against"] = _comparison(data["against"]) if data.get("against") else None
    result = MethodResult(**fields)
    shapes.check(result, MethodResult)
    for name, one in [*result.metrics.items(), *([("gap", result.gap)] if result.gap else [])]:
        _check_summary(name, one)
    return result


def _check_summary(name: str, one: Summary) -> None:
    if not one.seeds or len(one.ci95 or (0, 0)) != 2:
        raise ValueError(f"{name} has no seeds, or half an interval")
    numbers = [one.iqm, one.mean, *(one.ci95 or []), *one.seeds]
    _check_numbers(name, dict(zip(map(str, range(len(numbers))), numbers)))


def _summary(data: Json, of: type[Scores] = Summary) -> Scores:
    """Earlier results gave one seed an interval of no width; there is none."""
    scores = of(**data)
    return dataclasses.replace(scores, ci95=None) if len(scores.seeds) == 1 else scores


def _look_of_kind(kind: str) -> Look:
    """Version 1 knew the kind of a method alone."""
    return next((method.look for method in METHODS.values() if method.kind == kind), Look())


def _comparison(data: Json) -> Comparison:
    return Comparison(
        reference=data["reference"],
        metric=table.current(data["metric"]),
        difference=_summary(data["difference"]),
        probability_of_improvement=data["probability_of_improvement"],
        probability_ci95=data["probability_ci95"],
    )


def history(lines: Sequence[Json]) -> list[HistoryLine]:
    """Lines of `metrics.jsonl` under today's names of the metrics."""
    return [table.current_names(line) for line in lines]


KINDS = get_args(Kind)
