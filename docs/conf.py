"""How Sphinx builds the site: `make docs` writes it to build/docs."""

from __future__ import annotations

import fnmatch
import json
import re
import sys
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.writers.html5 import HTML5Translator

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

project = "fdiv"
author = "The fdiv authors"
copyright = "2026, The fdiv authors"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
source_suffix = {".md": "markdown", ".ipynb": "notebook"}
exclude_patterns = ["api/_*"]
nitpicky = True

html_theme = "furo"
html_title = "fdiv"
html_static_path = ["_static"]
html_css_files = ["fdiv.css"]
html_show_sourcelink = False
html_math_renderer = "mathml"

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 4
copybutton_prompt_text = "$ "

toc_object_entries = False  # hundreds of names beside a page help nobody
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
default_role = "code"  # docstrings put code and short formulas in single backticks
nitpick_ignore_regex = [("py:.*", ".*")]  # types in signatures are not links; pages are checked

# `make linkcheck` is not part of the build: a build must not need the network
linkcheck_timeout = 20


# --- formulas -------------------------------------------------------------------------------------
# MathML is drawn by the browser itself, so the site needs neither a script nor the network.


NAMED = re.compile(r"(<mi>(?:log|sign)</mi>)(?!\s*<mo[^>]*>\()")  # log p: browsers leave no space


def _mathml(formula: str, block: bool) -> str:
    return NAMED.sub(r'\1<mspace width="0.17em"></mspace>', tex2mathml(formula, as_block=block))


def _visit_math(writer: HTML5Translator, node: nodes.math) -> None:
    writer.body.append(_mathml(node.astext(), block=False))
    raise nodes.SkipNode


def _visit_math_block(writer: HTML5Translator, node: nodes.math_block) -> None:
    writer.body.append(f'<div class="math">{_mathml(node.astext(), block=True)}</div>')
    raise nodes.SkipNode


# --- docstrings -----------------------------------------------------------------------------------
# They are written to be read in a terminal: code in single backticks, formulas and tables set apart
# by four spaces. Sphinx reads reStructuredText, in which some of their characters mean something.

CODE = re.compile(r"(`[^`]*`)")


def _as_restructured_text(app, what, name, obj, options, lines: list[str]) -> None:
    """Keep indented blocks as they are typed, and take |, * and trailing _ for what they are."""
    if lines and lines[0].startswith("Alias for field number"):  # what a named tuple says
        lines.clear()
    out: list[str] = []
    literal = False
    for line in lines:
        indented = line.startswith("    ")
        if indented and not literal and not (out and out[-1].strip()):
            literal = True
            out += ["::", ""]
        elif literal and line.strip() and not indented:
            literal = False
            if out[-1].strip():
                out.append("")
        out.append(line if literal else _escaped(line))
    lines[:] = out


def _escaped(line: str) -> str:
    parts = CODE.split(line)
    for i in range(0, len(parts), 2):  # the odd ones are code
        parts[i] = re.sub(r"([|*])", r"\\\1", parts[i])
        parts[i] = re.sub(r"(\w)_(?!\w)", r"\1\\_", parts[i])
    return "".join(parts)


# --- API pages ------------------------------------------------------------------------------------

MODULES = re.compile(r"<!-- modules: (.*?) -->", flags=re.S)


def _with_modules(app, page: str, source: list[str]) -> None:
    """A page under api/ names its modules, by patterns: each becomes a section."""
    source[0] = MODULES.sub(lambda found: "\n".join(map(_section, named(found[1]))), source[0])


def named(patterns: str) -> list[str]:
    """The modules of fdiv that some patterns match, in the patterns' order."""
    files = sorted((ROOT / "fdiv").rglob("*.py"))
    dotted = (".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files)
    modules = [name.removesuffix(".__init__") for name in dotted]
    return [name for pattern in patterns.split() for name in fnmatch.filter(modules, pattern)]


def _section(module: str) -> str:
    lines = (f"## `{module}`", "", "```{eval-rst}", f".. automodule:: {module}", "   :members:")
    return "\n".join((*lines, "```", ""))


# --- the notebook ---------------------------------------------------------------------------------


class NotebookParser(MystParser):
    """Show a notebook as a page: its cells as Markdown, its stored outputs under them."""

    supported = ("notebook",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        parts = []
        for cell in json.loads(inputstring)["cells"]:
            source = "".join(cell["source"])
            parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
            parts += map(_shown, cell.get("outputs", []))
        super().parse("\n\n".join(parts), document)


def _shown(output: dict) -> str:
    """One stored output as Markdown: text, or a picture inside the page."""
    data = output.get("data", {})
    if "image/png" in data:
        picture = "".join(data["image/png"]).replace("\n", "")
        source = f"data:image/png;base64,{picture}"
        return f'```{{raw}} html\n<img alt="what the cell above draws" src="{source}">\n```'
    text = "".join(output.get("text") or data.get("text/plain", ""))
    return f"```text\n{text.rstrip()}\n```"


def setup(app) -> None:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (_visit_math, None), (_visit_math_block, None))
    app.connect("source-read", _with_modules)
    app.connect("autodoc-process-docstring", _as_restructured_text)
    app.add_source_parser(NotebookParser)
