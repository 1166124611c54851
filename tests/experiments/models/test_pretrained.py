"""Pretrained models as policies: one copy of their weights, the same start for all seeds, and what
cannot be is refused before a folder is claimed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_lines import over
from language_models import random_tensors
from pretrained_models import BYTES, CONFIG, made, rows, save

from experiments import assemble, cli, fields, validation
from experiments import config as configs
from experiments.commands import compare
from experiments.config import make_config, replace
from experiments.devices import lay_out, programs
from experiments.evaluation.evaluator import Evaluator, judging_keys
from experiments.models import adapters as adapter_files
from experiments.models import pretrained, safetensor_files
from experiments.running import footprint, head_to_head, ready, resume, runs, teacher, train
from experiments.running.stopping import Interrupted, StopFlag
from experiments.storage import checkpoints
from fdiv.benchmarks import Text
from fdiv.lm import lora, peft
from fdiv.lm import spec as specs
from fdiv.lm.lora import Lora
from fdiv.policies import Architecture
from fdiv.types import UsageError

ADAPTED = {"lora": Lora(rank=2, targets=("query", "down"))}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    return made(tmp_path / "model", monkeypatch)


def config_of(tmp_path, folder, **policy):
    """Of text byte by byte, without a teacher."""
    text = Text(
        path=rows(tmp_path / "rows.jsonl"),
        tokenizer=Path("bytes"),
        prompt_length=12,
        horizon=6,
        teacher_updates=0,
    )
    return make_config(
        benchmark=text,
        policy=Architecture("hf", path=str(folder), **policy),
        methods=("sft",),
        seeds=2,
        batch_size=4,
        exact_limit=0,
        samples=4,
    )


def started(config):
    """(components, what each seed starts from)."""
    task = assemble.task(config)
    components = assemble.components(config, task)
    keys = assemble.seed_keys(config, config.budget.seeds)
    return task, components, runs.starts(config, task, components, keys)


def test_all_weights_start_as_the_file_has_them(tmp_path, folder):
    config = config_of(tmp_path, folder)
    _, _, start = started(config)
    read = pretrained.read(folder)
    for each in range(2):
        own = jax.tree.map(lambda x, i=each: x[i], start)
        jax.tree.map(np.testing.assert_array_equal, own, read.params)
    need = {each.what: each.bytes for each in footprint.needs(config, footprint.Sizes(BYTES, 18))}
    numbers = pretrained.size(read.spec)
    assert numbers == sum(x.size for x in jax.tree.leaves(read.params))
    assert need["the policies' parameters"] == 2 * numbers * 4 * 4  # gradient and two moments
    assert need["the frozen weights"] == 0


def test_adapters_are_all_that_a_run_keeps(tmp_path, folder):
    config = config_of(tmp_path, folder, **ADAPTED)
    _, _, start = started(config)
    assert set(start) == {"lora"}
    a, b = ([x[side] for _, *x in lora.each(start)] for side in (0, 1))
    assert all(np.any(x[0] != x[1]) for x in a)  # by seed
    assert not any(np.any(x) for x in b)
    need = {each.what: each.bytes for each in footprint.needs(config, footprint.Sizes(BYTES, 18))}
    size = sum(x[0].size for x in jax.tree.leaves(start))
    assert need["the policies' parameters"] == 2 * size * 4 * 4
    assert need["the frozen weights"] == 4 * pretrained.size(pretrained.check(config.policy))


def test_one_path_is_read_once_until_its_files_change(folder):
    first = pretrained.read(folder)
    other = Architecture("hf", path=str(folder), without_layers=("1",), **ADAPTED)
    pretrained.policy(other)
    cut = pretrained.read(folder, kept=(0, 2))
    assert cut.spec.layers == 2
    assert cut.params["params"]["embedding"] is first.params["params"]["embedding"]
    again = pretrained.read(folder)
    assert all(map(lambda x, y: x is y, *map(jax.tree.leaves, (first.params, again.params))))
    tensors = random_tensors(first.spec)
    save(folder, {name: 2 * x for name, x in tensors.items()})
    changed = pretrained.read(folder)
    np.testing.assert_array_equal(
        changed.params["params"]["embedding"], 2 * first.params["params"]["embedding"]
    )


def test_layers_are_left_out(folder):
    read = pretrained.read(folder)
    own = Architecture("hf", path=str(folder), without_layers=("0-0", "2"))
    kept = pretrained.policy(own).init(jax.random.key(0))["params"]["layers"]
    whole = read.params["params"]["layers"]
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y[1:2]), kept, whole)


def test_random_weights_take_the_architecture_alone(tmp_path, folder):
    (folder / safetensor_files.SINGLE).unlink()
    _, _, start = started(config_of(tmp_path, folder, init="random"))
    embedding = start["params"]["embedding"]
    assert embedding.shape == (2, BYTES, CONFIG["hidden_size"])
    assert np.any(embedding[0] != embedding[1])


def test_sampling_is_training_to_rounding_with_adapters_on(tmp_path, folder, monkeypatch):
    """The number that every run with a network prints, from weights that are arguments."""
    monkeypatch.setattr(programs, "LARGE", 1 << 10)
    monkeypatch.setattr(Evaluator, "_from_samples", lambda self, params, judged, t: ({}, ()))
    config = config_of(tmp_path, folder, without_layers=("1-2",), **ADAPTED)
    task, components, start = started(config)
    layout = lay_out(2, config.devices)
    start = layout.put(lora.perturbed(jax.random.key(0), start))
    evaluator = Evaluator(config.evaluation, judging_keys(0, 2), task, components, layout, start)
    assert evaluator._answer.closed_over
    assert 0 < evaluator.sampling_error(start) < 1e-5


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, folder):
    """And its saves hold adapters, none of the frozen weights; dropout's masks go on as well."""
    own = dataclasses.replace(ADAPTED["lora"], dropout=0.3)
    config = config_of(tmp_path, folder, without_layers=("1-2",), lora=own)
    config = replace(config, updates=4, accumulate=2)
    task, components, start = started(config)
    (method,) = configs.resolve(config).values()
    objective, layout = method.build(components), lay_out(2, config.devices)
    own = runs.Runs(assemble.seed_keys(config, 2), start, jnp.full(2, 0.01))
    compiled = []

    def training(name, stop):
        saves = resume.Saves(tmp_path / name, keep=1, every=0, stop=stop)
        each = train.prepare(config, task, objective, layout, own, saves=saves)
        each.__dict__["compiled"] = compiled[0] if compiled else each.compiled
        compiled.append(each.compiled)
        return each

    whole = train.to_end(training("whole", StopFlag()))
    stop = StopFlag()
    with pytest.raises(Interrupted):
        for progress in train.fit(training("stopped", stop), stops=[2]):
            stop.asked = progress.update == 2
    arrays, about = checkpoints.read(tmp_path / "stopped")
    assert about["update"] == 2
    embedding = BYTES * CONFIG["hidden_size"]
    assert max(np.size(array) for array in arrays) < embedding
    end = train.to_end(training("stopped", StopFlag()))
    for part in ("params", "opt"):
        ended, undisturbed = (layout.host(getattr(x.learner, part)) for x in (end, whole))
        jax.tree.map(np.testing.assert_array_equal, ended, undisturbed)


