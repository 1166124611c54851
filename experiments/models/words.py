"""The words of a pretrained model: its tokenizer, its special tokens, what ends its text and how it
writes a conversation, from a folder or a GGUF file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.models import chat, gguf_tokenizer
from experiments.models.folder import CONFIG, Source, read_fields, source
from experiments.models.libraries import library
from fdiv.types import UsageError

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
SPECIAL_TOKENS, GENERATION = "special_tokens_map.json", "generation_config.json"
TEMPLATE, TEMPLATES = "chat_template.jinja", "additional_chat_templates"
NAMED = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
# options of generation that make another law of the next token, and the values that do not
BIASES: dict[str, tuple] = {
    "temperature": (1,),
    "top_p": (1,),
    "top_k": (0,),
    "min_p": (0,),
    "typical_p": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "repetition_penalty": (1,),
    "encoder_repetition_penalty": (1,),
    "no_repeat_ngram_size": (0,),
    "bad_words_ids": ([],),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "sequence_bias": ({},),
    "guidance_scale": (1,),
    "exponential_decay_length_penalty": (),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "num_beams": (1,),
    "penalty_alpha": (0,),
}


class Words(NamedTuple):
    """What text is to a model."""

    backend: Any  # a `tokenizers.Tokenizer`
    vocab: int  # rows of the model's embedding
    special: Mapping[str, Any]  # as a chat template names them: bos_token, eos_token, ...
    templates: Mapping[str, str]  # name -> a chat template
    bos: int | None  # the token before every text
    eos: tuple[int, ...]  # the tokens that end one
    biases: Mapping[str, Any]  # sampling options of the checkpoint, none of which is used
    content: str = ""  # a SHA-256 of what the backend was made of

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Tokens; `special` adds what the tokenizer puts around a text, which a rendered
        conversation has already. Raises `UsageError` for a token that the model has no row for, and
        for bytes that are no text."""
        try:
            text.encode()
        except UnicodeEncodeError as error:  # a command line keeps such bytes as half characters
            problem = f"holds {text[error.start]!r} at {error.start}, which is no character."
            raise UsageError("text", text, problem, "Give text in UTF-8.") from error
        ids = self.backend.encode(text, add_special_tokens=special).ids
        beyond = next((i for i in ids if i >= self.vocab), None)
        if beyond is not None:
            raise UsageError(
                "text",
                self.backend.id_to_token(beyond),
                f"is token {beyond:,}, and the model has {self.vocab:,}.",
                "Leave it out, or give the tokenizer that belongs to the weights.",
            )
        return ids

    def prompt(self, text: str) -> list[int]:
        """The tokens of a text to continue: of an empty one, the token that begins every text.
        Raises `UsageError` where there is no such token."""
        ids = self.encode(text)
        if ids or self.bos is not None:
            return ids or [self.bos]  # pyrefly: ignore[bad-return]: one of the two is there
        raise UsageError(
            "prompt",
            text,
            "has no tokens, and this model has none that begins a text.",
            "Give some text to continue.",
        )

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        """The text of tokens, that of special ones where it is asked for."""
        return self.backend.decode(list(ids), skip_special_tokens=not special)

    def continued(self, prompt: Sequence[int], ids: Sequence[int], special: bool = False) -> str:
        """The text of tokens after a prompt: a tokenizer may drop a blank before the first word of
        a text, which is no first word here."""
        before, whole = self.decode(prompt, special), self.decode([*prompt, *ids], special)
        return whole[len(before) :] if whole.startswith(before) else self.decode(ids, special)

    def chat(self, messages: Sequence[chat.Message], **how: Any) -> str:
        """The text of a conversation, by `chat.render`."""
        return chat.render(self.templates, messages, self.special, **how)

    def added(self) -> dict[int, tuple[str, bool]]:
        """Tokens that are read wherever their text stands: token -> (text, whether it is special,
        and so stands for no words)."""
        own = self.backend.get_added_tokens_decoder()
        return {i: (token.content, token.special) for i, token in own.items()}

    def digest(self) -> str:
        """A SHA-256 of all that decides tokens and texts."""
        rest = {
            name: value
            for name, value in self._asdict().items()
            if name not in ("backend", "biases")
        }
        return hashlib.sha256(json.dumps(rest, sort_keys=True, default=str).encode()).hexdigest()

    def known(self) -> list[int]:
        """The rows of the embedding that stand for a token. A model may have more of them: these
        keep the probability that they are given, and are no words."""
        return [i for i in range(self.vocab) if self.backend.id_to_token(i) is not None]


