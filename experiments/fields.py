"""The table of fields: the type and the range of each option, as its dataclass defines them, and
who reads it. Checks, the ranges in `--help` and the fuzz are made of it.

An option that nothing in a run has a use for is refused, never ignored. `READERS` has every field
by the name of its flag (a field without a prefix, `group.field`, or `group.*` for those of a group
that have no entry of their own). The options of a method are read where `--methods` names one of
its class, unless they have an entry. A value that is the preset's own is always fine."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

from experiments.config import (
    GROUPS,
    LIFTED,
    Config,
    as_dict,
    difference,
    flatten,
    resolve,
    teacher_of,
)
from fdiv import objectives, ranges
from fdiv.benchmarks import Arithmetic, Rewarded, Text
from fdiv.policies import NETWORKS
from fdiv.ranges import Range
from fdiv.types import Method, UsageError, is_hidden

FIXED_STRINGS = ("max_likelihood", "distill")  # kinds whose batches are nothing but strings
PROMPTS_ALONE = ("policy_gradient", "reinforce", "rloo", "grpo", "ppo", "fdpg")  # kinds


class Case(NamedTuple):
    """A run to be: its config, and its methods by name with their hyperparameters."""

    config: Config
    methods: Mapping[str, Method]

    def kinds(self) -> set[str]:
        """Of its methods, and of what they are made of."""
        return {kind for method in self.methods.values() for kind in objectives.kinds_of(method)}

    def of_kind(self, kind: str) -> Iterator[Method]:
        """Its methods of one class."""
        return (method for method in self.methods.values() if method.kind == kind)


class Reader(NamedTuple):
    """Whether anything in a run reads an option, and what would."""

    reads: Callable[[Case], bool]
    needs: str = ""  # what to do for it to be read


ALWAYS = Reader(lambda case: True)


def _learns_from_rows(case: Case) -> bool:
    """Whether fixed demonstrations, comparisons or labels change any number."""
    if case.config.budget.warm_start or isinstance(case.config.benchmark, (Arithmetic, Text)):
        return True  # the warm start, or prompts, which are part of the rows
    return any(_reads_completions(method) for method in case.methods.values())


def _copies_demonstrations(case: Case) -> bool:
    """Whether what demonstrations say changes any number."""
    own = (m.reads == "demos" and _reads_completions(m) for m in case.methods.values())
    return case.config.budget.warm_start > 0 or any(own)


def _stays_near(case: Case) -> bool:
    """Whether the divergence from a reference is read, and its weight: they make the expert of a
    rewarded task, and elsewhere are of those who are charged for leaving, or learn from
    judgements."""
    if isinstance(case.config.benchmark, Rewarded):
        return True
    if not isinstance(case.config.benchmark, (Arithmetic, Text)):
        return True  # a user's own
    own = (m.charges or m.kind == "fdpg" for m in case.methods.values())
    return any(own) or _compares(case)


def _reads_completions(method: Method) -> bool:
    if method.reads != "demos":
        return True
    own_prefixes = getattr(method, "policy_prefixes", 0.0) == 1.0
    return method.kind not in PROMPTS_ALONE and not own_prefixes


def in_widths(method: Method) -> bool:
    """Whether a method's loss reads strings of the task alone, so that each group of its rows may
    be computed in a width of its own."""
    return method.kind in FIXED_STRINGS and method.reusable


def _computes_in_widths(case: Case) -> bool:
    return any(map(in_widths, case.methods.values()))


def _compares(case: Case) -> bool:
    return any(method.reads in ("pairs", "labels") for method in case.methods.values())


def _enumerates(case: Case) -> bool:
    """Whether strings could be enumerated: those of a benchmark with prompts never are."""
    return not isinstance(case.config.benchmark, (Arithmetic, Text))


def _searches_class(case: Case) -> bool:
    config = case.config
    exact = _enumerates(case) and config.evaluation.exact_limit > 0
    return exact and config.policy.name not in ("full", *NETWORKS)


def _several_steps(case: Case, kind: str) -> bool:
    """Whether a method of the kind takes a second step on some batch, or may have dropout in its
    loss: else q is q_old."""
    steps = case.config.budget.epochs * case.config.budget.minibatches
    adapters = case.config.policy.lora
    drops = adapters.dropout or (adapters.path is not None and adapters.dropout is None)
    return bool(steps > 1 or drops) and any(method.reusable for method in case.of_kind(kind))


def _draws_group(case: Case, kind: str) -> bool:
    """Whether the kind's own group counts: reward_model.group comes before it."""
    behind = [m for m in case.of_kind("reward_model") if kind in objectives.kinds_of(m)]
    own_groups = any(getattr(method, "group", None) is None for method in behind)
    return any(case.of_kind(kind)) or own_groups


