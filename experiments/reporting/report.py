"""`report.html`: one page that holds all of itself: tables, charts with the library that draws
them, and the static pictures for a reader without scripts."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from experiments import escapes
from experiments.reporting import bundle, charts, scoreboards, style, tables, terms, wording
from experiments.reporting.charts import Key
from experiments.reporting.metrics import METRICS
from experiments.reporting.pictures import Drawn
from experiments.reporting.results import describe_ends
from experiments.reporting.schema import VARIED, Json, MethodResult, RunResult
from experiments.storage import run_folder, whole

HERE = Path(__file__).parent
CARD = ("d_accuracy", "d_accuracy_train", "d_calibration", "length_accuracy", "d_saturated")
SAMPLES = 8  # strings shown of each method
AT = "at_temperature_"  # what a field of samples.jsonl begins with, before its temperature
LARGEST = 2_000_000  # bytes of a page
POINTS = (1000, 60, 20)  # of a line, the first that makes the page small enough
# what comes before the last name of a path that begins at the root or at a home
FOLDERS = re.compile(r"(?<![\w.:/~\\])(?:~[\w-]*)?/(?:[^\s/:,;)'\"]+/)*(?=[^\s/:,;)'\"])")

BENCHMARKS = {  # name in a config -> what a title calls it
    "two_template": "Two-template language",
    "markov": "Markov language",
    "rewarded": "Language with a reward",
    "arithmetic": "Arithmetic with checked answers",
    "text": "Text",
}
POLICIES = {
    "full": "a table of all strings as policy",
    "markov": "Markov policy",
    "markov_t": "Markov policy for each position",
    "independent": "policy of independent tokens",
    "transformer": "transformer policy",
    "hf": "pretrained language model",
    VARIED: "several policies",
}


class Trouble(NamedTuple):
    """A method that a reader should look at twice, and why, in sentences."""

    name: str
    status: str
    reasons: list[str]


class Prompt(NamedTuple):
    """What each method wrote for one prompt: (method, its answers in the order of the columns).
    Rows of the data have one."""

    prompt: str
    texts: list[tuple[str, list[str]]]


class Samples(NamedTuple):
    """Strings of seed 0 side by side."""

    names: list[str]
    rows: list[Prompt]
    prompted: bool
    columns: list[str]  # what the answers are, the easiest to read first


class Optima(NamedTuple):
    """The table of the class's best policies: titles, and (what it minimises, cells) rows."""

    titles: list[tables.Title]
    rows: list[tuple[str, list[str]]]


def write(
    path: Path,
    result: RunResult,
    drawn: Sequence[Drawn],
    samples: Sequence[Json],
    environment: Json,
    changed: Mapping[str, object],
    cache: Path | None = None,
) -> None:
    """Fill the template. `samples` are the lines of samples.jsonl, `changed` the fields that differ
    from the preset, `cache` the folder in which the library that draws is kept."""
    library = bundle.library(cache)
    fill = partial(_filled, result, samples, environment, changed, library)
    if not library.script:
        whole.write_text(path, fill([one for one in drawn if one.drawing.svg], static=True))
        return
    page = fill(drawn, static=True)
    for points in POINTS:
        if len(page.encode(errors="backslashreplace")) <= LARGEST:
            break
        page = fill(drawn, static=False, points=points)  # static pictures are files as well
    whole.write_text(path, page)


