"""The message that a teacher alone reads, as tokens before the prompts of rows."""

from __future__ import annotations

from experiments.data.reading import Reading
from experiments.data.templates import CLOCK, TODAY
from experiments.data.tokenised import Tokenizer
from fdiv.benchmarks import Text
from fdiv.lm.hidden import Hidden, hidden_message
from fdiv.types import UsageError

FIELD = "benchmark.teacher_system"
ASKED = "Zq one?"  # a user's message, which a template writes after a system's


def of(benchmark: Text, reading: Reading, tokenizer: Tokenizer | None) -> Hidden | None:
    """What stands before the rows of this benchmark, which is fitted; None where nothing does.
    Raises `UsageError` where it cannot."""
    text = benchmark.teacher_system
    if text is None:
        return None
    if not text.strip():
        raise UsageError(FIELD, text, "says nothing.", "Give a message, or drop it.")
    if tokenizer is None:
        problem = "is read by a pretrained teacher, and this text is read as bytes."
        raise UsageError(FIELD, text, problem, "Give --benchmark.tokenizer.")
    if reading.chats and tokenizer.has_template:
        return _in_conversations(text, benchmark, reading, tokenizer)
    lead = tokenizer.lead()
    hidden = (*lead, *tokenizer.words.encode(f"{text}\n\n", special=False))
    _refuse_others(text, benchmark, reading, lead)
    return Hidden(hidden, len(lead))


def _in_conversations(text: str, benchmark: Text, reading: Reading, tokenizer: Tokenizer) -> Hidden:
    """As a system's message, in place of the one that the template writes where there is none."""
    if reading.chats < len(reading.rows):
        problem = "stands before conversations, and some rows of the file are none."
        raise UsageError(FIELD, text, problem, "Give rows of one kind.")
    if (mark := tokenizer.marks.held(text)) is not None:
        problem = f"holds {mark!r}, which is read as a token that ends or begins a turn or a text."
        raise UsageError(FIELD, text, problem, "Write it otherwise.")
    asked = {"role": "user", "content": ASKED}
    try:
        plain, told = (
            tokenizer.words.chat(messages, generate=True, **{CLOCK: TODAY.strftime})
            for messages in ([asked], [{"role": "system", "content": text}, asked])
        )
    except UsageError as error:
        problem = f"cannot be written: the chat template {error.problem}"
        raise UsageError(FIELD, text, problem, "Use a template with system messages.") from error
    if text.strip() not in told or ASKED not in plain:
        problem = "is left out by the chat template, which writes no system message."
        raise UsageError(FIELD, text, problem, "Use a template with system messages.")
    own = tokenizer.words.encode(plain, special=False)
    hidden = hidden_message(own, tokenizer.words.encode(told, special=False))
    _refuse_others(text, benchmark, reading, own[: hidden.replaced])
    return hidden


def _refuse_others(text: str, benchmark: Text, reading: Reading, begin: list[int]) -> None:
    """Raise `UsageError` where a prompt does not begin as those do before which the message is to
    stand, or has lost its beginning."""
    if not begin:
        return
    for number, row in zip(reading.numbers, reading.rows):
        if list(row.prompt[: len(begin)]) != begin:
            problem = (
                f"cannot stand before row {number:,}, which begins otherwise than a conversation "
                "without a system message."
            )
            raise UsageError(FIELD, text, problem, "Leave system messages out of the rows.")
    longest = max(len(row.prompt) for row in reading.rows)
    if longest > benchmark.cut.prompt_length:
        problem = f"stands before whole prompts, and those of {longest:,} tokens are cut."
        raise UsageError(FIELD, text, problem, f"Give --benchmark.prompt-length {longest}.")