def _trains_teacher(case: Case) -> bool:
    return teacher_of(case.config) == "trained"


def _asks_teacher_at_rows(case: Case) -> bool:
    """Whether a method reads the teacher's laws at fixed strings, and there is a teacher."""
    asks = any(method.reusable for method in case.of_kind("distill"))
    return asks and teacher_of(case.config) is not None


def _counts_updates(case: Case) -> bool:
    """Whether the updates of a teacher are read; none are what one is that is not trained."""
    return _trains_teacher(case) or getattr(case.config.benchmark, "teacher_updates", 0) == 0


def _from_table(case: Case) -> bool:
    return isinstance(case.config.benchmark, Rewarded) and case.config.benchmark.reward == "table"


COMPARISONS = Reader(_compares, "add a method that learns from comparisons, such as dpo")
DEMOS = Reader(_learns_from_rows, "add a method that learns from demonstrations, such as sft")
NEAR = Reader(_stays_near, "add a method that stays near a reference, such as rloo or dpo")
SEVERAL_STEPS = "take several steps a batch with --epochs or --minibatches"
TRAIN_TEACHER = "train a teacher with --benchmark.teacher trained"
TEACHER = Reader(_trains_teacher, f"{TRAIN_TEACHER} and --benchmark.teacher-updates")
READERS: dict[str, Reader] = {
    "methods": ALWAYS,
    # budget
    "seeds": ALWAYS,
    "seed": ALWAYS,
    "updates": Reader(
        lambda case: case.config.budget.epochs_over_data is None, "drop --epochs-over-data"
    ),
    "epochs_over_data": DEMOS,
    "batch_size": ALWAYS,
    "demos": DEMOS,
    "warm_start": ALWAYS,
    "start_from": ALWAYS,
    "start_method": Reader(
        lambda case: case.config.budget.start_from is not None, "give --start-from"
    ),
    "epochs": ALWAYS,
    "minibatches": ALWAYS,
    "accumulate": ALWAYS,
    "trials": ALWAYS,
    # optimiser; what one of them does not read, it refuses itself
    "learning_rate": Reader(
        lambda case: (
            case.config.budget.warm_start > 0
            or any(method.learning_rate is None for method in case.methods.values())
        ),
        "set the methods' own learning rates, which come before it",
    ),
    "optimiser": ALWAYS,
    "betas": ALWAYS,
    "eps": ALWAYS,
    "momentum": ALWAYS,
    "weight_decay": ALWAYS,
    "schedule": ALWAYS,
    "warm_up": ALWAYS,
    "decay_share": Reader(
        lambda case: case.config.optimiser.schedule == "wsd", "use --schedule wsd"
    ),
    "max_grad_norm": ALWAYS,
    "offload": ALWAYS,
    # evaluation
    "evaluations": ALWAYS,
    "samples": ALWAYS,
    "temperatures": Reader(lambda case: "sft" in case.methods, "add sft to --methods"),
    "exact_limit": Reader(_enumerates, "use a benchmark without prompts"),
    "optimum_starts": Reader(
        _searches_class, "use a benchmark whose strings are enumerated and a smaller class"
    ),
    # saving, output, devices
    "save_every": ALWAYS,
    "keep": ALWAYS,
    "not_finite": ALWAYS,
    "report": ALWAYS,
    "track": ALWAYS,
    "track_project": Reader(lambda case: bool(case.config.output.track), "give --track"),
    "plain": ALWAYS,
    "quiet": ALWAYS,
    "dry_run": ALWAYS,
    "cache": ALWAYS,
    "out": ALWAYS,
    "devices.*": ALWAYS,
    "devices.process": Reader(
        lambda case: case.config.devices.processes > 0, "give --devices.processes"
    ),
    # the classes of functions, the penalty and its weight
    "policy.*": ALWAYS,
    "scorer.*": Reader(
        lambda case: any(method.needs for method in case.methods.values()),
        "add a method with a discriminator, a reward model or a value function",
    ),
    "penalty.*": Reader(
        lambda case: any(m.charges and m.penalty is None for m in case.methods.values()),
        "add a method that leaves its penalty open, such as rloo",
    ),
    "control.*": Reader(
        lambda case: any(method.charges for method in case.methods.values()),
        "add a method that is charged for leaving a reference, such as rloo",
    ),
    # benchmarks
    "benchmark.*": ALWAYS,
    "benchmark.table_seed": Reader(_from_table, "use --benchmark.reward table"),
    "benchmark.labels": COMPARISONS,
    "benchmark.temperature": COMPARISONS,
    "benchmark.flips": COMPARISONS,
    "benchmark.spread": COMPARISONS,
    "benchmark.slips": Reader(_copies_demonstrations, DEMOS.needs),
    "benchmark.beta": NEAR,
    "benchmark.divergence": NEAR,
    "benchmark.buckets": Reader(
        _computes_in_widths, "add a method that learns from fixed strings, such as sft"
    ),
    "benchmark.rows": Reader(
        lambda case: getattr(case.config.benchmark, "path", None) is None,
        "drop --benchmark.path",
    ),
    "benchmark.teacher_updates": Reader(_counts_updates, TRAIN_TEACHER),
    "benchmark.teacher_cache": Reader(
        _asks_teacher_at_rows, "add distill at the expert's prefixes, and a teacher"
    ),
    "benchmark.teacher_width": TEACHER,
    "benchmark.teacher_layers": TEACHER,
    # methods, where naming one of the class is not enough
    "grpo.clip": Reader(lambda case: _several_steps(case, "grpo"), SEVERAL_STEPS),
    "ppo.clip": Reader(lambda case: _several_steps(case, "ppo"), SEVERAL_STEPS),
    "ppo.value_clip": Reader(
        lambda case: any(_value_steps(method) > 1 for method in case.methods.values()),
        "take several --ppo.value-steps",
    ),
    "grpo.group": Reader(lambda case: _draws_group(case, "grpo"), "drop --reward-model.group"),
    "rloo.group": Reader(lambda case: _draws_group(case, "rloo"), "drop --reward-model.group"),
}


