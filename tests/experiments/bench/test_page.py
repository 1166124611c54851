"""What is kept of a run, and what the page and the chart make of it."""

import dataclasses
import json

import pytest

from experiments.bench import chart, page, rows
from experiments.bench.rows import Bound, Row, Side, Want

OURS = Side("fdiv", (0.5, 0.4, 0.6), 1000.0, {"precision": "float32"})
PEER = Side("TRL", (1.0, 1.0, 1.5), 1000.0, {"bf16": False}, {"trl": "1.16.0"})
ROW = Row(
    "sft",
    "w64",
    "SFT step",
    "width 64, 2 layers",
    OURS,
    PEER,
    bound=Bound(2e9, 4e8, 1e10, 1e10, 0.2),
    when="26 November 2026",
    command="python -m experiments.bench",
    machine="2 cores",
)
WRITTEN = """# Measured speeds

By hand.

## Updates

More by hand.
"""
ORDER = ("sft", "sampling", "dpo")


def test_the_measures_of_a_row():
    """Medians .5 s and 1 s of 1,000 tokens; ratios 2, 2.5, 2.5; 2 GFLOP in .5 s are 4 of 10
    GFLOP/s."""
    assert ROW.ratios == [2.0, 2.5, 2.5]
    measured = ROW.measures
    assert measured["of peer"] == 2.5
    assert measured["of peer's time"] == pytest.approx(0.4)
    assert measured["tokens/s"] == 2000
    assert measured["of bound"] == measured["of peak"] == pytest.approx(0.4)
    assert measured["peer of bound"] == pytest.approx(0.2)
    assert measured["of bandwidth"] == pytest.approx(0.08)
    assert OURS.spread == pytest.approx(0.4)


def test_ratios_are_of_tokens():
    """A peer whose updates are of twice as many tokens is twice as fast at the same time."""
    twice = dataclasses.replace(ROW, peer=dataclasses.replace(PEER, tokens=2000.0))
    assert twice.ratios == [1.0, 1.25, 1.25]


@pytest.mark.parametrize(
    ("want", "value", "met"),
    [
        (Want("of peer", 2.5), 2.5, True),
        (Want("of peer", 2.5), 2.4, False),
        (Want("seconds", 60, at_most=True), 59, True),
        (Want("seconds", 60, at_most=True), 61, False),
    ],
)
def test_what_is_wanted(want, value, met):
    assert want.met(value) == met


def test_a_number_that_was_not_measured_is_neither_met_nor_missed():
    alone = dataclasses.replace(ROW, peer=None, peer_missing="it is not there")
    assert [verdict for _, verdict in ROW.judged] == ["met"]
    assert [verdict for _, verdict in alone.judged] == [""]
    text = page.block([alone])
    assert "not measured" in text and "no peer, it is not there" in text


def test_every_number_that_is_wanted_has_a_name_that_rows_measure():
    known = {*ROW.measures, "of peer's memory", "js after 5 s"}
    assert {want.what for wants in rows.WANTED.values() for want in wants} <= known


def test_json_keeps_a_row():
    assert rows.from_dict(json.loads(json.dumps(ROW.as_dict()))) == ROW
    failed = dataclasses.replace(ROW, ours=None, peer=None, bound=None, error="it fell")
    assert rows.from_dict(failed.as_dict()) == failed


def test_a_new_row_takes_the_place_of_the_old_one():
    other = dataclasses.replace(ROW, size="w256")
    again = dataclasses.replace(ROW, load=3.0)
    assert rows.replaced([ROW, other], again) == [again, other]
    assert rows.replaced([ROW], other) == [ROW, other]


def test_the_page_keeps_what_is_written_by_hand():
    sampling = dataclasses.replace(ROW, work="sampling", title="Sampling")
    first = page.written(WRITTEN, [sampling], ORDER, None)
    assert first.startswith("# Measured speeds\n\nBy hand.\n\n<!-- bench all -->")
    assert first.endswith("<!-- /bench all -->\n\n## Updates\n\nMore by hand.\n")
    both = page.written(first, [ROW], ORDER, "bench.png")
    assert both.index("### SFT step") < both.index("### Sampling")  # in the order of works
    assert "![ours and the peers](bench.png)" in both
    new = dataclasses.replace(ROW, when="27 November 2026")
    again = page.written(both, [new], ORDER, "bench.png")
    assert again.count("### SFT step") == 1 and "27 November 2026" in again
    assert again.replace("27 November", "26 November") == both
    assert page.written(both, [ROW], ORDER, "bench.png") == both


def test_a_page_is_begun_where_there_is_none(tmp_path):
    page.write(tmp_path / "page.md", [ROW], ORDER, None)
    text = (tmp_path / "page.md").read_text()
    assert text.startswith("# Measured speeds\n\n<!-- bench all -->\n## Beside other codes")


def test_the_block_says_all_that_was_measured():
    text = page.block([ROW])
    for said in (
        "2,000 tokens/s (40%)",
        "1,000 tokens/s (50%)",
        "2.5 (2 to 2.5)",
        "5,000 tokens/s",
        "of peer at least 2.5: 2.5, met",
        "2 GFLOP and 0.4 GB an update; beside it the machine gave 10 GFLOP/s and 10.0 GB/s",
        "Peer TRL (trl 1.16.0): bf16 False.",
        "Ours: precision float32.",
    ):
        assert said in text


def test_a_work_that_failed_says_why_in_its_row():
    text = page.block([dataclasses.replace(ROW, error="ValueError: a | b\nc")])
    assert "failed: ValueError: a \\| b c" in text
    cells = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in cells}) == 1


def test_seconds_are_of_works_without_tokens():
    start = Row("start", "warm", "Start", "warm cache", Side("compare", (7.0, 8.0, 7.5), 0.0))
    assert "| warm cache | 7.5 s (13%) |" in page.block([start])


def test_the_chart_is_of_rows_with_a_peer(tmp_path):
    assert chart.draw(tmp_path / "a.png", [ROW])
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert not chart.draw(tmp_path / "b.png", [dataclasses.replace(ROW, peer=None)])
    assert not (tmp_path / "b.png").exists()
