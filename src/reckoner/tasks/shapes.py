"""A first guess at what the columns of a user's file are, as settings to keep.

Only the first rows are looked at. A guess is made where one column fits; where two could be meant, both are
named and the user decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reckoner.errors import InputError
from reckoner.tasks.answers.grading import MIXED, kind_for
from reckoner.tasks.answers.marking import MARKER
from reckoner.tasks.answers.number import western_digits
from reckoner.tasks.decimals import looks_like_comma

LOOKED_AT = 200
"""Rows that a guess rests on."""

QUESTIONS = ("question", "problem", "query", "prompt", "instruction", "input")
SOLUTIONS = (
    "solution",
    "answer",
    "response",
    "output",
    "completion",
    "rationale",
    "reasoning",
    "explanation",
)
GOLDS = ("gold", "target", "final_answer", "final_ans", "answer_number", "expected_answer", "ground_truth")
KEYS = ("answerkey", "correct", "label", *GOLDS, "answer")
OPTIONS = ("choices", "options")
PATTERNS = (r"answer is:?\s*\$?(-?[\d.,/]*\d)", r"\\boxed\{\s*\$?(-?[\d.,/]*\d)\s*\}")
"""Where a gold may stand in a solution without a marker."""
NUMBER_FIRST = r"^[$€£¥₹]?\s*(-?[\d.,/]*\d)"
"""The number of a gold that has a unit behind it, or a currency in front."""
_WITH_UNIT = re.compile(rf"{NUMBER_FIRST}\s*(?!(?:st|nd|rd|th)\b)(?:[^\d\s.,;:/()+*=-][^\d,;]*)?")

Row = Mapping[str, Any]


def guess_settings(rows: Sequence[Row]) -> dict[str, str]:
    """Settings that read these rows, by name. Raises `InputError` where no column, or two, could be meant."""
    rows = rows[:LOOKED_AT]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if talk := next((name for name in columns if _is_talk(rows[0].get(name))), ""):
        return _conversation(rows, talk)
    if {"instruction", "output"} <= set(columns):
        filled = any(row.get("input") for row in rows)
        question = "{instruction}\n\n{input}" if filled else "instruction"
        found = {"data.question_field": question, "data.solution_field": "output"}
        return found | _gold_in_solution([str(row.get("output", "")) for row in rows])
    question = _one(
        columns, QUESTIONS, lambda name: _all(rows, name, _is_text), "question", "data.question_field"
    )
    rest = [name for name in columns if name != question]
    found = {"data.question_field": question}
    if options := [name for name in rest if name.lower() in OPTIONS]:
        key = _one(rest, KEYS, lambda name: _all(rows, name, _is_short), "right option", "data.gold_field")
        more = {"task.choices_field": options[0], "data.gold_field": key, "task.answer_kind": "choice"}
        texts = [name for name in rest if name.lower() in SOLUTIONS and name != key]
        return found | {"data.solution_field": texts[0] if texts else ""} | more
    return found | _answer(rows, rest)


def _answer(rows: Sequence[Row], columns: Sequence[str]) -> dict[str, str]:
    """Solution and gold of rows without options."""
    known = [name for name in columns if name.lower() in (*SOLUTIONS, *GOLDS)]
    marked = [name for name in known if _all(rows, name, lambda value: MARKER in str(value))]
    golds = [name for name in known if name not in marked and _all(rows, name, _is_short)]
    named = [name for name in golds if name.lower() in GOLDS]
    golds = named if len(named) == 1 else golds
    texts = [name for name in known if name not in (*golds, *marked) and _all(rows, name, _is_text)]
    solution = (
        _one(marked or texts, SOLUTIONS, bool, "solution", "data.solution_field") if marked or texts else ""
    )
    found = {"data.solution_field": solution}
    if marked:
        return found
    if not golds:
        if not solution:
            raise _unclear("gold answer", "data.gold_field", columns)
        return found | _gold_in_solution([str(row.get(solution, "")) for row in rows])
    gold = _one(golds, (*GOLDS, *SOLUTIONS), bool, "gold answer", "data.gold_field")
    values = [str(row.get(gold)) for row in rows]
    return found | {"data.gold_field": gold} | _kind(values)


def _kind(golds: Sequence[str]) -> dict[str, str]:
    """What the golds are: numbers, numbers with a unit, expressions, or numbers and texts."""
    golds, found = [western_digits(gold).strip() for gold in golds], {}
    with_unit = [match[1] for match in map(_WITH_UNIT.fullmatch, golds) if match]
    if _mixed(golds) and len(with_unit) >= 0.9 * len(golds):
        golds, found = with_unit, {"data.gold_pattern": NUMBER_FIRST}
    if sum(map(looks_like_comma, golds)) > len(golds) / 2:
        return found | {"data.decimal": "comma"}
    if any("\\" in gold for gold in golds):
        return {"task.answer_kind": "expression"}
    return {"task.answer_kind": MIXED} if _mixed(golds) else found


def _mixed(golds: Sequence[str]) -> bool:
    return any(kind_for(gold, MIXED) == "span" for gold in golds)


def _gold_in_solution(solutions: Sequence[str]) -> dict[str, str]:
    """How to find the gold in solutions without a column of golds."""
    enough = 0.9 * len(solutions)
    if sum(MARKER in text for text in solutions) >= enough:
        return {}
    for pattern in PATTERNS:
        if sum(bool(re.search(pattern, text)) for text in solutions) >= enough:
            return {"data.gold_pattern": pattern}
    raise InputError(
        f"no solution says where its answer is: there is no {MARKER}, no column of golds, and no phrase as "
        "'answer is'. Name it with data.gold_field or data.gold_pattern"
    )


def _conversation(rows: Sequence[Row], name: str) -> dict[str, str]:
    """Rows of messages: OpenAI's and TRL's `messages`, ShareGPT's `conversations`."""
    roles = {turn.get("role", turn.get("from")) for row in rows for turn in row.get(name) or []}
    asks, answers = ("user", "assistant") if "user" in roles else ("human", "gpt")
    question, solution = f"{name}.{asks}", f"{name}.{answers}"
    texts = [
        str(turn.get("content", turn.get("value")))
        for row in rows
        for turn in row.get(name) or []
        if turn.get("role", turn.get("from")) == answers
    ]
    if "system" in roles:
        question = f"{{{name}.system}}\n\n{{{question}}}"
    return {"data.question_field": question, "data.solution_field": solution} | _gold_in_solution(texts)


