"""Every sentence of a report and of a table is true of the run that it is said of."""

from __future__ import annotations

import csv
import dataclasses
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import recorded

from experiments.reporting import modes, report, results, scoreboards, tables, wording
from experiments.reporting.pictures import pictures
from experiments.reporting.schema import VARIED, Change, Gap, HistoryLine, MethodResult, RunResult
from fdiv.types import Look

TEXT = {"name": "text", "path": "rows.jsonl", "divergence": "reverse_kl"}
TWO = {"name": "two_template"}
REWARDED = {"name": "rewarded", "divergence": "reverse_kl"}
ARITHMETIC = {"name": "arithmetic", "divergence": "reverse_kl"}
SOLID, DASHED = Look("s", "-", "likelihood"), Look("^", "--", "discriminator")


def method(look: Look = SOLID, level: str = "sequence", **scores: list[float]) -> MethodResult:
    minimised = "js" if look == DASHED else "forward_kl"
    return recorded.method(scores, minimises=minimised, level=level, look=look, tokens=100.0)


def gap(*values: float) -> Gap:
    of = vars(results.summary(list(values)))
    return Gap(**of, ended_in=[0] * len(values), local_optima=[0.1])


def run(kind, benchmark, methods, **fields) -> RunResult:
    sizes = {"seeds": 3, "updates": 10, "batch_size": 8}
    return recorded.run(methods, **{"kind": kind, "benchmark": benchmark} | sizes | fields)


NEAR, FAR = gap(0.0001, 0.0002, 0.0001), gap(33.7, 33.8, 33.6)
EXACT = {
    "a": dataclasses.replace(
        method(js=[0.1, 0.11, 0.1], valid=[0.7, 0.71, 0.7], entropy=[2.0, 2.1, 2.0]), gap=NEAR
    ),
    "b": dataclasses.replace(
        method(DASHED, js=[0.6, 0.61, 0.6], valid=[0.95, 0.94, 0.95], entropy=[1.0, 1.1, 1.0]),
        gap=FAR,
    ),
}
OWN = {
    "sft": method(validation_nll=[2.0, 2.01, 2.02], entropy=[30.0, 31.0, 32.0]),
    "dpo": method(level="return", validation_nll=[2.5, 2.51, 2.52], margin_accuracy=[0.6] * 3),
}
RETURN = {
    "rloo": method(level="return", regret=[0.1, 0.11, 0.1], reward=[0.99, 0.98, 0.99]),
    "sft": method(regret=[0.3, 0.31, 0.3], reward=[0.5, 0.51, 0.5]),
}
CHECKED = {
    "grpo": method(level="return", greedy_accuracy=[0.9, 0.91, 0.92], penalty=[1.0, 1.2, 1.1]),
    "ppo": method(level="return", greedy_accuracy=[0.89, 0.92, 0.9]),
}
ONE = {
    name: dataclasses.replace(
        m, metrics={k: results.summary(x.seeds[:1]) for k, x in m.metrics.items()}, gap=None
    )
    for name, m in OWN.items()
}
TEMPERED = {"temperatures": [{"temperature": 1.0, "entropy": 2.0, "valid": 0.7}]}


class Said(NamedTuple):
    """A run, patterns that its texts hold, and patterns that would be false of it."""

    run: RunResult
    true: tuple[str, ...]
    false: tuple[str, ...]


