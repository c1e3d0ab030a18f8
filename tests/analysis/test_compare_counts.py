"""Bare counts against the original study's published numbers, and claims that cannot be true."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reckoner.analysis.compare import compare_counts, parse_claim
from reckoner.errors import InputError


def test_the_original_study_again():
    result = compare_counts(["31/100", "20/100", "23/100", "11/100", "6/100"], with_barnard=True)
    intervals = [tuple(round(100 * bound, 1) for bound in (claim.low, claim.high)) for claim in result.claims]
    assert intervals == [(22.8, 40.6), (13.3, 28.9), (15.8, 32.2), (6.3, 18.6), (2.8, 12.5)]
    pairs = {(pair.a, pair.b): pair for pair in result.pairs}
    assert len(pairs) == 10 and not result.paired and "Unpaired" in result.notes[-1]
    first = pairs["31/100", "20/100"]
    assert (round(first.fisher, 2), round(first.barnard, 3)) == (0.10, 0.078)
    assert (round(100 * first.low, 1), round(100 * first.high, 1)) == (-1.1, 22.7)
    assert first.verdict == "unresolved" and first.needs == 433
    assert {key for key, pair in pairs.items() if pair.verdict == "better"} == {
        ("31/100", "11/100"),
        ("31/100", "6/100"),
        ("20/100", "6/100"),
        ("23/100", "6/100"),
    }


def test_the_claims_of_the_original_study_are_impossible_and_indistinguishable():
    result = compare_counts(["full=31.0%of256", "ppo=28.0%/256"])
    assert [(claim.k, claim.n) for claim in result.claims] == [(79, 256), (72, 256)]
    assert result.notes[0] == (
        "full: 31.0 % of 256 is impossible: 79/256 is 30.86 % and 80/256 is 31.25 %. The nearest, "
        "79/256, is used."
    )
    assert "28.0 % of 256 is impossible" in result.notes[1]
    assert round(result.pairs[0].fisher, 2) == 0.56
    assert result.pairs[0].verdict == "unresolved"


@pytest.mark.parametrize(
    ("text", "claim"),
    [
        ("31/100", ("31/100", 31, 100)),
        ("base = 1,234/7,473", ("base", 1234, 7473)),
        ("0/5", ("0/5", 0, 5)),
        ("28.1%/256", ("28.1%/256", 72, 256)),
        ("28.1 % of 256", ("28.1 % of 256", 72, 256)),
        ("12.5%/8", ("12.5%/8", 1, 8)),
        ("100%/7", ("100%/7", 7, 7)),
        ("0%/7", ("0%/7", 0, 7)),
    ],
)
def test_claims_that_can_be_true(text, claim):
    found = parse_claim(text)
    assert (found.name, found.k, found.n, found.problem) == (*claim, "")


def test_a_coarse_percentage_names_every_k_it_may_stand_for():
    claim = parse_claim("31%/1319")
    assert claim.k == 409 and "403 to 415" in claim.problem


@given(st.integers(1, 3000), st.data(), st.integers(0, 3))
def test_every_rounded_percentage_is_possible_and_its_k_is_among_those_it_may_be(n, data, decimals):
    k = data.draw(st.integers(0, n))
    claim = parse_claim(f"{100 * k / n:.{decimals}f}%/{n}")
    assert "impossible" not in claim.problem
    stated = Fraction(f"{100 * k / n:.{decimals}f}")
    assert abs(Fraction(100 * claim.k, n) - stated) <= abs(Fraction(100 * k, n) - stated)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "31",
        "31/0",
        "101/100",
        "-1/5",
        "31.0%",
        "120%/256",
        "=1+1/5",
        "31/100/2",
        "a/b",
        "٣/٥",
        "9" * 400 + "/5",
        "1/2\x1b[31m",
    ],
)
def test_what_is_no_count_is_refused(text):
    with pytest.raises(InputError):
        parse_claim(text)


def test_equal_counts_need_names():
    with pytest.raises(InputError, match="Name the counts"):
        compare_counts(["5/10", "5/10"])
    pair = compare_counts(["a=5/10", "b=5/10"]).pairs[0]
    assert (pair.fisher, pair.estimate, pair.needs, pair.verdict) == (1.0, 0.0, None, "unresolved")


def test_one_claim_has_no_pair_and_none_is_refused():
    assert compare_counts(["5/10"]).pairs == ()
    with pytest.raises(InputError, match="nothing to compare"):
        compare_counts([])
