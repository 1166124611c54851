"""What docs/extending.md tells a reader to write and to run, as written, only shortened."""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import sys
from pathlib import Path
from unittest import mock

import pytest

from fdiv import divergences
from fdiv.benchmarks import BENCHMARKS
from fdiv.objectives import METHODS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "extending.md").read_text()
FILES = dict(re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```", TEXT, flags=re.S))
COMMANDS = re.findall(r"<!-- run -->\n```\npython -m (.*?)\n```", TEXT)
OURS = re.compile(r"(experiments|configs|imported_\w+)(\.|$)")
SHORT = [
    *("--updates", "6", "--seeds", "2", "--batch-size", "32", "--evaluations", "1"),
    *("--policy.name", "full", "--samples", "8", "--report", "False"),
    *("--benchmark.vocab", "2", "--benchmark.horizon", "3"),
]


@contextlib.contextmanager
def fresh_scripts():
    """The scripts as a new interpreter would load them, and what an imported file adds undone
    afterwards: a config's flags are made once, when its module is loaded."""
    scripts = lambda: {name: sys.modules[name] for name in sys.modules if OURS.match(name)}
    before = scripts()
    for name in before:
        del sys.modules[name]
    try:
        with contextlib.ExitStack() as undone:
            for table in (divergences.FAMILY, BENCHMARKS, METHODS):
                undone.enter_context(mock.patch.dict(table))
            yield
    finally:
        for name in scripts():
            del sys.modules[name]
        sys.modules.update(before)


@pytest.mark.parametrize(
    "command", COMMANDS[::-1], ids=lambda c: c.split("--import ")[1].split()[0]
)
@pytest.mark.few(2)
def test_as_written(command, tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    program, *words = command.split()
    with fresh_scripts():
        cli, script = (importlib.import_module(x) for x in ("experiments.cli", program))
        assert cli.run(script.main, program, [*words, *SHORT]) == 0
    folder = next((tmp_path / "runs").iterdir())
    methods = json.loads((folder / "results.json").read_text())["methods"]
    named = re.search(r"--methods ((?:[\w:.]+ )+)", command + " ").group(1).split()
    assert list(methods) == named
    assert all(m["status"] == "ok" and m["gap"] is not None for m in methods.values())
    if "my_hellinger" in command:  # the same f by another name: the same run
        a, b = (m["metrics"]["js"]["seeds"] for m in methods.values())
        assert a == pytest.approx(b, abs=1e-5)
