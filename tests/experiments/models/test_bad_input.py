"""Fields and files of another kind than they should be: each is refused by its name, in one
paragraph."""

import json

import pytest
from language_models import CASES, FIELDS, random_tensors, spec_of

from experiments.commands import generate, score
from experiments.models import folder, gguf_tokenizer, golden, golden_words, safetensor_files
from fdiv.lm import spec, weights
from fdiv.types import UsageError

WRONG = {
    # case of `language_models`, a field, a value of another kind
    "a family in a list": ("llama", "model_type", ["llama"]),
    "architectures as text": ("llama", "architectures", "LlamaForCausalLM"),
    "architectures that are no names": ("llama", "architectures", [["LlamaForCausalLM"]]),
    "layers beyond any": ("gemma2", "num_hidden_layers", 10**18),
    "kinds of layers as a number": ("mistral", "layer_types", 3),
    "kinds of layers in lists": ("gemma2", "layer_types", [[]] * 4),
    "a rope as text": ("llama", "rope_scaling", "linear"),
    "a new rope as a list": ("llama", "rope_parameters", [1]),
    "a rope of one kind of layer": ("gemma3_new", "rope_parameters", {"full_attention": 3}),
    "factors as a number": (
        "phi3_longrope",
        "rope_scaling",
        {"type": "longrope", "short_factor": 3, "long_factor": "x"},
    ),
    "a text model that is none": ("gemma3", "text_config", "x"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_field_of_another_kind_is_named(name):
    case, field, value = WRONG[name]
    config = {**CASES[case], field: value}
    if field == "text_config":
        config = {"model_type": "gemma3", field: value}
    with pytest.raises(UsageError) as refused:
        spec.from_config(config)
    part = "_factor" if name == "factors as a number" else field
    assert part in refused.value.field


INDICES = {
    "a list": "[1]",
    "no map": '{"metadata": {}}',
    "a map that is a list": '{"weight_map": ["a"]}',
    "a file that is a number": '{"weight_map": {"a": 3}}',
    "a file of another folder": '{"weight_map": {"a": "../other/model.safetensors"}}',
    "no JSON": "{",
    "nested without end": "[" * 100_000,
}


@pytest.mark.parametrize("name", INDICES)
def test_an_index_that_is_none_is_refused(name, tmp_path):
    (tmp_path / safetensor_files.INDEX).write_text(INDICES[name])
    with pytest.raises(UsageError, match="index"):
        safetensor_files.Files(tmp_path)


WORDS = {
    "tokens as a number": ("tokenizer_config.json", {"additional_special_tokens": 3}),
    "a template as a number": ("tokenizer_config.json", {"chat_template": 3}),
    "templates without words": (
        "tokenizer_config.json",
        {"chat_template": [{"name": 3, "template": 4}]},
    ),
    "code as text": ("tokenizer_config.json", {"auto_map": "tokenizer.py"}),
    "an end that is text": ("generation_config.json", {"eos_token_id": "</s>"}),
    "an end beyond the model": ("generation_config.json", {"eos_token_id": [1, 999]}),
    "a tokenizer that is none": ("tokenizer.json", {}),
    "a special token that is a number": ("tokenizer_config.json", {"bos_token": 3}),
    "a special token in a list": ("special_tokens_map.json", {"eos_token": ["</s>"]}),
}


@pytest.mark.parametrize("name", WORDS)
def test_words_of_another_kind_are_refused(name, tmp_path, capsys):
    pytest.importorskip("tokenizers", reason="needs the extra hf: make test-hf")
    (tmp_path / "config.json").write_text(json.dumps(CASES["smollm2"]))
    gguf_tokenizer.write(tmp_path, FIELDS)
    file, fields = WORDS[name]
    place = tmp_path / file
    whole = json.loads(place.read_text()) if fields and place.is_file() else {}
    place.write_text(json.dumps({**whole, **fields}))
    for main, flags in ((score.main, ("--text", "the")), (generate.main, ("--prompt", "the"))):
        assert main([str(tmp_path), *flags]) == 2
        assert capsys.readouterr().err.startswith("error: ")


BYTES = {  # what stands in a file -> what is said
    "config.json": (b"[" * 100_000, "no JSON"),
    "chat_template.jinja": (b"\xff\xfe", "no text in UTF-8"),
    "generation_config.json": (b"[1]", "holds no fields"),
    "tokenizer_config.json": (b"\xff", "no JSON"),
}


@pytest.mark.parametrize("name", BYTES)
def test_files_that_are_no_text_are_refused(name, tmp_path, capsys):
    pytest.importorskip("tokenizers", reason="needs the extra hf: make test-hf")
    (tmp_path / "config.json").write_text(json.dumps(CASES["smollm2"]))
    gguf_tokenizer.write(tmp_path, FIELDS)
    content, problem = BYTES[name]
    (tmp_path / name).write_bytes(content)
    assert score.main([str(tmp_path), "--text", "the"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and problem in " ".join(said.split())


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no archive"])
def test_stored_logits_that_are_none_are_refused(content, tmp_path):
    (tmp_path / "golden.npz").write_bytes(content)
    for read in (golden.read, golden_words.unpacked):
        with pytest.raises(UsageError, match="golden"):
            read(tmp_path / "golden.npz")


def test_a_tokenizer_that_is_none_stops_a_live_comparison(tmp_path, capsys):
    pytest.importorskip("tokenizers", reason="needs the extra hf: make test-hf")
    (tmp_path / "config.json").write_text(json.dumps(CASES["smollm2"]))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UsageError, match="cut short"):
        golden.tokens_of(tmp_path, 64)


def test_a_text_as_long_as_a_long_rope_reaches_is_scored(tmp_path, capsys):
    """Its last token is not read for more than its law; one token more is refused."""
    for name in ("tokenizers", "safetensors"):
        pytest.importorskip(name, reason="needs the extra hf: make test-hf")
    made = spec_of("phi3_longrope")
    params = weights.load(made, weights.Arrays(random_tensors(made)))
    to, beside = tmp_path / "model", lambda draft: gguf_tokenizer.write(draft, FIELDS)
    folder.write(to, made, params, CASES["phi3_longrope"], beside)
    assert score.main([str(to), "--text", "a" * made.longest, "--json", "True"]) == 0
    assert len(json.loads(capsys.readouterr().out)["log_probs"]) == made.longest - 1
    assert score.main([str(to), "--text", "a" * (made.longest + 1)]) == 2
    assert f"beyond {made.longest} tokens" in " ".join(capsys.readouterr().err.split())
