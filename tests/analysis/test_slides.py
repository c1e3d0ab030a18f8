"""Ten slides from the records of a study; what a browser does with their keys and pages."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from reckoner.analysis.slides import build_slides
from reckoner.cli import main

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def slides(study_writer, tmp_path_factory):
    return build_slides(study_writer(tmp_path_factory.mktemp("slides") / "nano"))


def test_ten_slides_say_what_the_report_says(slides):
    page = slides.read_text(encoding="utf-8")
    titles = [title.replace("\u00a0", " ") for title in re.findall(r"<h[12]>(.*?)</h[12]>", page)]
    assert len(titles) == 10 and titles[0] == "nano: which method really won?"
    assert titles[4].startswith("This run of full main solves 56.7 % of the test problems")
    assert titles[7:] == ["What was learnt", "What this study cannot say", "Run it again"]
    assert page.count("<img") == 5 and page.count("34 of 60 (95") == 1
    shown = re.findall(r"<li>(.*?) <span class=\"quiet\">(.*?)</span></li>", page)
    assert ("one-shot + instruction", "prompt, the best on dev") in shown and ("full main", "SFT") in shown
    assert re.search(r"<th scope=\"row\">full main</th><td>0:20</td><td>200.0 k</td><td>1.40 GB</td>", page)
    assert page.count("<aside") == 10 and page.count("<details") == 2
    assert "default-src 'none'; img-src data:;" in page and "explorer" not in page


def test_slides_of_one_arm_and_of_no_study_are_one_line(study_writer, tmp_path, capsys):
    study = study_writer(tmp_path / "s", arms=("full-main",)) / "study.json"
    assert main(["slides", str(study.parent)]) == 2
    value = json.loads(study.read_text())
    study.write_text(json.dumps({**value, "arms": value["arms"][:1], "pairs": []}))
    assert main(["slides", str(study.parent)]) == 2
    assert main(["slides", str(tmp_path)]) == 2
    waiting, first, second = capsys.readouterr().err.splitlines()
    says = "1 arm has a test result, and slides compare two or more"
    assert f"{says}. Run the study to its end first" in waiting
    assert f"{says}. `reckon card RUN` describes one run" in first
    assert "has no study.json" in second


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)")
def test_keys_lead_through_the_slides_and_a_pdf_has_ten_pages(slides):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 720}, reduced_motion="reduce")
        page.goto(slides.as_uri())
        for key, place in (("ArrowRight", "2 / 10"), ("End", "10 / 10"), ("ArrowLeft", "9 / 10")):
            page.keyboard.press(key)
            page.get_by_text(place, exact=True).wait_for(timeout=30_000)
        page.keyboard.press("n")
        assert page.is_visible("aside >> nth=8")
        assert page.evaluate("document.documentElement.scrollWidth") == 1280
        data = page.pdf(prefer_css_page_size=True, print_background=True)
        assert len(re.findall(rb"/Type\s*/Page\b(?!s)", data)) == 10
        browser.close()
