"""YAML whose scalars stay as they are written: `time: 1:30:00`, `account: 0123`, `no` and `1_000`
are text, and what reads them decides what they are.

YAML 1.1 would make 5400, 83, false and 1000 of them. Mappings, lists, anchors and `<<` are as in
YAML; an empty value, `~` and `null` are None. Refused: a key given twice, other tags than those of
plain data, and what is nested or repeated beyond all need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fdiv.types import UsageError

DEEPEST = 32  # levels of nesting
MOST = 2_000_000  # values, those of anchors counted each time
NULL = ("", "~", "null", "Null", "NULL")
PLAIN = ("str", "int", "float", "bool", "null", "seq", "map", "merge")
KINDS = {f"tag:yaml.org,2002:{kind}" for kind in PLAIN}
MERGE = "<<"


def read(field: str, path: Path) -> Any:
    """What a file holds: dictionaries, lists, text and None. Raises `UsageError` of `field`."""
    import yaml

    try:
        content = path.read_bytes()
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error})."
        raise UsageError(field, str(path), problem, "Give a YAML file.") from error
    try:
        return _Reader(yaml.parse(content, Loader=yaml.BaseLoader)).document()
    except (yaml.YAMLError, _Wrong, ValueError, RecursionError) as error:
        words = " ".join(str(error).split())[:300]
        raise UsageError(field, str(path), f"cannot be read: {words}.", "Mend the file.") from error


class _Wrong(Exception):
    """What is wrong with a file that is YAML."""

    def __init__(self, problem: str, event: Any):
        super().__init__(f"{problem}, line {event.start_mark.line + 1}")


class _Reader:
    """Values from the events of a parser. It keeps no graph of nodes, so that depth and size are
    bounded while the file is read."""

    def __init__(self, events: Iterator[Any]):
        self._events = events
        self._anchors: dict[str, tuple[Any, int]] = {}  # name -> its value, and how many it holds
        self._count = 0

    def document(self) -> Any:
        """The file's one document; None where it is empty."""
        import yaml

        whole, seen = None, False
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if seen:
                    raise _Wrong("a second document begins", event)
                whole, seen = self._value(next(self._events), 0), True
        return whole

    def _value(self, event: Any, depth: int) -> Any:
        import yaml

        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise _Wrong(f"there is no whole &{event.anchor} before", event)
            value, size = self._anchors[event.anchor]
            self._counted(size, event)
            return value
        if depth > DEEPEST:
            raise _Wrong(f"nested more than {DEEPEST} levels deep", event)
        if event.tag not in (None, "!") and event.tag not in KINDS:
            raise _Wrong(f"the tag {event.tag[:80]} is not of plain data", event)
        before = self._count
        self._counted(1, event)
        if isinstance(event, yaml.ScalarEvent):
            value = None if event.style is None and event.value in NULL else event.value
        elif isinstance(event, yaml.SequenceStartEvent):
            value = list(self._items(yaml.SequenceEndEvent, depth))
        else:
            value = self._mapping(depth)
        if event.anchor:
            self._anchors[event.anchor] = (value, self._count - before)
        return value

    def _counted(self, size: int, event: Any) -> None:
        self._count += size
        if self._count > MOST:
            raise _Wrong(f"it holds more than {MOST:,} values", event)

    def _items(self, end: type, depth: int) -> Iterator[Any]:
        for event in self._events:
            if isinstance(event, end):
                return
            yield self._value(event, depth + 1)

    def _mapping(self, depth: int) -> dict[str, Any]:
        import yaml

        own: dict[str, Any] = {}
        lines: dict[str, int] = {}
        merged: dict[str, Any] = {}
        for event in self._events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            key = self._value(event, depth + 1)
            value = self._value(next(self._events), depth + 1)
            if key == MERGE and event.style is None:
                for table in reversed(value if isinstance(value, list) else [value]):
                    if not isinstance(table, dict):
                        raise _Wrong("<< takes mappings", event)
                    merged |= table
                continue
            if not isinstance(key, str):
                raise _Wrong("a key is no word", event)
            same = key.replace("-", "_")
            if same in lines:
                problem = f"the key {key[:80]!r} is given twice (first in line {lines[same]})"
                raise _Wrong(problem, event)
            own[key], lines[same] = value, event.start_mark.line + 1
        return merged | own
