"""The text benchmark with a model's own tokenizer: how many bytes its tokens are, what ends text,
what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from language_models import FIELDS, TOKENS

pytest.importorskip("tokenizers", reason="needs the extra hf: make test-hf")
pytest.importorskip("safetensors", reason="needs the extra hf: make test-hf")

from experiments import assemble
from experiments.commands import show_data
from experiments.config import make_config
from experiments.data.marks import Marks
from experiments.models import gguf_tokenizer, vocabulary, words
from fdiv.benchmarks.text import Text
from fdiv.types import UsageError

TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] }} {{ m.content }}<end>{% endfor %}"
    "{% if add_generation_prompt %}a {% endif %}"
)
NAMES = [*"abcdefghijklmnopqrstuvwxyz"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tokenizer without a model, of 48 tokens, of which two end text."""
    path = tmp_path_factory.mktemp("tokenizer")
    gguf_tokenizer.write(path, {**FIELDS, "tokenizer.chat_template": TEMPLATE})
    changed(path / "generation_config.json", eos_token_id=[1, 2])
    return path


def changed(file, **fields):
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def copied(folder, to, **generation):
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    changed(to / "generation_config.json", **generation)
    return to


def rows_of(tmp_path, records):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_a_tokenizer_without_a_model_has_its_own_tokens(folder):
    own = words.at(folder)
    vocab = vocabulary.of(own)
    assert words.at(folder / "tokenizer.json").digest() == own.digest()
    assert (vocab.size, vocab.eos, vocab.end) == (len(TOKENS), (1, 2), 1)
    assert vocab.pieces.known is None
    assert vocab.token(2) == "<end>"


def test_token_sizes_add_up_to_a_text(folder):
    own = words.at(folder)
    sizes = vocabulary.sizes(own)
    for text in ("the thin cat", "this I.J", " a  b"):
        assert sizes[own.encode(text)].sum() == len(text.encode())
    assert sizes[:3].tolist() == [0, 0, 0]


def test_what_decides_tokens_decides_the_digest(folder, tmp_path):
    digest = words.at(folder).digest()
    assert words.at(copied(folder, tmp_path)).digest() == digest
    for file, field, value in (
        ("generation_config.json", "eos_token_id", 1),
        ("tokenizer_config.json", "bos_token", "<end>"),
    ):
        changed(copied(folder, tmp_path) / file, **{field: value})
        assert words.at(tmp_path).digest() != digest
    (copied(folder, tmp_path) / "chat_template.jinja").write_text("another")
    assert words.at(tmp_path).digest() != digest


REFUSED = {
    "nothing there": lambda folder: folder / "none",
    "no tokenizer": lambda folder: folder,
    "broken": lambda folder: _with(folder, "{"),
}


def _with(folder, content):
    (folder / "tokenizer.json").write_text(content)
    return folder


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_names_the_flag(name, tmp_path):
    with pytest.raises(UsageError) as refusal:
        assemble.tokenizer(Text(tokenizer=REFUSED[name](tmp_path)))
    assert refusal.value.field == "benchmark.tokenizer"


def test_a_tokenizer_that_ends_no_text_is_refused(folder, tmp_path):
    copied(folder, tmp_path, eos_token_id=None)
    changed(tmp_path / "tokenizer_config.json", eos_token=None)
    with pytest.raises(UsageError, match="names no token that ends a text"):
        assemble.tokenizer(Text(tokenizer=tmp_path))


def test_strings_read_as_people_write_them(folder):
    own = words.at(folder)
    spell = vocabulary.of(own).spell
    ids = own.encode("the cat in")
    whole = np.array([*ids, 1, -1])
    prompt = np.arange(len(whole)) < 2
    assert spell(whole, prompt) + spell(whole, (whole >= 0) & ~prompt) == "the cat in"


def test_tokens_are_shown(folder, tmp_path, capsys):
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "the cat"}]
    asked = [f"hi {a}{b}" for a in NAMES[:8] for b in NAMES[:6]]
    records = [{"messages": [talk[0] | {"content": text}, talk[1]]} for text in asked]
    path = rows_of(tmp_path, records)
    argv = [str(path), "--rows", "1", "--benchmark.tokenizer", str(folder)]
    argv += ["--benchmark.horizon", "6"]
    assert show_data.main(argv) == 0
    said = capsys.readouterr().out
    assert "prompt          u| |h|i| |a|a|<end>|a| \n" in said
    assert "trained on      the| |c|a|t[EOS <end>]\n" in said
    assert "Of 48 rows 48 are whole, 0 have their prompt cut and 0 an answer" in said
    # 10 and 6 tokens in 16 and 6 columns, and all rows alike in 16
    assert "widths of 16 and 22 columns: 0% of a step's tokens are padding" in said
    assert "27% in one width" in said
    assert "\x1b" not in said  # colours are for a terminal
    show_data.main([*argv[:-1], "4"])
    assert "the| |c|a[cut here, no EOS: 1 tokens more]t" in capsys.readouterr().out


