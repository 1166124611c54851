"""Tokenizers, what begins and ends text, and the commands that read and write it."""

import json
import sys

import jax
import numpy as np
import pytest
from language_models import (
    CASES,
    FIELDS,
    PIECES,
    TOKENS,
    random_tensors,
    random_tokens,
    spec_of,
)
from language_models import golden as stored_logits

from experiments.commands import check_model, generate, score
from experiments.models import folder, gguf_tokenizer, golden, golden_words, libraries, ready, words
from fdiv.lm import weights
from fdiv.tokens import distributions
from fdiv.types import UsageError

tokenizers = pytest.importorskip("tokenizers", reason="needs the extra hf: make test-hf")
pytest.importorskip("safetensors", reason="needs the extra hf: make test-hf")


def made(path, case="smollm2", fields=FIELDS, spoilt=False, **generation):
    """A folder of a tiny model and a tokenizer with fewer tokens than it has rows."""
    spec = spec_of(case)
    params = weights.load(spec, weights.Arrays(random_tensors(spec)))
    if spoilt:
        params["params"]["norm"] = jax.tree.map(lambda x: x * np.nan, params["params"]["norm"])
    folder.write(path, spec, params, CASES[case], lambda draft: gguf_tokenizer.write(draft, fields))
    if generation:
        changed(path / "generation_config.json", **generation)
    return path


def changed(file, **fields):
    """Fields of a JSON file written over, those of None taken out."""
    whole = {**(json.loads(file.read_text()) if file.is_file() else {}), **fields}
    file.write_text(json.dumps({k: v for k, v in whole.items() if v is not None}))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return made(tmp_path_factory.mktemp("words") / "model")


def read(path):
    return words.read(folder.source(path))


def laws(loaded, ids):
    """Log-probs of what follows each token, [n, V]."""
    law = jax.jit(lambda params, strings: distributions(loaded.policy, params, strings))
    return np.asarray(law(loaded.params, np.asarray([[*ids, 0]])))[0, 1:]


def call(main, *argv):
    return main([str(word) for word in argv])


def test_text_is_tokens_and_back(model):
    text = read(model)
    ids = text.encode("the thin cat")
    assert [TOKENS[i] for i in ids] == ["the", "Ġ", "th", "in", "Ġ", "c", "a", "t"]
    assert text.decode(ids) == "the thin cat"
    assert text.encode("a</s>b") == [TOKENS.index("a"), 1, TOKENS.index("b")]
    assert text.decode([*ids, 1]) == "the thin cat"
    assert text.decode([3, 1], special=True) == "a</s>"
    assert text.known() == list(range(len(TOKENS)))
    assert text.continued(text.encode("the"), text.encode(" cat")) == " cat"


def test_what_is_saved_for_training_does_not_cut_or_pad(tmp_path):
    path = made(tmp_path / "model")
    saved = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
    saved.enable_truncation(3)
    saved.enable_padding(length=20)
    saved.save(str(path / "tokenizer.json"))
    assert len(read(path).encode("abcdef")) == 6


def test_a_token_before_every_text_is_put_there_once(tmp_path):
    path = made(tmp_path / "model", fields={**FIELDS, "tokenizer.ggml.add_bos_token": True})
    text = read(path)
    assert text.encode("a")[0] == 0
    assert text.encode(text.chat([{"content": "a"}]), special=False) == [0, TOKENS.index("a"), 2]
    assert text.prompt("") == [0]


ENDS = {
    # generation_config.json, config.json, </s> of the tokenizer -> tokens
    "one": (5, 6, (5,)),
    "several": ([5, 7, 5], 6, (5, 7)),
    "of the config": (None, 6, (6,)),
    "of the tokenizer": (None, None, (1,)),
    "zero is a token": (0, 6, (0,)),
}


@pytest.mark.parametrize("name", ENDS)
def test_what_ends_text_is_a_set(name, model, tmp_path):
    generation, config, eos = ENDS[name]
    for file in model.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    changed(tmp_path / "generation_config.json", eos_token_id=generation)
    changed(tmp_path / "config.json", eos_token_id=config)
    assert read(tmp_path).eos == eos


def test_options_that_bias_are_named_and_others_are_not(tmp_path):
    path = made(
        tmp_path / "model",
        do_sample=True,
        temperature=0.6,
        top_p=1.0,
        top_k=20,
        repetition_penalty=1.1,
        transformers_version="5.0",
        max_length=20,
    )
    assert read(path).biases == {"temperature": 0.6, "top_k": 20, "repetition_penalty": 1.1}