CASES = {
    "exact": Said(
        run(
            "exact",
            TWO,
            EXACT,
            expert={"js": 0.0, "valid": 0.88, "entropy": 2.5},
            start={"js": 0.3, "valid": 0.2},
            class_optimum={"js": {"valid": 0.8, "entropy": 2.6, "js": 0.09}},
        ),
        (
            *("Rows in order of JS", "new rows at every update", "stars the best policy"),
            *("Row expert: what the law that demonstrations come from", "Row start"),
            *("Colour is the divergence minimised", "solid: likelihood; dashed: discriminator"),
            *("The gap is floored", "Bold: the best", "3 of 3 away", "within 0.005", "IQM over 3"),
            "The fine dotted line is the expert's own value",
        ),
        ("grey line", "Tokens learned from differ", "optimum of the regularised", "teacher", "±"),
    ),
    "exact, SFT at temperatures": Said(
        run("exact", TWO, EXACT | {"sft": dataclasses.replace(EXACT["a"], **TEMPERED)}),
        ("The grey line is the SFT policy",),
        ("stars the best", "Row expert", "Row start", "fine dotted line"),
    ),
    "exact, unequal tokens": Said(
        run("exact", TWO, EXACT | {"b": dataclasses.replace(EXACT["b"], tokens=250.0)}),
        ("Tokens learned from differ: 100 for a, 250 for b",),
        ("same budget", "budget"),
    ),
    "exact, fixed rows and trials": Said(
        run("exact", TWO, EXACT, demos=40, trials=3),
        ("40 rows for each seed", "the best of 3 learning rates"),
        ("new rows", "fresh", "none was searched"),
    ),
    "exact, colours shared": Said(
        run("exact", TWO, EXACT | {"c": dataclasses.replace(EXACT["a"], minimises="mine")}),
        ("Each method has the colour, line and mark of the legend",),
        ("Colour is the divergence minimised",),
    ),
    "return": Said(
        run("return", REWARDED, RETURN, expert={"reward": 0.9, "regret": 0.0}),
        (
            *("Rows in order of regret", "Row optimum: what the optimum of the regularised"),
            "Each method has the colour, line",
        ),
        ("The gap is floored", "Row expert", "Colour is the divergence", "grey line", "estimated"),
    ),
    "verified": Said(
        run("verified", ARITHMETIC, CHECKED, start={"greedy_accuracy": 0.6}),
        (
            *("Rows in order of greedy accuracy", "held-out problems, of which each seed draws"),
            *("error of sampling together", "nobody knows here", "from the last batch"),
        ),
        ("expert: what", "exact, by enumerating", "grey line", "The gap", "stars"),
    ),
    "own data": Said(
        run("sampled", TEXT, OWN, start={"validation_nll": 5.0}),
        (
            *("training rows drawn again at every update", "estimated from samples"),
            *("Rows in order of validation NLL", "Row start"),
        ),
        ("fresh", "demonstrations", "Row expert", "Row teacher", "expert's law", "grey line"),
    ),
    "own data, a teacher": Said(
        run(
            "sampled",
            TEXT,
            OWN | {"gkd": method(js_token=[0.1, 0.11, 0.12], validation_nll=[2.2] * 3)},
            demos=300,
            expert={"entropy": 28.0, "entropy_stderr": 0.5, "validation_nll": 1.9},
        ),
        (
            *("Row teacher: what a larger model trained on the same", "law of the teacher"),
            "300 training rows, drawn once, for each seed",
        ),
        ("Row expert", "the expert", "every update", "optimum"),
    ),
    "own data, one seed": Said(
        run("sampled", TEXT, ONE, seeds=1),
        ("Values of one seed", "there is no interval", "standard error of sampling alone"),
        ("IQM", r"95% interval\]", "Bold", r"\[\d", "dots are seeds"),
    ),
    "two seeds": Said(
        run("exact", TWO, EXACT, seeds=2),
        ("Two seeds: the intervals rest on a single difference",),
        ("One seed",),
    ),
    "a task with a reward, not enumerated": Said(
        run("sampled", REWARDED, RETURN, expert={"reward": 0.9}),
        ("Row optimum", "estimated from samples", "new rows"),
        ("Row expert", "teacher", "exact, by"),
    ),
    "merged": Said(
        run("exact", TWO, {"a @ 1": EXACT["a"], "a @ 2": EXACT["b"]}, demos=VARIED, updates=VARIED),
        ("updates or batches that vary", "numbers of rows that vary"),
        ("The same start", "varied", "learning rates are those"),
    ),
}


def said(result: RunResult) -> str:
    """Every sentence of the report's text, table and captions."""
    history: list[HistoryLine] = [
        {"method": name, "seed": i, "update": 1, "tokens": 1, "own": 0.5}
        | {metric: x.seeds[i] for metric, x in m.metrics.items()}
        for name, m in result.methods.items()
        for i in range(len(next(iter(m.metrics.values())).seeds))
    ]
    best = {
        name: dataclasses.replace(m, best=0.1 if m.gap else None)
        for name, m in result.methods.items()
    }
    result = dataclasses.replace(result, methods=best)
    captions = [picture.caption for picture in pictures(result, history) if _drawn(picture.heading)]
    return "\n".join([*wording.lead(result), tables.markdown(tables.ranking(result)), *captions])


