"""docs/records.md holds every record of a run folder with its fields, as the code has them."""

import dataclasses
from typing import NotRequired, TypedDict

import records_page


class Document(TypedDict):
    """A document."""

    sizes: dict[str, int]
    usage: NotRequired[list[float] | None]


@dataclasses.dataclass
class Line:
    name: str
    steps: int = 0
    tags: list[str] = dataclasses.field(default_factory=list)


def test_the_page_is_what_the_code_gives():
    page = records_page.PAGE.read_text(encoding="utf-8")
    assert records_page.page() == page, "run `python scripts/records_page.py` and commit docs/records.md"


def test_a_field_is_shown_with_its_type_and_whether_it_must_be_there():
    assert records_page.fields(Document) == [
        ("`sizes`", "`dict[str, int]`", "yes"),
        ("`usage`", "`list[float] | None`", ""),
    ]
    assert records_page.fields(Line) == [
        ("`name`", "`str`", "yes"),
        ("`steps`", "`int`", ""),
        ("`tags`", "`list[str]`", ""),
    ]


def test_every_record_says_what_it_is():
    page = records_page.PAGE.read_text(encoding="utf-8")
    for part in page.split("\n### ")[1:]:
        name, _, rest = part.partition("\n\n")
        assert not rest.startswith("|"), name
