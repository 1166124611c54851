"""One config for a head-to-head: every field is a flag, every check is made before anything
runs."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import operator
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import tyro

from experiments.devices import Devices
from experiments.optimiser import Optimiser
from fdiv import exact, objectives
from fdiv.benchmarks import BENCHMARKS, Text, TwoTemplate
from fdiv.control import Control
from fdiv.penalties import Penalty
from fdiv.policies import Architecture
from fdiv.ranges import ranged, seed_field
from fdiv.types import Method, TokenMDP, UsageError, is_hidden

FLAT = tyro.conf.OmitArgPrefixes  # the flags of such a group carry no prefix: --updates
HIDDEN = Annotated[Any, tyro.conf.Fixed, tyro.conf.Suppress]  # no flag, whatever a default holds
NotFinite = Literal["stop", "skip"]
RATES = (1.0, 1 / 3, 3.0, 0.1, 10.0)  # what --trials multiplies the learning rate by, in this order
WROTE = "Use the version that wrote it."
MOST_POINTS = 100_000  # of a learning curve, or starts of a search


class Enumerable(Protocol):
    """A benchmark that is its own data: a frozen dataclass whose fields are flags."""

    def build(self) -> TokenMDP:
        """The task."""


if TYPE_CHECKING:
    Benchmark = Text | Enumerable
else:  # tyro makes a choice of flags of each class in the table, imported ones among them
    Benchmark = functools.reduce(operator.or_, BENCHMARKS.values())


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much is spent on each method, the same for all."""

    seeds: int = ranged(5, least=1)
    """Runs of each method, trained side by side."""
    seed: int = seed_field()
    """Where all randomness starts."""
    updates: int = ranged(2000, least=1)
    """Updates of the policy, the same for every method."""
    epochs_over_data: int | None = ranged(None, least=1)
    """Passes over fixed rows (those of --demos, or all training rows of a text) in place of
    --updates, each row once a pass, in an order of its own; none: --updates, rows drawn with
    replacement."""
    batch_size: int = ranged(512, least=2)
    """Strings per update, the same for every method."""
    demos: int = ranged(0, least=0)
    """Demonstrations per seed, the same for every method; 0 draws fresh ones from the expert at
    each update (for text, 0 is all training rows)."""
    warm_start: int = ranged(0, least=0)
    """Likelihood updates that make the common start."""
    start_from: Path | None = None
    """The folder of a run; every seed starts from what a method of that run has trained of it."""
    start_method: str | None = None
    """Which of that run's methods, where it has several."""
    epochs: int = ranged(1, least=1)
    """Passes over each batch; more than one is refused for methods whose batches are good for one
    step (policy gradients and discriminators on the policy's fresh samples)."""
    minibatches: int = ranged(1, least=1)
    """Steps per pass."""
    accumulate: int = ranged(1, least=1)
    """Parts in which a step's gradient is summed, to save memory; the result does not depend on
    it."""
    trials: int = ranged(1, least=1, most=len(RATES))
    """Learning rates tried for every method on a seed of their own (x 1, 1/3, 3, 1/10, 10); the
    best one runs."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is measured, how often and how exactly."""

    evaluations: int = ranged(20, least=1, most=MOST_POINTS)
    """Points on the learning curves."""
    samples: int = ranged(128, least=1)
    """Strings drawn from each policy to judge what cannot be enumerated, and to show."""
    temperatures: tuple[float, ...] = ranged((0.25, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5), above=0)
    """Sampling temperatures of the SFT curve in the quality-diversity figure."""
    exact_limit: int = ranged(exact.LIMIT, least=0)
    """Most strings to enumerate; 0 turns exact values off and estimates instead."""
    optimum_starts: int = ranged(12, least=1, most=MOST_POINTS)
    """Random starts of the search for the best policy in the class."""


@dataclasses.dataclass(frozen=True)
class Saving:
    """How a run is kept while it goes on, and what it does about numbers that are not finite."""

    save_every: float = ranged(30.0, least=0)
    """Seconds between checkpoints."""
    keep: int = ranged(2, least=1)
    """Checkpoints kept of each method; one that turns out damaged costs the updates since the one
    before it."""
    not_finite: NotFinite = "stop"
    """What an update with a number that is not finite does: its method is marked diverged, and ends
    once all its seeds are; or the update is left out."""


