"""Rows as tokens: where prompts end and answers begin, what ends them, what a chat template may
not do. The tokenizer is made of words here; those of models are in test_tokenised_text.py."""

from __future__ import annotations

import json
import re

import jax
import numpy as np
import pytest

from experiments.data import files
from experiments.data.tokenised import Tokenizer
from experiments.models import chat
from fdiv import rollout
from fdiv import tokens as tk
from fdiv.benchmarks.text import Text, Vocabulary
from fdiv.types import PAD, Pieces, Policy, UsageError

SPECIAL = ["<s>", "</s>", "<end>", "<user>", "<bot>", "<tool>", "<pad>"]
BOS, EOS, END, USER, BOT, TOOL, SPARE = range(len(SPECIAL))
SPLIT = re.compile("|".join(map(re.escape, SPECIAL)) + r"| ?[a-z]+|.|\n")
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ {'assistant': '<bot>', 'tool': '<tool>'}.get(m.role, '<user>') }}"
    "{{ m.content }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<bot>{% endif %}"
)


class Spelled:
    """A tokenizer whose tokens are words with the blank before them; it learns new ones as it
    reads."""

    def __init__(self, template=TEMPLATE, bos=BOS, eos=(EOS, END), lead=True):
        self.bos, self.eos = bos, eos
        self.templates = {} if template is None else {"default": template}
        self.texts, self._lead = list(SPECIAL), lead

    def encode(self, text, special=True):
        ids = [] if not (special and self._lead and self.bos is not None) else [self.bos]
        for piece in SPLIT.findall(text):
            if piece not in self.texts:
                self.texts.append(piece)
            ids.append(self.texts.index(piece))
        return ids

    def added(self):
        return {i: (text, True) for i, text in enumerate(SPECIAL)}

    def chat(self, messages, **how):
        return chat.render(self.templates, messages, {"bos_token": "<s>"}, **how)

    def say(self, ids):
        return "".join(self.texts[i] for i in ids)


def made(**words):
    own = Spelled(**words)
    vocab = Vocabulary(64, EOS, (EOS, END), "tokens", token=lambda i: own.texts[i])
    return Tokenizer("spelled", own, vocab, "digest")


def read(tmp_path, records, tokenizer=None, **fields):
    tokenizer = tokenizer or made()
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    config = Text(path=path, **fields)
    return files.read(config, tokenizer), tokenizer.words.say


def shown(result, say):
    return [(say(row.prompt), say(row.completion), row.end) for row in result.rows]


def talk(*texts):
    roles = ("user", "assistant") * len(texts)
    return {"messages": [{"role": r, "content": t} for r, t in zip(roles, texts)]}


