"""Which seeds are pooled: those of one task alone, and the sound ones of runs that lost some."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import recorded

from experiments.evaluation.class_optimum import ClassOptimum
from experiments.reporting import merge, planes, results, schema, scoreboards, tables, wording
from experiments.reporting.schema import MethodResult, RunResult
from experiments.storage import files
from experiments.sweep import collect, plan, tasks
from experiments.sweep.collect import merged
from experiments.sweep.folder import SweepFolder
from fdiv.types import UsageError

NAN, INF = float("nan"), float("inf")


def method(best: float | None = None, **scores: list[float]) -> MethodResult:
    """A method with these metrics of its seeds."""
    metrics, infinite = results.metrics_of({k: np.array(v) for k, v in scores.items()})
    status = "diverged" if infinite else "ok"
    return recorded.method({}, status=status, best=best, metrics=metrics, infinite=infinite)


def run(seeds: int, **methods: MethodResult) -> RunResult:
    return recorded.run(methods, seeds=seeds)


def test_a_diverged_seed_takes_no_other_with_it():
    lost = method(js=[0.1, NAN, 0.3, INF], entropy=[1.0, 2.0, 3.0, 4.0], js_stderr=[1, 2, 3, 4])
    js = lost.metrics["js"]
    assert js.seeds == [0.1, 0.3]
    assert (js.numbers, js.of, js.stderr) == ([0, 2], 4, [1.0, 3.0])
    assert js.mean == pytest.approx(0.2)  # (.1 + .3) / 2
    assert lost.infinite == ["js"]
    assert lost.metrics["entropy"].whole
    assert "js" not in method(js=[NAN, INF]).metrics


def test_tables_say_how_many_seeds_are_finite():
    """The method that lost a seed has the least JS left, and is neither first nor best for it."""
    whole = run(2, lost=method(js=[0.1, NAN]), b=method(js=[0.3, 0.3]), none=method(js=[NAN, NAN]))
    table = tables.ranking(whole)
    column = table.titles.index("JS")
    assert [(row[0].text, row[column].text, row[column].best) for row in table.rows] == [
        ("b", "0.3000", False),
        ("lost", "0.1000 (1 of 2 finite)", False),
        ("none", "not finite", False),
    ]
    assert any("n of m finite" in note for note in table.notes)
    written = list(csv.DictReader(io.StringIO(tables.comma_separated(table))))
    assert [row["JS"] for row in written] == ["0.3", "0.1", "nan"]
    assert [row["JS finite seeds"] for row in written] == ["2", "1", ""]
    assert wording.LOST not in tables.ranking(run(1, b=method(js=[0.3]))).notes
    shown = tables.terminal(table, 200)
    cells = [cell for each in shown.columns for cell in map(str, each.cells)]
    assert "0.1000 (1 of 2 finite)" in cells
    against = results.compared(whole, "b").methods
    assert against["lost"].against is None


def test_a_result_with_lost_seeds_is_written_and_read(tmp_path):
    whole = run(3, lost=method(js=[0.1, NAN, 0.2]), b=method(js=[0.3, 0.3, 0.3]))
    schema.write(tmp_path / "results.json", whole)
    again = schema.read(tmp_path / "results.json")
    assert again.methods["lost"].metrics == whole.methods["lost"].metrics
    assert "numbers" not in schema.as_json(whole.methods["b"].metrics["js"])
    rows = [(r["seed"], r["value"]) for r in results.tidy(whole) if r["method"] == "lost"]
    assert rows == [(0, 0.1), (2, 0.2)]


def test_gaps_and_their_ends_keep_their_seeds():
    best = ClassOptimum(0.1, {}, [0.1, 0.4])
    gap = results.gap_of(np.array([0.1, NAN, 0.4]), best)
    assert gap.seeds == pytest.approx([0.0, 0.3])
    assert (gap.numbers, gap.ended_in) == ([0, 2], [0, 1])
    assert results.describe_ends(gap).startswith("seed 2 ended in local optimum 2")
    assert results.gap_of(np.array([NAN, NAN]), best) is None


def test_planes_pair_the_seeds_that_both_metrics_have(tmp_path):
    lost = method(forward_kl=[0.1, NAN, 0.3], reverse_kl=[NAN, 0.2, 0.4])
    whole = run(3, lost=lost, never=method(forward_kl=[0.1, NAN], reverse_kl=[NAN, 0.2]))
    (plane,) = [p for p in scoreboards.EXACT.planes if p.x == "forward_kl"]
    assert "<svg" in planes.picture(plane, whole, tmp_path).svg
    assert schema.paired(lost.metrics["forward_kl"], lost.metrics["reverse_kl"]) == [(2, 0.3, 0.4)]


def written(folder: Path, result: RunResult) -> merge.Part:
    folder.mkdir(parents=True)
    schema.write(folder / "results.json", result)
    return merge.Part(folder, "")


def test_a_run_without_a_finite_seed_is_counted_among_the_others(tmp_path):
    each = [
        run(2, sft=method(js=[0.1, 0.2], entropy=[1.0, 1.0])),
        run(2, sft=method(js=[NAN, NAN], entropy=[1.0, 2.0])),
        run(2, sft=method(js=[NAN, 0.5], entropy=[1.0, 3.0])),
    ]
    parts = [written(tmp_path / str(i), one) for i, one in enumerate(each)]
    sft = merge.merge(parts, "note").methods["sft"]
    js = sft.metrics["js"]
    assert (js.seeds, js.numbers, js.of) == ([0.1, 0.2, 0.5], [0, 1, 5], 6)
    assert sft.metrics["entropy"].whole
    assert sft.infinite == ["js"]


def test_what_runs_say_together(tmp_path):
    """Seeds are counted on, times and tokens add up, what is known of the task is averaged, and one
    run that diverged is enough."""
    lost = dataclasses.replace(method(js=[0.3, 0.4, 0.8]), status="diverged")
    one, other = run(2, sft=method(js=[0.1, 0.2])), run(3, sft=lost)
    each = [
        dataclasses.replace(one, expert={"entropy": 1.0}, start={"js": 1.0, "only": 1.0}),
        dataclasses.replace(other, expert={"entropy": 3.0}, start={"js": 3.0}),
    ]
    parts = [written(tmp_path / str(i), one) for i, one in enumerate(each)]
    for part, seeds in zip(parts, (2, 3)):
        lines = [{"method": "sft", "update": 0, "seed": seed} for seed in range(seeds)]
        texts = [json.dumps(line).encode() for line in lines]
        files.write_lines(part.folder / "metrics.jsonl", texts)
    whole = merge.merge(parts, "note")
    assert (whole.seeds, whole.expert, whole.start) == (5, {"entropy": 2.0}, {"js": 2.0})
    sft = whole.methods["sft"]
    assert (sft.seconds, sft.tokens, sft.status) == (2.0, 2.0, "diverged")
    assert sft.metrics["js"].seeds == [0.1, 0.2, 0.3, 0.4, 0.8]
    assert [line["seed"] for line in merge.lines(parts, "metrics.jsonl")] == [0, 1, 2, 3, 4]


def test_a_seed_that_two_runs_trained_alike_is_counted_once(tmp_path):
    """Where the runs of an entry differ in what a method does not read, or in how many seeds there
    are: seed 0 is the same run in both. Another base seed is another run, whatever its numbers."""
    scores = {"one": [0.1], "two": [0.1, 0.3], "moved": [0.2, 0.3], "other base": [0.1, 0.4]}
    parts = []
    for name, values in scores.items():
        own = run(len(values), sft=method(js=values, entropy=[1.0] * len(values)))
        part = written(tmp_path / name, own)
        kept = {"preset": "", "changed": {}, "config": {"seed": int(name == "other base")}}
        files.write_checked(part.folder / "config.json", kept)
        lines = [{"method": "sft", "update": 0, "seed": seed} for seed in range(len(values))]
        texts = [json.dumps(line).encode() for line in lines]
        files.write_lines(part.folder / "metrics.jsonl", texts)
        parts.append(part)
    whole = merge.merge(parts, "note")
    assert whole.methods["sft"].metrics["js"].seeds == [0.1, 0.3, 0.2, 0.1, 0.4]
    assert whole.seeds == 5
    assert whole.notes[-1].endswith("2 were left out.")
    assert [line["seed"] for line in merge.lines(parts, "metrics.jsonl")] == [0, 1, 2, 3, 4]


def test_some_seeds_of_a_result_are_counted_anew():
    """With their errors, which are finite, and where each ended."""
    lost = method(js=[0.1, NAN, 0.3, 0.4], js_stderr=[1, 2, 3, 4], entropy=[1.0, 2.0, 3.0, 4.0])
    best = ClassOptimum(0.1, {}, [0.1, 0.4])
    gap = results.gap_of(np.array([0.1, NAN, 0.3, 0.4]), best)
    some = merge.restricted(dataclasses.replace(lost, gap=gap), [1, 3], 4)
    js = some.metrics["js"]
    assert (js.seeds, js.numbers, js.of, js.stderr) == ([0.4], [1], 2, [4.0])
    assert some.metrics["entropy"].seeds == [2.0, 4.0] and some.metrics["entropy"].whole
    assert (some.gap.seeds, some.gap.ended_in) == (pytest.approx([0.3]), [1])
    assert "js" not in merge.restricted(lost, [1], 4).metrics


def test_where_seeds_ended_is_not_told_of_several_classes(tmp_path):
    parts = []
    for name, local in (("a", [0.1, 0.4]), ("b", [0.2])):
        gap = results.gap_of(np.array([0.4, 0.9]), ClassOptimum(local[0], {}, local))
        own = dataclasses.replace(method(js=[0.4, 0.9]), gap=gap)
        parts.append(written(tmp_path / name, run(2, sft=own)))
    gap = merge.merge(parts, "note").methods["sft"].gap
    assert (gap.ended_in, gap.local_optima) == ([None] * 4, [])
    assert results.describe_ends(gap) == ""


# --- tasks ----------------------------------------------------------------------------------------

TASK = {"name": "text", "path": "a.txt", "teacher_width": 4}
CHANGED = {  # what two runs of one point of the grid may differ in
    "data": {"data": "other"},
    "imports": {"imports": {"own.py": "other"}},
    "benchmark": {"benchmark": TASK | {"teacher_width": 8}},
    "exact_limit": {"exact_limit": 0},
}


def sweep_of(folder: Path, points: list[dict], kept: list[dict]) -> SweepFolder:
    """A sweep whose lines have run, with what each has kept of its task."""
    for part in ("runs", "ends", "leases", "logs", "slurm"):
        (folder / part).mkdir(parents=True)
    config = {"benchmark": TASK, "data": "rows", "imports": {"own.py": "a"}, "exact_limit": 10}
    lines = [
        {"line": i, "preset": "text", "flags": [], "point": p, "imports": [], "config": config}
        for i, p in enumerate(points)
    ]
    (folder / "plan.jsonl").write_text(plan.plan_text(lines))
    sweep = SweepFolder(folder)
    for line, own in zip(sweep.lines, kept, strict=True):
        written(sweep.run(line), run(1, sft=method(js=[0.1 * (line["line"] + 1)])))
        identity = {"preset": "text", "changed": {}, "config": config | own}
        files.write_checked(sweep.run(line) / "config.json", identity)
    return sweep


@pytest.mark.parametrize("part", CHANGED)
def test_runs_of_different_tasks_are_no_seeds_of_one_method(part, tmp_path):
    points = [{"seed": i} for i in range(3)]
    sweep = sweep_of(tmp_path / "s", points, [{}, {}, CHANGED[part]])
    with pytest.raises(UsageError, match=f"different {part}") as refused:
        tasks.refuse_mixed(sweep, sweep.lines)
    assert "lines 0, 1" in str(refused.value)
    assert "line 2" in str(refused.value)
    same = sweep_of(tmp_path / "same", points, [CHANGED[part]] * 3)
    tasks.refuse_mixed(same, same.lines)


@pytest.mark.parametrize("axis", ["benchmark.path", "benchmark.beta", "beta", "preset"])
def test_tasks_that_the_grid_names_are_kept_apart(axis, tmp_path):
    points = [{axis: value, "seed": seed} for value in ("a", "b") for seed in (0, 1)]
    kept = [{"data": point[axis], "benchmark": TASK | {"path": point[axis]}} for point in points]
    sweep = sweep_of(tmp_path / "s", points, kept)
    tasks.refuse_mixed(sweep, sweep.lines)
    over_seeds = merged(sweep, sweep.lines, "seed")
    assert set(over_seeds.methods) == {f"sft @ {s}, {axis} {v}" for s in (0, 1) for v in "ab"}
    whole = merged(sweep, sweep.lines, "methods")
    assert set(whole.methods) == {f"sft @ {axis} a", f"sft @ {axis} b"}
    assert [len(m.metrics["js"].seeds) for m in whole.methods.values()] == [2, 2]
    assert f"differ in {axis}" in whole.notes[-1]
    assert "Pooled over seed." in whole.notes[-1]
    assert set(merged(sweep, sweep.lines, axis).methods) == {"sft @ a", "sft @ b"}


def test_a_collected_sweep_says_where_its_runs_are_at_trackers(tmp_path, capsys):
    sweep = sweep_of(tmp_path / "s", [{"seed": i} for i in range(2)], [{}, {}])
    (sweep.run(sweep.lines[1]) / "trackers").mkdir()
    place = "runs/trackers/tensorboard/sft-0"
    one = {"tracker": "tensorboard", "method": "sft", "seed": 0, "name": "sft-0", "where": place}
    other = one | {"tracker": "wandb", "where": "https://wandb.ai/x"}
    files.write_checked(
        sweep.run(sweep.lines[1]) / "trackers" / "runs.json", {"runs": [one, other]}
    )
    tidy = collect.rows(sweep, sweep.lines)
    assert {(row["line"], row["tracked"]) for row in tidy} == {
        (0, None),
        (1, f"{place} https://wandb.ai/x"),
    }
    assert collect._link(sweep, sweep.lines) == 2
    linked = list(csv.DictReader((sweep.path / collect.TRACKED).open()))
    assert [(row["line"], row["where"]) for row in linked] == [("1", place), ("1", other["where"])]
    assert "tracked.csv" in merged(sweep, sweep.lines, "methods").notes[-1]
    assert "tracked" not in collect.rows(sweep, sweep.lines[:1])[0]
