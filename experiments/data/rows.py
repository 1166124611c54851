"""From records to rows: what of a record is prompt, answer and judgement, and what is wrong with a
record that makes no row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.data import beginnings, layouts
from experiments.data.conversations import (
    Turn,
    is_conversation,
    named,
    rendered,
    turns,
    unpacked,
    unread,
)
from experiments.data.layouts import SYSTEM, Columns
from experiments.data.templates import Render
from fdiv.benchmarks.text import Text
from fdiv.benchmarks.text_rows import Row
from fdiv.checks import present
from fdiv.types import UsageError

REASON = 200  # characters of a bad row's reason
LEADS = ("system", "developer")  # roles of what stands before a conversation
YES = {"true", "yes", "y", "good", "like", "liked", "positive", "desirable", "chosen", "1", "1.0"}
NO = {"false", "no", "n", "bad", "dislike", "disliked", "negative", "undesirable", "rejected"}
NO |= {"0", "0.0", "-1", "-1.0"}


class Found(NamedTuple):
    """A row, and what the file's other rows decide of it."""

    row: Row
    number: int  # of its record
    prompted: bool = False  # by a column of plain text
    without: Row | None = None  # the row whose answers began with the prompt, which is taken off
    clean: bool = True  # at the end of a word, so that it is no accident
    chat: bool = False  # of a conversation


class Piece(NamedTuple):
    """What a share of one file held."""

    found: Sequence[Found] = ()
    bad: Sequence[tuple[int, str]] = ()  # row number in the share, from 1
    numbers: int = 0  # how many row numbers the share takes up
    columns: Columns | None = None
    seen: Mapping[str, int] = {}  # column -> records that have it
    fields: Mapping[str, int] = {}  # the same of fields of messages that are not read


class Talk(NamedTuple):
    """How conversations are read."""

    last: bool  # of the assistant's messages, the last alone is learned
    render: Render | None  # a chat template; None: a line `role: text` for each message

    def write(self, before: Sequence[Turn], answer: str) -> tuple[str, str]:
        """Messages before an answer, and the answer, as the policy reads them."""
        return (rendered(before), answer) if self.render is None else self.render(before, answer)


def rows(
    numbered: Iterable[tuple[int, Any]],
    first: Mapping | None,
    numbers: int,
    config: Text,
    render: Render | None = None,
) -> Piece:
    """Rows of numbered records, whose columns are those of the file's first. Raises `UsageError`
    for columns that cannot be, and for a chat template that cannot serve."""
    found: list[Found] = []
    bad: list[tuple[int, str]] = []
    seen: Counter[str] = Counter()
    fields: Counter[str] = Counter()
    columns = None if first is None else layouts.columns(first, config)
    talk = Talk(config.turns == "last", render)
    for number, record in numbered:
        try:
            found += _of(record, columns, number, talk)
            seen.update(key for key, value in record.items() if value is not None)
            fields.update(_fields(record, present(columns, "columns")))
        except UsageError:  # of the template, and so of all rows
            raise
        except (ValueError, RecursionError) as error:
            bad.append((number, _reason(error)))
    return Piece(found, bad, numbers, columns, seen, fields)


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, UnicodeEncodeError):
        return "half a character (a lone surrogate), which is no text"
    reason = " ".join(str(error).split())
    return reason if len(reason) <= REASON else f"{reason[:REASON]}..."


def _fields(record: Mapping, columns: Columns) -> set[str]:
    return set().union(*(unread(unpacked(record.get(name))) for name in columns.names))


def _of(record: Any, columns: Columns | None, number: int, talk: Talk) -> list[Found]:
    """The rows of a record, or a `ValueError` saying what is wrong with it."""
    if isinstance(record, Exception):
        raise record
    if not isinstance(record, Mapping):
        raise ValueError(f"a {type(record).__name__}, not a record")
    columns = present(columns, "columns")  # those of the first record, so there are some
    missing = [name for name in columns.read if name not in record]
    missing = [name for name in missing if name not in columns.optional]
    if missing:
        raise ValueError(f"no field {missing[0]!r}")
    for name in layouts.conditions(record, columns):
        if name in columns.known:
            raise ValueError(f"{name!r} is a judgement here and none in the first row")
        raise ValueError(f"has {name!r}, which the first row has not")
    cells = {name: unpacked(record.get(name)) for name in columns.names}
    if any(is_conversation(cell) for cell in cells.values()) or _talks(columns):
        made = _conversation(cells, columns, number, talk)
    elif columns.rejected is None:
        made = [_answered(cells, columns, number)]
    else:
        made = [_compared(cells, columns, number)]
    beside: dict[str, Any] = {}
    if columns.extra:
        beside["extra"] = tuple(plain(record[name]) for name in columns.extra)
    if columns.label is not None:
        beside["liked"] = judged(record[columns.label], columns.label)
    if not beside:
        return made
    return [
        one._replace(
            row=one.row._replace(**beside),
            without=one.without and one.without._replace(**beside),
        )
        for one in made
    ]


