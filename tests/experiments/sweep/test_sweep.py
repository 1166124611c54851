"""Sweeps: what a grid holds, that nobody shares a line, what is said of it and what is handed to
SLURM."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.cli import STOPPED_EXIT
from experiments.reporting import schema
from experiments.running import head_to_head
from experiments.storage import lease
from experiments.sweep import __main__ as commands
from experiments.sweep import grid, local, slurm, status, work
from experiments.sweep.axis import curves
from experiments.sweep.collect import KEY, merged, rows
from experiments.sweep.folder import SweepFolder
from fdiv.types import UsageError

ROOT = Path(__file__).parents[3]
TINY = {
    "benchmark.vocab": 2,
    "benchmark.horizon": 3,
    "policy.name": "full",
    "methods": ["sft"],
    "seeds": 1,
    "updates": 10,
    "batch_size": 16,
    "evaluations": 1,
    "temperatures": [1.0],
    "samples": 16,
    "report": False,
}

GRIDS = {
    "product": ({"product": {"a": [1, 2], "b": [3, 4]}}, [(1, 3), (1, 4), (2, 3), (2, 4)]),
    "zip": ({"zip": {"a": [1, 2], "b": [3, 4]}}, [(1, 3), (2, 4)]),
    "list": ({"list": [{"a": 1}, {"b": 2}]}, [(1, None), (None, 2)]),
    "flags under all": ({"flags": {"a": 0, "b": 9}, "list": [{"a": 1}, {}]}, [(1, 9), (0, 9)]),
    "blocks multiply": (
        {"zip": {"a": [1, 2]}, "list": [{"b": 3}, {"b": 4}]},
        [(1, 3), (1, 4), (2, 3), (2, 4)],
    ),
    "when": (
        {"product": {"a": [1, 2]}, "when": [{"if": {"a": 2}, "product": {"b": [5, 6]}}]},
        [(1, None), (2, 5), (2, 6)],
    ),
    "skip": (
        {"product": {"a": [1, 2, 3], "b": [3, 4]}, "skip": [{"a": [1, 2], "b": 3}, {"a": 3}]},
        [(1, 4), (2, 4)],
    ),
    "YAML's 1e-3 is a word": (
        {"product": {"a": ["1e-3", 2]}, "skip": [{"a": "1e-3"}]},
        [(2, None)],
    ),
}


@pytest.mark.parametrize("case", GRIDS)
def test_grids(case):
    given, wanted = GRIDS[case]
    assert [(point.get("a"), point.get("b")) for point in grid.expand(given)] == wanted


def test_random_points_come_from_their_seed():
    laws = {"a": {"log_uniform": [1e-3, "1e-1"]}, "b": [1, 2, 3], "c": {"integers": [4, 5]}}
    draw = lambda seed: grid.expand({"random": {"count": 40, "seed": seed, "of": laws}})
    assert draw(1) == draw(1) != draw(2)
    assert all(1e-3 <= p["a"] <= 1e-1 and p["b"] in (1, 2, 3) and p["c"] in (4, 5) for p in draw(0))
    assert 12 < sum(p["a"] < 1e-2 for p in draw(0)) < 28  # as many in either decade


def plan(folder: Path, given: dict, out: str = "sweep") -> int:
    (folder / "grid.py").write_text(f"GRID = {given!r}\n")
    return commands.main(
        ["plan", str(folder / "grid.py"), "--out", str(folder / out), "--cost", "False"]
    )


BAD = {
    "no preset": ({"flags": TINY}, ["names no preset"]),
    "unknown preset": ({"preset": "two-templates"}, ["two-templates", "two-template"]),
    "unknown block": ({"preset": "two-template", "prodct": {}}, ["prodct", "product"]),
    "unknown flag": (
        {"preset": "two-template", "flags": {"batchsize": 4}},
        ["batchsize", "batch-size"],
    ),
    "bad value": (
        {"preset": "two-template", "product": {"seeds": [1, 0]}},
        ["point 1", "seeds = 0", "at least 1"],
    ),
    "too long to enumerate": (
        {"preset": "two-template", "flags": {"benchmark.horizon": 40}},
        ["horizon = 40", "at most 11"],
    ),
    "own flag": ({"preset": "two-template", "flags": {"out": "x"}}, ["out", "the sweep's own"]),
    "not a list": ({"preset": "two-template", "product": {"seed": 1}}, ["not a list"]),
    "uneven zip": (
        {"preset": "two-template", "zip": {"seed": [1], "updates": [1, 2]}},
        ["different lengths"],
    ),
    "nothing left": (
        {"preset": "two-template", "product": {"seed": [1]}, "skip": [{"seed": 1}]},
        ["no point left"],
    ),
}


@pytest.mark.few(4)
@pytest.mark.parametrize("case", BAD)
def test_a_grid_that_cannot_be_run_is_refused_before_anything_is_written(case, tmp_path, capsys):
    given, says = BAD[case]
    assert plan(tmp_path, given) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert all(text in said for text in says), said
    assert not (tmp_path / "sweep").exists()


@pytest.fixture(scope="module")
def planned(tmp_path_factory) -> Path:
    """Four lines, two points given twice."""
    folder = tmp_path_factory.mktemp("planned")
    product = {"learning_rate": [0.1, "1e-2"], "seed": [0, 1, 0]}
    assert plan(folder, {"preset": "two-template", "flags": TINY, "product": product}) == 0
    return folder / "sweep"


@pytest.fixture
def sweep(planned, tmp_path) -> SweepFolder:
    """A fresh sweep of four lines."""
    return SweepFolder(shutil.copytree(planned, tmp_path / "sweep"), 10.0)


def test_a_plan_holds_each_run_once_as_resolved(sweep, tmp_path, capsys):
    assert [line["point"] for line in sweep.lines] == [
        {"learning_rate": r, "seed": s} for r in (0.1, 0.01) for s in (0, 1)
    ]
    assert [line["line"] for line in sweep.lines] == [0, 1, 2, 3]
    assert sweep.lines[3]["config"]["learning_rate"] == 0.01
    held = (sweep.path / "plan.jsonl").read_bytes()
    assert plan(tmp_path, {"preset": "two-template", "flags": TINY}) == 2
    assert "holds another plan" in " ".join(capsys.readouterr().err.split())
    assert (sweep.path / "plan.jsonl").read_bytes() == held


# --- leases ---------------------------------------------------------------------------------------

RACER = """
import sys, time
from pathlib import Path
from experiments.storage import lease
folder = Path(sys.argv[1])
seen = lease.read(folder, 10.0)
Path(sys.argv[2]).touch()
while not (folder.parent / "go").exists(): time.sleep(0.001)
print(*[n for n in map(str, range(60)) if lease.take(folder, n, 10.0, seen.get(n))])
"""


@pytest.mark.parametrize("lapsed", [False, True], ids=["fresh", "lapsed"])
def test_of_several_processes_exactly_one_gets_each_line(lapsed, tmp_path):
    folder = tmp_path / "leases"
    folder.mkdir()
    for name in map(str, range(60 if lapsed else 0)):
        os.utime(lease.take(folder, name, 10.0, None).path, (0, 0))
    ready = [tmp_path / f"ready{i}" for i in range(3)]
    start = lambda path: subprocess.Popen(
        [sys.executable, "-c", RACER, folder, path], cwd=ROOT, stdout=-1, text=True
    )
    racers = [start(path) for path in ready]
    while not all(path.exists() for path in ready):
        assert all(racer.poll() is None for racer in racers)
    (tmp_path / "go").touch()
    taken = [name for racer in racers for name in racer.communicate()[0].split()]
    assert sorted(taken) == sorted(map(str, range(60)))


def test_a_lease_lapses_is_taken_over_and_its_holder_knows(tmp_path):
    first = lease.take(tmp_path, "a", 10.0, None)
    seen = lambda: lease.read(tmp_path, 10.0)["a"]
    assert first.beat()
    assert lease.take(tmp_path, "a", 10.0, seen()) is None
    os.utime(first.path, (0, 0))
    second = lease.take(tmp_path, "a", 10.0, seen())
    assert second is not None
    assert not first.beat()
    assert seen().deaths == 1
    first.give_back()  # too late to matter
    assert lease.take(tmp_path, "a", 10.0, seen()) is None
    second.give_back()
    assert not seen().held(10.0)
    third = lease.take(tmp_path, "a", 10.0, seen())
    assert lease.bury(tmp_path, pid=-1) == 0  # another's death is no matter
    assert third.beat()
    assert seen().held(10.0)
    assert lease.bury(tmp_path, pid=os.getpid()) == 1
    assert seen().deaths == 1
    assert third.path.name == "a.0003"


# --- work and status ------------------------------------------------------------------------------


@pytest.fixture
def handlers():
    """Signal handlers as they were, afterwards."""
    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_failing_line_takes_no_other_with_it(sweep, handlers, monkeypatch, capfd):
    def main(preset, config, default):
        if config.budget.seed == 1 and config.optimiser.learning_rate == 0.1:
            raise RuntimeError("out of luck")
        if config.budget.seed == 1:
            raise UsageError("seed", 1, "is not liked.", "Take another.")
        print("trained")
        return 0

    monkeypatch.setattr(head_to_head, "run", main)
    assert work.work(sweep) == 0
    found = {row.line: row for row in status.rows(sweep)}
    assert [found[i].state for i in range(4)] == ["done", "failed", "done", "refused"]
    assert found[1].reason == "RuntimeError: out of luck"
    assert "trained" in sweep.log(sweep.lines[0]).read_text()
    assert "Traceback" in sweep.log(sweep.lines[1]).read_text()
    assert "trained" not in capfd.readouterr().out
    assert work.work(sweep) == 0  # nothing is left, and what failed is not tried again
    assert sweep.forget_failures() == 2
    assert [line["line"] for line in sweep.idle_lines()] == [1, 3]


def test_a_worker_that_is_told_to_leave_leaves_its_line_to_be_resumed(sweep, handlers, monkeypatch):
    def main(preset, config, default):
        os.kill(os.getpid(), signal.SIGTERM)
        return STOPPED_EXIT

    monkeypatch.setattr(head_to_head, "run", main)
    assert work.work(sweep) == STOPPED_EXIT
    assert [row.state for row in status.rows(sweep)] == ["preempted", *["not started"] * 3]
    sweep.stop.touch()
    assert work.work(sweep) == STOPPED_EXIT
    assert len(sweep.idle_lines()) == 4


def test_a_line_that_kills_its_workers_is_given_up(sweep, handlers, monkeypatch):
    monkeypatch.setattr(head_to_head, "run", lambda *_: 0)
    for _ in range(3):
        lease.take(sweep.leases, "0002", 10.0, lease.read(sweep.leases, 10.0).get("0002"))
        lease.bury(sweep.leases, pid=os.getpid())
    assert status.rows(sweep)[2].state == "preempted"
    assert work.work(sweep) == 0
    assert [row.state for row in status.rows(sweep)] == ["done", "done", "failed", "done"]
    assert "3 workers died" in status.rows(sweep)[2].reason


def test_a_running_line_is_nobody_elses(sweep, handlers, monkeypatch):
    monkeypatch.setattr(head_to_head, "run", lambda *_: 0)
    lease.take(sweep.leases, "0001", 10.0, None)
    assert work.work(sweep, share=[0, 1]) == 0
    assert [row.state for row in status.rows(sweep)] == [
        "done",
        "running",
        "not started",
        "not started",
    ]


GPUS = {
    "all": (None, ["0", "1", "0"]),
    "those given": ("3,5", ["3", "5", "3"]),
    "none": ("", ["", "", ""]),
}


@pytest.mark.parametrize("case", GPUS)
def test_each_worker_gets_a_gpu_of_its_own(case, sweep, tmp_path, monkeypatch):
    """Of those that the driver lists, or of those that this process was given; in turn where there
    are more workers."""
    given, wanted = GPUS[case]
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 'GPU 0: a'; echo '  MIG 1g.10gb'; echo 'GPU 1: b'\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    found = []
    start = lambda command, env, **more: found.append(env["CUDA_VISIBLE_DEVICES"])
    with monkeypatch.context() as patched:
        gpus = local.visible_gpus()
        patched.setattr(local, "visible_gpus", lambda: gpus)
        patched.setattr(subprocess, "Popen", start)
        for slot in range(3):
            local._start(sweep, slot, "")
    assert found == wanted


@pytest.mark.wide
def test_two_runs_become_one_table_and_one_entry(sweep, handlers):
    assert work.work(sweep, share=[0]) == 0
    shutil.copytree(
        sweep.run(sweep.lines[0]), sweep.run(sweep.lines[2])
    )  # as if another learning rate had changed nothing
    lines = [sweep.lines[0], sweep.lines[2]]
    table = rows(sweep, lines)
    assert len({tuple(row[name] for name in KEY) for row in table}) == len(table)
    js = {row["axis.learning_rate"]: row["value"] for row in table if row["metric"] == "js"}
    assert list(js) == [0.1, 0.01]
    alike = merged(sweep, lines, "methods").methods["sft"].metrics["js"].seeds
    assert alike == list(js.values())[:1]  # one seed, and not two
    at = curves(sweep, lines, "none", "js")["sft"].points
    assert [point.runs for point in at] == [1]
    place = sweep.run(lines[1]) / "results.json"
    whole = schema.read(place)
    moved = dataclasses.replace(whole.methods["sft"].metrics["js"], seeds=[0.5])
    sft = dataclasses.replace(
        whole.methods["sft"], metrics=whole.methods["sft"].metrics | {"js": moved}
    )
    schema.write(place, dataclasses.replace(whole, methods={"sft": sft}))
    methods = merged(sweep, lines, "methods").methods
    assert methods["sft"].metrics["js"].seeds == [js[0.1], 0.5]
    assert set(merged(sweep, lines, "learning_rate").methods) == {"sft @ 0.1", "sft @ 0.01"}
    assert not (sweep.run(sweep.lines[0]) / "report.html").exists()


# --- SLURM ----------------------------------------------------------------------------------------


def test_a_dry_run_shows_the_script_and_writes_nothing(sweep, tmp_path, capsys):
    (tmp_path / "site.yaml").write_text(
        "partition: gpu\naccount: lab\ngpus_per_node: 1\nsetup: module load cuda\n"
    )
    before = sorted(sweep.path.rglob("*"))
    argv = [
        "submit",
        str(sweep.path),
        "--site",
        str(tmp_path / "site.yaml"),
        "--partition",
        "fast",
        "--time",
        "4:00:00",
    ]
    assert (
        commands.main([*argv, "--lines-per-task", "3", "--concurrent", "2", "--dry-run", "True"])
        == 0
    )
    said = capsys.readouterr().out
    for text in (
        "--array=0-1%2",
        "#SBATCH --partition=fast",
        "#SBATCH --account=lab",
        "#SBATCH --gpus-per-node=1",
        "#SBATCH --time=4:00:00",
        "module load cuda",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        "--signal=USR1@120",
    ):
        assert text in said, text
    assert sorted(sweep.path.rglob("*")) == before
    (tmp_path / "site.yaml").write_text("partitions: gpu\n")
    assert commands.main([*argv, "--dry-run", "True"]) == 2
    assert "partitions" in capsys.readouterr().err


def test_submit_queues_only_what_nobody_has(sweep, tmp_path, monkeypatch, capsys):
    """With an sbatch that hands out numbers and an squeue that knows the first task of each
    array."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, does in {
        "sbatch": f'echo "$@" >> {tmp_path}/jobs; wc -l < {tmp_path}/jobs',
        "squeue": "echo 1 0",
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{does}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    sweep.keep_end(sweep.lines[0], "done")
    lease.take(sweep.leases, "0001", 120.0, None)
    assert commands.main(["submit", str(sweep.path)]) == 0
    assert slurm.share(sweep, 1, 0) == [2]
    assert slurm.share(sweep, 1, 1) == [3]
    assert (
        commands.main(["submit", str(sweep.path)]) == 0
    )  # the second task has left the queue: its line is missing again
    assert [one["shares"] for one in slurm.submissions(sweep)] == [[[2], [3]], [[3]]]
    assert json.loads((sweep.path / "slurm" / "0002.json").read_text())["job"] == "2"
    capsys.readouterr()
    assert status.rows(sweep)[2].state == "queued"