def _drawn(heading: str) -> bool:
    """Pictures of every kind of run; the two others need a frontier or a learned reward."""
    return heading == "Learning curves" or "iversity" in heading


@pytest.mark.parametrize("name", CASES)
def test_each_kind_of_run_is_told_what_is_true_of_it(name):
    case = CASES[name]
    text = said(case.run)
    assert [pattern for pattern in case.true if not re.search(pattern, text)] == [], text
    assert [pattern for pattern in case.false if re.search(pattern, text)] == [], text


def test_a_report_of_own_data_calls_its_expert_a_teacher(tmp_path: Path):
    whole = CASES["own data, a teacher"].run
    samples = [
        {"method": who, "seed": 0, "index": 0, "prompt": "p", "completion": f"{who} wrote"}
        for who in ("data", "expert", "sft")
    ]
    surroundings = {"command": "x", "commit": "", "python": "3", "packages": {}, "devices": []}
    report.write(tmp_path / "r.html", whole, [], samples, surroundings | {"cores": 2}, {})
    html = (tmp_path / "r.html").read_text()
    assert '<th scope="row">teacher</th><td>expert wrote</td>' in html
    assert '<th scope="row">expert</th>' not in html


@pytest.mark.parametrize("kind", scoreboards.SCOREBOARDS)
def test_rows_are_ordered_by_a_column_that_is_shown(kind):
    board = scoreboards.SCOREBOARDS[kind]
    assert board.rank_by in board.columns


STATUS = {
    "ok": dataclasses.replace(EXACT["a"]),
    "3 of 3 away": EXACT["b"],
    "alarm": dataclasses.replace(EXACT["a"], alarms=["It has collapsed."]),
    "diverged": dataclasses.replace(EXACT["b"], status="diverged"),
}


@pytest.mark.parametrize("status", STATUS)
def test_a_method_is_ok_only_where_nothing_speaks_against_it(status):
    assert wording.status(STATUS[status]) == status


BOLD = {  # two methods' seeds, the expert's own value -> whose is bold in `valid`
    "apart": ([0.7, 0.71, 0.7], [0.5, 0.51, 0.5], 0.88, "a"),
    "apart, seed by seed": ([0.7, 0.5, 0.3], [0.69, 0.489, 0.29], 0.88, "a"),
    "within the error": ([0.7, 0.72, 0.68], [0.69, 0.73, 0.66], 0.88, None),
    "the same to what is shown": ([0.70001] * 3, [0.70002] * 3, 0.88, None),
    "above the expert": ([0.95, 0.951, 0.95], [0.5, 0.51, 0.5], 0.88, None),
    "one seed": ([0.7], [0.5], 0.88, None),
}


@pytest.mark.parametrize("name", BOLD)
def test_only_a_winner_is_bold(name):
    a, b, expert, winner = BOLD[name]
    methods = {"a": method(js=a, valid=a), "b": method(js=b, valid=b)}
    whole = run("exact", TWO, methods, expert={"valid": expert}, seeds=len(a))
    table = tables.ranking(whole)
    column = table.titles.index("valid")
    assert [row[0].text for row in table.rows if row[column].best] == ([winner] if winner else [])


DIGITS = {  # seeds, an estimate's standard error, estimated -> the cell
    "exact": ([0.12345, 0.12355, 0.12346], None, False, r"0.1235 \[0.1233, 0.1236\]"),
    "estimated": ([0.40, 0.55, 0.61], None, True, r"0.5 \[0.3, 0.8\]"),  # half-width .26
    "estimated, sharp": ([0.501, 0.503, 0.502], None, True, r"0.502 \[0.500, 0.504\]"),
    "large": ([30.0, 41.0, 52.0], None, True, r"41 \[14, 68\]"),  # 4.303 x 11 / sqrt(3) = 27.3
    "one seed": ([0.5123], 0.02, True, "0.51 ± 0.020"),
    "one seed, its error unknown": ([0.5123], None, True, "0.51"),
    "one seed, exact": ([0.5123], None, False, "0.5123"),
}


@pytest.mark.parametrize("name", DIGITS)
def test_digits_are_those_that_the_error_supports(name):
    seeds, error, estimated, cell = DIGITS[name]
    scores = dataclasses.replace(results.summary(seeds), stderr=[error] if error else None)
    assert re.fullmatch(cell, tables.interval(scores, estimated))


# --- what became of the start ---------------------------------------------------------------------

