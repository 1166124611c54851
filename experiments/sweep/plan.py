"""From a grid to a plan: every line resolved and checked before anything is written."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments import cli, paths, validation
from experiments import config as configs
from experiments.storage import files
from experiments.sweep import flags, grid
from experiments.sweep.folder import PARTS, Line, SweepFolder, plan_text, sound_lines
from fdiv import ranges
from fdiv.types import UsageError

SHOWN = 24  # words of a point in an error
OWN = ("out", "cache")  # flags that a line does not choose


def make(source: Path, out: Path, imports: Sequence[str] = ()) -> tuple[SweepFolder, int]:
    """Write the plan of a grid into a new folder; the sweep, and how many points were the same run
    as an earlier one.

    Raises `UsageError` for a point that cannot be run, and for a folder that holds anything but
    this very plan."""
    points = grid.expand(grid.read(source))
    if not points:
        raise UsageError("grid", str(source), "has no point left.", "Skip fewer.")
    lines = _axes_only(
        _distinct([resolve(number, point, imports) for number, point in enumerate(points)])
    )
    _refuse_if_taken(out, lines)
    for part in PARTS:
        paths.try_folder("out", out / part)
    files.write_text(out / "plan.jsonl", plan_text(lines))
    return SweepFolder(out), len(points) - len(lines)


def resolve(number: int, point: grid.Point, imports: Sequence[str] = ()) -> Line:
    """A line of the plan: preset, flags, the point with its values as resolved, and the config."""
    point = dict(point)
    preset = point.pop("preset", None)
    words = list(_words(point))
    shown = " ".join(map(str, [preset, *words[:SHOWN], *(["..."] if len(words) > SHOWN else [])]))
    if preset is None:
        names = ", ".join(cli.presets())
        raise UsageError("grid", shown, "names no preset.", f"Give one of {names} as preset.")
    config = parsed(str(preset), words, f"point {number} ({shown})")
    identity = json.loads(json.dumps(configs.identity(config), default=str))
    flat = configs.flatten(identity) | {"preset": preset}
    resolved = {flag: flat.get(_today(flag), value) for flag, value in point.items()}
    return {
        "line": number,
        "preset": preset,
        "flags": flags.command_line(str(preset), flags.spelled(words)),
        "point": {"preset": preset} | resolved,
        "imports": list(imports),
        "config": identity,
    }


def _today(flag: str) -> str:
    """The field that a flag of an earlier version, or a short one, stands for."""
    return flags.spelled([f"--{flag.replace('_', '-')}", "0"])[0].flag


def parsed(preset: str, words: Sequence[str], where: str) -> configs.Config:
    """The config of a line; what is wrong with it is said with `where` it stands."""
    try:
        return _checked(preset, tuple(words), len(cli.IMPORTED), where)
    except UsageError as error:
        if error.field == "grid":
            raise
        raise UsageError(
            f"{where}: {error.field}", error.value, error.problem, error.fix
        ) from error


def _checked(preset: str, words: tuple[str, ...], imported: int, where: str) -> configs.Config:
    known = (preset, words, imported)
    if known not in _configs:
        config = flags.parsed(preset, words, where)
        _validate(preset, config, imported)
        _configs[known] = config
    return _configs[known]


def _validate(preset: str, config: configs.Config, imported: int) -> None:
    """All checks of a config, once for those that differ in their seed alone: of these the seed's
    range is looked at."""
    shape = (preset, imported, configs.replace(config, seed=0))
    try:
        if shape in _sound:
            return ranges.check_ranges(config.budget)
    except TypeError:  # a user's own group may hold what has no hash
        shape = None
    validation.check(config, flags.presets(imported)[preset])
    _build(_of_task(config))
    if shape is not None:
        _sound.add(shape)


_sound: set[tuple] = set()  # configs that have passed all checks, their seed 0
_configs: dict[tuple, configs.Config] = {}  # of lines, which the estimate of costs asks for again


def _of_task(config: configs.Config) -> configs.Config:
    """The config with all that its task and its methods are not made from as in any other."""
    plain = configs.Config()
    limit = config.evaluation.exact_limit
    return configs.replace(
        config,
        budget=plain.budget,
        optimiser=plain.optimiser,
        evaluation=dataclasses.replace(plain.evaluation, exact_limit=limit),
        saving=plain.saving,
        output=plain.output,
        devices=plain.devices,
    )


@functools.lru_cache(maxsize=4096)
def _build(config: configs.Config) -> None:
    """Refuse what can only be told from the task itself: strings too many to enumerate, a law that
    is not known."""
    from experiments import assemble
    from experiments.models import pretrained
    from experiments.running import ready

    reading = _reading(config.benchmark, config.policy)
    config = assemble.fitted(config, reading)
    task = assemble.task(config, reading)
    with pretrained.shapes_alone():
        # without tracing each line's first update, which would take hours for a large plan
        ready.check(config, task, assemble.components(config, task), started=True)


@functools.lru_cache(maxsize=4)
def _reading(benchmark: Any, policy: Any) -> Any:
    from experiments import assemble

    return assemble.data(configs.make_config(benchmark=benchmark, policy=policy))


def _words(point: grid.Point) -> Iterator[str]:
    """The point as a command line. Raises `UsageError` for what cannot be one."""
    for flag, value in point.items():
        if str(flag).startswith("-"):
            fix = f"Write {str(flag).lstrip('-')}."
            raise UsageError("grid", flag, "begins as on a command line.", fix)
        words = value if isinstance(value, (list, tuple)) else [value]
        for word in words:
            if isinstance(word, (list, tuple, dict, set)) or callable(word):
                problem = "is neither a value nor a list of values."
                raise UsageError(str(flag), value, problem, "Give one of these.")
            if flags.is_flag(str(word)):
                raise UsageError(str(flag), value, "holds the name of a flag.", "Give a value.")
        if flags.name(str(flag)) in OWN:
            raise UsageError("grid", flag, "is the sweep's own to choose.", "Drop it.")
        yield f"--{str(flag).replace('_', '-')}"
        yield from map(str, words)


def _distinct(lines: list[Line]) -> list[Line]:
    """Without the points whose run an earlier one is already, numbered anew."""
    kept = {
        json.dumps([line["config"], line["imports"]], sort_keys=True): line
        for line in reversed(lines)
    }
    first = sorted(kept.values(), key=lambda line: line["line"])
    return [{**line, "line": number} for number, line in enumerate(first)]


def _axes_only(lines: list[Line]) -> list[Line]:
    """Each line's point without what is the same in all of them."""
    said = [{flag: json.dumps(value) for flag, value in line["point"].items()} for line in lines]
    varied = [
        flag
        for flag in dict.fromkeys(f for one in said for f in one)
        if len({one.get(flag) for one in said}) > 1
    ]
    return [
        {**line, "point": {flag: line["point"][flag] for flag in varied if flag in line["point"]}}
        for line in lines
    ]


def _refuse_if_taken(out: Path, lines: list[Line]) -> None:
    """Raise `UsageError` where the folder holds anything but this plan, or what is left of it."""
    if out.exists() and not out.is_dir():
        raise UsageError("out", str(out), "is a file.", "Give a folder.")
    held = out / "plan.jsonl"
    if held.is_dir():
        files.set_aside(held, "it is a folder")
    sound = sound_lines(held) if held.exists() else []
    plain = {line["line"]: line for line in json.loads(json.dumps(lines))}
    another = any(line != plain.get(line["line"]) for line in sound)
    if another or (held.exists() and not sound):
        raise UsageError(
            "out", str(out), "holds another plan.", "Give another folder, or that plan's grid."
        )
    if not held.exists() and out.exists() and any(out.iterdir()):
        raise UsageError(
            "out", str(out), "holds files that are no sweep's.", "Give a new or empty folder."
        )
