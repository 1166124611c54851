"""Records of many layouts: the rows they become, or the reason why they become none."""

from __future__ import annotations

import json

import pytest
from text_files import written

from experiments.data import files
from fdiv.benchmarks.text import Text
from fdiv.benchmarks.text_rows import Row


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def system(text):
    return {"role": "system", "content": text}


def human(text):
    return {"from": "human", "value": text}


def gpt(text):
    return {"from": "gpt", "value": text}


GOOD, BAD = assistant("good"), assistant("bad")
PAIR = Row(b"user: q\n", b"good", b"bad")
TOLD = Row(b"system: s\nuser: q\n", b"good", b"bad")
PLAIN = Row(b"q?", b"good", b"bad")

# --- the prompt that answers begin with -----------------------------------------------------------

BEGUN = {  # prompt, chosen, rejected, the row
    "messages": ("q", [user("q"), GOOD], [user("q"), BAD], PAIR),
    "messages and a system's": (
        "q",
        [system("s"), user("q"), GOOD],
        [system("s"), user("q"), BAD],
        TOLD,
    ),
    "prompt of messages": ([user("q")], [user("q"), GOOD], [user("q"), BAD], PAIR),
    "its system's": ([system("s"), user("q")], [user("q"), GOOD], [user("q"), BAD], TOLD),
    "all of it": (
        [system("s"), user("q")],
        [system("s"), user("q"), GOOD],
        [system("s"), user("q"), BAD],
        TOLD,
    ),
    "answers alone": ("q", [GOOD], [BAD], PAIR),
    "answers alone to messages": ([system("s"), user("q")], [GOOD], [BAD], TOLD),
    "strings to messages": ([user("q")], "good", "bad", PAIR),
    "one message each": ([user("q")], GOOD, BAD, PAIR),
    "one side begins with it": ("q", [user("q"), GOOD], [BAD], PAIR),
    "as rendered": ("user: q\n", [user("q"), GOOD], [user("q"), BAD], PAIR),
    "white space": (" q\n", [user("q"), GOOD], [user("q"), BAD], PAIR),
    "earlier turns": (
        [user("a"), assistant("b"), user("c")],
        [user("a"), assistant("b"), user("c"), GOOD],
        [user("a"), assistant("b"), user("c"), BAD],
        Row(b"user: a\nassistant: b\nuser: c\n", b"good", b"bad"),
    ),
    "earlier turns as one string": (
        "a\n\nb\n\nc",
        [user("a"), assistant("b"), user("c"), GOOD],
        [user("a"), assistant("b"), user("c"), BAD],
        Row(b"user: a\nassistant: b\nuser: c\n", b"good", b"bad"),
    ),
    "strings": ("q?", "q? good", "q? bad", Row(b"q?", b" good", b" bad")),
    "strings without a space": ("q?", "q?good", "q?bad", PLAIN),
    "strings that part no word in all rows": ("q", "qgood", "qbad", Row(b"q", b"good", b"bad")),
    "strings with space around": ("q?\n", "\nq? good", "\nq? bad", Row(b"\nq?", b" good", b" bad")),
    "strings that do not begin with it": ("q?", "good", "bad", PLAIN),
    "one string begins with it": ("q?", "q? good", "bad", Row(b"q?", b"q? good", b"bad")),
    "a dialogue that holds it": (
        "q?",
        "Human: q?\n\nAssistant: good",
        "Human: q?\n\nAssistant: bad",
        Row(b"Human: q?\n\nAssistant: ", b"good", b"bad"),
    ),
    "a dialogue that is it": (
        "\n\nHuman: q\n\nAssistant:",
        "\n\nHuman: q\n\nAssistant: good",
        "\n\nHuman: q\n\nAssistant: bad",
        Row(b"\n\nHuman: q\n\nAssistant:", b" good", b" bad"),
    ),
}


@pytest.mark.parametrize("case", BEGUN)
def test_a_prompt_is_taken_off_what_begins_with_it(case, tmp_path):
    prompt, chosen, rejected, row = BEGUN[case]
    record = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    assert written(tmp_path, [record] * 2).rows == [row] * 2


