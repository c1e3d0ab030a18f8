"""The digits and words in which results are said."""

import pytest

from reckoner.analysis.compare import compare_counts
from reckoner.analysis.pairs import pair_sentence
from reckoner.analysis.tables import count_tables
from reckoner.analysis.wording import about, at_budget, count, p_value, percent, percents, points, size, span


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (1.0, "1.00"),
        (0.5612, "0.56"),
        (0.0412, "0.041"),
        (0.00315, "0.0032"),
        (0.001, "0.0010"),
        (0.00099, "<0.001"),
        (0.0, "<0.001"),
    ],
)
def test_p_values_are_never_a_bare_zero(p, text):
    assert p_value(p) == text


@pytest.mark.parametrize(
    ("n", "text"), [(1, "1"), (7, "7"), (99, "99"), (101, "110"), (8950, "9,000"), (2_701_000, "2,800,000")]
)
def test_planned_items_are_rounded_up_to_two_digits(n, text):
    assert about(n) == text


def test_shares_spans_and_counts():
    assert (percent(0.39045), points(0.04321), points(-0.1)) == ("39.0 %", "+4.3", "-10.0")
    assert (span(0.364, 0.417), span(-0.011, 0.227)) == ("36.4-41.7", "-1.1 to +22.7")
    assert (size(0.04321), size(-0.1), percents([0.1, 0.04]), percents([0.1])) == (
        "4.3",
        "-10.0",
        "4.0 % to 10.0 %",
        "10.0 %",
    )
    assert (count(515.0), count(1319), count(512.25)) == ("515", "1,319", "512.2")


def test_count_pairs_in_words_and_rows():
    result = compare_counts(["good=90/100", "bad=10/100", "so-so=12/100"])
    assert pair_sentence(result.pairs[0]).startswith(
        "good is better than bad: +80.0 points (95 % interval 69.5-86.3, different items, Holm p "
    )
    assert pair_sentence(result.pairs[2]).endswith("items would resolve it")
    claims, pairs = count_tables(result)
    assert [claims.rows[0].title, *claims.texts()[0][1:]] == ["good", "90/100", "90.0 %", "82.6-94.5"]
    assert "Barnard p" not in pairs.columns and len(pairs.texts()[0]) == 1 + len(pairs.columns)
    pairs = count_tables(compare_counts(["a=9/10", "b=1/10"], with_barnard=True))[1]
    assert "Barnard p" in pairs.columns and len(pairs.texts()[0]) == 1 + len(pairs.columns)


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (2.149, "; at 2.1 times the operations"),
        (0.5, "; at 0.5 times the operations"),
        (1.09, ""),
        (0.91, ""),
        (0, ""),
    ],
)
def test_budgets_are_named_where_they_differ_by_more_than_a_tenth(ratio, text):
    assert at_budget(ratio, "; ") == text
