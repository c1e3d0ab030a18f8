"""How much of test a model may have seen: overlap of texts, questions it can finish, other numbers.

Overlap with the sets that a model learns from or is shown is that of `tasks.overlap`. What a base model read
in pretraining is not at hand: there a question that it finishes word for word, and an accuracy that falls
when only the numbers change, are the signs (GSM1k, 2405.00332; GSM-Symbolic, 2410.05229).
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from reckoner.analysis.statistics import Difference, wilson
from reckoner.analysis.tables import Cell, Row, Table
from reckoner.analysis.wording import p_value, percent, points, span
from reckoner.runs.records import Problem
from reckoner.tasks.answers.number import gold_number
from reckoner.tasks.arithmetic import check_steps, evaluate, format_number, literal
from reckoner.tasks.overlap import NGRAM, Overlap

NUMERAL = re.compile(r"(?<![\w.,])\d{1,6}(?![\w%]|[.,]\d)")
_OPERAND = re.compile(r"\d+(?:\.\d+)?|\.\d+")
DRAWS = 40
"""Sets of new numbers that are tried for a problem before it is left out."""


def renumber(problem: Problem, seed: int = 0) -> Problem | None:
    """The problem with other numbers and the gold that follows from its steps; None where there is none.

    A number changes where it stands once in the question, is whole, and is an operand of a step that is no
    earlier result. Whole results stay whole and none becomes negative. The new problem has no solution.
    """
    drawn = draw_numbers(problem, seed)
    if drawn is None:
        return None
    fresh, results = drawn
    question = NUMERAL.sub(lambda match: str(fresh.get(match[0], match[0])), problem.question)
    gold = format_number(results[gold_number(problem.gold)])
    return replace(problem, id=f"{problem.id}-renumbered", question=question, solution="", gold=gold)


def draw_numbers(problem: Problem, seed: int) -> tuple[dict[str, int], dict[Fraction, Fraction]] | None:
    """Other numbers by those of the question, and new results by old ones; None where there are none."""
    steps = [step for step in check_steps(problem.solution) if step.annotated]
    if not steps or any(step.value is None for step in steps) or steps[-1].value != gold_number(problem.gold):
        return None
    given = [match[0] for match in NUMERAL.finditer(problem.question)]
    results, free = {step.value for step in steps}, set[str]()
    for step in steps:
        operands = (match[0] for match in _OPERAND.finditer(step.expression.replace(",", "")))
        free |= {one for one in operands if given.count(one) == 1 and literal(one) not in results}
    free -= {"0", "1"}
    generator = random.Random(f"{seed} {problem.id}")
    for _ in range(DRAWS if free else 0):
        fresh = {one: generator.choice(_near(int(one))) for one in sorted(free)}
        if known := _follow([(step.expression, step.value) for step in steps], fresh):
            return fresh, known
    return None


def _near(number: int) -> list[int]:
    """Other numbers of about the same size, as many smaller as greater where that can be."""
    reach = max(2, number // 2)
    return [one for one in range(max(2, number - reach), number + reach + 1) if one != number]


def _follow(
    steps: Sequence[tuple[str, Fraction | None]], fresh: Mapping[str, int]
) -> dict[Fraction, Fraction] | None:
    """The results with `fresh` numbers by those of before; None where one becomes negative or a fraction."""
    known: dict[Fraction, Fraction] = {}
    value = Fraction()
    for expression, old in steps:

        def put(match: re.Match[str]) -> str:
            one = literal(match[0])
            return f"({format_number(known.get(one, Fraction(fresh.get(match[0], one))))})"

        found = evaluate(_OPERAND.sub(put, expression.replace(",", "")))
        if old is None or found is None or found < 0 or (old.denominator == 1 and found.denominator != 1):
            return None
        known[old] = value = found
    return known if value.denominator == 1 else None


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