CHANGES = {  # what a method minimises moved, its group -> what is said of it
    "fell": (-0.2, "distill", ["lower by 0.200 (two standard errors: 0.100)."], ["does not end"]),
    "within its error": (
        -0.05,
        "distill",
        ["lower by only 0.050", "does not end below its start", "within the error of sampling"],
        [],
    ),
    "rose": (0.3, "distill", ["higher by 0.300", "does not end below"], []),
    "of rows": (0.0, "adversarial", ["does not end below", "whose law is not the teacher's"], []),
}


@pytest.mark.parametrize("name", CHANGES)
def test_whether_a_method_ended_below_its_start(name):
    moved, group, said, unsaid = CHANGES[name]
    own = [Change("js_token", 0.5, 0.5 + moved, 0.05)]
    m = dataclasses.replace(method(DASHED, level="token"), group=group, changes=own)
    text = wording.since_start(run("sampled", TEXT, {"a": m}))["a"]
    assert all(part in text for part in said)
    assert not any(part in text for part in unsaid)


SOUGHT = [((0.9, 0.1), "seeks"), ((0.1, 0.9), "covers"), ((0.4, 0.5), "neither")]


@pytest.mark.parametrize(("gains", "kind"), SOUGHT)
def test_what_a_method_of_an_older_run_sought(gains, kind):
    """Errors of .1 each: twice the hypotenuse is .28."""
    both = [Change(n, -3.0, -3.0 + x, 0.1) for n, x in zip(("precision", "recall"), gains)]
    m = dataclasses.replace(method(DASHED), changes=both)
    assert kind in wording.since_start(run("sampled", TEXT, {"a": m}))["a"]


def sought(precision: float, recall: float, error: float = 0.06) -> MethodResult:
    """A method that gained so much of both; `error` is of their difference."""
    start = {"entropy_token_expert": 4.0, "off_support": 0.1, "dropped_support": 0.02}
    changes = [Change(name, x, x / 2, 0.01) for name, x in start.items()]
    changes.append(Change("precision_token_expert", -5.0, -5.0 + precision, 0.5))
    changes.append(Change("recall", -4.0, -4.0 + recall, 0.5))
    changes.append(Change("seeking", -1.0, -1.0 + precision - recall, error))
    return dataclasses.replace(method(DASHED), changes=changes)


@pytest.mark.parametrize(("gains", "kind"), SOUGHT)
def test_what_a_method_sought(gains, kind):
    """By the error of the difference alone, string by string: that of each is of no matter."""
    text = wording.since_start(run("sampled", TEXT, {"a": sought(*gains)}))["a"]
    ahead = gains[0] - gains[1]
    assert kind in text and f"{ahead:+.3f} ± 0.120 apart" in text
    assert f"precision less recall goes -1.00 → {ahead - 1:+.2f} (0 is the teacher" in text
    assert "10.0% → 5.0%" in text and "2.0% → 1.0%" in text


def test_methods_stand_from_covering_to_seeking():
    """b and c are .1 apart, two errors of the difference .17."""
    methods = {"b": sought(0.5, 0.1), "a": sought(0.1, 0.3), "c": sought(0.5, 0.0)}
    text = wording.from_covering_to_seeking(run("sampled", TEXT, methods))
    assert "a (-0.200), b (+0.400), c (+0.500)" in text and text.endswith("errors: b and c.")
    far = methods | {"c": sought(0.9, 0.0)}
    assert wording.from_covering_to_seeking(run("sampled", TEXT, far)).endswith("them told apart.")
    assert wording.from_covering_to_seeking(run("sampled", TEXT, {"a": methods["a"]})) == ""


def test_the_picture_of_modes_has_gains_and_errors(tmp_path: Path):
    """And what the teacher has more than the start; nothing of a run that did not measure them."""
    at = {"recall": -4.0, "precision_token_expert": -5.0}
    teacher = dict.fromkeys(at, -3.0)
    methods = {"a": sought(1.5, 0.6), "b": method()}
    whole = run("sampled", TEXT, methods, start=at, expert=teacher)
    drawn = modes.picture(whole, tmp_path)
    rows = list(csv.DictReader((tmp_path / "modes.csv").open()))
    numbers = {row["what"]: [float(row[x]) for x in modes.AXES.values()] for row in rows}
    assert numbers["IQM"] == pytest.approx([0.6, 1.5])
    assert numbers["teacher"] == pytest.approx([1.0, 2.0]) and numbers["start"] == [0.0, 0.0]
    own = next(row for row in rows if row["what"] == "IQM")
    assert float(own["recall_gained_high"]) == pytest.approx(1.6)  # .6 + 2 x .5
    assert drawn.panels and drawn.keys[0].label == "as much of both"
    assert modes.caption(whole).endswith("The teacher itself is at (1.00, 2.00).")
    assert modes.picture(run("sampled", TEXT, {"b": method()}), tmp_path) is None
    # far from a teacher the methods keep the room
    modes.picture(dataclasses.replace(whole, methods={"a": sought(0.5, 0.1)}), tmp_path)
    assert "teacher" not in (tmp_path / "modes.csv").read_text()


