"""Text of models and strangers does nothing but be read: eighty payloads in every place of a study, by
terminal, page and table.

Markdown has the same kind of payloads in tests/analysis/test_report.py.
"""

from __future__ import annotations

import csv
import re
import shutil
import unicodedata
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from reckoner.analysis.report import build_report
from reckoner.console import escape

from .conftest import write_study

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

HTML = [
    "<script>document.title='owned'</script>",
    "</script><script>document.title='owned'</script>",
    "<img src=//evil.invalid/x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<iframe src=//evil.invalid></iframe>",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "<object data=//evil.invalid/x>",
    "<embed src=//evil.invalid/x>",
    "<link rel=stylesheet href=//evil.invalid/x>",
    "<style>@import '//evil.invalid/x'</style>",
    "<style>*{display:none}</style>",
    "</style><b>",
    "<base href=//evil.invalid>",
    "<meta http-equiv=refresh content='0;url=//evil.invalid'>",
    "<form action=//evil.invalid><button>x",
    "<input autofocus onfocus=alert(1)>",
    "<details open ontoggle=alert(1)>",
    "<video><source onerror=alert(1)>",
    "<audio src=x onerror=alert(1)>",
    "<body onload=alert(1)>",
    "<a href=javascript:alert(1)>x</a>",
    "<a href='data:text/html,<script>alert(1)</script>'>x</a>",
    "<a ping=//evil.invalid href=x>y</a>",
    "<math><mtext><mglyph><style><img src=x onerror=alert(1)>",
    "<template><script>",
    "<plaintext>",
    "<xmp>",
    "<textarea>",
    "</textarea>",
    "</title>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "<!--",
    "-->",
    "<!--<script>",
    "<![CDATA[",
    "]]>",
    "<?php echo 1 ?>",
    "<!doctype html>",
    "<table><tr>",
    "</td></tr></table>",
    "</pre></details>",
    '" onmouseover="alert(1)',
    "' onmouseover='alert(1)",
    '"><b onclick=alert(1)>x',
    "`-alert(1)-`",
    "javascript:alert(1)",
    "&lt;script&gt;",
    "&#60;script&#62;",
    "&amp;",
    "&",
    "<",
    ">",
    "<<3+4=7>>",
    "\\u003cscript\\u003e",
    "{{ 7*7 }}",
    "{% raw %}",
    "${alert(1)}",
]
TERMINAL = [
    "\x1b[2J\x1b[H",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x1b]8;;http://evil.invalid\x1b\\link\x1b]8;;\x1b\\",
    "\x1b]52;c;eA==\x07",
    "\x1b[6n",
    "\x1b[5i",
    "\x1bP1$r0m\x1b\\",
    "\x1b[?1049h",
    "\x9b31m",
    "\x9d0;x\x9c",
    "\x07",
    "\x08\x08\x08",
    "\rover",
    "\x0e\x0f",
    "\x7f",
    "\x85",
    "\x00",
    "\u202e gnol",
    "\u2066x\u2069",
    "\u200b\u200d",
    "\ufeff",
    "\u2028\u2029",
    "\ud800",
    "[red]x[/red]",
    "[link=//evil]x[/link]",
]
TABLE = [
    "=1+1",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    "\n=1",
    '=HYPERLINK("//evil.invalid")',
    '"',
    '","=1',
    "|",
    "a|b",
    "`x`",
    "```",
    "[x](javascript:alert(1))",
    "![x](//evil.invalid/x.png)",
]
PAYLOADS = [*HTML, *TERMINAL, *TABLE]

MOVING = {"Cc", "Cs", "Zl", "Zp"}
HIDDEN = re.compile("[\u061c\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]")


def assert_inert_in_a_terminal(text: str) -> None:
    moving = {character for character in text if unicodedata.category(character) in MOVING} - {"\n"}
    assert not moving and not HIDDEN.search(text)


def test_there_are_eighty():
    assert len(set(PAYLOADS)) == len(PAYLOADS) >= 80


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_escaped_text_cannot_move_a_cursor(payload):
    assert_inert_in_a_terminal(escape(payload).replace("\t", ""))
    assert "\n" not in escape(payload, newlines=False)


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> dict[str, Path]:
    """The same study twice: with harmless words, and with the payloads in their place."""
    found = {}
    for name, texts in (
        ("plain", [f"word {index}" for index in range(len(PAYLOADS))]),
        ("hostile", PAYLOADS),
    ):
        found[name] = write_study(tmp_path_factory.mktemp(name) / "s", texts)
        build_report(found[name])
    return found


@pytest.mark.parametrize(
    "arguments",
    [
        ["report"],
        ["compare", "one", "two"],
        ["errors", "one"],
        ["errors", "one", "two", "--limit", "0"],
        ["compare", "one", "two", "--json"],
    ],
    ids=" ".join,
)
def test_verbs_print_it_inert(reckon, studies, arguments):
    verb, *words = arguments
    paths = [
        studies["hostile"] / word if not word.startswith("-") and word != "0" else word for word in words
    ] or [studies["hostile"]]
    found = reckon(verb, *paths)
    assert found.code == 0, found.err
    assert_inert_in_a_terminal(found.out + found.err)
    if "--json" in arguments:
        assert found.out.isascii()


