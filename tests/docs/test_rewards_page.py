"""The reward of docs/rewards.md, as written: a policy of bytes learns it."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest
from as_written import fresh_scripts

TEXT = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text()
SHORT = "--policy.name transformer --policy.width 16 --policy.layers 1 --warm-start 60"
SHORT += " --seeds 1 --seed 1 --updates 120 --batch-size 64 --evaluations 1 --samples 64"
SHORT += " --learning-rate 0.005"


@pytest.mark.wide
def test_as_written(tmp_path, monkeypatch):
    name, text = re.search(r"<!-- file: (\S+) -->\n```python\n(.*?)```", TEXT, flags=re.S).groups()
    (tmp_path / name).write_text(text)
    sets = ("aeiou", "aeb", "cde")
    rows = [
        {"prompt": f"{a}{b}{of}: ", "completion": f"{a}c{b}d", "letters": sets[of]}
        for a in "abcdefgh"
        for b in "abcdefgh"
        for of in range(3)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    program, *words = re.search(r"<!-- run -->\n```\npython -m (.*?)\n```", TEXT)[1].split()
    with fresh_scripts():
        cli, script = (importlib.import_module(x) for x in ("experiments.cli", program))
        assert cli.run(script.main, program, [*words, *SHORT.split(), "--report", "False"]) == 0
    folder = tmp_path / "runs" / "asked_for"
    whole = json.loads((folder / "results.json").read_text())
    learned = whole["methods"]["grpo"]["metrics"]["reward"]["iqm"]
    assert learned > whole["start"]["reward"] + 0.15
    assert "| method | minimises | reward |" in (folder / "table.md").read_text()
