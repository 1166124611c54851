"""Conversations as a chat template writes them: what stands before an answer, and the answer with
its end.

An answer is what the template's text of the conversation with it has more than the text without it,
where the assistant is to write. So no mark of the template's own is needed for the assistant's
words, and what is learned is what the model will be asked to write. That asks of a template that
more messages change nothing of what it wrote before."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from experiments.data.conversations import Turn
from fdiv.types import UsageError

# messages before an answer, and the answer -> the text of each
Render = Callable[[Sequence[Turn], str], tuple[str, str]]
# what a template that writes the day's date writes: rows do not change from one day to the next
TODAY = datetime.date(2024, 7, 26)
CLOCK = "strftime_now"  # by what a template asks for it
TRIED = ("Zq one?", "Zq two.", "Zq three?", "Zq four.")  # a conversation that every template takes
FIX = (
    "Give a tokenizer with a template that writes each message as it is, or rows of columns prompt "
    "and completion, which no template touches."
)


class Writer(Protocol):
    """What writes a conversation: `experiments.models.words.Words`."""

    def chat(self, messages: Sequence[dict[str, str]], *, generate: bool, **more: Any) -> str:
        """The text of messages; `generate` ends it where the assistant is to write, `more` are
        variables of the template."""
        ...


def renderer(words: Writer, name: str) -> Render:
    """A tokenizer's template, which is tried at the first conversation. `name` is the tokenizer's.

    Raises `UsageError`, and so does what is returned, for a template that cannot serve."""

    @functools.cache
    def tried() -> None:
        _try(words, name)

    def render(before: Sequence[Turn], answer: str) -> tuple[str, str]:
        tried()
        asked, completion = _parted(words, before, answer)
        if completion is None:
            raise ValueError(
                "the chat template writes what stands before the answer in another way"
            )
        if not completion:
            raise ValueError("the chat template writes nothing of the assistant's message")
        return asked, completion

    return render


def _try(words: Writer, name: str) -> None:
    """Raise `UsageError` for a template without the assistant's words, or one that is not stable
    over prefixes."""
    turns = [Turn(role, text) for role, text in zip(("user", "assistant") * 2, TRIED)]
    for end in (1, 3):
        asked, completion = _parted(words, turns[:end], TRIED[end])
        if completion is None:
            whole = _written(words, [*turns[:end], Turn("assistant", TRIED[end])], False)
            if TRIED[end] in whole:
                problem = (
                    "has a chat template that is not stable over prefixes: it writes the messages "
                    f"before an answer as {_end(asked)}, and with the answer as {_end(whole)}."
                )
                raise UsageError("benchmark.tokenizer", name, problem, FIX)
        if completion is None or TRIED[end] not in completion:
            problem = "has a chat template without assistant turns: it leaves their words out."
            raise UsageError("benchmark.tokenizer", name, problem, FIX)


def _end(text: str) -> str:
    return repr(text if len(text) <= 80 else f"...{text[-77:]}")


def _parted(words: Writer, before: Sequence[Turn], answer: str) -> tuple[str, str | None]:
    """What stands before the answer, and what the template adds for it; None where it does not
    leave the first as it was."""
    asked = _written(words, before, True)
    whole = _written(words, [*before, Turn("assistant", answer)], False)
    return asked, whole[len(asked) :] if whole.startswith(asked) else None


def _written(words: Writer, turns: Sequence[Turn], generate: bool) -> str:
    """Raises `ValueError` in the template's words where it refuses the conversation."""
    messages = [{"role": turn.role, "content": turn.text} for turn in turns]
    try:
        return words.chat(messages, generate=generate, **{CLOCK: TODAY.strftime})
    except UsageError as error:
        raise ValueError(f"the chat template {error.problem}") from error