def at(path: Path) -> Words:
    """The words of a model's folder, of a GGUF file, or of a tokenizer.json, with what stands
    beside it; without a model, its embedding has as many rows as there are tokens. Raises
    `UsageError` as `read` does."""
    place = path.parent if path.name == TOKENIZER and path.is_file() else path
    if path.suffix == ".json" and place == path and path.is_file():
        problem = f"is no {TOKENIZER}."
        raise UsageError("path", str(path), problem, f"Give a model's folder, or {TOKENIZER}.")
    if (place / CONFIG).is_file() or not (place / TOKENIZER).is_file():
        return read(source(place))
    return _of_folder(place, {}, None)


def read(source: Source) -> Words:
    """The words of a folder or a GGUF file. Raises `UsageError` with what is missing, unknown or
    broken."""
    config, vocab = source.config, source.spec.vocab
    if source.file is None:
        return _of_folder(source.path, config, vocab)
    fields = source.file.fields
    settings = gguf_tokenizer.settings(fields)
    own = {name: value for name, value in fields.items() if name.startswith("tokenizer.")}
    content = json.dumps(own, sort_keys=True, default=str).encode()
    return _made(
        gguf_tokenizer.tokenizer(fields),
        vocab,
        settings,
        _templates_of(settings),
        gguf_tokenizer.generation(fields),
        config,
        content,
    )


def _of_folder(path: Path, config: Mapping[str, Any], vocab: int | None) -> Words:
    """`vocab`: rows of the embedding; None: as many as there are tokens."""
    settings = _read_json(path / SPECIAL_TOKENS) | _read_json(path / TOKENIZER_CONFIG)
    backend = _backend(path, settings)
    return _made(
        backend,
        1 + max(backend.get_vocab().values(), default=0) if vocab is None else vocab,
        settings,
        _templates_of(settings) | _template_files(path),
        _read_json(path / GENERATION),
        config,
        (path / TOKENIZER).read_bytes(),
    )


def _made(
    backend: Any,
    vocab: int,
    settings: Mapping[str, Any],
    templates: Mapping[str, str],
    generation: Mapping[str, Any],
    config: Mapping[str, Any],
    content: bytes,
) -> Words:
    special = _special(settings)
    ends = lambda name: _ids(name, generation, config, backend, special, vocab)
    bos = ends("bos")
    return Words(
        backend,
        vocab,
        special,
        templates,
        bos[0] if bos else None,
        ends("eos"),
        _biases(generation),
        hashlib.sha256(content).hexdigest(),
    )


def _backend(folder: Path, settings: Mapping[str, Any]) -> Any:
    """The tokenizer of a folder, with neither the truncation nor the padding that may be saved in
    it."""
    own = settings.get("auto_map") or {}
    if not isinstance(own, dict) or "AutoTokenizer" in own:
        raise UsageError(
            "auto_map",
            own["AutoTokenizer"] if isinstance(own, dict) else own,
            "is code that comes with the tokenizer, and none is run from a checkpoint.",
            "Use a checkpoint whose tokenizer needs none.",
        )
    file = folder / TOKENIZER
    if not file.is_file():
        others = ("tokenizer.model", "spiece.model", "vocab.json", "tekken.json")
        other = next((name for name in others if (folder / name).is_file()), None)
        raise UsageError(
            "path",
            str(folder),
            f"holds no {TOKENIZER}" + (f", and {other} is not read." if other else "."),
            f"Fetch {TOKENIZER} from where the weights are, or have transformers write it: "
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER).",
        )
    try:
        backend = library("tokenizers").Tokenizer.from_file(str(file))
    except UsageError:
        raise
    except Exception as error:  # the library raises no narrower class
        problem = f"cannot be read ({error}): it is cut short or of a newer form."
        raise UsageError("path", str(file), problem, "Fetch the file again.") from error
    backend.no_truncation()
    backend.no_padding()
    return backend


