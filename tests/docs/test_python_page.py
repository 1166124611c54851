"""Every block of docs/python.md, as written, beside a small run."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import matplotlib
import pytest
import run_folders
from as_written import SHORT, fresh_scripts

from experiments.config import make_config
from experiments.storage import files
from fdiv.benchmarks import TwoTemplate

pytestmark = pytest.mark.usefixtures("few_logged")

TEXT = (Path(__file__).parents[2] / "docs" / "python.md").read_text()
BLOCKS = re.findall(r"(<!-- .* -->\n)?```python\n(.*?)```", TEXT, flags=re.S)
PLAIN = [code for mark, code in BLOCKS if not mark]


@pytest.mark.wide
def test_as_written(tmp_path, monkeypatch):
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    config = make_config(benchmark=TwoTemplate(vocab=2, horizon=4), methods=("gail", "js"), seeds=2)
    run_folders.made(tmp_path / "runs" / "compare", config)
    names: dict = {}
    for code in PLAIN:
        exec(compile(code, "python.md", "exec"), names)
    assert (tmp_path / "f.png").stat().st_size > 5000
    assert names["best"].value > 0
    assert names["law"].divergence("js") > 0


def test_the_first_number_is_what_is_promised():
    code, promised = re.search(r"(fdiv\.divergence.*?)  # (\S+)\n", TEXT).groups()
    assert f"{eval(code, {'fdiv': __import__('fdiv')}):.4f}" == promised


@pytest.mark.wide
def test_the_metric_is_a_column(tmp_path, monkeypatch):
    name, text = re.search(r"<!-- file: (\S+) -->\n```python\n(.*?)```", TEXT, flags=re.S).groups()
    (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    program, *words = re.search(r"<!-- run -->\n```\npython -m (.*?)\n```", TEXT)[1].split()
    with fresh_scripts():
        cli, script = (importlib.import_module(x) for x in ("experiments.cli", program))
        assert cli.run(script.main, program, [*words, *SHORT]) == 0
    folder = tmp_path / "runs" / "closed"
    assert "ends as it begins" in (folder / "table.md").read_text()
    whole = files.load(folder / "results.json", dict)
    assert 0 < whole["methods"]["js"]["metrics"]["closed"]["iqm"] < 1
    assert json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])["closed"] > 0
