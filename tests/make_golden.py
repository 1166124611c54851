"""Makes `tests/golden`: the logits that transformers gives the tiny models of
`language_models.py`. Needs the `hf-test` extra: `python tests/make_golden.py [CASE ...]`."""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from language_models import CASES, GOLDEN, random_tensors, random_tokens, spec_of
from safetensors.numpy import save_file


def logits(case: str) -> np.ndarray:
    """By transformers, from a folder as it reads one."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(CASES[case]))
        save_file(random_tensors(spec_of(case)), Path(folder, "model.safetensors"))
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
    if any(report.values()):
        raise SystemExit(f"{case}: {report}")
    with torch.no_grad():
        return model(torch.as_tensor(random_tokens(case)), use_cache=False).logits.numpy()


def main(cases: list[str]) -> None:
    GOLDEN.mkdir(exist_ok=True)
    for case in cases:
        values = logits(case)
        np.savez_compressed(GOLDEN / f"{case}.npz", logits=values)
        print(f"{case}: logits within {values.min():.2f} and {values.max():.2f}")


if __name__ == "__main__":
    main(sys.argv[1:] or list(CASES))
