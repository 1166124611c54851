"""`python -m experiments.show_data`: a user's first look at a file, by what it prints and its exit
code."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys

import pytest

from experiments.commands import show_data


def lines(records) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


PAIRS = [{"prompt": f"{i}?", "chosen": f"yes {i}, I do", "rejected": f"no {i}"} for i in range(60)]
LIKED = [{"prompt": f"{i}?", "completion": f"yes {i}", "label": True} for i in range(60)]
TALK = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "yo"},
    {"role": "user", "content": "so?"},
    {"role": "assistant", "content": "bye"},
]
SHOWN = {  # content, flags, what is said
    "pairs that are cut": (
        lines([row | {"score": 1} for row in PAIRS]),
        ["--benchmark.horizon", "8"],
        [
            "chosen          yes 0, I[cut here, no EOS: 3 bytes more] do\n",
            "rejected        no 0[EOS]\n",
            "Columns read: prompt, chosen, rejected. NOT read (rows that have them): score (60)",
            "0 have a string that is trained on and 0 a prompt that is",
            "comparisons\n",
        ],
    ),
    "a prompt that is cut": (
        lines([{"prompt": f"well {i}", "completion": "a\tb"} for i in range(60)]),
        ["--benchmark.prompt-length", "3"],
        ["prompt          wel[3 bytes cut off]l 0\n", "trained on      a\\tb[EOS]\n"],
    ),
    "one class": (lines(LIKED), [], ["liked           yes 0[EOS]", "labels are true"]),
    "a conversation": (
        lines([{"messages": [TALK[0] | {"content": f"hi {i}"}, *TALK[1:]]} for i in range(60)]),
        ["--rows", "2"],
        ["\\nassistant: yo\\nuser: so?\\n\n  trained on      bye[EOS]", "60 conversations"],
    ),
    "bad rows": (lines([*LIKED, {"prompt": "a"}]), [], ["1 rows were bad", "row 61: no field"]),
    "text": ("".join(map(str, range(3000))), [], ["(plain text)", "blocks of 64 bytes"]),
}


def call(tmp_path, content, flags, capsys, name="rows.jsonl"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    code = show_data.main([str(path), *flags])
    said = capsys.readouterr()
    return code, said.out, " ".join(said.err.split())


@pytest.mark.parametrize("case", SHOWN)
def test_what_is_shown(case, tmp_path, capsys):
    content, flags, says = SHOWN[case]
    code, out, err = call(tmp_path, content, flags, capsys, "rows.data")
    assert code == 0, err
    for text in says:
        assert text in out, (text, out)


REFUSED = {
    "nothing there": (None, [], "is not a file"),
    "no good row": ("{no\n" * 9, [], "no good row"),
    "few rows": (lines([LIKED[0]]) + "{no\n" * 9, [], "row 2: not JSON"),
    "one string": (lines([{"text": "a"}] * 9), [], "all are alike after the cut"),
    "unknown columns": (lines([{"a": "b", "c": "d"}]), [], "--benchmark.prompt-field"),
    "two paths": (lines(LIKED), ["--benchmark.path", "other.jsonl"], "Give one path"),
    "no such number": (lines(LIKED), ["--rows", "-1"], "rows = -1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_on_is_said_with_exit_code_2(case, tmp_path, capsys):
    content, flags, says = REFUSED[case]
    if content is None:
        assert show_data.main([str(tmp_path / "rows.jsonl"), *flags]) == 2
        err = " ".join(capsys.readouterr().err.split())
    else:
        code, _, err = call(tmp_path, content, flags, capsys)
        assert code == 2
    assert says in err


def test_a_text_that_cannot_be_parted_is_no_row_repeated(tmp_path, capsys):
    """Its advice helps: of shorter strings there are more."""
    text = "\n\n".join(f"para {i}\nmore {i * i} and so on" for i in range(7))
    code, _, err = call(tmp_path, text, [], capsys, "few.txt")
    assert code == 2 and "the text is one stretch" in err and "alike" not in err
    code, out, _ = call(tmp_path, text, ["--benchmark.horizon", "16"], capsys, "few.txt")
    assert code == 0 and "1 held out" in out


def test_the_command_at_the_end_reads_the_same(tmp_path, capsys):
    """Its words are those of a head-to-head, which reads what was shown."""
    from experiments import cli
    from experiments.data import files

    flags = ["--benchmark.prompt-field", "a b", "c", "--benchmark.completion-field", "d"]
    rows = [{"a b": "x", "c": f"{i}", "d": "y"} for i in range(60)]
    _, out, _ = call(tmp_path, lines(rows), flags, capsys)
    words = shlex.split(out.strip().splitlines()[-1].partition(": ")[2])
    assert words[:4] == ["python", "-m", "experiments.compare", "text"]
    _, config = cli.parse("experiments.compare", words[3:])
    assert files.read(config.benchmark).rows[1].prompt == b"x\n1"


@pytest.mark.wide
def test_a_terminal_that_lacks_characters_and_a_pipe_that_closes(tmp_path):
    """ASCII alone; and a reader that has seen enough is no error."""
    path = tmp_path / "rows.jsonl"
    path.write_text(lines([{"prompt": f"{i} é語?", "completion": "ü" * 99} for i in range(99)]))
    plain = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    command = [sys.executable, "-m", "experiments.show_data", str(path)]
    done = subprocess.run(command, capture_output=True, env=plain, timeout=60)
    assert done.returncode == 0, done.stderr
    assert b"\\xe9\\u8a9e?" in done.stdout
    closed = subprocess.run(
        f"{' '.join(command)} --rows 99 | head -1", shell=True, capture_output=True, timeout=60
    )
    assert b"Traceback" not in closed.stderr
