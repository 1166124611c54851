"""Layouts: which columns of a file hold prompts, answers and judgements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.data.conversations import asks
from fdiv.benchmarks import own_reward
from fdiv.benchmarks.text import Text
from fdiv.types import UsageError

SYSTEM = ("system", "system_prompt")
QUESTION = ("prompt", "instruction", "question", "query", "input")
CONTEXT = ("input", "context")  # beside an instruction or a question
ANSWER = ("completion", "output", "response")
WORDS = ("true", "false", "desirable", "undesirable")  # a judgement beside any text
CONVERSATION = ("messages", "conversations", "conversation")
FIELDS = ("prompt_field", "completion_field", "rejected_field", "label_field")
USUAL = (
    "text, prompt/completion[/label], messages, conversations, [prompt/]chosen/rejected, "
    "instruction/[input/]output"
)


class Columns(NamedTuple):
    """The columns that are read."""

    prompt: tuple[str, ...]  # what makes up the prompt, in order; none: it is in the answer
    answer: str  # completions, or those that are preferred, or conversations
    rejected: str | None = None
    label: str | None = None
    optional: frozenset[str] = frozenset()  # of the prompt: what a row may lack, or leave empty
    known: frozenset[str] = frozenset()  # all columns of the first record
    extra: tuple[str, ...] = ()  # what a user's reward reads beside them

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, in order."""
        return tuple(filter(None, (*self.prompt, self.answer, self.rejected, self.label)))

    @property
    def read(self) -> tuple[str, ...]:
        """All that something of is used."""
        return tuple(dict.fromkeys((*self.names, *self.extra)))


def columns(record: Mapping[str, Any], config: Text) -> Columns:
    """The columns of a file by its first record and the config's flags.

    Raises `UsageError` where a named column is missing, or nothing is named and no layout known,
    or one would be known if a column's name had no capitals.
    """
    made = _columns(record, config)
    if not _named(config):
        _refuse_other_case(record, config)
    return made._replace(extra=_extra(record, config))


def _extra(record: Mapping[str, Any], config: Text) -> tuple[str, ...]:
    """What the config's reward reads. Raises `UsageError` for a column that is not there."""
    if config.reward is None:
        return ()
    reward = own_reward.known(config.reward)
    for name in reward.columns:
        if name not in record and name not in reward.optional:
            problem, fix = f"reads {name}, no column of the file.", f"It has {listed(record)}."
            raise UsageError("benchmark.reward", reward.name, problem, fix)
    return tuple(name for name in reward.columns if name in record)


def _columns(record: Mapping[str, Any], config: Text) -> Columns:
    _check_named(record, config)
    answer, rejected = _answers(record, config)
    label = config.label_field if rejected is None else None
    if rejected is not None and config.label_field is not None:
        problem, fix = "is named beside comparisons, which have no label.", "Name one of the two."
        raise UsageError("benchmark.label_field", config.label_field, problem, fix)
    if label is None and rejected is None and _judges(record, answer):
        label = "label"
    prompt = config.prompt_field or tuple(_prompt(record, answer, rejected))
    optional = {*prompt} - {*_question(prompt)}
    if config.prompt_field:
        optional = {*prompt} if len(prompt) > 1 else set()
    return Columns(prompt, answer, rejected, label, frozenset(optional), frozenset(record))


def _question(prompt: Sequence[str]) -> list[str]:
    """Of a prompt's columns, the one that no row may lack."""
    return [name for name in (*QUESTION, *CONVERSATION) if name in prompt][:1]


def conditions(record: Mapping[str, Any], read: Columns) -> list[str]:
    """Columns of a later record that would judge or condition it, though the first record lacks
    them."""
    bare = read.answer == "text" or (read.rejected is not None and not _question(read.prompt))
    others = ["chosen", "rejected"] if read.rejected is None else []
    others += [*QUESTION[:4]] if bare else []
    others += [] if read.label or read.rejected else ["label"]
    said = [name for name in others if record.get(name) is not None and name not in read.known]
    if read.answer == "text" and not read.label and _judges(record, read.answer):
        said.append("label")  # true or false here, and a class or nothing in the first row
    return said


def lacking(record: Mapping[str, Any], config: Text) -> list[tuple[str, str]]:
    """(flag's field, name) of the named columns that a record has not."""
    return [(field, name) for field, name in _named(config) if name not in record]