@dataclasses.dataclass(frozen=True)
class Output:
    """What a run leaves, and where."""

    report: bool = True
    """Draw the figures and write report.html; a sweep, which draws one of all its runs, can do
    without."""
    cache: Path | None = None
    """Where teachers and compiled programs are kept; none: $FDIV_CACHE, or ~/.cache/fdiv."""
    out: Path = Path("runs/compare")
    """Folder for everything that a run leaves; where nobody names one and another config has it, it
    gets a number."""
    track: tuple[str, ...] = ()
    """Trackers that a run reports to while it goes on: trackio, wandb, tensorboard."""
    track_project: str = "fdiv"
    """The project of theirs that it goes to."""
    plain: bool = False
    """Print lines in place of a table that moves, also on a terminal."""
    quiet: bool = False
    """Print nothing but errors and where the results are."""
    dry_run: bool = False
    """Print the config and what the run would cost, after a second of each method; train nothing,
    write nothing."""


def _methods_help() -> str:
    """What `--methods` takes, from the table of methods."""
    names = ", ".join(objectives.describe())
    return f"What to compare, for any divergence F and a PENALTY such as k3-loss: {names}."


def _flags(kind: type[Method]) -> type[Method]:
    """A method's class without what its name fixes, so that the rest alone is a group of flags."""
    fixed = []
    for field in filter(is_hidden, dataclasses.fields(kind)):
        default = None if field.default is dataclasses.MISSING else field.default
        own = dataclasses.field(default=default, init=False, metadata=field.metadata)
        fixed.append((field.name, HIDDEN, own))
    namespace = {"__doc__": kind.__doc__, "__module__": kind.__module__}
    return dataclasses.make_dataclass(
        kind.__name__, fixed, bases=(kind,), frozen=True, namespace=namespace
    )


def _text(kind: type) -> dict[str, str]:
    """What stands over a group of flags, as its class says it. The parser would look for it in the
    source of this file, once a group and command."""
    return {"help": " ".join((kind.__doc__ or "").split())}


GROUPS = {name: _flags(kind) for name, kind in objectives.kinds().items()}


@dataclasses.dataclass(frozen=True)
class Common:
    """A head-to-head of methods on one benchmark."""

    benchmark: Benchmark = dataclasses.field(default_factory=TwoTemplate)
    policy: Architecture = dataclasses.field(default_factory=lambda: Architecture("markov"))
    """The class of policies that learns."""
    scorer: Architecture = dataclasses.field(default_factory=lambda: Architecture("full"))
    """The class of discriminators, reward models and value functions."""
    penalty: Penalty = dataclasses.field(default_factory=Penalty)
    """How what a policy pays for leaving its reference is estimated and applied."""
    control: Control = dataclasses.field(default_factory=Control)
    """How the weight of that changes over training."""
    methods: Annotated[tuple[str, ...], tyro.conf.arg(help=_methods_help())] = (
        "sft",
        "reverse_kl",
        "js",
        "gail",
        "airl",
        "fairl",
        "alpha_irl",
    )
    budget: Annotated[Budget, FLAT] = dataclasses.field(default_factory=Budget)
    """How much is spent on each method, the same for all."""
    optimiser: Annotated[Optimiser, FLAT] = dataclasses.field(default_factory=Optimiser)
    """How a policy's step is made of its gradient."""
    evaluation: Annotated[Evaluation, FLAT] = dataclasses.field(default_factory=Evaluation)
    """What is measured, how often and how exactly."""
    saving: Annotated[Saving, FLAT] = dataclasses.field(default_factory=Saving)
    """How a run is kept while it goes on, and what it does about numbers that are not finite."""
    output: Annotated[Output, FLAT] = dataclasses.field(default_factory=Output)
    """What a run leaves, and where."""
    devices: Devices = dataclasses.field(default_factory=Devices)
    """Which devices, and whether seeds or one model are spread over them."""


if TYPE_CHECKING:
    Config = Common  # what every config has; a method's own group is read by `hyperparameters`
else:  # one field, and so one group of flags, for each group of methods, imported ones among them
    Config = dataclasses.make_dataclass(
        "Config",
        [
            (name, group, dataclasses.field(default_factory=group, metadata=_text(group)))
            for name, group in GROUPS.items()
        ],
        bases=(Common,),
        frozen=True,
        namespace={"__doc__": Common.__doc__, "__module__": __name__},
    )