TEMPLATES = {
    "a field": ({"chat_template": "one"}, {}, {"default": "one"}),
    "a list": (
        {"chat_template": [{"name": "default", "template": "a"}, {"name": "rag", "template": "b"}]},
        {},
        {"default": "a", "rag": "b"},
    ),
    "a file before a field": (
        {"chat_template": "one"},
        {"chat_template.jinja": "two"},
        {"default": "two"},
    ),
    "more files": (
        {},
        {"chat_template.jinja": "two", "additional_chat_templates/tool_use.jinja": "three"},
        {"default": "two", "tool_use": "three"},
    ),
    "none": ({}, {}, {}),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_where_chat_templates_lie(name, model, tmp_path):
    fields, files, templates = TEMPLATES[name]
    for file in ("config.json", "tokenizer.json"):
        (tmp_path / file).write_bytes((model / file).read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields))
    for file, content in files.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(content)
    assert read(tmp_path).templates == templates


def test_special_tokens_are_text_or_fields(model, tmp_path):
    for file in ("config.json", "tokenizer.json"):
        (tmp_path / file).write_bytes((model / file).read_bytes())
    changed(tmp_path / "special_tokens_map.json", bos_token="<s>", eos_token="</s>")
    changed(tmp_path / "tokenizer_config.json", eos_token={"content": "<end>", "lstrip": False})
    text = read(tmp_path)
    assert text.special == {"bos_token": "<s>", "eos_token": "<end>"}
    assert text.eos == (2,)


def test_scores_are_the_models(model, capsys):
    assert call(score.main, model, "--text", "the thin cat", "--json", True) == 0
    said = json.loads(capsys.readouterr().out)
    loaded = ready.read(model)
    ids = said["ids"]
    assert ids == loaded.words.encode("the thin cat")
    assert len(said["log_probs"]) == len(ids) - 1
    assert len(said["entropy"]) == len(ids)
    law = laws(loaded, ids)
    np.testing.assert_allclose(said["entropy"], -(np.exp(law) * law).sum(-1), atol=1e-5)
    picked = law[np.arange(len(ids) - 1), ids[1:]]
    np.testing.assert_allclose(said["log_probs"], picked, atol=1e-5)


def test_one_token_has_an_entropy_and_no_log_prob(model, capsys):
    assert call(score.main, model, "--text", "a", "--json", True) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["log_probs"] == []
    assert len(said["entropy"]) == 1


def test_rows_without_a_token_keep_their_probability_and_are_never_drawn(model):
    """A quarter of the 64 rows; what is reported of a drawn token is its log-prob under all."""
    loaded = ready.read(model)
    prompt = loaded.words.encode("the")
    drawn = ready.write(loaded, prompt, count=32, horizon=12)
    assert all(i < len(TOKENS) for ids, _ in drawn for i in ids)
    ids, log_probs = max(drawn, key=lambda pair: len(pair[0]))
    scores = ready.score(loaded, [*prompt, *ids])
    np.testing.assert_allclose(log_probs, scores.log_probs[len(prompt) - 1 :], atol=1e-5)
    law = np.exp(laws(loaded, prompt)[-1])
    assert law[len(TOKENS) :].sum() > 0.02
    np.testing.assert_allclose(law.sum(), 1, atol=1e-5)


def test_text_stops_at_any_of_its_ends(tmp_path):
    path = made(tmp_path / "model")
    loaded = ready.read(path)
    prompt = loaded.words.encode("in the")
    (ids, _), *_ = ready.write(loaded, prompt, 1, 12, greedy=True)
    end = next(i for i in range(2, len(ids)) if ids[i] not in ids[:i])
    changed(path / "generation_config.json", eos_token_id=[2, ids[end]])
    (stopped, _), *_ = ready.write(ready.read(path), prompt, 1, 12, greedy=True)
    assert stopped == ids[: end + 1]


def test_generate_prints_text_alone_on_stdout(tmp_path, capsys):
    path = made(tmp_path / "model", top_k=20)
    argv = [path, "--prompt", "the", "--greedy", True, "--max-new-tokens", 6]
    assert call(generate.main, *argv) == 0
    first = capsys.readouterr()
    assert "top_k 20" in first.err
    loaded = ready.read(path)
    prompt = loaded.words.encode("the")
    (ids, log_probs), *_ = ready.write(loaded, prompt, 1, 6, greedy=True)
    assert first.out == loaded.words.continued(prompt, ids) + "\n"
    assert call(generate.main, *argv, "--log-probs", True) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [int(row[0]) for row in rows[:-1]] == ids
    np.testing.assert_allclose([float(row[1]) for row in rows[:-1]], log_probs, atol=1e-4)


