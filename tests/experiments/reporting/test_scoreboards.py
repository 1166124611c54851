"""A run of each kind of task, and what its screen, table, pictures and report show of it."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import re
from pathlib import Path
from typing import NamedTuple

import pytest
import recorded

from experiments import assemble, cli
from experiments.commands import compare
from experiments.config import make_config
from experiments.reporting import schema, scoreboards
from experiments.reporting.scoreboards import SCOREBOARDS
from fdiv import exact
from fdiv.benchmarks import Arithmetic, Rewarded, Text, TwoTemplate
from fdiv.benchmarks.text import Row

pytestmark = pytest.mark.usefixtures("few_logged")

PROMPTED = "--policy.name markov --samples 8 --warm-start 2"
NETWORK = (
    "--policy.width 8 --policy.layers 1 --policy.heads 1 --policy.kv-heads 1 --samples 8 "
    "--warm-start 2"
)
BUDGET = "--seeds 1 --updates 2 --batch-size 8 --evaluations 1"


class Kind(NamedTuple):
    """A small run of a kind, and words that its reader finds, or must not find."""

    flags: str
    screen: tuple[str, ...]  # live columns of its last method
    table: tuple[str, ...]  # columns between the method's own and the status
    panels: tuple[str, ...]  # of the learning curves
    says: tuple[str, ...]  # patterns, in the report
    says_not: tuple[str, ...]


KINDS = {
    "exact": Kind(
        "two-template --policy.name full --benchmark.vocab 2 --benchmark.horizon 2 --methods js "
        "--samples 8",
        ("JS", "entropy", "grad norm"),
        (
            *("gap to class optimum", "forward KL", "reverse KL", "JS", "TV", "valid", "mode B"),
            "entropy",
        ),
        ("gap", "js", "valid", "entropy"),
        ("Colour is the divergence minimised", "the two KLs</h2>", "in either direction, exactly"),
        ("optimum of the regularised return", "estimated"),
    ),
    "return": Kind(
        "rlhf --policy.name full --benchmark.base.vocab 2 --benchmark.base.horizon 2 "
        "--methods rloo",
        ("reward", "KL", "entropy", "grad norm"),
        (
            *("gap to class optimum", "regret", "reward", "KL to reference", "TV", "forward KL"),
            *("reverse KL", "valid", "mode B", "entropy"),
        ),
        ("gap", "reward", "kl_to_reference", "entropy"),
        (
            "Reward against divergence from the reference",
            "the two KLs to the optimum",
            "TV, forward KL and reverse KL: from the optimum of the regularised return",
            "Each method has the colour, line and mark of the legend",
        ),
        ("Colour is the divergence minimised", "dashed ones learn a discriminator", "spent"),
    ),
    "verified": Kind(
        f"arithmetic --benchmark.terms 2 --benchmark.largest 3 --methods rloo {PROMPTED}",
        ("greedy", "accuracy", "entropy", "grad norm"),
        (
            *("greedy accuracy", "accuracy", "pass@8", "right answer", "distinct ways"),
            *("entropy of ways", "KL to reference, own batch", "entropy"),
        ),
        ("greedy_accuracy", "accuracy", "penalty", "way_entropy", "entropy"),
        (
            *("estimated on held-out problems", "and their price", ">start<"),
            r">[0-3]\+[0-3]=<",  # prompts as they are asked
        ),
        ("teacher", "Colour is the divergence minimised", "class optimum"),
    ),
    "sampled": Kind(
        "text --benchmark.path {rows} --benchmark.prompt-length 4 --benchmark.horizon 4 "
        f"--benchmark.teacher-updates 0 --methods dpo {NETWORK}",
        ("NLL/tok", "pairs", "entropy", "grad norm"),
        (
            *("validation NLL / token", "pairs in order", "margin of the pairs", "entropy"),
            *("self-BLEU", "distinct-2"),
        ),
        ("validation_nll", "margin_accuracy", "entropy"),
        ("All values are estimated from samples", "Pairs in order: share of the pairs"),
        ("Divergences are", "regret", "Colour is the divergence minimised", "class optimum"),
    ),
}


class Left(NamedTuple):
    """What a run has left."""

    folder: Path
    screen: str


@pytest.fixture(scope="module", params=KINDS)
def left(request, tmp_path_factory, few_logged) -> tuple[str, Left]:
    folder = tmp_path_factory.mktemp(request.param)
    rows = folder / "rows.jsonl"
    records = [{"prompt": f"{i}?", "chosen": f"y{i}", "rejected": f"n{i}"} for i in range(40)]
    rows.write_text("".join(json.dumps(record) + "\n" for record in records))
    flags = f"{KINDS[request.param].flags} {BUDGET}".format(rows=rows).split()
    screen = io.StringIO()
    with contextlib.redirect_stdout(screen):
        code = cli.run(compare.main, "experiments.compare", [*flags, "--out", str(folder / "run")])
    assert code == 0
    return request.param, Left(folder / "run", screen.getvalue())


@pytest.mark.wide
def test_the_screen_shows_the_columns_of_the_kind(left):
    name, run = left
    line = next(x for x in reversed(run.screen.splitlines()) if "2/2 updates" in x)
    shown = re.sub(r"^.*left in all", "", line)
    assert tuple(re.findall(r"([A-Za-z][\w/ ]*?) -?[\d.]+(?:e[-+]\d+)?", shown)) == (
        KINDS[name].screen
    )


@pytest.mark.few(1)
def test_the_table_has_the_columns_of_the_kind(left):
    name, run = left
    titles = (run.folder / "table.csv").read_text().splitlines()[0]
    row = next(csv.reader([titles]))
    assert row[:2] == ["method", "minimises"]
    numbers = [title for title in row[2:-1] if not title.endswith((" low", " high", "seeds"))]
    assert tuple(numbers) == KINDS[name].table
    ranked_by = SCOREBOARDS[name].metric(SCOREBOARDS[name].rank_by).title
    assert ranked_by in row
    assert f"Rows in order of {ranked_by}." in (run.folder / "table.md").read_text()


@pytest.mark.few(1)
def test_pictures_and_report_speak_of_the_kind(left):
    name, run = left
    curves = csv.DictReader((run.folder / "figures" / "learning_curves.csv").open())
    assert tuple(dict.fromkeys(row["metric"] for row in curves)) == KINDS[name].panels
    html = recorded.words((run.folder / "report.html").read_text())
    assert [text for text in KINDS[name].says if not re.search(text, html)] == []
    assert [text for text in KINDS[name].says_not if text in html.split("<h2>Methods")[0]] == []


@pytest.mark.few(1)
def test_samples_have_the_experts_log_probs_where_strings_are_enumerated(left):
    name, run = left
    lines = [json.loads(line) for line in (run.folder / "samples.jsonl").read_text().splitlines()]
    if name in ("verified", "sampled"):
        assert not any("log_p" in line for line in lines)
        return
    task = _task(TwoTemplate(vocab=2, horizon=2))
    if name == "return":
        task = _task(Rewarded(base=TwoTemplate(vocab=2, horizon=2)))
    texts = [text for _, text in assemble.readable(task, task.space.sequences)]
    wanted = dict(zip(texts, exact.known_law(task.space, task.mdp.expert).string))
    assert {line["method"] for line in lines} >= {"start", "expert"}
    for line in lines:
        assert line["log_p"] == pytest.approx(wanted[line["completion"]], abs=1e-5)


@pytest.mark.few(1)
def test_a_result_is_read_as_it_was_written(left):
    name, run = left
    path = run.folder / "results.json"
    result = schema.read(path)
    assert (result.kind, result.schema) == (name, 2)
    written = json.loads(path.read_text())
    assert len(written.pop("checksum")) == 64
    assert schema.as_json(result) == written
    for method, m in result.methods.items():
        kept = json.loads((run.folder / "methods" / f"{method}.json").read_text())
        kept = {field: x for field, x in kept.items() if field not in ("checksum", "schema")}
        kept |= {"against": schema.as_json(m.against)} if m.against else {}
        assert schema.as_json(m) == kept


def _task(benchmark, **fields) -> assemble.Task:
    return assemble.task(make_config(benchmark=benchmark, **fields))


def test_a_task_says_its_kind():
    base = TwoTemplate(vocab=2, horizon=3)
    rows = [Row(b"%d?" % i, b"y", b"n") for i in range(20)]
    text = Text(validation=0.3).build(rows)
    of = lambda task: (scoreboards.of_task(task).kind, scoreboards.of_task(task).penalty)
    assert of(_task(base)) == ("exact", None)
    assert of(_task(Rewarded(base=base, divergence="js"))) == ("return", "js")
    assert of(_task(Rewarded(base=base), exact_limit=0)) == ("sampled", "reverse_kl")
    assert of(_task(Arithmetic(terms=2, largest=3))) == ("verified", "reverse_kl")
    assert of(assemble.Task(text, None, 112, [])) == ("sampled", "reverse_kl")


def test_what_a_return_is_charged_for_is_shown_once_and_by_its_name():
    board = scoreboards.SCOREBOARDS["return"]
    of = lambda penalty: [
        column.title for column in dataclasses.replace(board, penalty=penalty).live_columns()
    ]
    assert of("reverse_kl") == ["reward", "KL to reference", "entropy", "gradient norm"]
    assert of("js")[1:3] == ["JS to reference", "KL to reference"]
