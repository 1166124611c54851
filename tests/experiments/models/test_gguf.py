"""GGUF files: what differs from the checkpoint that they were made from is undone."""

import json
import os
import signal

import numpy as np
import pytest
from language_models import CASES, FIELDS, TOKENS, random_tensors, spec_of

import experiments
from experiments import cli
from experiments.commands import compare, export, generate, score
from experiments.models import folder, gguf_files, gguf_tokenizer, words
from experiments.running import method
from fdiv.lm import weights
from fdiv.types import UsageError

gguf = pytest.importorskip("gguf", reason="needs the extra gguf: make test-hf")
SHORT = {theirs: own for own, theirs in {**gguf_files.LAYER, **gguf_files.OUTSIDE}.items()}


def file_name(name):
    """A tensor's name in a GGUF file."""
    stem, _, kind = name.rpartition(".")
    if stem in SHORT:
        return f"{SHORT[stem]}.{kind}"
    _, _, layer, own = stem.split(".", 3)
    return f"blk.{layer}.{SHORT[own]}.{kind}"


def written(path, case, architecture, tokenizer=False, **more):
    """A GGUF file of a tiny model, as llama.cpp converts one: eps in float32, llama's queries and
    keys with the two numbers that turn together side by side."""
    spec = spec_of(case)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(spec.layers)
    writer.add_context_length(spec.max_length)
    writer.add_embedding_length(spec.width)
    writer.add_feed_forward_length(spec.hidden)
    writer.add_head_count(spec.heads)
    writer.add_head_count_kv(spec.kv_heads)
    writer.add_key_length(spec.head_dim)
    writer.add_layer_norm_rms_eps(spec.eps)
    writer.add_rope_freq_base(spec.ropes[0].theta)
    writer.add_vocab_size(spec.vocab)
    if tokenizer:
        writer.add_tokenizer_model(FIELDS["tokenizer.ggml.model"])
        writer.add_tokenizer_pre(FIELDS["tokenizer.ggml.pre"])
        writer.add_token_list(TOKENS)
        writer.add_token_types(FIELDS["tokenizer.ggml.token_type"])
        writer.add_token_merges(FIELDS["tokenizer.ggml.merges"])
        writer.add_bos_token_id(FIELDS["tokenizer.ggml.bos_token_id"])
        writer.add_eos_token_id(FIELDS["tokenizer.ggml.eos_token_id"])
        writer.add_chat_template(FIELDS["tokenizer.chat_template"])
    for name, value in more.items():
        add = writer.add_string if isinstance(value, str) else writer.add_uint32
        add = writer.add_array if isinstance(value, list) else add
        add(name.replace("__", "."), value)
    for name, array in random_tensors(spec).items():
        if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            halves = array.reshape(-1, 2, spec.head_dim // 2, spec.width)
            array = halves.swapaxes(1, 2).reshape(array.shape)
        writer.add_tensor(file_name(name), np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_file_reads_text_as_the_folder_that_is_made_of_it(tmp_path, capsys):
    """The same words, scores and samples."""
    pytest.importorskip("tokenizers", reason="needs the extra hf: make test-hf")
    file = written(tmp_path / "model.gguf", "smollm2", "llama", tokenizer=True)
    source = folder.source(file)
    checkpoint = folder.loaded(source)
    beside = lambda draft: gguf_tokenizer.write(draft, source.file.fields)
    folder.write(tmp_path / "model", checkpoint.spec, checkpoint.params, checkpoint.config, beside)
    said = []
    for path in (file, tmp_path / "model"):
        assert score.main([str(path), "--text", "the thin cat", "--json", "True"]) == 0
        argv = ["--prompt", "the", "--chat", "True", "--max-new-tokens", "5"]
        assert generate.main([str(path), *argv]) == 0
        said.append(capsys.readouterr())
    assert said[0] == said[1]
    text = [words.read(folder.source(path)) for path in (file, tmp_path / "model")]
    # all but the objects and the bytes that they were read from
    plain = [own._replace(backend=None, content="") for own in text]
    assert plain[0] == plain[1]
    assert text[0].eos == (1,)


@pytest.mark.parametrize(
    "case, architecture",
    [("smollm2", "llama"), ("llama", "llama"), ("qwen2", "qwen2"), ("qwen3", "qwen3")],
)
def test_a_file_reads_as_the_checkpoint_that_it_was_made_from(case, architecture, tmp_path):
    read = folder.read(written(tmp_path / "model.gguf", case, architecture))
    spec = spec_of(case)
    assert read.spec == spec
    assert read.spec.eps in (1e-5, 1e-6)  # not 9.999999747378752e-06
    for name, array in weights.stored(spec, read.params):
        np.testing.assert_array_equal(array, random_tensors(spec)[name])


def test_quantised_tensors_are_made_plain(tmp_path):
    """Q8_0 keeps a number within 1/254 of the largest of its 32 neighbours."""
    array = np.random.RandomState(0).standard_normal((4, 64)).astype(np.float32)
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    kind = gguf.GGMLQuantizationType.Q8_0
    packed = gguf.quantize(array, kind)
    writer.add_tensor("output.weight", packed, raw_shape=packed.shape, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = gguf_files.File(tmp_path / "model.gguf")
    assert file.shapes() == {"lm_head.weight": (4, 64)}
    np.testing.assert_allclose(file.rows("lm_head.weight", 1, 3), array[1:3], atol=0.02)


def test_what_is_not_read_is_refused(tmp_path):
    with pytest.raises(UsageError, match="gemma3"):
        folder.read(written(tmp_path / "a.gguf", "smollm2", "gemma3"))
    scaled = {"llama__rope__scaling__type": "yarn"}
    with pytest.raises(UsageError, match="yarn"):
        folder.read(written(tmp_path / "b.gguf", "smollm2", "llama", **scaled))
    for field in (
        {"llama__attention__sliding_window": 5},
        {"llama__expert_count": 8},
        {"llama__rope__dimension_count": 4},
        {"llama__attention__value_length": 4},
        {"llama__rope__scaling__factor": 2},
    ):
        (name,) = field
        with pytest.raises(UsageError, match=name.replace("__", ".")):
            folder.read(written(tmp_path / "f.gguf", "smollm2", "llama", **field))
    plain = {"llama__rope__dimension_count": 8, "llama__expert_count": 0}
    folder.read(written(tmp_path / "g.gguf", "smollm2", "llama", **plain))
    with pytest.raises(UsageError, match="one of several files"):
        folder.read(written(tmp_path / "h.gguf", "smollm2", "llama", split__count=2))
    (tmp_path / "c.gguf").write_bytes((tmp_path / "b.gguf").read_bytes()[:5000])
    with pytest.raises(UsageError, match="cut short"):
        folder.read(tmp_path / "c.gguf")
    with pytest.raises(UsageError, match="not there"):
        folder.read(tmp_path / "d.gguf")
    with pytest.raises(UsageError, match="tokenizer"):
        gguf_tokenizer.tokenizer({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "other"})


def test_a_file_that_is_cut_anywhere_is_refused(tmp_path, capsys):
    """Also within its header and its fields, by a command and in one paragraph."""
    whole = written(tmp_path / "a.gguf", "smollm2", "llama", tokenizer=True).read_bytes()
    place = tmp_path / "b.gguf"
    for size in (0, 3, 8, 20, 24, 100, 400, 1500, len(whole) // 2, len(whole) - 1):
        place.write_bytes(whole[:size])
        assert score.main([str(place), "--text", "the"]) == 2, size
        assert "cut short" in " ".join(capsys.readouterr().err.split()), size


BROKEN_WORDS = {
    "no tokens": {"tokenizer.ggml.tokens": None},
    "tokens that are numbers": {"tokenizer.ggml.tokens": [1, 2]},
    "no merges": {"tokenizer.ggml.merges": None},
    "merges of nothing": {"tokenizer.ggml.merges": ["zz qq"]},
    "kinds of other tokens": {"tokenizer.ggml.token_type": [1]},
    "an end beyond": {"tokenizer.ggml.eos_token_id": 999},
    "a beginning that is text": {"tokenizer.ggml.bos_token_id": "x"},
}


@pytest.mark.parametrize("name", BROKEN_WORDS)
def test_a_tokenizer_that_is_broken_is_refused_by_its_field(name, tmp_path):
    pytest.importorskip("tokenizers", reason="needs the extra hf: make test-hf")
    ((field, _),) = BROKEN_WORDS[name].items()
    with pytest.raises(UsageError) as error:
        gguf_tokenizer.write(tmp_path, {**FIELDS, **BROKEN_WORDS[name]})
    assert error.value.value == field


def test_the_cases_cover_what_is_read():
    assert {CASES[c]["model_type"] for c in ("smollm2", "qwen2", "qwen3")} == set(gguf_files.READ)


PLAIN = {
    "--policy.name": "hf",
    "--benchmark.teacher": "none",
    "--benchmark.prompt-length": 8,
    "--benchmark.horizon": 8,
    "--seeds": 1,
    "--warm-start": 0,
    "--batch-size": 4,
    "--samples": 4,
    "--temperatures": 1.0,
    "--report": False,
}


def a_run(place, model, to, **more):
    """The exit code of likelihood training on a model."""
    said = ("the", "thin", "cat", "in", "a", "bat")
    rows = [{"prompt": a, "completion": f" {b} {a}"} for a in said for b in said]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (place / "rows.jsonl").write_text(lines)
    flags = {**PLAIN, "--benchmark.path": place / "rows.jsonl", "--policy.path": model}
    flags |= {"--out": place / to, **{f"--{k.replace('_', '-')}": v for k, v in more.items()}}
    argv = ["text", "--methods", "sft", *(str(x) for pair in flags.items() for x in pair)]
    return cli.run(compare.main, "experiments.compare", argv)


def measured(run):
    """What was measured at the end of a run."""
    return json.loads((run / "results.json").read_text())["methods"]["sft"]["metrics"]


def test_a_run_learns_from_a_file_as_from_the_folder_that_is_made_of_it(tmp_path, capsys):
    """The same losses, with dropout in them; and what was learned is a folder that scores text."""
    for library in ("tokenizers", "safetensors"):
        pytest.importorskip(library, reason="needs the extra hf: make test-hf")
    file = written(tmp_path / "model.gguf", "smollm2", "llama", tokenizer=True)
    source = folder.source(file)
    checkpoint = folder.loaded(source)
    beside = lambda draft: gguf_tokenizer.write(draft, source.file.fields)
    folder.write(tmp_path / "model", checkpoint.spec, checkpoint.params, checkpoint.config, beside)
    adapted = {"policy.lora.rank": 2, "policy.lora.dropout": 0.1, "updates": 2, "evaluations": 1}
    for model, to in ((file, "a"), (tmp_path / "model", "b")):
        assert a_run(tmp_path, model, to, **adapted) == 0
    one, other = measured(tmp_path / "a"), measured(tmp_path / "b")
    assert len(one) > 5 and one == other
    assert export.main([str(tmp_path / "a"), "sft", "--to", str(tmp_path / "out")]) == 0
    assert "dropout 0.1 in training" in (tmp_path / "out/README.md").read_text()
    assert score.main([str(tmp_path / "out"), "--text", "the thin cat", "--json", "True"]) == 0
    assert "NaN" not in capsys.readouterr().out
    adapters = ["sft", "--adapter", "True", "--to", str(tmp_path / "alone")]
    assert export.main([str(tmp_path / "a"), *adapters]) == 0
    said = json.loads((tmp_path / "alone/adapter_config.json").read_text())
    assert said["lora_dropout"] == 0.1 and said["base_model_name_or_path"] == str(file)


def test_a_run_on_a_file_is_stopped_goes_on_and_is_used(tmp_path, capsys, monkeypatch):
    """All weights of it are trained: the same end as undisturbed, and a policy that writes, scores,
    loads and is exported."""
    for library in ("tokenizers", "safetensors"):
        pytest.importorskip(library, reason="needs the extra hf: make test-hf")
    file = written(tmp_path / "model.gguf", "smollm2", "llama", tokenizer=True)
    how = {"updates": 4, "evaluations": 2}
    assert a_run(tmp_path, file, "whole", **how) == 0
    looked, alarms = [], method.alarms

    def stopping(*seen):
        looked.append(None)
        if len(looked) == 2:  # the start is measured first
            os.kill(os.getpid(), signal.SIGTERM)
        return alarms(*seen)

    with monkeypatch.context() as patched:
        patched.setattr(method, "alarms", stopping)
        assert a_run(tmp_path, file, "run", **how) == cli.STOPPED_EXIT
    assert a_run(tmp_path, file, "run", **how) == 0
    assert "goes on from update" in capsys.readouterr().out
    assert measured(tmp_path / "run") == measured(tmp_path / "whole")
    run = str(tmp_path / "run")
    assert generate.main([run, "--prompt", "the", "--max-new-tokens", "4"]) == 0
    assert score.main([run, "--text", "the thin cat", "--json", "True"]) == 0
    own = json.loads(capsys.readouterr().out.splitlines()[-1])
    loaded = experiments.load(run).methods["sft"]
    (sample,) = loaded.sample(1)
    assert np.isfinite(sample.log_prob)
    assert export.main([run, "sft", "--to", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    assert score.main([str(tmp_path / "out"), "--text", "the thin cat", "--json", "True"]) == 0
    theirs = json.loads(capsys.readouterr().out)
    assert theirs["ids"] == own["ids"]
    np.testing.assert_allclose(theirs["log_probs"], own["log_probs"], atol=1e-5)
