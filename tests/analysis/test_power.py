"""Power against the published table, brute force and simulation."""

import json

import numpy as np
import pytest
from scipy.stats import binom, multinomial

from reckoner.analysis.power import (
    _at_most,
    _critical,
    detectable,
    detectable_mean,
    detectable_unpaired,
    paired_power,
    resolving_n,
    resolving_n_mean,
    resolving_n_unpaired,
    unpaired_power,
)
from reckoner.analysis.statistics import binomial_window, fisher, mcnemar
from reckoner.cli import main

SIZES = (100, 256, 512, 1319)


@pytest.mark.parametrize(
    ("discordance", "alpha", "points"),
    [
        (0.1, 0.05, (8.8, 5.7, 4.0, 2.5)),
        (0.2, 0.05, (12.8, 8.0, 5.7, 3.5)),
        (0.3, 0.05, (15.9, 9.9, 6.9, 4.3)),
        (0.2, 0.005, (15.7, 10.3, 7.3, 4.5)),
    ],
)
def test_the_published_table_of_detectable_differences(discordance, alpha, points):
    found = [100 * detectable(n, discordance, alpha) for n in SIZES]
    assert found == pytest.approx(points, abs=0.0501)


def test_the_published_powers_of_three_points():
    assert [paired_power(n, 0.2, 0.03) for n in SIZES] == pytest.approx([0.07, 0.16, 0.29, 0.66], abs=0.0055)


def enumerated(n_a, n_b, p_a, p_b, alpha=0.05):
    """Power of Fisher's test from every table, one by one."""
    return sum(
        binom.pmf(a, n_a, p_a) * binom.pmf(b, n_b, p_b)
        for a in range(n_a + 1)
        for b in range(n_b + 1)
        if fisher(a, n_a, b, n_b) <= alpha
    )


@pytest.mark.parametrize(
    "case",
    [
        (4, 4, 1.0, 0.0),
        (3, 3, 1.0, 0.0),
        (10, 12, 0.2, 0.7),
        (30, 30, 0.3, 0.3),
        (25, 40, 0.1, 0.35),
        (18, 7, 0.5, 0.95, 0.005),
    ],
)
def test_unpaired_power_is_fisher_s_by_enumeration(case):
    assert unpaired_power(*case) == pytest.approx(enumerated(*case), abs=1e-12)


@pytest.mark.parametrize(
    ("p_a", "p_b", "n"), [(1.0, 0.0, 4), (0.3, 0.1, 69), (0.9, 0.5, 23), (0.05, 0.4, 24)]
)
def test_the_n_that_resolves_two_counts_reaches_its_power_by_enumeration(p_a, p_b, n):
    """The normal approximation said 2 items for 1/1 against 0/1, and others that reached 72 to 79 %."""
    assert resolving_n_unpaired(p_a, p_b) == n
    assert enumerated(n, n, p_a, p_b) >= 0.8 > enumerated(int(0.9 * n), int(0.9 * n), p_a, p_b)


def test_the_smallest_visible_unpaired_rise_reaches_its_power_by_enumeration():
    rise = detectable_unpaired(40, 30, 0.25)
    assert enumerated(40, 30, 0.25, 0.25 + rise) >= 0.8 > enumerated(40, 30, 0.25, 0.25 + rise - 0.001)


def test_unpaired_power_beyond_the_exact_range_goes_on_without_a_step():
    assert unpaired_power(5000, 5000, 0.3, 0.327) == pytest.approx(
        unpaired_power(5001, 5001, 0.3, 0.327), abs=2e-3
    )
    assert unpaired_power(256, 256, 0.25, 1.0) == 1.0


def test_unpaired_differences_of_the_published_table():
    tenths = [round(100 * detectable_unpaired(n, n, 0.25), 1) for n in SIZES]
    assert tenths == [19.8, 11.8, 8.1, 4.9]


@pytest.mark.parametrize(
    ("n", "discordance", "difference"), [(12, 0.5, 0.3), (15, 0.9, -0.6), (9, 1.0, 0.8), (8, 0.3, 0.0)]
)
def test_power_sums_over_every_table(n, discordance, difference):
    fixed, broken = (discordance + difference) / 2, (discordance - difference) / 2
    chance = sum(
        multinomial.pmf([b, c, n - b - c], n, [fixed, broken, 1 - discordance])
        for b in range(n + 1)
        for c in range(n + 1 - b)
        if mcnemar(b, c) <= 0.05
    )
    assert paired_power(n, discordance, difference) == pytest.approx(chance, abs=1e-12)


