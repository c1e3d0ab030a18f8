"""What one run fixed and what it broke against another: both texts, and the first calculation where they part."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any

from reckoner.analysis.mistakes import KINDS, diagnose, need_texts
from reckoner.analysis.readers import CompletionSet, Key
from reckoner.errors import InputError
from reckoner.runs.records import Problem
from reckoner.tasks.arithmetic import Step, check_steps, format_number


@dataclass(frozen=True, slots=True)
class Slip:
    """A false calculation at `text[start:end]` and the value that would be right."""

    start: int
    end: int
    right: str


@dataclass(frozen=True, slots=True)
class Side:
    """One completion; `kind` and `detail` are empty where it is right."""

    text: str
    verdict: str
    value: str | None
    kind: str
    detail: str
    slips: tuple[Slip, ...]


@dataclass(frozen=True, slots=True)
class Parting:
    """Where two completions part: the calculation (or, where neither calculates, the line) counted from 1.

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
    """From run a to run b over `n` problems: `fixed` were wrong in a and are right in b, `broken` the reverse."""

    a: str
    b: str
    n: int
    both_right: int
    both_wrong: int
    fixed: tuple[Change, ...]
    broken: tuple[Change, ...]


def diff(a: CompletionSet, b: CompletionSet) -> Diff:
    """Compare the first sample of each problem; raises `InputError` where the runs do not hold the same problems."""
    need_texts(a)
    need_texts(b)
    keys = [key for key in a.grades if key[1] == 0]
    if set(keys) != {key for key in b.grades if key[1] == 0}:
        raise InputError(
            f"{a.name} and {b.name} do not answer the same problems. `reckon compare` says which differ"
        )
    if a.grader != b.grader:
        raise InputError(
            f"{a.name} is graded by {a.grader} and {b.name} by {b.grader}. Name the files of completions instead"
        )
    right = {
        name: [key for key in keys if source.grades[key].strict] for name, source in (("a", a), ("b", b))
    }
    both = set(right["a"]) & set(right["b"])
    return Diff(
        a=a.name,
        b=b.name,
        n=len(keys),
        both_right=len(both),
        both_wrong=len(keys) - len(set(right["a"]) | set(right["b"])),
        fixed=tuple(_change(a, b, key) for key in right["b"] if key not in both),
        broken=tuple(_change(a, b, key) for key in right["a"] if key not in both),
    )


def _change(a: CompletionSet, b: CompletionSet, key: Key) -> Change:
    problem = a.problems[key[0]]
    if problem.gold != b.problems[key[0]].gold:
        raise InputError(
            f"item {key[0]!r} has gold {problem.gold} in {a.name} and {b.problems[key[0]].gold} in {b.name}"
        )
    texts = a.completions[key].text, b.completions[key].text
    return Change(
        problem.id,
        problem.question,
        problem.gold,
        problem.solution,
        problem.category,
        _side(problem, a, key),
        _side(problem, b, key),
        part(*texts),
    )


def _side(problem: Problem, source: CompletionSet, key: Key) -> Side:
    completion, grade = source.completions[key], source.grades[key]
    found = diagnose(problem, completion, grade)
    slips = tuple(
        Slip(s.start, s.end, format_number(s.value))
        for s in check_steps(completion.text)
        if s.slip and s.value is not None
    )
    return Side(
        completion.text,
        grade.verdict,
        grade.strict_value,
        found.kind if found else "",
        found.detail if found else "",
        slips,
    )


def part(a: str, b: str) -> Parting | None:
    """The first calculation in which two texts differ by value, or where one has no more; None where none differs."""
    left, right = check_steps(a), check_steps(b)
    if not left and not right:
        return _part_lines(a, b)
    for place, (one, other) in enumerate(zip_longest(left, right), 1):
        if one is None or other is None or _result(one) != _result(other):
            return Parting("calculation", place, _shown(one), _shown(other))
    return None


def _part_lines(a: str, b: str) -> Parting | None:
    for place, (one, other) in enumerate(zip_longest(a.split("\n"), b.split("\n"), fillvalue=""), 1):
        if one.strip() != other.strip():
            return Parting("line", place, one.strip(), other.strip())
    return None


def _result(step: Step) -> object:
    """What counts as the same calculation: its exact value and what was written, or its text where it has none."""
    return (step.value, step.right) if step.value is not None else step.expression


def _shown(step: Step | None) -> str:
    return "" if step is None else f"{step.expression.strip()} = {step.written.strip()}"


def page_data(found: Diff) -> dict[str, Any]:
    """The diff as plain JSON values, with the titles and definitions of the kinds: all that a page needs."""
    kinds = {name: {"title": kind.title, "definition": kind.definition} for name, kind in KINDS.items()}
    return {**asdict(found), "kinds": kinds}
