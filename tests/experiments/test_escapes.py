"""What is written for other programs holds names as they are, and nothing that those programs would
act on; files are UTF-8 whatever the locale; a terminal shows what it can."""

from __future__ import annotations

import ast
import collections
import csv
import dataclasses
import functools
import html
import html.parser
import io
import json
import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import recorded

from experiments import cli, escapes
from experiments.gradients import card
from experiments.reporting import report, schema, style, tables
from experiments.reporting.schema import RunResult, Trial
from experiments.storage import files

ROOT = Path(__file__).parents[2]
HOSTILE = [
    "a|b",
    "two\nlines",
    "tab\tand\rreturn",
    "a & b # c $ d % e _f_ { } ~ ^ \\ end",
    "$x_1$ costs $5",
    r"\input{/etc/passwd}",
    "=1+2",
    "+cmd|' /C calc'!A0",
    "-2+3+cmd",
    "@SUM(1)",
    " =1",
    "\t=1",
    "\N{FULLWIDTH EQUALS SIGN}1",
    "<script>alert(1)</script>",
    "\" onmouseover='x'",
    "</svg><img src=x>",
    "[click](http://x)",
    "*a* **b** `c`",
    "[x]",
    "*",
    "adversarial:tv: [red]",
    "\u00e9\u4e2d\U0001f600",
    "half \udcc3",
    "new\x85line\u2028sep",
]


def run(names: list[str]) -> RunResult:
    """A result whose methods, benchmark and notes have these names."""
    method = recorded.method({"js": [-0.25, 0.5]}, minimises="reverse_kl")
    each = [
        dataclasses.replace(method, minimises=name, target=name, reason=name, status=name)
        for name in names
    ]
    return recorded.run(
        dict(zip(names, each)),
        benchmark={"name": names[0], "path": names[-1]},
        policy={"name": names[0]},
        notes=names,
    )


@pytest.fixture(scope="module")
def whole() -> RunResult:
    return run(HOSTILE)


@pytest.fixture(scope="module")
def ranking(whole) -> tables.Ranking:
    ranked = tables.ranking(whole)
    return ranked._replace(notes=[*ranked.notes, *HOSTILE])


def shown(name: str) -> str:
    """A name on one line."""
    return escapes.one_line(name).strip()


def test_each_row_of_a_markdown_table_is_one_line_with_as_many_cells(ranking):
    lines = tables.markdown(ranking).splitlines()
    rows = lines[2 : 2 + len(HOSTILE)]
    assert lines[2 + len(HOSTILE)] == ""
    for name, line in zip(HOSTILE, rows):
        cells = re.split(r"(?<!\\)(?:\\\\)*\|", line)
        assert len(cells) == len(ranking.titles) + 2
        plain = re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", html.unescape(cells[1])).strip()
        assert plain == shown(name)
        assert "<" not in line
        assert "](" not in line
    assert "<" not in "".join(lines)


def test_tex_sees_text_alone(ranking):
    text = tables.tex(ranking)
    body = text.partition(r"\midrule" + "\n")[2].partition("\n" + r"\bottomrule")[0]
    commands = r"\\(textbackslash|textasciitilde|textbar|textless|textgreater|textbf|\^)\{\}"
    for name, line in zip(HOSTILE, body.splitlines(), strict=True):
        cells = line.removesuffix(r" \\").split(" & ")
        assert len(cells) == 1 + sum(heading.number for heading in ranking.headings), line
        bare = re.sub(commands, "", line.removesuffix(r" \\"))
        bare = re.sub(r"\\[&#$%_{}]", "", bare).replace(r"\textbf", "")
        assert not re.search(r"[#$%~^\\_]|(?<! )&|&(?! )", bare), name
        assert not line.startswith(("[", "*"))
    before = text.partition(r"\begin{tabular}")[0]
    assert all(line.startswith("% ") for line in before.strip().splitlines())


def test_no_cell_of_a_csv_is_a_formula_and_numbers_stay_numbers(ranking, tmp_path):
    formulas = tuple("=+-@\t\r\n")
    rows = [{"method": name, name: -0.5, "value": -0.5} for name in HOSTILE]
    style.save(plt.figure(figsize=(1, 1)), tmp_path, "picture", rows)
    written = (tmp_path / "picture.csv").read_text(encoding="utf-8")
    for text in (tables.comma_separated(ranking), written):
        lines = list(csv.reader(io.StringIO(text, newline="")))
        assert len({len(line) for line in lines}) == 1
        cells = {cell for line in lines for cell in line if cell != "-0.5"}
        unsafe = {cell for cell in cells if cell.lstrip(" ").startswith(formulas)}
        assert not {cell for cell in unsafe if not re.fullmatch(r"[-0-9. ,\[\]]+", cell)}
    assert len(lines) == 1 + len(HOSTILE)
    column = lines[0].index("value")
    assert [line[column] for line in lines[1:]] == ["-0.5"] * len(HOSTILE)