def _filled(
    result: RunResult,
    samples: Sequence[Json],
    environment: Json,
    changed: Mapping[str, object],
    library: bundle.Library,
    drawn: Sequence[Drawn],
    static: bool,
    points: int = POINTS[0],
) -> str:
    """The page, with static pictures or without, and so many points a line."""
    loader = jinja2.FileSystemLoader(HERE)
    jinja = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    board = scoreboards.of_result(result)
    looks = style.looks(result.methods)
    sections = itertools.groupby(drawn, key=lambda one: one.heading)
    ranking = tables.ranking(result)
    numbered = {id(one): i for i, one in enumerate(drawn)}
    page = jinja.get_template("report.html.j2").render(
        r=result,
        title=title(result),
        lead=terms.marked(map(without_folders, wording.lead(result))),
        takeaway=wording.takeaway(result),
        notes=[without_folders(note) for note in result.notes],
        ranking=ranking,
        ranking_notes=[terms.marked(without_folders(note)) for note in ranking.notes],
        files={
            "csv": tables.comma_separated(ranking),
            "tex": tables.tex(ranking),
            "json": json.dumps(escapes.finite_json(tables.plain(ranking)), indent=1),
        },
        since_start=wording.since_start(result),
        order=wording.from_covering_to_seeking(result),
        sections=[(heading, _slug(heading), list(pictures)) for heading, pictures in sections],
        numbered=lambda one: numbered[id(one)],
        static=static,
        samples=_side_by_side(samples, result),
        trouble=_trouble(result),
        optima=_optima(result),
        card=[METRICS[name] for name in CARD],
        metric_title=lambda name: board.metric(name).title,
        environment=environment,
        command=command(environment["command"]),
        settings=_settings(result),
        changed={name: without_folders(str(value)) for name, value in changed.items()},
        colour={name: charts.paint(line["color"]) for name, line in looks.items()},
        glyph={name: _glyph(_key_of(name, line)) for name, line in looks.items()},
        key=_glyph,
        marked=terms.marked,
        meaning=terms.meaning,
        slug=_slug,
        cell_value=_cell_value,
        difference=partial(tables.interval, estimated=board.estimated),
        terms=_terms,
        style=Markup((HERE / "report.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "report.js").read_text(encoding="utf-8")),
        library=Markup(library.script),
        lacking=library.lacking,
        data=_data(drawn, points) if library.script else "",
    )
    return page.replace("/*COLOURS*/", _variables(page, 0)).replace(
        "/*NIGHT*/", _variables(page, 1)
    )


def _variables(page: str, which: int) -> str:
    """Declarations of the colours that the page uses, on white or on dark."""
    return " ".join(f"{name}: {two[which]};" for name, two in charts.painted(page).items())


def _data(drawn: Sequence[Drawn], points: int) -> Markup:
    """All panels for the page's script. `<` is escaped, so that no word ends the element."""
    pictures = [
        {
            "file": one.drawing.file,
            "panels": [
                {
                    "title": panel.title,
                    "spec": panel.spec,
                    "learning": panel.learning,
                    "columns": _thinned(panel.columns, points) if panel.learning else panel.columns,
                }
                for panel in one.drawing.panels
            ],
        }
        for one in drawn
    ]
    text = json.dumps(escapes.finite_json(pictures), separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "").replace("\u2029", ""))


def _thinned(columns: Mapping[str, list[Any]], points: int) -> dict[str, list[Any]]:
    """At most so many points of each method, evenly, its last and its furthest among them."""
    names = columns.get("method", [])
    kept = []
    for name in dict.fromkeys(names):
        own = [i for i, method in enumerate(names) if method == name]
        step = max(1, -(-len(own) // points))
        marked = [i for i in own if columns["end"][i] or columns["beyond"][i]]
        kept += sorted({*own[::step], *marked})
    return {name: [values[i] for i in kept] for name, values in columns.items()}


# --- words ----------------------------------------------------------------------------------------


def title(result: RunResult) -> str:
    """The task and the policy as people say them; a text by the name of its file."""
    name, policy = result.benchmark["name"], result.policy["name"]
    known = BENCHMARKS.get(name, f"{name[:1].upper()}{name[1:].replace('_', ' ')}")
    path = result.benchmark.get("path")
    if name == "text" and path and path != VARIED:
        known = f"Text: {Path(str(path)).stem}"
    return f"{known}, {POLICIES.get(policy, policy.replace('_', ' '))}"


def without_folders(text: str) -> str:
    """Text in which a file or folder of this machine has its name alone."""
    return FOLDERS.sub("", text)


def command(words: str) -> str:
    """The command of a run as one types it."""
    return without_folders(run_folder.typed(words).strip())


def _settings(result: RunResult) -> list[tuple[str, str]]:
    """Fields of task and policy that are set, with the names of their flags."""
    rows: list[tuple[str, str]] = []

    def add(prefix: str, fields: Mapping[str, Any]) -> None:
        for name, value in fields.items():
            if isinstance(value, Mapping):
                add(f"{prefix}{name}.", value)
            elif value not in (None, [], ""):
                words = " ".join(map(str, value)) if isinstance(value, list) else str(value)
                rows.append((f"{prefix}{name}", without_folders(words)))

    add("benchmark.", result.benchmark)
    add("policy.", result.policy)
    return rows


def _slug(text: str) -> str:
    return re.sub(r"\W+", "-", text.lower()).strip("-")


def _terms(page_words: Sequence[str]) -> list[tuple[str, str]]:
    """What is explained at the end of the page: the words of its titles, and those of sentences."""
    wanted = [*page_words, *(terms.SAME.get(word, word) for word in terms.IN_SENTENCES)]
    known = {word: said for word in dict.fromkeys(wanted) if (said := terms.meaning(word))}
    return sorted(known.items(), key=lambda item: item[0].lower())


# --- parts ----------------------------------------------------------------------------------------


def _key_of(name: str, line: style.Line) -> Key:
    return Key(name, line["marker"], str(line["linestyle"]), charts.paint(line["color"]))


def _glyph(key: Key) -> Markup:
    """A legend's sample as a small picture that says nothing to a screen reader."""
    drawn = ""
    if key.line == "band":
        drawn = f'<rect x="1" y="3" width="26" height="10" fill="{key.colour}" opacity=".25"/>'
    elif key.line:
        dash = " ".join(map(str, charts.DASHES.get(key.line, charts.DASHES["-"])))
        dashes = "" if key.line == "-" else f' stroke-dasharray="{dash}"'
        drawn = f'<path d="M1,8H27" stroke="{key.colour}" stroke-width="2"{dashes}/>'
    if key.marker:
        fill = f'fill="{key.colour}"'
        if key.hollow:
            fill = f'fill="none" stroke="{key.colour}" stroke-width=".25"'
        place = f"translate(14,8) scale({6.5 if key.marker == '*' else 5})"
        drawn += f'<path transform="{place}" d="{charts.mark(key.marker)}" {fill}/>'
    size = 'width="28" height="16" viewBox="0 0 28 16"'
    return Markup(f'<svg class="key" {size} aria-hidden="true">{drawn}</svg>')


def _cell_value(cell: tables.Cell) -> str:
    """What a column is sorted by: a number in full, or nothing where a cell is words."""
    value = cell.scores.iqm if cell.scores else cell.value
    return "" if value is None or value != value else repr(float(value))


def _trouble(result: RunResult) -> list[Trouble]:
    rows = [Trouble(name, m.status, _reasons(m)) for name, m in result.methods.items()]
    return [row for row in rows if row.status != "ok" or row.reasons]


def _reasons(m: MethodResult) -> list[str]:
    ends = "" if m.level == "return" else describe_ends(m.gap)
    reasons = [m.reason, *m.alarms, f"{ends[0].upper()}{ends[1:]}." if ends else ""]
    if m.published and any(reasons):
        reasons.insert(0, m.target)
    return [sentence for sentence in reasons if sentence]


def _optima(result: RunResult) -> Optima | None:
    """The best policy of the class for each divergence, and the expert; None where no class was
    searched."""
    if not result.class_optimum:
        return None
    board = scoreboards.of_result(result)
    rows = result.class_optimum | {f"(the {board.expert} itself)": result.expert}
    columns = board.shown(board.columns, {name for row in rows.values() for name in row})
    cell = lambda row, name: tables.number(row[name]) if name in row else "not finite"
    metrics = [board.metric(name) for name in columns]
    titles = [tables.Title(m.title, m.short, True, m.name) for m in metrics]
    return Optima(titles, [(who, [cell(row, n) for n in columns]) for who, row in rows.items()])


def _side_by_side(samples: Sequence[Json], result: RunResult) -> Samples:
    """Samples of seed 0, of whoever has any; the expert under the name that the task gives it."""
    known = {"expert": scoreboards.of_result(result).expert}
    own = {(known.get(s["method"], s["method"]), s["index"]): s for s in samples if s["seed"] == 0}
    everybody = dict.fromkeys(("data", known["expert"], "start", *result.methods))
    names = [name for name in everybody if (name, 0) in own]
    answers, rows = _answers(samples), []
    for index in _distinct(own, names):
        here = {name: own[name, index] for name in names if (name, index) in own}
        prompt = next(iter(here.values()))["prompt"]
        rows.append(Prompt(prompt, [(who, _texts(line, answers)) for who, line in here.items()]))
    return Samples(names, rows, any(row.prompt for row in rows), list(answers.values()))


def _texts(line: Json, answers: Mapping[str, str]) -> list[str]:
    """A line's answers in the order of the columns, or the one that it has."""
    several = len(line.keys() & answers.keys()) > 1
    return [line.get(field, "") for field in answers] if several else [line["completion"]]


def _answers(samples: Sequence[Json]) -> dict[str, str]:
    """Field of each kind of answer that lines have -> its title, the easiest to read first."""
    fields = {field for line in samples for field in line}
    colder = sorted(field for field in fields if field.startswith(AT))
    titles = {"likeliest": "the likeliest token each time"} if "likeliest" in fields else {}
    titles |= {field: f"drawn at temperature {field.removeprefix(AT)}" for field in colder}
    return titles | {"completion": "drawn at temperature 1"}


def _distinct(own: Mapping[tuple[str, int], Json], names: Sequence[str]) -> list[int]:
    """Numbers of the strings that are shown: those of prompts that come again after the others."""
    seen: set[str] = set()
    first, again = [], []
    for index in sorted({index for name, index in own if name in names}):
        prompt = next(own[name, index]["prompt"] for name in names if (name, index) in own)
        (again if prompt in seen else first).append(index)
        seen.add(prompt)
    return [*first, *again][:SAMPLES]
