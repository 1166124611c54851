"""`report.html`: one page that holds all of itself, pictures included."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jinja2

from experiments.reporting import scoreboards, style, tables, wording
from experiments.reporting.metrics import METRICS
from experiments.reporting.pictures import Drawn
from experiments.reporting.results import describe_ends
from experiments.reporting.schema import Json, MethodResult, RunResult
from experiments.reporting.settings import spelled
from experiments.storage import whole

CARD = ("d_accuracy", "d_accuracy_train", "d_calibration", "length_accuracy", "d_saturated")
SAMPLES = 8  # strings shown of each method


class Trouble(NamedTuple):
    """A method that a reader should look at twice, and why, in sentences."""

    name: str
    status: str
    reasons: list[str]


class Prompt(NamedTuple):
    """What each method wrote for one prompt: (method, text)."""

    prompt: str
    texts: list[tuple[str, str]]


class Samples(NamedTuple):
    """Strings of seed 0 side by side."""

    names: list[str]
    rows: list[Prompt]
    prompted: bool


class Optima(NamedTuple):
    """The table of the class's best policies: titles, and (what it minimises, cells) rows."""

    titles: list[str]
    rows: list[tuple[str, list[str]]]


def write(
    path: Path,
    result: RunResult,
    drawn: Sequence[Drawn],
    samples: Sequence[Json],
    environment: Json,
    changed: Mapping[str, object],
) -> None:
    """Fill the template. `samples` are the lines of samples.jsonl, `changed` the fields that differ
    from the preset."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    jinja = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    sections = itertools.groupby(drawn, key=lambda one: one.heading)
    page = jinja.get_template("report.html.j2").render(
        r=result,
        title=_title(result),
        lead=wording.lead(result),
        takeaway=wording.takeaway(result),
        ranking=tables.ranking(result),
        since_start=wording.since_start(result),
        sections=[(heading, list(pictures)) for heading, pictures in sections],
        samples=_side_by_side(samples, result),
        trouble=_trouble(result),
        optima=_optima(result),
        card=[METRICS[name] for name in CARD],
        metric_title=lambda name: scoreboards.of_result(result).metric(name).title,
        environment=environment,
        changed=changed,
        colour={name: style.method_colour(m) for name, m in result.methods.items()},
        difference=partial(tables.interval, estimated=scoreboards.of_result(result).estimated),
    )
    whole.write_text(path, page)


def _title(result: RunResult) -> str:
    fields = {k: v for k, v in result.benchmark.items() if not k.startswith(("name", "teacher"))}
    what = spelled(fields)
    return f"{result.benchmark['name']} ({what}), {result.policy['name']} policy"


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
    titles = [board.metric(name).title for name in columns]
    return Optima(titles, [(who, [cell(row, n) for n in columns]) for who, row in rows.items()])


def _side_by_side(samples: Sequence[Json], result: RunResult) -> Samples:
    """Samples of seed 0, of whoever has any; the expert under the name that the task gives it."""
    known = {"expert": scoreboards.of_result(result).expert}
    own = {(known.get(s["method"], s["method"]), s["index"]): s for s in samples if s["seed"] == 0}
    everybody = dict.fromkeys(("data", known["expert"], "start", *result.methods))
    names = [name for name in everybody if (name, 0) in own]
    rows = []
    for index in range(SAMPLES):
        here = {name: own[name, index] for name in names if (name, index) in own}
        if here:
            prompt = next(iter(here.values()))["prompt"]
            rows.append(Prompt(prompt, [(name, here[name]["completion"]) for name in here]))
    return Samples(names, rows, any(row.prompt for row in rows))
