"""The one way from a completion to its verdict: reward, dev, test, `grade` and `compare` call this.

What is read and what is right are the business of a kind of answer, which the problem names. A further kind
is one module with `read`, a check of golds, and one line in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from reckoner.errors import InputError
from reckoner.runs.records import Completion, Finish, Grade, Problem
from reckoner.tasks.answers import choice, expression, number, span
from reckoner.tasks.answers.marking import as_marked
from reckoner.tasks.answers.reading import Reading, verdict_on

Choices = Sequence[str]


@dataclass(frozen=True)
class Kind:
    """One kind of answer. `check` raises `InputError` for a gold that is outside of it.

    `version` names the grader and changes with any verdict; it is stored with every result.
    """

    version: Callable[[], str]
    check: Callable[[str, Choices], object]
    read: Callable[[str | None, Choices], Reading]
    right: Callable[[Hashable, str], bool]
    partial: Callable[[str, str], float] | None = None


def _check_text(gold: str, _: Choices) -> None:
    if not gold.strip():
        raise InputError("gold is empty")


KINDS: dict[str, Kind] = {
    "number": Kind(
        lambda: number.GRADER,
        lambda gold, _: number.gold_number(gold),
        lambda text, _: number.read(text),
        lambda value, gold: value == number.gold_number(gold),
    ),
    "choice": Kind(
        lambda: choice.VERSION,
        choice.check,
        choice.read,
        lambda value, gold: value == gold,
    ),
    "span": Kind(
        lambda: "span-1",
        _check_text,
        lambda text, _: span.read(text),
        lambda value, gold: span.exact(str(value), gold),
        span.f1,
    ),
    "expression": Kind(
        lambda: f"math-verify-{expression.version()}-{expression.RULES}",
        _check_text,
        lambda text, _: expression.read(text),
        lambda value, gold: expression.equal(str(value), gold),
    ),
}
"""By the name that a problem holds in `kind`."""

MIXED = "number-or-span"
"""The kind of a set whose golds are numbers where they are one, and spans otherwise."""


def kind_for(gold: str, kind: str) -> str:
    """The kind of one problem of a set of `kind`."""
    if kind != MIXED:
        return kind
    try:
        number.gold_number(gold)
    except InputError:
        return "span"
    return "number"


def version_of(kind: str) -> str:
    """The name and version of the grader of a set of `kind`. Raises `InputError` for an unknown one."""
    return "+".join(kind_of(name).version() for name in kind.split("-or-"))


def grader_of(problems: Iterable[Problem]) -> str:
    """The graders of these problems, each by its name and version."""
    return "+".join(sorted({kind_of(kind).version() for kind in {problem.kind for problem in problems}}))


def kind_of(name: str) -> Kind:
    """The kind of answer `name`. Raises `InputError` where there is none."""
    if name not in KINDS:
        raise InputError(f"{name[:80]!r} is no kind of answer; {', '.join(KINDS)} are")
    return KINDS[name]


@dataclass(frozen=True)
class Answer:
    """A completion, the gold of its problem and how it ended; it is read once, however often it is judged."""

    text: str
    gold: str
    finish: Finish = "stop"
    kind: str = "number"
    choices: tuple[str, ...] = ()
    answer_format: str = "####"

    @classmethod
    def of(cls, completion: Completion, problem: Problem) -> Answer:
        """What a grader and a reward see of a completion."""
        own = problem.gold, completion.finish, problem.kind, problem.choices, completion.answer_format
        return cls(completion.text, *own)

    @classmethod
    def to(cls, problem: Problem, text: str, answer_format: str = "####") -> Answer:
        """A whole answer to `problem` that no model wrote."""
        return cls(text, problem.gold, "stop", problem.kind, problem.choices, answer_format)

    @cached_property
    def reading(self) -> Reading:
        text = self.text if self.answer_format == "####" else as_marked(self.text, self.answer_format)
        reading = kind_of(self.kind).read(text, self.choices)
        return replace(reading, strict=reading.flexible) if self.answer_format == "last" else reading

    @cached_property
    def grade(self) -> Grade:
        """The verdict, without a problem's name. Raises `InputError` where the gold is outside its kind."""
        kind = kind_of(self.kind)
        kind.check(self.gold, self.choices)
        grade = verdict_on(self.reading, lambda value: kind.right(value, self.gold), self.finish)
        if kind.partial is None:
            return grade
        said = self.reading.strict
        return replace(grade, f1=0.0 if said is None else kind.partial(str(said), self.gold))


def grade(completion: Completion, problem: Problem) -> Grade:
    """Grade one completion of a problem. Raises `InputError` where its gold is outside its kind."""
    verdict = Answer.of(completion, problem).grade
    return replace(verdict, problem_id=completion.problem_id, sample=completion.sample)


def gold_text(gold: str, kind: str) -> str:
    """The gold answer as a solution writes it behind its marker."""
    return "; ".join(span.gold_spans(gold)[0]) if kind == "span" else gold
