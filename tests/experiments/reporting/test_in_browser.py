"""The report in a real browser: the system's Chromium, driven by playwright; skipped where either
is not there."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import recorded

from experiments.reporting import pictures, report, schema
from experiments.reporting.charts import Drawing
from experiments.reporting.metrics import METRICS
from experiments.reporting.pictures import Drawn
from experiments.reporting.schema import HistoryLine, RunResult
from experiments.sweep import axis

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
FAR, HOSTILE = "far", "a:b, </script><b>"
WIDE, NARROW = 1300, 420
READY = "document.documentElement.dataset.ready"

pytestmark = pytest.mark.wide


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A report with every kind of chart, of a run that was never trained."""
    out = tmp_path_factory.mktemp("browser")
    (out / "figures").mkdir()
    result = recorded.shown(["sft", "gail", HOSTILE, FAR], FAR)
    history = recorded.history(result)
    samples = [
        {"method": name, "seed": 0, "index": i, "prompt": "", "completion": "0 1 2"}
        for name in ("expert", "start", *result.methods)
        for i in range(2)
    ]
    _write(out, result, history, samples)
    return out


def _write(out: Path, result: RunResult, history: list[HistoryLine], samples: list) -> None:
    lines = [{"method": who, "seed": 0, "log_p": -1.0, "log_q": -2.5} for who in result.methods]
    drawn = pictures.draw(result, history, out / "figures", lines)
    drawn.insert(0, Drawn("Over the axis", axis.CAPTION, _axis(out, result)))
    report.write(out / "report.html", result, drawn, samples, recorded.ENVIRONMENT, {})


def _axis(out: Path, result: RunResult) -> Drawing:
    """The picture of a sweep of two runs, both the same."""
    schema.write(out / "results.json", result)
    lines = [{"line": i, "point": {"beta": value}} for i, value in enumerate((0.1, 2.0))]
    sweep = SimpleNamespace(run=lambda line: out)
    return axis.picture(sweep, lines, "beta", METRICS["js"], out / "figures")


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        pytest.skip("no Chromium on this machine")
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with driver.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Opened:
    """A page, with what its console said and what it asked the network for."""

    def __init__(self, browser, folder: Path, width: int = WIDE, **context):
        self.page = browser.new_page(viewport={"width": width, "height": 900}, **context)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto((folder / "report.html").as_uri())
        self.page.wait_for_function(READY)


@pytest.fixture(scope="module")
def opened(browser, folder):
    """One page for all tests that leave it as it was."""
    return Opened(browser, folder)


def first_column(page) -> list[str]:
    return page.eval_on_selector_all(
        "table.ranking tbody th", "all => all.map(each => each.textContent.trim())"
    )


def test_it_draws_everything_without_a_word_or_a_network(opened):
    page = opened.page
    assert page.evaluate(READY) == "yes"
    assert opened.said == []
    assert [url for url in opened.asked if not url.startswith(("file:", "data:", "blob:"))] == []
    charts = page.eval_on_selector_all(
        ".chart", "all => all.map(at => at.querySelectorAll('svg path, svg text').length)"
    )
    assert len(charts) >= 10 and min(charts) > 10
    assert page.locator(".static:visible").count() == 0
    assert page.locator("b", has_text="b>").count() == 0  # a name is no markup


def test_the_ranking_sorts_with_expert_and_start(opened):
    page = opened.page
    title = page.locator("table.ranking thead th", has_text=re.compile(r"^JS$"))
    title.get_by_role("button").click()
    assert title.get_attribute("aria-sort") == "ascending"
    up = first_column(page)
    assert up[0] == "expert" and up.index("start") < up.index(FAR)
    title.get_by_role("button").click()
    assert title.get_attribute("aria-sort") == "descending"
    assert first_column(page) == up[::-1]
    gap = page.locator("table.ranking thead th", has_text="gap")
    gap.get_by_role("button").click()
    assert set(first_column(page)[-2:]) == {"expert", "start"}  # which have none


def test_a_method_is_switched_off_everywhere(opened):
    page = opened.page
    marks = f'.chart [aria-label*="method: {FAR}"]'
    drawn = lambda: page.eval_on_selector_all(
        "figure .panel", f"all => all.map(at => at.querySelectorAll('{marks}').length)"
    )
    before = drawn()
    assert sum(count > 0 for count in before) >= 8
    shown = f'[data-method="{FAR}"]:visible'
    assert page.locator(f"table.ranking tr{shown}").count() == 1
    assert page.locator(f".card{shown}").count() == 1
    page.get_by_label(FAR, exact=True).uncheck()
    page.wait_for_function(f"!document.querySelector('{marks}')")
    assert page.locator(shown).count() == 0
    assert page.locator('.chart [aria-label*="method: gail"]').count() > 0
    page.get_by_role("button", name="all").click()
    page.wait_for_function(f"document.querySelector('{marks}')")
    assert page.locator(f"table.ranking tr{shown}").count() == 1


def test_a_sweeps_methods_are_switched_at_a_value_too(browser, tmp_path):
    """As entries of a merged result are named."""
    (tmp_path / "figures").mkdir()
    result = recorded.shown(["sft", "gail"], FAR)
    at = {f"{n} @ {value}": m for n, m in result.methods.items() for value in (0.1, 2.0)}
    drawn = [Drawn("Over the axis", axis.CAPTION, _axis(tmp_path, result))]
    merged = dataclasses.replace(result, methods=at)
    report.write(tmp_path / "report.html", merged, drawn, [], recorded.ENVIRONMENT, {})
    page = Opened(browser, tmp_path).page
    points = '.chart path[aria-label*="method: gail"][aria-roledescription="point"]'
    assert page.locator(points).count() == 2
    page.get_by_label("gail @ 2.0", exact=True).uncheck()
    page.wait_for_function(f"document.querySelectorAll('{points}').length == 1")
    page.close()


