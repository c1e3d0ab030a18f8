"""How much of test a model may have seen: overlap of texts, questions it can finish, other numbers.

Overlap with the sets that a model learns from or is shown is that of `tasks.overlap`. What a base model read
in pretraining is not at hand: there a question that it finishes word for word, and an accuracy that falls
when only the numbers change, are the signs (GSM1k, 2405.00332; GSM-Symbolic, 2410.05229).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from reckoner.analysis.intervals import wilson
from reckoner.analysis.renumber import LeftOut, other_numbers
from reckoner.analysis.statistics import Difference
from reckoner.analysis.tables import Cell, Row, Table
from reckoner.analysis.wording import p_value, percent, points, span
from reckoner.runs.records import Problem
from reckoner.tasks.overlap import NGRAM, Overlap


def renumber(problem: Problem, seed: int = 0) -> Problem | None:
    """The problem with other numbers and the gold that follows from its steps; None where that is not sure.

    The new problem has no solution.
    """
    try:
        made = other_numbers(problem, seed)
    except LeftOut:
        return None
    return replace(made, id=f"{problem.id}-renumbered", solution="")


def overlap_table(found: Mapping[str, Overlap]) -> Table:
    """One line a set: how many test questions stand in it, by the three kinds, with intervals."""
    rows = []
    for name, one in found.items():
        kinds = {"same words": one.exact, f"{NGRAM}-word sequences": one.ngram, "numbers masked": one.masked}
        rows.append(Row(name, {kind: _count(len(ids), one.n) for kind, ids in kinds.items()}))
    return Table("", "test questions also in", tuple(rows))


def model_table(finished: Sequence[bool], other_numbers: Difference | None) -> Table:
    """Of the untrained model: the test questions that it finishes, and what other numbers cost it."""
    rows = [Row("questions finished word for word", {"found": _count(sum(finished), len(finished))})]
    if other_numbers is not None:
        one = other_numbers
        text = f"{points(one.estimate)} points ({span(one.low, one.high)}), p {p_value(one.p)}, n {one.n:,}"
        rows.append(Row("accuracy on the original numbers minus on others", {"found": Cell(text)}))
    return Table("", "the untrained model", tuple(rows))


def _count(k: int, n: int) -> Cell:
    return Cell(f"{k:,} of {n:,}, {percent(k / n)} ({span(*wilson(k, n))})", k)
