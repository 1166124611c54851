"""One figure, its numbers and its checks: `python -m experiments.figures KEY [flags] --out DIR`, or
`all --out DIR`.

Writes DIR/KEY/KEY.pdf, .png, .csv and .json; `all` makes every figure at its default flags and
DIR/index.html around them, `studies` every study, which train. A study's flags start from `--preset
small` (two cores) or `--preset cluster`. Exit code 1: a check does not hold (or, with `all`, a
figure could not be made); 2: the flags cannot be; 130: stopped by Ctrl-C, SIGTERM or SIGUSR1. What
was made before stays."""

from __future__ import annotations

import dataclasses
import difflib
import sys
import textwrap
import time
import traceback
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments import cli, escapes, paths
from experiments.figures import KEYS, STUDIES, figure, gallery
from experiments.figures.common.base import Check, Figure, Result, Row, write_files
from fdiv.ranges import check_ranges
from fdiv.types import UsageError

PROGRAM = "python -m experiments.figures"
OUT = Path("runs/figures")


def main(argv: list[str] | None = None) -> int:
    """Make what the command line asks for."""
    with cli.interruptible():
        try:
            return _main(argv)
        except KeyboardInterrupt:
            return cli.stopped("Nothing was made. The same command begins anew.")


def _main(argv: list[str] | None) -> int:
    flags: dict[str, Path] = {}
    try:
        argv = cli.arguments(argv)
        if not argv or argv[0] in ("-h", "--help"):
            try:
                print(_usage(), flush=True)
            except BrokenPipeError:  # whoever reads it has seen enough
                escapes.drop_output()
            return 0 if argv else cli.USAGE_EXIT
        key, *rest = argv
        if key in PAGES:
            about = f"Every {PAGES[key][0]} at its default flags, and one page of them all."
            command = _parse(key, rest, [], about)
            flags = paths.given(command)
            return every(PAGES[key][1](), _folder(command.out))
        chosen = figure(_checked(key))
        start, rest = _preset(chosen, rest)
        command = _parse(key, rest, [("flags", start)], f"{chosen.title}. {chosen.claim}")
        flags = paths.given(command)
        return one(key, command.flags, _folder(command.out))
    except UsageError as error:
        return cli.refused(error)
    except OSError as error:
        return cli.refused(paths.unusable(error, flags))


PAGES = {
    "all": ("figure", lambda: KEYS),
    "studies": ("study", lambda: STUDIES),
}  # looked up late, for tests replace KEYS


def _usage() -> str:
    indent = {"initial_indent": "  ", "subsequent_indent": "  "}
    keys, studies = (
        textwrap.fill(", ".join(names), 98, break_on_hyphens=False, **indent)
        for names in (KEYS, STUDIES)
    )
    return (
        f"usage: {PROGRAM} KEY [flags] --out DIR\n\n"
        f"KEY is all, or one of\n{keys}\n\n"
        f"or studies, or one of those that train (--preset small or cluster)\n{studies}\n\n"
        f"{PROGRAM} KEY --help lists a figure's flags."
    )


def _preset(chosen: Figure, argv: list[str]) -> tuple[Any, list[str]]:
    """The flags to start from, and the line without `--preset`."""
    if "--preset" not in argv:
        return chosen.flags(), argv
    if chosen.cluster is None:
        fix = "Drop --preset; studies have presets, and figures that train a language model."
        raise UsageError("preset", chosen.title, "this figure has none.", fix)
    at = argv.index("--preset")
    presets = {"small": chosen.flags(), "cluster": chosen.cluster}
    name = next(iter(argv[at + 1 :]), "")
    if name not in presets:
        fix = "Use small or cluster."
        raise UsageError("preset", name, "there is no preset of that name.", fix)
    return presets[name], argv[:at] + argv[at + 2 :]


def _checked(key: str) -> str:
    keys = (*KEYS, *STUDIES)
    if key not in keys:
        asked = key.lower().replace("-", "_")
        near = difflib.get_close_matches(asked, keys, n=3, cutoff=0.3) or KEYS
        fix = f"The nearest: {', '.join(near)}."
        raise UsageError("key", key, "there is no figure of that name.", fix)
    return key


