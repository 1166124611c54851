"""The README.md of a model that a run has trained: what was minimised, what came of it, and what is
needed to make it again."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments import config as configs
from experiments import escapes
from experiments.reporting import scoreboards, tables
from experiments.reporting.schema import MethodResult, RunResult
from experiments.reporting.settings import spelled
from fdiv import objectives
from fdiv.types import Method, UsageError

GRADIENTS = Path(__file__).parents[2] / "docs" / "gradient_card.md"
# fields of a method that move no expected gradient of the policy
ASIDE = re.compile(r"learning_rate$|^warmup$")


class Made(NamedTuple):
    """What a model comes from."""

    name: str  # of the method
    method: Method
    seed: int
    own: MethodResult
    run: RunResult | None  # None: it has not come to its end
    config: Mapping[str, Any]  # as it is kept
    environment: Mapping[str, Any]  # of the run's last start
    versions: Mapping[str, str]  # of what wrote the model
    architecture: str  # a sentence
    use: str  # how to load it, in Markdown
    base: str | None = None  # the checkpoint that training began from
    licence: str | None = None  # of it


def page(made: Made) -> str:
    """The whole README.md."""
    parts = [
        _front(made),
        f"# {escapes.markdown(made.name)}, seed {made.seed}, by fdiv\n",
        _words(made.architecture),
        _minimised(made),
        _measured(made),
        _source(made),
        f"## Use\n\n{made.use}",
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _front(made: Made) -> str:
    """What the hub reads."""
    lines = ["library_name: transformers", "pipeline_tag: text-generation", "tags:", "- fdiv"]
    if made.licence is not None:
        lines.insert(0, f"license: {made.licence}")
    if made.base is not None:
        lines.insert(0, f"base_model: {escapes.one_line(made.base)!r}")
    return "\n".join(["---", *lines, "---"])


def _words(text: str) -> str:
    return escapes.one_line(text)


def _minimised(made: Made) -> str:
    own = made.own
    sentences = [escapes.markdown(own.target)]
    if verdict := gradient(made.name, made.method):
        sentences.append(f"Its expected gradient, by fdiv's gradient card: {verdict}.")
    if own.published:
        sentences.append("It runs a paper's formula that is not the divergence's own.")
    if own.status != "ok":
        sentences.append(f"**Training {own.status}**: {escapes.markdown(own.reason)}.")
    sentences += [f"{escapes.markdown(alarm)}" for alarm in own.alarms]
    return "## What was minimised\n\n" + "\n\n".join(sentences)


def gradient(name: str, method: Method) -> str:
    """The gradient card's sentence on a method with these hyperparameters, as the docs have it;
    nothing where they have no such line."""
    try:
        page = GRADIENTS.read_text(encoding="utf-8")
    except OSError:
        return ""
    base = name.partition(":")[0]
    for known in dict.fromkeys((name, base)):
        label = _label(known, method)
        line = re.search(rf"^\| {re.escape(label)} \| ([^|]+) \|", page, re.MULTILINE)
        if label and line:
            return line.group(1).strip()
    return ""


def _label(name: str, method: Method) -> str:
    """As the card labels it: the name, and the fields that are not those of the name alone."""
    try:
        plain = objectives.resolve(name)
    except UsageError:
        return ""
    if type(plain) is not type(method):
        return ""
    changed = {
        field.name: getattr(method, field.name)
        for field in dataclasses.fields(method)
        if getattr(method, field.name) != getattr(plain, field.name)
        and not ASIDE.search(field.name)
    }
    shown = {k: f"{v:g}" if isinstance(v, float) else v for k, v in changed.items()}
    return escapes.markdown(" ".join([name, *(f"{k}={v}" for k, v in shown.items())]))


def _measured(made: Made) -> str:
    """Every metric: this seed's, and over seeds with its interval."""
    own, board = made.own, None if made.run is None else scoreboards.of_result(made.run)
    title = (lambda name: board.metric(name).label) if board else (lambda name: name)
    estimated = lambda scores: scores.estimated or (board is not None and board.estimated)
    seeds = "IQM over seeds [95 % interval]"
    rows = [("metric", f"seed {made.seed}", seeds), ("---", "---", "---")]
    for name, scores in sorted(own.metrics.items(), key=lambda item: _order(item[0], board)):
        mine = scores.by_seed().get(made.seed)
        shown = "not finite" if mine is None else tables.number(mine)
        rows.append((title(name), shown, tables.interval(scores, estimated(scores))))
    if own.best is not None and own.gap is not None:
        rows.append(("gap to the class's best", "", tables.interval(own.gap)))
    lines = [rows[0], rows[1], *(tuple(map(escapes.markdown, row)) for row in rows[2:])]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    notes = [escapes.markdown(note) for note in (made.run.notes if made.run else [])]
    return "\n\n".join(["## What came of it", table, *notes])


def _order(name: str, board: scoreboards.Scoreboard | None) -> tuple[int, str]:
    """Columns of the ranking first, in their order."""
    columns: Sequence[str] = board.columns if board else ()
    return (columns.index(name) if name in columns else len(columns), name)


def _settings(group: Mapping[str, Any]) -> str:
    """A group of a config in a few words, without where files lie on the machine that ran it."""
    flat = configs.flatten(dict(group)).items()
    return spelled({k: v for k, v in flat if k.rpartition(".")[2] not in ("path", "tokenizer")})


def _source(made: Made) -> str:
    """What it takes to make it again."""
    config, environment = made.config, made.environment
    count = config["seeds"]
    lines = [
        f"- benchmark: {_settings(config['benchmark'])}",
        f"- policy: {_settings(config['policy'])}",
        f"- {config['updates']} updates of {config['batch_size']} strings, {count} "
        f"seed{'s'[: count > 1]} from {config['seed']}, learning rate {made.own.learning_rate:g}",
    ]
    if made.base is not None:
        digest = f", SHA-256 of its files {config['model']}" if config.get("model") else ""
        lines.append(f"- base: {made.base}, {made.licence or 'licence not named'}{digest}")
    if config.get("data"):
        lines.append(f"- data, SHA-256 of the rows: {config['data']}")
    packages = environment.get("packages", {})
    versions = [f"{name} {number}" for name, number in {**packages, **made.versions}.items()]
    lines += [f"- versions: {', '.join(versions)}", f"- commit: {environment.get('commit')}"]
    lines = [escapes.markdown(line) for line in lines]
    command = environment.get("command", "")
    block = f"```\n{escapes.one_line(command)}\n```" if command else ""
    return "\n\n".join(filter(None, ["## How it was made", "\n".join(lines), block]))
