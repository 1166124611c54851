"""Two processes read a text file in shares, train the teacher in step, and end as one process does."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
from test_meshes import ROOT, environment

ROWS = 201
RUN = [
    "text", "--import", str(Path(__file__).parent / "counted.py"), "--benchmark.prompt-length", "8", "--benchmark.horizon", "6",
    "--benchmark.validation", "0.2", "--benchmark.teacher-updates", "20", "--benchmark.teacher-width", "16",
    "--benchmark.teacher-layers", "1", "--policy.layers", "1", "--policy.width", "16", "--policy.heads", "2",
    "--policy.kv-heads", "2", "--methods", "sft", "--seeds", "1", "--updates", "8", "--warm-start", "0", "--batch-size", "16",
    "--samples", "16", "--evaluations", "2", "--temperatures", "1.0", "--report", "False", "--devices.data", "-1",
]  # fmt: skip


def run(folder: Path, rows: Path, *flags: str, devices: int) -> subprocess.Popen:
    """A run under way, with a cache of its own: its teacher is trained anew."""
    words = [*RUN, "--benchmark.path", str(rows), "--cache", str(folder / "cache"), "--out", str(folder / "run"), *flags]
    own = environment(devices) | {"COUNTED": str(folder / "counted")}
    return subprocess.Popen(
        ["timeout", "-s", "KILL", "300", sys.executable, "-m", "experiments.compare", *words],
        cwd=ROOT, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def together(folder: Path, rows: Path) -> list[tuple[int, str]]:
    """(exit code, what it said) of each of two processes, joined by flags."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ["--devices.coordinator", f"127.0.0.1:{port}", "--devices.processes", "2", "--devices.process"]
    started = [run(folder, rows, *flags, str(index), devices=1) for index in range(2)]
    said = [process.communicate()[0] for process in started]
    return [(process.returncode, text) for process, text in zip(started, said)]


def teacher(cache: Path) -> list[np.ndarray]:
    """What is kept of the one teacher in a cache."""
    (arrays,) = cache.glob("teachers/*/*/arrays")
    return ocp.StandardCheckpointer().restore(arrays)


def test_two_processes_give_what_one_gives(tmp_path):
    rows = tmp_path / "rows.jsonl"
    lines = [json.dumps({"prompt": f"{i}?", "completion": f"é{i}!"}) for i in range(ROWS)]
    rows.write_text("\n".join([*lines[:-1], "{broken", lines[-1]]))
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    alone = run(one, rows, devices=1)
    both = together(two, rows)
    said = alone.communicate()[0]
    assert alone.returncode == 0, said[-2000:]
    assert [code for code, _ in both] == [0, 0], both[0][1][-2000:] + both[1][1][-2000:]
    assert "a mesh of data 2" in both[0][1]

    bad = [json.loads((folder / "run" / "bad_rows.json").read_text()) for folder in (one, two)]
    assert bad[0] == bad[1]
    assert [row["row"] for row in bad[0]] == [ROWS]
    wanted, found = (json.loads((folder / "run" / "results.json").read_text())["methods"]["sft"] for folder in (one, two))
    assert wanted["metrics"].keys() == found["metrics"].keys()
    for name, values in wanted["metrics"].items():
        np.testing.assert_allclose(found["metrics"][name]["seeds"], values["seeds"], rtol=1e-5, atol=1e-5, err_msg=name)

    for mine, other in zip(*(teacher(folder / "cache") for folder in (one, two)), strict=True):
        np.testing.assert_allclose(other, mine, rtol=1e-5, atol=1e-5)

    counted = lambda folder, index: int((folder / f"counted.{index}").read_text())
    assert counted(one, 0) == ROWS + 2  # every line, and the first once more for the columns
    shares = [counted(two, index) for index in range(2)]
    assert sum(shares) == ROWS + 3
    assert max(shares) < 0.6 * ROWS


def test_both_processes_refuse_what_one_refuses(tmp_path):
    """Only the second share holds what cannot be read; the first does not wait for it."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"better": "a", "worse": "b"}\n' * 9)
    for code, said in together(tmp_path, rows):
        assert code == 2
        assert "none of the usual columns" in said
