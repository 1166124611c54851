"""From records to rows: which columns hold what, and what is wrong with a record that makes no
row."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from fdiv.benchmarks.text import Row, Text
from fdiv.types import UsageError


def rows(
    numbered: Iterable[tuple[int, Any]], first: dict | None, config: Text
) -> tuple[list[Row], list[tuple[int, str]]]:
    """(rows, (number, reason) of each bad one) of numbered records, whose columns are those of the
    file's first."""
    good, bad, columns = [], [], () if first is None else _columns(first, config)
    for number, record in numbered:
        try:
            if isinstance(record, ValueError):
                raise ValueError(f"not JSON ({record})")
            if not isinstance(record, dict):
                raise ValueError(f"a {type(record).__name__}, not a record")
            good.append(_READERS.get(columns, _row)(record, *columns))
        except ValueError as error:
            bad.append((number, str(error)))
    return good, bad


def _columns(record: dict, config: Text) -> tuple[str | None, ...]:
    """Which columns hold prompts (None: there are none), completions and judgements, by the first
    record."""
    for field in ("prompt_field", "completion_field"):
        name = getattr(config, field)
        if name is not None and name not in record:
            raise UsageError(
                f"benchmark.{field}",
                name,
                "is no column of the file.",
                f"Its columns: {', '.join(record)}.",
            )
    if config.completion_field is not None:
        return config.prompt_field, config.completion_field
    if config.prompt_field is not None:
        fix = f"Name the answer's column too; the file has {', '.join(record)}."
        raise UsageError("benchmark.completion_field", None, "is missing beside prompt_field.", fix)
    for columns in (*_READERS, (None, "messages"), ("prompt", "completion"), (None, "text")):
        if all(column is None or column in record for column in columns):
            return columns
    found = (
        f"The file has {', '.join(record) or 'none'}: name two with "
        "--benchmark.prompt-field and --benchmark.completion-field."
    )
    raise UsageError(
        "benchmark.path",
        str(config.path),
        (
            "has none of the usual columns (text, prompt/completion[/label], messages, "
            "[prompt/]chosen/rejected)."
        ),
        found,
    )


def _row(record: dict, prompt_column: str | None, completion_column: str) -> Row:
    """One row, or a `ValueError` saying what is wrong with it."""
    for column in (prompt_column, completion_column):
        if column is not None and column not in record:
            raise ValueError(f"no field {column!r}")
    if completion_column == "messages":
        return _conversation(record["messages"])
    prompt = "" if prompt_column is None else _text(record[prompt_column], prompt_column)
    completion = _text(record[completion_column], completion_column)
    if not completion:
        raise ValueError(f"{completion_column!r} is empty")
    return Row(_ended(prompt).encode(), completion.encode())


def _comparison(record: dict, *columns: str | None) -> Row:
    """Of two answers to one prompt, the one preferred. Without a column for it, the prompt is what
    both begin with."""
    for column in columns:
        if column is not None and column not in record:
            raise ValueError(f"no field {column!r}")
    prompt, chosen, rejected = _sides(record, columns[0])
    for column, text in (("chosen", chosen), ("rejected", rejected)):
        if not text:
            raise ValueError(f"{column!r} is empty")
    if chosen == rejected:
        raise ValueError("'chosen' and 'rejected' are the same")
    return Row(prompt.encode(), chosen.encode(), rejected.encode())


def _sides(record: dict, prompt_column: str | None) -> tuple[str, str, str]:
    """Prompt, chosen and rejected; of two texts that begin alike, they make up each text again."""
    both = [record["chosen"], record["rejected"]]
    for column, side in zip(("chosen", "rejected"), both):
        if not isinstance(side, (str, list)):
            raise ValueError(f"{column!r} is {type(side).__name__}, not text")
    if prompt_column is not None:
        prompt = _ended(_text(record[prompt_column], prompt_column))
        return prompt, _text(both[0], "chosen"), _text(both[1], "rejected")
    shared = 0  # messages, or characters up to the end of a line or a word
    for a, b in zip(*both):
        if a != b:
            break
        shared += 1
    texts = all(isinstance(x, str) for x in both)
    if texts:
        begin = both[0][:shared] if both[0] != both[1] else ""
        shared = max(begin.rfind("\n"), begin.rfind(" ")) + 1
    prompt = _text(both[0][:shared], "chosen") if shared else ""
    chosen, rejected = _text(both[0][shared:], "chosen"), _text(both[1][shared:], "rejected")
    return prompt if texts else _ended(prompt), chosen, rejected


def _ended(prompt: str) -> str:
    """A prompt of its own ends with its line."""
    return f"{prompt}\n" if prompt else ""


def _labelled(record: dict, prompt_column: str, completion_column: str, label_column: str) -> Row:
    """One answer, liked or not."""
    row = _row(record, prompt_column, completion_column)
    label = record.get(label_column)
    if label not in (True, False):
        raise ValueError(f"{label_column!r} is {label!r}, not true or false")
    return row._replace(liked=bool(label))


_READERS: dict[tuple[str | None, ...], Callable[..., Row]] = {
    ("prompt", "chosen", "rejected"): _comparison,
    (None, "chosen", "rejected"): _comparison,
    ("prompt", "completion", "label"): _labelled,
}


def _text(value: Any, column: str) -> str:
    """A string, or a list of messages rendered as one."""
    if isinstance(value, list):
        return "".join(_message(message) for message in value)
    if not isinstance(value, str):
        raise ValueError(f"{column!r} is {type(value).__name__}, not text")
    return value


def _message(message: Any) -> str:
    if not (isinstance(message, dict) and isinstance(message.get("content"), str)):
        raise ValueError("a message without text content")
    return message["content"]


def _conversation(messages: Any) -> Row:
    """The last message is the completion and must be the assistant's; those before are the
    prompt."""
    if not isinstance(messages, list) or not messages:
        raise ValueError("'messages' is no list of messages")
    contents = [_message(message) for message in messages]
    if messages[-1].get("role") != "assistant":
        raise ValueError("the last message is not the assistant's")
    if not contents[-1]:
        raise ValueError("the assistant's message is empty")
    before = "".join(
        f"{m.get('role', 'user')}: {text}\n" for m, text in zip(messages[:-1], contents)
    )
    return Row(before.encode(), contents[-1].encode())
