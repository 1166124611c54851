"""Chat templates: what a template of a checkpoint may use, and what it says where it refuses."""

import re

import pytest

from experiments.models import chat
from fdiv.types import UsageError

ASKED = [{"role": "user", "content": "Hi"}]
ANSWERED = [*ASKED, {"role": "assistant", "content": "Hello"}]
TOOL = {"type": "function", "function": {"name": "f", "description": "an ü & <b>"}}
RENDERED = {
    # template, messages, further arguments, text
    "plain": (
        "{% for m in messages %}<{{ m.role }}>{{ m['content'] }}</>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}",
        ASKED,
        {},
        "<user>Hi</><assistant>",
    ),
    "no generation prompt": (
        "{{ messages|length }}{% if add_generation_prompt %}<assistant>{% endif %}",
        ANSWERED,
        {"generate": False},
        "2",
    ),
    "special tokens": (
        "{{ bos_token }}x{{ eos_token }}",
        ASKED,
        {"special": {"bos_token": "<s>", "eos_token": "</s>"}},
        "<s>x</s>",
    ),
    # a block's own line leaves nothing behind: its indent and its line feed go
    "blocks": ("a\n  {% if true %}\nb\n  {% endif %}\nc", ASKED, {}, "a\nb\nc"),
    "generation": (
        "{% for m in messages %}{% generation %}[{{ m.content }}]{% endgeneration %}{% endfor %}",
        ANSWERED,
        {},
        "[Hi][Hello]",
    ),
    "a name set within generation stays there": (
        "{% set x = 1 %}{% generation %}{% set x = 2 %}{% endgeneration %}{{ x }}",
        ASKED,
        {},
        "1",
    ),
    "break and continue": (
        "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}"
        "{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
        ASKED,
        {},
        "02",
    ),
    "a namespace": (
        "{% set n = namespace(k=0) %}{% for m in messages %}{% set n.k = n.k + 1 %}{% endfor %}"
        "{{ n.k }}",
        ANSWERED,
        {},
        "2",
    ),
    # as JSON is written elsewhere: letters as they are, and no HTML
    "tojson": (
        "{{ tools[0].function | tojson }}",
        ASKED,
        {"tools": [TOOL]},
        '{"name": "f", "description": "an ü & <b>"}',
    ),
    "tojson with an indent": (
        "{{ {'a': [1]} | tojson(indent=1) }}",
        ASKED,
        {},
        '{\n "a": [\n  1\n ]\n}',
    ),
    "no tools are none": ("{{ tools is none }}{{ documents is none }}", ASKED, {}, "TrueTrue"),
    "a variable of its own": ("{{ enable_thinking }}", ASKED, {"enable_thinking": False}, "False"),
}


@pytest.mark.parametrize("name", RENDERED)
def test_a_template_is_rendered(name):
    template, messages, arguments, text = RENDERED[name]
    assert chat.render({"default": template}, messages, **arguments) == text


def test_the_day_is_known():
    text = chat.render({"default": "{{ strftime_now('%Y-%m-%d') }}"}, ASKED)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", text)


def test_tools_have_a_template_of_their_own_where_there_is_one():
    templates = {"default": "plain", "tool_use": "tools"}
    assert chat.render(templates, ASKED) == "plain"
    assert chat.render(templates, ASKED, tools=[TOOL]) == "tools"
    assert chat.render({"default": "plain"}, ASKED, tools=[TOOL]) == "plain"


REFUSED = {
    "its own words": (
        "{{ raise_exception('Roles must alternate: user first') }}",
        "Roles must alt",
    ),
    "syntax": ("{% for m in messages %}", "cannot be read"),
    "an unknown block": ("{% magic %}", "magic"),
    "a field that is absent": ("{{ messages[0].name.first }}", "UndefinedError"),
    "a missing operand": ("{{ messages[0].content + none }}", "TypeError"),
    "Python": ("{{ messages.__class__.__mro__ }}", "SecurityError"),
    "a change of its input": ("{{ messages.append(1) }}", "SecurityError"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_that_fails_is_told(name):
    template, said = REFUSED[name]
    with pytest.raises(UsageError, match=said) as error:
        chat.render({"default": template}, ASKED)
    assert error.value.field == "chat_template"


@pytest.mark.parametrize(
    "templates, said", [({}, "has none"), ({"rag": "x"}, "only one called rag")]
)
def test_a_model_without_a_template_has_no_chat(templates, said):
    with pytest.raises(UsageError, match=said):
        chat.render(templates, ASKED)
