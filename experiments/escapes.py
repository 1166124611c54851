"""Text that other programs read: one function for each language that it is written in.

Names of methods, divergences, benchmarks, columns and files are the user's, and may hold whatever
means something to Markdown, TeX, a spreadsheet, a shell, SLURM or a terminal. HTML is escaped by
its templates (jinja's autoescape)."""

from __future__ import annotations

import atexit
import codecs
import contextlib
import functools
import io
import math
import os
import re
import select
import sys
import unicodedata
from pathlib import Path
from types import TracebackType
from typing import Any

# --- files ----------------------------------------------------------------------------------------


def write_text(path: Path, text: str) -> None:
    """Write a file as UTF-8 in whatever locale. What is no text, such as half a character in a
    command line that the locale could not read, stands there as its escape."""
    path.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def finite_json(value: Any) -> Any:
    """Data as JSON can hold it: NaN becomes null, an infinity the string "inf" or "-inf"."""
    if isinstance(value, dict):
        return {key: finite_json(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_json(x) for x in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value


def numbers(value: Any) -> Any:
    """Numbers that `finite_json` wrote, read: the other way round. For data without other words."""
    if isinstance(value, dict):
        return {key: numbers(x) for key, x in value.items()}
    if isinstance(value, list):
        return [numbers(x) for x in value]
    return math.nan if value is None else float(value) if value in ("inf", "-inf") else value


def one_line(text: str) -> str:
    """Text without line breaks, tabs and other control characters: each stretch of them is one
    space."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text)


# --- tables ---------------------------------------------------------------------------------------

_MARKDOWN = {
    "\\": r"\\", "|": r"\|", "`": r"\`", "*": r"\*", "$": r"\$", "~": r"\~", "&": "&amp;",
    "<": "&lt;", ">": "&gt;",
}  # fmt: skip
_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "#": r"\#", "$": r"\$", "%": r"\%", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\^{}", "|": r"\textbar{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "—": "--",
    "±": r"$\pm$",
}  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\N{FULLWIDTH EQUALS SIGN}", "\N{FULLWIDTH PLUS SIGN}",
            "\N{FULLWIDTH HYPHEN-MINUS}", "\N{FULLWIDTH COMMERCIAL AT}")  # fmt: skip
_NUMBER = r"([+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan))"
_CELL = re.compile(rf"{_NUMBER}( \[{_NUMBER}, {_NUMBER}\]| ± {_NUMBER})?( \(\d+ of \d+ finite\))?")


def markdown(text: str) -> str:
    """Text as a cell of a Markdown table, or as a line of its own, shows it."""
    text = one_line(text).translate(str.maketrans(_MARKDOWN))
    text = text.replace("](", r"]\(")
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\_", text)  # inside a word it is no emphasis


def tex(text: str) -> str:
    """Text as TeX shows it. `[` and `*` at the beginning of a row would be options of the line
    break before it."""
    text = one_line(text).translate(str.maketrans(_TEX))
    return f"{{{text[0]}}}{text[1:]}" if text[:1] in ("[", "*") else text


def csv_cell(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula: a word that begins like one gets an
    apostrophe before it. Numbers, and numbers with an interval, stay as they are."""
    if not isinstance(value, str):
        return value
    value = value.replace("\0", "")
    formula = value.lstrip()[:1] in _FORMULA and value.strip() and not _CELL.fullmatch(value)
    return f"'{value}" if formula or value[:1] in ("\t", "\r", "\n") else value


# --- pictures -------------------------------------------------------------------------------------


def label(text: str) -> str:
    """Text that matplotlib draws as it is: between two dollars it would be a formula, and what
    begins with an underscore is left out of a legend."""
    text = one_line(text).encode("utf-8", "backslashreplace").decode("utf-8")
    return f"{' ' * text.startswith('_')}{text}".replace("$", r"\$")


# --- SLURM ----------------------------------------------------------------------------------------

_PLAIN_WORD = "[^A-Za-z0-9_./:=,@%+-]"


def breaks_line(text: str) -> bool:
    """Whether text holds a line break or another control character, which no option of sbatch
    can."""
    return one_line(text) != text


def sbatch(value: str) -> str:
    """The value of an option on a line `#SBATCH --name=value`, as sbatch reads it: a space, a quote
    or a `#` would end it. Raises `ValueError` for what `breaks_line`."""
    if breaks_line(value):
        raise ValueError("a line break cannot stand in an option of sbatch")
    return re.sub(_PLAIN_WORD, lambda found: "\\" + found.group(), value)


def sbatch_path(path: str) -> str:
    """A path in which SLURM fills nothing in: `%j` would be the job's number."""
    return path.replace("%", "%%")


# --- terminals ------------------------------------------------------------------------------------

_ASCII = {
    "█": "#",
    "░": ".",
    "\N{EM DASH}": "--",
    "\N{EN DASH}": "-",
    "\N{MINUS SIGN}": "-",
    "\N{MULTIPLICATION SIGN}": "x",
    "\N{RIGHTWARDS ARROW}": "->",
    "\N{LESS-THAN OR EQUAL TO}": "<=",
    "\N{GREATER-THAN OR EQUAL TO}": ">=",
    "\N{LEFT SINGLE QUOTATION MARK}": "'",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{LEFT DOUBLE QUOTATION MARK}": '"',
    "\N{RIGHT DOUBLE QUOTATION MARK}": '"',
}
HANDLER = "fdiv.legible"


def _legible(error: UnicodeError) -> tuple[str, int]:
    """What a terminal that lacks a character shows in its place (an error handler of codecs)."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(map(_in_ascii, text)), error.end


def _in_ascii(character: str) -> str:
    if character in _ASCII:
        return _ASCII[character]
    if unicodedata.category(character) == "Cs":  # half a character
        return f"\\u{ord(character):04x}"
    if unicodedata.name(character, "").startswith("BOX DRAWINGS"):
        return "-" if "HORIZONTAL" in unicodedata.name(character) else "|"
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return plain or "?"


def fit_screen() -> None:
    """From here on this process prints what its terminal lacks in ASCII, and ends without a word
    where the reader of its output has seen enough, instead of ending with a traceback."""
    codecs.register_error(HANDLER, _legible)
    _end_quietly()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not stream.closed:
            stream.reconfigure(errors=HANDLER)


@functools.cache  # once a process
def _end_quietly() -> None:
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, BrokenPipeError) and _is_unread():
            os._exit(0)  # what is still to be written has no reader
        before(kind, error, trace)

    sys.excepthook = hook
    atexit.register(_flush)


def _is_unread() -> bool:
    """Whether standard output is a pipe that nobody reads any more; another's may break as well."""
    poll = select.poll()
    poll.register(sys.__stdout__ or 1, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _flush() -> None:
    """Write what is left before the interpreter does, which says that it cannot."""
    try:
        with contextlib.suppress(ValueError):  # closed
            sys.stdout.flush()
    except BrokenPipeError:
        drop_output()


def drop_output() -> None:
    """Standard output goes nowhere from here on."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
