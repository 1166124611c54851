"""docs/gradient_card.md is what `python -m experiments.check_gradients` says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from experiments.commands import check_gradients
from experiments.gradients import card, cases

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "gradient_card.md"


def table() -> list[list[str]]:
    """The cells of the page's card."""
    between = PAGE.read_text().partition(card.MARKS[0])[2].partition(card.MARKS[1])[0]
    lines = between.strip().splitlines()
    cells = (re.split(r" (?<!\\)\| ?", line.removeprefix("| ")) for line in lines)
    return [
        [cell.replace("\\|", "|").strip() for cell in line[: len(card.COLUMNS)]] for line in cells
    ]


def test_it_has_a_line_for_every_method_and_variant():
    titles, _, *rows = table()
    assert titles == list(card.COLUMNS)
    measured = [case.label for case in cases.cases(check_gradients.methods(()))]
    assert [row[0] for row in rows] == measured


@pytest.mark.wide
def test_its_numbers_are_the_commands():
    names = ("sft", "dpo")
    rows = check_gradients.card(check_gradients.Options(), check_gradients.methods(names))
    said = {row[0]: row[1:] for row in table()}
    assert len(rows) > len(names)
    for label, row in rows.items():
        verdict, cosine, _, _, variance, *_ = said[label]
        assert row["verdict"] == verdict
        assert row["cosine"] == pytest.approx(float(cosine), abs=1e-4)
        assert row["variance"] == pytest.approx(float(variance), rel=1e-2)


def test_a_card_is_written_between_its_marks():
    row = {"verdict": "a|b", "cosine": 1.0, "norm_ratio": 1.0, "relative_error": 0.0}
    rows = {"sft": row | {"variance": 2.0, "discriminator": None}}
    page = card.with_table(f"above\n{card.MARKS[0]}\nold\n{card.MARKS[1]}\nbelow\n", rows)
    line = "| sft | a\\|b | 1.0000 | 1.0000 | 0.0e+00 | 2 |  |  |  |\n"
    assert page.startswith("above\n") and page.endswith(f"{line}{card.MARKS[1]}\nbelow\n")
    assert "old" not in page


def test_a_page_without_marks_is_refused(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("# No card\n")
    assert check_gradients.main(["sft", "--page", str(page), "--out", str(tmp_path)]) == 2
    assert "has no place for a card" in " ".join(capsys.readouterr().err.split())
