"""Trained policies as folders in the Hugging Face layout."""

import dataclasses
import json

import numpy as np
import pytest
import run_folders
import yaml

from experiments import export, generate, score
from experiments.config import make_config
from experiments.models import byte_tokenizer
from experiments.reporting import model_card
from fdiv import objectives
from fdiv.benchmarks import Markov, Text
from fdiv.policies import Architecture

EXTRA = "needs the extra hf: make test-hf"
TEXT = "naïve \n  text"
SMALL = Architecture("transformer", layers=1, width=16, heads=2, kv_heads=1, window=5)


def text_run(path, **fields):
    """A run of two methods on bytes, with a policy of its own for each and each seed."""
    given = {
        "benchmark": Text(path=path / "rows.jsonl", prompt_length=8, horizon=8),
        "policy": SMALL,
        "methods": ("sft", "distill:js"),
        "seeds": 2,
    } | fields
    run_folders.made(path / "run", make_config(**given), sharpness=2.0)
    return path / "run"


def call(main, *words):
    return main([str(word) for word in words])


def scores(capsys, *words):
    capsys.readouterr()
    assert call(score.main, *words, "--text", TEXT, "--json", "True") == 0
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


def test_the_tokenizer_is_bytes():
    """The table of byte-level tokenizers, some of whose entries everybody knows."""
    shown = byte_tokenizer.alphabet()
    assert len(set(shown)) == 256
    assert [shown[b] for b in b"aZ~! \n\x00"] == [*"aZ~!", "Ġ", "Ċ", "Ā"]
    assert shown[0xC3] == "Ã" and shown[0xAD] == "Ń"


REFUSED = {
    # fields of the config, flags, what is said
    "a table": ({"policy": Architecture("markov")}, ("sft",), "a table and no language model"),
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
    run, to = text_run(tmp_path, **fields), tmp_path / "model"
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
