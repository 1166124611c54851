"""What docs/extending.md tells a reader to write and to run, as written, only shortened."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "extending.md").read_text()
FILES = dict(re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```", TEXT, flags=re.S))
COMMANDS = re.findall(r"<!-- run -->\n```\npython -m (.*?)\n```", TEXT)
SHORT = [
    *("--updates", "6", "--seeds", "2", "--batch-size", "32", "--evaluations", "1"),
    *("--optimum-starts", "1", "--samples", "8", "--report", "False"),
    *("--benchmark.vocab", "2", "--benchmark.horizon", "3"),
]


def test_every_file_has_a_command():
    assert FILES
    for name in FILES:
        assert any(f"--import {name}" in command for command in COMMANDS), name


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.split("--import ")[1].split()[0])
def test_as_written(command, tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", *command.split(), *SHORT],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    folder = next((tmp_path / "runs").iterdir())
    methods = json.loads((folder / "results.json").read_text())["methods"]
    named = re.search(r"--methods ((?:[\w:.]+ )+)", command + " ").group(1).split()
    assert list(methods) == named
    assert all(m["status"] == "ok" and m["gap"] is not None for m in methods.values())
    if "my_hellinger" in command:  # the same f by another name: the same run
        a, b = (m["metrics"]["js"]["seeds"] for m in methods.values())
        assert a == pytest.approx(b, abs=1e-5)
