"""Head-to-heads from the command line to the report, small but whole."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import recorded

from experiments import cli
from experiments.commands import compare

ROOT = Path(__file__).parents[3]
SMALL = [
    *("two-template", "--benchmark.vocab", "2", "--benchmark.horizon", "3", "--seeds", "2"),
    *("--updates", "6", "--batch-size", "32", "--samples", "16"),
]
FULL = ["--policy.name", "full", "--evaluations", "1"]  # a class in which nothing is searched
TEXT = """text --benchmark.prompt-field question --benchmark.completion-field answer
    --benchmark.prompt-length 8 --benchmark.horizon 4 --benchmark.teacher-updates 30
    --benchmark.teacher-width 16 --benchmark.teacher-layers 1 --seeds 2 --updates 10
    --warm-start 2 --batch-size 16 --samples 16 --evaluations 1 --report False
    --policy.name markov
    --scorer.name markov
    --methods sft distill:js gail"""
METHODS = [
    *("--methods", "sft", "gail", "--adversarial.warmup", "5"),
    *("--evaluations", "3", "--optimum-starts", "2", "--temperatures", "0.5", "1.0"),
]


def run(*flags, out: Path) -> int:
    """`python -m experiments.compare` in this process."""
    return cli.run(compare.main, "experiments.compare", [*SMALL, *flags, "--out", str(out)])


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def finals(folder: Path) -> dict:
    """Everything that must be the same in two runs of one config: not the clock."""
    keep = lambda m: {k: v for k, v in m.items() if k not in ("seconds", "compile_seconds")}
    return {name: keep(m) for name, m in results(folder)["methods"].items()}


def curve(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    drop = (
        "seconds",
        "loss",
        "gradient_norm",
    )  # means over stretches, whose ends the clock decides
    return sorted(
        ({k: v for k, v in x.items() if k not in drop} for x in lines),
        key=lambda x: (x["method"], x["update"], x["seed"]),
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One undisturbed run."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert run(*METHODS, out=out) == 0
    return out


@pytest.mark.wide
def test_a_run_leaves_everything(whole):
    r = results(whole)
    assert r["schema"] == 2
    assert r["complete"] is True
    assert (r["benchmark"]["name"], r["policy"]["name"], r["seeds"]) == (
        "two_template",
        "markov",
        2,
    )
    assert set(r["methods"]) == {"sft", "gail"}
    for name, m in r["methods"].items():
        assert m["status"] == "ok"
        assert m["seconds"] > 0
        assert m["tokens"] == 6 * 32 * 3 * 2, name
        assert len(m["gap"]["seeds"]) == 2
        for metric in (
            "forward_kl",
            "reverse_kl",
            "js",
            "tv",
            "js_occupancy",
            "js_token",
            "valid",
            "mode_b",
            "entropy",
        ):
            found = m["metrics"][metric]
            assert {"iqm", "mean", "ci95", "seeds"} <= set(found)
            first, second = found["seeds"]
            # of two seeds the IQM is their mean, and s / sqrt(2) is half their distance; t of one
            # degree of freedom is 12.7062
            assert found["iqm"] == pytest.approx((first + second) / 2)
            half = 12.7062 * abs(first - second) / 2
            wanted = (found["iqm"] - half, found["iqm"] + half)
            assert found["ci95"] == pytest.approx(wanted, rel=1e-4, abs=1e-6)
        assert m["gap"]["seeds"][0] == pytest.approx(
            m["metrics"][m["minimises"]]["seeds"][0] - m["best"], abs=1e-9
        )
    for minimised, row in r["class_optimum"].items():
        assert all(
            other[minimised] >= row[minimised] - 1e-6 for other in r["class_optimum"].values()
        ), minimised
    for name in (
        "config.json",
        "environment.json",
        "samples.jsonl",
        "table.md",
        "table.csv",
        "table.tex",
        "report.html",
    ):
        assert (whole / name).stat().st_size > 100, name
    figures = {p.suffix for p in (whole / "figures").iterdir()}
    assert figures == {".pdf", ".png", ".csv"}
    assert (
        len(list((whole / "figures").glob("*.csv")))
        == len(list((whole / "figures").glob("*.pdf")))
        >= 3
    )
    table = pyarrow.parquet.read_table(whole / "results.parquet").to_pylist()
    js = [row["value"] for row in table if row["method"] == "gail" and row["metric"] == "js"]
    assert js == r["methods"]["gail"]["metrics"]["js"]["seeds"]


@pytest.mark.wide
def test_the_report_stands_alone_and_holds_every_method(whole):
    page = (whole / "report.html").read_text()
    html = recorded.words(page)
    assert not re.search(r"(?:src|href)=.(?:https?:|//|[\w./]+\.(?:js|css|png))", html)
    for text in ("gail", "Two seeds", "class", "Two-template language", "sequence js"):
        assert text in html, text
    assert "<svg" in page and len(page.encode()) < 2_000_000
    assert "nan" not in html.lower().split()


@pytest.mark.wide
def test_a_finished_run_is_not_run_again(whole, capsys):
    before = {p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.is_file()}
    assert run(*METHODS, out=whole) == 0
    assert "Already done" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.is_file()}


@pytest.mark.wide
def test_a_run_that_diverges_is_listed_with_its_reason(tmp_path):
    out = tmp_path / "run"
    assert run("--methods", "distill:pearson_chi2", "--learning-rate", "1e12", *FULL, out=out) == 0
    found = results(out)["methods"]
    assert {m["status"] for m in found.values()} == {"diverged"}
    assert all("not finite" in m["reason"] for m in found.values())
    assert "not finite" in (out / "report.html").read_text()
    json.loads(
        (out / "results.json").read_text(),
        parse_constant=lambda x: pytest.fail(f"{x} in results.json"),
    )


@pytest.mark.wide
@pytest.mark.parametrize("method", ["sft", "adversarial:hellinger2"])
def test_fixed_demonstrations_trials_and_a_full_class(method, tmp_path):
    """Few demonstrations, two learning rates tried, and a class that holds the
    expert: optimum 0. The start has been trained: a uniform law of the 8 strings is
    log 8 - H(expert) from the expert."""
    out = tmp_path / "run"
    flags = [
        *("--warm-start", "6"),
        *("--demos", "32", "--trials", "2", "--methods", method),
        *("--report", "False"),
    ]
    assert run(*flags, *FULL, out=out) == 0
    r = results(out)
    assert r["class_optimum"]["js"]["js"] == 0
    assert r["start"]["forward_kl"] < np.log(8) - r["expert"]["entropy"] - 0.1
    m = r["methods"][method]
    assert len(m["trials"]) == 2
    assert m["learning_rate"] in [t["learning_rate"] for t in m["trials"]]
    assert m["learning_rate"] == min(m["trials"], key=lambda t: t["score"])["learning_rate"]


@pytest.mark.wide
def test_text_end_to_end(tmp_path):
    """Prompted real text with a teacher, methods of every group, values estimated and marked so."""
    rows = [
        {"question": f"What is {i} plus {j}?", "answer": f"{i + j}."}
        for i in range(12)
        for j in range(12)
    ]
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows) + '{"question": "no answer"}\nnot json\n'
    )
    flags = TEXT.split()
    for flag, name in (("--benchmark.path", "rows.jsonl"), ("--cache", "cache"), ("--out", "run")):
        flags += [flag, str(tmp_path / name)]
    assert cli.run(compare.main, "experiments.compare", flags) == 0
    r = results(tmp_path / "run")
    assert r["class_optimum"] == {}
    for m in r["methods"].values():
        assert m["gap"] is None
        assert m["metrics"]["js_token"]["estimated"] is True
        assert all(np.isfinite(m["metrics"]["validation_nll"]["seeds"]))
    assert r["methods"]["sft"]["metrics"]["validation_nll"]["iqm"] < r["start"]["validation_nll"]
    bad = json.loads((tmp_path / "run" / "bad_rows.json").read_text())
    assert [row["row"] for row in bad] == [145, 146]
    samples = [
        json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()
    ]
    assert {s["method"] for s in samples} == {
        "start",
        "data",
        "expert",
        "sft",
        "distill:js",
        "gail",
    }
    assert any(s["prompt"].endswith("?") for s in samples)
