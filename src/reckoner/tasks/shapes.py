"""A first guess at what the columns of a user's file are, as settings to keep.

Only the first rows are looked at. A guess is made where one column fits; where two could be meant, both are
named and the user decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from reckoner.errors import InputError
from reckoner.tasks.answers.grading import MIXED, kind_for
from reckoner.tasks.answers.marking import MARKER
from reckoner.tasks.answers.number import western_digits
from reckoner.tasks.decimals import looks_like_comma
from reckoner.tasks.gold_patterns import NAMED, plain_number
from reckoner.tasks.tables import pick

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
_SENTENCE = re.compile(r"(?i)\banswer is\b|\\boxed")
"""Stands in solutions, however short."""
_OPTION = re.compile(r"(?i)(?:(?:option|choice|opt?)[ _]?)?([a-j])")
"""A column that holds one option alone."""
QUESTION, SOLUTION, GOLD = "data.question_field", "data.solution_field", "data.gold_field"
PATTERN, KIND = "data.gold_pattern", "task.answer_kind"

Row = Mapping[str, Any]
Given = Mapping[str, Any]
"""Settings that the user has typed already: these columns are not guessed."""


def guess_settings(rows: Sequence[Row], given: Given | None = None) -> dict[str, str]:
    """Settings that read these rows, by name, without what is `given`.

    Raises `InputError` where no column, or two, could be meant.
    """
    rows, given = rows[:LOOKED_AT], given or {}
    found = _settings(rows, given)
    return {name: value for name, value in found.items() if name not in given}


def _settings(rows: Sequence[Row], given: Given) -> dict[str, str]:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if talks := [name for name in columns if _is_talk(rows[0].get(name)) and QUESTION not in given]:
        return _conversation(rows, columns, talks, given)
    if {"instruction", "output"} <= set(columns) and not given.keys() & {QUESTION, SOLUTION, GOLD}:
        filled = any(row.get("input") for row in rows)
        question = "{instruction}\n\n{input}" if filled else "instruction"
        found = {QUESTION: question, SOLUTION: "output"}
        return found | _gold_in_solution([str(row.get("output", "")) for row in rows], given)
    question = given.get(QUESTION) or _one(
        columns, QUESTIONS, lambda name: _all(rows, name, _is_text), "question", QUESTION
    )
    rest = [name for name in columns if name != question]
    found = {QUESTION: question}
    if options := _options(rest):
        key = given.get(GOLD) or _one(
            rest, KEYS, lambda name: _all(rows, name, _is_short), "right option", GOLD
        )
        more = {"task.choices_field": options, GOLD: key, KIND: "choice"}
        texts = [name for name in rest if name.lower() in SOLUTIONS and name != key]
        return found | {SOLUTION: texts[0] if texts else ""} | more
    return found | _answer(rows, rest, given)


def _options(columns: Sequence[str]) -> str:
    """The column of all options, or a template of those that hold one each, as `{A}{B}{C}`."""
    if whole := [name for name in columns if name.lower() in OPTIONS]:
        return whole[0]
    alone = {match[1].lower(): name for name in columns if (match := _OPTION.fullmatch(name))}
    letters = "".join(sorted(alone))
    return (
        "".join(f"{{{alone[one]}}}" for one in letters)
        if letters in "abcdefghij" and len(letters) > 1
        else ""
    )


def _answer(rows: Sequence[Row], columns: Sequence[str], given: Given) -> dict[str, str]:
    """Solution and gold of rows without options."""
    own = given.get(SOLUTION)
    known = [name for name in columns if name == own or name.lower() in (*SOLUTIONS, *GOLDS)]
    marked = [name for name in known if _all(rows, name, lambda value: MARKER in str(value))]
    short = [name for name in known if name not in (*marked, own) and _all(rows, name, _is_short)]
    texts = [name for name in known if name not in (*short, *marked) and _all(rows, name, _is_text)]
    gold = given[GOLD] if GOLD in given else "" if marked else _gold_column(rows, columns, short)
    words = [name for name in short if not _all(rows, name, _is_numeric) and not _same(rows, name, gold)]
    solutions = [name for name in marked or texts or words if name != gold]
    if own is None:
        own = _one(solutions, SOLUTIONS, bool, "solution", SOLUTION) if solutions else ""
    found = {SOLUTION: own}
    if gold:
        return found | {GOLD: gold} | _kind([_value(row, gold) for row in rows], given)
    if not own:
        raise _unclear("gold answer", GOLD, columns)
    return found | _gold_in_solution([str(_value(row, own)) for row in rows], given)


def _gold_column(rows: Sequence[Row], columns: Sequence[str], short: Sequence[str]) -> str:
    """The column of the golds, or nothing. Where two could be meant and differ, the user decides."""
    named = [name for name in short if name.lower() in GOLDS]
    gold = (named or [name for name in short if _all(rows, name, _is_numeric)] or [*short, ""])[0]
    if not gold:
        return ""
    numbers = _all(rows, gold, _is_numeric)
    rivals = [
        name
        for name in columns
        if name != gold
        and (
            name in named
            or (numbers and name.lower() in (*SOLUTIONS, *KEYS))
            or (name in short and not named)
        )
        and _all(rows, name, _is_numeric if numbers else _is_short)
        and not _same(rows, name, gold)
    ]
    if rivals:
        raise _unclear("gold answer", GOLD, [gold, *rivals])
    return gold


def _same(rows: Sequence[Row], one: str, other: str) -> bool:
    """Do two columns hold the same golds?"""
    return bool(other) and all(
        plain_number(str(_value(row, one))) == plain_number(str(_value(row, other))) for row in rows
    )


def _kind(values: Sequence[Any], given: Given) -> dict[str, str]:
    """What the golds are: numbers, numbers with a unit, expressions, or numbers and texts."""
    if given.get(KIND, "number") != "number" or PATTERN in given:
        return {}
    golds, found = [western_digits(str(value)).strip() for value in values], {}
    if any("\\" in gold for gold in golds):
        return {KIND: "expression"}
    if not all(map(_is_number, golds)):
        matches = map(NAMED["number-and-unit"].search, golds)
        numbers = [number for match in matches if match and _is_number(number := plain_number(match[1]))]
        if len(numbers) < 0.9 * len(golds):
            return {KIND: MIXED}
        golds, found = numbers, {PATTERN: "number-and-unit"}
    styled = [gold for gold in golds if looks_like_comma(gold)]
    comma = len(styled) > len(golds) / 2 and any("," in gold for gold in styled)
    return found | ({"data.decimal": "comma"} if comma else {})


def _is_number(gold: str) -> bool:
    return kind_for(gold, MIXED) == "number" or looks_like_comma(gold)


def _is_numeric(value: Any) -> bool:
    """A number, perhaps with a unit."""
    text = western_digits(str(value)).strip()
    return not isinstance(value, bool) and NAMED["number-and-unit"].search(text) is not None


def _gold_in_solution(solutions: Sequence[str], given: Given) -> dict[str, str]:
    """How to find the gold in solutions without a column of golds."""
    enough = 0.9 * len(solutions)
    if PATTERN in given or sum(MARKER in text for text in solutions) >= enough:
        return {}
    for name in ("answer-is", "boxed"):
        golds = [match[-1] for text in solutions if (match := NAMED[name].findall(text))]
        if golds and len(golds) >= enough:
            numeric = all(kind_for(plain_number(gold), MIXED) == "number" for gold in golds)
            return {PATTERN: name} | ({} if numeric or name != "boxed" else {KIND: "expression"})
    raise InputError(
        f"no solution says where its answer is: there is no {MARKER}, no column of golds, and no phrase as "
        "'answer is'. Name it with data.gold_field or data.gold_pattern"
    )


def _conversation(
    rows: Sequence[Row], columns: Sequence[str], talks: Sequence[str], given: Given
) -> dict[str, str]:
    """Rows of messages: `messages` (OpenAI, TRL), `prompt` (TRL, verl) or `conversations` (ShareGPT)."""
    roles = {
        name: {turn.get("role", turn.get("from")) for row in rows for turn in row.get(name) or []}
        for name in talks
    }
    asked = next((name for name in talks if roles[name] & {"user", "human"}), talks[0])
    question = f"{asked}.{'user' if 'user' in roles[asked] else 'human'}"
    answers = [f"{name}.{role}" for name in talks for role in ("assistant", "gpt") if role in roles[name]]
    if "system" in roles[asked]:
        question = f"{{{asked}.system}}\n\n{{{question}}}"
    found = {QUESTION: question, SOLUTION: given.get(SOLUTION, answers[0] if answers else "")}
    if GOLD in given and given[GOLD]:
        return found | _kind([_value(row, given[GOLD]) for row in rows], given)
    texts = [text for row in rows if isinstance(text := _value(row, found[SOLUTION]), str)]
    if sum(MARKER in text for text in texts) < 0.9 * len(texts) or not texts:
        inner = {f"{name}.{key}": 0 for row in rows for name in columns for key in _keys(row.get(name))}
        rest = [name for name in (*columns, *inner) if name not in talks]
        golds = [name for name in rest if _last(name) in KEYS and _all(rows, name, _is_short)]
        if golds:
            gold = _gold_column(rows, golds, [name for name in golds if _last(name) in (*GOLDS, "answer")])
            if gold:
                return found | {GOLD: gold} | _kind([_value(row, gold) for row in rows], given)
    if answers and not texts:  # several turns in each row: reading them says so
        return found
    return found | _gold_in_solution(texts, given)


def _keys(value: Any) -> Sequence[str]:
    return list(value) if isinstance(value, Mapping) else []


def _last(name: str) -> str:
    return name.lower().rpartition(".")[2]


def _value(row: Row, name: str) -> Any:
    """The value at a path, None where it ends or is not one."""
    with suppress(KeyError, InputError):
        return pick(row, name)
    return None


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
    headless = any(name.isdecimal() or len(name.split()) > 4 for name in columns)
    header = ". Where the first line is a row already, set task.columns=question,answer" * headless
    return InputError(f"which column is the {what}? ({several}) Say it with {setting}=NAME{header}")


def _is_talk(value: Any) -> bool:
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, Mapping) and bool({"role", "from"} & first.keys())


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_short(value: Any) -> bool:
    """A number or a text of a few words, as golds are and solutions are not."""
    if isinstance(value, list | dict | type(None)) or _SENTENCE.search(str(value)):
        return False
    return len(str(value).split()) <= 4


def _all(rows: Sequence[Row], name: str, test: Callable[[Any], bool]) -> bool:
    """Does the column pass in nearly all rows? Single broken rows are named when all are read."""
    return sum(test(_value(row, name)) for row in rows) >= 0.9 * len(rows)