def test_other_weights_under_the_same_path_are_another_run(folder):
    own = Architecture("hf", path=str(folder), **ADAPTED)
    before = pretrained.identity(own)
    assert pretrained.identity(own) == before
    tensors = random_tensors(specs.from_config(CONFIG))
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] += 1e-3
    save(folder, tensors)
    assert pretrained.identity(own) != before
    assert pretrained.identity(Architecture("markov")) == {}


def test_the_narrowest_type_that_holds_a_file(folder, monkeypatch):
    described = pretrained.source(folder)
    types = {("BF16",): "bfloat16", ("F16",): "float16", ("BF16", "F32"): "float32"}
    for kinds, dtype in types.items():
        monkeypatch.setattr(safetensor_files.Files, "kinds", lambda self, k=kinds: set(k))
        assert pretrained._dtype(described, "file") == dtype
        assert pretrained._dtype(described, "float32") == "float32"


HF = ["--policy.name", "hf"]
REFUSED = {  # flags after the path -> the field that is named, and what is said
    "no path": (["--policy.path", "None"], "policy.path", "names no model"),
    "no folder": (["--policy.path", "nowhere"], "policy.path", "is not there"),
    "a hub's name": (["--policy.path", "hf://alone"], "policy.path", "hf://ORGANISATION/NAME"),
    "a layer": (["--policy.without-layers", "2-3"], "policy.without_layers", "names layer 3"),
    "no layer": (["--policy.without-layers", "0-2"], "policy.without_layers", "leaves no layer"),
    "no number": (["--policy.without-layers", "x"], "policy.without_layers", "is no layer"),
    "backwards": (["--policy.without-layers", "2-1"], "policy.without_layers", "Give 1-2"),
    "rank": (["--policy.lora.rank", "0"], "policy.lora.rank", "is too small"),
    "alpha": (["--policy.lora.alpha", "4"], "policy.lora.alpha", "give a rank"),
    "dropout": (["--policy.lora.dropout", "0.1"], "policy.lora.dropout", "give a rank"),
    "all dropped": (
        ["--policy.lora.rank", "2", "--policy.lora.dropout", "1"],
        "policy.lora.dropout",
        "is too large",
    ),
    "a scorer's dropout": (
        [
            *("--scorer.name", "hf", "--scorer.lora.rank", "2", "--scorer.lora.dropout", "0.1"),
            *("--methods", "gail"),
        ],
        "scorer.lora.dropout",
        "is computed without",
    ),
    "targets": (["--policy.lora.rank", "2", "--policy.lora.targets", "q_proj"], "targets", "query"),
    "frozen random": (
        ["--policy.lora.rank", "2", "--policy.init", "random"],
        "policy.init",
        "nobody has trained",
    ),
    "stored": (["--policy.stored", "file"], "policy.stored", "all are trained"),
    "size": (["--policy.width", "8"], "policy.width", "hf has no such size"),
    "adapters": (["--policy.lora.path", "nowhere"], "policy.lora.path", "adapter_config.json"),
    "a scorer's init": (
        ["--scorer.name", "hf", "--scorer.init", "random", "--methods", "gail"],
        "scorer.init",
        "stays frozen",
    ),
    "a scorer's adapters": (
        ["--scorer.name", "hf", "--scorer.lora.path", "nowhere", "--methods", "gail"],
        "scorer.lora.path",
        "stays frozen",
    ),
    "a scorer that is not there": (
        ["--scorer.name", "hf", "--scorer.path", "nowhere", "--methods", "gail"],
        "scorer.path",
        "nowhere",
    ),
    "of a table": (["--policy.name", "markov"], "policy.path", "markov has no such size"),
}


