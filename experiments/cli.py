"""The command line: a preset first, then flags; what cannot be done is said in one paragraph, exit
code 2."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import itertools
import pkgutil
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from experiments.running.stopping import STOPPED_EXIT
from fdiv.types import UsageError

USAGE_EXIT = 2
SHORT = {  # what is typed often, and where it lives
    "--beta": ("--benchmark.beta",),
    "--spread": ("--benchmark.spread",),
    "--noise": ("--benchmark.flips", "--benchmark.slips"),
}
IMPORTED: list[ModuleType] = []  # what `--import` has loaded, in order


def presets() -> dict[str, tuple[str, Any]]:
    """Every preset of the `configs` folder, one file each, and of imported files: name ->
    (description, config)."""
    found = {}
    folder = importlib.import_module("configs")
    for module in sorted(pkgutil.iter_modules(folder.__path__), key=lambda m: m.name):
        found |= importlib.import_module(f"configs.{module.name}").PRESETS
    for module in IMPORTED:
        found |= getattr(module, "PRESETS", {})
    return found


def run(
    main: Callable[[str, Any], int],
    program: str,
    argv: list[str] | None = None,
    adapt: Callable | None = None,
) -> int:
    """Parse `argv` and call `main(preset name, config)`. `adapt` turns each preset into the
    program's own config."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        argv = load_plugins(argv)
        preset, config = parse(program, argv, adapt)
        return main(preset, config)
    except UsageError as error:
        return refused(error)
    except KeyboardInterrupt:
        print("Left at once. The same command goes on from the last save.", file=sys.stderr)
        return STOPPED_EXIT


def refused(error: UsageError) -> int:
    """Say in one paragraph what cannot be done; the exit code for it."""
    print(textwrap.fill(f"error: {error}", 100), file=sys.stderr)
    return USAGE_EXIT


def load_plugins(argv: list[str]) -> list[str]:
    """Import each `--import FILE.py` (a user's own divergences, benchmarks, methods or presets) and
    take it off the line."""
    rest = []
    arguments = iter(argv)
    for argument in arguments:
        if argument == "--import":
            IMPORTED.append(_load(Path(next(arguments, ""))))
        else:
            rest.append(argument)
    return rest


def _load(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError("import", str(path), "is not a file.", "Give a Python file.")
    spec = importlib.util.spec_from_file_location(f"imported_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where the types of its dataclasses' fields are looked up
    spec.loader.exec_module(module)
    return module


def imported() -> dict[str, str]:
    """Name -> hash of each imported file: they decide the numbers as a config does."""
    files = [Path(module.__file__) for module in IMPORTED]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in files}


def _spelled_out(argv: list[str]) -> list[str]:
    """`--beta B` or `--beta=B` as the flags that it stands for."""
    rest, found = iter(argv), []
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name in SHORT:
            value = [value] if equals else list(itertools.islice(rest, 1))
            found += [word for flag in SHORT[name] for word in (flag, *value)]
        else:
            found.append(argument)
    return found


def parse(program: str, argv: list[str], adapt: Callable | None = None) -> tuple[str, Any]:
    """(preset name, config) from a command line."""
    import tyro

    known = presets()
    if argv and not argv[0].startswith("-") and argv[0] not in known:
        near = difflib.get_close_matches(
            argv[0].replace("_", "-"), known, n=3, cutoff=0.3
        ) or sorted(known)
        raise UsageError(
            "preset",
            argv[0],
            "there is no preset (benchmark) of that name.",
            f"The nearest: {', '.join(near)}.",
        )
    choices = {
        name: (text, adapt(config) if adapt else config) for name, (text, config) in known.items()
    }
    marks = (tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff)
    argv = _spelled_out(argv)
    config = tyro.extras.overridable_config_cli(
        choices, prog=f"python -m {program}", args=argv, config=marks
    )
    return argv[0], config
