"""What a run says of its data before it trains: counts after the cut, the flag that changes them,
and why a method has nothing to learn from it."""

from __future__ import annotations

import json

import pytest
from text_files import written

from experiments import cli
from experiments.commands import compare
from fdiv.benchmarks.text import Text

CUT = {"prompt_length": 8, "horizon": 8}


def records(count: int, **fields):
    """Records from templates, in which {i} counts and {k} counts slowly."""
    return [
        {key: value.format(i=i, k=i // 2) for key, value in fields.items()} for i in range(count)
    ]


SAID = {  # records, flags, what is said, what is not
    "rows cut": (
        records(100, prompt="q{i}", completion="a long answer {i}"),
        CUT,
        [
            "100% of completions are longer than 7 bytes",
            "EOS is learned in 0 of 100 rows (0%)",
            "--benchmark.horizon 17 would teach it in 90%",
        ],
        ["fit 90%"],
    ),
    "rejected alone cut": (
        records(100, prompt="q{i}", chosen="a{i}", rejected="not at all {i}"),
        CUT,
        [
            "0% of completions (of the rejected 100%)",
            "EOS is learned in 100 of 100 rows (100%), and ends 0 of the rej",
        ],
        ["equal after the cut"],
    ),
    "a part cut": (
        records(98, prompt="q{i}", completion="a") + records(2, prompt="r{i}", completion="a" * 9),
        CUT,
        ["2% of completions", "EOS is learned in 98 of 100 rows (98%)."],
        [],
    ),
    "nearly all": (
        records(999, prompt="q{i}", completion="a") + records(1, prompt="r{i}", completion="a" * 9),
        CUT,
        ["less than 1% of completions", "999 of 1,000 rows (99%)"],
        [],
    ),
    "pairs made equal": (
        records(20, prompt="q{i}", chosen="the same {i}", rejected="the same or not"),
        CUT,
        [
            "20 of 20 comparisons are equal after the cut (rows 1, 2, 3, 4, 5, 6, 7, 8 and 12",
            "a longer --benchmark.horizon",
        ],
        [],
    ),
    "duplicates": (
        records(100, prompt="{k}", completion="a"),
        CUT,
        ["50 rows are the same as an earlier one after the cut"],
        [],
    ),
    "labels": (
        [{"prompt": f"{i}", "completion": "a", "label": i % 4 > 0} for i in range(100)],
        CUT,
        ["Labels: 75 liked, which are demonstrated, and 25 not."],
        [],
    ),
    "labels that disagree": (
        [{"prompt": f"{i // 2}", "completion": "a", "label": i % 2 > 0} for i in range(100)],
        CUT,
        ["50 strings are liked in one row and not in another"],
        ["same as an earlier one"],
    ),
    "fitted": (
        records(100, prompt="q{i}", completion="a"),
        {},
        [
            "fit 90% of the rows: --benchmark.prompt-length 8 --benchmark.horizon 8",
            "Nothing is cut",
        ],
        [],
    ),
    "fitted to the limit": (
        records(100, prompt="q{i}", completion="a" * 600),
        {"prompt_length": 8},
        ["--benchmark.horizon 512 (no more is fitted)", "EOS is learned in 0 of 100"],
        ["--benchmark.prompt-length 8"],
    ),
    "one prompt": (
        records(100, prompt="say", completion="{i}"),
        CUT,
        ["held out, by their strings after the cut"],
        [],
    ),
    "the nearest": (
        records(4, prompt="{i}", completion="a{i}"),
        CUT | {"validation": 0.0001},
        ["3 rows are trained on and 1 held out", "the nearest was taken"],
        [],
    ),
}


@pytest.mark.parametrize("case", SAID)
def test_what_is_said_of_the_data(case, tmp_path):
    rows, flags, says, never = SAID[case]
    reading = written(tmp_path, rows, **flags)
    said = " ".join(reading.notes(Text(path=tmp_path / "rows.jsonl", **flags)))
    assert [text for text in says if text not in said] == [], said
    assert [text for text in never if text in said] == [], said


def lines(rows) -> str:
    return "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows)


PROMPTS = records(60, prompt="{i}?", completion="a{i}")
LIKED = [row | {"label": True} for row in PROMPTS]
PAIRS = records(60, prompt="{i}?", chosen="the same {i}", rejected="the same as that")
REFUSED = {  # rows, flags, what is said in this order
    "all liked": (
        LIKED,
        ["--methods", "kto"],
        ["methods = 'kto'", "labels are true", "such as sft"],
    ),
    "all but one liked": (
        [*LIKED, LIKED[0] | {"label": 0, "prompt": "held out: 0"}],
        ["--methods", "kto", "--benchmark.validation", "0.99"],
        ["methods = 'kto'", "labels that are trained on are"],
    ),
    "none liked": (
        [row | {"label": "no"} for row in LIKED],
        ["--methods", "sft"],
        ["60 labels, all of them false", "label_field"],
    ),
    "none liked, kto": (
        [row | {"label": "no"} for row in LIKED],
        ["--methods", "kto"],
        ["60 labels, all of them false"],
    ),
    "liked of one prompt": (
        [{"prompt": f"{i % 3}?", "completion": f"a{i}", "label": i % 3 == 0} for i in range(60)],
        ["--methods", "kto"],
        [
            "validation = 0.05",
            "the 20 that are to be copied are all of one prompt",
            "other prompts",
        ],
    ),
    "no labels": (PROMPTS, ["--methods", "sft", "kto"], ["'kto'", "no labels"]),
    "no pairs": (
        PROMPTS,
        ["--methods", "sft", "dpo"],
        ["'dpo'", "no pairs", "chosen and rejected"],
    ),
    "equal pairs": (
        PAIRS,
        ["--methods", "dpo", "--benchmark.horizon", "8"],
        ["methods = 'dpo'", "are equal after the cut at 8 bytes", "--benchmark.horizon"],
    ),
    "nearly all bad": (
        ["{no"] * 9 + PROMPTS[:1],
        ["--methods", "sft"],
        ["9 rows were bad", "row 1: not JSON", "and 4 more", "leaves no validation row of 1"],
    ),
    "bad and one class": (
        ["{no", *LIKED],
        ["--methods", "kto"],
        ["1 rows were bad", "row 1: not JSON", "labels are true"],
    ),
    "all bad": (["{no"] * 9, [], ["no good row", "row 1: not JSON"]),
    "other columns": (records(60, a="b"), [], ["none of the usual columns", "The file has a"]),
    "a column that is not there": (
        PROMPTS,
        ["--benchmark.prompt-field", "prompt", "topic"],
        ["benchmark.prompt_field = 'topic'", "prompt, completion"],
    ),
    "one column twice": (
        PROMPTS,
        ["--benchmark.prompt-field", "prompt", "--benchmark.completion-field", "prompt"],
        ["is named for two things"],
    ),
    "worse without better": (PROMPTS, ["--benchmark.rejected-field", "prompt"], ["rejected_field"]),
    "a label of pairs": (
        [row | {"fine": True} for row in PAIRS],
        ["--benchmark.label-field", "fine"],
        ["label_field", "comparisons"],
    ),
}


@pytest.mark.few(5)
@pytest.mark.parametrize("case", REFUSED)
def test_a_run_that_has_nothing_to_learn_is_refused_before_it_claims_its_folder(
    case, tmp_path, capsys
):
    rows, flags, says = REFUSED[case]
    (tmp_path / "rows.jsonl").write_text(lines(rows))
    out = ["--benchmark.path", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "run")]
    assert cli.run(compare.main, "experiments.compare", ["text", *out, *flags]) == 2
    said = " ".join(capsys.readouterr().err.split())
    places = [said.find(text) for text in says]
    assert min(places) >= 0, said
    assert places == sorted(places), said
    assert not (tmp_path / "run").exists()