def _value_steps(method: Method) -> int:
    """Steps of PPO's value function in an update, of a method or of what follows its reward."""
    inner = getattr(method, "follower", method)
    return getattr(inner, "value_steps", 0) if inner.kind == "ppo" else 0


def reader(field: str) -> Reader:
    """Who reads a field, by the name of its flag. Raises `KeyError` where nothing says so."""
    group, _, name = field.partition(".")
    if field in READERS:
        return READERS[field]
    if f"{group}.*" in READERS:
        return READERS[f"{group}.*"]
    if group not in GROUPS:
        raise KeyError(field)
    if name == "learning_rate":  # that of a method which another is made of is the other's
        own = [other for other, m in objectives.METHODS.items() if m.kind == group]
        return Reader(lambda case: any(case.of_kind(group)), _one_of(own))
    made = [other for other, m in objectives.METHODS.items() if group in objectives.kinds_of(m)]
    return Reader(lambda case: group in case.kinds(), _one_of(made))


def _one_of(names: list[str]) -> str:
    return f"add a method that reads it to --methods ({', '.join(names)})"


def _plain(preset: Config) -> dict[str, Any]:
    try:
        return _remembered(preset)  # a sweep asks for each of its lines
    except TypeError:  # a user's own group may hold what has no hash
        return as_dict(preset)


_remembered = functools.lru_cache(maxsize=16)(as_dict)


def takes(config: Config, name: str) -> Callable[[str, object], bool]:
    """Whether this method's part of a run reads a field, by the name of its flag, and takes a value
    for it: what may be advised."""
    alone = dataclasses.replace(config, methods=(name,))

    def taken(field: str, value: object) -> bool:
        group, _, own = field.partition(".")
        try:
            if own:
                owner = getattr(alone, group)
                if getattr(owner, own) == value:
                    return False  # it is so already
                changed = dataclasses.replace(
                    alone, **{group: dataclasses.replace(owner, **{own: value})}
                )
            else:
                changed = dataclasses.replace(
                    alone,
                    **{
                        LIFTED[field]: dataclasses.replace(
                            getattr(alone, LIFTED[field]), **{field: value}
                        )
                    },
                )
            methods = resolve(changed)
            for method in methods.values():
                method.check()
        except (UsageError, AttributeError, KeyError, TypeError):
            return False
        if field == "learning_rate":  # of the policy, not of the warm start alone
            return any(method.learning_rate is None for method in methods.values())
        return reader(field).reads(Case(changed, methods))

    return taken


def refuse_unread(config: Config, preset: Config) -> None:
    """Raise `UsageError` for the first option that differs from the preset's and that no part of
    the run reads."""
    own_tree = as_dict(config)
    case, own = Case(config, resolve(config)), flatten(own_tree)
    for field in difference(_plain(preset), own_tree):
        group = field.partition(".")[0]
        who = reader(".".join(field.split(".")[:2]))
        if field not in own or who.reads(case):  # not there: the preset's benchmark was another
            continue
        problem = "nothing in this run reads it."
        if group in GROUPS and group not in case.kinds():
            problem = f"no method here ({', '.join(case.methods)}) uses {group}."
        raise UsageError(field, own[field], problem, f"Drop it, or {who.needs}.")