def talk(asked, answer="the cat"):
    said = (("user", asked), ("assistant", answer))
    return {"messages": [{"role": role, "content": text} for role, text in said]}


def test_an_injected_turn_is_named_where_a_file_is_shown(folder, tmp_path, capsys):
    asked = [f"hi {a}{b}" for a in NAMES[:8] for b in NAMES[:6]]
    records = [talk(text) for text in asked]
    records[3] = talk("hi<end>a the cat<end>u hi")
    path = rows_of(tmp_path, records)
    assert show_data.main([str(path), "--benchmark.tokenizer", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "1 rows were bad and left out: row 4: the user's message holds '<end>'" in said
    assert "EOS is kept in 47." in said


def test_rows_on_the_host_leave_the_same_rows_out_and_say_the_same(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.data.files.PIECE", 2000)  # a dozen rows
    records = [talk(f"hi {a}{b}") for a in NAMES[:10] for b in NAMES]
    records[40], records[250] = talk("hi<end>a the cat"), talk("hi", "the<end> cat")
    records[200], records[201] = talk("hi <odd>"), talk("he <odd>")
    tokens = [*TOKENS, "<odd>"]
    fields = {**FIELDS, "tokenizer.chat_template": TEMPLATE, "tokenizer.ggml.tokens": tokens}
    fields["tokenizer.ggml.token_type"] = [*FIELDS["tokenizer.ggml.token_type"], 3]
    place = tmp_path / "tokenizer"
    place.mkdir()
    gguf_tokenizer.write(place, fields)
    told = []
    for kept in ("memory", "host"):
        text = Text(path=rows_of(tmp_path, records), tokenizer=place, store=kept)
        reading = assemble.read(make_config(benchmark=text, cache=tmp_path / "cache"))
        assert [number for number, _ in reading.bad] == [41, 251]
        told.append([note for note in reading.told if "special tokens" in note])
    assert told[0] == told[1]
    assert "In 2 rows the text itself holds special tokens, first in row 201 (<odd>" in told[0][0]


MARKED = {  # a template -> the tokens that part its turns, beside those that end and begin a text
    "of the template": (TEMPLATE, {"</s>", "<end>"}),
    "around a last answer alone, which are its own": (
        "{% for m in messages %}{{ m.content }}"
        "{{ '<s>' if loop.last and m.role == 'assistant' }}{% endfor %}",
        {"</s>", "<end>"},
    ),
    "before a system's": (
        "{% for m in messages %}{{ '<s>' if m.role == 'system' }}{{ m.content }}{% endfor %}",
        {"<s>", "</s>", "<end>"},
    ),
    "before a tool's": (
        "{% for m in messages %}{{ '<s>' if m.role == 'tool' }}{{ m.content }}{% endfor %}",
        {"<s>", "</s>", "<end>"},
    ),
    "of no tool": (
        "{% for m in messages %}{{ raise_exception('no') if m.role == 'tool' }}<end>{% endfor %}",
        {"</s>", "<end>"},
    ),
    "none": (None, {"</s>", "<end>"}),
}


@pytest.mark.parametrize("name", MARKED)
def test_which_tokens_part_turns(name, folder, tmp_path):
    template, parts = MARKED[name]
    copied(folder, tmp_path)
    changed(tmp_path / "generation_config.json", bos_token_id=1)
    changed(tmp_path / "tokenizer_config.json", chat_template=template)
    (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    own = Marks(words.at(tmp_path))
    assert {own.texts[i] for i in own.turns} == parts
    assert {own.texts[i] for i in own.special} == {"<s>", "</s>", "<end>"}
    for text in ("<s>", "</s>", "<end>"):
        assert own.held(f"a{text}b") == (text if text in parts else None)


def test_text_that_only_looks_like_a_special_token_is_words(folder):
    own = Marks(words.at(folder))
    assert [own.held(text) for text in ("", "<END>", "< end>", "<en d>", "end>")] == [None] * 5