def test_answers_stand_side_by_side(tmp_path: Path):
    """The easiest to read first; a prompt that comes again after the others."""
    line = lambda who, i, prompt, **more: {
        **{"method": who, "seed": 0, "index": i, "prompt": prompt, "completion": f"{who} {i}"},
        **more,
    }
    both = {"at_temperature_0.7": "cooler", "likeliest": "sure"}
    samples = [line("data", i, prompt) for i, prompt in enumerate("aab")]
    samples += [line("sft", i, prompt, **both) for i, prompt in enumerate("aab")]
    surroundings = {"command": "x", "commit": "", "python": "3", "packages": {}, "devices": []}
    whole = CASES["own data, a teacher"].run
    report.write(tmp_path / "r.html", whole, [], samples, surroundings | {"cores": 2}, {})
    html = (tmp_path / "r.html").read_text()
    assert html.index("sft 0") < html.index("sft 2") < html.index("sft 1")
    assert "<td>sure</td><td>cooler</td><td>sft 0</td>" in html
    assert '<td colspan="3">data 0</td>' in html
    assert html.index(">the likeliest token") < html.index(">drawn at temperature 0.7<")


def test_the_error_of_what_moved():
    """Of sampling: sqrt(4 x .3^2) / 2 = .3; of two seeds that moved by .1 and 1.1: .5. The larger
    counts."""
    side = lambda *x: {"js_token": np.array(x), "js_token_stderr": np.array([0.3, 0.3])}
    alike = results.changes("js", side(1.0, 1.0), side(1.1, 1.1))[0]
    apart = results.changes("js", side(1.0, 1.0), side(1.1, 2.1))[0]
    assert (alike.stderr, apart.stderr) == (pytest.approx(0.3), pytest.approx(0.5))
    assert apart.moved == pytest.approx(0.6) and not apart.clear
    # where strings were compared one by one: sqrt(2 x .1^2) / 2
    paired = side(1.1, 1.1) | {"js_token_since_stderr": np.array([0.1, 0.1])}
    together = results.changes("js", side(1.0, 1.0), paired)[0]
    assert together.stderr == pytest.approx(0.1 / 2**0.5) and not together.clear


TAKEAWAYS = {  # js of each method's seeds -> what is said of the best
    "apart": ({"a": [0.1, 0.11, 0.1], "b": [0.5, 0.51, 0.5]}, "a (0.1033), by more than the error"),
    "tied": ({"a": [0.1, 0.3, 0.2], "b": [0.2, 0.2, 0.25]}, "do not tell from"),
    "one seed": ({"a": [0.1], "b": [0.2]}, "of one seed"),
    "alone": ({"a": [0.1, 0.2]}, "All methods are finite to the end."),
}


@pytest.mark.parametrize("case", TAKEAWAYS)
def test_the_takeaway_follows_from_the_numbers(case):
    scores, says = TAKEAWAYS[case]
    methods = {name: recorded.method({"js": seeds}) for name, seeds in scores.items()}
    said = wording.takeaway(recorded.run(methods, kind="exact"))
    assert says in said
    lost = {**methods, "c": dataclasses.replace(methods["a"], status="diverged")}
    assert "c diverged." in wording.takeaway(recorded.run(lost, kind="exact"))
    bad = {name: dataclasses.replace(m, status="diverged") for name, m in lost.items()}
    assert "All methods diverged." in wording.takeaway(recorded.run(bad, kind="exact"))
    many = {**methods, **{f"c{i}": bad["c"] for i in range(9)}}
    said = "c0, c1, c2, c3, c4 and 4 other methods diverged."
    assert said in wording.takeaway(recorded.run(many, kind="exact"))
