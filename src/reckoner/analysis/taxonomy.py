"""Why a completion is wrong: one kind for each, by rules tried in order, the first that holds decides.

The rules come from the certain to the inferred. The first four look at the form, the fifth proves a calculation wrong
by exact arithmetic, the rest compare with the reference solution and so say where a completion parts from it, which is
not always where its author's thinking went wrong. docs/errors.md has the definitions with examples and their limits.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import ceil, floor

from reckoner.runs.records import Completion, Grade, Problem
from reckoner.tasks.answers.number import answer_end, gold_number, read
from reckoner.tasks.arithmetic import Step, check_steps, evaluate, format_number, numbers


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of error: its name in files, its title for people and its definition."""

    name: str
    title: str
    definition: str


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "truncated",
            "truncated or repeating",
            "The text was cut at the token limit, or it repeats a line or a phrase until its end.",
        ),
        Kind(
            "ran_on",
            "ran on",
            "A new question begins before any answer, or the first marked answer was right and a later one took its place.",
        ),
        Kind(
            "format", "format", "The last number is right, but no well-formed number follows a #### marker."
        ),
        Kind(
            "no_answer",
            "no answer",
            "No well-formed number follows a #### marker, and the last number is not right either.",
        ),
        Kind(
            "arithmetic",
            "arithmetic slip",
            "A written calculation is false: `a op b = c`, and a op b is not c.",
        ),
        Kind(
            "gold_suspicious",
            "gold suspicious",
            "The reference solution holds a false calculation, or its answer appears nowhere in it.",
        ),
        Kind(
            "final_copy",
            "wrong final copy",
            "The last calculation gives the right number, and another one is marked as the answer.",
        ),
        Kind(
            "extra_step",
            "extra step",
            "A calculation before the last gives the right number, as the reference does, and the text goes on calculating.",
        ),
        Kind(
            "unit",
            "unit or conversion",
            "The answer is the right number times or divided by a conversion factor whose units the question names.",
        ),
        Kind(
            "copied_number",
            "copied number",
            "The answer is a number of the question that no calculation yields.",
        ),
        Kind(
            "missing_step",
            "missing step",
            "The answer, or else the last calculation, is one that the reference passes on its way.",
        ),
        Kind(
            "invented_number",
            "invented number",
            "The first calculation off the reference's way takes a number that neither the question nor an earlier calculation gives.",
        ),
        Kind(
            "wrong_operation",
            "wrong operation",
            "The first calculation off the way takes the numbers of one of the reference's, and combines them otherwise.",
        ),
        Kind(
            "wrong_number",
            "wrong number",
            "The first calculation off the way has all numbers but one of one of the reference's, and another given number in its place.",
        ),
        Kind(
            "other_plan",
            "other plan",
            "The first calculation off the way combines given numbers as the reference never does.",
        ),
        Kind(
            "no_steps",
            "no readable steps",
            "A wrong answer, and no calculation from which one could tell why.",
        ),
    )
}

FACTORS: dict[int, str] = {
    3: "foot feet yard",
    4: "quart gallon",
    7: "day week",
    10: "millimeter centimeter mm cm dime",
    12: "inch foot feet month year dozen",
    16: "ounce pound oz lb",
    24: "hour day",
    25: "quarter cent",
    30: "day month",
    36: "inch yard",
    52: "week year",
    60: "second minute hour",
    100: "cent dollar $ percent % centimeter meter cm",
    365: "day year",
    1000: "gram kilogram milligram meter kilometer milliliter liter kg km ml ton",
    1440: "minute day",
    3600: "second hour",
    5280: "foot feet mile",
}
"""Conversion factors, each with the units it may stand between."""

WORDS: dict[str, tuple[Fraction, ...]] = {
    word: tuple(Fraction(value) for value in values.split())
    for word, values in (
        *((word, str(value)) for value, word in enumerate(
            "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
            "seventeen eighteen nineteen twenty".split())),
        *((word, str(value)) for value, word in zip(range(30, 100, 10), "thirty forty fifty sixty seventy eighty ninety".split(), strict=True)),
        ("hundred", "100"), ("thousand", "1000"), ("million", "1000000"), ("dozen", "12"), ("score", "20"),
        ("half", "1/2 2"), ("halves", "1/2 2"), ("third", "1/3 2/3 3"), ("thirds", "1/3 2/3 3"), ("quarter", "1/4 3/4 4"),
        ("quarters", "1/4 3/4 4"), ("fourth", "1/4 3/4 4"), ("fifth", "1/5 5"), ("tenth", "1/10 10"),
        ("triple", "3"), ("tripled", "3"), ("triplets", "3"), ("thrice", "3"), ("quadruple", "4"), ("weekday", "5"), ("weekdays", "5"), ("weekend", "2"),
    )
}  # fmt: skip
"""Numbers that a question may give in words."""

