"""The page of `reckon mistakes --html`: complete, self-contained, and model text in it does nothing."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from reckoner.analysis.changes import diff
from reckoner.analysis.explorer import render, run_contents, write_page
from reckoner.analysis.mistakes import diagnoses
from reckoner.analysis.readers import read_completion_set
from reckoner.errors import InputError

HOSTILE = [
    "</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<!--<script>", "]]>",
    "{{7*7}}{% raw %}", "\u2028", "\ud800", "\0\x1b[31m",
    "'\"><b onmouseover=alert(1)>", "&lt;script&gt;", "javascript:alert(1)", "=cmd|' /C calc'!A0",
]  # fmt: skip


class Elements(HTMLParser):
    """Tags and attribute names of a page, and the text of its data block."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.data, self._inside = [], set(), "", False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attributes}
        self._inside = ("id", "data") in attributes

    def handle_data(self, text):
        self.data += text if self._inside else ""

    def handle_endtag(self, tag):
        self._inside = False


@pytest.fixture
def sources(study_path):
    return [read_completion_set(study_path / name) for name in ("1shot", "full-main")]


def test_the_page_of_two_runs_holds_every_answer(sources, unpack):
    page = Elements(render(sources))
    data = unpack(page.data)
    assert data["arms"] == ["1shot", "full-main"] and len(data["problems"]) == 60
    assert page.tags.count("script") == 2 and page.tags.count("style") == 1
    assert not page.attributes & {"src", "href", "style", "onclick", "onerror", "onload", "onmouseover"}


def test_the_right_answer_says_where_the_other_parts(sources):
    found = diff(*sources)
    data = run_contents(sources, [diagnoses(source) for source in sources], found)
    problems = {one[0]: [one[7][index] for index in one[8][0]] for one in data["problems"]}
    broken, fixed = problems["p-00"], problems["p-06"]
    assert data["kinds"][broken[0][5]] == data["kinds"][fixed[1][5]] == "first difference"
    assert (
        fixed[1][6].startswith("they part at calculation 1: 1shot ")
        and data["kinds"][fixed[0][5]] == "arithmetic slip"
    )


def test_one_run_alone(sources, tmp_path):
    write_page(tmp_path / "page.html", sources[:1])
    text = (tmp_path / "page.html").read_text()
    assert "1shot: 54 of 60 completions are wrong" in text
    with pytest.raises(InputError, match="cannot be written"):
        write_page(tmp_path / "absent" / "page.html", sources[:1])


@pytest.mark.parametrize("hostile", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_only_text(sources, hostile, tmp_path, unpack):
    def poisoned(source):
        completions = {key: replace(c, text=f"{hostile}{c.text}") for key, c in source.completions.items()}
        problems = {key: replace(p, question=f"{hostile} how many?") for key, p in source.problems.items()}
        return replace(source, name=f"{source.name}{hostile}", completions=completions, problems=problems)

    clean, page = Elements(render(sources)), Elements(render([poisoned(source) for source in sources]))
    assert (page.tags, page.attributes) == (clean.tags, clean.attributes)
    assert unpack(page.data)["problems"][0][1].startswith(hostile)
    write_page(tmp_path / "page.html", [poisoned(source) for source in sources])
    assert not re.search("[\0\x1b]", (tmp_path / "page.html").read_text())
