"""How a file will be trained on: `python -m experiments.show_data PATH [flags]`

Prints its first rows as the policy sees them (the prompt, what is trained on, what is cut off,
where EOS stands), token by token where there is a tokenizer, the columns that are read and those
that are not, which rows are held out, and what each kind of method finds in it. The flags are those
of `experiments.compare text`. Exit code 0, or 2 where the file cannot be trained on, with the
reason."""

from __future__ import annotations

import dataclasses
import shlex
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from experiments import cli
from fdiv.benchmarks.text import Text
from fdiv.checks import at_least, present
from fdiv.types import UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text as Styled

    from experiments.data.reading import Reading
    from fdiv.benchmarks.text import Vocabulary
    from fdiv.benchmarks.text_rows import Cut, Row, Symbols

WIDTH = 16  # of a line's name
BETWEEN = "|"  # tokens
SHOWN = 400  # bytes or tokens printed of a prompt or an answer
HIDDEN = 60  # and of what is cut off
STYLES = {"prompt": "cyan", "train": "bold green", "refused": "bold red", "cut": "dim strike"}
USES = (  # what a method reads, and which methods do
    ("demos", "demonstrations", "sft, distill, gail, ..."),
    ("pairs", "comparisons", "dpo, f_dpo, ipo, simpo, bt_..."),
    ("labels", "labels", "kto"),
)


@dataclasses.dataclass(frozen=True)
class Options:
    """Print the first rows of a file as they will be trained on."""

    path: Annotated[Path | None, tyro.conf.Positional] = None
    """A file of rows or text, a folder, or a pattern in quotes; none: this Python's docstrings."""
    rows: int = 4
    """Rows to print."""
    benchmark: Text = dataclasses.field(default_factory=Text)


def main(argv: list[str] | None = None) -> int:
    """Read the file and print; `USAGE_EXIT` where it cannot be trained on."""
    return cli.script("python -m experiments.show_data", Options, __doc__, _show, argv)


def _show(options: Options) -> int:
    at_least("rows", options.rows, 0)
    return show(_benchmark(options), options.rows)


def _benchmark(options: Options) -> Text:
    given = options.benchmark.path
    if options.path is None:
        return options.benchmark
    if given is not None and given != options.path:
        problem, fix = f"is given beside {str(options.path)!r}.", "Give one path."
        raise UsageError("benchmark.path", str(given), problem, fix)
    return dataclasses.replace(options.benchmark, path=options.path)


def show(benchmark: Text, count: int) -> int:
    """Print what a reading of the benchmark's file holds."""
    from rich.console import Console

    from experiments import assemble
    from experiments.config import make_config
    from experiments.data import padding, reading

    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that lacks a character
    console = Console(highlight=False, soft_wrap=True, markup=False)
    source = assemble.read(make_config(benchmark=benchmark))
    fitted = source.fitted_to(benchmark)
    if source.store is not None:
        return _in_files(console, source, benchmark, count)
    _rows(console, source, fitted, count)
    for note in reading.notes(source, fitted):
        _wrapped(console, "- ", note)
    _wrapped(console, "- ", reading.kept(source, fitted))
    _wrapped(console, "- ", padding.note(source, fitted, padding.widths(source, fitted)))
    _overlaps(console, source, fitted)
    try:
        reading.build(source, fitted)
    except UsageError as error:
        return cli.refused(error)
    _uses(console, source, fitted)
    console.print(f"\nTo train on it: {_command(benchmark)}")
    if benchmark.tokenizer is not None and (benchmark.tokenizer / "config.json").is_file():
        path = shlex.quote(str(benchmark.tokenizer))
        own = f"--policy.name hf --policy.path {path} --warm-start 0"
        console.print(f"To train that model, and not a transformer from nothing, add {own}")
    return 0


def _in_files(console: Console, source: Reading, benchmark: Text, count: int) -> int:
    """The same of rows that stay on the host."""
    from experiments.data import padding, reading, stored
    from experiments.data.store import Store

    store, fitted = source.store, source.fitted_to(benchmark)
    assert isinstance(store, Store), "the rows are in memory"
    held = set(store.sides(fitted).held_out.tolist())
    for i in range(min(count, len(store))):
        console.print(
            f"row {i + 1:,} ({'held out' if i in held else 'not held out'})", style="bold"
        )
        for name, text in _parts(store.row(i), fitted.cut, source.vocabulary):
            _line(console, name, text)
        console.print()
    said = [*reading.notes(source, fitted)]
    said.append(padding.note(source, fitted, padding.widths(source, fitted)))
    for note in said:
        _wrapped(console, "- ", note)
    try:
        stored.build(source, fitted)
    except UsageError as error:
        return cli.refused(error)
    console.print(f"\nTo train on it: {_command(benchmark)}")
    return 0


def _rows(console: Console, source: Reading, benchmark: Text, count: int) -> None:
    """The first rows, each with its side of the split."""
    division = benchmark.split(source.rows)
    held, left = set(division.held_out), set(division.left_out)
    for i, row in enumerate(source.rows[:count]):
        side = "held out" if i in held else "on neither side" if i in left else "training side"
        number = source.numbers[i] if source.numbers else i + 1
        console.print(f"row {number:,} ({side})", style="bold")
        for name, text in _parts(row, benchmark.cut, source.vocabulary):
            _line(console, name, text)
        console.print()


