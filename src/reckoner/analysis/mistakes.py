"""The errors of one run: how many of each kind, where they gather, and examples short enough to read.

Groups are properties of the problem (category, calculations in the reference, size of the answer, length of the
question), so that two runs can be held side by side. Every share has its Wilson interval.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from reckoner.analysis.runfiles import Key, Source
from reckoner.analysis.statistics import wilson
from reckoner.analysis.taxonomy import KINDS, Diagnosis, diagnose
from reckoner.errors import InputError
from reckoner.runs.records import Completion, Problem
from reckoner.tasks.answers.number import gold_number
from reckoner.tasks.arithmetic import check_steps

EXAMPLES = 3
WORDS = (0, 31, 46, 61)
"""Bounds of the groups by words of the question."""


@dataclass(frozen=True, slots=True)
class Example:
    """One wrong completion to read."""

    problem_id: str
    question: str
    gold: str
    text: str
    detail: str


@dataclass(frozen=True, slots=True)
class KindCount:
    """One kind of error; `low` to `high` bounds `share`, its part of all wrong completions."""

    kind: str
    title: str
    definition: str
    count: int
    share: float
    low: float
    high: float
    examples: tuple[Example, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """The wrong completions among the `n` of one group of problems, by kind; `low` to `high` bounds wrong / n."""

    label: str
    n: int
    wrong: int
    low: float
    high: float
    kinds: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Profile:
    """All errors of one run. `slips` counts completions with a false calculation, `lucky` those of them that were right."""

    name: str
    n: int
    wrong: int
    slips: int
    lucky: int
    kinds: tuple[KindCount, ...]
    groups: Mapping[str, tuple[Group, ...]]


def diagnoses(source: Source) -> dict[Key, Diagnosis | None]:
    """The kind of error of every completion, None where it is right; raises `InputError` where the texts are not there."""
    need_texts(source)
    return {
        key: diagnose(source.problems[key[0]], source.completions[key], grade)
        for key, grade in source.grades.items()
    }


def profile(source: Source, found: Mapping[Key, Diagnosis | None] | None = None) -> Profile:
    """Sort every wrong completion of a run by kind and by group; `found` are its `diagnoses`, where they are known already."""
    found = diagnoses(source) if found is None else found
    wrong = {key: diagnosis for key, diagnosis in found.items() if diagnosis is not None}
    slipped = [key for key in found if any(step.slip for step in check_steps(source.completions[key].text))]
    counts = Counter(diagnosis.kind for diagnosis in wrong.values())
    cases: dict[str, list[Example]] = defaultdict(list)
    for key, diagnosis in wrong.items():
        cases[diagnosis.kind].append(_example(source.problems[key[0]], source.completions[key], diagnosis))
    kinds = [
        KindCount(
            name,
            kind.title,
            kind.definition,
            counts[name],
            counts[name] / len(wrong),
            *wilson(counts[name], len(wrong)),
            _readable(cases[name]),
        )
        for name, kind in KINDS.items()
        if counts[name]
    ]
    return Profile(
        name=source.name,
        n=len(found),
        wrong=len(wrong),
        slips=len(slipped),
        lucky=sum(found[key] is None for key in slipped),
        kinds=tuple(sorted(kinds, key=lambda kind: -kind.count)),
        groups=_groups(source, wrong),
    )


def need_texts(source: Source) -> None:
    """Refuse a source that holds only grades, or problems without questions."""
    if not source.completions:
        raise InputError(
            f"{source.name}: holds grades without completions. Give the run folder or the file of completions"
        )
    if not all(problem.question and problem.solution for problem in source.problems.values()):
        raise InputError(
            f"{source.name}: errors need each problem's question and solution. Name a file that has them with --gold FILE"
        )


def _example(problem: Problem, completion: Completion, diagnosis: Diagnosis) -> Example:
    return Example(problem.id, problem.question, problem.gold, completion.text, diagnosis.detail)


def _readable(examples: list[Example]) -> tuple[Example, ...]:
    """The shortest to read, of different problems."""
    ordered = sorted(
        examples, key=lambda example: (len(example.question) + len(example.text), example.problem_id)
    )
    return tuple({example.problem_id: example for example in reversed(ordered)}.values())[::-1][:EXAMPLES]


def _groups(source: Source, wrong: Mapping[tuple[str, int], Diagnosis]) -> dict[str, tuple[Group, ...]]:
    groups = {}
    for title, place in GROUPINGS.items():
        places = {name: place(problem) for name, problem in source.problems.items()}
        kinds: dict[tuple[int, str], Counter[str]] = defaultdict(Counter)
        sizes: Counter[tuple[int, str]] = Counter()
        for key in source.grades:
            where = places[key[0]]
            sizes[where] += 1
            if key in wrong:
                kinds[where][wrong[key].kind] += 1
        if len(sizes) > 1:
            groups[title] = tuple(_group(where[1], sizes[where], kinds[where]) for where in sorted(sizes))
    return groups


def _group(label: str, n: int, kinds: Counter[str]) -> Group:
    return Group(label, n, kinds.total(), *wilson(kinds.total(), n), dict(kinds.most_common()))


def step_count(problem: Problem) -> int:
    """Calculations in the reference solution, as declared or else as read."""
    return problem.steps or len(check_steps(problem.solution))


def _by_category(problem: Problem) -> tuple[int, str]:
    return 0, problem.category


def _by_template(problem: Problem) -> tuple[int, str]:
    return int(problem.unseen), "not in train" if problem.unseen else "in train"


def _by_steps(problem: Problem) -> tuple[int, str]:
    steps = min(step_count(problem), 8)
    return steps, "8 or more" if steps == 8 else str(steps)


def _by_answer(problem: Problem) -> tuple[int, str]:
    gold = abs(gold_number(problem.gold))
    labels = ("below 10", "10 to 99", "100 to 999", "1,000 and more")
    size = sum(gold >= bound for bound in (10, 100, 1000))
    return size, labels[size]


def _by_length(problem: Problem) -> tuple[int, str]:
    length = len(problem.question.split())
    for low, after in pairwise(WORDS):
        if length < after:
            return low, f"{low or 1} to {after - 1} words"
    return WORDS[-1], f"{WORDS[-1]} words and more"


GROUPINGS: dict[str, Callable[[Problem], tuple[int, str]]] = {
    "category": _by_category,
    "template": _by_template,
    "calculations in the reference": _by_steps,
    "size of the answer": _by_answer,
    "length of the question": _by_length,
}
"""Each grouping gives a problem's rank and label; one that does not divide the problems is left out."""
