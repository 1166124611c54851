"""Conversations: messages of whatever layout become turns, and turns the one text that the policy
reads.

A turn before the answer is a line `role: text`; the answer is its text alone. Roles of other
layouts (human, gpt) are called by the same names, so the same conversation is the same bytes."""

from __future__ import annotations

import ast
import contextlib
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

ROLES = {
    **dict.fromkeys(["user", "human", "prompter", "customer"], "user"),
    **dict.fromkeys(["assistant", "gpt", "model", "bot", "chatgpt", "bard", "ai"], "assistant"),
    "function_call": "assistant",
    "system": "system",
    "developer": "developer",
    **dict.fromkeys(["tool", "function", "observation", "function_response", "ipython"], "tool"),
}
ROLE, TEXT = ("role", "from"), ("content", "value")  # by what a message calls them
LEARNED = ("weight", "train", "trainable", "loss")  # false or 0: not to be learned
READ = {*ROLE, *TEXT, *LEARNED, "tool_calls", "function_call"}
NAMING = {
    "id",
    "name",
    "tool_call_id",
    "type",
    "timestamp",
    "end_turn",
    "index",
}  # say nothing more
TEXTS = ("text", "input_text", "output_text")  # what a part is called that is text
WRITTEN = re.compile(  # a list of messages as text: of JSON, or as Python prints it
    r"""\s*\[\s*\{\s*(["'])(role|from|content|value)\1\s*:"""
)


class Turn(NamedTuple):
    """One message."""

    role: str
    text: str
    learned: bool = True  # whether an assistant's message is one to learn


def is_conversation(value: Any) -> bool:
    """Whether a cell is a list of messages."""
    return isinstance(value, (list, tuple))


def unpacked(value: Any) -> Any:
    """A list of messages that is written as text, as tables have it, as columns of roles and of
    texts, or of one message alone; anything else as it is. Raises `Garbled` for text that looks
    like messages and is none."""
    if isinstance(value, dict) and any(key in value for key in ROLE):
        return _transposed(value)
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        return _parsed(value)
    return value


class Garbled(ValueError):
    """What looks like messages, of which it cannot be told what they say."""


def _parsed(text: str) -> Any:
    """Messages that are written as JSON, or as Python prints them; other text as it is."""
    looks = WRITTEN.match(text)
    try:
        made = json.loads(text, object_pairs_hook=_unique)
    except Garbled:
        if looks:
            raise
        return text
    except (ValueError, RecursionError):
        if not looks:
            return text
        try:
            made = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
            problem = "looks like messages, and is neither JSON nor Python that can be read"
            raise Garbled(f"{text[:40]!r}... {problem}") from error
    named = isinstance(made, list) and made and isinstance(made[0], dict)
    return made if looks or (named and any(key in made[0] for key in ROLE)) else text


def _transposed(value: dict[str, Any]) -> list[Any]:
    """One message, or the messages of an object that holds a list for each of their fields."""
    columns = {k: list(v) for k, v in value.items() if isinstance(v, (list, tuple))}
    roles = next((columns[key] for key in ROLE if key in columns), None)
    if roles is None:
        return [value]
    if any(len(column) != len(roles) for column in columns.values()):
        raise Garbled("messages as columns, which are not of one length")
    return [{k: column[i] for k, column in columns.items()} for i in range(len(roles))]


def doubled(pairs: Sequence[tuple[str, Any]]) -> str:
    """The first key of an object that stands in it twice."""
    keys = [key for key, _ in pairs]
    return next(key for key in keys if keys.count(key) > 1)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise Garbled(f"a message has the key {doubled(pairs)[:40]!r} twice")
    return made


def asks(value: Any) -> bool:
    """Whether a cell is a conversation that waits for an answer."""
    try:
        messages = unpacked(value)
    except Garbled:  # which is said where the row is read
        return False
    last = messages[-1] if is_conversation(messages) and messages else None
    roles = [last.get(key) for key in ROLE] if isinstance(last, dict) else []
    return any(ROLES.get(str(role).lower()) in ("user", "tool") for role in roles)