def _line(console: Console, name: str, text: Styled) -> None:
    """A name and its text, at the width of a terminal in several lines beside the name."""
    width = max(20, console.width - WIDTH - 2)
    lines = text.wrap(console, width, overflow="fold") if console.is_terminal else [text]
    for label, line in zip([name, *[""] * len(lines)], lines):
        console.print(f"  {label:<{WIDTH}}", line, sep="")


def _parts(row: Row, cut: Cut, vocabulary: Vocabulary) -> list[tuple[str, Styled]]:
    """The lines of a row: name, and text with what is cut off."""
    from rich.text import Text as Styled

    seen = cut.prompt(row)
    prompt = Styled()
    if len(seen) < len(row.prompt):
        hidden = row.prompt[: len(row.prompt) - len(seen)]
        prompt.append(_spelled(hidden, vocabulary, HIDDEN, last=True), STYLES["cut"])
        prompt.append(f"[{len(hidden):,} {vocabulary.unit} cut off]", "yellow")
    prompt.append(_spelled(seen, vocabulary, SHOWN, last=True), STYLES["prompt"])
    parts = [("prompt", prompt if row.prompt else Styled("(none)", "dim"))]
    answer = lambda symbols, style: _answer(symbols, row.end, cut, vocabulary, style)
    if row.rejected is not None:
        chosen = ("chosen", answer(row.completion, STYLES["train"]))
        return [*parts, chosen, ("rejected", answer(row.rejected, STYLES["refused"]))]
    name = {None: "trained on", True: "liked", False: "not liked"}[row.liked]
    style = STYLES["refused" if row.liked is False else "train"]
    return [*parts, (name, answer(row.completion, style))]


def _answer(
    completion: Symbols, end: int | None, cut: Cut, vocabulary: Vocabulary, style: str
) -> Styled:
    """What is trained on of an answer, and EOS or what is cut off."""
    from rich.text import Text as Styled

    seen, ended = cut.answer(completion)
    text = Styled(_spelled(seen, vocabulary, SHOWN), style)
    if ended:
        token = vocabulary.token and vocabulary.token(vocabulary.end if end is None else end)
        return text.append(f"[EOS {token}]" if token else "[EOS]", "bold yellow")
    hidden = completion[len(seen) :]
    more = f"{len(hidden):,} {vocabulary.unit} more"
    text.append(f"[cut here, no EOS: {more}]", "yellow")
    return text.append(_spelled(hidden, vocabulary, HIDDEN), STYLES["cut"])


def _spelled(symbols: Symbols, vocabulary: Vocabulary, most: int, last: bool = False) -> str:
    """Symbols as one line: line feeds and other controls by their escapes, the middle of what is
    long left out, a mark between tokens."""
    few = symbols
    if len(symbols) > most:
        few = symbols[-most:] if last else symbols[:most]
    if isinstance(few, bytes):
        text = _escaped(few.decode("utf-8", errors="replace"))
    else:
        text = BETWEEN.join(_escaped(present(vocabulary.token, "token")(i)) for i in few)
    if len(few) == len(symbols):
        return text
    return f"...{text}" if last else f"{text}..."


def _escaped(text: str) -> str:
    escapes = {c: c.encode("unicode_escape").decode() for c in set(text) if not c.isprintable()}
    return "".join(escapes.get(c, c) for c in text)


def _overlaps(console: Console, source: Reading, benchmark: Text) -> None:
    from experiments.data import reading

    rows, cut = source.rows, benchmark.cut
    strings, prompts = reading.overlaps(rows, benchmark.split(rows), cut)
    said = f"{strings:,} have a string that is trained on and {prompts:,} a prompt that is."
    _wrapped(console, "- ", f"Of the held-out rows, {said}")


def _wrapped(console: Console, begin: str, words: str) -> None:
    """A line, at the width of a terminal in several, each under the first one's words."""
    space = console.width - len(begin) if console.is_terminal else len(words)
    lines = textwrap.wrap(words, max(space, 20)) or [""]
    for before, line in zip([begin, *[" " * len(begin)] * len(lines)], lines):
        console.print(before + line)


def _uses(console: Console, source: Reading, benchmark: Text) -> None:
    """What each kind of method finds to learn from, or why nothing."""
    from experiments.data import reading

    console.print("\nWhat methods learn from:")
    for reads, name, methods in USES:
        reason = reading.lacking(source, benchmark, reads)
        said = (
            "none: {} {}".format(*reason) if reason else reading.counted(source, benchmark, reads)
        )
        _wrapped(console, f"  {name:<{WIDTH}}{methods:<32}", said)


def _command(benchmark: Text) -> str:
    """The command that trains on these rows."""
    words = ["python", "-m", "experiments.compare", "text"]
    for field in dataclasses.fields(Text):
        value = getattr(benchmark, field.name)
        if value != (field.default if field.default is not dataclasses.MISSING else None):
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--benchmark.{field.name.replace('_', '-')}", *map(str, values)]
    return shlex.join(words)


if __name__ == "__main__":
    sys.exit(main())
