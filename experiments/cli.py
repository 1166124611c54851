"""The command line: a preset first, then flags; what cannot be done is said in one paragraph, exit code 2."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import runpy
import sys
import textwrap
from collections.abc import Callable
from typing import Any

from fdiv.types import UsageError

USAGE_EXIT = 2


def presets() -> dict[str, tuple[str, Any]]:
    """Every preset of the `configs` folder, one file each: name -> (description, config)."""
    found = {}
    folder = importlib.import_module("configs")
    for module in sorted(pkgutil.iter_modules(folder.__path__), key=lambda m: m.name):
        found |= importlib.import_module(f"configs.{module.name}").PRESETS
    return found


def run(main: Callable[[str, Any], int], program: str, argv: list[str] | None = None, adapt: Callable | None = None) -> int:
    """Parse `argv` and call `main(preset name, config)`. `adapt` turns each preset into the program's own config."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        argv = load_plugins(argv)
        preset, config = parse(program, argv, adapt)
        return main(preset, config)
    except UsageError as error:
        print(textwrap.fill(f"error: {error}", 100), file=sys.stderr)
        return USAGE_EXIT


def load_plugins(argv: list[str]) -> list[str]:
    """Run each `--import FILE.py` (a user's own divergences, benchmarks, methods or presets) and take it off the line."""
    rest = []
    arguments = iter(argv)
    for argument in arguments:
        if argument != "--import":
            rest.append(argument)
            continue
        path = next(arguments, "")
        try:
            runpy.run_path(path)
        except OSError as error:
            raise UsageError("import", path, f"cannot be read ({error.strerror}).", "Give a Python file.") from error
    return rest


def parse(program: str, argv: list[str], adapt: Callable | None = None) -> tuple[str, Any]:
    """(preset name, config) from a command line."""
    import tyro

    known = presets()
    if argv and not argv[0].startswith("-") and argv[0] not in known:
        near = difflib.get_close_matches(argv[0].replace("_", "-"), known, n=3, cutoff=0.3) or sorted(known)
        raise UsageError("preset", argv[0], "there is no preset (benchmark) of that name.", f"The nearest: {', '.join(near)}.")
    choices = {name: (text, adapt(config) if adapt else config) for name, (text, config) in known.items()}
    marks = (tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff)
    config = tyro.extras.overridable_config_cli(choices, prog=f"python -m {program}", args=argv, config=marks)
    return argv[0], config
