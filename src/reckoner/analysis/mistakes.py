"""Why a completion is wrong: one kind of mistake for each, and how the mistakes of a run are distributed.

A kind is one function that says what it saw, or None where the kind does not apply. Kinds are tried in the
order in which they stand here, and the first that applies decides. The order goes from the certain to the
inferred: the first four look at the form, the fifth proves a calculation wrong by exact arithmetic. The
others compare with the reference solution. They say where a completion leaves the reference, which is not
always where its reasoning went wrong. docs/errors.md has the definitions with examples and limits.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from math import ceil, floor

from reckoner.analysis.intervals import wilson
from reckoner.analysis.quantities import FACTORS, conversions, mentioned, numbers_given
from reckoner.analysis.readers import CompletionSet, Key
from reckoner.analysis.wording import ANSWER_SIZES, IN_TRAIN, NOT_IN_TRAIN, answer_size
from reckoner.runs.records import Completion, Grade, Problem
from reckoner.tasks.answers.number import MARKED, gold_number, read
from reckoner.tasks.answers.reading import answer_end
from reckoner.tasks.arithmetic import Step, check_steps, evaluate, format_number, numbers

ALWAYS = frozenset((Fraction(0), Fraction(1), Fraction(2), Fraction(100), Fraction(1, 100)))
"""Numbers that a solution may use though no question gives them."""
EXAMPLES = 3
"""Examples of each kind in a profile."""
LENGTHS = (0, 31, 46, 61)
"""Bounds of the groups by words of the question."""


@dataclass(frozen=True)
class Case:
    """One wrong completion with everything that the kinds look at, each computed once."""

    problem: Problem
    completion: Completion
    grade: Grade

    @cached_property
    def text(self) -> str:
        """The completion up to where it is graded: before an end token or a new question."""
        return self.completion.text[: answer_end(self.completion.text, MARKED)]

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
    def answer_text(self) -> str:
        return "nothing" if self.answer is None else format_number(self.answer)

    @cached_property
    def gold(self) -> Fraction:
        return gold_number(self.problem.gold)

    @cached_property
    def reference(self) -> list[Step]:
        return [step for step in check_steps(self.problem.solution) if step.value is not None]

    @cached_property
    def divergence(self) -> int | None:
        """Index of the first calculation behind the last one that the reference has too; None without one."""
        index = 1 + max((i for i, step in enumerate(self.steps) if _shared(step, self.reference)), default=-1)
        return index if index < len(self.steps) else None

    @property
    def ahead(self) -> list[Step]:
        """Calculations of the reference whose value the completion never has."""
        return [step for step in self.reference if step.value not in self.values]


Evidence = tuple[str, int | None]
"""What was seen, in words, and the index of the calculation that shows it, where there is one."""
Finder = Callable[[Case], Evidence | None]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of mistake: its name in files, its title for people, its definition and its finder."""

    name: str
    title: str
    definition: str
    find: Finder


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The kind of one mistake, what was seen in words, and the index of the calculation if there is one."""

    kind: str
    detail: str
    step: int | None = None


KINDS: dict[str, Kind] = {}
"""All kinds by name, in the order in which they are tried."""


BY_FORM = ("truncated", "format", "no_answer", "arithmetic", "no_steps")  # these need no number as the gold


def kind(title: str, definition: str) -> Callable[[Finder], Finder]:
    """Register the next kind; its name in files is the name of the function."""

    def register(find: Finder) -> Finder:
        KINDS[find.__name__] = Kind(find.__name__, title, definition, find)
        return find

    return register


def diagnose(problem: Problem, completion: Completion, grade: Grade) -> Diagnosis | None:
    """The kind of mistake of one completion, None where it is right. Never raises on model text."""
    if grade.strict:
        return None
    case = Case(problem, completion, grade)
    names = KINDS if problem.kind == "number" else BY_FORM
    return next(Diagnosis(name, *seen) for name in names if (seen := KINDS[name].find(case)) is not None)


@kind(
    "truncated or repeating",
    "The text was cut at the token limit, or it repeats a line or a phrase until its end.",
)
def truncated(case: Case) -> Evidence | None:
    if case.completion.finish == "length":
        return f"cut at the limit of {case.completion.token_count} tokens", None
    phrase = repeated_end(case.text)
    return (f"repeats {phrase!r} until the end", None) if phrase else None


@kind(
    "ran on",
    "A new question begins before any answer, or a later marked answer replaced the right one.",
)
def ran_on(case: Case) -> Evidence | None:
    reading = read(case.completion.text)
    if reading.cut and reading.strict is None and reading.flexible != case.gold:
        return "a new question begins before any answer", None
    if reading.markers < 2 or reading.first != case.gold:
        return None
    return f"the first marked answer was right, the text went on and ends with {case.answer_text}", None


@kind("format", "The last number is right, but no well-formed number follows a #### marker.")
def format(case: Case) -> Evidence | None:
    return (f"the last number is right, {_marker(case)}", None) if case.grade.flexible else None


@kind("no answer", "No well-formed number follows a #### marker, and the last number is not right either.")
def no_answer(case: Case) -> Evidence | None:
    return (_marker(case), None) if case.answer is None else None


@kind("arithmetic slip", "A written calculation is false: it says a op b = c, and a op b is not c.")
def arithmetic(case: Case) -> Evidence | None:
    for index, step in enumerate(case.steps):
        if step.slip and step.value is not None:
            return f"{equation(step)}, right is {format_number(step.value)}", index
    return None


@kind(
    "gold suspicious",
    "The reference solution has a false calculation, or its answer appears nowhere in it.",
)
def gold_suspicious(case: Case) -> Evidence | None:
    slip = next((step for step in case.reference if step.slip), None)
    if slip is not None:
        return f"the reference says {equation(slip)}", None
    body = case.problem.solution.rpartition("####")[0]
    if not body or any(step.value == case.gold for step in case.reference):
        return None
    if not mentioned(body).isdisjoint((abs(case.gold), abs(case.gold) / 100)):
        return None
    return f"{case.problem.gold} appears nowhere in the reference solution", None


@kind(
    "wrong final copy",
    "The last calculation gives the right number, and another one is marked as the answer.",
)
def final_copy(case: Case) -> Evidence | None:
    if not case.values or case.values[-1] != case.gold:
        return None
    last = f"the last calculation is {equation(case.steps[-1])}, the answer says {case.answer_text}"
    return last, len(case.steps) - 1


@kind(
    "extra step",
    "A calculation gives the right number, as the reference does, and the text goes on calculating.",
)
def extra_step(case: Case) -> Evidence | None:
    final = [step for step in case.reference if step.value == case.gold][-1:]
    for index in reversed(range(len(case.steps) - 1)):
        step, following = case.steps[index : index + 2]
        if step.value == case.gold and _shared(step, final):
            return f"{equation(step)} is the right number, then comes {equation(following)}", index + 1
    return None


@kind(
    "unit or conversion",
    "The answer is the right number times or divided by a conversion factor whose units the question names.",
)
def unit(case: Case) -> Evidence | None:
    if not case.answer or not case.gold:
        return None
    ratio = abs(case.answer / case.gold)
    for factor in FACTORS:
        if ratio in (factor, Fraction(1, factor)) and factor in conversions(case.problem.question):
            return f"the answer is the right number {'times' if ratio > 1 else 'divided by'} {factor}", None
    return None


@kind("copied number", "The answer is a number of the question that no calculation yields.")
def copied_number(case: Case) -> Evidence | None:
    computed = {abs(value) for value in case.values if value is not None}
    rounded = {side(value) for value in computed for side in (floor, ceil)}
    if case.answer in computed | rounded or case.answer not in mentioned(case.problem.question):
        return None
    return f"{case.answer_text} stands in the question, and no calculation yields it", None


@kind(
    "missing step", "The answer, or else the last calculation, is one that the reference passes on its way."
)
def missing_step(case: Case) -> Evidence | None:
    for step in reversed(case.steps):
        stops = step is case.steps[-1] or step.value == case.answer
        shared = _shared(step, case.reference) if stops else None
        if shared is not None:
            following = case.reference[case.reference.index(shared) + 1 :]
            rest = f"then has {equation(following[0])}" if following else "says more"
            seen = f"stops at {equation(step)}, which the reference has too and {rest}"
            return seen, case.steps.index(step)
    return None


@kind(
    "invented number",
    "The first calculation off the reference takes a number that nothing before it gives.",
)
def invented_number(case: Case) -> Evidence | None:
    if case.divergence is None:
        return None
    earlier = case.steps[: case.divergence]
    known = ALWAYS | numbers_given(case.problem.question)
    known |= {v for step in earlier for v in (step.value, evaluate(step.written)) if v is not None}
    known |= {number for step in case.reference for number in numbers(step.expression)}
    step = case.steps[case.divergence]
    for number in numbers(step.expression):
        if number not in known:
            return f"{equation(step)}: nothing gives {format_number(number)}", case.divergence
    return None


@kind(
    "wrong operation",
    "The first calculation off the reference combines the numbers of one of its calculations differently.",
)
def wrong_operation(case: Case) -> Evidence | None:
    return _resembles(case, apart=0)


@kind(
    "wrong number",
    "The first calculation off the reference differs from one of its calculations in one number.",
)
def wrong_number(case: Case) -> Evidence | None:
    return _resembles(case, apart=1)


@kind(
    "other plan",
    "The first calculation off the reference combines given numbers as the reference never does.",
)
def other_plan(case: Case) -> Evidence | None:
    if case.divergence is None:
        return None
    theirs = f", the reference has {equation(case.ahead[0])}" if case.ahead else ""
    return f"{equation(case.steps[case.divergence])}{theirs}", case.divergence


@kind("no readable steps", "The answer is wrong, and the text has no calculation that could say why.")
def no_steps(case: Case) -> Evidence | None:
    return "no calculation can be read", None


def repeated_end(text: str, tail: int = 600, least: int = 40, times: int = 4) -> str:
    """The phrase that fills at least the last 40 characters of a text, four times or more; empty without one.

    The prefix function of the reversed tail gives the shortest period of every suffix (Knuth et al. 1977).
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


