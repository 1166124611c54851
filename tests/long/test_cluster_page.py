"""What docs/cluster.md tells a user to write and to run, as written: only shortened."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
from sweeping import ROOT, queue, wait

TEXT = (ROOT / "docs" / "cluster.md").read_text()
FILES = dict(re.findall(r"<!-- file: (\S+) -->\n```yaml\n(.*?)```", TEXT, flags=re.S))
COMMANDS = re.findall(r"<!-- run -->\n```\npython (-m .*?)\n```", TEXT)
SHORT = {
    "benchmark.horizon": "3",
    "optimum_starts": "1",
    "evaluations": "2",
    "seeds": "2",
    "batch_size": "32",
}


def test_from_a_laptop_to_a_sweep_in_five_commands(slurm, tmp_path):
    assert len(COMMANDS) == 5 + (len(FILES) - 2)
    for name, text in FILES.items():
        short = "flags: {" + "".join(f"{flag}: {value}, " for flag, value in SHORT.items())
        (tmp_path / name).write_text(text.replace("flags: {", short))
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    for command in COMMANDS:
        flags = [
            word for flag, value in SHORT.items() for word in (f"--{flag.replace('_', '-')}", value)
        ]
        words = command.split() + (flags if "compare" in command else [])
        done = subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}"
        if "submit" in command:
            wait("the array", 600, lambda: not queue())
        if "status" in command:
            assert done.stdout.startswith("7 done")
    assert (tmp_path / "runs" / "laptop" / "report.html").exists()
    folder = tmp_path / "runs" / "sweep"
    table = pyarrow.parquet.read_table(folder / "collected.parquet").to_pylist()
    assert {row["line"] for row in table} == set(range(7))
    assert Path(folder / "report-learning_rate" / "report.html").exists()