def _one(
    columns: Sequence[str], known: Sequence[str], fits: Callable[[str], bool], what: str, setting: str
) -> str:
    """The one column with a known name that fits; of question names the first in their order counts."""
    fitting = [name for name in columns if name.lower() in known and fits(name)]
    if not fitting or (len(fitting) > 1 and setting != "data.question_field"):
        raise _unclear(what, setting, fitting or columns)
    return min(fitting, key=lambda name: known.index(name.lower()))


def _unclear(what: str, setting: str, columns: Sequence[str]) -> InputError:
    several = " or ".join(columns) if len(columns) > 1 else ", ".join(columns) or "none"
    return InputError(f"which column is the {what}? ({several}) Say it with {setting}=NAME")


def _is_talk(value: Any) -> bool:
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, Mapping) and bool({"role", "from"} & first.keys())


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_short(value: Any) -> bool:
    """A number or a text of a few words, as golds are and solutions are not."""
    return not isinstance(value, list | dict | type(None)) and len(str(value).split()) <= 4


def _all(rows: Sequence[Row], name: str, test: Callable[[Any], bool]) -> bool:
    """Does the column pass in nearly all rows? Single broken rows are named when all are read."""
    return sum(test(row.get(name)) for row in rows) >= 0.9 * len(rows)
