"""Strings that tokenizers disagree on: prose, code, numbers, white space, scripts, emoji,
characters at random."""

# ruff: noqa: RUF001 (letters of other scripts that look like Latin ones are meant)

from __future__ import annotations

import random

PROSE = (
    "The capital of France is Paris, and that of Italy is Rome.",
    "It's what they'd said: \"we've done it\", wasn't it?",
    "Distillation moves a student towards its teacher; the divergence says how.",
    "  Two blanks before, and two after.  ",
    "UPPER lower MiXeD camelCase snake_case kebab-case",
    "An e-mail to someone@example.org, a page at https://example.org/a?b=c&d=%20#e",
)
CODE = (
    "def f(x):\n    return x ** 2 if x > 0 else -x\n",
    'for (int i = 0; i < 10; ++i) {\n\tprintf("%d\\n", i);\n}\n',
    '{"a": [1, 2.5e-3, null], "b": {"c": true}}',
    "SELECT * FROM t WHERE a >= 3 AND b LIKE '%x%';",
    "\\frac{1}{2}\\sum_{i=1}^{n} x_i^2",
)
NUMBERS = ("1234567890", "3.14159", "1,000,000", "0x1F", "2024-05-17 08:09", "½ Ⅳ ² ٣ ४")
SPACE = (
    "",
    " ",
    "\n",
    "\t",
    "\r\n",
    "   \n\n  \t x",
    "a\u00a0b\u2003c\u200bd",
    "x" + " " * 40 + "y",
)
SCRIPTS = (
    "Grüße aus Köln, naïve café, Ærøskøbing",
    "Привет, мир! Как дела?",
    "Γειά σου Κόσμε",
    "שלום עולם",
    "مرحبا بالعالم",
    "नमस्ते दुनिया",
    "こんにちは世界、カタカナ",
    "你好,世界。今天天气很好",
    "안녕하세요 세계",
    "สวัสดีชาวโลก",
    "xin chào thế giới",
    "გამარჯობა მსოფლიო",
    "Բարեւ աշխարհ",
    "ሰላም ልዑል",
    "வணக்கம் உலகம்",
)
EMOJI = ("🙂", "👩‍👩‍👧‍👦 family", "🏳️‍🌈🇫🇷", "e\u0301 against \u00e9", "ﬁne ﬂow", "𝕏𝔂𝟟")


def strings(special: tuple[str, ...] = (), count: int = 200) -> list[str]:
    """`count` of them, the same at every call; with special tokens alone and within text."""
    fixed = [*PROSE, *CODE, *NUMBERS, *SPACE, *SCRIPTS, *EMOJI]
    fixed += [text for token in special[:6] for text in (token, f"a {token}b\n{token}")]
    draw = random.Random(0)
    characters = lambda low, high: "".join(
        chr(draw.randrange(low, high)) for _ in range(draw.randrange(1, 30))
    )
    ranges = (
        (32, 127),
        (32, 127),
        (32, 0x250),
        (0x370, 0x600),
        (0x3040, 0x30FF),
        (0x1F300, 0x1FAFF),
    )
    while len(fixed) < count:
        kind = len(fixed) % (len(ranges) + 1)
        mixed = " ".join(
            draw.choice(PROSE + CODE + NUMBERS + SCRIPTS)[: draw.randrange(3, 25)] for _ in "ab"
        )
        fixed.append(mixed if kind == len(ranges) else characters(*ranges[kind]))
    return fixed[:count]
