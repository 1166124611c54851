"""Chat templates: Jinja programs that come with a checkpoint and turn messages into its text.

They are run in Jinja's immutable sandbox, in which a template can neither reach Python nor change
what it is given. The names that a template may use are those of transformers' documentation:
`messages`, `tools`, `documents`, `add_generation_prompt`, the special tokens, `raise_exception`,
`strftime_now` and the filter `tojson`."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jinja2
from jinja2 import ext, nodes, parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from fdiv.types import UsageError

Message = Mapping[str, Any]  # role, content and what else a template reads
DEFAULT, TOOLS = "default", "tool_use"  # names of templates


class _Refusal(jinja2.TemplateError):
    """What a template says by `raise_exception`."""


class _Generation(ext.Extension):
    """`{% generation %}...{% endgeneration %}` marks an assistant's words; they are rendered as
    they are."""

    tags = {"generation"}

    def parse(self, parser: parser.Parser) -> nodes.Node:
        """The block's body, in a scope of its own as transformers has it."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def render(
    templates: Mapping[str, str],
    messages: Sequence[Message],
    special: Mapping[str, Any] | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    generate: bool = True,
    **more: Any,
) -> str:
    """The text of a conversation; `generate` ends it where the assistant is to write. `more` are
    variables of this template's own. Raises `UsageError` in the template's words where it refuses,
    and where there is none."""
    name = TOOLS if tools is not None and TOOLS in templates else DEFAULT
    if name not in templates:
        known = f"only one called {', '.join(templates)}" if templates else "none"
        raise UsageError(
            "chat",
            True,
            f"needs a chat template, and this model has {known}.",
            "Leave --chat out to continue plain text, or put a chat_template.jinja beside it.",
        )
    variables = {
        **(special or {}),
        "messages": list(messages),
        "tools": tools,
        "documents": None,
        "add_generation_prompt": generate,
        **more,
    }
    try:
        return _environment().from_string(templates[name]).render(variables)
    except _Refusal as error:
        problem = f"refuses the conversation: {error.message}"
        raise UsageError("chat_template", name, problem, "Write what it asks for.") from error
    except jinja2.TemplateSyntaxError as error:
        problem = f"cannot be read: {error.message} (line {error.lineno})."
        raise UsageError("chat_template", name, problem, "Mend the template.") from error
    except Exception as error:  # a template is a program, and any of its lines can fail
        problem = f"fails on this conversation: {type(error).__name__}: {error}."
        fix = "Give the fields that it reads, or mend the template."
        raise UsageError("chat_template", name, problem, fix) from error


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[ext.loopcontrols, _Generation]
    )
    environment.filters["tojson"] = _to_json
    today = lambda form: datetime.datetime.now().strftime(form)
    names: dict[str, Any] = environment.globals  # pyrefly: ignore[bad-assignment]: any are
    names |= {"raise_exception": _raise, "strftime_now": today}
    return environment


def _to_json(value: Any, ensure_ascii: bool = False, **form: Any) -> str:
    """Plain JSON; Jinja's own filter writes it for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **form)


def _raise(message: str) -> NoReturn:
    raise _Refusal(message)
