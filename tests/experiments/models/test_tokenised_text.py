"""The text benchmark with a model's own tokenizer: how many bytes its tokens are, what ends text,
what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from language_models import FIELDS, TOKENS

pytest.importorskip("tokenizers", reason="needs the extra hf: make test-hf")
pytest.importorskip("safetensors", reason="needs the extra hf: make test-hf")

from experiments import assemble, show_data
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