NUMBERS = ["-0.25", "1e-5", "-0.2500 [-1.0000, 0.5000]", "+2", "-inf", "-0.1 (4 of 5 finite)", "—"]


@pytest.mark.parametrize("cell", [*NUMBERS, -0.5, None, 3])
def test_a_number_is_no_formula(cell):
    assert escapes.csv_cell(cell) == cell


class Tags(html.parser.HTMLParser):
    """How often each tag is in a page, with the names of its attributes."""

    def __init__(self, page: str):
        super().__init__()
        self.counts: collections.Counter[tuple[str, ...]] = collections.Counter()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag != "span":  # what is in brackets is set as an interval is
            self.counts[tag, *sorted({name for name, _ in attrs})] += 1


def test_the_report_is_one_page_without_a_tag_of_the_names(whole, tmp_path):
    """Hostile names give the very tags that plain ones do."""

    def page(result, names):
        samples = [
            {"method": name, "index": 0, "seed": 0, "prompt": name, "completion": name}
            for name in names
        ]
        environment = {"command": names[-2], "packages": {}, "devices": names}
        changed = dict.fromkeys(names, "=")
        report.write(tmp_path / "r.html", result, [], samples, environment, changed)
        return (tmp_path / "r.html").read_text(encoding="utf-8")

    plain = [f"name_{i}" for i in range(len(HOSTILE))]
    hostile = page(whole, HOSTILE)
    assert html.escape("<script>alert(1)</script>") in hostile
    assert Tags(hostile).counts == Tags(page(run(plain), plain)).counts


@pytest.mark.filterwarnings("ignore:Glyph")
def test_pictures_draw_names_as_they_are(whole, tmp_path):
    figure = plt.figure(figsize=(2, 2))
    style.legend(figure, whole.methods, dict.fromkeys(HOSTILE, "black"))
    svg = style.save(figure, tmp_path, "legend", [])
    assert "<script" not in svg
    assert "$x_1$ costs $5" in svg


def test_the_gradient_card_escapes_its_labels():
    cells = {"verdict": "a|b", "cosine": 1.0, "norm_ratio": 1.0, "relative_error": 0.0}
    row = cells | {"variance": 0.0, "discriminator": "none", "variant": ""}
    lines = card.markdown(dict.fromkeys(HOSTILE, row)).splitlines()
    assert len(lines) == 2 + len(HOSTILE)
    assert {len(re.split(r"(?<!\\)(?:\\\\)*\|", line)) for line in lines} == {11}


SBATCH = ["plain", "two words", "it's", 'a "b"', "a#b", r"a\b", "$HOME", "a;b", "`id`"]


@pytest.mark.parametrize("value", SBATCH)
def test_an_option_of_sbatch_is_one_word(value):
    """sbatch takes a backslash before a character as the shell does."""
    assert shlex.split(escapes.sbatch(value), comments=True) == [value]


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\x00b", "a\tb", "a\u2028b"])
def test_a_line_break_is_no_option_of_sbatch(value):
    assert escapes.breaks_line(value)
    with pytest.raises(ValueError, match="line break"):
        escapes.sbatch(value)


def test_json_holds_what_json_can():
    given = {"a": [float("nan"), float("inf")], "b": {"c": -float("inf")}, "d": (1, True, "x")}
    plain = escapes.finite_json(given)
    assert plain == {"a": [None, "inf"], "b": {"c": "-inf"}, "d": [1, True, "x"]}
    assert json.dumps(plain, allow_nan=False)
    again = escapes.numbers(plain | {"d": [1]})
    assert math.isnan(again["a"][0])
    assert (again["a"][1], again["b"], again["d"]) == (math.inf, {"c": -math.inf}, [1])


def test_what_a_run_writes_is_json_for_other_programs(tmp_path):
    """A learning rate that diverged has no finite score, and a policy no finite divergence."""
    strict = functools.partial(json.loads, parse_constant=pytest.fail)
    value = {"score": float("inf"), "row": np.array([np.nan, 1.0])}
    files.write_checked(tmp_path / "a.json", value)
    assert strict((tmp_path / "a.json").read_text())["score"] == "inf"
    assert files.load(tmp_path / "a.json", dict)["row"] == [None, 1.0]
    result = run(["sft"])
    trials = [Trial(0.1, float("inf")), Trial(0.2, 1.0)]
    tried = dataclasses.replace(result.methods["sft"], trials=trials)
    schema.write(tmp_path / "r.json", dataclasses.replace(result, methods={"sft": tried}))
    strict((tmp_path / "r.json").read_text())
    assert schema.read(tmp_path / "r.json").methods["sft"].trials == trials


# --- locales --------------------------------------------------------------------------------------

