"""The notebooks run from top to bottom, and print what is stored in them; what a run says while it
trains, and what it has drawn, is of the machine and not compared."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from unittest import mock

import matplotlib
import matplotlib.pyplot as plt
import pytest

from experiments.reporting.metrics import METRICS
from experiments.reporting.scoreboards import SCOREBOARDS
from fdiv import divergences, metrics

pytestmark = pytest.mark.usefixtures("few_logged")

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def printed(cell: dict) -> str:
    return "".join("".join(o["text"]) for o in cell["outputs"] if o["output_type"] == "stream")


@pytest.fixture
def tables():
    """What a notebook registers is undone."""
    with contextlib.ExitStack() as undone:
        for table in (divergences.FAMILY, metrics.STATISTICS, METRICS, SCOREBOARDS):
            undone.enter_context(mock.patch.dict(table))
        yield


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.wide
def test_runs_as_written(notebook, tmp_path, monkeypatch, capsys, tables):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    names: dict = {}
    for cell in json.loads(notebook.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "notebook cell", "exec"), names)
            said = capsys.readouterr().out
            if "trained" not in cell["metadata"].get("tags", ()):
                assert said == printed(cell)
    plt.close("all")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs_are_light(notebook):
    assert notebook.stat().st_size < 60_000
