"""The command line: a preset first, then flags; what cannot be done is said in one paragraph, exit
code 2."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import itertools
import json
import os
import pkgutil
import re
import signal
import sys
import textwrap
import threading
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from experiments import escapes, paths
from fdiv.types import UsageError

if TYPE_CHECKING:  # loaded once `--import` has been, as imported groups become fields of it
    from experiments.config import Config

Options = TypeVar("Options")
USAGE_EXIT = 2
STOPPED_EXIT = 130  # "not done, nothing wrong": a launcher runs the same command once more
SHORT = {  # what is typed often, and where it lives
    "--beta": ("--benchmark.beta",),
    "--spread": ("--benchmark.spread",),
    "--noise": ("--benchmark.flips", "--benchmark.slips"),
}
ALIASES = {  # flags of earlier versions, and what they are called now
    "--clip": "--max-grad-norm",
    "--control.horizon": "--control.adapt-over",
}
IMPORTED: list[ModuleType] = []  # what `--import` has loaded, in order
GIVEN: set[str] = set()  # the flags that the last command line named
_RENAMED: set[str] = set()  # aliases that were used, and said so
_HEARD: list[str] = []  # signals that the command was asked to end by
AGAIN = 0.05  # seconds until a signal is sent once more that nothing could be made of
# where Python throws an exception away: what is called while memory is collected
DEAF = ("_xla_gc_callback", "__del__")


def presets() -> dict[str, tuple[str, Config]]:
    """Every preset of the `configs` folder, one file each, and of imported files: name ->
    (description, config)."""
    known: dict[str, tuple[str, Config]] = {}
    folder = importlib.import_module("configs")
    for module in sorted(pkgutil.iter_modules(folder.__path__), key=lambda m: m.name):
        known |= importlib.import_module(f"configs.{module.name}").PRESETS
    for imported_file in IMPORTED:
        known |= getattr(imported_file, "PRESETS", {})
    return known


def run(
    main: Callable[[str, Config], int],
    program: str,
    argv: list[str] | None = None,
    adapt: Callable[[Config], Config] | None = None,
) -> int:
    """Parse `argv` and call `main(preset name, config)`. `adapt` turns each preset into the
    program's own config."""
    flags: dict[str, Path] = {}
    try:
        with interruptible():
            argv = arguments(argv)
            preset, config = parse(program, argv, adapt)
            flags = paths.given(config, _unnamed())
            return main(preset, config)
    except UsageError as error:
        return refused(error)
    except OSError as error:
        return refused(paths.unusable(error, flags))
    except KeyboardInterrupt:
        print("Left at once. The same command goes on from the last save.", file=sys.stderr)
        return STOPPED_EXIT