def test_a_conversation_is_answered(model, capsys):
    argv = [model, "--prompt", "the", "--chat", True, "--max-new-tokens", 4, "--samples", 2]
    assert call(generate.main, *argv) == 0
    said = capsys.readouterr()
    assert generate.BETWEEN in said.out and "the conversation" not in said.err


def test_a_prompt_that_would_end_its_turn_is_told(model, capsys):
    argv = [model, "--prompt", "the<end>cat", "--max-new-tokens", 2]
    assert call(generate.main, *argv, "--chat", True) == 0
    assert "the conversation: '<end>' is read as a token" in capsys.readouterr().err
    assert call(generate.main, *argv) == 0
    assert "the conversation" not in capsys.readouterr().err


def test_temperature_divides_log_probs(model):
    """At .01 a draw is the likeliest token, and its log-prob is that of the sharpened law."""
    loaded = ready.read(model)
    prompt = loaded.words.encode("the")
    ((token,), (log_prob,)), *_ = ready.write(loaded, prompt, 1, 1, temperature=0.01)
    law = laws(loaded, prompt)[-1]
    assert token == law[: len(TOKENS)].argmax()
    sharp = law.astype(np.float64) / 0.01
    np.testing.assert_allclose(log_prob, sharp[token] - np.logaddexp.reduce(sharp), atol=1e-2)


def test_words_are_held_against_stored_ones(tmp_path, capsys):
    """Exit code 0 where tokens and conversations agree; 1, with the first that does not, after a
    merge is lost, or a template writes a blank more."""
    path = made(tmp_path / "model")
    text = read(path)
    texts = ["the thin cat", "in</s>"]
    chats = [text.chat(messages, generate=go_on) for messages, go_on in golden_words.CONVERSATIONS]
    ids = [text.encode(t, special=False) for t in texts]
    stored = golden_words.packed(golden_words.GoldenWords(texts, ids, chats, "a test"))
    logits = golden.log_softmax(stored_logits("smollm2"))
    golden.write(path / "golden.npz", random_tokens("smollm2"), logits, "a test", **stored)
    assert check_model.main([str(path)]) == 0
    said = capsys.readouterr().out
    assert "tokens of 2 varied strings: 2 the same; renderings of 3 conversations: 3" in said

    template = path / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert check_model.main([str(path)]) == 1
    assert "renderings of 3 conversations: 0 the same" in capsys.readouterr().out
    template.write_text(template.read_text().rstrip())
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    tokenizer["model"]["merges"].pop(1)
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert check_model.main([str(path)]) == 1
    assert (
        "1 the same; renderings of 3 conversations: 3 the same; the first that differs: 'the"
        in (capsys.readouterr().out)
    )


# --- what cannot be read --------------------------------------------------------------------------


def without(*names):
    return lambda path: [(path / name).unlink() for name in names]


def truncated(name):
    return lambda path: (path / name).write_bytes((path / name).read_bytes()[:-100])


def with_index(path):
    (path / "model.safetensors").unlink()
    places = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(places))


def of_config(**fields):
    return lambda path: changed(path / "config.json", **fields)


def of_tokenizer(**fields):
    return lambda path: changed(path / "tokenizer_config.json", **fields)


def only_sentencepiece(path):
    (path / "tokenizer.json").rename(path / "tokenizer.model")


def without_bos(path):
    for name in ("generation_config.json", "config.json"):
        changed(path / name, bos_token_id=None)
    changed(path / "tokenizer_config.json", bos_token=None)


def raising(path):
    (path / "chat_template.jinja").write_text("{{ raise_exception('no system here') }}")


def without_template(path):
    (path / "chat_template.jinja").unlink()
    changed(path / "tokenizer_config.json", chat_template=None)


def of_fewer_rows(path):
    tokenizer = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.add_special_tokens([f"<extra{i}>" for i in range(20)])
    tokenizer.save(str(path / "tokenizer.json"))


def gone(path):
    path.rename(path.with_name("elsewhere"))


