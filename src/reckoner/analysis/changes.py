"""Which problems one run fixed and broke against another, with both texts and where they begin to differ."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any

from reckoner.analysis.compare import check_alike
from reckoner.analysis.mistakes import KINDS, diagnose, equation, slips
from reckoner.analysis.readers import CompletionSet, Key
from reckoner.errors import InputError
from reckoner.runs.records import Problem
from reckoner.tasks.arithmetic import Step, check_steps


@dataclass(frozen=True, slots=True)
class Slip:
    """A false calculation at `text[start:end]` and the value that would be right."""

    start: int
    end: int
    right: str


@dataclass(frozen=True, slots=True)
class Side:
    """One completion; `kind` and `detail` are empty where it is right, and without a reference solution."""

    text: str
    verdict: str
    value: str | None
    kind: str
    detail: str
    slips: tuple[Slip, ...]


@dataclass(frozen=True, slots=True)
class Parting:
    """The first calculation (or, where neither calculates, the line) that differs, counted from 1.

    An empty text says that this side has ended.
    """

    unit: str
    place: int
    a: str
    b: str


@dataclass(frozen=True, slots=True)
class Change:
    """One problem that one run solves and the other does not."""

    problem_id: str
    question: str
    gold: str
    solution: str
    category: str
    a: Side
    b: Side
    parting: Parting | None


@dataclass(frozen=True, slots=True)
class Diff:
    """From run a to run b over `n` problems: `fixed` are wrong in a and right in b, `broken` the reverse."""

    a: str
    b: str
    n: int
    both_right: int
    both_wrong: int
    fixed: tuple[Change, ...]
    broken: tuple[Change, ...]


def diff(a: CompletionSet, b: CompletionSet) -> Diff:
    """Compare the first sample of each problem. Raises `InputError` where the runs hold other problems."""
    a.need_completions()
    b.need_completions()
    keys = [key for key in a.grades if key[1] == 0]
    if set(keys) != {key for key in b.grades if key[1] == 0}:
        raise InputError(
            f"{a.name} and {b.name} do not answer the same problems. `reckon compare` says which differ"
        )
    right = [(a.grades[key].strict, b.grades[key].strict) for key in keys]
    fixed, broken = (
        [key for key, seen in zip(keys, right, strict=True) if seen == change]
        for change in ((False, True), (True, False))
    )
    check_alike([a, b], [problem for problem, _ in (*fixed, *broken)])
    return Diff(
        a=a.name,
        b=b.name,
        n=len(keys),
        both_right=right.count((True, True)),
        both_wrong=right.count((False, False)),
        fixed=tuple(_change(a, b, key) for key in fixed),
        broken=tuple(_change(a, b, key) for key in broken),
    )


def _change(a: CompletionSet, b: CompletionSet, key: Key) -> Change:
    problem, first, second = a.problems[key[0]], a.completions[key].text, b.completions[key].text
    return Change(
        problem.id,
        problem.question,
        problem.gold,
        problem.solution,
        problem.category,
        _side(problem, a, key),
        _side(problem, b, key),
        first_difference(first, second),
    )


def _side(problem: Problem, run: CompletionSet, key: Key) -> Side:
    completion, grade = run.completions[key], run.grades[key]
    mistake = diagnose(problem, completion, grade) if problem.question and problem.solution else None
    kind, detail = (mistake.kind, mistake.detail) if mistake else ("", "")
    wrong = tuple(Slip(*slip) for slip in slips(completion.text))
    return Side(completion.text, grade.verdict, grade.strict_value, kind, detail, wrong)


def first_difference(a: str, b: str) -> Parting | None:
    """The first calculation that differs by value or is in one text only; None where there is none."""
    left, right = check_steps(a), check_steps(b)
    for number, (one, other) in enumerate(zip_longest(left, right), 1):
        if one is None or other is None or _result(one) != _result(other):
            a, b = (equation(step) if step else "" for step in (one, other))
            return Parting("calculation", number, a, b)
    lines = zip_longest(a.split("\n"), b.split("\n"), fillvalue="")
    for number, (line, other_line) in enumerate(lines if not left and not right else (), 1):
        if line.strip() != other_line.strip():
            return Parting("line", number, line.strip(), other_line.strip())
    return None


def _result(step: Step) -> object:
    """What makes two calculations the same: the value and whether it is written, else the expression."""
    return (step.value, step.right) if step.value is not None else step.expression


def page_data(changes: Diff) -> dict[str, Any]:
    """The diff as plain JSON values, with the titles and definitions of the kinds: all that a page needs."""
    kinds = {name: {"title": kind.title, "definition": kind.definition} for name, kind in KINDS.items()}
    return {**asdict(changes), "kinds": kinds}
