"""pass@k, maj@k, seeds and clusters against hand-worked numbers and brute force."""

from collections import Counter
from fractions import Fraction
from itertools import combinations
from statistics import stdev

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reckoner.analysis.statistics import (
    Sampled,
    average_seeds,
    cluster_bootstrap,
    maj_at_k,
    paired_difference,
    pass_at_k,
    sampling_curve,
)
from reckoner.errors import InputError


def test_pass_at_k_published_values():
    assert [round(pass_at_k(8, 2, k), 3) for k in (1, 2, 4, 8)] == [0.25, 0.464, 0.786, 1.0]
    assert pass_at_k(8, 0, 8) == 0.0
    assert pass_at_k(10**4, 1, 10) == 0.001


@pytest.mark.parametrize(("samples", "k"), [(4, 5), (4, 0), (0, 1)])
def test_more_than_was_drawn_is_refused(samples, k):
    with pytest.raises(InputError, match=f"k={k}"):
        pass_at_k(samples, 0, k)
    with pytest.raises(InputError, match=f"k={k}"):
        maj_at_k(["1"] * samples, "1", k)


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="impossible"):
        pass_at_k(4, 5, 1)


@given(st.lists(st.booleans(), min_size=1, max_size=9), st.data())
def test_pass_at_k_counts_subsets(right, data):
    k = data.draw(st.integers(1, len(right)))
    subsets = list(combinations(right, k))
    assert pass_at_k(len(right), sum(right), k) == float(Fraction(sum(map(any, subsets)), len(subsets)))


def brute_force_vote(answers, gold, k):
    total = Fraction(0)
    subsets = list(combinations(answers, k))
    for subset in subsets:
        votes = Counter(answer for answer in subset if answer is not None)
        leaders = [answer for answer, count in votes.items() if count == max(votes.values())]
        if gold in leaders:
            total += Fraction(1, len(leaders))
    return float(total / len(subsets))


@given(st.lists(st.sampled_from(["7", "8", "9", None]), min_size=1, max_size=9), st.data())
def test_maj_at_k_counts_subsets(answers, data):
    k = data.draw(st.integers(1, len(answers)))
    assert maj_at_k(answers, "7", k) == pytest.approx(brute_force_vote(answers, "7", k), abs=1e-15)


def test_maj_at_k_by_hand():
    assert maj_at_k(["7", "7", "8"], "7", 3) == 1.0
    assert maj_at_k(["7", "8"], "7", 2) == 0.5
    assert maj_at_k([None, None, "7"], "7", 3) == 1.0
    assert maj_at_k([None, None, None], "7", 3) == 0.0
    assert maj_at_k(["7", "7", "8"], "7", 1) == pytest.approx(2 / 3)


def test_seed_averages():
    scores = [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]]
    found = average_seeds(scores)
    assert found.values == (0.5, 0.25, 0.75)
    assert found.mean == 0.5
    assert found.std == pytest.approx(stdev(found.values))
    assert found.items.tolist() == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert average_seeds(scores[:1]).std is None
    with pytest.raises(ValueError, match="seeds, items"):
        average_seeds([1, 0])


def test_cluster_bootstrap_is_wider_where_items_go_together():
    clusters = np.repeat(np.arange(40), 25)
    family = np.random.default_rng(1).random(40) < 0.5
    together = family[clusters].astype(float)
    low, high = cluster_bootstrap(together, clusters.tolist(), seed=2, draws=3000)
    standard_error = np.sqrt(family.var() / 39)
    assert (high - low) / 2 == pytest.approx(1.96 * standard_error, rel=0.06)
    assert (low + high) / 2 == pytest.approx(together.mean(), abs=0.02)
    apart = cluster_bootstrap(together, range(1000), seed=2, draws=1000)
    assert apart[1] - apart[0] < (high - low) / 3


def test_cluster_bootstrap_weights_items_not_clusters_and_repeats():
    values, clusters = [1.0] * 90 + [0.0] * 10, ["a"] * 90 + ["b"] * 5 + ["c"] * 5
    first = cluster_bootstrap(values, clusters, seed=3, draws=500)
    assert first == cluster_bootstrap(values, clusters, seed=3, draws=500)
    assert first[1] > 0.9
    with pytest.raises(InputError, match="at least 2"):
        cluster_bootstrap([1.0, 0.0], ["a", "a"])
    with pytest.raises(ValueError, match="labels"):
        cluster_bootstrap([1.0], ["a", "b"])


def test_a_difference_knows_whether_its_scores_are_averages():
    assert not paired_difference([1, 0, 1, 1], [0, 0, 1, 0]).averaged
    assert not paired_difference([1, 0, 0, 1], [0, 1, 0, 1]).averaged
    assert paired_difference([1, 0.5, 1, 1], [0, 0, 1, 0]).averaged


def test_a_curve_goes_through_powers_of_two_to_all_samples_or_to_the_most_that_is_asked():
    """Two of three right, and none of three."""
    answers = [["7", "7", "8"], ["8", None, "9"]]
    curve = sampling_curve(answers, "7")
    assert curve == (Sampled(1, 1 / 3, 1 / 3), Sampled(2, 0.5, pytest.approx(1 / 3)), Sampled(3, 0.5, 0.5))
    assert sampling_curve(answers, "7", most=2) == curve[:2]
