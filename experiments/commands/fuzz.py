"""Random configs against the checks: `python -m experiments.fuzz [--configs 10000] [--seed 0]
[--runs 300]`.

Each is a preset with a few options changed, to values of their range or to hostile ones: NaN,
infinity, numbers far too large, words of no meaning. It is checked as `compare` checks it, up to
objectives that are built. Faults are any error but `UsageError`, a refusal that does not name an
option, a value and a fix, and more than two seconds of processor time. Some of those accepted are
then trained for two updates, on few and short strings. Exit code 1 where there is a fault."""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import sys
import time
import traceback
import typing
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from experiments import cli
from experiments.config import Config
from fdiv.types import UsageError

LIMIT = 5.0  # seconds of processor time; 2.7 were seen on a slow machine beside other programs
FILES = ("path", "tokenizer", "prompt_field", "completion_field", "rejected_field", "label_field")
SKIPPED = (  # what is looked for outside the config
    *("out", "cache", "report", "devices.coordinator"),
    *(f"benchmark.{name}" for name in FILES),
)
MOST_TASKS = 100  # that are built; of later ones the options alone are checked
HUGE = (2**31 - 1, 2**31, 2**32, 10**9, 10**18, -(10**9))
HOSTILE: dict[type, tuple[Any, ...]] = {
    int: (-1, 0, 1, *HUGE, 2.5, math.nan, True, "7"),
    float: (math.nan, math.inf, -math.inf, -1.0, -1e-9, 0.0, 1.0, 1e-300, 1e300, 1e30, 10**30),
    str: ("", "nan", "\u00e9\u0301 \n", "x" * 500, "js:1", "alpha:1e9", "alpha:nan", "gjs:1"),
    bool: (0, "yes", None),
}
BUDGET = {
    "seeds": 1,
    "updates": 2,
    "epochs_over_data": None,
    "evaluations": 1,
    "samples": 4,
    "warm_start": 0,
    "trials": 1,
}
LARGEST_RUN = 1e8  # bytes that an accepted config may take to be run as well


class Fault(NamedTuple):
    """What was tried, and what came of it."""

    preset: str
    changed: dict[str, Any]
    problem: str


class Outcome(NamedTuple):
    """Of all configs."""

    accepted: list[tuple[str, Config]]
    refused: collections.Counter[str]  # by option
    faults: list[Fault]
    slowest: tuple[float, str]  # seconds, and of what


@dataclasses.dataclass(frozen=True)
class Options:
    """How many, and which."""

    configs: int = 10_000
    """Random configs to check."""
    seed: int = 0
    """Which ones."""
    runs: int = 300
    """Of those accepted, how many train for two updates."""
    presets: tuple[str, ...] = ()
    """Presets to start from; none: all."""


def main(argv: list[str] | None = None) -> int:
    """Check and run; 1 where there is a fault."""
    return cli.script("python -m experiments.fuzz", Options, __doc__, _fuzz, argv)


def _fuzz(options: Options) -> int:
    from fdiv.ranges import check_ranges

    check_ranges(options)
    outcome = checked(options.configs, options.seed, options.presets)
    refused = sum(outcome.refused.values())
    print(
        f"{options.configs} configs: {len(outcome.accepted)} accepted, {refused} refused by "
        f"{len(outcome.refused)} options; slowest {outcome.slowest[0]:.2f} s ({outcome.slowest[1]})"
    )
    _show(outcome.faults)
    ran, late = trained(outcome.accepted, options.runs)
    print(f"{ran} of those accepted were trained for two updates, {len(late)} with a fault.")
    _show(late)
    return 1 if outcome.faults or late else 0


def _show(faults: list[Fault]) -> None:
    for fault in faults:
        print(f"FAULT {fault.preset} {fault.changed}: {fault.problem}", flush=True)


# --- configs --------------------------------------------------------------------------------------


def checked(count: int, seed: int, presets: tuple[str, ...] = ()) -> Outcome:
    """Check so many random configs."""
    draw = np.random.default_rng(seed)
    known = cli.presets()
    # those of pretrained models are of files that may not be here
    names = presets or tuple(n for n, (_, x) in known.items() if x.policy.name != "hf")
    accepted: list[tuple[str, Config]] = []
    refused: collections.Counter[str] = collections.Counter()
    faults: list[Fault] = []
    slowest = (0.0, "none")
    for name in names:
        check(known[name][1], known[name][1])  # what is loaded once is not counted
    for _ in range(count):
        name = names[int(draw.integers(len(names)))]
        preset = known[name][1]
        changed = changes(preset, draw)
        began = time.thread_time()
        try:
            config = changed_config(preset, changed)
            check(config, preset)
            accepted.append((name, config))
        except UsageError as error:
            refused[error.field] += 1
            if reason := unclear(error, preset):
                faults.append(Fault(name, changed, reason))
        except Exception:  # whatever else it is, it is a fault
            faults.append(Fault(name, changed, traceback.format_exc(limit=-4)))
        took = time.thread_time() - began
        slowest = max(slowest, (took, f"{name} {changed}"[:300]))
        if took > LIMIT:
            faults.append(Fault(name, changed, f"took {took:.1f} s."))
    return Outcome(accepted, refused, faults, slowest)


