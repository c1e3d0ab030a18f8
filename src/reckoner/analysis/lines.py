"""One line of any tool's file of completions: where completion, problem and gold stand, by `LINE_FORMATS`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from reckoner.analysis.tools import (
    COMPLETION_PATHS,
    GOLDS,
    LINE_FORMATS,
    Questions,
    completion_at,
    follow,
    rows,
    why_ended,
)
from reckoner.errors import InputError
from reckoner.runs.records import Finish, Problem
from reckoner.tasks.answers.grading import kind_of
from reckoner.tasks.answers.number import extract_gold
from reckoner.tasks.answers.reading import finish_of
from reckoner.tasks.answers.span import encode_gold
from reckoner.tasks.decimals import looks_like_comma, with_points
from reckoner.tasks.tables import Rows

ID_FIELDS = ("problem_id", "custom_id", "id")
DECIMAL = "--decimal="
"""The option of the verbs that read files of others."""


@dataclass(frozen=True, slots=True)
class Fields:
    """The names of a line's fields that the user gave; if empty, the formats and `ID_FIELDS` are tried.

    `kind` and `answer_format` are those of lines that do not say it, `decimal` is the sign before decimals in
    all texts: "auto", "point" or "comma".
    """

    completion: str = ""
    gold: str = ""
    id: str = ""
    kind: str = "number"
    answer_format: str = "####"
    decimal: str = "auto"


@dataclass(frozen=True)
class Line:
    """One line of any tool's JSONL file. A property raises `InputError` where the line does not hold it.

    `known` are the fields that its format found under our names; they come before the line's own.
    """

    values: Mapping[str, Any]
    known: Mapping[str, Any] = field(default_factory=dict)
    fields: Fields = Fields()

    @classmethod
    def of_completion(cls, values: Mapping[str, Any], fields: Fields = Fields()) -> Line:
        """A line that holds a completion, where the user or the first format that recognises it finds it."""
        path = fields.completion
        for form in [completion_at(path)] if path else LINE_FORMATS:
            if (known := form(values)) is not None:
                ended = {} if "finish" in known else {"finish": why_ended([values])}
                return cls(values, {**ended, **known}, fields)
        raise _missing(
            values, (path,) if path else COMPLETION_PATHS[:2], "--completion-field of reckon grade"
        )

    @cached_property
    def told(self) -> Mapping[str, Any]:
        """The line's own fields and, over them, those that its format found."""
        return {**self.values, **self.known}

    @property
    def answer(self) -> tuple[str | None, Finish]:
        """The completion and how it ended."""
        text, reason = self.known["completion"], self.known.get("finish") or "stop"
        if text is not None and not isinstance(text, str):
            raise InputError(f"the completion is {type(text).__name__}, not text")
        if (finish := finish_of(reason)) is None:
            raise InputError(f"the completion ended with {reason!r}; expected a word such as stop or length")
        return text and with_points(text, self.fields.decimal), finish

    @property
    def problem_id(self) -> str:
        """The id of the problem that the line is about."""
        names = (self.fields.id,) if self.fields.id else ID_FIELDS
        option = "--id-field of reckon grade. Items are matched by it, never by their order"
        value = self._value(names, option)
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise InputError(f"the id is {type(value).__name__}, not text or a whole number")
        return str(value)

    @property
    def key(self) -> tuple[str, int]:
        """Problem id and sample number, 0 where the line has none."""
        sample = self.told.get("sample", 0)
        if not isinstance(sample, int):
            raise InputError(f"sample is {sample!r}; expected a whole number")
        return self.problem_id, sample

    def known_as(self, questions: Questions, problems: Container[str], where: str) -> str:
        """The id among `problems`, by the line's own id or else its question; `where` they stand."""
        name = self.problem_id
        found = name if name in problems else questions.find(str(self.known.get("question") or ""))
        if not found:
            raise InputError(f"{where} has no item {name[:80]!r}. Name a file of problems with --gold FILE")
        return found

    def problem(self, name: str) -> Problem:
        """What the line says of its problem: question, solution, kind of answer, options, and the gold.

        The gold is given as a number, as text, or as a reference solution with `####`.
        """
        decimal = self.fields.decimal
        texts = (with_points(str(self.told.get(key) or ""), decimal) for key in ("question", "solution"))
        question, solution = texts
        kind, choices = as_kind(self.told, self.fields.kind)
        gold = as_gold(self.gold, kind, choices, decimal)
        return Problem(name, question, solution, gold, "", "", kind=kind, choices=choices)

    @property
    def gold(self) -> Any:
        """The gold answer as it stands there: under the name that the user gave, or one of `GOLDS`."""
        names = [self.fields.gold or GOLDS[0]]
        if names[0] not in self.values and not self.fields.gold:
            held = [name for name in GOLDS if name in self.values]
            names += held if len(held) == 1 else []
        option = "--gold-field of reckon grade, or give the gold answers by id with --gold FILE"
        return self._value(names, option)

    @property
    def answer_format(self) -> str:
        """How the prompt of the completion asked for the answer to be marked."""
        return str(self.told.get("answer_format", self.fields.answer_format))

    def _value(self, names: Sequence[str], option: str) -> Any:
        for name in names:
            for holder in (self.known, self.values):
                if (at_name := follow(holder, name)) is not None:
                    return at_name[0]
        raise _missing(self.values, names, option)