def script(
    program: str,
    options: type[Options],
    document: str | None,
    action: Callable[[Options], int],
    argv: list[str] | None = None,
) -> int:
    """The exit code of `action(options)` for a script whose command line is a dataclass of flags;
    `USAGE_EXIT` where something is refused, and 0 where the reader of a pipe has seen enough."""
    import tyro  # the slowest import of a command line, which `--version` does without

    from experiments.cli import spelling

    flags: dict[str, Path] = {}
    try:
        words = spelling.completed(arguments(argv), kinds_of(options), positional=True)
        off = (tyro.conf.FlagConversionOff,)
        given = tyro.cli(options, prog=program, description=document, args=words, config=off)
        given = paths.with_homes(given)
        flags = paths.given(given)
        with interruptible():
            return action(given)
    except UsageError as error:
        return refused(error)
    except BrokenPipeError:
        escapes.drop_output()
        return 0
    except OSError as error:
        return refused(paths.unusable(error, flags))
    except KeyboardInterrupt:
        return stopped("What it was at is not kept. The same command begins it anew.")


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """In here SIGTERM and SIGUSR1, as schedulers send them, and Ctrl-C raise `KeyboardInterrupt`,
    where Python would throw that away a little later, until something that saves has handlers of
    its own."""
    if threading.current_thread() is not threading.main_thread():  # which alone hears signals
        yield
        return
    _HEARD.clear()
    numbers = [signal.SIGTERM, signal.SIGUSR1]
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as of what runs in the background
        numbers.append(signal.SIGINT)
    before = {number: signal.signal(number, _leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, frame: Any) -> None:
    """The handler of a signal that a command is to end by."""
    if is_deaf(frame):
        send_again(number)
        return
    _HEARD.append(signal.Signals(number).name)
    raise KeyboardInterrupt(_HEARD[-1])


def is_deaf(frame: Any) -> bool:
    """Whether an exception that is raised there would be thrown away."""
    while frame is not None:
        if frame.f_code.co_name in DEAF:
            return True
        frame = frame.f_back
    return False


def send_again(number: int) -> None:
    """Send this process a signal once more, a little later."""
    timer = threading.Timer(AGAIN, os.kill, (os.getpid(), number))
    timer.daemon = True
    timer.start()


def heard() -> str | None:
    """The signal that this command was asked to end by, though what it raised was thrown away."""
    return _HEARD[-1] if _HEARD else None


def stopped(then: str) -> int:
    """Say that a command was stopped from outside, what it leaves and how to go on; the exit code
    for it."""
    print(filled(f"Stopped. {then}"), file=sys.stderr)
    return STOPPED_EXIT


def kinds_of(options: type, prefix: str = "") -> dict[str, Any]:
    """The types of a dataclass's fields by the names of their flags, groups in groups."""
    hints = typing.get_type_hints(options, include_extras=True)
    kinds: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        kind, name = hints[field.name], prefix + field.name
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            kinds |= kinds_of(kind, f"{name}.")
        else:
            kinds[name] = kind
    return kinds


NAMED = re.compile(r"""(error: )?[\w.-]+ = ("[^"]*"|'[^']*'|\S+)""")


def filled(text: str) -> str:
    """A paragraph of lines of 100 columns in which no flag, no path and no `field = value` is
    broken."""
    whole = NAMED.sub(lambda match: match.group().replace(" ", "\0"), text)
    lines = textwrap.fill(whole, 100, break_on_hyphens=False, break_long_words=False)
    return lines.replace("\0", " ")


def refused(error: UsageError) -> int:
    """Say in one paragraph what cannot be done; the exit code for it."""
    print(filled(f"error: {error}"), file=sys.stderr)
    return USAGE_EXIT


def arguments(argv: list[str] | None = None) -> list[str]:
    """The command line (this process's where none is given) once `--version` is answered and
    `--import` is done. Raises `UsageError` for a flag that has two values."""
    from experiments.cli import repeated

    argv = list(sys.argv[1:] if argv is None else argv)
    answer_version(argv)
    argv = load_plugins(argv)
    repeated.refuse(argv, meant)
    return argv


def meant(flag: str) -> tuple[str, ...]:
    """The flags that one stands for, under their names of today."""
    today = ALIASES.get(flag.replace("_", "-"), flag)
    return SHORT.get(today, (today,))


def answer_version(argv: list[str]) -> None:
    """Print the versions and end the process, where the command line asks for them. Every command
    begins here, so this is also where what it prints is made to fit its terminal."""
    escapes.fit_screen()
    main = threading.current_thread() is threading.main_thread()
    handler = getattr(signal.getsignal(signal.SIGINT), "__name__", "")
    if main and handler == "leave_while_loading":  # of `experiments`
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if "--version" in argv:
        versions = (f"{name} {importlib.metadata.version(name)}" for name in ("fdiv", "jax"))
        print(", ".join(versions))
        raise SystemExit(0)


def load_plugins(argv: list[str]) -> list[str]:
    """Import each `--import FILE.py` (a user's own divergences, benchmarks, methods or presets) and
    take it off the line."""
    rest = []
    words = iter(argv)
    for argument in words:
        name, equals, value = argument.partition("=")
        if name == "--import":
            path = Path(value if equals else next(words, ""))
            _keep(_load(paths.expanded("import", path)))
        else:
            rest.append(argument)
    return rest


def _load(path: Path) -> ModuleType:
    if not os.path.isfile(path):
        raise UsageError("import", str(path), "is not a file.", "Give a Python file.")
    name = f"imported_{path.stem}"
    others = {module.__name__: module.__file__ for module in IMPORTED}
    if others.get(name, str(path)) != str(path):  # a file of the same name in another folder
        name = f"{name}_{hashlib.sha256(os.path.realpath(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError("import", str(path), "is no Python file.", "Give one that ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where the types of its dataclasses' fields are looked up
    try:
        path.open("rb").close()
    except OSError as error:
        raise paths.unusable(error, {"import": path}) from error
    spec.loader.exec_module(module)
    return module


def _keep(module: ModuleType) -> None:
    """Keep an imported file, in place of what the same file was before, as in a notebook."""
    same = lambda other: (
        os.path.realpath(other.__file__ or "") == os.path.realpath(module.__file__ or "")
    )
    IMPORTED[:] = [other for other in IMPORTED if not same(other)] + [module]


def imported_files() -> list[str]:
    """Paths of the imported files."""
    return [module.__file__ for module in IMPORTED if module.__file__]


def imported() -> dict[str, str]:
    """Name -> hash of each imported file (of all that have the name): they decide the numbers as a
    config does."""
    contents: dict[str, bytes] = {}
    for path in map(Path, imported_files()):
        contents[path.name] = contents.get(path.name, b"") + path.read_bytes()
    return {name: hashlib.sha256(whole).hexdigest()[:16] for name, whole in contents.items()}


def spelled_out(argv: Sequence[str]) -> list[str]:
    """`--beta B` or `--beta=B` as the flags that it stands for, and flags of earlier versions as
    they are called now."""
    rest, words = iter(argv), []
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name in SHORT:
            values = [value] if equals else list(itertools.islice(rest, 1))
            words += [word for flag in SHORT[name] for word in (flag, *values)]
        elif name.replace("_", "-") in ALIASES:
            words.append(_renamed(name.replace("_", "-")) + equals + value)
        else:
            words.append(argument)
    return words


def _renamed(name: str) -> str:
    """Today's name of a flag of an earlier version, said once in a process."""
    if name not in _RENAMED:
        _RENAMED.add(name)
        print(f"{name} is now called {ALIASES[name]}.", file=sys.stderr)
    return ALIASES[name]


def parse(
    program: str, argv: list[str], adapt: Callable[[Config], Config] | None = None
) -> tuple[str, Config]:
    """(preset name, config) from a command line."""
    import tyro

    from experiments import fields  # of the groups once files are imported
    from experiments.cli import short_help, spelling

    known = presets()
    argv, kept = _from_config(argv, known)
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
    argv = spelled_out(argv)
    GIVEN.clear()
    if argv and argv[0] in choices:
        preset, (text, config) = argv[0], choices[argv[0]]
        if kept is not None:
            choices[preset] = (text, config) = (text, kept)
        if {"-h", "--help"} & set(argv):
            own = short_help.with_methods(config, argv)
            print(short_help.text(program, preset, text, own))
            raise SystemExit(0)
        if "--help-all" in argv:
            fields.show_ranges(config)
            argv = [preset, "--help"]
        kinds = {name: field.kind for name, field in fields.table(config).items()}
        argv = [preset, *spelling.completed(argv[1:], kinds)]
        GIVEN.update(w.partition("=")[0] for w in argv if spelling.is_flag(w))
    marks = (tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff)
    config = tyro.extras.overridable_config_cli(
        choices, prog=f"python -m {program}", args=argv, config=marks
    )
    fields.refuse_fixed(config, GIVEN)
    return argv[0], paths.with_homes(config, _unnamed())


def _from_config(
    argv: list[str], known: dict[str, tuple[str, Config]]
) -> tuple[list[str], Config | None]:
    """The command line with the preset of the run whose config.json `--config` names, and its
    config. Raises `UsageError` where that cannot be read here."""
    place, rest = None, []
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name == "--config":
            place = value if equals else next(words, "")
        else:
            rest.append(word)
    if place is None:
        return rest, None
    preset, config = _kept_config(paths.expanded("config", Path(place)))
    if preset not in known:
        fix = "Name the file that has it with --import FILE.py."
        raise UsageError("config", place, f"is of {preset}, which is no preset here.", fix)
    if rest and not rest[0].startswith("-"):
        if rest[0] != preset:
            fix = "Leave the preset out, or give the config of a run of that one."
            raise UsageError("config", place, f"is of {preset}, not of {rest[0]}.", fix)
        rest = rest[1:]
    return [preset, *rest], config


def _kept_config(place: Path) -> tuple[str, Config]:
    """The preset and the config of a run's config.json, or of the run's folder."""
    from experiments import config as configs
    from experiments import fields
    from experiments.models.pretrained import DIGESTS

    file = place / "config.json" if os.path.isdir(place) else place
    if not os.path.exists(file):
        fix = "Give the config.json of a run, or the run's folder."
        raise UsageError("config", str(file), "is not there.", fix)
    try:
        kept = json.loads(file.read_bytes(), object_pairs_hook=_unique)
        preset, own = kept["preset"], dict(kept["config"])
        if not isinstance(preset, str):
            raise TypeError("a preset is a name")
    except OSError as error:
        raise paths.unusable(error, {"config": place}) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        fix = "Give the config.json of a run."
        raise UsageError("config", str(place), "is no run's config.json.", fix) from error
    given = imported()
    lacking = [name for name, digest in (own.get("imports") or {}).items() if name not in given]
    if lacking:
        problem = f"was run with {lacking[0]}, which is not imported here."
        raise UsageError("config", str(place), problem, f"Add --import {lacking[0]}.")
    for name in (*configs.DIGESTS, *DIGESTS):
        own.pop(name, None)
    config = configs.from_dict(own)
    fields.refuse_out_of_range(config)
    return preset, config


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Raises `ValueError` for a key that stands in it twice."""
    own = dict(pairs)
    if len(own) < len(pairs):
        raise ValueError("a key twice")
    return own


def _unnamed() -> set[str]:
    """The groups whose flags carry no prefix."""
    from experiments.config import LIFTED  # imported files come before it

    return set(LIFTED.values())