def changes(preset: Config, draw: np.random.Generator) -> dict[str, Any]:
    """A few options with other values, by the names of their flags."""
    own = {k: v for k, v in options_of(preset).items() if k not in SKIPPED}
    read = [k for k, field in own.items() if "." not in k or draw.random() < 0.5]
    count = int(draw.integers(1, 4))
    names = {read[int(i)] for i in draw.integers(len(read), size=count)}
    return {name: value_for(own[name], draw) for name in sorted(names)}


@functools.cache
def options_of(preset: Config) -> dict[str, Any]:
    """A preset's options by the names of their flags."""
    from experiments import fields

    return fields.table(preset)


def value_for(field: Any, draw: np.random.Generator) -> Any:
    """A value of a field's type and range or, one time in three, a hostile one."""
    from fdiv import ranges

    kinds = [kind for kind in ranges.alternatives(field.kind) if kind is not type(None)]
    if len(kinds) < len(ranges.alternatives(field.kind)) and draw.random() < 0.1:
        return None
    kind = kinds[int(draw.integers(len(kinds)))]
    if field.name == "methods":
        return tuple(_method(draw) for _ in range(int(draw.integers(0, 4))))
    if field.name.endswith("divergence"):
        return _divergence(draw)
    inner = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        size = int(draw.integers(0, 4)) if inner[-1] is Ellipsis else len(inner)
        one = field._replace(kind=inner[0])
        return tuple(value_for(one, draw) for _ in range(size))
    if typing.get_origin(kind) is typing.Literal:
        return _one_of((*inner, "x", 3), draw)
    if draw.random() < 1 / 3 or kind not in (int, float):
        return _one_of(_words(field.name) + HOSTILE.get(kind, (None,)), draw)
    return _inside(field.range, kind, draw)


def _words(name: str) -> tuple[str, ...]:
    """Words that an option with a table of its own takes."""
    from experiments.optimiser import OPTIMISERS, SCHEDULES

    tables = {"optimiser": OPTIMISERS, "schedule": SCHEDULES}
    return tuple(tables.get(name, {})) * 3


def _one_of(values: tuple[Any, ...], draw: np.random.Generator) -> Any:
    return values[int(draw.integers(len(values)))]


def _inside(allowed: Any, kind: type, draw: np.random.Generator) -> Any:
    """A number of a range: at its ends, or near the lower one."""
    low = next((x for x in (allowed.least, allowed.above) if x is not None), -3)
    high = next((x for x in (allowed.most, allowed.below) if x is not None), low + 64)
    if kind is int:
        near = int(draw.integers(low, min(high, low + 16) + 1))
        return _one_of((near, near, near, int(low), int(high)), draw)
    near = float(draw.uniform(low, min(high, low + 4)))
    return _one_of((near, near, near, float(low), float(high)), draw)


def _divergence(draw: np.random.Generator) -> str:
    from fdiv.divergences import FAMILY

    named = tuple(FAMILY)
    name = str(_one_of(named, draw))
    extreme = str(_one_of(("0.5", "-1", "64", "65", "1e9", "nan", "1e-7", "1", "x", ""), draw))
    return _one_of((name, f"{name}:{extreme}", f"{name}:0.3", *HOSTILE[str]), draw)


def _method(draw: np.random.Generator) -> str:
    from fdiv.objectives import ARGUMENTS, METHODS

    name = str(_one_of(tuple(METHODS), draw))
    argument = _divergence(draw) if name in ARGUMENTS else _one_of(("k3-loss", "k1-ratio"), draw)
    return _one_of((name, name, f"{name}:{argument}", argument), draw)


def changed_config(preset: Config, changed: dict[str, Any]) -> Config:
    """The preset with other values."""
    from experiments.config import replace

    flat = {name: value for name, value in changed.items() if "." not in name}
    nested: dict[str, dict[str, Any]] = {}
    for name, value in changed.items():
        group, _, inner = name.partition(".")
        if inner:
            nested.setdefault(group, {})[inner] = value
    groups = {group: _inner(getattr(preset, group), own) for group, own in nested.items()}
    return replace(preset, **flat, **groups)


def _inner(owner: Any, changed: dict[str, Any]) -> Any:
    own = {name: value for name, value in changed.items() if "." not in name}
    for group in dict.fromkeys(name.partition(".")[0] for name in changed if "." in name):
        inner = {k.partition(".")[2]: v for k, v in changed.items() if k.startswith(f"{group}.")}
        own[group] = _inner(getattr(owner, group), inner)
    return dataclasses.replace(owner, **own)


# --- what must hold -------------------------------------------------------------------------------