def _marker(case: Case) -> str:
    return "no well-formed number follows the marker" if case.grade.markers else "there is no #### marker"


def equation(step: Step) -> str:
    """A calculation as it is written."""
    return f"{step.expression.strip()} = {step.written.strip()}"


def slips(text: str) -> list[tuple[int, int, str]]:
    """Start, end and right value of each false calculation of a text."""
    wrong = [(step.start, step.end, step.value) for step in check_steps(text) if step.slip]
    return [(start, end, format_number(value)) for start, end, value in wrong if value is not None]


def _shared(step: Step, reference: Iterable[Step]) -> Step | None:
    """The reference's calculation of the same value from at least one number that `step` takes too.

    Equal values from other numbers are likelier a coincidence than the same idea.
    """
    taken = set(numbers(step.expression))
    same = (theirs for theirs in reference if theirs.value == step.value)
    return next((theirs for theirs in same if taken & set(numbers(theirs.expression))), None)


def _resembles(case: Case, apart: int) -> Evidence | None:
    """A calculation of the reference that differs in `apart` numbers from the one at the divergence."""
    if case.divergence is None:
        return None
    step = case.steps[case.divergence]
    taken = Counter(numbers(step.expression))
    for reference in case.ahead:
        theirs = Counter(numbers(reference.expression))
        if (taken - theirs).total() == (theirs - taken).total() == apart < taken.total():
            return f"{equation(step)}, the reference has {equation(reference)}", case.divergence
    return None