def known(record: Mapping[str, Any], config: Text) -> bool:
    """Whether a record has a layout and all named columns."""
    try:
        _check_named(record, config)
        _answers(record, config)
    except UsageError as error:
        return error.field not in ("benchmark.path", *(f"benchmark.{f}" for f in FIELDS))
    return True


def _named(config: Text) -> list[tuple[str, str]]:
    single = FIELDS[1:]
    named = [("prompt_field", name) for name in config.prompt_field]
    return named + [(field, getattr(config, field)) for field in single if getattr(config, field)]


def _check_named(record: Mapping[str, Any], config: Text) -> None:
    named = _named(config)
    for field, name in lacking(record, config):
        problem, fix = "is no column of the file.", f"Its columns: {listed(record)}."
        raise UsageError(f"benchmark.{field}", name, problem, fix)
    used = [name for _, name in named]
    for field, name in named:
        if used.count(name) > 1:
            problem, fix = "is named for two things.", f"The file's columns: {listed(record)}."
            raise UsageError(f"benchmark.{field}", name, problem, fix)
    if config.rejected_field and not config.completion_field:
        fix = "Name the preferred answers' column with --benchmark.completion-field."
        problem = "is named without the answers that were preferred to it."
        raise UsageError("benchmark.rejected_field", config.rejected_field, problem, fix)


def _refuse_other_case(record: Mapping[str, Any], config: Text) -> None:
    """Raise for a column that would be read, were its name in small letters."""
    for name in record:
        usual = name.strip().lower()
        if usual == name or usual in record:
            continue
        if usual in _columns({**record, usual: record[name]}, config).names:
            problem = f"has a column {name!r}, which is not read; {usual!r} would be."
            field = {"label": "label", "rejected": "rejected"}.get(usual, "prompt")
            fix = (
                f"Rename it, or name what is to be read, such as --benchmark.{field}-field {name}."
            )
            raise UsageError("benchmark.path", str(config.path), problem, fix)


def _answers(record: Mapping[str, Any], config: Text) -> tuple[str, str | None]:
    """The column of answers, and that of those that were not preferred."""
    if config.completion_field:
        beside = (
            "rejected" if config.completion_field == "chosen" and "rejected" in record else None
        )
        return config.completion_field, config.rejected_field or beside
    if "chosen" in record and "rejected" in record:
        return "chosen", "rejected"
    free = [name for name in record if name not in config.prompt_field]
    prompted = bool(config.prompt_field) or any(name in record for name in QUESTION[:2])
    judged = "prompt" in free and "completion" in free and "label" in free
    order = ([] if not judged else ["completion"]) + [*CONVERSATION]
    order += [*ANSWER] if prompted else []
    order += [] if config.prompt_field else ["text"]
    answer = next((name for name in order if name in free), None)
    if answer is not None:
        return answer, None
    if config.prompt_field:
        fix = f"Name the answer's column too; the file has {listed(record)}."
        raise UsageError("benchmark.completion_field", None, "is missing beside prompt_field.", fix)
    fix = (
        f"The file has {listed(record) or 'none'}: name them with --benchmark.prompt-field and "
        "--benchmark.completion-field."
    )
    problem = f"has none of the usual columns ({USUAL})."
    raise UsageError("benchmark.path", str(config.path), problem, fix)


def _prompt(record: Mapping[str, Any], answer: str, rejected: str | None) -> list[str]:
    """The columns of a prompt that no flag names."""
    if answer == "text":
        return []
    if answer in CONVERSATION:
        return [*SYSTEM]
    free = [name for name in QUESTION if name in record and name not in (answer, rejected)]
    if not free and rejected is not None:
        free = [name for name in CONVERSATION if asks(record.get(name))]
    beside = [*CONTEXT] if free[:1] in (["instruction"], ["question"]) else []
    return [*SYSTEM, *free[:1], *(name for name in beside if name not in (answer, rejected))]


def _judges(record: Mapping[str, Any], answer: str) -> bool:
    """Whether a column `label` is a judgement: beside `text` only true and false are, as it is a
    class there in many files."""
    if "label" not in record or answer == "label":
        return False
    label = record["label"]
    return answer != "text" or isinstance(label, bool) or str(label).strip().lower() in WORDS


def listed(names: Sequence[str] | Mapping[str, Any], most: int = 20) -> str:
    """Names of columns, of which there may be many and long ones."""
    few = [name if len(name) <= 40 else f"{name[:37]}..." for name in list(names)[:most]]
    return ", ".join(few) + (f" and {len(names) - most} more" if len(names) > most else "")
