"""Rows of a JSONL file or a Hub table, read strictly as problems: one faulty row stops everything and is named."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reckoner.faults import InputError
from reckoner.records import Problem
from reckoner.tasks.grading import extract_gold, gold_number
from reckoner.tasks.nano import question_hash

MARKER = "####"
_SURROGATE = re.compile("[\ud800-\udfff]")
Rows = Sequence[tuple[str, Mapping[str, Any]]]
"""A row and what to call it in a message: `("line 812", {"question": ..., "answer": ...})`."""


@dataclass(frozen=True)
class RowFormat:
    """How a row is read; the names are those of section `data`."""

    question_field: str = "question"
    solution_field: str = "answer"
    gold_pattern: str = ""


def read_rows(
    rows: Rows, form: RowFormat, where: str, *, split: str, variant: str, source: str
) -> dict[str, Problem]:
    """The problems by the name of their row, in order.

    A problem's id is the row's own `id`, or made from the split and the question, so that it does not depend on the
    variant or on the order; a `category` is kept. With a `gold_pattern` (its last match counts), the line `#### GOLD` is added to a solution
    without a marker: a model must learn to write it, and a gold solution must be graded correct.
    Raises `InputError` with one line for each kind of fault, naming `where`, the first row and where else.
    """
    pattern, faults = _compiled(form.gold_pattern), _Faults()
    found: dict[str, Problem] = {}
    questions: dict[str, str] = {}
    ids: dict[str, str] = {}
    for place, row in rows:
        try:
            question = _text(row, form, "question_field")
            gold, solution = _gold(_text(row, form, "solution_field"), pattern)
        except _Fault as fault:
            faults.add(place, fault)
            continue
        key = question_hash(question)
        own = row.get("id")
        name = str(own) if isinstance(own, (str, int)) else f"{split}-{key[:12]}"
        if (first := questions.setdefault(key, place)) != place:
            faults.add(place, _Fault("question twice", f"the same question as {first}. Keep one"))
        elif (first := ids.setdefault(name, place)) != place:
            faults.add(place, _Fault("id twice", f"the same id {name!r} as {first}. Ids must differ"))
        steps = sum(bool(line.strip()) for line in solution.rpartition(MARKER)[0].split("\n"))
        category = row.get("category")
        kind = category if isinstance(category, str) else ""
        found[place] = Problem(name, question, solution, gold, variant, source, category=kind, steps=steps)
    if faults.rows:
        raise InputError("\n".join(faults.lines(where)))
    if not found:
        raise InputError(f"{where}: holds no problems")
    return found


def _gold(solution: str, pattern: re.Pattern[str] | None) -> tuple[str, str]:
    """The gold, and the solution with its marker line."""
    if pattern is None:
        if MARKER not in solution:
            raise _Fault(
                "no marker",
                f"no {MARKER} before the gold. Mark it so, or say where it stands with data.gold_pattern",
            )
        gold = extract_gold(solution)
    else:
        matches = list(pattern.finditer(solution))
        gold = (matches[-1][1] or "").strip() if matches else ""
        if not gold:
            raise _Fault("no match", "data.gold_pattern finds no gold in the solution")
        solution = solution if MARKER in solution else f"{solution.rstrip()}\n{MARKER} {gold}"
    try:
        gold_number(gold)
    except InputError as error:
        raise _Fault("no number", str(error)) from error
    return gold, solution


def _text(row: Mapping[str, Any], form: RowFormat, setting: str) -> str:
    """A field that must hold text, and text that UTF-8 can write."""
    name = getattr(form, setting)
    if name not in row:
        others = [
            k
            for k, v in row.items()
            if isinstance(v, str) and k not in (form.question_field, form.solution_field)
        ]
        guess = others[0] if len(others) == 1 else "NAME"
        raise _Fault(
            f"no {name}",
            f'no field "{name}" (fields: {", ".join(row) or "none"}). Name it with data.{setting}={guess}',
        )
    value = row[name]
    if not isinstance(value, str):
        raise _Fault(f"no text {name}", f'field "{name}" holds {type(value).__name__}, not text')
    if not value.strip():
        raise _Fault(f"empty {name}", f'field "{name}" is empty')
    if _SURROGATE.search(value):
        raise _Fault(
            f"surrogate {name}", f'field "{name}" holds half of a surrogate pair, which no tokenizer reads'
        )
    return value


def _compiled(text: str) -> re.Pattern[str] | None:
    if not text:
        return None
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise InputError(f"data.gold_pattern={text} is not a regular expression ({error})") from error
    if not pattern.groups:
        raise InputError(
            f"data.gold_pattern={text} has no group: put the gold in parentheses, as in 'answer is (.+)'"
        )
    return pattern


class _Fault(InputError):
    """What is wrong with one row; faults of one kind are told together."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass
class _Faults:
    """Faulty rows by kind of fault, with the message of the first."""

    rows: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    messages: dict[str, str] = field(default_factory=dict)

    def add(self, place: str, fault: _Fault) -> None:
        self.rows[fault.kind].append(place)
        self.messages.setdefault(fault.kind, str(fault))

    def lines(self, where: str) -> Iterator[str]:
        for kind, (first, *others) in self.rows.items():
            more = f" and {len(others) - 5:,} more" if len(others) > 5 else ""
            also = f"; also {', '.join(others[:5])}{more}" if others else ""
            yield f"{where} {first}: {self.messages[kind]}{also}"
