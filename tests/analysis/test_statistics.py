"""Every test and interval against scipy, statsmodels, brute force or a published number."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, fisher_exact
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from reckoner.analysis.intervals import newcombe, wilson
from reckoner.analysis.statistics import (
    barnard,
    fisher,
    holm,
    mcnemar,
    paired_difference,
    paired_interval,
    sign_flip,
)

TABLES = 10_000
CLOSE = dict(rtol=1e-12, atol=1e-12)


def percent(interval):
    return tuple(round(100 * bound, 1) for bound in interval)


@pytest.mark.parametrize(
    ("k", "n", "expected"),
    [
        (31, 100, (22.8, 40.6)),
        (20, 100, (13.3, 28.9)),
        (23, 100, (15.8, 32.2)),
        (11, 100, (6.3, 18.6)),
        (6, 100, (2.8, 12.5)),
        (128, 512, (21.4, 28.9)),
        (72, 256, (23.0, 33.9)),
    ],
)
def test_wilson_gives_the_intervals_of_the_original_study(k, n, expected):
    assert percent(wilson(k, n)) == expected


def test_wilson_at_the_edges():
    z2 = 1.959963984540054**2
    assert wilson(0, 10) == (0.0, pytest.approx(z2 / (10 + z2), abs=1e-15))
    assert wilson(10, 10) == (pytest.approx(10 / (10 + z2), abs=1e-15), 1.0)
    assert wilson(0, 0) == (0.0, 1.0)
    for k, n in [(-1, 5), (6, 5)]:
        with pytest.raises(ValueError, match="impossible"):
            wilson(k, n)


def test_wilson_equals_statsmodels_on_random_tables():
    rng = np.random.default_rng(1)
    n = rng.integers(1, 5000, TABLES)
    k = rng.integers(0, n + 1)
    ours = np.array([wilson(int(a), int(b)) for a, b in zip(k, n, strict=True)])
    np.testing.assert_allclose(ours.T, proportion_confint(k, n, method="wilson"), **CLOSE)
    assert wilson(7, 30, 0.9) == pytest.approx(
        tuple(binomtest(7, 30).proportion_ci(0.9, "wilson")), abs=1e-12
    )


def test_mcnemar_equals_the_binomial_tail_on_random_tables():
    rng = np.random.default_rng(2)
    b, c = rng.integers(0, 400, (2, TABLES))
    ours = [mcnemar(int(x), int(y)) for x, y in zip(b, c, strict=True)]
    np.testing.assert_allclose(ours, np.minimum(1, 2 * binom.cdf(np.minimum(b, c), b + c, 0.5)), **CLOSE)
    for x, y in zip(b[:200], c[:200], strict=True):
        oracle = statsmodels_mcnemar([[10, x], [y, 10]], exact=True).pvalue
        assert mcnemar(int(x), int(y)) == pytest.approx(oracle, rel=1e-11, abs=1e-12)


def test_mcnemar_by_hand():
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(7, 7) == 1.0
    assert mcnemar(5, 0) == pytest.approx(2 / 2**5)
    assert mcnemar(6, 0) == mcnemar(0, 6) == pytest.approx(2 / 2**6)
    assert mcnemar(8, 2) == pytest.approx(2 * (1 + 10 + 45) / 2**10)
    assert round(mcnemar(209, 152), 4) == 0.0032
    assert mcnemar(2000, 0) == 0.0
    with pytest.raises(ValueError, match="negative"):
        mcnemar(-1, 3)


def test_fisher_equals_scipy_on_random_tables():
    rng = np.random.default_rng(3)
    n = rng.integers(1, 120, (TABLES, 2))
    k = rng.integers(0, n + 1)
    for (n_a, n_b), (k_a, k_b) in zip(n.tolist(), k.tolist(), strict=True):
        oracle = fisher_exact([[k_a, k_b], [n_a - k_a, n_b - k_b]]).pvalue
        assert fisher(k_a, n_a, k_b, n_b) == pytest.approx(oracle, rel=1e-11, abs=1e-12)


def test_unpaired_tests_give_the_published_figures():
    assert round(fisher(31, 100, 28, 100), 2) == 0.76
    assert round(fisher(79, 256, 72, 256), 2) == 0.56
    assert round(fisher(31, 100, 20, 100), 2) == 0.10
    assert round(fisher(79, 256, 51, 256), 3) == 0.006
    assert round(fisher(128, 512, 20, 100), 2) == 0.31
    assert round(fisher(11, 100, 6, 100), 2) == 0.31
    assert round(barnard(31, 100, 20, 100), 3) == 0.078
    assert percent(newcombe(31, 100, 28, 100)) == (-9.6, 15.4)
    assert percent(newcombe(79, 256, 72, 256)) == (-5.1, 10.6)
    assert percent(newcombe(31, 100, 20, 100)) == (-1.1, 22.7)
    assert percent(newcombe(128, 512, 20, 100)) == (-4.6, 12.7)


def test_fisher_survives_large_counts_and_refuses_impossible_ones():
    assert 0 <= fisher(310_000, 1_000_000, 311_500, 1_000_000) < 0.05
    assert fisher(0, 5, 0, 7) == 1.0
    with pytest.raises(ValueError, match="impossible"):
        fisher(6, 5, 0, 7)


def test_newcombe_equals_statsmodels_on_random_tables():
    rng = np.random.default_rng(4)
    n = rng.integers(1, 1500, (TABLES, 2))
    k = rng.integers(0, n + 1)
    for (n_a, n_b), (k_a, k_b) in zip(n.tolist(), k.tolist(), strict=True):
        oracle = confint_proportions_2indep(k_a, n_a, k_b, n_b, method="newcomb", compare="diff")
        assert newcombe(k_a, n_a, k_b, n_b) == pytest.approx(oracle, abs=1e-12)


def test_holm_equals_statsmodels_and_keeps_the_order():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
    rng = np.random.default_rng(5)
    for _ in range(40):
        p = rng.random(rng.integers(1, 12)) ** 3
        np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1], **CLOSE)


def test_holm_is_its_definition_on_random_families():
    rng = np.random.default_rng(7)
    p = rng.random((TABLES, 6)) ** 3
    ordered = np.sort(p, axis=1)
    for row, rank in zip(p, ordered, strict=True):
        steps = [min(1, max((6 - j) * rank[j] for j in range(i + 1))) for i in range(6)]
        assert holm(row) == [steps[int(np.searchsorted(rank, value))] for value in row]


def test_paired_difference_by_hand():
    a, b = [1, 1, 1, 1, 0, 0, 1, 1], [1, 0, 0, 1, 1, 0, 0, 0]
    found = paired_difference(a, b)
    assert (found.estimate, found.fixed, found.broken, found.n, found.discordant) == (3 / 8, 4, 1, 8, 5)
    assert found.p == pytest.approx(2 * (1 + 5) / 2**5)
    # Bonett and Price: (4 + 1)/10 and (1 + 1)/10
    half = 1.959963984540054 * ((0.5 + 0.2 - 0.3**2) / 10) ** 0.5
    assert (found.low, found.high) == pytest.approx((0.3 - half, 0.3 + half), abs=1e-15)


def test_paired_interval_never_collapses_and_stays_within_one():
    low, high = paired_interval(0, 0, 1319)
    assert low == -high and 0 < high < 0.003
    assert paired_interval(10, 0, 10)[1] == 1.0
    with pytest.raises(ValueError, match="impossible"):
        paired_interval(5, 6, 10)


def test_wherever_mcnemar_rejects_the_interval_excludes_zero():
    for n in (10, 60, 200, 1319):
        for broken in range(n // 2):
            fixed = next((f for f in range(broken, n - broken + 1) if mcnemar(f, broken) <= 0.05), None)
            if fixed is not None:
                assert paired_interval(fixed, broken, n)[0] > 0, (fixed, broken, n)


@pytest.mark.parametrize(
    "bad", [([1], [1, 0]), ([], []), ([[1]], [[1]]), ([2], [1]), ([float("nan")], [0.5])]
)
def test_paired_difference_refuses(bad):
    with pytest.raises(ValueError):
        paired_difference(*bad)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_paired_difference_is_antisymmetric_and_is_mcnemar(items):
    a, b = zip(*items, strict=True)
    forth, back = paired_difference(a, b), paired_difference(b, a)
    assert (forth.estimate, forth.low, forth.high) == pytest.approx((-back.estimate, -back.high, -back.low))
    assert forth.p == back.p == pytest.approx(mcnemar(forth.fixed, forth.broken), abs=1e-14)
    assert forth.low <= forth.estimate <= forth.high


def brute_force_sign_flip(values):
    signs = np.array(list(product([-1, 1], repeat=len(values))))
    return float((np.abs(signs @ values) >= abs(values.sum()) - 1e-9).mean())


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=10), st.sampled_from([1, 3, 4, 5, 7]))
def test_sign_flip_counts_every_outcome(numerators, seeds):
    values = np.array(numerators) / seeds
    assert sign_flip(values) == pytest.approx(brute_force_sign_flip(values), abs=1e-12)


def test_sign_flip_samples_off_the_grid_reproducibly():
    values = np.random.default_rng(6).normal(0.4, 1, 12)
    sampled = sign_flip(values, seed=3)
    assert sampled == sign_flip(values, seed=3) != sign_flip(values, seed=4)
    assert sampled == pytest.approx(brute_force_sign_flip(values), abs=0.01)
    assert sign_flip(np.full(40, np.pi / 4)) == pytest.approx(1 / 20_001)
    assert sign_flip([0.0, 0.0]) == 1.0


def test_the_paired_interval_excludes_zero_wherever_mcnemar_rejects():
    """Not the reverse: 5 of 5 won exclude zero with p above 0.05, and the verdict follows p."""
    for n in range(1, 41):
        for fixed in range(n + 1):
            for broken in range(n + 1 - fixed):
                low, high = paired_interval(fixed, broken, n)
                assert mcnemar(fixed, broken) > 0.05 or not low <= 0 <= high
    assert paired_interval(5, 0, 5) == pytest.approx((0.1959, 1.0), abs=1e-4) and mcnemar(5, 0) == 0.0625
