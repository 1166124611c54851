"""What a language model, or a run's policy, writes:
`python -m experiments.generate MODEL_OR_RUN --prompt TEXT [flags]`

Prints samples of what follows the prompt as plain text, those of several with a line between them.
Tokens are drawn from the model's own law at `--temperature`; sampling options that come with a
checkpoint are named on stderr and not used. Of a run, text is spelled as in its report, and the
prompt may be empty. Exit code 0, or 2 where it cannot be done, with the reason."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from experiments import cli
from fdiv.checks import at_least, positive
from fdiv.types import UsageError

if TYPE_CHECKING:
    from experiments.models.ready import Ready

BETWEEN = "-" * 40  # samples


@dataclasses.dataclass(frozen=True)
class Options:
    """Continue a prompt, or answer it."""

    model: Annotated[Path, tyro.conf.Positional]
    """A folder in the Hugging Face layout, a GGUF file, or the folder of a run."""
    prompt: str
    """Text to continue; with --chat, what the user says."""
    chat: bool = False
    """Put the prompt into the model's chat template, and let the assistant answer."""
    system: str | None = None
    """What the system says before the user; with --chat."""
    greedy: bool = False
    """The likeliest token each time, in place of a draw."""
    max_new_tokens: int = 128
    """Tokens to write at most."""
    temperature: float = 1.0
    """What log-probs are divided by before they are normalised again."""
    samples: int = 1
    """Continuations to draw."""
    method: str | None = None
    """Of a run: which of its methods; it may be left out where there is one."""
    seed: int | None = None
    """Of a run: which of its seeds (0); and where no draw-seed is given, of the draws."""
    draw_seed: int | None = None
    """Of the draws."""
    log_probs: bool = False
    """Print each token with its number and its log-prob, in nats, in place of the text."""


def main(argv: list[str] | None = None) -> int:
    """Print the samples; `USAGE_EXIT` where there can be none."""
    return cli.script("python -m experiments.generate", Options, __doc__, generate, argv)


def _check(options: Options) -> None:
    at_least("max_new_tokens", options.max_new_tokens, 1)
    at_least("samples", options.samples, 1)
    positive("temperature", options.temperature)
    if options.system is not None and not options.chat:
        problem = "is part of a conversation, and none is asked for."
        raise UsageError("system", options.system, problem, "Add --chat True.")
    if options.greedy and options.samples > 1:
        problem = "would be the same sample so many times: --greedy leaves nothing to draw."
        raise UsageError("samples", options.samples, problem, "Leave one of them out.")


def generate(options: Options) -> int:
    """Draw and print."""
    _check(options)
    from experiments.models import ready
    from experiments.running import as_model, trained

    run = trained.is_run(options.model)
    loaded = as_model.read(options.model, options.method, options.seed if run else None)
    prompt = _prompt(options, loaded)
    _notes(options, loaded, len(prompt))
    drawn = ready.write(
        loaded,
        prompt,
        options.samples,
        options.max_new_tokens,
        options.temperature,
        options.greedy,
        next((s for s in (options.draw_seed, options.seed) if s is not None), 0),
    )
    for i, (ids, log_probs) in enumerate(drawn):
        if i:
            print(BETWEEN)
        if options.log_probs:
            _table(loaded, ids, log_probs)
        else:
            print(loaded.words.continued(prompt, ids))
    return 0


def _prompt(options: Options, loaded: Ready) -> list[int]:
    """Tokens of the prompt, as plain text or as a conversation."""
    if not options.chat:
        return loaded.words.prompt(options.prompt)
    messages = [{"role": "user", "content": options.prompt}]
    if options.system is not None:
        messages.insert(0, {"role": "system", "content": options.system})
    text = loaded.words.chat(messages)
    # the template has written what begins a text
    if not (ids := loaded.words.encode(text, special=False)):
        problem = "makes an empty text of this conversation."
        raise UsageError("chat_template", "", problem, "Mend the template.")
    return ids


def _notes(options: Options, loaded: Ready, size: int) -> None:
    """What to know of the samples, on stderr."""
    if loaded.words.biases:
        given = ", ".join(f"{name} {value}" for name, value in loaded.words.biases.items())
        print(f"not used, of generation_config.json: {given}", file=sys.stderr)
    if not loaded.words.eos and loaded.bounds is None:
        print("this model names no token that ends a text", file=sys.stderr)
    if not options.prompt and not options.chat and loaded.bounds is None:
        token = loaded.words.decode([loaded.words.bos or 0], special=True)
        print(f"an empty prompt: {token} stands before the text", file=sys.stderr)
    elif not options.chat and options.prompt[-1:].isspace():
        said = "white space at its end is rarely followed by a word: tokens begin with their blank"
        print(f"the prompt: {said}", file=sys.stderr)
    for mark in _marks(options, loaded):
        said = "is read as a token that ends or begins a turn or a text, not as words"
        print(f"the conversation: {mark!r} {said}", file=sys.stderr)
    longest, length = loaded.longest, size + options.max_new_tokens
    if longest is not None and length > longest:
        print(f"up to {length:,} tokens, and the model was made for {longest:,}", file=sys.stderr)


def _marks(options: Options, loaded: Ready) -> list[str]:
    """Texts of tokens by which what is said in a conversation would end or begin a turn."""
    from experiments.data.marks import Marks
    from experiments.models.words import Words

    if not options.chat or not isinstance(loaded.words, Words):
        return []
    own = Marks(loaded.words)
    held = (own.held(text) for text in (options.system, options.prompt) if text is not None)
    return [mark for mark in held if mark is not None]


def _table(loaded: Ready, ids: Sequence[int], log_probs: Sequence[float]) -> None:
    """A line for each token, and their sum."""
    for token, log_prob in zip(ids, log_probs):
        print(f"{token:>8} {log_prob:>10.4f}  {loaded.words.decode([token], special=True)!r}")
    print(f"{len(ids):>8} {sum(log_probs):>10.4f}  in all")


if __name__ == "__main__":
    sys.exit(main())
