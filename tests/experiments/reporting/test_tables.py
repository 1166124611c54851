"""What stands in which order in a table, and how metrics are named."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterator

import pytest
import recorded

from experiments.reporting import metrics, results, schema, tables
from experiments.reporting.schema import MethodResult, RunResult
from experiments.reporting.scoreboards import SCOREBOARDS
from experiments.storage.files import write_json


def method(**scores: list[float]) -> MethodResult:
    """A method of a return with these metrics, the rest of no matter here."""
    return recorded.method(scores, minimises="reverse_kl", level="return", group="grpo")


def run(kind: schema.Kind, methods: dict[str, MethodResult]) -> RunResult:
    return recorded.run(
        methods,
        kind=kind,
        benchmark={"name": "arithmetic", "divergence": "reverse_kl"},
        policy={"name": "transformer"},
        start={"greedy_accuracy": 0.05, "entropy": 2.0},
    )


def test_more_accurate_methods_come_first():
    whole = run(
        "verified",
        {
            "a": method(greedy_accuracy=[0.5, 0.501], penalty=[1.0, 1.001]),
            "b": method(greedy_accuracy=[0.9, 0.902]),
            "c": method(greedy_accuracy=[0.1, 0.101]),
        },
    )
    ranking = tables.ranking(whole)
    assert [row[0].text for row in ranking.rows] == ["b", "a", "c"]
    column = ranking.titles.index("greedy accuracy")
    assert [row[column].best for row in ranking.rows] == [True, False, False]
    column = ranking.titles.index("KL to reference, own batch")
    assert [row[column].text[:3] for row in ranking.rows] == ["—", "1.0", "—"]
    assert [row[0].text for row in ranking.references] == ["start"]
    assert ranking.references[0][ranking.titles.index("greedy accuracy")].text == "0.05"
    against = {name: m.against for name, m in results.compared(whole, "a").methods.items()}
    assert against["a"] is None
    assert against["b"].probability_of_improvement == 1.0
    assert against["c"].probability_of_improvement == 0.0


def test_a_smaller_divergence_comes_first_and_what_is_not_finite_is_said():
    lost = dataclasses.replace(method(tv=[0.1, 0.2]), infinite=["js"])
    whole = run("exact", {"lost": lost, "b": method(js=[0.3, 0.3]), "a": method(js=[0.1, 0.2])})
    whole = dataclasses.replace(whole, start={})
    ranking = tables.ranking(whole)
    assert [row[0].text for row in ranking.rows] == ["a", "b", "lost"]
    column = ranking.titles.index("JS")
    assert [row[column].text for row in ranking.rows][1:] == ["0.3000", "not finite"]


@pytest.mark.parametrize("kind", SCOREBOARDS)
def test_every_metric_of_a_scoreboard_has_an_entry(kind):
    board = SCOREBOARDS[kind]
    axes = [name for plane in board.planes for name in (plane.x, *plane.y)]
    named = [*board.columns, *board.live, *board.curves, *board.notes, board.rank_by, *axes]
    for name in named:
        shown = board.metric(name)
        assert shown.title != name or name in metrics.METRICS, name
        assert "{" not in shown.title + shown.short, name
    assert board.metric(board.rank_by).better != 0


def test_names_that_have_no_entry_of_their_own():
    assert metrics.metric("js_token").title == "JS / token, own prefixes"
    assert metrics.metric("alpha:0.5_token_expert").title == "alpha:0.5 / token, expert's prefixes"
    assert metrics.metric("direct").label == "direct"


OLD = {  # a result of version 1, as short as can be
    "schema": 1,
    "complete": True,
    "benchmark": {"name": "rewarded", "divergence": "reverse_kl"},
    "policy": {"name": "full"},
    **{"seeds": 1, "updates": 1, "batch_size": 2, "demos": 0, "trials": 1},
    "frontier": [{"beta": 0.1, "spent": 0.4, "reward": 1.0}],
    "class_optimum": {"js": {"coverage": 3.0, "likelihood": 2.0}},
    "expert": {"spent": 0.4, "kl_spent": 0.4},
    "start": {"spent": 0.0},
    "methods": {
        "sft": {
            **{"minimises": "forward_kl", "level": "sequence", "target": "", "variant": None},
            **{"group": "max_likelihood", "published": False, "status": "ok", "reason": ""},
            **{"seconds": 1.0, "compile_seconds": 1.0, "tokens": 8.0, "learning_rate": 0.1},
            **{"best": 0.1, "trials": [], "infinite": ["coverage"], "alarms": []},
            "gap": None,
            "metrics": {
                name: {"iqm": 1.0, "mean": 1.0, "ci95": [1.0, 1.0], "seeds": [1.0]}
                for name in ("spent", "kl_spent", "likelihood", "regret")
            },
            "temperatures": [{"temperature": 1.0, "likelihood": 2.0}],
        }
    },
    "notes": [],
}


def keys(tree: object) -> Iterator[str]:
    """All keys of nested dictionaries and lists."""
    if isinstance(tree, dict):
        yield from tree
    for part in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from keys(part)


def test_a_result_of_version_1_is_read_under_todays_names(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, OLD)
    result = schema.read(path)
    assert result.kind == "return"
    assert result.frontier[0].divergence_to_reference == 0.4
    assert result.class_optimum["js"] == {"cross_entropy": 3.0, "expert_nll": 2.0}
    m = result.methods["sft"]
    names = {"divergence_to_reference", "kl_to_reference", "expert_nll", "regret"}
    assert set(m.metrics) == names
    assert m.infinite == ["cross_entropy"]
    assert m.temperatures == [{"temperature": 1.0, "expert_nll": 2.0}]
    assert not set(metrics.RENAMED) & set(keys(schema.as_json(result)))
    assert "KL to reference" in tables.ranking(result).titles
    line = {"method": "sft", "update": 1, "spent": 0.1, "likelihood_stderr": 0.2}
    assert set(schema.history([line])[0]) == {
        *("method", "update", "divergence_to_reference", "expert_nll_stderr"),
    }


def test_a_newer_result_is_refused(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, OLD | {"schema": schema.VERSION + 1})
    with pytest.raises(schema.UsageError, match="newer version"):
        schema.read(path)


def test_a_csv_has_one_number_a_cell():
    whole = run("exact", {"a": method(js=[0.1, 0.2], tv=[0.5, 0.5]), "b": method(js=[0.3, 0.3])})
    rows = list(csv.DictReader(io.StringIO(tables.comma_separated(tables.ranking(whole)))))
    assert [row["method"] for row in rows[:2]] == ["a", "b"]
    assert [float(row["JS"]) for row in rows[:2]] == pytest.approx([0.15, 0.3])
    assert float(rows[0]["JS low"]) < 0.15 < float(rows[0]["JS high"])
    assert (rows[0]["TV"], rows[1]["TV"]) == ("0.5", "")


def test_rows_as_data_have_seeds_and_intervals():
    rows = tables.plain(tables.ranking(run("exact", {"a": method(js=[0.1, 0.2], entropy=[1, 1])})))
    assert rows[0]["method"] == "a" and rows[0]["JS"]["seeds"] == [0.1, 0.2]
    low, high = rows[0]["JS"]["ci95"]
    assert rows[0]["JS"]["iqm"] == pytest.approx(0.15) and low < 0.15 < high
    assert rows[1] == {"method": "start", "entropy": 2.0}


def test_tex_fits_a_column():
    names = ("js", "tv", "forward_kl", "reverse_kl", "valid", "mode_b", "entropy")
    scores = {name: [0.11, 0.22] for name in names}
    text = tables.tex(tables.ranking(run("exact", {"a": method(**scores)})))
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.count("&") for line in rows} == {tables.TEX_NUMBERS}
    assert "[" not in "".join(rows) and max(map(len, rows)) < 90
    assert r"{@{}lrrrrrr@{}}" in text and "for want of width: entropy." in text