def _missing(values: Mapping[str, Any], names: Sequence[str], option: str) -> InputError:
    wanted, held = " or ".join(map(repr, names)), ", ".join(sorted(values)) or "none"
    return InputError(f"no field {wanted} (fields: {held}). Name it with {option}")


def completion_lines(
    path: Path | str, fields: Fields = Fields(), drawn: Counter[str] | None = None, begun: Rows | None = None
) -> Iterator[tuple[str, Line | InputError]]:
    """Each row of a file or "-" (stdin) with its place, in constant memory; or why it cannot be read.

    A row that says an earlier one again, as lm-eval's do for each further filter, is left out. `drawn`
    counts the samples of each problem where the tool does not number them.
    """
    drawn = Counter() if drawn is None else drawn
    first: Mapping[str, Any] | None = None
    for place, values in begun or rows(path):
        try:
            if isinstance(values, InputError):
                raise values
            line = Line.of_completion(values, fields)
            first = line.known if first is None else first
            if (tool := line.known.get("tool")) != first.get("tool"):
                was, now = (name or "no known tool" for name in (first.get("tool"), tool))
                raise InputError(
                    f"is of {now}, the rows before are of {was}. Give each tool a file of its own"
                )
            if line.known.get("view") != first.get("view"):
                continue
            if line.known.get("sample", 0) is None:
                name = line.problem_id
                line = replace(line, known={**line.known, "sample": drawn[name]})
                drawn[name] += 1
        except InputError as error:
            yield place, error
        else:
            yield place, line


def as_gold(value: Any, kind: str = "number", choices: Sequence[str] = (), decimal: str = "auto") -> str:
    """The gold answer in a number, a text or a solution with `####`; spans also in a list.

    Raises `InputError` where that is outside the kind of answer.
    """
    if kind == "span" and isinstance(value, list | dict):
        value = encode_gold(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputError(f"gold is {type(value).__name__}, not a {kind}")
    gold = with_points(value, decimal) if isinstance(value, str) else str(value)
    gold = extract_gold(gold) if "####" in gold else gold
    try:
        kind_of(kind).check(gold, choices)
    except InputError as error:
        comma = kind == "number" and looks_like_comma(gold)
        remedy = f". Set {DECIMAL}comma if a comma stands before decimals" if comma else ""
        raise InputError(f"{error}{remedy}") from error
    return gold


def as_kind(values: Mapping[str, Any], default: str = "number") -> tuple[str, tuple[str, ...]]:
    """The kind of answer and the options that a line names."""
    choices = values.get("choices", [])
    if not isinstance(choices, list):
        raise InputError(f"choices is {type(choices).__name__}, not a list of texts")
    return str(values.get("kind", default)), tuple(map(str, choices))