UNEXPLAINED = {
    "other messages": ("q", [user("x"), GOOD], [user("x"), BAD], "prompt does not hold"),
    "other messages of one side": (
        "q",
        [user("q"), GOOD],
        [user("x"), BAD],
        "prompt does not hold",
    ),
    "more messages": (
        "q",
        [user("q"), assistant("a"), user("r"), GOOD],
        [user("q"), assistant("a"), user("r"), BAD],
        "more messages",
    ),
    "another system's": (
        [system("s"), user("q")],
        [system("t"), user("q"), GOOD],
        [user("q"), BAD],
        "another system message",
    ),
    "two systems": (
        "q",
        [system("s"), user("q"), GOOD],
        [system("t"), user("q"), BAD],
        "part before",
    ),
    "no answer": ("q", [user("q")], [user("q")], "not the assistant's"),
    "nothing": ("q", [], [user("q"), BAD], "no list of messages"),
    "an empty answer": ("q", [user("q"), assistant("")], [user("q"), BAD], "'chosen' is empty"),
    "the same": ("q", [user("q"), GOOD], [user("q"), GOOD], "are the same"),
    "a dialogue of other words": (
        "q?",
        "Human: r?\n\nAssistant: a",
        "Human: r?\n\nAssistant: b",
        "prompt does not hold",
    ),
    "nothing behind it": ("q?", "q? good", "q?", "'rejected' is empty"),
}


@pytest.mark.parametrize("case", UNEXPLAINED)
def test_what_the_prompt_does_not_explain_is_refused_by_row(case, tmp_path):
    prompt, chosen, rejected, says = UNEXPLAINED[case]
    good = {"prompt": "q", "chosen": [GOOD], "rejected": [BAD]}
    reading = written(
        tmp_path, [good, {"prompt": prompt, "chosen": chosen, "rejected": rejected}, good]
    )
    assert reading.rows == [PAIR] * 2
    ((number, reason),) = reading.bad
    assert number == 2
    assert says in reason


def test_a_word_is_parted_only_if_all_rows_begin_so(tmp_path):
    records = [{"prompt": "I", "chosen": "Indeed", "rejected": "It is"}]
    assert written(tmp_path, records).rows == [Row(b"I", b"ndeed", b"t is")]
    records += [{"prompt": "You", "chosen": "Indeed", "rejected": "It is"}]
    assert written(tmp_path, records).rows[0] == Row(b"I", b"Indeed", b"It is")
    apples = [{"prompt": "a", "completion": "apple"}, {"prompt": "2+2=", "completion": "2+2=4"}]
    reading = written(tmp_path, apples)
    assert reading.rows == [Row(b"a", b"apple"), Row(b"2+2=", b"4")]
    assert reading.taken_off == 1
    assert "In 1 rows the answers began" in " ".join(reading.notes(config_of(reading)))
    copies = [{"prompt": "abc", "completion": "abc"}]
    assert written(tmp_path, copies).rows == [Row(b"abc", b"abc")]


def config_of(reading):
    return Text(prompt_length=8, horizon=8)


# --- the prompt that both sides begin with --------------------------------------------------------

