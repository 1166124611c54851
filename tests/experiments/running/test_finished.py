"""What is written after training: again where a signal came, and again where it is missing, without
any training."""

from __future__ import annotations

import json
import os
import signal

import pytest

from experiments import cli
from experiments.cli import STOPPED_EXIT
from experiments.commands import compare, score
from experiments.evaluation.class_optimum import ClassOptima
from experiments.reporting import report, style, tables
from experiments.running import train, trained

pytestmark = pytest.mark.usefixtures("few_logged")

WORDS = [
    *("two-template", "--benchmark.vocab", "2", "--benchmark.horizon", "3", "--methods", "js"),
    *("--seeds", "2", "--updates", "2", "--evaluations", "1", "--batch-size", "8"),
    *("--samples", "8", "--policy.name", "full"),
]
WRITERS = {  # what is at work when a signal comes; the report is the fixture's
    "pictures": (style, "save", signal.SIGTERM),
    "tables": (tables, "write", signal.SIGINT),
    "class optimum": (ClassOptima, "table", signal.SIGUSR1),
}


def run(out, *more) -> int:
    return cli.run(compare.main, "experiments.compare", [*WORDS, "--out", str(out), *more])


@pytest.fixture(scope="module")
def out(tmp_path_factory, few_logged):
    """A run that was trained and stopped while its report was written."""
    out = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write", lambda *words: os.kill(os.getpid(), signal.SIGTERM))
        assert run(out) == STOPPED_EXIT
    assert not (out / "results.json").exists()
    return out


@pytest.fixture
def untrained(monkeypatch):
    monkeypatch.setattr(train, "prepare", lambda *words, **more: pytest.fail("it trains again"))


def drafts(out):
    return [path for path in out.rglob("*") if "draft" in path.name]


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.wide
def test_a_signal_while_results_are_written_leaves_to_be_run_again(
    name, out, untrained, monkeypatch
):
    place, function, number = WRITERS[name]
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    monkeypatch.setattr(place, function, lambda *words: os.kill(os.getpid(), number))
    assert run(out) == STOPPED_EXIT
    assert not (out / "results.json").exists()
    assert not drafts(out)
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers


@pytest.mark.wide
def test_what_a_finished_run_lacks_is_written_without_training(out, untrained, capsys):
    assert run(out, "--report", "False") == 0
    assert not (out / "report.html").exists()
    assert run(out, "--report", "False") == 0
    assert f"Already done: {out / 'results.json'}" in capsys.readouterr().out
    assert run(out) == 0
    said = capsys.readouterr().out
    assert "Written from the results of an earlier run: report.html" in said
    assert f"Already done: {out / 'report.html'}" in said
    gone = ["report.html", "table.md", "results.parquet", "figures/learning_curves.png"]
    before = {name: (out / name).stat().st_size for name in gone}
    for name in gone:
        (out / name).unlink()
    assert run(out) == 0
    assert {name: (out / name).stat().st_size for name in gone[1:3]} == {
        name: before[name] for name in gone[1:3]
    }
    assert all((out / name).is_file() for name in gone)
    assert "Written" in capsys.readouterr().out
    assert run(out) == 0
    assert "Written" not in capsys.readouterr().out


@pytest.mark.wide
def test_the_score_of_a_sample_is_what_the_run_says_of_it(out, capsys):
    """A finished method's policy is there, whether the whole run has come to its end or not."""
    lines = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    for seed in (0, 1):
        line = next(x for x in lines if x["method"] == "js" and x["seed"] == seed)
        words = (str(out), "--text", line["completion"], "--seed", str(seed), "--json", "True")
        capsys.readouterr()
        assert score.main(list(words)) == 0
        own = json.loads(capsys.readouterr().out)
        assert own["ids"] == [2, *map(int, line["completion"].split())]
        assert sum(own["log_probs"]) == pytest.approx(line["log_q"], abs=1e-5)
        assert own["entropy"][-1] == 0  # nothing follows a whole string
    run = trained.read(out)
    assert run.names == ("js",) and run.sizes == (2, 0, 3, None)
    assert run.task().space is not None
    assert run.method_result("js").minimises == "js"
