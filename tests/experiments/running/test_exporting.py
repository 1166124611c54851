"""Trained policies as folders in the Hugging Face layout."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import run_folders
import yaml
from language_models import CASES, FIELDS, random_tensors

from experiments.commands import export, generate, score
from experiments.config import make_config
from experiments.devices import programs
from experiments.models import adapters, byte_tokenizer, folder, gguf_tokenizer
from experiments.reporting import model_card
from fdiv import objectives
from fdiv.benchmarks import Markov, Text
from fdiv.lm import weights
from fdiv.lm.lora import Lora
from fdiv.policies import Architecture

EXTRA = "needs the extra hf: make test-hf"
TEXT = "naïve \n  text"
WHOLE = Lora()  # no adapters
SMALL = Architecture("transformer", layers=1, width=16, heads=2, kv_heads=1, window=5)


def text_run(path, spread=0.3, **fields):
    """A run of two methods on bytes, with a policy of its own for each and each seed."""
    given = {
        "benchmark": Text(path=path / "rows.jsonl", prompt_length=8, horizon=8),
        "policy": SMALL,
        "methods": ("sft", "distill:js"),
        "seeds": 2,
    } | fields
    run_folders.made(path / "run", make_config(**given), spread)
    return path / "run"


def pretrained_run(path, lora=WHOLE, without=(), spread=0.05):
    """A run on the tokens of a tiny model in bfloat16, from whose weights it began."""
    base = path / "base"
    spec = folder.from_config({**CASES["smollm2"], "torch_dtype": "bfloat16"})
    given = weights.load(spec, weights.Arrays(random_tensors(spec)))
    special = {"bos_token_id": 0, "eos_token_id": 1}

    def beside(draft):
        gguf_tokenizer.write(draft, FIELDS)
        (draft / "README.md").write_text("---\nlicense: apache-2.0\n---\n# base\n")
        (draft / "LICENSE").write_text("its words")
        (draft / "golden.npz").write_text("of the base alone")

    folder.write(base, spec, given, special, beside)
    policy = Architecture("hf", path=str(base), lora=lora, without_layers=without)
    bench = Text(path=path / "rows.jsonl", prompt_length=4, horizon=8)
    config = make_config(benchmark=bench, policy=policy, methods=("sft",), seeds=2)
    params = run_folders.made(path / "run", config, spread)
    return path / "run", params["sft"]


def call(main, *words):
    return main([str(word) for word in words])


def scores(capsys, *words, text=TEXT):
    capsys.readouterr()
    assert call(score.main, *words, "--text", text, "--json", "True") == 0
    return json.loads(capsys.readouterr().out)


def test_a_byte_level_policy_becomes_a_folder(tmp_path, capsys):
    """The folder scores and writes as the run does, and says what it is."""
    for library in ("safetensors", "tokenizers"):
        pytest.importorskip(library, reason=EXTRA)
    run, to = text_run(tmp_path), tmp_path / "new" / "model"
    assert call(export.main, run, "distill:js", "--seed", "1", "--to", to) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(to)
    assert {file.name for file in to.iterdir()} == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    config = json.loads((to / "config.json").read_text())
    assert config["model_type"] == "mistral" and config["sliding_window"] == 5
    assert config["bos_token_id"] == config["eos_token_id"] == config["vocab_size"] - 1 == 256
    flags = ("--method", "distill:js", "--seed", "1")
    theirs, ours = scores(capsys, to), scores(capsys, run, *flags)
    assert theirs["ids"] == ours["ids"] == [256, *TEXT.encode()]
    for name in ("log_probs", "entropy"):
        np.testing.assert_allclose(theirs[name], ours[name], atol=2e-5)
    other = scores(capsys, run, "--method", "distill:js")
    assert np.abs(np.subtract(theirs["log_probs"], other["log_probs"])).max() > 0.1
    written = []
    for words in ((run, *flags), (to,)):
        more = ("--prompt", "a", "--greedy", "True", "--max-new-tokens", "6")
        assert call(generate.main, *words, *more) == 0
        written.append(capsys.readouterr().out)
    assert written[0] == written[1]
    card = (to / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["fdiv"],
    }
    for said in ("# distill:js, seed 1", "A sentence.", "exact gradient of token js", "0.1000"):
        assert said in card
    assert str(tmp_path) not in card.split("```")[0]
    # a second export leaves the first, and the run is as it was
    before = (to / "config.json").stat().st_mtime_ns
    assert call(export.main, run, "sft", "--to", to) == 2
    assert "is there already" in " ".join(capsys.readouterr().err.split())
    assert (to / "config.json").stat().st_mtime_ns == before
    assert not [path for path in to.parent.iterdir() if path != to]


PRETRAINED = {
    # adapters, layers left out, layers of the folder
    "all weights": (Lora(), (), 2),
    "adapters": (Lora(rank=2), (), 2),
    "adapters, fewer layers": (Lora(rank=2, targets=("query", "down")), ("0",), 1),
}


@pytest.mark.parametrize("name", PRETRAINED)
def test_a_pretrained_policy_becomes_a_folder(name, tmp_path, capsys, monkeypatch):
    """With the base's words, template and licence; adapters are merged in float32. The weights
    that a policy holds frozen are large here, and so written into no program."""
    monkeypatch.setattr(programs, "LARGE", 64)
    for library in ("safetensors", "tokenizers"):
        pytest.importorskip(library, reason=EXTRA)
    lora, without, layers = PRETRAINED[name]
    run, params = pretrained_run(tmp_path, lora, without)
    to = tmp_path / "model"
    assert call(export.main, run, "sft", "--seed", "1", "--to", to) == 0
    made = folder.read(to)
    assert (made.spec.layers, made.spec.dtype) == (layers, "float32")
    if not lora.wanted:
        own = jax.tree.map(lambda x: np.asarray(x[1]), params)
        jax.tree.map(np.testing.assert_array_equal, made.params, own)
    assert made.config["eos_token_id"] == 1
    for file in ("tokenizer.json", "chat_template.jinja", "generation_config.json", "LICENSE"):
        assert (to / file).read_bytes() == (tmp_path / "base" / file).read_bytes()
    assert not (to / "golden.npz").exists()
    theirs = scores(capsys, to, text="the cat")
    ours = scores(capsys, run, "--seed", "1", text="the cat")
    assert theirs["ids"] == ours["ids"]
    np.testing.assert_allclose(theirs["log_probs"], ours["log_probs"], atol=2e-5)
    base = scores(capsys, tmp_path / "base", text="the cat")
    assert np.abs(np.subtract(theirs["log_probs"], base["log_probs"])).max() > 0.01
    card = (to / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert (front["base_model"], front["license"]) == ("base", "apache-2.0")
    assert ("rank 2" in card) == lora.wanted and ("without layers 0" in card) == bool(without)


def test_adapters_are_written_alone(tmp_path, capsys):
    """As PEFT has them, bit for bit, for the model that they belong to."""
    for library in ("safetensors", "tokenizers"):
        pytest.importorskip(library, reason=EXTRA)
    run, params = pretrained_run(tmp_path, Lora(rank=2))
    to = tmp_path / "model"
    assert call(export.main, run, "sft", "--adapter", "True", "--to", to) == 0
    capsys.readouterr()
    names = {file.name for file in to.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= names
    assert "config.json" not in names and "peft" in (to / "README.md").read_text()
    again = adapters.read(to, folder.read(tmp_path / "base").spec)
    own = jax.tree.map(lambda x: np.asarray(x[0]), params)
    jax.tree.map(np.testing.assert_array_equal, again.params, own)
    config = json.loads((to / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "base")
    assert call(score.main, to, "--text", "a") == 2
    assert "low-rank adapters" in " ".join(capsys.readouterr().err.split())


def test_adapters_of_what_has_none_are_refused(tmp_path, capsys):
    pytest.importorskip("safetensors", reason=EXTRA)
    pytest.importorskip("tokenizers", reason=EXTRA)
    cut, _ = pretrained_run(tmp_path / "cut", Lora(rank=1), ("1",), None)
    full, _ = pretrained_run(tmp_path / "full", spread=None)
    for run, said in ((cut, "without some of its layers"), (full, "trained all weights")):
        flags = ("--adapter", "True", "--to", tmp_path / "model")
        assert call(export.main, run, "sft", *flags) == 2
        assert said in " ".join(capsys.readouterr().err.split())
    # of other weights than the run's, nothing is made
    (tmp_path / "full" / "base" / "config.json").write_text(
        json.dumps({**CASES["smollm2"], "rope_theta": 9.0})
    )
    assert call(export.main, full, "sft", "--to", tmp_path / "model") == 2
    assert "other weights" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "model").exists()


def test_the_tokenizer_is_bytes():
    """The table of byte-level tokenizers, some of whose entries everybody knows."""
    shown = byte_tokenizer.alphabet()
    assert len(set(shown)) == 256
    assert [shown[b] for b in b"aZ~! \n\x00"] == [*"aZ~!", "Ġ", "Ċ", "Ā"]
    assert shown[0xC3] == "Ã" and shown[0xAD] == "Ń"


REFUSED = {
    # fields of the config, flags, what is said
    "a table": ({"policy": Architecture("markov")}, ("sft",), "is a table and no language model"),
    "symbols of a task": (
        {"benchmark": Markov(vocab=2, horizon=3)},
        ("sft",),
        "has symbols of its own",
    ),
    "a method that is not there": ({}, ("gail",), "no method of this run"),
    "a seed that is not there": ({}, ("sft", "--seed", "2"), "Give 0 to 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_language_model_is_refused(name, tmp_path, capsys):
    fields, flags, words = REFUSED[name]
    run, to = text_run(tmp_path, None, **fields), tmp_path / "model"
    assert call(export.main, run, *flags, "--to", to) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert err.startswith("error: ") and words in err
    assert not to.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_no_run_is_no_run(tmp_path, capsys):
    for words, said in (("nothing", "is no folder"), (".", "holds no config.json")):
        assert call(export.main, tmp_path / words, "sft", "--to", tmp_path / "model") == 2
        assert said in " ".join(capsys.readouterr().err.split())


VERDICTS = {
    "sft": ({}, "exact gradient of sequence forward_kl"),
    "sft at its own rate": ({"learning_rate": 0.5}, "exact gradient of sequence forward_kl"),
    "gail": ({"level": "token"}, "exact gradient of token js on the expert's prefixes"),
    "distill:js": ({}, "exact gradient of token js on the expert's prefixes"),
    "distill:tv": ({}, ""),  # the card has no such line
    "sft twice": ({"aggregate": "token"}, "exact gradient of sequence forward_kl, times 0.463"),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_the_gradient_cards_sentence_is_that_of_the_hyperparameters(name):
    fields, verdict = VERDICTS[name]
    name = name.partition(" ")[0]
    method = dataclasses.replace(objectives.resolve(name), **fields)
    assert model_card.gradient(name, method) == verdict


def test_a_folder_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    pytest.importorskip("safetensors", reason=EXTRA)
    pytest.importorskip("tokenizers", reason=EXTRA)
    run = text_run(tmp_path, methods=("sft",), seeds=1)
    monkeypatch.setattr(model_card, "page", lambda made: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        call(export.main, run, "sft", "--to", tmp_path / "model")
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
