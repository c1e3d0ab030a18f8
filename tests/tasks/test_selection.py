"""Which of several completions counts: hand-worked choices, and ties that agree with maj@k."""

import math
from itertools import permutations

import pytest

from reckoner.analysis.statistics import maj_at_k
from reckoner.runs.records import Completion, Problem
from reckoner.tasks.answers.grading import Answer
from reckoner.tasks.rewards import majority
from reckoner.tasks.selection import choose, vote

PROBLEM = Problem("p", "How many?", "", "7", "main", "test")


def drawn(*answers):
    """Completions from (text, tokens, probability of each token)."""
    return [
        Completion("p", at, "", text, tokens, "stop", tokens * math.log(probability), "")
        for at, (text, tokens, probability) in enumerate(answers)
    ]


# Answers 5, 5, 8 and 7 with token probabilities 0.2, 0.3, 0.6 and 0.5: the sums are 0.5, 0.6 and 0.5.
FOUR = drawn(("#### 5", 2, 0.2), ("#### 5.0", 9, 0.3), ("so #### 8", 40, 0.6), ("#### 7", 1, 0.5))


@pytest.mark.parametrize("rule, sample", [("majority", 0), ("weighted", 2), ("best", 2)])
def test_each_rule_by_hand(rule, sample):
    """`best` does not take the shortest, whose product 0.5 is far above 0.6^40, and nobody knows the gold."""
    assert choose(rule, FOUR, PROBLEM) is FOUR[sample]
    assert choose(rule, FOUR[:2] + FOUR[3:], PROBLEM).sample == {"best": 3}.get(rule, 0)


@pytest.mark.parametrize("rule", ["majority", "weighted", "best"])
def test_a_completion_without_an_answer_counts_only_where_none_has_one(rule):
    silent = drawn(("", 0, 1.0), ("no idea", 3, 0.9), ("#### 4", 3, 0.1))
    assert choose(rule, silent, PROBLEM) is silent[2]
    assert choose(rule, silent[:2], PROBLEM) is silent[0]


def test_a_tie_goes_to_the_first_drawn_and_over_all_orders_that_is_maj_at_k():
    answers = ["right", "a", "right", "a", "b", None]
    assert vote(answers, [1.0] * 6) == "right" and vote(answers[1:], [1.0] * 5) == "a"
    for held in (answers, ["right", "a", "b"], ["a", None, None], ["right", None]):
        won = [vote(order, [1.0] * len(order)) == "right" for order in permutations(held)]
        assert sum(won) / len(won) == pytest.approx(maj_at_k(held, "right", len(held)), abs=1e-12)


def test_the_majority_that_is_paid_is_the_one_that_is_selected():
    for group in (FOUR, list(reversed(FOUR))):
        paid = majority([Answer.of(one, PROBLEM) for one in group], "key")
        assert group[paid.index(1.0)] is choose("majority", group, PROBLEM)
    assert majority([Answer("nothing", "7")] * 2, "key") == [0.0, 0.0]


def test_the_kind_of_answer_says_what_a_vote_is():
    letters = Problem("p", "Which?", "", "B", "main", "test", kind="choice", choices=("one", "two"))
    group = drawn(("#### A", 2, 0.9), ("#### B", 2, 0.3), ("I say two.\n#### B", 4, 0.3))
    assert choose("majority", group, letters) is group[1] and choose("best", group, letters) is group[0]