@pytest.fixture
def nothing_trained(monkeypatch):
    monkeypatch.setattr(head_to_head, "_train_and_finish", lambda launch, reading: 0)
    monkeypatch.setattr(teacher, "get", lambda *words: pytest.fail("a teacher was trained"))


def run(tmp_path, folder, *flags):
    words = ["text", "--benchmark.path", str(tmp_path / "rows.jsonl"), *HF]
    words += ["--policy.path", str(folder), "--methods", "sft", "--seeds", "1"]
    words += [
        "--benchmark.teacher-updates",
        "0",
        "--benchmark.tokenizer",
        "bytes",
        "--out",
        str(tmp_path / "run"),
    ]
    return cli.run(compare.main, "experiments.compare", over(words, flags))


@pytest.mark.few(8)
@pytest.mark.parametrize("name", REFUSED)
def test_flags_that_cannot_be_leave_nothing(name, tmp_path, folder, nothing_trained, capsys):
    flags, field, said = REFUSED[name]
    rows(tmp_path / "rows.jsonl")
    try:
        code = run(tmp_path, folder, *flags)
    except SystemExit as error:  # the parser's own
        code = error.code
    error = " ".join(capsys.readouterr().err.split())
    assert code == cli.USAGE_EXIT
    assert said in error and field in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


