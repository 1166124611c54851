"""What docs/checkpoint_to_report.md tells a reader to run, as written, on a tiny model: from a
folder to a report and to what its policies write."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pretrained_models import made, rows

from experiments import cli
from experiments.commands import compare, generate, show_data
from fdiv.metrics import MODES

pytestmark = pytest.mark.usefixtures("few_logged")

TEXT = (Path(__file__).parents[2] / "docs" / "checkpoint_to_report.md").read_text()
COMMANDS = re.findall(r"<!-- run -->\n```\npython -m experiments\.(\w+) (.*)\n```", TEXT)
SMALL = [
    *("--policy.without-layers", "1", "--policy.lora.rank", "2", "--benchmark.tokenizer", "bytes"),
    *("--benchmark.prompt-length", "8", "--benchmark.horizon", "4", "--seeds", "1"),
    *("--methods", "distill:js", "--updates", "1", "--batch-size", "2", "--samples", "3"),
]


@pytest.mark.wide
def test_from_a_checkpoint_to_a_report_as_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made(tmp_path / "models" / "smollm2", monkeypatch)
    rows(tmp_path / "rows.jsonl")
    assert [name for name, _ in COMMANDS] == ["show_data", "compare", "generate"]
    shown, compared, written = (words.split() for _, words in COMMANDS)
    shown[shown.index("models/smollm2")] = "bytes"
    assert show_data.main(shown) == 0
    assert cli.run(compare.main, "experiments.compare", [*compared, *SMALL]) == 0
    result = json.loads((tmp_path / "runs/lm/results.json").read_text())
    assert result["complete"] and list(result["methods"]) == ["distill:js"]
    changes = result["methods"]["distill:js"]["changes"]
    assert [change["metric"] for change in changes] == ["js_token", "precision", *MODES]
    page = (tmp_path / "runs/lm/report.html").read_text()
    assert "Since the start" in page and "two standard errors" in page
    capsys.readouterr()
    prompt = written.index("--prompt")
    words = [*written[:prompt], "--prompt", "dedent:", "--max-new-tokens", "3"]
    assert generate.main(words) == 0
    assert capsys.readouterr().out.strip()
