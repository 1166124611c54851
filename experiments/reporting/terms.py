"""What words of the report mean, as the pages of the documentation say it: the glossary, and the
tables of metrics. There is no second list of definitions.

Where the pages are not there, nothing is explained."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from pathlib import Path

from markupsafe import Markup, escape

from experiments.reporting.metrics import LEVELS

DOCS = Path(__file__).parents[2] / "docs"
ENTRY = re.compile(r"^(\S[^\n]*)\n((?:  [^\n]*\n?)+)", flags=re.M)
ROW = re.compile(r"^\| (`[^|]+`) \| ([^|]+) \|", flags=re.M)
LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
# words that are explained where they stand in a sentence, the longer ones first
IN_SENTENCES = (
    "class optimum",
    "demonstrations",
    "local optimum",
    "interval",
    "warm start",
    "gradient norm",
    "log-ratio",
    "frontier",
    "regret",
    "mode B",
    "seeds",
    "Gap",
    "IQM",
)
SAME = {
    "Gap": "gap",
    "interval": "95% interval",
    "seeds": "seed",
    "demonstrations": "demonstration",
}


@functools.cache
def glossary() -> dict[str, str]:
    """Term in small letters -> its definition, plain text."""
    page = _page("glossary.md")
    body = page.partition("```{glossary}\n")[2].partition("```")[0]
    return {
        term.strip().lower(): _plain(text)
        for terms, text in ENTRY.findall(body)
        for term in terms.split(", ")
    }


@functools.cache
def metrics() -> dict[str, str]:
    """Name of a metric -> what it is."""
    return {
        name.lower(): _plain(text)
        for names, text in ROW.findall(_page("metrics.md"))
        for name in re.findall(r"`([^`]+)`", names)
    }


def meaning(title: str, metric: str = "") -> str:
    """Of a title, or of a metric under whatever title; nothing where no page says it."""
    for name in (metric.lower(), title.lower()):
        for table in (glossary(), metrics()):
            if text := table.get(name) or table.get(name.replace("_", " ")):
                return text
    for end in LEVELS:
        base = metric.removesuffix(end)
        if base != metric and (text := meaning(base, base)):
            return f"{text} Here: {metrics().get(end, '')}."
    return ""


def marked(sentences: str | Iterable[str]) -> Markup:
    """Sentences in which the first of each word that is explained shows what it means."""
    text = escape(sentences if isinstance(sentences, str) else " ".join(sentences))
    for word in IN_SENTENCES:
        if said := meaning(SAME.get(word, word)):
            text = _first(text, word, said)
    return text


def _first(text: Markup, word: str, said: str) -> Markup:
    pattern = rf"(?<![\w-]){re.escape(word)}(?![\w-])(?![^<]*</span>)(?![^<]*>)"
    return Markup(re.sub(pattern, lambda found: term(found.group(), said), str(text), count=1))


def term(word: str, said: str) -> str:
    """A word that can be pointed at or reached by the keyboard."""
    return f'<span class="term" tabindex="0" title="{escape(said)}">{escape(word)}</span>'


def _page(name: str) -> str:
    try:
        return (DOCS / name).read_text(encoding="utf-8")
    except OSError:
        return ""


def _plain(text: str) -> str:
    """Markdown without its marks, on one line."""
    return " ".join(LINK.sub(r"\1", text).replace("`", "").replace("*", "").split())