LIFTED = {  # field -> the group without a prefix that holds it
    field.name: name
    for name, group in (
        ("budget", Budget),
        ("optimiser", Optimiser),
        ("evaluation", Evaluation),
        ("saving", Saving),
        ("output", Output),
    )
    for field in dataclasses.fields(group)
}


def replace(config: Config, **fields: Any) -> Config:
    """A copy with other values, each by the name of its flag: `replace(config, updates=10)`. A
    group is replaced whole by an instance of it: `replace(config, optimiser=Optimiser(...))`."""
    nested: dict[str, dict[str, Any]] = {}
    for field, value in fields.items():
        whole_group = dataclasses.is_dataclass(value) or field not in LIFTED
        nested.setdefault("" if whole_group else LIFTED[field], {})[field] = value
    whole = nested.pop("", {})
    for group, values in nested.items():
        whole[group] = dataclasses.replace(whole.get(group, getattr(config, group)), **values)
    return dataclasses.replace(config, **whole)


def make_config(**fields: Any) -> Config:
    """A config from fields by the names of their flags, the others at their defaults."""
    return replace(Config(), **fields)


def value_of(config: Config, field: str) -> Any:
    """A field by the name of its flag."""
    return getattr(getattr(config, LIFTED[field]) if field in LIFTED else config, field)


# fields that change where and how a run lives, not what it computes
WHERE_ONLY = (
    "out",
    "devices",
    "save_every",
    "keep",
    "cache",
    "report",
    "track",
    "track_project",
    "plain",
    "quiet",
    "dry_run",
)
# what decides a run's numbers and is no field: digests, which `identity` is kept with
DIGESTS = ("data", "imports", "jax_enable_x64", "start_model", "teacher_model")


def resolve(config: Config) -> dict[str, Method]:
    """Each method by name, with the hyperparameters of its flags."""
    names, groups = tuple(config.methods), tuple(getattr(config, name) for name in GROUPS)
    try:
        return dict(_remembered(names, groups))
    except TypeError:  # a user's own group may hold what has no hash
        return _resolved(names, groups)


def _resolved(names: tuple[str, ...], groups: tuple[Method, ...]) -> dict[str, Method]:
    given = dict(zip(GROUPS, groups))
    methods = {}
    for name in names:
        method = objectives.resolve(name)
        with prefixed(**groups_of(method)):
            methods[objectives.canonical(name)] = objectives.merged(name, method, given)
    return methods


# the checks of one config ask several times, and those of a sweep for each of its lines
_remembered = functools.lru_cache(maxsize=64)(_resolved)


def group(kind: str, **fields: Any) -> Method:
    """Hyperparameters of one class of methods, as its group of flags has them."""
    made: Callable[..., Method] = GROUPS[kind]
    return made(**fields)


def groups_of(method: Method) -> dict[str, type[Method]]:
    """The groups of flags that a method reads, by name."""
    return {kind: GROUPS[kind] for kind in objectives.kinds_of(method)}


@contextlib.contextmanager
def prefixed(**groups: Any) -> Iterator[None]:
    """The core names its own fields in a `UsageError`, here it gets the name of the flag: the field
    with the name of the first of `groups` (dataclasses, or instances of them) that has it, and as
    an instance has it with that value."""
    try:
        yield
    except UsageError as error:
        name = error.field.partition(".")[0]
        owners = [group for group, owner in groups.items() if name in _shown(owner)]
        if not owners:
            raise
        blamed = next((group for group in owners if _has(groups[group], error)), owners[0])
        raise error.under(blamed) from error


def _shown(owner: Any) -> set[str]:
    """The fields of a group that are flags."""
    return {field.name for field in dataclasses.fields(owner) if not is_hidden(field)}


def _has(owner: Any, error: UsageError) -> bool:
    """Whether the value that cannot be is this group's."""
    return repr(getattr(owner, error.field, None)) == repr(error.value)


# --- as data --------------------------------------------------------------------------------------


def benchmark_name(config: Config) -> str:
    """The registered name of the config's benchmark."""
    return next(name for name, kind in BENCHMARKS.items() if type(config.benchmark) is kind)


def as_dict(config: Config) -> dict[str, Any]:
    """Plain data for JSON, the benchmark and groups as nested dictionaries."""
    plain = _plain(config)
    for name, kind in GROUPS.items():
        for field in filter(is_hidden, dataclasses.fields(kind)):
            plain[name].pop(field.name)
    plain["benchmark"] = {"name": benchmark_name(config), **plain["benchmark"]}
    for group in dict.fromkeys(LIFTED.values()):
        plain |= plain.pop(group)
    return plain


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in _fields(type(value))}
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