def plain(value: Any) -> Any:
    """A cell as JSON has it; what JSON has no kind of, such as a date, as text."""
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value if isinstance(value, (str, bool, int, float, type(None))) else str(value)


def _talks(columns: Columns) -> bool:
    return columns.answer in layouts.CONVERSATION


def judged(label: Any, column: str) -> bool:
    """A label as people write them. Raises `ValueError` for what is neither yes nor no."""
    word = str(label).strip().lower()
    if isinstance(label, (bool, int, float, str)) and word in YES | NO:
        return word in YES
    shown = repr(label) if len(repr(label)) <= 40 else f"{repr(label)[:37]}..."
    raise ValueError(f"{column!r} is {shown}, not true or false (nor yes, no, good, bad, 1, 0)")


# --- plain text -----------------------------------------------------------------------------------


def _text(value: Any, column: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{column!r} is {named(value)}, not text")
    return value


def _answer(value: Any, column: str) -> str:
    text = _text(value, column)
    if not text:
        raise ValueError(f"{column!r} is empty")
    return text


def _prompt(cells: Mapping[str, Any], columns: Columns) -> list[str]:
    """The prompt's columns, each a line of it; those that are empty say nothing."""
    lacking = [name for name in columns.prompt if cells[name] is None]
    parts = [_text(cells[name], name) for name in columns.prompt if name not in lacking]
    for name in lacking:
        if name not in columns.optional:
            _text(None, name)
    asked = [name for name in columns.prompt if name not in SYSTEM]
    empty = all(cells[name] is None for name in asked) or (
        len(asked) > 1 and not any(cells[name] for name in asked)
    )
    if asked and empty:
        raise ValueError(f"nothing in any of {', '.join(map(repr, asked))}")
    return [part for part in parts if part]


def _begun(parts: Sequence[str], sides: Sequence[str]) -> tuple[str, tuple[int, ...]] | None:
    """(prompt, where it ends in each side) where all of them begin with the prompt, or with the
    last of its columns; None where they do not."""
    prompt = "\n".join(parts)
    ends = beginnings.of_prompt(prompt, sides)
    if ends is not None:
        return sides[0][: ends[0]], ends
    ends = beginnings.of_prompt(parts[-1], sides) if len(parts) > 1 else None
    return None if ends is None else (prompt, ends)


def _answered(cells: Mapping[str, Any], columns: Columns, number: int) -> Found:
    """A prompt and its answer."""
    parts = _prompt(cells, columns)
    prompt = "\n".join(parts)
    answer = _answer(cells[columns.answer], columns.answer)
    row = Row(prompt.encode(), answer.encode())
    if not prompt:
        return Found(row, number)
    begun = _begun(parts, [answer])
    if begun is None or begun[1][0] == len(answer):  # an answer that repeats its prompt is one
        return Found(row, number, True)
    asked, (end,) = begun
    without = Row(asked.encode(), answer[end:].encode())
    return Found(row, number, True, without, beginnings.ends_a_word(answer, end))


def _compared(cells: Mapping[str, Any], columns: Columns, number: int) -> Found:
    """Of two answers to one prompt, the one preferred. Without a column for it, the prompt is what
    both begin with."""
    parts = _prompt(cells, columns)
    prompt = "\n".join(parts)
    names = (columns.answer, present(columns.rejected, "second answer"))
    sides = [_answer(cells[name], name) for name in names]
    if sides[0] == sides[1]:
        raise ValueError(f"{columns.answer!r} and {columns.rejected!r} are the same")
    if all(name in SYSTEM for name in columns.prompt):  # a system's message, before what both share
        begin = beginnings.of_sides(*sides)
        before = f"{prompt}\n" if prompt else ""
        return Found(_pair(before + begin, (len(begin),) * 2, sides, columns), number)
    tagged = beginnings.of_tagged(parts[-1], sides) if parts else None
    if tagged is not None:
        return Found(_pair(tagged, (len(tagged),) * 2, sides, columns), number, True)
    row = _row(prompt, *sides)
    begun = _begun(parts, sides) if parts else None
    if begun is None:
        return Found(row, number, bool(prompt))
    clean = all(map(beginnings.ends_a_word, sides, begun[1]))
    if not clean and any(len(side) == end for side, end in zip(sides, begun[1])):
        return Found(row, number, True)
    return Found(row, number, True, _pair(*begun, sides, columns), clean)


def _pair(prompt: str, ends: Sequence[int], sides: Sequence[str], columns: Columns) -> Row:
    """A comparison whose sides begin with the prompt, which ends there."""
    for name, side, end in zip((columns.answer, columns.rejected), sides, ends):
        if len(side) == end:
            raise ValueError(f"{name!r} is empty after the prompt that it begins with")
    answers = [side[end:] for side, end in zip(sides, ends)]
    if answers[0] == answers[1]:
        raise ValueError(f"{columns.answer!r} and {columns.rejected!r} are the same")
    return _row(prompt, *answers)


def _row(prompt: str, chosen: str, rejected: str) -> Row:
    return Row(prompt.encode(), chosen.encode(), rejected.encode())


# --- conversations --------------------------------------------------------------------------------


def _conversation(
    cells: Mapping[str, Any], columns: Columns, number: int, talk: Talk
) -> list[Found]:
    """Of a conversation each message of the assistant is an answer to what stands before it; of
    one that is judged or compared the last message alone is."""
    prompt = _prompt_turns(cells, columns)
    shorter = _without_prompt(prompt, cells, columns)
    found = _talked(prompt, shorter, columns, number, talk)
    if shorter is cells:
        return found
    return [one._replace(without=one.row) for one in found]  # counted as taken off


def _talked(
    prompt: list[Turn], cells: Mapping[str, Any], columns: Columns, number: int, talk: Talk
) -> list[Found]:
    """The same, once the prompt is taken off answers that are plain text."""
    if columns.rejected is None:
        before, after = _parted(prompt, _side(cells, columns.answer), columns.answer, True)
        return _answers(before, after, columns, number, talk)
    chosen, rejected = (
        _parted(prompt, _side(cells, name), name, False)
        for name in (columns.answer, columns.rejected)
    )
    if chosen[0] != rejected[0]:
        raise ValueError(
            f"{columns.answer!r} and {columns.rejected!r} part before their last message"
        )
    answers = [side[1][-1].text for side in (chosen, rejected)]
    for name, answer in zip((columns.answer, columns.rejected), answers):
        if not answer:
            raise ValueError(f"{name!r} is empty")
    if answers[0] == answers[1]:
        raise ValueError(f"{columns.answer!r} and {columns.rejected!r} are the same")
    written = [talk.write(chosen[0], answer) for answer in answers]
    return [Found(_row(written[0][0], *(side for _, side in written)), number, chat=True)]


def _prompt_turns(cells: Mapping[str, Any], columns: Columns) -> list[Turn]:
    """The prompt's columns as messages: those of a conversation, a system's, a user's."""
    system, asked, lists = [], [], []
    for name in columns.prompt:
        cell = cells[name]
        if is_conversation(cell):
            lists += turns(cell, name)
        elif cell is None and name in columns.optional:
            continue
        elif text := _text(cell, name):
            (system if name in SYSTEM else asked).append(text)
    before = [Turn("system", text) for text in system if Turn("system", text) not in lists]
    return [*before, *lists, *([Turn("user", "\n".join(asked))] if asked else [])]


def _without_prompt(
    prompt: list[Turn], cells: Mapping[str, Any], columns: Columns
) -> Mapping[str, Any]:
    """The cells, of which answers in plain text do not begin with the prompt's messages."""
    names = [name for name in (columns.answer, columns.rejected) if name is not None]
    sides = [cells[name] for name in names]
    if not prompt or not all(isinstance(side, str) for side in sides):
        return cells
    for text in sorted({*_as_text(prompt, prompt[-1:])}, key=len, reverse=True):
        begun = beginnings.of_prompt(text, sides)
        if begun is None or any(len(side) == end for side, end in zip(sides, begun)):
            continue
        ends = list(map(beginnings.after_tag, sides, begun))
        if all(0 < end < len(side) for end, side in zip(ends, sides)):
            return {**cells, **{k: side[e:] for k, e, side in zip(names, ends, sides)}}
        if all(map(beginnings.ends_a_word, sides, begun)):
            return {**cells, **{k: side[e:] for k, e, side in zip(names, begun, sides)}}
    return cells


def _side(cells: Mapping[str, Any], name: str) -> list[Turn]:
    """An answer as messages, of which the assistant's is the last."""
    cell = cells[name]
    if isinstance(cell, str) and name not in layouts.CONVERSATION:
        return [Turn("assistant", _answer(cell, name))]
    side = turns(cell, name)
    if side[-1].role != "assistant":
        raise ValueError(f"the last message of {name!r} is not the assistant's")
    return side


def _parted(
    prompt: list[Turn], side: list[Turn], name: str, several: bool
) -> tuple[list[Turn], list[Turn]]:
    """What stands before the answer and the answer, once the prompt is found in what the side
    begins with. `several`: whether more than one message may follow it."""
    if all(turn.role in LEADS for turn in prompt):  # the side itself begins with its prompt
        whole = _with_system(prompt, side, name)
        spoken = next(i for i, turn in enumerate(whole) if turn.role == "assistant")
        end = spoken if several else len(whole) - 1
        return whole[:end], whole[end:]
    if side[0].role == "assistant":
        if prompt[-1].role == "assistant":
            fix = "put its last message before the answer"
            raise ValueError(f"the prompt ends with the assistant's own words: {fix}")
        before, after = prompt, side
    else:
        before, after = _taken_off(prompt, side, name)
    if len(after) > 1 and not several:
        fix = "put into the prompt what both sides share"
        raise ValueError(f"{name!r} has more messages than the prompt and one answer: {fix}")
    return before, after


def _with_system(prompt: list[Turn], side: list[Turn], name: str) -> list[Turn]:
    """A conversation with the system message that a column holds."""
    if not prompt or _begins(prompt, side):
        return side
    if side[0].role in LEADS:
        if side[0].text != prompt[0].text or len(prompt) > 1:
            raise ValueError(f"{name!r} has another system message than its column")
        return side
    return [*prompt, *side]


def _taken_off(prompt: list[Turn], side: list[Turn], name: str) -> tuple[list[Turn], list[Turn]]:
    """(before, answer) of a side that begins with the prompt, as messages or as their text, with a
    system message or without."""
    if _begins(prompt, side[:-1]) and side[len(prompt)].role == "assistant":
        return side[: len(prompt)], side[len(prompt) :]
    own = [turn for turn in prompt if turn.role in LEADS]
    told = [turn[:2] for turn in prompt if turn.role not in LEADS]
    lead = 1 if side[0].role in LEADS else 0
    if own and lead and (len(own) > 1 or own[0].text != side[0].text):
        raise ValueError(f"{name!r} has another system message than the prompt")
    for end in range(lead + 1, len(side)):
        if side[end].role != "assistant" or side[end - 1].role == "assistant":
            continue
        begin = side[:end]
        bare = begin[lead:]
        if [turn[:2] for turn in bare] == told or (
            len(told) == 1 and told[0][1].strip() in _as_text(begin, bare)
        ):
            return (begin if lead else [*own, *bare]), side[end:]
    raise ValueError(
        f"{name!r} begins with messages that the prompt does not hold: give them in the prompt, "
        "or drop its column"
    )


def _begins(prompt: Sequence[Turn], side: Sequence[Turn]) -> bool:
    """Whether a side begins with all messages of the prompt."""
    return [turn[:2] for turn in side[: len(prompt)]] == [turn[:2] for turn in prompt]


def _as_text(*beginnings_: list[Turn]) -> set[str]:
    """How a prompt that is one string may have been made of messages."""
    texts = set()
    for begin in beginnings_:
        contents = [turn.text for turn in begin]
        texts |= {join.join(contents).strip() for join in ("", " ", "\n", "\n\n")}
        texts.add(rendered(begin).strip())
    return texts


def _answers(
    before: list[Turn], after: list[Turn], columns: Columns, number: int, talk: Talk
) -> list[Found]:
    """A row for each answer that is to be learned."""
    spoken = [i for i, turn in enumerate(after) if turn.role == "assistant"]
    if columns.label is not None or talk.last:
        spoken = spoken[-1:]
    learned = [i for i in spoken if after[i].learned]
    if not learned:
        raise ValueError("no message of the assistant is to be learned (weight 0)")
    if any(not after[i].text for i in learned):
        raise ValueError("the assistant's message is empty")
    group = number if len(learned) > 1 else None
    found = []
    for i in learned:
        asked, answer = [*before, *after[:i]], after[i].text
        prompt, written = talk.write(asked, answer)
        row = Row(prompt.encode(), written.encode(), conversation=group)
        found.append(Found(row, number, chat=True))
    return found