# --- the table ------------------------------------------------------------------------------------


class Field(NamedTuple):
    """An option of a config."""

    name: str  # of its flag: `updates`, `ppo.clip`, `benchmark.base.horizon`
    value: Any  # in this config
    kind: Any  # its type; None where the class does not say
    range: Range  # of its number, or of each of its numbers

    @property
    def reader(self) -> Reader:
        """Who reads it."""
        return reader(".".join(self.name.split(".")[:2]))

    def check(self) -> None:
        """Raise `UsageError` where the value is of another type, or out of range."""
        ranges.check_value(self.name, self.value, self.kind, self.range)


def refuse_fixed(config: Config, given: Collection[str]) -> None:
    """Raise `UsageError` for the first flag of those named whose value no method of the run has, as
    each fixes it at another. `resolve` lets a default pass, as it cannot know that it was named."""
    methods = {name: objectives.parts(method) for name, method in resolve(config).items()}
    for flag in sorted(given):
        group, _, field = flag.removeprefix("--").replace("-", "_").partition(".")
        parts = {name: own[group] for name, own in methods.items() if group in own}
        if not any(hasattr(part, field) for part in parts.values()):
            continue
        asked = getattr(getattr(config, group), field)
        values = {name: getattr(part, field) for name, part in parts.items()}
        if asked not in values.values():
            name, value = next(iter(values.items()))
            fix = "Drop it, or use another method."
            raise UsageError(f"{group}.{field}", asked, f"{name} fixes it at {value!r}.", fix)


def table(config: Config) -> dict[str, Field]:
    """Every option of a config by the name of its flag, those of its own benchmark among them."""
    return {field.name: field for field in _walk(config, "")}


def _walk(owner: Any, prefix: str) -> Iterator[Field]:
    kinds, groups = ranges.kinds_of(type(owner)), set(LIFTED.values())
    for field in dataclasses.fields(owner):
        value, name = getattr(owner, field.name), prefix + field.name
        if is_hidden(field):
            continue
        if dataclasses.is_dataclass(value):
            lifted = not prefix and field.name in groups
            yield from _walk(value, "" if lifted else f"{name}.")
        else:
            yield Field(name, value, kinds.get(field.name), ranges.range_of(field))


def refuse_out_of_range(config: Config) -> None:
    """Raise `UsageError` for the first option whose value cannot be, whoever reads it."""
    for field in table(config).values():
        field.check()


# --- as help --------------------------------------------------------------------------------------


def show_ranges(config: Config) -> None:
    """Have `--help` give the range of every option of a config behind its text: the parser takes a
    field's help from its metadata before its docstring."""
    for owner in _groups(config):
        texts = _texts(type(owner))
        for field in dataclasses.fields(owner):
            if "range" in field.metadata and field.name in texts:
                shown = f"{texts[field.name].rstrip('.')}. Range: {ranges.range_of(field)}."
                field.metadata = types.MappingProxyType({**field.metadata, "help": shown})


def texts(config: Config) -> dict[str, str]:
    """The text of every option of a config, by the name of its flag."""
    return dict(_texts_of(config, ""))


def _texts_of(owner: Any, prefix: str) -> Iterator[tuple[str, str]]:
    own, lifted = _texts(type(owner)), set(LIFTED.values())
    for field in dataclasses.fields(owner):
        value = getattr(owner, field.name)
        if dataclasses.is_dataclass(value):
            inside = prefix if not prefix and field.name in lifted else f"{prefix}{field.name}."
            yield from _texts_of(value, inside)
        else:
            yield prefix + field.name, own.get(field.name, "")


def _groups(owner: Any) -> Iterator[Any]:
    """The groups of options of a dataclass, and those in them."""
    for field in dataclasses.fields(owner):
        if dataclasses.is_dataclass(value := getattr(owner, field.name)):
            yield value
            yield from _groups(value)


@functools.cache
def _texts(kind: type) -> dict[str, str]:
    """The string below each field of a dataclass, those of its bases too."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        try:
            body = ast.parse(inspect.cleandoc(inspect.getsource(base))).body[0]
        except (OSError, TypeError, SyntaxError):  # made by a program, or built in
            continue
        lines = getattr(body, "body", [])
        for line, below in itertools.pairwise(lines):
            target, text = getattr(line, "target", None), getattr(below, "value", None)
            if isinstance(target, ast.Name) and isinstance(text, ast.Constant):
                texts[target.id] = " ".join(str(text.value).split())
    return texts
