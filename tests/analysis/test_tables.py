"""One table prints the same cells in a terminal, in HTML, in Markdown and in CSV."""

from __future__ import annotations

import csv
import io

from reckoner.analysis.page import environment
from reckoner.analysis.tables import EMPTY, Cell, Row, Table

TABLE = Table(
    "Fruit",
    "kind",
    (
        Row("pears", {"count": Cell("12", 12.0)}),
        Row("apples", {"colour": Cell("red|green"), "count": Cell("3", 3.0, "of 4", heat=2)}, tag="best"),
        Row("=plums", lost="refused: no tree"),
    ),
    note="Counted once.",
    glossary=(("pears", "A fruit."),),
)


def html(table: Table) -> str:
    macro = '{% from "macros.html.j2" import table with context %}{{ table(fruit, "grid") }}'
    return environment(autoescape=True).from_string(macro).render(fruit=table, shapes=[], inline=str)


def test_columns_are_those_of_the_fullest_row_or_as_declared():
    assert TABLE.columns == ("colour", "count")
    assert TABLE.cells(TABLE.rows[0]) == [EMPTY, Cell("12", 12.0)]
    assert not TABLE.numeric("colour") and TABLE.numeric("count")
    declared = Table("", "kind", TABLE.rows, names=("count", "price"))
    assert declared.texts() == [
        ["pears", "12", ""],
        ["apples (best)", "3 (of 4)", ""],
        ["=plums", *TABLE.texts()[2][1:]],
    ]
    assert Table("", "kind", (Row("lost", lost="why"),)).texts() == [["lost", "why"]]


def test_the_terminal_shows_text_and_second_lines(capsys):
    TABLE.print()
    assert capsys.readouterr().out.splitlines() == [
        "Fruit",
        "kind           colour               count",
        "pears                                  12",
        "apples (best)  red|green         3 (of 4)",
        "=plums         refused: no tree",
    ]


def test_markdown_aligns_numbers_and_keeps_text_inert():
    assert TABLE.markdown().splitlines() == [
        "| kind | colour | count |",
        "| :-- | :-- | --: |",
        "| pears |  | 12 |",
        "| apples (best) | red\\|green | 3 (of 4) |",
        "| =plums | refused: no tree |  |",
        "",
        "Counted once.",
    ]


def test_csv_has_numbers_and_no_formula():
    rows = list(csv.reader(io.StringIO(TABLE.csv())))
    assert rows == [
        ["kind", "colour", "count"],
        ["pears", "", "12.0"],
        ["apples", "red|green", "3.0"],
        ["'=plums", "", ""],
    ]


def test_html_sorts_by_value_and_explains_terms():
    page = html(TABLE)
    assert '<td class="number heat-2" data-value="3.0">3<small>of 4</small></td>' in page
    assert '<td class="lost" colspan="2">refused: no tree</td>' in page
    assert "<dt>pears</dt><dd>A fruit.</dd>" in page and '<p class="note">Counted once.</p>' in page