@functools.cache
def _fields(kind: type) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(kind)


def from_dict(plain: Mapping[str, Any]) -> Config:
    """The config of what `as_dict` or `identity` gives; what is not there has its default. Raises
    `UsageError` naming a field that no config has today, and a benchmark that is not known."""
    given = {name: value for name, value in plain.items() if name != "benchmark"}
    benchmark = plain.get("benchmark")
    if not isinstance(benchmark, Mapping):
        raise UsageError("benchmark", benchmark, "is no group of fields.", WROTE)
    benchmark = dict(benchmark)
    name = benchmark.pop("name", None)
    if not isinstance(name, str) or name not in BENCHMARKS:
        fix = "Name the file that makes it with --import FILE.py."
        raise UsageError("benchmark", name, "is no benchmark that is known here.", fix)
    groups: dict[str, Any] = {"benchmark": _group(BENCHMARKS[name], benchmark, "benchmark.")}
    hints = typing.get_type_hints(Config)
    for lifted in dict.fromkeys(LIFTED.values()):
        own = {field: given.pop(field) for field in list(given) if LIFTED.get(field) == lifted}
        groups[lifted] = _group(hints[lifted], own, "")
    return _group(Config, {**given, **groups}, "")


def _group(kind: type, values: Mapping[str, Any], prefix: str) -> Any:
    """An instance of a dataclass from plain data."""
    if not isinstance(values, Mapping):
        raise UsageError(prefix.rstrip("."), values, "is no group of fields.", WROTE)
    hints = typing.get_type_hints(kind)
    for name, value in values.items():
        if name not in _shown(kind):
            problem = "is a field that this version of fdiv does not have."
            raise UsageError(prefix + name, value, problem, WROTE)
    return kind(**{k: _typed(hints[k], value, f"{prefix}{k}.") for k, value in values.items()})


def _typed(hint: Any, value: Any, prefix: str) -> Any:
    """A value of a field from plain data, which knows neither tuples nor paths nor classes."""
    if dataclasses.is_dataclass(value) or value is None:
        return value
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(hint) if kind is not types.NoneType]
        fits = lambda kind: not isinstance(value, dict) or set(value) <= _shown(kind)
        hint = next(filter(fits, kinds), kinds[0])
    if dataclasses.is_dataclass(hint):
        return _group(typing.cast(type, hint), value, prefix)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            raise UsageError(prefix.rstrip("."), value, "is no list.", WROTE)
        return tuple(_typed(typing.get_args(hint)[0], x, prefix) for x in value)
    try:
        return hint(value) if hint in (Path, float) else value
    except (TypeError, ValueError) as error:
        raise UsageError(prefix.rstrip("."), value, "is not of its type.", WROTE) from error


def flatten(tree: dict, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    flat = {}
    for key, value in tree.items():
        flat |= (
            flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


def difference(a: dict, b: dict) -> dict[str, tuple[Any, Any]]:
    """Fields in which two configs (as plain data) differ: name -> (a's, b's)."""
    a, b = flatten(a), flatten(b)
    return {k: (a.get(k), b.get(k)) for k in {**a, **b} if a.get(k) != b.get(k)}


def identity(config: Config) -> dict[str, Any]:
    """What decides the numbers, and what a save holds: the config without where it runs. Text is
    known by its path as given."""
    own = {k: v for k, v in as_dict(config).items() if k not in WHERE_ONLY}
    if not config.optimiser.offload:  # which runs from before there was such a flag do not have
        del own["offload"]
    return own


def teacher_of(config: Config) -> str | None:
    """What expert a text benchmark has: "trained", "base" or a pretrained model's path (that of the
    policy, where it is its "whole" model); None where it has none, and for other benchmarks, which
    know their own."""
    text = config.benchmark
    if not isinstance(text, Text):
        return None
    usual = "none" if config.policy.name == "hf" else "trained"
    kind = usual if text.teacher is None else text.teacher
    if kind == "whole" and config.policy.name == "hf":
        return config.policy.path
    if kind == "none" or (kind == "trained" and not text.teacher_updates):
        return None
    return kind


def strings_possible(config: Config) -> bool:
    """Whether exact values are asked for and the benchmark is of a kind that can have them."""
    return config.evaluation.exact_limit > 0 and not isinstance(config.benchmark, Text)
