"""The notebook runs from top to bottom, and prints what is stored in it."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest

from fdiv import divergences

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "notebooks" / "first_steps.ipynb"


def printed(cell: dict) -> str:
    return "".join("".join(o["text"]) for o in cell["outputs"] if o["output_type"] == "stream")


@pytest.mark.wide
def test_runs_as_written(monkeypatch, capsys):
    monkeypatch.setattr(divergences, "FAMILY", dict(divergences.FAMILY))
    matplotlib.use("Agg")
    names: dict = {}
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "notebook cell", "exec"), names)
            assert capsys.readouterr().out == printed(cell)
    plt.close("all")


def test_stored_outputs_are_light():
    assert NOTEBOOK.stat().st_size < 60_000
