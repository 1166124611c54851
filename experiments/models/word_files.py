"""The files that make up a model's words, copied from where they are to a folder that is being
written; and the licence that a model is under."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from experiments.models import gguf_files, gguf_tokenizer, words
from experiments.models.words import TEMPLATES

COPIED = (
    words.TOKENIZER,
    words.TOKENIZER_CONFIG,
    words.SPECIAL_TOKENS,
    words.GENERATION,
    words.TEMPLATE,
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)
LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
FRONT = re.compile(r"\A---\s*\n(.*?)\n---\s*$", re.DOTALL | re.MULTILINE)


def copy(source: Path, to: Path) -> None:
    """From a model's folder, a GGUF file or a tokenizer.json: the tokenizer, special tokens, the
    chat templates and what ends a text, as they are."""
    if source.suffix == ".gguf":
        gguf_tokenizer.write(to, gguf_files.File(source).fields)
        return
    place = source.parent if source.is_file() else source
    for name in COPIED:
        if (place / name).is_file():
            shutil.copyfile(place / name, to / name)
    if (place / TEMPLATES).is_dir():
        shutil.copytree(place / TEMPLATES, to / TEMPLATES)


def copy_licences(source: Path, to: Path) -> None:
    """The licence's own files, where a model comes with them."""
    place = source if source.is_dir() else source.parent
    for pattern in LICENCES:
        for file in filter(Path.is_file, sorted(place.glob(pattern))):
            shutil.copyfile(file, to / file.name)


def licence(source: Path) -> str | None:
    """What a model's README.md, or a GGUF file, says that it is licensed under; None where neither
    says it."""
    if source.suffix == ".gguf":
        given = gguf_files.File(source).fields.get("general.license")
        return str(given) if given else None
    try:
        front = FRONT.match((source / "README.md").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
    line = front and re.search(r"^license:\s*[\"']?([\w.+-]+)", front.group(1), re.MULTILINE)
    return line.group(1) if line else None