EMPTY = ("--prompt", "")
BROKEN = {
    # name: (what is done to a folder, flags, said)
    "nothing": (gone, (), "is not there"),
    "no config": (without("config.json"), (), "holds no config.json"),
    "no tokenizer": (without("tokenizer.json"), (), "holds no tokenizer.json"),
    "sentencepiece alone": (only_sentencepiece, (), "tokenizer.model is not read"),
    "a tokenizer cut short": (truncated("tokenizer.json"), (), "cannot be read"),
    "its settings cut short": (truncated("tokenizer_config.json"), (), "is no JSON"),
    "weights cut short": (truncated("model.safetensors"), (), "cut short"),
    "a shard missing": (with_index, (), "model-00001-of-00002.safetensors"),
    "an unknown family": (of_config(model_type="mamba"), (), "model_type"),
    "remote code": (of_config(auto_map={"AutoModel": "x.Y"}), (), "auto_map"),
    "a tokenizer by code": (
        of_tokenizer(auto_map={"AutoTokenizer": ["x.Y", None]}),
        (),
        "auto_map",
    ),
    "quantised": (of_config(quantization_config={"quant_method": "gptq"}), (), "quantised"),
    "an end that is no token": (
        lambda path: changed(path / "generation_config.json", eos_token_id=[1, 64]),
        (),
        "eos_token_id = 64",
    ),
    "nothing before an empty prompt": (without_bos, EMPTY, "Give some text"),
    "a template that refuses": (raising, ("--chat", True), "no system here"),
    "no template": (without_template, ("--chat", True), "needs a chat template"),
    "a token without a row": (of_fewer_rows, ("--prompt", "a<extra19>"), "<extra19>"),
    "no steps": (lambda path: None, ("--max-new-tokens", 0), "max_new_tokens"),
    "a temperature of zero": (lambda path: None, ("--temperature", 0), "temperature"),
    "the same sample twice": (lambda path: None, ("--greedy", True, "--samples", 2), "samples"),
    "a system without a chat": (lambda path: None, ("--system", "x"), "--chat True"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_read_is_told_in_a_paragraph(name, tmp_path, capsys):
    breaks, flags, said = BROKEN[name]
    path = made(tmp_path / "model")
    breaks(path)
    flags = flags if "--prompt" in flags else ("--prompt", "the", *flags)
    assert call(generate.main, path, *flags) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in " ".join(printed.err.split())
    assert printed.err.startswith("error: ")
    if flags == ("--prompt", "the"):
        assert call(score.main, path, "--text", "the") == 2
        assert capsys.readouterr() == printed


def test_a_run_of_this_project_is_named_as_one(tmp_path, capsys):
    for name in ("config.json", "environment.json"):
        (tmp_path / name).write_text("{}")
    assert call(score.main, tmp_path, "--text", "the") == 2
    assert "folder of a run" in " ".join(capsys.readouterr().err.split())


def test_bytes_that_are_no_text_are_refused(model, capsys):
    """As Python reads them from a command line."""
    text = b"a\xff".decode(errors="surrogateescape")
    assert call(score.main, model, "--text", text) == 2
    assert call(generate.main, model, "--prompt", text) == 2
    assert capsys.readouterr().err.count("which is no character") == 2


def test_weights_that_are_not_finite_are_told(tmp_path, capsys):
    path = made(tmp_path / "model", spoilt=True)
    assert call(score.main, path, "--text", "the", "--json", True) == 2
    assert call(generate.main, path, "--prompt", "the", "--max-new-tokens", 2) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("not finite") == 2


def test_an_empty_text_has_no_score(model, capsys):
    assert call(score.main, model, "--text", "") == 2
    assert "nothing to score" in capsys.readouterr().err


def test_an_empty_prompt_begins_with_the_token_that_begins_text(model, capsys):
    assert call(generate.main, model, "--prompt", "", "--max-new-tokens", 2) == 0
    assert "<s> stands before" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["tokenizers", "safetensors"])
def test_a_missing_library_is_named_with_its_extra(name, model, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    assert call(generate.main, model, "--prompt", "the") == 2
    error = " ".join(capsys.readouterr().err.split())
    assert name in error
    assert ".[hf]" in error
    assert libraries.EXTRAS[name] == "hf"


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
def test_the_ways_of_splitting_that_gguf_files_name(pre):
    """Digits apart, in threes or together: what tells them from one another."""
    digits = [*"0123456789", "12", "123", "1234"]
    fields = {**FIELDS, "tokenizer.ggml.pre": pre, "tokenizer.ggml.tokens": [*TOKENS, *digits]}
    fields["tokenizer.ggml.token_type"] = [3] * 3 + [1] * (len(PIECES) + len(digits))
    fields["tokenizer.ggml.merges"] = ["1 2", "12 3", "123 4"]
    tokens = gguf_tokenizer.tokenizer(fields).encode("1234", add_special_tokens=False).tokens
    assert (
        tokens
        == {
            "gpt-2": ["1234"],
            "smollm": ["1", "2", "3", "4"],
            "llama-bpe": ["123", "4"],
            "qwen2": ["1", "2", "3", "4"],
        }[pre]
    )


def test_another_tokenizer_of_a_gguf_file_is_refused():
    with pytest.raises(UsageError, match="llama/default"):
        fields = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default"}
        gguf_tokenizer.tokenizer(fields)
