"""What docs/extending.md tells a reader to write and to run, as written, only shortened."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest
from as_written import SHORT, fresh_scripts

pytestmark = pytest.mark.usefixtures("few_logged")

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "extending.md").read_text()
FILES = dict(re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```", TEXT, flags=re.S))
COMMANDS = re.findall(r"<!-- run -->\n```\npython -m (.*?)\n```", TEXT)


@pytest.mark.parametrize(
    "command", COMMANDS[::-1], ids=lambda c: c.split("--import ")[1].split()[0]
)
@pytest.mark.wide
def test_as_written(command, tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    program, *words = command.split()
    with fresh_scripts():
        cli, script = (importlib.import_module(x) for x in ("experiments.cli", program))
        made_of = "benchmark.base." if "rlhf" in words else "benchmark."
        short = [word.replace("benchmark.", made_of) for word in SHORT]
        assert cli.run(script.main, program, [*words, *short]) == 0
    folder = next((tmp_path / "runs").iterdir())
    methods = json.loads((folder / "results.json").read_text())["methods"]
    named = re.search(r"--methods ((?:[\w:.]+ )+)", command + " ").group(1).split()
    assert list(methods) == named
    assert all(m["status"] == "ok" and m["gap"] is not None for m in methods.values())
    if "my_hellinger" in command:  # the same f by another name: the same run
        a, b = (m["metrics"]["js"]["seeds"] for m in methods.values())
        assert a == pytest.approx(b, abs=1e-5)
