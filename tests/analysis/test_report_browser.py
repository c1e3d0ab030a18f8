"""The page in a real browser, from a file: it requests nothing, runs nothing foreign, searches and sorts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reckoner.analysis.explorer import write_page
from reckoner.analysis.readers import read_completion_set
from reckoner.analysis.report import build_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)"
)
SLOWEST = 120_000
"""Milliseconds; a busy machine is no fault of the page."""

PAYLOADS = [
    "<script>document.title='owned'</script>",
    "</script><script>document.title='owned'</script>",
    "<img src='https://example.invalid/x.png' onerror=\"document.title='owned'\">",
    "<svg onload=\"alert('owned')\">",
    "<iframe srcdoc='<script>parent.document.title=1</script>'></iframe>",
    "<style>body{display:none}</style>",
    "<!--<script>",
    '"><b onmouseover=alert(1)>x</b>',
]


class Watched:
    """A page, and everything it did that it must not do."""

    def __init__(self, browser: Any, file: Path, **options: Any) -> None:
        self.page = browser.new_page(**options)
        self.page.set_default_timeout(SLOWEST)
        self.faults: list[str] = []
        self.page.on(
            "request",
            lambda request: self.faults.append(request.url) if request.url != file.as_uri() else None,
        )
        self.page.on("dialog", lambda dialog: (self.faults.append(dialog.message), dialog.dismiss()))
        self.page.on("console", lambda message: self.faults.append(message.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.goto(file.as_uri())
        self.page.wait_for_selector("#controls", state="visible")

    def count(self) -> str:
        return self.page.text_content("#count")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed (extra: test)"
    )
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def report(study_writer, tmp_path_factory) -> Path:
    folder = study_writer(tmp_path_factory.mktemp("browser") / "nano")
    build_report(folder)
    return folder / "report.html"


@pytest.fixture
def watched(browser, report) -> Iterator[Watched]:
    opened = Watched(browser, report, viewport={"width": 1280, "height": 900})
    yield opened
    opened.page.close()
    assert opened.faults == []


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_the_screen_in_light_and_dark(browser, report, width, scheme):
    watched = Watched(browser, report, viewport={"width": width, "height": 844}, color_scheme=scheme)
    assert watched.page.evaluate("document.documentElement.scrollWidth") == width
    paper = watched.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 24, 29)"}[scheme]
    assert watched.faults == []
    watched.page.close()


def test_search_filters_and_presets(watched):
    page = watched.page
    assert watched.count() == "60 of 60 problems" and page.locator("#list > li").count() == 25
    page.click("#more")
    assert page.locator("#list > li").count() == 50
    # full main solves p-02 to p-35, LoRA main p-02 to p-32
    page.click("#pattern button:has-text('full main')")
    assert watched.count() == "34 of 60 problems"
    page.click("#pattern button:has-text('LoRA main')")
    page.click("#pattern button:has-text('LoRA main')")
    assert watched.count() == "3 of 60 problems"
    page.click("#reset")
    assert watched.count() == "60 of 60 problems"
    page.select_option("#show", label="Nobody is right")
    assert watched.count() == "24 of 60 problems"
    page.select_option("#category", label="time")
    assert watched.count() == "8 of 60 problems"
    page.click("#reset")
    page.fill("#search", "ANN (17)")
    page.get_by_text("1 of 60 problems").wait_for()
    page.fill("#search", "no such words")
    page.get_by_text("0 of 60 problems", exact=True).wait_for()


def test_a_problem_opens_with_all_answers_and_marks_the_slip(watched):
    page = watched.page
    page.click("#list > li:first-child summary")
    columns = page.locator("#list > li:first-child .answers > div")
    columns.first.wait_for()
    assert columns.count() == 9
    # p-00 is 2 boxes of 3 pens; full main writes 7
    wrong = columns.nth(5)
    assert (
        wrong.locator("mark").text_content() == "<<2*3=7>>" and wrong.locator("ins").text_content() == " (6)"
    )
    assert wrong.locator(".note").text_content() == "arithmetic slip: 2*3 = 7, right is 6"
    assert columns.nth(1).locator("mark").count() == 0


def test_tables_sort_by_number_and_keep_empty_cells_last(watched):
    page = watched.page
    heads, titles = page.locator("#table thead button"), page.locator("#table tbody th")
    heads.nth(1).click()
    order = [text.split("\n")[0] for text in titles.all_inner_texts()]
    assert (
        order[:2] == ["full main", "full socratic"] and order[7] == "zero-shot" and "refused arm" in order[8:]
    )
    heads.nth(1).click()
    assert titles.first.inner_text() == "zero-shot"
    heads.nth(0).click()
    assert titles.nth(4).inner_text() == "full main"


def test_the_page_of_one_run_offers_what_one_run_has(browser, study_path, tmp_path):
    """Full main has 26 wrong answers of 60, 19 of them by a false calculation."""
    write_page(tmp_path / "errors.html", [read_completion_set(study_path / "full-main")])
    watched = Watched(browser, tmp_path / "errors.html")
    page = watched.page
    offered = page.locator("#show option").all_text_contents()
    assert offered[:3] == ["All problems", "Wrong answers", "Right answers"]
    assert "Kind: arithmetic slip" in offered and "Kind: no readable steps" not in offered
    assert "Most disagreement first" not in page.locator("#order option").all_text_contents()
    assert not page.is_visible("#pattern") and not page.is_visible("#duel")
    for chosen, count in (("Wrong answers", 26), ("Kind: arithmetic slip", 19)):
        page.select_option("#show", label=chosen)
        page.get_by_text(f"{count} of 60 problems").wait_for()
    assert page.locator("#list .meta").first.text_content().endswith(" · wrong")
    assert watched.faults == []
    page.close()


def test_two_arms_side_by_side_and_the_order_of_disagreement(watched):
    page = watched.page
    page.select_option("#left", label="full main")
    page.select_option("#right", label="beside LoRA main")
    page.click("#list > li:first-child summary")
    heads = page.locator("#list > li:first-child .answers h3")
    heads.nth(2).wait_for()
    assert [text.split("\n")[0] for text in heads.all_inner_texts()] == [
        "Reference",
        "full main",
        "LoRA main",
    ]
    # p-04 and p-05 of eight arms are the nearest to one half: 4 trained and 2 prompts, or 1 prompt
    page.select_option("#order", label="Most disagreement first")
    # the four prompts alone solve p-00
    first = page.locator("#list > li:first-child .meta")
    page.get_by_text("60 of 60 problems").wait_for()
    assert first.text_content().startswith("p-00 ") and "4 of 8 right" in first.text_content()


def test_the_reader_chooses_the_seed(browser, seeded):
    """Under seed 5 full main lacks its answer to p-02; the runs are alike otherwise, 34 of 60 right."""
    path = seeded / "full-main" / "seed-5" / "grades" / "test-0shot.jsonl"
    lines = path.read_text().splitlines()
    lines[2] = lines[2].replace('"correct"', '"wrong"').replace('"strict":true', '"strict":false')
    path.write_text("\n".join(lines) + "\n")
    build_report(seeded)
    watched = Watched(browser, seeded / "report.html")
    page = watched.page
    page.click("#pattern button:has-text('full main')")
    assert watched.count() == "34 of 60 problems"
    page.select_option("#seed", label="Answers of seed 5")
    page.get_by_text("33 of 60 problems").wait_for()
    page.click("#list > li:first-child summary")
    assert page.get_attribute("#list > li:first-child a", "href") == "#problem=p-03&seed=5"
    page.click("#reset")
    page.get_by_text("60 of 60 problems").wait_for()
    assert page.input_value("#seed") == "0"
    page.evaluate("location.hash = 'problem=p-02&seed=5'")
    page.get_by_text("1 of 60 problems").wait_for()
    assert page.locator("#list .meta").text_content().endswith("2 of 3 right")
    assert watched.faults == []
    page.close()


def test_a_link_leads_to_one_problem(browser, report, watched):
    page = watched.page
    page.click("#list > li:nth-child(3) summary")
    page.click("#list > li:nth-child(3) a")
    page.get_by_text("1 of 60 problems").wait_for()
    assert page.url.endswith("#problem=p-02")
    assert page.locator("#list details[open] .meta").text_content().startswith("p-02 ")
    page.click("#reset")
    page.get_by_text("60 of 60 problems").wait_for()


def test_values_of_a_figure_as_table_csv_and_image(watched):
    page = watched.page
    page.click("#figure-accuracy summary")
    cells = page.locator("#figure-accuracy tbody tr:first-child td")
    assert cells.all_text_contents()[:2] == ["full main", "0.56667"]
    for button, suffix, start in (("Save CSV", "csv", b'"","accuracy"'), ("Save SVG", "svg", b"<svg ")):
        with page.expect_download() as download:
            page.click(f"#figure-accuracy button:has-text('{button}')")
        assert download.value.suggested_filename == f"accuracy.{suffix}"
        assert Path(download.value.path()).read_bytes().startswith(start)
    watched.faults.clear()  # an address of the page's own memory is counted as a request


AXE = next((path for path in map(Path, os.environ.get("AXE_CORE", "").split(":")) if path.is_file()), None)


@pytest.mark.skipif(AXE is None, reason="AXE_CORE names no axe.min.js (npm pack axe-core)")
def test_screen_readers_find_no_serious_fault(browser, report):
    context = browser.new_context(bypass_csp=True)
    page = context.new_page()
    page.goto(report.as_uri())
    page.wait_for_selector("#controls", state="visible")
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run().then((found) => found.violations.map((one) => [one.impact, one.id]))")
    assert [one for one in found if one[0] in ("serious", "critical")] == []
    context.close()


def test_print_leaves_out_what_cannot_be_printed(watched):
    watched.page.emulate_media(media="print", color_scheme="dark")
    watched.page.set_viewport_size({"width": 640, "height": 900})  # a sheet between its margins
    columns = "getComputedStyle(document.querySelector('.first')).gridTemplateColumns.split(' ').length"
    assert watched.page.evaluate(columns) == 2, "the figure stands on the first page"
    assert not watched.page.is_visible("#controls") and watched.page.is_visible(".print-only")
    assert watched.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_reads_without_javascript(browser, report):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.is_visible("noscript p") and page.locator("#table tbody tr").count() == 11
    context.close()


def test_foreign_text_runs_nothing(browser, study_writer, tmp_path):
    folder = study_writer(tmp_path / "s", arms=("1shot", "full-main"), strings=PAYLOADS)
    build_report(folder)
    watched = Watched(browser, folder / "report.html")
    page = watched.page
    page.evaluate("document.querySelectorAll('details').forEach(node => { node.open = true })")
    page.fill("#search", "<script>")
    page.wait_for_timeout(300)
    assert watched.faults == []
    assert "owned" not in page.title().replace("'owned'", "")
    assert (
        page.locator("iframe, img:not([src^='data:image/svg+xml;base64,']), object, embed").count() == 0
        and page.locator("script").count() == 2
    )
    assert page.is_visible("h1") and PAYLOADS[0] in page.text_content("body")
    page.close()