SIDES = {  # chosen, rejected, the row or the reason
    "role tags": (
        "\n\nHuman: q\n\nAssistant: I am",
        "\n\nHuman: q\n\nAssistant: I do",
        Row(b"\n\nHuman: q\n\nAssistant: ", b"I am", b"I do"),
    ),
    "several turns": (
        "Human: q\n\nAssistant: a\n\nHuman: r\n\nAssistant: I am",
        "Human: q\n\nAssistant: a\n\nHuman: r\n\nAssistant: I do",
        Row(b"Human: q\n\nAssistant: a\n\nHuman: r\n\nAssistant: ", b"I am", b"I do"),
    ),
    "ChatML": (
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\nI am",
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\nI do",
        Row(b"<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n", b"I am", b"I do"),
    ),
    "Llama 2": (
        "[INST] q [/INST] I am",
        "[INST] q [/INST] I do",
        Row(b"[INST] q [/INST] ", b"I am", b"I do"),
    ),
    "Alpaca": (
        "### Instruction:\nq\n\n### Response:\nI am",
        "### Instruction:\nq\n\n### Response:\nI do",
        Row(b"### Instruction:\nq\n\n### Response:\n", b"I am", b"I do"),
    ),
    "an empty answer": (
        "Human: q\n\nAssistant: a",
        "Human: q\n\nAssistant:",
        "'rejected' is empty",
    ),
    "a blank answer": (
        "Human: q\n\nAssistant: a",
        "Human: q\n\nAssistant: ",
        "'rejected' is empty",
    ),
    "an answer within the other": (
        "Human: q\n\nAssistant: I",
        "Human: q\n\nAssistant: I do",
        Row(b"Human: q\n\nAssistant: ", b"I", b"I do"),
    ),
    "other questions": (
        "Human: q\n\nAssistant: a",
        "Human: r\n\nAssistant: a",
        "different prompts",
    ),
    "other second questions": (
        "Human: q\n\nAssistant: a\n\nHuman: r\n\nAssistant: b",
        "Human: q\n\nAssistant: a\n\nHuman: s\n\nAssistant: b",
        "part before",
    ),
    "words": ("the same words: yes", "the same words: no", Row(b"the same words: ", b"yes", b"no")),
    "no word in common": ("yes", "no", Row(b"", b"yes", b"no")),
    "no part of a word": ("yes", "yep", Row(b"", b"yes", b"yep")),
    "Chinese": (
        "你好吗\uff1f我很好",
        "你好吗\uff1f不好",
        Row("你好吗\uff1f".encode(), "我很好".encode(), "不好".encode()),
    ),
    "Japanese": (
        "質問答え一",
        "質問答え二",
        Row("質問答え".encode(), "一".encode(), "二".encode()),
    ),
    "Thai": ("สวัสดีใช่", "สวัสดีไม่", Row("สวัสดี".encode(), "ใช่".encode(), "ไม่".encode())),
    "no spaces": ("2+2=4", "2+2=5", Row(b"2+2=", b"4", b"5")),
    "messages": ([user("q"), GOOD], [user("q"), BAD], PAIR),
    "messages and a system's": (
        [system("s"), user("q"), GOOD],
        [system("s"), user("q"), BAD],
        TOLD,
    ),
    "ShareGPT's messages": ([human("q"), gpt("good")], [human("q"), gpt("bad")], PAIR),
    "messages that part early": (
        [user("q"), assistant("a"), user("r"), GOOD],
        [user("q"), assistant("b"), user("r"), BAD],
        "part before",
    ),
}


@pytest.mark.parametrize("case", SIDES)
def test_the_prompt_ends_where_the_answers_begin(case, tmp_path):
    chosen, rejected, wanted = SIDES[case]
    good = {"chosen": [user("q"), GOOD], "rejected": [user("q"), BAD]}
    reading = written(tmp_path, [good, {"chosen": chosen, "rejected": rejected}])
    if isinstance(wanted, str):
        assert [number for number, _ in reading.bad] == [2]
        assert wanted in reading.bad[0][1]
    else:
        assert reading.rows == [PAIR, wanted]


# --- one conversation, one rendering --------------------------------------------------------------

TALK = [system("s"), user("q"), assistant("a")]
TOLD_TALK = Row(b"system: s\nuser: q\n", b"a")
PARTS = [{"type": "text", "text": "q"}]
LAYOUTS = {
    "messages": {"messages": TALK},
    "messages as JSON": {"messages": json.dumps(TALK)},
    "ShareGPT": {"conversations": [{"from": "system", "value": "s"}, human("q"), gpt("a")]},
    "conversation": {"conversation": TALK},
    "roles in capitals": {"messages": [{**m, "role": m["role"].upper()} for m in TALK]},
    "roles of others": {
        "messages": [
            system("s"),
            {"role": "human", "content": "q"},
            {"role": "model", "content": "a"},
        ]
    },
    "parts": {"messages": [system("s"), user(PARTS), assistant("a")]},
    "parts that are strings": {"messages": [system("s"), user(["q"]), assistant(["a"])]},
    "a column of the system's": {"system": "s", "messages": TALK[1:]},
    "both": {"system": "s", "messages": TALK},
    "prompt and completion": {"prompt": TALK[:2], "completion": TALK[2:]},
    "prompt and a string": {"prompt": TALK[:2], "completion": "a"},
    "a string and a completion": {"system": "s", "prompt": "q", "completion": TALK[2:]},
    "a completion that repeats it": {"prompt": "q", "completion": TALK},
    "an instruction": {"system": "s", "instruction": "q", "output": TALK[2:]},
}