def test_a_value_is_shown_under_the_pointer(opened):
    page = opened.page
    for figure in range(page.locator("figure").count()):
        at = page.locator("figure").nth(figure).locator(".chart").first
        at.scroll_into_view_if_needed()
        point = at.locator('path[aria-label*="method: gail"][aria-roledescription="point"]').last
        box = point.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2 - 1, box["y"] + box["height"] / 2)
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        tip = page.locator("#vg-tooltip-element.visible")
        tip.wait_for(timeout=3000)
        assert re.search(r"method:?\s*\S+", tip.inner_text()), figure
        page.mouse.move(2, 2)


def test_curves_change_their_axes(opened):
    page = opened.page
    figure = page.locator("figure", has=page.locator("form.controls")).first
    text = lambda: figure.locator(".chart").first.inner_text()
    assert "tokens learned from" in text()
    for name in ("seconds", "update"):
        figure.locator("select[name=x]").select_option(name)
        figure.locator(".chart", has_text={"update": "updates"}.get(name, name)).first.wait_for()
    paths = {figure.locator(".chart").nth(1).inner_html()}
    for change in (
        lambda: figure.locator("input[name=x_log]").check(),
        lambda: figure.locator("select[name=y]").select_option("linear"),
        lambda: figure.locator("select[name=y]").select_option("log"),
        lambda: figure.locator("input[name=smooth]").fill("3"),
    ):
        change()
        page.wait_for_timeout(250)
        paths.add(figure.locator(".chart").nth(1).inner_html())
    assert len(paths) >= 4
    assert figure.locator("output").inner_text() == "3"
    assert opened.said == []


def test_numbers_are_saved_from_the_page(opened, folder, tmp_path):
    page = opened.page
    figure = page.locator("figure", has=page.locator("form.controls")).first
    with page.expect_download() as saved:
        figure.get_by_role("link", name="CSV").click()
    assert saved.value.suggested_filename == "learning_curves.csv"
    texts = (Path(saved.value.path()), folder / "figures" / "learning_curves.csv")
    own, kept = (list(csv.DictReader(text.read_text().splitlines())) for text in texts)
    assert len(own) == len(kept)
    assert {row["method"] for row in own} == {row["method"] for row in kept}
    ends = {row["iqm"] for row in own}
    assert any(f"{float(row['iqm']):.5g}" in ends for row in kept)
    with page.expect_download() as saved:
        figure.get_by_role("link", name="JSON").click()
    assert len(json.loads(Path(saved.value.path()).read_text())) == len(own)
    with page.expect_download() as saved:
        page.locator("a[data-text=csv]").click()
    assert Path(saved.value.path()).read_text().startswith("method,minimises,")
    with page.expect_download() as saved:
        page.locator("a[data-text=json]").click()
    assert len(json.loads(Path(saved.value.path()).read_text())) == 6


def test_words_are_explained_by_pointer_and_keyboard(opened):
    page = opened.page
    word = page.locator(".notes .term", has_text="IQM").first
    word.focus()
    tip = page.get_by_role("tooltip")
    assert "Interquartile mean" in tip.inner_text()
    page.keyboard.press("Escape")
    assert not tip.is_visible()
    page.locator("table.ranking thead button", has_text="reverse KL").hover()
    assert "KL(q‖p)" in tip.inner_text()
    page.mouse.move(2, 2)


OVERFLOW = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
CONTRAST = Path(__file__).with_name("contrast.js").read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_it_fits_and_can_be_read(browser, folder, width, scheme):
    opened = Opened(browser, folder, width, color_scheme=scheme)
    page = opened.page
    inner, outer = page.evaluate(OVERFLOW)
    assert inner <= outer
    wide = page.eval_on_selector_all(
        ".chart svg", "all => all.map(at => at.getBoundingClientRect().right)"
    )
    assert max(wide) <= width
    assert page.evaluate(CONTRAST) == []
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 27, 34)"}[scheme]
    if width == WIDE:
        page.locator("#theme").click()  # dark
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 27, 34)"
        page.locator("#theme").click()  # light
        assert page.evaluate(CONTRAST) == []
    page.close()


def test_on_paper_everything_is_there_and_light(browser, folder):
    page = Opened(browser, folder, 720, color_scheme="dark").page
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(28, 35, 48)"
    titles = page.locator("main h2")
    assert titles.count() >= 9
    assert all(titles.nth(i).is_visible() for i in range(titles.count()))
    assert page.locator("details:not([open])").count() == 0
    boxes = page.eval_on_selector_all(
        ".chart svg, main table, .card",
        "all => all.map(at => at.getBoundingClientRect()).map(box => [box.width, box.right])",
    )
    assert boxes and all(wide > 0 and right <= 721 for wide, right in boxes)
    assert len(page.pdf()) > 50_000
    page.close()


def test_without_scripts_the_pictures_are_static(browser, folder):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((folder / "report.html").as_uri())
    assert page.locator(".static svg:visible").count() >= 3
    assert page.locator(".script:visible").count() == 0
    assert page.locator("table.ranking tbody tr").count() == 6
    context.close()
