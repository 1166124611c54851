"""Whether plain data has the shape that a type says: what is read from a file is checked against
the dataclass, named tuple or typed dictionary that it is to be."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict


def check(value: Any, kind: Any, name: str = "it") -> None:
    """Raise `ValueError`, naming the field, where a value is not of a type: str, bool, int, float
    (any number), None, Any, Literal, list, dict, tuple or a union of them, or a class whose fields
    have such types."""
    if kind is Any:
        return
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if not any(_is(value, one) for one in arguments):
            raise _wrong(value, name)
    elif origin is Literal:
        if value not in arguments:
            raise _wrong(value, name)
    elif origin in (list, tuple):
        if not isinstance(value, (list, tuple)):
            raise _wrong(value, name)
        for i, item in enumerate(value):
            check(item, arguments[0], f"{name}[{i}]")
    elif origin is not None and issubclass(origin, Mapping):
        _check_mapping(value, arguments, name)
    elif fields := _fields(kind):
        _check_fields(value, kind, fields, name)
    elif not _plain(value, kind):
        raise _wrong(value, name)


def _is(value: Any, kind: Any) -> bool:
    try:
        check(value, kind)
    except ValueError:
        return False
    return True


def _check_mapping(value: Any, arguments: tuple[Any, ...], name: str) -> None:
    if not isinstance(value, Mapping):
        raise _wrong(value, name)
    for key, item in value.items():
        check(key, arguments[0], f"a key of {name}")
        check(item, arguments[1], f"{name}.{key}")


def _check_fields(value: Any, kind: type, fields: Mapping[str, Any], name: str) -> None:
    if is_typeddict(kind):
        if not isinstance(value, dict):
            raise _wrong(value, name)
        lacking = [field for field in fields if field not in value]
        if lacking:
            raise ValueError(f"{name} has no {lacking[0]!r}")
        items = value
    elif isinstance(value, kind):
        items = {field: getattr(value, field) for field in fields}
    else:
        raise _wrong(value, name)
    for field, own in fields.items():
        check(items[field], own, field if name == "it" else f"{name}.{field}")


@functools.cache
def _fields(kind: Any) -> Mapping[str, Any]:
    """Field -> type of a class that has fields."""
    named = isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")
    return (
        get_type_hints(kind)
        if named or dataclasses.is_dataclass(kind) or is_typeddict(kind)
        else {}
    )


def _plain(value: Any, kind: Any) -> bool:
    if kind in (None, type(None)):
        return value is None
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _wrong(value: Any, name: str) -> ValueError:
    return ValueError(f"{name} is {repr(value)[:40]}, which it cannot be")