def _parse(key: str, argv: list[str], fields: list[tuple[str, Any]], description: str) -> Any:
    """The figure's own flags, from where they start, and --out."""
    import tyro

    from experiments.cli import spelling

    kinds = {k: v for _, start in fields for k, v in cli.kinds_of(type(start)).items()}
    kinds["out"] = Path
    argv = spelling.completed(argv, kinds)
    bare: list[tuple[str, Any, Any]] = []
    for name, start in fields:
        kind: Any = type(start)  # the class of its flags, known when the figure is
        own = Annotated[kind, tyro.conf.arg(name="")]
        bare.append((name, own, dataclasses.field(default=start)))
    out = (
        "out",
        Annotated[Path, tyro.conf.arg(help="Folder to write to.")],
        dataclasses.field(default=OUT),
    )
    command = dataclasses.make_dataclass("Command", [*bare, out], frozen=True)
    about = {"prog": f"{PROGRAM} {key}", "description": description}
    parsed = tyro.cli(command, args=argv, config=(tyro.conf.FlagConversionOff,), **about)
    return paths.with_homes(parsed)


def _folder(out: Path) -> Path:
    if out.exists() and not out.is_dir():
        raise UsageError("out", str(out), "is a file.", "Give a folder, new or of earlier figures.")
    paths.try_and_leave("out", out)  # before the figure, which may train for hours
    return out


def one(key: str, flags: Any, out: Path) -> int:
    """Make one figure, show its table and its checks."""
    if dataclasses.is_dataclass(flags):
        check_ranges(flags)
    try:
        result = figure(key).make(flags)
        write_files(key, flags, result, out / key)
    except KeyboardInterrupt:
        earlier = (out / key / f"{key}.json").is_file()
        before = "the earlier one stays" if earlier else "none is kept"
        return cli.stopped(f"{key} was not finished: {before}. The same command makes it anew.")
    _show(key, result)
    print(f"\nwritten to {out / key}")
    return 0 if all(check.holds for check in result.checks) else 1


def _show(key: str, result: Result) -> None:
    table = Table(box=None, padding=(0, 2), header_style="bold", title_justify="left")
    table.title = figure(key).title
    titles = list(dict.fromkeys(title for row in result.rows for title in row))
    for title in titles:
        side = "right" if _numeric(result.rows, title) else "left"
        table.add_column(title, justify=side, no_wrap=True)
    for row in result.rows:
        table.add_row(*(_cell(row.get(title, "")) for title in titles))
    # No number is cut, however narrow the screen.
    width = Console(highlight=False, emoji=False, width=1000).measure(table).maximum
    Console(highlight=False, emoji=False, width=width).print(table)
    print(f"\n{_tally(result.checks)}")
    for check in result.checks:
        print(f"  {'pass' if check.holds else 'FAIL'}  {check.name}: {check.detail}")


def _numeric(rows: list[Row], title: str) -> bool:
    return not any(isinstance(row.get(title), str) for row in rows)


def _cell(value: Any) -> str:
    if value is None or isinstance(value, (str, bool, int)):
        return "" if value is None else escape(str(value))
    return f"{float(value):.6g}"


def _tally(checks: list[Check]) -> str:
    return f"{sum(check.holds for check in checks)} of {len(checks)} checks hold"


def every(keys: tuple[str, ...], out: Path) -> int:
    """Make all of them at their defaults and the page that shows them; one that cannot be made is
    listed as such."""
    entries: list[gallery.Entry] = []
    try:
        for key in keys:
            entries.append(_attempt(key, out))
    except KeyboardInterrupt:
        left = keys[len(entries) :]
        there = f"those before it stay in {out}" if entries else "nothing is kept"
        return cli.stopped(
            f"{left[0]} was not finished; {there} ({len(entries)} of {len(keys)} are made). "
            f"`{PROGRAM} KEY --out {out}` makes one of the rest ({', '.join(left)}), the same "
            "command all of them and their page."
        )
    out.mkdir(parents=True, exist_ok=True)
    gallery.write(out / "index.html", entries)
    failed = [entry.key for entry in entries if not entry.holds]
    holding = len(entries) - len(failed)
    print(f"\n{holding} of {len(entries)} figures hold; the page is {out / 'index.html'}")
    return 1 if failed else 0


def _attempt(key: str, out: Path) -> gallery.Entry:
    began = time.monotonic()
    command = f"{PROGRAM} {key}"
    try:
        chosen = figure(key)
        flags = chosen.flags()
        result = chosen.make(flags)
        svg = write_files(key, flags, result, out / key)
        entry = gallery.entry(key, chosen, result, svg, command, time.monotonic() - began)
        print(f"{key}: {_tally(entry.checks)}, {entry.seconds:.1f} s", flush=True)
    except Exception as error:  # the others go on
        reason = f"{type(error).__name__}: {error}"
        entry = gallery.failed(key, command, reason, traceback.format_exc())
        print(f"{key}: FAILED, {reason}", flush=True)
    return entry


if __name__ == "__main__":
    sys.exit(main())
