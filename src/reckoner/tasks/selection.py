"""Which of several completions of a problem counts: the rules of `eval.select`, and how answers are voted on.

Nothing here knows the gold. A completion without an answer counts only where no completion has one. Of equals
the one that was drawn first counts. Draws come in any order with the same probability, so over many problems
this is the fair draw among equals that maj@k stands for (`analysis.statistics.maj_at_k`).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

from reckoner.runs.records import Completion, Problem
from reckoner.tasks.answers.grading import Answer


def vote(answers: Sequence[Hashable | None], weights: Sequence[float]) -> Hashable | None:
    """The answer with the greatest sum of weights; None is no answer and has no vote."""
    sums: dict[Hashable, float] = {}
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None:
            sums[answer] = sums.get(answer, 0.0) + weight
    return max(sums, key=sums.__getitem__, default=None)


def choose(rule: str, drawn: Sequence[Completion], problem: Problem) -> Completion:
    """The completion that counts of those `drawn` for one problem, in their order.

    `majority` takes the answer of most completions (self-consistency, Wang 2022), `weighted` that with the
    greatest sum of probabilities, `best` the most probable completion. A probability is the geometric mean of
    those of the tokens: their product falls with every token, so that it would prefer short answers.
    """
    answers = [Answer.of(one, problem).reading.strict for one in drawn]
    probabilities = [math.exp(one.logprob / max(1, one.token_count)) for one in drawn]
    able = [at for at, answer in enumerate(answers) if answer is not None]
    if rule == "best":
        return drawn[max(able, key=probabilities.__getitem__, default=0)]
    winner = vote(answers, probabilities if rule == "weighted" else [1.0] * len(drawn))
    return drawn[answers.index(winner) if able else 0]
