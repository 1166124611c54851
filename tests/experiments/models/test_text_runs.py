"""Runs on text with a pretrained model's tokenizer and teacher: from a folder to a table, and what
is refused before anything is written."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest
from language_models import CASES, FIELDS, TOKENS, random_tensors, spec_of

pytest.importorskip("tokenizers", reason="needs the extra hf: make test-hf")
pytest.importorskip("safetensors", reason="needs the extra hf: make test-hf")

from experiments import assemble, cli, validation
from experiments import config as configs
from experiments.commands import compare
from experiments.config import make_config
from experiments.models import folder, gguf_tokenizer, pretrained, ready
from experiments.running import teacher
from fdiv import divergences
from fdiv import tokens as tk
from fdiv.benchmarks import Text
from fdiv.lm import spec as specs
from fdiv.lm import weights
from fdiv.policies import Architecture
from fdiv.types import UsageError

WORDS = ("the", "thin", "cat", "in", "a", "bat")


def made(path, case="smollm2", tokens=TOKENS, config=None):
    """A folder of a tiny model and a tokenizer."""
    spec = spec_of(case)
    params = weights.load(spec, weights.Arrays(random_tensors(spec)))
    fields = {**FIELDS, "tokenizer.ggml.tokens": tokens}
    folder.write(path, spec, params, CASES[case], lambda draft: gguf_tokenizer.write(draft, fields))
    if config:
        whole = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**whole, **config}))
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Models: the policy's; one of another family; one to which a token is another word; a short
    one; and rows."""
    path = tmp_path_factory.mktemp("runs")
    swapped = list(TOKENS)
    swapped[5], swapped[6] = swapped[6], swapped[5]
    made(path / "own")
    made(path / "other", "llama")
    made(path / "swapped", "llama", swapped)
    made(path / "short", "llama", config={"max_position_embeddings": 20})
    rows = [
        {"prompt": f"{a} {b}", "completion": f" {c} {a}"}
        for a in WORDS
        for b in WORDS
        for c in WORDS
    ]
    (path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def of(place, policy=None, **benchmark):
    text = Text(path=place / "rows.jsonl", **benchmark)
    return make_config(
        benchmark=text, methods=("sft",), policy=policy or Architecture("transformer")
    )


def hf(place, **fields):
    return Architecture("hf", path=str(place / "own"), **fields)


KINDS = {
    # policy is pretrained, --benchmark.teacher, its updates -> what the expert is
    "a transformer of its own": (False, None, 600, "trained"),
    "no updates": (False, None, 0, None),
    "none": (False, "none", 600, None),
    "pretrained": (True, None, 600, None),
    "trained for a pretrained policy": (True, "trained", 600, "trained"),
    "base": (True, "base", 600, "base"),
    "a path": (False, "other", 0, "other"),
}


@pytest.mark.parametrize("name", KINDS)
def test_which_teacher_a_run_has(name, place):
    is_hf, given, updates, kind = KINDS[name]
    config = of(place, hf(place) if is_hf else None, teacher=given, teacher_updates=updates)
    assert configs.teacher_of(config) == kind


def task_of(config):
    return assemble.task(config, assemble.data(config))


def refusal(config, preset=None):
    with pytest.raises(UsageError) as caught:
        validation.check(config, preset or config)
        teacher.untrained(config, task_of(config))
    return caught.value


def test_a_teacher_over_other_symbols_is_refused_with_both_sizes(place):
    other = str(place / "other")
    error = refusal(of(place, teacher=other))
    assert (error.field, error.value) == ("benchmark.teacher", other)
    assert "64" in error.problem and "257" in error.problem
    assert f"--benchmark.tokenizer {other}" in error.fix


def test_models_to_which_a_token_is_another_word_are_refused(place):
    own, swapped = place / "own", str(place / "swapped")
    error = refusal(of(place, tokenizer=own, teacher=swapped))
    assert (error.field, "'b' there" in error.problem) == ("benchmark.teacher", True) or (
        "there" in error.problem
    )
    policy = Architecture("hf", path=swapped)
    assert refusal(of(place, policy, tokenizer=own)).field == "policy.path"


@pytest.mark.parametrize("lengths", [{}, {"prompt_length": 8, "horizon": 13}])
def test_strings_beyond_a_models_positions_are_refused(lengths, place):
    error = refusal(of(place, tokenizer=place / "own", teacher=str(place / "short"), **lengths))
    assert error.field == "benchmark.horizon"
    assert "was made for 20" in error.problem
    if lengths:
        assert error.fix == "Give at most 12."
        shorter = of(place, tokenizer=place / "own", prompt_length=8, horizon=12)
        assert task_of(shorter).length == 20


def test_base_needs_a_pretrained_policy(place):
    assert "--policy.name hf" in refusal(of(place, teacher="base")).fix
    error = refusal(of(place, hf(place, init="random"), teacher="base"))
    assert error.field == "benchmark.teacher"


def test_the_whole_model_teaches_a_part_of_it(place):
    part = hf(place, without_layers=("1",))
    config = of(place, part, teacher="whole")
    assert configs.teacher_of(config) == str(place / "own")
    known = teacher.untrained(config, task_of(config))
    assert len(jax.tree.leaves(known.params)[0]) > 0
    spec = pretrained.source(place / "own").spec
    assert pretrained.check(part).layers == spec.layers - 1
    assert "--policy.name hf" in refusal(of(place, teacher="whole")).fix


def test_a_teacher_reads_a_message_that_nobody_else_does(place):
    config = of(place, hf(place), teacher="base", teacher_system="the cat")
    task = task_of(config)
    own = assemble.tokenizer(config.benchmark, config.policy)
    told = own.words.encode("the cat\n\n", special=False)
    assert task.hidden == ((*own.lead(), *told), len(own.lead()))
    strings = task.mdp.demos(jax.random.key(0), 3)
    alone = configs.replace(
        config, benchmark=dataclasses.replace(config.benchmark, teacher_system=None)
    )
    laws = [
        tk.log_probs(*teacher.untrained(each, task_of(each)), strings, task.mdp.vocab)
        for each in (config, alone)
    ]
    assert np.abs(laws[0] - laws[1]).max() > 1e-3
    assert not np.any(laws[0][~strings.mask])


def test_a_teacher_that_is_not_there_names_the_flag(place):
    error = refusal(of(place, teacher=str(place / "none")))
    assert error.field == "benchmark.teacher" and "trained, base or none" in error.fix


def test_a_pretrained_policy_brings_its_tokenizer(place):
    config = of(place, hf(place))
    task = task_of(config)
    assert (task.mdp.vocab, task.mdp.eos) == (64, 1)
    assert len(task.mdp.pieces.known) == len(TOKENS)
    assert configs.teacher_of(config) is None


def test_base_and_a_policy_with_adapters_are_one_copy(place):
    """And of what a run saves, nothing is of the teacher's."""
    adapted = Architecture("hf", path=str(place / "own"), lora=_rank(2))
    config = of(place, adapted, teacher="base")
    task = task_of(config)
    one, two = (teacher.untrained(config, task) for _ in range(2))
    own = pretrained.read(str(place / "own"))
    leaf = lambda params: params["params"]["embedding"]
    assert leaf(one.params) is leaf(two.params) is leaf(own.params)


def _rank(rank):
    return Architecture("hf").lora.__class__(rank=rank)


def test_the_teachers_files_are_part_of_a_runs_identity(place):
    config = of(place, tokenizer=place / "own", teacher=str(place / "other"))
    assert list(teacher.identity(config)) == ["teacher_model"]
    assert teacher.identity(of(place)) == {}


def test_from_folders_to_a_table(place, tmp_path, monkeypatch, capsys):
    """Exact per-token divergences over the vocabulary, before and after three updates."""
    monkeypatch.setattr(divergences, "logged", lambda: ["forward_kl", "reverse_kl", "js"])
    flags = {
        "--benchmark.path": place / "rows.jsonl",
        "--benchmark.tokenizer": place / "own",
        "--benchmark.teacher": place / "own",
        "--policy.width": 8,
        "--policy.layers": 1,
        "--policy.heads": 2,
        "--seeds": 1,
        "--updates": 3,
        "--warm-start": 0,
        "--evaluations": 1,
        "--batch-size": 4,
        "--samples": 4,
        "--temperatures": 1.0,
        "--report": False,
        "--cache": tmp_path / "cache",
        "--out": tmp_path / "run",
    }
    argv = ["text", "--methods", "sft", "distill:js"]
    argv += [str(word) for pair in flags.items() for word in pair]
    assert cli.run(compare.main, "experiments.compare", argv) == 0
    said = capsys.readouterr().out
    assert "NLL per byte" in said and "Teacher: " in said
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    for name in ("sft", "distill:js"):
        measured = results["methods"][name]["metrics"]
        assert {"forward_kl_token_expert", "bits_per_byte", "log_stop", "rouge_l"} <= set(measured)
        assert 0 < measured["js_token"]["iqm"] < 0.7
    check_likeliest(place / "own", tmp_path / "run" / "samples.jsonl")
    assert cli.presets()["text"][1].benchmark.teacher is None


def check_likeliest(model, samples):
    """Likeliest answers are kept beside drawn ones, and the teacher's is what `generate` writes."""
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    writers = [line["method"] for line in lines if "likeliest" in line]
    assert set(writers) == {"expert", "start", "sft", "distill:js"}
    assert all(("at_temperature_0.7" in line) == ("likeliest" in line) for line in lines)
    one = next(line for line in lines if line["method"] == "expert")
    whole = ready.read(model)
    prompt = whole.words.prompt(one["prompt"])
    tokens, _ = ready.write(whole, prompt, 1, 40, greedy=True)[0]
    said = whole.words.continued(prompt, tokens)
    assert one["likeliest"] and said.startswith(one["likeliest"]), (one, said)


TEMPLATES = {
    "sound": "{% for m in messages %}{{ m.role[0] }} {{ m.content }}<end>{% endfor %}"
    "{% if add_generation_prompt %}a {% endif %}",
    "silent": "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
    "unstable": "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}",
}


@pytest.fixture(scope="module")
def bad(place):
    """What a user may hand over by mistake, beside what is sound in `place`."""
    for name, template in TEMPLATES.items():
        made(place / name)
        (place / name / "chat_template.jinja").write_text(template)
    config = {**CASES["llama"], "vocab_size": 80}
    wide = specs.from_config(config)
    params = weights.load(wide, weights.Arrays(random_tensors(wide)))
    folder.write(place / "wide", wide, params, config, lambda draft: None)
    talks = [
        [{"role": "user", "content": f"{a} {b}"}, {"role": "assistant", "content": "a bat"}]
        for a in WORDS
        for b in WORDS
    ]
    files = {
        "talks": [{"messages": talk} for talk in talks],
        "one": [{"prompt": "the", "completion": " cat"}],
        "none": [],
    }
    for name, rows in files.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (place / f"{name}.jsonl").write_text(lines)
    return place


BAD = {
    # rows, policy, flags -> the flag that is named, and what is said of it
    "rows beyond the model's positions": (
        "rows",
        "short",
        {"prompt-length": 8, "horizon": 13},
        ("benchmark.horizon", "was made for 20", "Give at most 12"),
    ),
    "fitted rows beyond them": (
        "rows",
        "short",
        {},
        ("benchmark.horizon", "was made for 20"),
    ),
    "a tokenizer that is not the model's": (
        "rows",
        "own",
        {"tokenizer": "swapped"},
        ("policy.path", "reads other tokens", "that agree"),
    ),
    "bytes for a model of tokens": (
        "rows",
        "own",
        {"tokenizer": "bytes"},
        ("policy.path", "vocabulary of 64", "257 symbols"),
    ),
    "a teacher of another vocabulary": (
        "rows",
        "own",
        {"teacher": "wide"},
        ("benchmark.teacher", "vocabulary of 80", "64 tokens"),
    ),
    "a template without assistant turns": (
        "talks",
        "silent",
        {},
        ("benchmark.tokenizer", "without assistant turns"),
    ),
    "a template that is not stable over prefixes": (
        "talks",
        "unstable",
        {},
        ("benchmark.tokenizer", "not stable over prefixes"),
    ),
    "a message without a teacher": (
        "rows",
        "own",
        {"teacher_system": "hello"},
        ("benchmark.teacher_system", "this run has none", "base, whole"),
    ),
    "a message that says nothing": (
        "rows",
        "own",
        {"teacher": "base", "teacher_system": " "},
        ("benchmark.teacher_system", "says nothing"),
    ),
    "a message that would end its turn": (
        "talks",
        "sound",
        {"teacher": "base", "teacher_system": "the<end> cat"},
        ("benchmark.teacher_system", "holds '<end>'", "Write it otherwise"),
    ),
    "whole of no model": (
        "rows",
        "own",
        {"teacher": "whole", "tokenizer": "bytes"},
        ("policy.path", "vocabulary of 64"),
    ),
    "a file of one row": ("one", "own", {}, ("benchmark.validation", "no validation row of 1")),
    "a file of none": ("none", "own", {}, ("benchmark.path", "is empty")),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_in_a_paragraph_before_anything_is_written(
    name, bad, tmp_path, capsys
):
    rows, policy, flags, says = BAD[name]
    paths, words = {"tokenizer", "teacher"}, {"bytes", "base", "whole"}
    given = {k: bad / v if k in paths and v not in words else v for k, v in flags.items()}
    argv = ["text", "--methods", "sft", "--warm-start", "0", "--out", tmp_path / "run"]
    argv += ["--policy.name", "hf", "--policy.path", bad / policy]
    argv += ["--benchmark.path", bad / f"{rows}.jsonl", "--cache", tmp_path / "cache"]
    argv += [word for k, v in given.items() for word in (f"--benchmark.{k}", v)]
    assert cli.run(compare.main, "experiments.compare", list(map(str, argv))) == cli.USAGE_EXIT
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "\n\n" not in said.strip() and len(said) < 1500
    one_line = " ".join(said.split())
    assert all(words in one_line for words in says), one_line
    assert not (tmp_path / "run").exists()