ROWS = {
    # record -> prompt, answer, the token that ends it (None: the usual one), what is said
    "a blank before the answer": (
        {"prompt": "a cat", "completion": " sat"},
        [("<s>a cat", " sat", None)],
        None,
    ),
    "a blank behind the prompt": (
        {"prompt": "a cat ", "completion": "sat"},
        [("<s>a cat ", "sat", None)],
        "1 rows the prompt ends in white space",
    ),
    "no border": (
        {"prompt": "a ca", "completion": "t sat"},
        [("<s>a ca", "t sat", None)],
        "In 1 answers a token would lie over the border",
    ),
    "an end within": (
        {"prompt": "a", "completion": " cat<end> sat"},
        [("<s>a", " cat", END)],
        "1 answers hold a token that ends text",
    ),
    "no prompt": ({"text": "a cat"}, [("<s>", "a cat", None)], None),
    "a conversation": (
        talk("hi", "yo", "so", "bye"),
        [
            ("<s><user>hi<end><bot>", "yo", END),
            ("<s><user>hi<end><bot>yo<end><user>so<end><bot>", "bye", END),
        ],
        "ends answers with <end> (2) in 2",
    ),
    "messages of a prompt": (
        {"prompt": talk("hi")["messages"], "completion": [talk("", "yo")["messages"][1]]},
        [("<s><user>hi<end><bot>", "yo", END)],
        None,
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_are_tokens(name, tmp_path):
    record, rows, says = ROWS[name]
    result, say = read(tmp_path, [record])
    assert shown(result, say) == rows
    assert all(row.prompt for row in result.rows)
    assert says is None or says in " ".join(result.told)


@pytest.mark.parametrize(("turns", "answers"), [("all", ["yo", "bye"]), ("last", ["bye"])])
@pytest.mark.parametrize("template", [TEMPLATE, None])
def test_which_turns_are_learned(turns, answers, template, tmp_path):
    record = talk("hi", "yo", "so", "bye")
    result, say = read(tmp_path, [record], made(template=template), turns=turns)
    assert [say(row.completion) for row in result.rows] == answers
    assert result.chats == len(answers)
    assert ("no chat template" in " ".join(result.told)) == (template is None)


PAIRS = {
    "of messages": {
        "prompt": talk("hi")["messages"],
        "chosen": [talk("", "yo")["messages"][1]],
        "rejected": [talk("", "no")["messages"][1]],
    },
    "of text": {"prompt": "a", "chosen": " yo", "rejected": " no"},
}


@pytest.mark.parametrize("name", PAIRS)
def test_comparisons_are_tokens(name, tmp_path):
    result, say = read(tmp_path, [PAIRS[name]])
    (row,) = result.rows
    end = END if name == "of messages" else None
    assert (say(row.completion).strip(), say(row.rejected).strip(), row.end) == ("yo", "no", end)
    tokenizer = made()
    pairs = Text(prompt_length=8, horizon=4).compare(result.rows, tokenizer.vocabulary)
    for side in pairs:
        assert side.tokens[0][side.mask[0]][-1] == (EOS if end is None else end)


REFUSED = {
    "the last message alone": (
        "{{ bos_token }}{{ messages[-1].content }}<end>", "not stable over prefixes"),
    "a count in front": (
        "{{ messages | length }}{% for m in messages %}{{ m.content }}<end>{% endfor %}",
        "not stable over prefixes",
    ),
    "an earlier answer is shortened": (
        "{% for m in messages %}{{ m.content if loop.last or m.role == 'user' else '' }}<end>"
        "{% endfor %}{% if add_generation_prompt %}<bot>{% else %}.{% endif %}",
        "not stable over prefixes",
    ),
    "users alone": (
        "{% for m in messages if m.role == 'user' %}{{ m.content }}<end>{% endfor %}",
        "without assistant turns",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_that_cannot_serve_is_refused_by_name(name, tmp_path):
    template, says = REFUSED[name]
    with pytest.raises(UsageError, match=says) as refusal:
        read(tmp_path, [talk("hi", "yo")] * 3, made(template=template))
    assert refusal.value.field == "benchmark.tokenizer"
    assert refusal.value.value == "spelled"


def test_a_conversation_that_a_template_refuses_is_a_bad_row(tmp_path):
    template = "{% if messages[0].content == 'no' %}{{ raise_exception('Not so.') }}{% endif %}"
    result, _ = read(
        tmp_path, [talk("hi", "yo"), talk("no", "yo")], made(template=template + TEMPLATE)
    )
    assert [(number, "Not so." in reason) for number, reason in result.bad] == [(2, True)]


def test_a_date_is_the_same_every_day(tmp_path):
    """Otherwise a run could not go on tomorrow: its rows would be others."""
    dated = made(template="{{ strftime_now('%d %b %Y') }}" + TEMPLATE)
    result, say = read(tmp_path, [talk("hi", "yo")], dated)
    assert say(result.rows[0].prompt).startswith("26 Jul 2024<s>")
    assert "26 July 2024 in every row" in " ".join(result.told)


def test_rows_without_a_token_are_bad(tmp_path):
    rows = [{"prompt": "a", "completion": " b"}, {"prompt": "a", "completion": "</s>b"}]
    result, _ = read(tmp_path, rows)
    assert result.bad == [(2, "has not one token to be learned before its end")]
    result, _ = read(
        tmp_path, [{"prompt": "", "completion": "a"}, rows[0]], made(bos=None, lead=False)
    )
    assert "no token that begins a text" in result.bad[0][1]


def test_the_tokenizer_is_part_of_the_digest(tmp_path):
    one, _ = read(tmp_path, [{"text": "a b"}])
    tokenizer = made()
    other = Tokenizer("spelled", tokenizer.words, tokenizer.vocabulary, "another")
    assert read(tmp_path, [{"text": "a b"}], other)[0].digest() != one.digest()
    assert read(tmp_path, [{"text": "a b"}])[0].digest() == one.digest()
    assert files.read(Text(path=tmp_path / "rows.jsonl")).digest() != one.digest()


def test_plain_text_is_cut_in_blocks_of_tokens_that_tile_it(tmp_path):
    path = tmp_path / "play.txt"
    path.write_text("".join(f" {chr(97 + i)}" for i in range(23)))
    tokenizer = made()
    result = files.read(Text(path=path, horizon=5, prompt_length=3), tokenizer)
    say = tokenizer.words.say
    assert "".join(say(row.completion) for row in result.rows) == path.read_text()[:40]
    assert [say(row.prompt) for row in result.rows[:2]] == ["<s>", " c d e"]
    assert "blocks of 5 tokens" in " ".join(
        result.notes(Text(path=path, horizon=5, prompt_length=3))
    )


def test_strings_end_with_the_end_of_their_row(tmp_path):
    records = [
        {"prompt": "a", "completion": " b c"},
        talk("hi", "yo"),
        {"prompt": "a", "completion": " b" * 9},
    ]
    tokenizer = made()
    result, _ = read(tmp_path, records[:1], tokenizer)
    rows = result.rows + read(tmp_path, records[1:2], tokenizer)[0].rows
    rows += read(tmp_path, records[2:], tokenizer)[0].rows
    config, vocab = Text(prompt_length=4, horizon=4), tokenizer.vocabulary
    strings = config.encode(rows, vocab)
    last = [row[mask][-1] for row, mask in zip(strings.tokens, strings.mask)]
    assert last == [EOS, END, tokenizer.words.texts.index(" b")]
    assert np.asarray(tk.ended(strings, vocab.eos)).tolist() == [True, True, False]
    prompts = tk.prompts_of(jax.tree.map(jax.numpy.asarray, strings), 4)
    assert prompts.tokens[0].tolist() == [BOS, *tokenizer.words.encode("a", False), PAD, PAD]


def test_symbols_without_a_token_are_never_drawn(tmp_path):
    """Their probability stays in the log-probs of the others."""
    tokenizer = made()
    result, _ = read(
        tmp_path, [{"prompt": f"a {i}", "completion": f" b {i}"} for i in range(20)], tokenizer
    )
    known = np.arange(0, 64, 7)
    vocab = tokenizer.vocabulary._replace(pieces=Pieces(np.ones(64), known))
    mdp = Text(prompt_length=4, horizon=6, validation=0.3).build(result.rows, None, vocab)
    law = jax.nn.log_softmax(jax.random.normal(jax.random.key(0), (64,)))
    policy = Policy(None, None, None, lambda params, prompts, h: (), lambda params, cache, token: (
        cache, jax.numpy.tile(law, (len(token), 1))))  # fmt: skip
    key = jax.random.key(1)
    strings, log_probs = rollout.sampler_of(mdp)(key, policy, (), mdp.prompts(key, 200))
    drawn = np.asarray(strings.tokens)[np.asarray(strings.mask)]
    assert set(drawn.tolist()) <= set(known.tolist()) and len(set(drawn.tolist())) > 5
    np.testing.assert_allclose(
        np.asarray(log_probs)[np.asarray(strings.mask)], law[drawn], rtol=1e-6
    )


def messages(*said):
    return {"messages": [{"role": role, "content": text} for role, text in said]}


INJECTED = {  # what is said, and which role's message is named with which token
    "an end in a question": ([("user", "a<end>b"), ("assistant", "yo")], "user", "<end>"),
    "a turn in a question": (
        [("user", "hi<end><bot>yes<end><user>so"), ("assistant", "yo")],
        "user",
        "<end>",
    ),
    "a beginning": ([("user", "<bot>yes"), ("assistant", "yo")], "user", "<bot>"),
    "an end in an answer": ([("user", "r"), ("assistant", "no<end>more")], "assistant", "<end>"),
    "another end": ([("user", "r"), ("assistant", "no</s>")], "assistant", "</s>"),
    "an earlier answer": (
        [("user", "r"), ("assistant", "<user>"), ("user", "s"), ("assistant", "yo")],
        "assistant",
        "<user>",
    ),
    "a system's": ([("system", "<s>"), ("user", "r"), ("assistant", "yo")], "system", "<s>"),
    "a tool's": (
        [("user", "r"), ("tool", "<end>"), ("assistant", "yo")],
        "tool",
        "<end>",
    ),
    "a tool's mark": ([("user", "<tool>r"), ("assistant", "yo")], "user", "<tool>"),
}


@pytest.mark.parametrize("turns", ["all", "last"])
@pytest.mark.parametrize("name", INJECTED)
def test_a_message_that_would_end_or_begin_a_turn_is_no_good_row(name, turns, tmp_path):
    said, role, token = INJECTED[name]
    result, say = read(tmp_path, [talk("q", "yes"), messages(*said)], turns=turns)
    assert shown(result, say) == [("<s><user>q<end><bot>", "yes", END)]
    ((number, reason),) = result.bad
    assert number == 2 and f"the {role}'s message holds '{token}'" in reason
    assert "row 2: the" in " ".join(result.notes(Text(path=tmp_path / "rows.jsonl")))


def test_either_side_of_a_comparison_is_looked_at(tmp_path):
    for side in ("chosen", "rejected"):
        answers = {"chosen": "yo", "rejected": "no"}
        answers[side] += "<end>"
        record = {"prompt": talk("hi")["messages"]} | {
            name: [{"role": "assistant", "content": text}] for name, text in answers.items()
        }
        with pytest.raises(UsageError, match="assistant's message holds '<end>'"):
            read(tmp_path, [record])


def test_without_a_template_what_ends_a_text_is_refused_and_a_turns_mark_is_counted(tmp_path):
    records = [talk("q", "yes"), talk("a</s>b", "yo"), talk("<user>", "yo")]
    result, say = read(tmp_path, records, made(template=None))
    assert [number for number, _ in result.bad] == [2]
    assert [say(row.prompt) for row in result.rows] == ["<s>user: q\n", "<s>user: <user>\n"]
    assert (
        "In 1 rows the text itself holds special tokens, first in row 3 (<user> (3))"
        in " ".join(result.told)
    )


SPECIAL_ROWS = {  # rows, what is said
    "words alone": ([talk("a", "b"), {**talk("c", "d")}], None),
    "one that parts no turns": ([talk("a", "b"), talk("a<pad>", "b")], "In 1 rows", "row 2 (<pad>"),
    "columns of text": (
        [{"prompt": "a", "completion": " b"}, {"prompt": "a<end>", "completion": "<pad>b"}],
        "In 1 rows",
        "row 2 (<end>",
    ),
    "a text written by hand": (
        [{"prompt": f"<user>{i}<bot>", "completion": "yo<end>"} for i in "ab"],
        "In 2 rows",
        "row 1 (<user>",
    ),
}


@pytest.mark.parametrize("name", SPECIAL_ROWS)
def test_special_tokens_of_the_text_itself_are_counted_and_the_first_is_named(name, tmp_path):
    records, *says = SPECIAL_ROWS[name]
    result, _ = read(tmp_path, records)
    told = " ".join(result.told)
    assert len(result.rows) == len(records) and not result.bad
    assert all(words in told for words in says if words)
    assert ("special tokens, first" in told) == (says != [None])


def test_special_tokens_of_plain_text_are_counted(tmp_path):
    path = tmp_path / "play.txt"
    path.write_text(" a b c d e f g<pad>")
    result = files.read(Text(path=path, horizon=4, prompt_length=3), made())
    assert "In 1 rows the text itself holds special tokens, first in row 2" in " ".join(result.told)


def test_a_template_that_writes_two_ends_says_nothing_of_the_answers(tmp_path):
    twice = made(template=TEMPLATE.replace("<end>", "<end></s>"))
    result, say = read(tmp_path, [talk("q", "yes"), talk("r", "no")], twice)
    assert [answer for _, answer, _ in shown(result, say)] == ["yes", "no"]
    assert "hold a token" not in " ".join(result.notes(Text(path=tmp_path / "rows.jsonl")))
