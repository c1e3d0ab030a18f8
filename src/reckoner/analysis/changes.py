"""What changed from one run to another, problem by problem.

`diff` shows the problems that one run fixed and broke, with both texts and the first calculation in which
they differ. `gains` compares each arm that learned from a reward with the arm that it starts from. There
strict and flexible grading stand side by side, so that learning the format cannot pass for learning to solve.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Literal

from reckoner.analysis.compare import Pair, check_alike
from reckoner.analysis.mistakes import GROUPINGS, KINDS, diagnose, need_texts
from reckoner.analysis.readers import CompletionSet, Key
from reckoner.analysis.statistics import Difference, paired_difference
from reckoner.errors import InputError
from reckoner.runs.records import Problem
from reckoner.tasks.arithmetic import Step, check_steps, format_number

if TYPE_CHECKING:
    from reckoner.analysis.findings import Findings, Result


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


@dataclass(frozen=True, slots=True)
class Gain:
    """One arm minus the arm it starts from, on the problems that both answered.

    `pair` is their declared comparison, None where none was declared. `groups` has the strict difference in
    each labelled group of problems, by the groupings of `mistakes`. `kinds` counts the wrong answers of each
    kind, before and after.
    """

    result: Result
    start: Result
    pair: Pair | None
    strict: Difference
    flexible: Difference
    groups: Mapping[str, tuple[tuple[str, Difference], ...]]
    kinds: Mapping[str, tuple[int, int]]

    @property
    def gained(self) -> bool:
        """Whether the declared test found the arm better than its start."""
        return self.pair is not None and self.pair.verdict == "better"


def diff(a: CompletionSet, b: CompletionSet) -> Diff:
    """Compare the first sample of each problem. Raises `InputError` where the runs hold other problems."""
    need_texts(a)
    need_texts(b)
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
    mistake = diagnose(problem, completion, grade)
    kind, detail = (mistake.kind, mistake.detail) if mistake else ("", "")
    slips = tuple(
        Slip(step.start, step.end, format_number(step.value))
        for step in check_steps(completion.text)
        if step.slip and step.value is not None
    )
    return Side(completion.text, grade.verdict, grade.strict_value, kind, detail, slips)


def first_difference(a: str, b: str) -> Parting | None:
    """The first calculation that differs by value or is in one text only; None where there is none."""
    left, right = check_steps(a), check_steps(b)
    for number, (one, other) in enumerate(zip_longest(left, right), 1):
        if one is None or other is None or _result(one) != _result(other):
            return Parting("calculation", number, _written(one), _written(other))
    lines = zip_longest(a.split("\n"), b.split("\n"), fillvalue="")
    for number, (line, other_line) in enumerate(lines if not left and not right else (), 1):
        if line.strip() != other_line.strip():
            return Parting("line", number, line.strip(), other_line.strip())
    return None


def _result(step: Step) -> object:
    """What makes two calculations the same: the value and whether it is written, else the expression."""
    return (step.value, step.right) if step.value is not None else step.expression


def _written(step: Step | None) -> str:
    return "" if step is None else f"{step.expression.strip()} = {step.written.strip()}"


def page_data(changes: Diff) -> dict[str, Any]:
    """The diff as plain JSON values, with the titles and definitions of the kinds: all that a page needs."""
    kinds = {name: {"title": kind.title, "definition": kind.definition} for name, kind in KINDS.items()}
    return {**asdict(changes), "kinds": kinds}


def gains(findings: Findings) -> list[Gain]:
    """The gain of every rewarded arm whose start has a result too, in the order of the study."""
    rewarded = [result for result in findings.results if result.arm.rewarded]
    return [_gain(findings, after, before) for after in rewarded if (before := findings.start(after))]


def _gain(findings: Findings, after: Result, before: Result) -> Gain:
    profiles = [findings.profiles[findings.results.index(result)] for result in (before, after)]
    counts = [{kind.kind: kind.count for kind in profile.kinds} for profile in profiles]
    names = after.arm.name, before.arm.name
    answered = after.source.shares().keys()
    items = [item for item in before.source.shares() if item in answered]
    return Gain(
        result=after,
        start=before,
        pair=next((pair for pair in findings.pairs if (pair.a, pair.b) == names), None),
        strict=_difference(after.source, before.source, items),
        flexible=_difference(after.source, before.source, items, "flexible"),
        groups={
            grouping: tuple(
                (label, _difference(after.source, before.source, members))
                for label, members in _groups(before.source, items, grouping)
            )
            for grouping in profiles[0].groups
        },
        kinds={
            kind: (counts[0].get(kind, 0), counts[1].get(kind, 0))
            for kind in KINDS
            if any(kind in known for known in counts)
        },
    )


def _difference(
    a: CompletionSet,
    b: CompletionSet,
    items: Sequence[str],
    reading: Literal["strict", "flexible"] = "strict",
) -> Difference:
    shares_a, shares_b = a.shares(reading), b.shares(reading)
    return paired_difference([shares_a[item] for item in items], [shares_b[item] for item in items])


def _groups(run: CompletionSet, items: Sequence[str], grouping: str) -> list[tuple[str, list[str]]]:
    """Labels of one grouping in order, each with its problems."""
    groups: dict[tuple[int, str], list[str]] = defaultdict(list)
    for item in items:
        groups[GROUPINGS[grouping](run.problems[item])].append(item)
    return [(label, groups[rank, label]) for rank, label in sorted(groups)]


def format_rate(run: CompletionSet) -> float:
    """Share of the answers with one marker and a number behind it, right or wrong."""
    grades = run.grades.values()
    return sum(grade.markers == 1 and grade.strict_value is not None for grade in grades) / len(grades)


def length(run: CompletionSet) -> float:
    """Mean tokens of an answer, the stop token included."""
    return sum(completion.token_count for completion in run.completions.values()) / len(run.completions)