@pytest.mark.parametrize(
    "payload", [text for text in PAYLOADS if "\x00" not in text and "\ud800" not in text], ids=repr
)
def test_messages_print_it_inert(reckon, payload):
    for arguments in (
        ["grade", f"x{payload}"],
        ["study", "--dry-run", f"x{payload}=1"],
        ["compare", "--counts", f"x{payload}"],
        ["grade", "--grader", f"x{payload}", "y"],
    ):
        found = reckon(*arguments)
        assert found.code == 2 and found.err.startswith("reckon: ")
        assert_inert_in_a_terminal(found.err)


def test_no_cell_of_the_table_is_a_formula(studies):
    rows = list(csv.reader((studies["hostile"] / "table.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) >= 4 and len({len(row) for row in rows}) == 1
    cells = [cell for row in rows for cell in row]
    assert [
        cell
        for cell in cells
        if cell[:1] in set("=+-@\t\r") and not re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", cell)
    ] == []


class Page(HTMLParser):
    """The elements of a page, each with the names of its attributes; and what its addresses are."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self.addresses: set[str] = set()
        self.policy = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.elements[tag, tuple(sorted(values))] += 1
        self.addresses |= {
            value
            for name, value in values.items()
            if name
            in (
                "href",
                "src",
                "action",
                "data",
                "srcset",
                "poster",
                "ping",
                "formaction",
                "xlink:href",
                "background",
            )
        }
        if values.get("http-equiv") == "Content-Security-Policy":
            assert not self.policy and set(self.elements) <= {
                ("html", ("lang",)),
                ("head", ()),
                ("meta", ("charset",)),
                ("meta", ("content", "http-equiv")),
            }, "the policy stands first"
            self.policy = values["content"]

    handle_startendtag = handle_starttag


@pytest.fixture(scope="module")
def pages(studies) -> dict[str, list[Path]]:
    from reckoner.analysis.explorer import write_page
    from reckoner.analysis.readers import read_completion_sets

    found = {}
    for name, study in studies.items():
        write_page(study / "errors.html", read_completion_sets([study / "one", study / "two"]))
        found[name] = [study / "report.html", study / "errors.html"]
    return found


@pytest.mark.parametrize("index", [0, 1], ids=["report", "errors"])
def test_a_page_has_no_element_of_theirs_and_a_strict_policy(pages, index):
    plain, hostile = (Page(pages[name][index].read_text(encoding="utf-8")) for name in ("plain", "hostile"))
    assert set(hostile.elements) == set(plain.elements)
    for (tag, names), count in hostile.elements.items():
        assert not any(name.startswith("on") or name in ("style", "srcdoc") for name in names), (tag, names)
        if tag in ("script", "style", "meta", "link", "iframe", "object", "embed", "base", "form", "title"):
            assert count == plain.elements[tag, names]
    # A picture in an <img> runs no script and loads nothing.
    assert all(address.startswith(("#", "data:image/svg+xml")) for address in hostile.addresses)
    rules = dict(rule.strip().partition(" ")[::2] for rule in hostile.policy.split(";"))
    assert rules.keys() == {"default-src", "img-src", "style-src", "script-src", "base-uri", "form-action"}
    assert rules["img-src"] == "data:"
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    for name in ("style-src", "script-src"):
        assert re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}='", rules[name])


@pytest.fixture(scope="module")
def browser() -> Any:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed (extra: test)"
    )
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


SHAPE = """() => {
  document.querySelectorAll('details').forEach(node => { node.open = true })
  const found = {}
  for (const node of document.querySelectorAll('*')) {
    const name = node.localName + ' ' + Array.from(node.attributes, one => one.name).sort().join(' ')
    found[name] = (found[name] || 0) + 1
  }
  return found
}"""


@pytest.mark.parametrize("index", [0, 1], ids=["report", "errors"])
def test_a_real_browser_runs_and_requests_nothing(browser, pages, index):
    shapes = {}
    for name, files in pages.items():
        page, faults = browser.new_page(), []
        page.set_default_timeout(120_000)
        url = files[index].as_uri()
        page.on(
            "request",
            lambda request, url=url, faults=faults: (
                faults.append(request.url) if request.url != url else None
            ),
        )
        for event in ("dialog", "console", "pageerror", "popup", "download", "worker"):
            page.on(event, lambda happened, event=event, faults=faults: faults.append(f"{event} {happened}"))
        page.goto(url)
        while page.is_visible("#more"):
            page.click("#more")
        for heading in page.locator("#list > li summary").all()[:200]:
            heading.evaluate("node => node.click()")
        shapes[name] = page.evaluate(SHAPE)
        title = page.title()
        page.fill("#search", "<script>")
        page.wait_for_timeout(200)
        assert faults == [] and page.title() == title and page.url == url
        page.close()
    assert shapes["hostile"].keys() == shapes["plain"].keys()
