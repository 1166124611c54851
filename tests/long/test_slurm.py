"""Sweeps on a real SLURM, brought up for the occasion by slurm/local.sh: run by `make
test-slurm`."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pyarrow.parquet
import pytest
from sweeping import SLOW, TINY, finals, planned, queue, states, steps, sweep, wait

LONG = {
    "preset": "two-template",
    "flags": TINY | {"updates": 40, "evaluations": 40},
}  # slowed down: about a second a point


pytestmark = pytest.mark.usefixtures("slurm")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict:
    """The results of the long line, undisturbed."""
    out = planned(tmp_path_factory.mktemp("whole") / "w", LONG, "--import", SLOW)
    sweep("run", out, "--local", 1)
    return finals(out)


def points(out: Path) -> int:
    metrics = out / "runs" / "0000" / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def done_as(whole: dict, out: Path, seconds: float = 500) -> None:
    """A line that was stopped comes to the end of the undisturbed one, no step twice."""
    wait("the line's end", seconds, lambda: states(out)["done"] == 1)
    assert finals(out) == whole
    assert len(steps(out)) == len(set(steps(out)))
    assert "goes on from update" in (out / "logs" / "0000.log").read_text()
    wait("the end of the job", 120, lambda: not queue())


def test_an_array_to_a_report_with_a_failing_line_among_good_ones(tmp_path):
    grid = {
        "preset": "two-template",
        "flags": TINY | {"updates": 20, "evaluations": 1},
        "product": {"seed": [0, 1, 13, 2]},
    }
    out = planned(tmp_path / "a", grid, "--import", SLOW)
    (tmp_path / "broken").touch()
    submit = ("submit", out, "--lines-per-task", 2, "--partition", "main")
    assert "Submitted" in sweep(*submit, BREAK=str(tmp_path / "broken"))
    assert "Nothing to submit" in sweep(*submit)
    wait("the array", 400, lambda: not queue())
    assert states(out) == {"done": 3, "failed": 1}
    assert "seed 13 is broken" in sweep("status", out, COLUMNS="160")
    (tmp_path / "broken").unlink()
    assert "1 failed lines are open again" in sweep("resume", out, "--partition", "main")
    wait("the resumed line", 300, lambda: states(out)["done"] == 4)
    sweep("collect", out)
    table = pyarrow.parquet.read_table(out / "collected.parquet").to_pylist()
    assert {row["axis.seed"] for row in table} == {0, 1, 2, 13}
    assert next(out.glob("report*/report.html")).stat().st_size > 1000
    wait("the end of the job", 120, lambda: not queue())


def test_preempted_by_a_higher_partition_and_requeued(tmp_path, whole):
    out = planned(tmp_path / "p", LONG, "--import", SLOW)
    sweep("submit", out, "--partition", "low", SLOW="1")
    wait("a few points", 300, lambda: points(out) > 5)
    job = [
        "sbatch",
        "--partition=urgent",
        "--nodes=2",
        "--exclusive",
        "--output=/dev/null",
        "--wrap=sleep 5",
    ]
    subprocess.run(job, check=True, capture_output=True)
    wait("the urgent job", 180, lambda: "R" in queue("--partition=urgent", "--format=%t").split())
    assert states(out) == {"queued": 1}
    assert "PENDING" in queue("--partition=low", "--format=%T")
    done_as(whole, out)


def test_stopped_before_its_time_limit_and_resumed(tmp_path, whole):
    """Two minutes are the least with a signal inside them: SLURM may send it a minute early."""
    out = planned(tmp_path / "t", LONG, "--import", SLOW)
    sweep("submit", out, "--partition", "main", "--time", 2, "--signal", 40, SLOW="2.5")
    done_as(whole, out, 500)


def test_cancelled_in_the_middle_and_resumed(tmp_path, whole):
    out = planned(tmp_path / "c", LONG, "--import", SLOW)
    sweep("submit", out, "--partition", "main", SLOW="1")
    wait("a few points", 300, lambda: points(out) > 5)
    sweep("cancel", out)
    wait("the end of the job", 120, lambda: not queue())
    assert states(out) == {"preempted": 1}
    sweep("resume", out, "--partition", "main", SLOW="0")
    done_as(whole, out)


def test_a_line_over_two_nodes_is_the_line_of_one_process(tmp_path):
    """Each line is a step of two processes that jax.distributed joins, half of every batch on
    each."""
    grid = {
        "preset": "two-template",
        "flags": TINY | {"updates": 20, "evaluations": 1, "methods": ["sft", "gail"]},
    }
    one, two = (
        planned(tmp_path / "1", grid),
        planned(tmp_path / "2", grid | {"list": [{"devices.data": -1}]}),
    )
    sweep("run", one, "--local", 1)
    sweep("submit", two, "--partition", "main", "--nodes", 2)
    wait("both nodes", 400, lambda: states(two)["done"] == 1)
    assert "2 x cpu" in (two / "logs" / "0000.log").read_text()
    for method, found in finals(two).items():
        for metric, values in finals(one)[method]["metrics"].items():
            assert found["metrics"][metric]["seeds"] == pytest.approx(values["seeds"], abs=1e-5), (
                method,
                metric,
            )
    wait("the end of the job", 120, lambda: not queue())
