"""Libraries that language models alone need, loaded when one is read."""

from __future__ import annotations

import importlib
from types import ModuleType

from fdiv.types import UsageError

EXTRAS = {
    "safetensors": "hf",
    "tokenizers": "hf",
    "huggingface_hub": "hf",
    "gguf": "gguf",
    "torch": "hf-test",
    "transformers": "hf-test",
}


def library(name: str) -> ModuleType:
    """The module. Raises `UsageError` with the extra that brings it where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        extra = EXTRAS[name.partition(".")[0]]
        raise UsageError(
            "path",
            f"the library {name}",
            f"is needed to read it and cannot be loaded ({error}).",
            f"pip install -c constraints.txt -e '.[{extra}]'",
        ) from error
