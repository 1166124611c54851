"""What the report is made of: its bounds, colours, words and library. What a browser makes of it is
in test_in_browser."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
import recorded

from experiments.reporting import bundle, charts, framing, report, style, terms
from experiments.reporting.bundle import Library
from experiments.reporting.charts import Drawing, Panel
from experiments.reporting.framing import Curve
from experiments.reporting.metrics import METRICS
from experiments.reporting.pictures import Drawn
from experiments.reporting.scoreboards import SCOREBOARDS
from fdiv.types import Look

LIBRARY = Library("window.vegaEmbed=0;" + " " * 1000)


def written(tmp_path, monkeypatch, drawn=(), library=LIBRARY, **fields) -> str:
    """The page of a small run."""
    monkeypatch.setattr(bundle, "library", lambda cache: library)
    result = recorded.shown(["sft", "gail", "a:b"], "a:b")
    result = dataclasses.replace(result, **fields)
    report.write(tmp_path / "r.html", result, drawn, [], recorded.ENVIRONMENT, {"data": "/x/y.txt"})
    return (tmp_path / "r.html").read_text()


# --- axes -----------------------------------------------------------------------------------------

FRAMES = {  # values of each method, logarithmic -> who leaves the frame
    "alike": ({"a": [5.0, 1.0], "b": [5.0, 1.2], "c": [5.0, 0.9]}, False, []),
    "one far above": ({"a": [5.0, 1.0], "b": [5.0, 1.2], "c": [5.0, 90.0]}, False, ["c"]),
    "one far below": ({"a": [5.0, 1.0], "b": [5.0, 1.2], "c": [5.0, -90.0]}, False, ["c"]),
    "two far": ({"a": [1.0, 2.0], "b": [1.1, 2.0], "c": [900.0], "d": [1e6]}, False, ["c", "d"]),
    "far on a logarithmic axis": ({"a": [5.0, 1.0], "b": [5.0, 1.2], "c": [1e9]}, True, ["c"]),
    "not so far there": ({"a": [5.0, 0.1], "b": [5.0, 0.2], "c": [90.0]}, True, []),
    "of two, five times": ({"a": [1.0, 2.0], "b": [1.0, 6.0]}, False, []),
    "of two, a hundred times": ({"a": [1.0, 2.0], "b": [1.0, 100.0]}, False, ["b"]),
    "the others stand still at 0": ({"a": [0.0, 0.0], "b": [0.0], "c": [0.0, 0.9]}, False, []),
    "two that stopped at once": ({"a": [1.0, 2.0], "b": [1.0], "c": [1.0]}, False, []),
    "two near 0.1, one at 0.7": ({"a": [0.1], "b": [0.11], "c": [0.69]}, False, ["c"]),
    "one alone": ({"a": [1.0, 1e9]}, False, []),
    "not finite": ({"a": [1.0, 2.0], "b": [1.0, np.nan, np.inf]}, False, []),
}


@pytest.mark.parametrize("case", FRAMES)
def test_no_method_takes_an_axis_for_itself(case):
    values, log, beyond = FRAMES[case]
    frame = framing.frame({name: Curve(v, v, v) for name, v in values.items()}, log)
    assert sorted(frame.beyond) == beyond
    for name, own in values.items():
        finite = [x for x in own if np.isfinite(x)]
        if name not in beyond:
            assert frame.low <= min(finite) and max(finite) <= frame.high
        else:
            furthest = own[frame.beyond[name]]
            assert not frame.low <= furthest <= frame.high
            assert frame.edge(furthest) == (frame.high if furthest > frame.high else frame.low)


def test_long_intervals_do_not_take_an_axis_either():
    """Middles span 1, so intervals add at most half of it on either side, and a twentieth more."""
    frame = framing.frame({"a": Curve([1.0, 2.0], [-90.0, 1.9], [1.1, 2.1])}, False)
    assert frame.low == pytest.approx(0.5 - 0.05) and frame.high == pytest.approx(2.1 + 0.05)


# --- looks ----------------------------------------------------------------------------------------

ALIKE = {
    "two greys": [("todi", "v"), ("mine", "v")],
    "one divergence, one look": [("js", "^"), ("js", "^"), ("js", "^")],
    "members of one family": [("alpha:0.2", "^"), ("alpha:0.7", "^")],
    "many": [("js", "^")] * 9 + [(f"own{i}", "^") for i in range(9)],
}


@pytest.mark.parametrize("case", ALIKE)
def test_no_two_methods_of_a_picture_look_alike(case):
    methods = {
        str(i): recorded.method({"js": [0.1]}, minimises=name, look=Look(mark))
        for i, (name, mark) in enumerate(ALIKE[case])
    }
    looks = style.looks(methods)
    assert looks["0"]["marker"] == ALIKE[case][0][1]
    assert len({tuple(map(str, look.values())) for look in looks.values()}) == len(methods)
    assert style.OTHER not in {look["color"] for look in looks.values()}


def test_a_look_of_its_own_stays():
    methods = {n: recorded.method({"js": [0.1]}, minimises=n) for n in ("js", "forward_kl", "tv")}
    assert style.looks(methods) == {name: style.look(m) for name, m in methods.items()}


def test_stars_are_told_apart_and_have_their_methods_colour():
    methods = {"mine": recorded.method({"js": [0.1]}, minimises="mine")}
    stars = style.star_colours(["mine", "js", "alpha:0.2", "alpha:0.7", "odd"], methods)
    assert len(set(stars.values())) == 5
    assert stars["mine"] == style.looks(methods)["mine"]["color"]


@pytest.mark.parametrize("ground", [charts.PAPER, charts.NIGHT])
def test_every_colour_is_seen_on_its_ground(ground):
    for colour in [*style.COLOURS.values(), *style.SPARE, style.OTHER, style.EXPERT]:
        assert charts.contrast(charts.seen_on(colour, ground), ground) >= 3
    # black on white, as WCAG has it: (1 + .05) / (0 + .05)
    assert charts.contrast("#000000", "#ffffff") == pytest.approx(21)


def test_every_mark_of_a_method_has_a_path():
    from fdiv.objectives import METHODS
    from fdiv.penalties import MARKERS

    markers = {method.look.marker for method in METHODS.values()} | set(MARKERS.values())
    assert markers | set(style.MARKERS) <= set(charts.MARKS)


# --- words ----------------------------------------------------------------------------------------


def test_every_title_of_a_table_is_explained():
    for board in SCOREBOARDS.values():
        for name in (*board.columns, *board.curves, *report.CARD):
            assert terms.meaning(board.metric(name).title, name), name
    for word in ("method", "minimises", "status", "IQM", "gap", "valid", "mode B", "start"):
        assert terms.meaning(word), word
    assert "10 in absolute value" in terms.meaning("saturated logits", "d_saturated")
    assert all(terms.meaning(terms.SAME.get(word, word)) for word in terms.IN_SENTENCES)
    assert [name for name, own in METRICS.items() if not terms.meaning(own.title, name)] == []


def test_a_sentence_is_marked_once_and_stays_escaped():
    said = str(terms.marked("IQM <b> and IQM over seeds"))
    assert said.count('class="term"') == 2
    assert "&lt;b&gt; and IQM over" in said


TITLES = {  # benchmark, policy -> the title
    ("two_template", None, "markov"): "Two-template language, Markov policy",
    ("text", "/home/me/rows.jsonl", "hf"): "Text: rows, pretrained language model",
    ("text", "varied", "transformer"): "Text, transformer policy",
    ("my_own", None, "mine_too"): "My own, mine too",
}


@pytest.mark.parametrize("case", TITLES)
def test_titles_are_words(case):
    name, path, policy = case
    own = {"name": name, "vocab": 3} | ({"path": path} if path else {})
    run = recorded.run({}, benchmark=own, policy={"name": policy})
    assert report.title(run) == TITLES[case]


FOLDERS = {
    "what /data/models/hf scores": "what hf scores",
    "--out=/tmp/x/y --a": "--out=y --a",
    "(a: /tmp/one, b: ~/two/three)": "(a: one, b: three)",
    "5 tokens/s and/or runs/compare": "5 tokens/s and/or runs/compare",
    "https://arxiv.org/abs/1": "https://arxiv.org/abs/1",
}


@pytest.mark.parametrize("text", FOLDERS)
def test_folders_of_this_machine_are_left_out(text):
    assert report.without_folders(text) == FOLDERS[text]


def test_no_folder_is_in_the_page(tmp_path, monkeypatch):
    page = written(tmp_path, monkeypatch)
    assert "/home/me" not in page and "/x/y" not in page
    assert "python -m experiments.compare two-template --out x" in page
    assert "The data is rows.jsonl." in page
    assert "{&#39;" not in page and "<h1>Two-template language" in page


# --- the page -------------------------------------------------------------------------------------


def drawn(points: int, svg: str = "<svg></svg>") -> list[Drawn]:
    """A picture of curves with so many points of each of two methods."""
    rows = [
        {"method": name, "update": i, "iqm": i / 7, "end": int(i == points - 1), "beyond": ""}
        for name in ("sft", "gail")
        for i in range(points)
    ]
    panel = Panel("JS </script>", {"params": []}, charts.columns(rows), learning=True)
    return [Drawn("Learning curves", "A caption.", Drawing("learning_curves", svg, [panel]))]


def data(page: str) -> list:
    return json.loads(re.search(r'id="pictures">(.*?)</script>', page, flags=re.S)[1])


def test_a_page_is_small_enough(tmp_path, monkeypatch):
    page = written(tmp_path, monkeypatch, drawn(50))
    assert "<svg></svg>" in page and len(data(page)[0]["panels"][0]["columns"]["iqm"]) == 100
    large = written(tmp_path, monkeypatch, drawn(50, f"<svg>{'x' * 2_000_000}</svg>"))
    assert "xxx" not in large and len(data(large)[0]["panels"][0]["columns"]["iqm"]) == 100
    many = written(tmp_path, monkeypatch, drawn(20_000))
    columns = data(many)[0]["panels"][0]["columns"]
    assert len(many.encode()) < report.LARGEST
    assert columns["update"][-1] == 19_999 and columns["update"].count(0) == 2


def test_nothing_of_the_data_ends_its_element(tmp_path, monkeypatch):
    page = written(tmp_path, monkeypatch, drawn(3))
    assert data(page)[0]["panels"][0]["title"] == "JS </script>"
    assert page.count("<script") == page.count("</script>") == 4


def test_without_the_library_pictures_are_static(tmp_path, monkeypatch):
    page = written(tmp_path, monkeypatch, drawn(3), Library("", "pip install it."))
    assert "Pictures are static: pip install it." in page
    assert "<svg></svg>" in page and 'id="pictures"' not in page and "vegaEmbed=0" not in page
    before = page.partition("<script")[0]
    assert 'class="chart"' not in before and "data-rows" not in before


def test_the_library_is_joined_once_and_kept(tmp_path, monkeypatch):
    joined = []
    monkeypatch.setattr(bundle, "_joined", lambda: joined.append(1) or "x" * bundle.LEAST)
    first, second = bundle.library(tmp_path), bundle.library(tmp_path)
    assert first == second == Library("x" * bundle.LEAST) and len(joined) == 1
    place = next((tmp_path / "report").iterdir())
    place.write_text("cut off")
    assert bundle.library(tmp_path) == first and len(joined) == 2
    monkeypatch.setattr(bundle, "_joined", lambda: "")
    place.unlink()
    assert "did not give" in bundle.library(tmp_path).lacking
    monkeypatch.setattr(bundle, "PACKAGE", "no-such-package-of-fdiv")
    assert "pip install" in bundle.library(tmp_path).lacking
