"""The pages are whole: links lead somewhere, commands exist, snippets run, the README is short."""

from __future__ import annotations

import fnmatch
import importlib.util
import re
from pathlib import Path

import forked
import pytest

from experiments.reporting.metrics import METRICS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"```.*?```", flags=re.S)
COMMAND = re.compile(r"python -m (experiments(?:\.\w+)+)")
name_of = lambda page: str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as both GitHub and the site name them."""
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), flags=re.M)
    words = (re.sub(r"[^\w\- ]", "", title.lower()).strip() for title in titles)
    return {word.replace(" ", "-") for word in words}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere"
        if anchor:
            assert anchor in anchors(target), f"{link}: no such heading"


def test_every_page_is_in_the_site():
    listed = {"index"}
    for index in (DOCS / "index.md", DOCS / "studies" / "index.md", DOCS / "api" / "index.md"):
        folder = index.parent.relative_to(DOCS)
        for block in re.findall(r"```{toctree}\n(.*?)```", index.read_text(), flags=re.S):
            entries = (line for line in block.splitlines() if line and not line.startswith(":"))
            listed |= {(folder / entry).as_posix() for entry in entries}
    pages = {p.relative_to(DOCS).with_suffix("").as_posix() for p in DOCS.rglob("*.md")}
    assert pages <= listed
    assert all(any(DOCS.glob(f"{entry}.*")) for entry in listed)


def test_every_metric_is_explained():
    explained = set(re.findall(r"`(\w+)`", (DOCS / "metrics.md").read_text()))
    assert set(METRICS) <= explained


def test_every_module_of_the_core_has_one_api_page():
    modules = {
        ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for p in (ROOT / "fdiv").rglob("*.py")
    }
    named = [
        module
        for page in (DOCS / "api").glob("*.md")
        for patterns in re.findall(r"<!-- modules: (.*?) -->", page.read_text(), flags=re.S)
        for pattern in patterns.split()
        for module in fnmatch.filter(modules, pattern)
    ]
    assert sorted(named) == sorted(modules - {"fdiv"})


def test_commands_exist():
    for page in PAGES:
        for name in set(COMMAND.findall(page.read_text())):
            found = importlib.util.find_spec(name)
            folder = found and found.submodule_search_locations
            assert found and (not folder or Path(folder[0], "__main__.py").exists()), name


COMMANDS = sorted({name for page in PAGES for name in COMMAND.findall(page.read_text())})


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.few(2)
def test_commands_explain_themselves(name, tmp_path):
    done = forked.run(name, ["--help"], ROOT, tmp_path)
    assert done.code == 0, done.err[-1000:]
    assert len(done.out.split()) > 10


@pytest.mark.parametrize(
    "code",
    [
        code
        for page in [ROOT / "README.md", DOCS / "index.md"]
        for code in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.S)
    ],
)
def test_snippets_run(code, capsys):
    exec(compile(code, "snippet", "exec"), {})
    printed = capsys.readouterr().out.split()
    promised = re.findall(r"print\(.*\)  # (\S+)", code)
    assert [f"{float(a):.4f}" for a in printed] == promised


def test_pictures_are_small():
    pictures = [*DOCS.rglob("*.png")]
    assert pictures
    for picture in pictures:
        assert picture.stat().st_size < 300_000, picture