def test_power_edges():
    assert paired_power(1000, 0.0, 0.0) == 0.0
    assert paired_power(5, 1.0, 1.0) == 0.0
    assert paired_power(6, 1.0, 1.0) == pytest.approx(1.0)
    assert detectable(5, 0.5) is None
    with pytest.raises(ValueError, match="discordance"):
        paired_power(100, 0.1, 0.2)


@pytest.mark.parametrize(
    ("difference", "discordance"), [(0.03, 0.2), (-0.03, 0.2), (0.1, 0.1), (0.02, 0.05), (0.15, 0.4)]
)
def test_the_resolving_n_has_the_power_and_is_not_wasteful(difference, discordance):
    n = resolving_n(difference, discordance)
    assert paired_power(n, discordance, difference) >= 0.8
    assert paired_power(int(n * 0.95), discordance, difference) < 0.8


def test_resolving_n_far_out_and_at_nothing():
    assert 2_700_000 < resolving_n(1 / 1319, 0.2) < 2_800_000
    assert resolving_n(0.0, 0.2) is None
    assert paired_power(60_000, 0.2, 0.00512) == pytest.approx(0.8, abs=0.005)
    assert resolving_n(0.00512, 0.2) == pytest.approx(60_000, rel=0.01)


def test_averages_over_seeds_follow_the_normal_formula():
    """(1.959964 + 0.841621) x 0.3 / sqrt(100) = 0.084048; ((2.801585 x 0.3) / 0.05)^2 = 282.56."""
    assert detectable_mean(100, 0.3) == pytest.approx(0.0840476, abs=1e-7)
    assert (resolving_n_mean(0.05, 0.3), resolving_n_mean(-0.05, 0.3)) == (283, 283)
    assert resolving_n_mean(0.0, 0.3) is None


def test_unpaired_edges():
    assert detectable_unpaired(3, 3, 0.5) is None
    assert resolving_n_unpaired(0.3, 0.3) is None
    assert resolving_n_unpaired(0.31, 0.28) == resolving_n_unpaired(0.28, 0.31)
    n = resolving_n_unpaired(0.25, 0.30)
    assert detectable_unpaired(n, n, 0.25) == pytest.approx(0.05, abs=5e-4)


@pytest.mark.parametrize(("n", "p"), [(1, 0.3), (40, 0.02), (1319, 0.2), (200_000, 0.5), (30, 1.0)])
def test_binomial_window_equals_scipy(n, p):
    first, chances = binomial_window(n, p)
    np.testing.assert_allclose(
        chances, binom.pmf(np.arange(first, first + len(chances)), n, p), rtol=1e-9, atol=1e-13
    )


@pytest.mark.parametrize("alpha", [0.3, 0.05, 0.05 / 11, 1e-6])
@pytest.mark.parametrize("first", [0, 1, 6, 40, 999, 20_000])
def test_critical_counts_and_tails_equal_scipy(first, alpha):
    limits, thrown = _critical(first, 300, alpha), np.arange(first, first + 300)
    assert (binom.cdf(limits, thrown, 0.5) <= alpha / 2).all()
    assert (binom.cdf(limits + 1, thrown, 0.5) > alpha / 2).all()
    for share in (0.5, 0.37, 1e-4, 0.999):
        np.testing.assert_allclose(
            _at_most(limits, first, share), binom.cdf(limits, thrown, share), rtol=1e-9, atol=1e-12
        )


def test_the_verb_says_what_a_number_of_problems_can_show(capsys):
    """The tables of 31/100 and 23/100, which Fisher's test tells apart from 508 of each on."""
    assert main(["power", "100", "1319", "--difference", "8", "--accuracy", "0.23"]) == 0
    table, lines = capsys.readouterr().out.split("\n\n")
    assert [line.split() for line in table.splitlines()[1:]] == [
        ["100", "12.8", "points", "19.4", "points"],
        ["1,319", "3.5", "points", "4.8", "points"],
    ]
    assert lines.startswith("8 points show on 259 problems that both are asked, or on 508 each of")
    assert main(["power", "1319", "--seeds", "3", "--comparisons", "10", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["same"] == pytest.approx(detectable(1319, 0.2, 0.005))
    assert found["same"] < found["separate"] < found["methods"]
    for words in (["--difference", "30"], ["--difference", "80", "--discordance", "0.9"], ["1"]):
        assert main(["power", *words]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