def no_config(folder):
    (folder / "config.json").unlink()


def unknown_family(folder):
    (folder / "config.json").write_text(json.dumps({**CONFIG, "model_type": "mamba"}))


def other_shape(folder):
    (folder / "config.json").write_text(json.dumps({**CONFIG, "hidden_size": 48}))


def another_vocabulary(folder):
    config = {**CONFIG, "vocab_size": 300}
    (folder / "config.json").write_text(json.dumps(config))
    save(folder, random_tensors(specs.from_config(config)))


def no_weights(folder):
    (folder / safetensor_files.SINGLE).unlink()


def no_shard(folder):
    (folder / safetensor_files.SINGLE).rename(folder / "model-00001-of-00002.safetensors")
    places = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / safetensor_files.INDEX).write_text(json.dumps({"weight_map": places}))


def not_finite(folder):
    tensors = random_tensors(specs.from_config(CONFIG))
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = np.nan
    save(folder, tensors)


def another_head(folder):
    tensors = random_tensors(specs.from_config(CONFIG))
    save(folder, tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"] + 1})


def two_checkpoints(folder):
    (folder / "model-00001-of-00001.safetensors").write_bytes(b"")
    places = {"a": "model-00001-of-00001.safetensors"}
    (folder / safetensor_files.INDEX).write_text(json.dumps({"weight_map": places}))


def test_what_is_only_planned_needs_no_weights(tmp_path, folder):
    rows(tmp_path / "rows.jsonl")
    no_weights(folder)
    config = make_config(
        benchmark=Text(path=tmp_path / "rows.jsonl", tokenizer=Path("bytes"), teacher=str(folder)),
        policy=Architecture("hf", path=str(folder), lora=Lora(rank=2)),
        scorer=Architecture("hf"),
        methods=("distill:js", "gail"),
        warm_start=0,
    )
    with pretrained.shapes_alone():
        task = assemble.task(config)
        ready.check(config, task, assemble.components(config, task), started=True)
    with pytest.raises(UsageError, match="path"):
        assemble.components(config, task)


BROKEN = {
    no_config: "holds no config.json",
    unknown_family: "model_type = 'mamba'",
    other_shape: "has shape",
    another_vocabulary: "vocabulary of 300, and the task has 257",
    no_weights: "holds neither",
    no_shard: "model-00002-of-00002.safetensors': is not there",
    two_checkpoints: "holds both",
    not_finite: "weights = 'layers.mlp.up.kernel' has numbers that are not finite",
    another_head: "differs from the embedding",
}


@pytest.mark.parametrize("how", BROKEN)
def test_broken_models_leave_nothing(how, tmp_path, folder, nothing_trained, capsys):
    rows(tmp_path / "rows.jsonl")
    how(folder)
    assert run(tmp_path, folder, "--policy.lora.rank", "2") == cli.USAGE_EXIT
    error = " ".join(capsys.readouterr().err.split())
    assert BROKEN[how] in error and "Traceback" not in error
    assert "policy.path" in error
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_with_its_own_weights_alone(tmp_path, folder, nothing_trained, capsys):
    rows(tmp_path / "rows.jsonl")
    flags = ("--policy.lora.rank", "2")
    assert run(tmp_path, folder, *flags) == 0
    (tmp_path / "run/metrics.jsonl").write_text("")
    begun = tmp_path / "run/checkpoints/sft/2"
    begun.mkdir(parents=True)
    (begun / "x").write_text("")
    save(folder, {k: v + 1 for k, v in random_tensors(specs.from_config(CONFIG)).items()})
    assert run(tmp_path, folder, *flags) == cli.USAGE_EXIT
    assert "model" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("kind", ["base", "its path"])
def test_a_begun_run_is_checked_without_its_teachers_weights(kind, tmp_path, folder, monkeypatch):
    """A run that goes on builds its methods before anything is read again."""
    config = config_of(tmp_path, folder, without_layers=("1",), **ADAPTED)
    named = str(folder) if kind == "its path" else kind
    text = dataclasses.replace(config.benchmark, teacher=named)
    config = replace(config, benchmark=text, methods=("distill:js",))
    task = assemble.task(config)
    components = assemble.components(config, task)
    monkeypatch.setattr(pretrained, "read", lambda *words: pytest.fail("weights were read"))
    ready.check(config, task, components, started=True)


def test_a_task_without_prompts_begins_with_the_models_first_token(tmp_path, monkeypatch):
    """And is refused for a model that has none."""
    folder = made(tmp_path / "three", monkeypatch, vocab_size=3, bos_token_id=2)
    config = make_config(policy=Architecture("hf", path=str(folder)), exact_limit=0)
    config = replace(config, methods=("sft",))
    validation.check(config, make_config())
    task = assemble.task(config)
    assert assemble.components(config, task).policy is not None
    made(folder, monkeypatch, vocab_size=3, bos_token_id=None)
    with pytest.raises(UsageError, match="no law of a first token"):
        assemble.components(config, task)
    for beyond in (3, -1, True, "2"):
        made(folder, monkeypatch, vocab_size=3, bos_token_id=beyond)
        with pytest.raises(UsageError, match="none of its tokens"):
            assemble.components(config, task)


def test_dropout_reaches_a_loss_where_there_is_any(tmp_path, folder):
    """Also of adapters whose file says so, unless another is given; and a clip is read then."""
    own = lambda **how: Architecture("hf", path=str(folder), lora=Lora(**how))
    place, spec = tmp_path / "adapters", pretrained.check(own())
    adapters = lora.Lora(rank=2, dropout=0.25).adapters()
    params = lora.init(spec, adapters, jax.random.key(0))
    tensors, config = peft.to_tensors(spec, adapters, params)
    loaded = peft.from_tensors(spec, config, tensors)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapter_files, "described", lambda *where: loaded.adapters)
        shares = {
            None: own(rank=2),
            0.1: own(rank=2, dropout=0.1),
            0.25: own(path=str(place)),
            0.5: own(path=str(place), dropout=0.5),
            0.0: own(path=str(place), dropout=0.0),
        }
        for share, each in shares.items():
            assert pretrained.adapters(each).dropout == (share or 0)
            assert (pretrained.in_training(each) is None) == (not share)
    assert pretrained.in_training(Architecture("markov")) is None
    read = fields.reader("grpo.clip").reads
    for share in (None, 0.1):
        config = make_config(policy=own(rank=2, dropout=share), methods=("grpo",))
        assert read(fields.Case(config, configs.resolve(config))) == bool(share)


def test_a_teacher_without_one_of_its_files_is_named_by_its_flag(tmp_path, folder, monkeypatch):
    config = config_of(tmp_path, folder)
    other = made(tmp_path / "other", monkeypatch)
    no_shard(other)
    text = dataclasses.replace(config.benchmark, teacher=str(other))
    with pytest.raises(UsageError, match="is not there, and the index names it") as error:
        teacher.identity(replace(config, benchmark=text))
    assert error.value.field == "benchmark.teacher"


@pytest.mark.parametrize("field", ["policy.path", "benchmark.teacher"])
def test_a_path_that_no_system_takes_is_refused_by_its_flag(field, capsys):
    words = ["text", "--methods", "sft", f"--{field}", "x" * 5000]
    words += ["--policy.name", "hf"] if field == "policy.path" else []
    assert cli.run(compare.main, "experiments.compare", words) == cli.USAGE_EXIT
    said = " ".join(capsys.readouterr().err.split())
    assert f"error: {field} = " in said and "File name too long" in said
