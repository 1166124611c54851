"""A tiny model on disk for runs, without the library that its files need: a folder whose tensors
are kept as numpy keeps them."""

from __future__ import annotations

import json

import numpy as np
from language_models import CASES, random_tensors

from experiments.models import safetensor_files
from fdiv.lm import spec as specs
from fdiv.lm.weights import Arrays

BYTES = 257  # the vocabulary of text that is read byte by byte
CONFIG = {**CASES["smollm2"], "vocab_size": BYTES, "num_hidden_layers": 3, "bos_token_id": 1}


class InNumpy(Arrays):
    """In place of `safetensor_files.Files`."""

    def __new__(cls, folder):
        with np.load(folder / safetensor_files.SINGLE) as file:
            return super().__new__(cls, dict(file))

    def rows(self, name, begin, end):
        """As the library: there is nothing beyond the last row."""
        assert 0 <= begin < end <= len(self.arrays[name])
        return super().rows(name, begin, end)

    def kinds(self):
        return {"F32"}


def made(folder, monkeypatch, **changes):
    """The folder of a model; all folders are read by numpy from here on."""
    monkeypatch.setattr(safetensor_files, "Files", InNumpy)
    config = {**CONFIG, **changes}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save(folder, random_tensors(specs.from_config(config)))
    return folder


def save(folder, tensors):
    """Write tensors, those of before being left out."""
    with (folder / safetensor_files.SINGLE).open("wb") as file:
        np.savez(file, **tensors)


def rows(path, count=40):
    """A file of questions and answers."""
    lines = [{"prompt": f"what is {i}?", "completion": f" it is {i % 7}."} for i in range(count)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
