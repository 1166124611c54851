"""Texts that begin alike: where the prompt ends in answers that repeat it, and in two sides of a
comparison that hold it without a column of its own."""

from __future__ import annotations

import bisect
import re
import unicodedata
from collections.abc import Sequence

ASSISTANT = re.compile(  # what stands before an assistant's words, in common layouts
    r"(?:(?:^|(?<=\n))[ \t]*(?:Assistant|AI|Bot|Answer|A|GPT|ASSISTANT|assistant)[ \t]*:)"
    r"|\bASSISTANT:"
    r"|<\|im_start\|>assistant\n|<\|start_header_id\|>assistant<\|end_header_id\|>\n*"
    r"|<\|assistant\|>\n?|<start_of_turn>model\n|\[/INST\]|### (?:Response|Assistant):\n*"
)
OTHER = re.compile(
    r"(?:(?:^|(?<=\n))[ \t]*(?:Human|User|Question|Q|System|USER|user)[ \t]*:)|\bUSER:"
    r"|<\|im_start\|>(?:user|system)\n|<\|start_header_id\|>(?:user|system)<\|end_header_id\|>"
    r"|<\|(?:user|system)\|>|<start_of_turn>user\n|\[INST\]|### (?:Instruction|Input|Human|User):"
)
UNSPACED = re.compile("CJK|HIRAGANA|KATAKANA|THAI|LAO|KHMER|MYANMAR|TIBETAN|IDEOGRAPHIC|FULLWIDTH")


def of_prompt(prompt: str, sides: Sequence[str]) -> tuple[int, ...] | None:
    """Where the prompt ends in each side, where all of them begin with it but for its white space
    and for how Unicode composes its characters; None where one does not."""
    if not prompt.strip():
        return None
    if all(side.startswith(prompt) for side in sides):
        return tuple(len(prompt) for _ in sides)
    ends = []
    for side in sides:
        end = _of_words(prompt.split(), side)
        end = _of_composed(prompt, side) if end is None else end
        if end is None:
            return None
        ends.append(end)
    return tuple(ends)


def _of_composed(prompt: str, side: str) -> int | None:
    """The same where a letter may be one character here and several there (NFKC)."""
    side = side[: 4 * len(prompt) + 64]  # no character of the prompt is longer
    if prompt.isascii() and side.isascii():
        return None
    normal = lambda text: unicodedata.normalize("NFKC", text)
    whole = normal(side)
    found = _of_words(normal(prompt).split(), whole)
    if found is None:
        return None
    # a character is never composed with those before it alone, so lengths do not fall
    end = bisect.bisect_left(range(len(side) + 1), found, key=lambda i: len(normal(side[:i])))
    while end < len(side) and unicodedata.combining(side[end]):
        end += 1
    return end if normal(side[:end]) == whole[:found] else None


def _of_words(words: Sequence[str], side: str) -> int | None:
    """Where these words, parted by any white space, end in a text that begins with them."""
    end = 0
    for i, word in enumerate(words):
        start = end
        while end < len(side) and side[end].isspace():
            end += 1
        if (i and end == start) or not side.startswith(word, end):
            return None
        end += len(word)
    return end


def after_tag(side: str, begin: int) -> int:
    """Where the answer begins in a text behind its prompt: past the assistant's tag, if one
    follows."""
    while begin < len(side) and side[begin].isspace():
        begin += 1
    tag = ASSISTANT.match(side, begin)
    if tag is None:
        return -1
    return tag.end() + (side[tag.end() : tag.end() + 1] == " ")


def of_tagged(prompt: str, sides: Sequence[str]) -> str | None:
    """The dialogue of role tags that all sides begin with, where it holds the prompt; None where
    they begin with none. Raises `ValueError` where it does not hold the prompt."""
    if not all(OTHER.match(side.lstrip()) for side in sides):
        return None
    if all(side.startswith(prompt) for side in sides) and ASSISTANT.search(prompt):
        return None
    begin = _last_tag(shared(*sides))
    if not begin or prompt.strip() not in begin:
        raise ValueError(
            "the answers begin with a dialogue that the prompt does not hold: give it in the "
            "prompt, or drop its column"
        )
    return begin


def of_sides(chosen: str, rejected: str) -> str:
    """What both sides begin with, up to the end of the last role tag; without tags up to the end of
    a line or a word, and where words are not parted by spaces, of a character.

    Raises `ValueError` where the sides part before the assistant speaks."""
    begin = shared(chosen, rejected)
    tagged = _last_tag(begin)
    if tagged:
        if OTHER.search(begin, len(tagged)) and all(
            ASSISTANT.search(side, len(tagged)) for side in (chosen, rejected)
        ):
            raise ValueError("the sides part before the last answer")
        return tagged
    if all(ASSISTANT.search(s) and OTHER.match(s.lstrip()) for s in (chosen, rejected)):
        raise ValueError("the sides answer different prompts")
    spaces = max(begin.rfind("\n"), begin.rfind(" ")) + 1
    unspaced = next((i for i in range(len(begin), spaces, -1) if _unspaced(begin[i - 1])), 0)
    if spaces or unspaced:
        return begin[: max(spaces, unspaced)]
    if any(c.isspace() for c in chosen + rejected):
        return ""
    ends = (i for i in range(len(begin), 0, -1) if ends_a_word(chosen, i))
    return begin[: next((i for i in ends if ends_a_word(rejected, i)), 0)]


def shared(a: str, b: str) -> str:
    """What both begin with."""
    length = min(len(a), len(b))
    if a[:length] == b[:length]:
        return a[:length]
    low, high = 0, length
    while low < high:  # the longest that is equal, by halves
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[:middle] == b[:middle] else (low, middle - 1)
    return a[:low]


def ends_a_word(text: str, end: int) -> bool:
    """Whether a word ends before `end`: not between two letters, nor between two digits."""
    if end == 0 or end >= len(text):
        return True
    a, b = text[end - 1], text[end]
    letters = a.isalpha() and b.isalpha() and not (_unspaced(a) or _unspaced(b))
    return not (letters or (a.isdigit() and b.isdigit()))


def _last_tag(begin: str) -> str:
    """A text up to the end of its last tag of the assistant, and the space behind it."""
    tags = list(ASSISTANT.finditer(begin))
    if not tags:
        return ""
    end = tags[-1].end()
    return begin[: end + (begin[end : end + 1] == " ")]


def _unspaced(character: str) -> bool:
    return ord(character) > 0x0E00 and bool(UNSPACED.match(unicodedata.name(character, "")))