def _read_json(file: Path) -> dict[str, Any]:
    """The fields of a file, none where it is not there."""
    return read_fields(file) if file.is_file() else {}


def _special(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Name -> text of the special tokens; a file gives each as text, or as fields with it."""
    text = lambda token: token.get("content") if isinstance(token, dict) else token
    for name in NAMED:
        token = text(settings.get(f"{name}_token"))
        if not isinstance(token, str | None):
            problem = "is neither a token's text nor fields with it."
            fix = f"Mend {TOKENIZER_CONFIG} or {SPECIAL_TOKENS}."
            raise UsageError(f"{name}_token", settings[f"{name}_token"], problem, fix)
    named = {f"{name}_token": text(settings.get(f"{name}_token")) for name in NAMED}
    own = settings.get("extra_special_tokens")
    if isinstance(own, dict):
        named |= {name: text(token) for name, token in own.items()}
    found: dict[str, Any] = {name: token for name, token in named.items() if token is not None}
    more = settings.get("additional_special_tokens")
    if not isinstance(more, list | None):
        problem = "is no list of tokens."
        fix = f"Mend {TOKENIZER_CONFIG}, or drop the field."
        raise UsageError("additional_special_tokens", more, problem, fix)
    if isinstance(own, list) or more:
        found["additional_special_tokens"] = [text(token) for token in more or own or []]
    return found


def _templates_of(settings: Mapping[str, Any]) -> dict[str, str]:
    """Name -> chat template, of a field that holds one or a list of them."""
    given = settings.get("chat_template")
    if isinstance(given, str):
        return {chat.DEFAULT: given}
    try:
        named = {entry["name"]: entry["template"] for entry in given or []}
        "".join([*named, *named.values()])  # text, all of it
        return named
    except (TypeError, KeyError) as error:
        problem = "is neither a template nor a list of templates with their names."
        raise UsageError(
            "chat_template", given, problem, f"Mend {TOKENIZER_CONFIG}, or drop the field."
        ) from error


def _template_files(folder: Path) -> dict[str, str]:
    """Name -> chat template, of files of their own, which come before those of a field."""
    files = {file.stem: file for file in sorted((folder / TEMPLATES).glob("*.jinja"))}
    if (folder / TEMPLATE).is_file():
        files[chat.DEFAULT] = folder / TEMPLATE
    return {name: _read_template(file) for name, file in files.items()}


def _read_template(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        problem = f"is no text in UTF-8 ({error.reason} at byte {error.start})."
        raise UsageError("chat_template", str(file), problem, "Fetch the file again.") from error


def _ids(
    name: str,
    generation: Mapping[str, Any],
    config: Mapping[str, Any],
    backend: Any,
    special: Mapping[str, Any],
    vocab: int,
) -> tuple[int, ...]:
    """The tokens that begin or end a text: of the generation config, else of the config, else the
    special token of that name."""
    field = f"{name}_token_id"
    given = next((c[field] for c in (generation, config) if c.get(field) is not None), None)
    if given is None:
        token = special.get(f"{name}_token")
        given = backend.token_to_id(token) if token is not None else None
    ids = given if isinstance(given, list) else [] if given is None else [given]
    for i in ids:
        if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < vocab:
            problem = f"is none of the model's {vocab:,} tokens."
            raise UsageError(field, i, problem, f"Mend {GENERATION} or config.json.")
    return tuple(dict.fromkeys(ids))


def _biases(generation: Mapping[str, Any]) -> dict[str, Any]:
    """Options that would change the law of the next token. What samples alone need `do_sample` in
    transformers; here no option of a checkpoint is used at all."""
    return {
        name: generation[name]
        for name, neutral in BIASES.items()
        if generation.get(name) is not None and generation[name] not in neutral
    }