def check(config: Config, preset: Config) -> None:
    """All that `compare` checks before it writes anything. Raises `UsageError`."""
    from experiments import assemble, devices, validation
    from experiments.config import resolve
    from experiments.running import footprint, runs

    validation.check(config, preset)
    devices.lay_out(config.budget.seeds, config.devices)
    task = _task(config)
    if task is None:
        return
    footprint.refuse(config, preset, task)
    components = assemble.components(config, task)
    shared = (config.benchmark, config.policy, config.scorer, config.penalty, config.control)
    for name, method in resolve(config).items():
        runs.batches(task.mdp, method.reads, name)
        awaited = task.mdp.expert is None and _has_teacher(config)  # a teacher that is to be
        if not awaited and (method, *shared) not in BUILT:
            assemble.build(config, method, components)
            BUILT.add((method, *shared))


def _has_teacher(config: Config) -> bool:
    from experiments.config import teacher_of

    return teacher_of(config) is not None


TASKS: dict[Any, Any] = {}  # most configs share one; and rows that were read
BUILT: set[Any] = set()  # methods, with what they were built from


def _task(config: Config) -> Any:
    from experiments import assemble

    of_text = hasattr(config.benchmark, "teacher_updates")  # which looks at what its methods read
    suited = config.methods if of_text else ()
    key = (config.benchmark, config.evaluation.exact_limit, suited)
    if key in TASKS:
        return TASKS[key]
    if len(TASKS) >= MOST_TASKS:
        return None
    of_bytes = of_text and getattr(config.benchmark, "tokenizer", None) is None
    reading = TASKS["rows"] if of_bytes and "rows" in TASKS else assemble.data(config)
    task = assemble.task(assemble.fitted(config, reading), reading)
    TASKS[key] = task
    if of_bytes:
        TASKS["rows"] = reading
    return task


def unclear(error: UsageError, preset: Config) -> str:
    """What a refusal lacks, or nothing."""
    options = set(options_of(preset))
    groups = {name.partition(".")[0] for name in options if "." in name}
    named = [name.strip() for name in error.field.split(",")]
    if not all(name in options | groups for name in named):
        return f"names no option: {error}"
    if not error.fix.strip() or not error.problem.strip():
        return f"gives no fix: {error}"
    return "is too long to read." if len(str(error)) > 3000 else ""


# --- two updates ----------------------------------------------------------------------------------


def trained(accepted: list[tuple[str, Config]], most: int) -> tuple[int, list[Fault]]:
    """Train one method of up to `most` accepted configs for two updates; how many ran, and what
    went wrong."""
    ran, faults = 0, []
    for number, (name, config) in enumerate(_small(accepted)):
        if ran == most:
            break
        ran += 1
        method = config.methods[number % len(config.methods)]
        try:
            two_updates(config, method)
        except Exception:
            changed = {"methods": method, "config": str(config)}
            faults.append(Fault(name, changed, traceback.format_exc(limit=-4)))
    return ran, faults


def _small(accepted: list[tuple[str, Config]]) -> Iterator[tuple[str, Config]]:
    """Those that are quick to run once their budget is small."""
    from experiments.config import replace, resolve
    from experiments.running import footprint

    for name, config in accepted:
        budget = config.budget
        parts = budget.minibatches * budget.accumulate
        if parts > 64:
            continue
        rows = min(budget.demos, 16)
        groups = math.lcm(*map(_group, resolve(config).values()))
        if groups > 64:
            continue
        size = 2 * parts * groups
        own = replace(config, **BUDGET, batch_size=size, demos=rows, warm_up=0)
        task = _task(own)
        if task is None:
            continue
        sizes = footprint.Sizes(task.mdp.vocab, task.length)
        if sum(need.bytes for need in footprint.needs(own, sizes)) < LARGEST_RUN:
            yield name, own


def _group(method: Any) -> int:
    """Answers of a method to one prompt."""
    return getattr(getattr(method, "following", method), "group", None) or 1


def two_updates(config: Config, name: str) -> None:
    """Train one method of a config to its end, with an untrained teacher where it asks for one."""
    from experiments import assemble, devices
    from experiments.config import resolve
    from experiments.running import runs, teacher, train
    from fdiv import objectives

    task = _task(config)
    if task.mdp.expert is None:
        task = task._replace(mdp=task.mdp._replace(expert=teacher.untrained(config, task)))
    components = assemble.components(config, task)
    method = resolve(config)[objectives.canonical(name)]
    keys = assemble.seed_keys(config, config.budget.seeds)
    rows = runs.fixed_rows(config.budget, task.mdp, keys, method.reads)
    start = runs.starts(config, task, components, keys)
    rates = np.full(config.budget.seeds, config.optimiser.learning_rate, np.float32)
    of: Callable[..., Any] = runs.Runs
    layout = devices.lay_out(config.budget.seeds, config.devices)
    objective = assemble.build(config, method, components)
    train.to_end(
        train.prepare(config, task, objective, layout, of(keys, start, rates, rows), method.reads)
    )


if __name__ == "__main__":
    sys.exit(main())