TOPS = ("fdiv", "experiments", "configs")
SOURCES = sorted(path for top in TOPS for path in (ROOT / top).rglob("*.py"))
BINARY = {"gzip", "bz2", "lzma", "source", "opened"}


def text_without_encoding(tree: ast.AST) -> list[str]:
    """Calls that read or write text in whatever encoding the locale has."""
    return [ast.unparse(node) for node in ast.walk(tree) if _depends_on_locale(node)]


def _depends_on_locale(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call) or any(k.arg in ("encoding", None) for k in node.keywords):
        return False
    method = isinstance(node.func, ast.Attribute)
    name = node.func.attr if method else getattr(node.func, "id", "")
    owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
    given = {k.arg: k.value for k in node.keywords}
    if name in ("read_text", "write_text"):
        return method and owner not in ("escapes", "files", "whole")  # these say it themselves
    if name in ("run", "Popen", "check_output", "TemporaryFile", "NamedTemporaryFile"):
        if name.endswith("File"):
            return "b" not in _mode(given, node.args[:1], "w+b")
        return bool({"text", "universal_newlines"} & set(given))
    bytes_alone = owner in BINARY or owner.startswith("{") or (owner, name) == ("os", "open")
    if name in ("open", "fdopen") and not bytes_alone:
        path_first = not method or name == "fdopen" or owner in ("io", "codecs")
        return "b" not in _mode(given, node.args[path_first : path_first + 1], "r")
    return False


def _mode(given: dict, positional: list, default: str) -> str:
    mode = given.get("mode", positional[0] if positional else None)
    return default if mode is None else str(getattr(mode, "value", "b"))


UNSAID = [
    "open(p)", "open(p, 'w')", "p.open('a')", "p.read_text()", "p.write_text(t)",
    "os.fdopen(d, 'w')", "subprocess.run(c, text=True)", "io.open(p)",
    "tempfile.NamedTemporaryFile('w')",
]  # fmt: skip
SAID = [
    "open(p, encoding='utf-8')", "p.open('rb')", "open(p, 'wb')", "os.open(p, flags)",
    "p.read_text(encoding='utf-8')", "subprocess.run(c)", "tempfile.NamedTemporaryFile(dir=d)",
]  # fmt: skip


def test_the_search_for_what_depends_on_the_locale_finds_it():
    assert all(text_without_encoding(ast.parse(text)) for text in UNSAID)
    assert not any(text_without_encoding(ast.parse(text)) for text in SAID)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_text_is_read_and_written_as_utf_8(path):
    assert not text_without_encoding(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_shows_what_it_can(encoding, monkeypatch):
    kept = io.BytesIO()
    screen = io.TextIOWrapper(kept, encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", screen)
    escapes.fit_screen()
    print("█░ — \u2026 \u00e9 \u03b2 \u4e2d \udcc3 ─│", flush=True)
    wanted = {
        "ascii": "#. -- ... e ? ? \\udcc3 -|",
        "latin-1": "#. -- ... \u00e9 ? ? \\udcc3 -|",
        "utf-8": "█░ — \u2026 \u00e9 \u03b2 \u4e2d \\udcc3 ─│",
    }
    assert kept.getvalue().decode(encoding).strip() == wanted[encoding]


def read_by_nobody(*words: str) -> tuple[int, str]:
    """The exit code of a Python whose standard output is a pipe without a reader, and what it
    says."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, *words]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=60, cwd=ROOT)
    os.close(writer)
    return done.returncode, done.stderr.decode()


PRINTED = {  # whether output is kept back until there is much of it
    "at the end": ("-c", "print('x')"),
    "in the middle": ("-u", "-c", "print('x'); print('y')"),
}


@pytest.mark.parametrize("case", PRINTED)
def test_a_reader_that_has_seen_enough_is_no_error(case):
    *flags, lines = PRINTED[case]
    fit = "from experiments import escapes; escapes.fit_screen(); "
    assert read_by_nobody(*flags, fit + lines) == (0, "")


def test_a_pipe_of_another_that_breaks_is_one():
    """Standard output is read, so the error is not about it."""
    fit = "from experiments import escapes; escapes.fit_screen(); raise BrokenPipeError('mine')"
    done = subprocess.run([sys.executable, "-c", fit], capture_output=True, timeout=60, cwd=ROOT)
    assert done.returncode == 1 and b"BrokenPipeError: mine" in done.stderr


@pytest.mark.wide
@pytest.mark.parametrize("words", ["runs --help", "doctor --help", "figures --help", "card js"])
def test_commands_end_quietly_where_nobody_reads(words):
    name, *rest = words.split()
    code, said = read_by_nobody("-m", f"experiments.{name}", *rest)
    assert said == "" and code in (0, 1)  # 1: rich ends so where it prints


def test_every_command_fits_its_screen(monkeypatch):
    screen = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", screen)
    cli.arguments([])
    assert screen.errors == escapes.HANDLER
