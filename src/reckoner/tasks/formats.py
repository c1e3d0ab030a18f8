"""Rows of a JSONL file or a Hub table, read strictly: one faulty row stops everything and is named."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from reckoner.errors import InputError
from reckoner.machine import OverLimit, bounded
from reckoner.nano import question_hash
from reckoner.runs.records import Problem
from reckoner.tasks.answers.number import extract_gold, gold_number, looks_like_comma

MARKER = "####"
_SURROGATE = re.compile("[\ud800-\udfff]")
_POINT_OR_COMMA = re.compile(r"(?<=[0-9])[.,](?=[0-9])")
Rows = Iterable[tuple[str, Mapping[str, Any] | InputError]]
"""The name of a row in messages, and the row or why it cannot be read: `("line 812", {"question": ...})`."""


@dataclass(frozen=True)
class RowFormat:
    """How a row is read; the names are those of section `data`."""

    question_field: str = "question"
    solution_field: str = "answer"
    gold_field: str = ""
    gold_pattern: str = ""
    decimal: str = "auto"


def read_rows(
    rows: Rows, form: RowFormat, where: str, *, split: str, variant: str, source: str
) -> dict[str, Problem]:
    """The problems by the name of their row, in order.

    A problem's id is the row's own `id`, or made from the split and the question, so that it does not depend
    on the variant or on the order; a `category` is kept. A question may have several solutions in train,
    whose ids then end in `-2`, `-3`, ... A gold of `gold_field`, or of `gold_pattern` (its last match
    counts), is added as the line `#### GOLD` to a solution without a marker: a model must learn to write it,
    and a gold solution must be graded correct. With `decimal=comma`, points and commas between digits change
    places in every text. Raises `InputError` with one line for each kind of fault, naming `where`, the first
    row and where else.
    """
    pattern, faults = _compiled(form.gold_pattern), _Faults()
    found: dict[str, Problem] = {}
    solutions: dict[str, dict[str, Problem]] = defaultdict(dict)
    places: dict[str, str] = {}
    golds: list[str] = []
    for place, row in rows:
        if isinstance(row, InputError):
            faults.add(place, _Fault("line", str(row)))
            continue
        with faults.at(place):
            question = _text(row, form, "question_field")
        with faults.at(place):
            gold, solution = _gold(row, form, pattern)
            golds.append(gold)
            _check_gold(gold)
        if place in faults.places:
            continue
        key = question_hash(question)
        known = solutions[key]
        own, category = row.get("id"), row.get("category")
        name = str(own) if isinstance(own, (str, int)) else f"{split}-{key[:12]}"
        name += f"-{len(known) + 1}" if known else ""
        steps = sum(bool(line.strip()) for line in solution.rpartition(MARKER)[0].split("\n"))
        kind = category if isinstance(category, str) else ""
        problem = Problem(name, question, solution, gold, variant, source, category=kind, steps=steps)
        with faults.at(place):
            _check_repeated(problem, known, places, split)
            known[solution] = found[place] = problem
            places[name] = place
    styled = [gold for gold in golds if looks_like_comma(gold)]
    if form.decimal == "auto" and len(styled) > len(golds) / 2:
        faults.messages["style"] = (
            f"{len(styled):,} of {len(golds):,} golds look like {styled[0]}, with a comma for decimals. "
            "Set data.decimal=comma, or data.decimal=point if 1.000 is 1"
        )
    if lines := list(faults.lines(where)):
        raise InputError("\n".join(lines))
    if not found:
        raise InputError(f"{where}: holds no problems")
    return found


def refuse_stops(problems: Iterable[Problem], stops: Sequence[str]) -> None:
    """Refuse solutions that hold one of `stops`: generation would end there, before the answer.

    Raises `InputError`.
    """
    cut = [(problem, stop) for problem in problems for stop in stops if stop in problem.solution]
    if cut:
        (problem, stop), count = cut[0], len({problem.id for problem, _ in cut})
        line = problem.solution.partition(stop)[2].partition("\n")[0]
        raise InputError(
            f"{count:,} training solutions hold a string at which generation stops, so that their answers "
            "would be cut "
            f"(problem {problem.id}: {(stop.strip() + line)[:80]!r}). Write these lines in another way; "
            "those that begin with Question:, Q: or Problem: are fine with prompt.chat_template=on"
        )


def _check_repeated(
    problem: Problem, known: Mapping[str, Problem], places: Mapping[str, str], split: str
) -> None:
    """Refuse a question that was there before, unless it is another solution in train with the same gold."""
    if problem.id in places:
        raise _Fault("id twice", f"the same id {problem.id!r} as {places[problem.id]}. Ids must differ")
    if not known:
        return
    first = next(iter(known.values()))
    if split != "train" or problem.solution in known:
        where = places[known.get(problem.solution, first).id]
        raise _Fault("question twice", f"the same question as {where}. Keep one")
    if gold_number(problem.gold) != gold_number(first.gold):
        raise _Fault(
            "two golds", f"the same question as {places[first.id]} with gold {problem.gold}, not {first.gold}"
        )


def _gold(row: Mapping[str, Any], form: RowFormat, pattern: re.Pattern[str] | None) -> tuple[str, str]:
    """The gold, and the solution with its marker line."""
    solution = _text(row, form, "solution_field")
    if form.gold_field:
        value = row.get(form.gold_field)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        gold = str(value) if number else _text(row, form, "gold_field").strip()
    elif pattern is not None:
        try:
            with bounded():
                matches = list(pattern.finditer(solution))
        except OverLimit as error:
            raise InputError(f"data.gold_pattern={pattern.pattern}: {error} on one solution") from error
        gold = (matches[-1][1] or "").strip() if matches else ""
        if not gold:
            raise _Fault("no match", "data.gold_pattern finds no gold in the solution")
    elif MARKER in solution:
        return extract_gold(solution), solution
    else:
        raise _Fault(
            "no marker",
            f"no {MARKER} before the gold. Mark it so, or say where it stands with data.gold_field or "
            "data.gold_pattern",
        )
    return gold, solution if MARKER in solution else f"{solution.rstrip()}\n{MARKER} {gold}"


def _check_gold(gold: str) -> None:
    try:
        gold_number(gold)
    except InputError as error:
        raise _Fault("no number", str(error)) from error


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
    if form.decimal == "comma":
        return _POINT_OR_COMMA.sub(lambda match: "," if match[0] == "." else ".", value)
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
    places: set[str] = field(default_factory=set)

    def add(self, place: str, fault: _Fault) -> None:
        self.rows[fault.kind].append(place)
        self.messages.setdefault(fault.kind, str(fault))
        self.places.add(place)

    @contextmanager
    def at(self, place: str) -> Iterator[None]:
        """Add what is refused inside, and go on."""
        try:
            yield
        except _Fault as fault:
            self.add(place, fault)

    def lines(self, where: str) -> Iterator[str]:
        if "style" in self.messages:
            yield f"{where}: {self.messages['style']}"
        for kind, (first, *others) in self.rows.items():
            more = f" and {len(others) - 5:,} more" if len(others) > 5 else ""
            also = f"; also {', '.join(others[:5])}{more}" if others else ""
            yield f"{where} {first}: {self.messages[kind]}{also}"