MIXED = {"parts", "parts that are strings"}  # no column of a table holds lists and strings


@pytest.mark.parametrize(
    ("layout", "suffix"),
    [(x, ".jsonl") for x in LAYOUTS] + [(x, ".parquet") for x in LAYOUTS if x not in MIXED],
)
def test_one_conversation_is_the_same_bytes_in_every_layout(layout, suffix, tmp_path):
    assert written(tmp_path, [LAYOUTS[layout]] * 2, suffix).rows == [TOLD_TALK] * 2


MANY = [user("q"), assistant("a"), user("r"), assistant("b")]
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
CALLED = b'<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>'
ANSWERS = {  # messages, further columns -> (prompt, answer) of each row
    "every answer": (MANY, {}, [(b"user: q\n", b"a"), (b"user: q\nassistant: a\nuser: r\n", b"b")]),
    "the last one of a labelled": (
        MANY,
        {"label": True},
        [(b"user: q\nassistant: a\nuser: r\n", b"b")],
    ),
    "those with a weight": (
        [user("q"), assistant("a", weight=0), *MANY[2:]],
        {},
        [(b"user: q\nassistant: a\nuser: r\n", b"b")],
    ),
    "those that are trained": (
        [user("q"), assistant("a"), user("r"), assistant("b", train=False)],
        {},
        [(b"user: q\n", b"a")],
    ),
    "calls of tools": (
        [
            user("q"),
            assistant(None, tool_calls=[CALL]),
            {"role": "tool", "content": "1"},
            assistant("ok"),
        ],
        {},
        [(b"user: q\n", CALLED), (b"user: q\nassistant: " + CALLED + b"\ntool: 1\n", b"ok")],
    ),
    "a call without content": (
        [user("q"), {"role": "assistant", "tool_calls": [CALL]}],
        {},
        [(b"user: q\n", CALLED)],
    ),
    "words and a call": (
        [user("q"), assistant("Hm.", tool_calls=[CALL])],
        {},
        [(b"user: q\n", b"Hm.\n" + CALLED)],
    ),
    "a call of a function": (
        [user("q"), assistant(None, function_call={"name": "f", "arguments": {"x": 1}})],
        {},
        [(b"user: q\n", CALLED)],
    ),
    "ShareGPT's tools": (
        [
            human("q"),
            {"from": "function_call", "value": "f()"},
            {"from": "observation", "value": "1"},
            gpt("ok"),
        ],
        {},
        [(b"user: q\n", b"f()"), (b"user: q\nassistant: f()\ntool: 1\n", b"ok")],
    ),
    "who speaks first": ([assistant("hello")], {}, [(b"", b"hello")]),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_the_answers_of_a_conversation(case, tmp_path):
    messages, more, wanted = ANSWERS[case]
    rows = written(tmp_path, [{"messages": messages, **more}]).rows
    assert [(row.prompt, row.completion) for row in rows] == wanted
    assert len({row.conversation for row in rows}) == 1


NO_TALK = {
    "a role that is not known": [user("q"), {"role": "narrator", "content": "x"}, assistant("a")],
    "no role": [{"content": "q"}, assistant("a")],
    "not the assistant's": [user("q")],
    "no list of messages": [],
    "without text content": [user("q"), assistant(None)],
    "only text is read": [user([{"type": "image_url", "image_url": {"url": "x"}}]), assistant("a")],
    "not text content": [user(3), assistant("a")],
    "not a role and a text": ["q", "a"],
    "message is empty": [user("q"), assistant("")],
    "is to be learned": [user("q"), assistant("a", weight=0)],
    "no record of a name": [user("q"), assistant("a", tool_calls=3)],
}


@pytest.mark.parametrize("says", NO_TALK)
def test_conversations_that_make_no_row(says, tmp_path):
    reading = written(tmp_path, [{"messages": TALK}, {"messages": NO_TALK[says]}])
    assert reading.rows == [TOLD_TALK]
    ((number, reason),) = reading.bad
    assert number == 2
    assert says.replace("a role that is not known", "has the role 'narrator'") in reason


# --- columns --------------------------------------------------------------------------------------

Q, A = {"q": "x", "topic": "t", "a": "y"}, {"prompt_field": ("q",), "completion_field": "a"}
COLUMNS = {  # record, flags, rows, columns that are not read
    "a label of messages": (
        {"messages": TALK, "label": False},
        {},
        [TOLD_TALK._replace(liked=False)],
        [],
    ),
    "a label of named columns": (Q | {"label": 0}, A, [Row(b"x", b"y", None, False)], ["topic"]),
    "a named label": (
        Q | {"fine": "yes"},
        A | {"label_field": "fine"},
        [Row(b"x", b"y", None, True)],
        ["topic"],
    ),
    "a label of text": ({"text": "x", "label": False}, {}, [Row(b"", b"x", None, False)], []),
    "a class of text": ({"text": "x", "label": 1}, {}, [Row(b"", b"x")], ["label"]),
    "a label that is the answer": (
        {"text": "x", "label": "pos"},
        {"prompt_field": "text", "completion_field": "label"},
        [Row(b"x", b"pos")],
        [],
    ),
    "two columns": (Q, A | {"prompt_field": ("topic", "q")}, [Row(b"t\nx", b"y")], []),
    "one column as a word": (Q, A | {"prompt_field": "q"}, [Row(b"x", b"y")], ["topic"]),
    "Alpaca": ({"instruction": "x", "input": "t", "output": "y"}, {}, [Row(b"x\nt", b"y")], []),
    "Alpaca, empty": ({"instruction": "x", "input": "", "output": "y"}, {}, [Row(b"x", b"y")], []),
    "Alpaca, null": ({"instruction": "x", "input": None, "output": "y"}, {}, [Row(b"x", b"y")], []),
    "Alpaca, named": (
        {"instruction": "x", "input": "t", "output": "y"},
        {"prompt_field": ("instruction", "input"), "completion_field": "output"},
        [Row(b"x\nt", b"y")],
        [],
    ),
    "Dolly": (
        {"instruction": "x", "context": "t", "response": "y", "category": "z"},
        {},
        [Row(b"x\nt", b"y")],
        ["category"],
    ),
    "a question of pairs": (
        {"question": "q?", "chosen": "good", "rejected": "bad"},
        {},
        [PLAIN],
        [],
    ),
    "named": (
        {"ask": "q?", "chosen": "good", "rejected": "bad"},
        {"prompt_field": "ask"},
        [PLAIN],
        [],
    ),
    "Orca": (
        {"system": "s", "question": "q?", "chosen": "good", "rejected": "bad"},
        {},
        [Row(b"s\nq?", b"good", b"bad")],
        [],
    ),
    "Orca, named": (
        {"system": "s", "question": "q?", "chosen": "good", "rejected": "bad"},
        {"prompt_field": ("system", "question")},
        [Row(b"s\nq?", b"good", b"bad")],
        [],
    ),
    "the question alone": (
        {"system": "s", "question": "q?", "chosen": "good", "rejected": "bad"},
        {"prompt_field": "question"},
        [PLAIN],
        ["system"],
    ),
    "pairs of other names": (
        {"prompt": "q?", "better": "good", "worse": "bad"},
        {"completion_field": "better", "rejected_field": "worse"},
        [PLAIN],
        [],
    ),
    "scores": (
        {"prompt": "q?", "chosen": "good", "rejected": "bad", "score": 3, "messages": TALK},
        {},
        [PLAIN],
        ["score", "messages"],
    ),
    "tools": ({"messages": TALK, "tools": [{"name": "f"}]}, {}, [TOLD_TALK], ["tools"]),
    "thoughts": (
        {"messages": [*TALK[:2], assistant("a", reasoning_content="hm")]},
        {},
        [TOLD_TALK],
        ["reasoning_content of messages"],
    ),
    "a conversation that is compared": (
        {"conversations": [human("q")], "chosen": gpt("good"), "rejected": gpt("bad")},
        {},
        [PAIR],
        [],
    ),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_columns_that_are_read_and_columns_that_are_not(case, tmp_path):
    record, flags, rows, unread = COLUMNS[case]
    reading = written(tmp_path, [record] * 2, **flags)
    assert reading.rows == rows * 2
    assert list(reading.unread) == unread
    said = " ".join(reading.notes(config_of(reading)))
    assert all(f"{name} (2)" in said for name in unread)
    assert set(reading.read) | set(unread) >= {k for k, v in record.items() if v is not None}


LATER = {  # first row, a later one that says more
    "label": (
        {"prompt": "q", "completion": "a"},
        {"prompt": "q", "completion": "b", "label": False},
    ),
    "prompt": ({"chosen": "a", "rejected": "b"}, {"prompt": "q", "chosen": "a", "rejected": "b"}),
    "rejected": ({"text": "a"}, {"text": "b", "rejected": "c"}),
    "question": ({"text": "a"}, {"text": "b", "question": "c"}),
}


@pytest.mark.parametrize("name", LATER)
def test_a_later_row_with_a_column_that_judges_or_conditions_is_refused(name, tmp_path):
    reading = written(tmp_path, list(LATER[name]))
    assert reading.bad == [(2, f"has {name!r}, which the first row has not")]


LABELS = {
    True: [True, 1, 1.0, "true", "True", "1", " yes ", "Y", "good", "liked", "positive", "chosen"],
    False: [False, 0, 0.0, "false", "0", "NO", "n", "bad", "disliked", "rejected", -1, "-1"],
    None: ["maybe", 2, 0.5, [], {}, None, "", "x" * 10_000, float("nan")],
}


@pytest.mark.parametrize("liked", LABELS)
def test_labels_as_people_write_them(liked, tmp_path):
    records = [{"prompt": "a", "completion": "b", "label": x} for x in (True, *LABELS[liked])]
    reading = written(tmp_path, records)
    if liked is None:
        assert [number for number, _ in reading.bad] == list(range(2, len(records) + 1))
        assert all("not true or false" in reason and len(reason) < 300 for _, reason in reading.bad)
    else:
        assert [row.liked for row in reading.rows[1:]] == [liked] * len(LABELS[liked])


HOSTILE = {
    "brackets": "[" * 100_000,
    "closed brackets": '{"prompt": "a", "completion": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "braces": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "half a character": '{"prompt": "\\ud800", "completion": "b"}',
    "half a character in a message": json.dumps(
        {"prompt": "a", "completion": [assistant("\ud800")]}
    ),
    "no number": '{"prompt": "a", "completion": NaN}',
    "a long number": '{"prompt": "a", "completion": ' + "9" * 10_000 + "}",
    "a long name": '{"prompt": "a", "completion": [{"role": "'
    + "x" * 100_000
    + '", "content": "a"}]}',
    "nothing": "null",
    "a string": '"' + "x" * 100_000 + '"',
    "bytes": b'{"prompt": "\xff", "completion": "b"}',
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_rows_are_bad_rows(case, tmp_path):
    row = HOSTILE[case]
    good = b'{"prompt": "a", "completion": "b"}\n' * 3
    content = good + (row.encode() if isinstance(row, str) else row) + b"\n" + good
    (tmp_path / "rows.jsonl").write_bytes(content)
    reading = files.read(Text(path=tmp_path / "rows.jsonl"))
    assert reading.rows == [Row(b"a", b"b")] * 6
    assert [number for number, _ in reading.bad] == [4]
    assert len(reading.bad[0][1]) < 300