ALWAYS = frozenset((Fraction(0), Fraction(1), Fraction(2), Fraction(100), Fraction(1, 100)))


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The kind of one error, what was seen in words, and the calculation concerned, from 0, where there is one."""

    kind: str
    detail: str
    step: int | None = None


@dataclass(frozen=True)
class Case:
    """One wrong completion with all that the rules look at, each computed once."""

    problem: Problem
    completion: Completion
    grade: Grade

    @cached_property
    def text(self) -> str:
        """The completion up to where it is graded: before an end token or a new question."""
        return self.completion.text[: answer_end(self.completion.text)]

    @cached_property
    def steps(self) -> list[Step]:
        return check_steps(self.text)

    @cached_property
    def values(self) -> list[Fraction | None]:
        return [step.value for step in self.steps]

    @cached_property
    def answer(self) -> Fraction | None:
        return None if self.grade.strict_value is None else evaluate(self.grade.strict_value)

    @property
    def said(self) -> str:
        """The answer in words."""
        return "nothing" if self.answer is None else format_number(self.answer)

    @cached_property
    def gold(self) -> Fraction:
        return gold_number(self.problem.gold)

    @cached_property
    def reference(self) -> list[Step]:
        return [step for step in check_steps(self.problem.solution) if step.value is not None]

    @cached_property
    def reference_values(self) -> list[Fraction]:
        return [step.value for step in self.reference if step.value is not None]

    @cached_property
    def given(self) -> set[Fraction]:
        """Numbers of the question, in digits or words, with their per cents and fractions."""
        return _numbers_given(self.problem.question)


Rule = Callable[[Case], Diagnosis | None]


def diagnose(problem: Problem, completion: Completion, grade: Grade) -> Diagnosis | None:
    """The kind of error of one completion, or None where strict grading found it right. Never raises on model text."""
    if grade.strict:
        return None
    case = Case(problem, completion, grade)
    return next(found for rule in RULES if (found := rule(case)) is not None)


def _truncated(case: Case) -> Diagnosis | None:
    if case.completion.finish == "length":
        return Diagnosis("truncated", f"cut at the limit of {case.completion.token_count} tokens")
    phrase = repeated_end(case.text)
    return Diagnosis("truncated", f"repeats {phrase!r} until the end") if phrase else None


def repeated_end(text: str, tail: int = 600, least: int = 40, times: int = 4) -> str:
    """The phrase that fills at least the last 40 characters of a text, four times or more; empty where none does.

    The shortest period of every suffix is read off the prefix function (Knuth, Morris, Pratt 1977) of the reversed tail.
    """
    backward = text.rstrip()[-tail:][::-1]
    borders = [0] * len(backward)
    for at in range(1, len(backward)):
        border = borders[at - 1]
        while border and backward[at] != backward[border]:
            border = borders[border - 1]
        borders[at] = border + (backward[at] == backward[border])
        period = at + 1 - borders[at]
        if at + 1 >= max(least, times * period):
            return backward[:period][::-1]
    return ""


def _ran_on(case: Case) -> Diagnosis | None:
    reading = read(case.completion.text)
    if reading.cut and reading.strict is None and reading.flexible != case.gold:
        return Diagnosis("ran_on", "a new question begins before any answer")
    if reading.markers < 2 or reading.first != case.gold:
        return None
    return Diagnosis(
        "ran_on", f"the first marked answer was right, the text went on and ends with {case.said}"
    )


def _format(case: Case) -> Diagnosis | None:
    return Diagnosis("format", f"the last number is right, {_marker(case)}") if case.grade.flexible else None


def _no_answer(case: Case) -> Diagnosis | None:
    return Diagnosis("no_answer", _marker(case)) if case.answer is None else None


def _marker(case: Case) -> str:
    return "no well-formed number follows the marker" if case.grade.markers else "there is no #### marker"


def _arithmetic(case: Case) -> Diagnosis | None:
    for index, step in enumerate(case.steps):
        if step.slip and step.value is not None:
            return Diagnosis("arithmetic", f"{_said(step)}, right is {format_number(step.value)}", index)
    return None


def _gold_suspicious(case: Case) -> Diagnosis | None:
    slip = next((step for step in case.reference if step.slip), None)
    if slip is not None:
        return Diagnosis("gold_suspicious", f"the reference says {_said(slip)}")
    body = case.problem.solution.rpartition("####")[0]
    if (
        not body
        or case.gold in case.reference_values
        or not _mentioned(body).isdisjoint((abs(case.gold), abs(case.gold) / 100))
    ):
        return None
    return Diagnosis("gold_suspicious", f"{case.problem.gold} appears nowhere in the reference solution")


def _final_copy(case: Case) -> Diagnosis | None:
    if not case.values or case.values[-1] != case.gold:
        return None
    return Diagnosis(
        "final_copy",
        f"the last calculation is {_said(case.steps[-1])}, the answer says {case.said}",
        len(case.steps) - 1,
    )


def _extra_step(case: Case) -> Diagnosis | None:
    last = [step for step in case.reference if step.value == case.gold][-1:]
    for index in reversed(range(len(case.steps) - 1)):
        step, then = case.steps[index : index + 2]
        if step.value == case.gold and _passed(step, last):
            return Diagnosis(
                "extra_step", f"{_said(step)} is the right number, then comes {_said(then)}", index + 1
            )
    return None


def _unit(case: Case) -> Diagnosis | None:
    if not case.answer or not case.gold:
        return None
    ratio = abs(case.answer / case.gold)
    for factor in FACTORS:
        if ratio in (factor, Fraction(1, factor)) and factor in _conversions(case.problem.question):
            return Diagnosis(
                "unit", f"the answer is the right number {'times' if ratio > 1 else 'divided by'} {factor}"
            )
    return None


def _copied_number(case: Case) -> Diagnosis | None:
    computed = {abs(value) for value in case.values if value is not None}
    rounded = {side(value) for value in computed for side in (floor, ceil)}
    if case.answer in computed | rounded or case.answer not in _mentioned(case.problem.question):
        return None
    return Diagnosis("copied_number", f"{case.said} stands in the question, and no calculation yields it")


def _missing_step(case: Case) -> Diagnosis | None:
    for step in reversed(case.steps):
        stops = step is case.steps[-1] or step.value == case.answer
        passed = _passed(step, case.reference) if stops else None
        if passed is not None:
            following = case.reference[case.reference.index(passed) + 1 :]
            rest = f"then has {_said(following[0])}" if following else "says more"
            return Diagnosis(
                "missing_step",
                f"stops at {_said(step)}, which the reference has too and {rest}",
                case.steps.index(step),
            )
    return None


def _passed(step: Step, reference: Iterable[Step]) -> Step | None:
    """The reference's calculation of the same value from at least one number that `step` takes too.

    Equal values from other numbers are likelier a coincidence than the same idea.
    """
    taken = set(numbers(step.expression))
    return next(
        (
            theirs
            for theirs in reference
            if theirs.value == step.value and taken & set(numbers(theirs.expression))
        ),
        None,
    )


def _off_the_way(case: Case) -> Diagnosis | None:
    """Look at the first calculation after the last one that the reference passes too."""
    index = 1 + max((at for at, step in enumerate(case.steps) if _passed(step, case.reference)), default=-1)
    if index == len(case.steps):
        return None
    step = case.steps[index]
    taken, said = Counter(numbers(step.expression)), _said(step)
    known = (
        ALWAYS
        | case.given
        | _results(case.steps[:index])
        | {n for r in case.reference for n in numbers(r.expression)}
    )
    if strange := [number for number in taken if number not in known]:
        return Diagnosis("invented_number", f"{said}: nothing gives {format_number(strange[0])}", index)
    ahead = [reference for reference in case.reference if reference.value not in case.values]
    for kind, apart in (("wrong_operation", 0), ("wrong_number", 1)):
        for reference in ahead:
            theirs = Counter(numbers(reference.expression))
            if (taken - theirs).total() == (theirs - taken).total() == apart < taken.total():
                return Diagnosis(kind, f"{said}, the reference has {_said(reference)}", index)
    return Diagnosis(
        "other_plan", f"{said}{f', the reference has {_said(ahead[0])}' if ahead else ''}", index
    )


def _no_steps(case: Case) -> Diagnosis:
    return Diagnosis("no_steps", "no calculation can be read")


RULES: tuple[Rule, ...] = (
    _truncated, _ran_on, _format, _no_answer, _arithmetic, _gold_suspicious, _final_copy, _extra_step, _unit,
    _copied_number, _missing_step, _off_the_way, _no_steps,
)  # fmt: skip


def _said(step: Step) -> str:
    return f"{step.expression.strip()} = {step.written.strip()}"


def _results(steps: Iterable[Step]) -> set[Fraction]:
    """What earlier calculations gave, exactly and as written."""
    return {value for step in steps for value in (step.value, evaluate(step.written)) if value is not None}


def _words(question: str) -> set[str]:
    return {
        form
        for word in re.findall(r"[a-z]+|[$%]", question.lower())
        for form in (word, word.removesuffix("s"), word.removesuffix("es"))
    }


def _mentioned(text: str) -> set[Fraction]:
    """Numbers in a text, in digits or words."""
    return set(numbers(text)) | {value for word in _words(text) for value in WORDS.get(word, ())}


def _conversions(question: str) -> set[int]:
    """Factors between units of which the question names at least one."""
    words = _words(question)
    return {factor for factor, units in FACTORS.items() if words & set(units.split())}


def _numbers_given(question: str) -> set[Fraction]:
    given = _mentioned(question)
    given |= {
        value
        for token in question.split()
        if "/" in token and (value := evaluate(token.strip(".,;:?!()$"))) is not None
    }
    parts = (
        {value / 100 for value in given}
        | {1 / value for value in given if value}
        | {value for value in given if value < 1}
    )
    given |= parts | {1 - part for part in parts} | {1 + part for part in parts}
    given |= {100 * part for part in given if part < 2} | {
        Fraction(factor) for factor in _conversions(question)
    }
    return given