@dataclass(frozen=True, slots=True)
class WrongAnswer:
    """One wrong completion to read."""

    problem_id: str
    question: str
    gold: str
    text: str
    detail: str


@dataclass(frozen=True, slots=True)
class KindCount:
    """One kind of mistake; `low` to `high` is the interval of `share`, its part of all wrong completions."""

    kind: str
    title: str
    definition: str
    count: int
    share: float
    low: float
    high: float
    examples: tuple[WrongAnswer, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """The wrong completions among the `n` of one group, by kind; `low` to `high` is for wrong / n."""

    label: str
    n: int
    wrong: int
    low: float
    high: float
    kinds: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Profile:
    """All mistakes of a run. `slips` counts completions with a false calculation, `lucky` the right ones."""

    name: str
    n: int
    wrong: int
    slips: int
    lucky: int
    kinds: tuple[KindCount, ...]
    groups: Mapping[str, tuple[Group, ...]]


def diagnoses(source: CompletionSet) -> dict[Key, Diagnosis | None]:
    """The kind of mistake of every completion, None where it is right; `InputError` if texts are missing."""
    source.need_texts()
    return {
        key: diagnose(source.problems[key[0]], source.completions[key], grade)
        for key, grade in source.grades.items()
    }


def profile(source: CompletionSet, known: Mapping[Key, Diagnosis | None] | None = None) -> Profile:
    """Count the wrong completions of a run by kind and group; `known` are its `diagnoses` if they exist."""
    known = diagnoses(source) if known is None else known
    wrong = {key: diagnosis for key, diagnosis in known.items() if diagnosis is not None}
    slipped = [key for key in known if slips(source.completions[key].text)]
    cases: dict[str, list[WrongAnswer]] = defaultdict(list)
    for key, diagnosis in wrong.items():
        item, text = source.problems[key[0]], source.completions[key].text
        answer = WrongAnswer(item.id, item.question, item.gold, text, diagnosis.detail)
        cases[diagnosis.kind].append(answer)
    kinds = [_count(one, cases[name], len(wrong)) for name, one in KINDS.items() if cases[name]]
    return Profile(
        name=source.name,
        n=len(known),
        wrong=len(wrong),
        slips=len(slipped),
        lucky=sum(known[key] is None for key in slipped),
        kinds=tuple(sorted(kinds, key=lambda kind: -kind.count)),
        groups=_groups(source, wrong),
    )


def _count(kind: Kind, answers: list[WrongAnswer], wrong: int) -> KindCount:
    """One kind of `wrong` answers, with the examples that are the shortest to read, of different problems."""
    k = len(answers)
    ordered = sorted(answers, key=lambda one: (len(one.question) + len(one.text), one.problem_id))
    shortest = tuple({one.problem_id: one for one in reversed(ordered)}.values())[::-1][:EXAMPLES]
    return KindCount(kind.name, kind.title, kind.definition, k, k / wrong, *wilson(k, wrong), shortest)


def _groups(source: CompletionSet, wrong: Mapping[Key, Diagnosis]) -> dict[str, tuple[Group, ...]]:
    groups = {}
    for title, rank in GROUPINGS.items():
        ranks = {name: rank(problem) for name, problem in source.problems.items()}
        sizes = Counter(ranks[name] for name, _ in source.grades)
        kinds: dict[tuple[int, str], Counter[str]] = defaultdict(Counter)
        for (name, _), diagnosis in wrong.items():
            kinds[ranks[name]][diagnosis.kind] += 1
        if len(sizes) > 1:
            counts = [(label, sizes[rank, label], kinds[rank, label]) for rank, label in sorted(sizes)]
            groups[title] = tuple(
                Group(label, n, kinds.total(), *wilson(kinds.total(), n), dict(kinds.most_common()))
                for label, n, kinds in counts
            )
    return groups


def step_count(problem: Problem) -> int:
    """Calculations in the reference solution, as declared or else as read."""
    return problem.steps or len(check_steps(problem.solution))


def _by_steps(problem: Problem) -> tuple[int, str]:
    steps = min(step_count(problem), 8)
    return steps, "8 or more" if steps == 8 else str(steps)


def _by_answer(problem: Problem) -> tuple[int, str]:
    if problem.kind != "number":
        return len(ANSWER_SIZES), f"a {problem.kind}"
    size = answer_size(gold_number(problem.gold))
    return size, ANSWER_SIZES[size]


def _by_length(problem: Problem) -> tuple[int, str]:
    length = len(problem.question.split())
    for low, after in pairwise(LENGTHS):
        if length < after:
            return low, f"{low or 1} to {after - 1} words"
    return LENGTHS[-1], f"{LENGTHS[-1]} words and more"


GROUPINGS: dict[str, Callable[[Problem], tuple[int, str]]] = {
    "category": lambda problem: (0, problem.category),
    "template": lambda problem: (int(problem.unseen), NOT_IN_TRAIN if problem.unseen else IN_TRAIN),
    "calculations in the reference": _by_steps,
    "size of the answer": _by_answer,
    "length of the question": _by_length,
}
"""Each grouping gives a problem's rank and label; one that does not divide the problems is left out."""