def turns(messages: Any, column: str) -> list[Turn]:
    """A cell's messages. Raises `ValueError` saying what is wrong with which."""
    if not is_conversation(messages) or not messages:
        raise ValueError(f"{column!r} is no list of messages")
    return [_turn(message, column, i) for i, message in enumerate(messages, 1)]


def unread(messages: Any) -> set[str]:
    """Fields of messages that say something and are not read."""
    if not is_conversation(messages):
        return set()
    named = (m for m in messages if isinstance(m, dict))
    empty = lambda value: value is None or (not value and not isinstance(value, (bool, int, float)))
    fields = ((k, v) for m in named for k, v in m.items() if k not in READ and k not in NAMING)
    return {k for k, v in fields if not empty(v)}


def rendered(before: Sequence[Turn]) -> str:
    """What the policy reads before an answer."""
    return "".join(f"{turn.role}: {turn.text}\n" for turn in before)


def _turn(message: Any, column: str, number: int) -> Turn:
    where = f"message {number} of {column!r}"
    if not isinstance(message, dict):
        raise ValueError(f"{where} is {named(message)}, not a role and a text")
    role = next((message[key] for key in ROLE if message.get(key) is not None), None)
    if role is None:
        raise ValueError(f"{where} has no role")
    known = ROLES.get(str(role).strip().lower())
    if known is None:
        fix = "user, assistant, system or tool are read"
        raise ValueError(f"{where} has the role {str(role)[:40]!r}: {fix}")
    key = next((key for key in TEXT if key in message), None)
    calls = _calls(message)
    if key is None and not calls:
        raise ValueError(f"{where} is a message without text content")
    text = _text(message.get(key), where)
    if text is None and not calls:
        raise ValueError(f"{where} is a message without text content (null)")
    learned = all([_learned(message.get(key), key, where) for key in LEARNED])
    return Turn(known, "\n".join([*([text] if text else []), *calls]), learned)


def _learned(value: Any, key: str, where: str) -> bool:
    """Whether a message is to be learned, by one of its fields."""
    word = str(value).strip().lower()
    if value is None or word in ("true", "yes", "1", "1.0"):
        return True
    if word in ("false", "no", "0", "0.0"):
        return False
    raise ValueError(f"{where} has the {key} {str(value)[:40]!r}, and only 0 and 1 are read")


def _text(content: Any, where: str) -> str | None:
    """A message's text: a string, or a list of parts that are text."""
    if content is None or isinstance(content, str):
        return content
    if not is_conversation(content):
        raise ValueError(f"{where} has a content that is {named(content)}, not text content")
    return "".join(_part(part, where) for part in content)


def _part(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, dict) else named(part)
    if isinstance(part, dict) and kind in TEXTS and isinstance(part.get("text"), str):
        return part["text"]
    raise ValueError(f"{where} has a part of type {str(kind)[:40]!r}, and only text is read")


def _calls(message: dict) -> list[str]:
    """Calls of tools, a line each: the function's name and its arguments as JSON."""
    calls = message.get("tool_calls") or []
    calls = [call.get("function", call) for call in _records(calls)]
    calls += _records([message["function_call"]] if message.get("function_call") else [])
    return [
        f"<tool_call>{json.dumps(_call(call), ensure_ascii=False)}</tool_call>" for call in calls
    ]


def _records(values: Any) -> list[dict]:
    if not is_conversation(values) or not all(isinstance(value, dict) for value in values):
        raise ValueError("a tool call is no record of a name and arguments")
    return list(values)


def _call(call: dict) -> dict[str, Any]:
    arguments = call.get("arguments")
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError, RecursionError):  # else the text that it is
            arguments = json.loads(arguments, object_pairs_hook=_unique)
    return {"name": call.get("name"), "arguments": arguments}


def named(value: Any) -> str:
    """What a cell is, in the words of JSON."""
    names: Iterable[tuple[type, str]] = ((type(None), "null"), (bool, "true or false"))
    return next((name for kind, name in names if isinstance(value, kind)), type(value).__name__)
