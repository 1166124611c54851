"""Every cell of the table in docs/data_layouts.md: what a layout's rows become, and which methods
can learn from them."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from experiments.data import files, reading
from fdiv.benchmarks.text import Text
from fdiv.benchmarks.text_rows import Row

PAGE = Path(__file__).parents[3] / "docs" / "data_layouts.md"
HEADER = "| layout | a row |"
COPIES = 40  # rows of a file, in which the number 7 of the page counts


def table() -> dict[str, list[str]]:
    """Layout -> its other cells."""
    lines = PAGE.read_text(encoding="utf-8").split(HEADER)[1].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {row[0]: row[1:] for row in rows}


TABLE = table()


def quoted(cell: str) -> list[str]:
    """What a cell has in backticks, line feeds read."""
    return [text.replace("\\n", "\n") for text in re.findall(r"`([^`]*)`", cell)]


def fields(layout: str) -> dict:
    """The flags that a layout's name holds."""
    words = shlex.split(" ".join(quoted(layout)))
    named: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--benchmark."):
            named[word.removeprefix("--benchmark.").replace("-", "_")] = values = []
        else:
            values.append(word)
    return {k: tuple(v) if k == "prompt_field" else v[0] for k, v in named.items()}


def read(path: Path, records: list, layout: str) -> tuple[files.Reading, Text]:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    config = Text(path=path, **fields(layout))
    return files.read(config), config


def record_of(layout: str, number: int = 7) -> dict:
    written = TABLE[layout][0].strip("`")
    return json.loads(written.replace("7", str(number)))


def test_the_page_has_its_table():
    assert len(TABLE) >= 20
    assert all(len(cells) == 5 for cells in TABLE.values())


@pytest.mark.parametrize("layout", TABLE)
def test_what_is_trained_on(layout, tmp_path):
    _, prompts, sft, dpo, kto = TABLE[layout]
    made, _ = read(tmp_path / "rows.jsonl", [record_of(layout)], layout)
    assert made.bad == []
    assert [row.prompt.decode() for row in made.rows] == (quoted(prompts) or [""])
    shown = [row.completion.decode() for row in made.rows if row.liked is not False]
    assert shown == quoted(sft)
    assert (sft == "nothing") == (not shown)
    assert compared(made.rows) == ([] if dpo == "refused" else quoted(dpo))
    assert judged(made.rows) == ("" if kto == "refused" else kto)


def compared(rows: list[Row]) -> list[str]:
    return [x.decode() for row in rows if row.rejected for x in (row.completion, row.rejected)]


def judged(rows: list[Row]) -> str:
    """The cell of `kto`."""
    words = {True: "liked", False: "not liked"}
    said = [f"`{r.completion.decode()}` {words[r.liked]}" for r in rows if r.liked is not None]
    for row in rows:
        if row.rejected is not None:
            said.append(f"`{row.completion.decode()}` liked, `{row.rejected.decode()}` not liked")
    return ", ".join(said)


@pytest.mark.parametrize("layout", TABLE)
def test_which_methods_find_something_to_learn_from(layout, tmp_path):
    """A file of such rows, labels of both kinds where there are labels."""
    records = [record_of(layout, number) for number in range(COPIES)]
    label = fields(layout).get("label_field", "label")
    for number, record in enumerate(records):
        if label in record:
            record[label] = bool(number % 2)
    made, config = read(tmp_path / "rows.jsonl", records, layout)
    reading.build(made, config)
    for reads, cell in zip(("pairs", "labels"), TABLE[layout][3:]):
        reason = reading.lacking(made, config, reads)
        assert (reason is not None) == (cell == "refused"), (reads, reason)
