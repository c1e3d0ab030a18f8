"""A problem with other numbers in question, solution and gold, where the role of every number is certain.

Numbers are matched by their values. So a value that changes must stand for one quantity alone: one number of
the question, or one result. Everything else that has a value (words, percentages, fractions, conversion
factors) stays. What is new keeps the kind and the order of what was there: an integer stays an integer, and
of two values the greater one stays the greater one. A problem of which this cannot be said is left out.

Source: GSM-Symbolic (2410.05229), which has templates written by hand where this has rules.
"""

from __future__ import annotations

import ast
import operator
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from reckoner.analysis.quantities import FACTORS, conversions, mentioned
from reckoner.runs.records import Problem
from reckoner.tasks.answers.number import gold_number
from reckoner.tasks.arithmetic import check_steps, evaluate, format_number, literal

DRAWS = 300
"""Sets of new numbers that are tried for a problem before it is left out; later ones change fewer numbers."""

_TOKEN = re.compile(r"(?<![\w.,])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?!\w)|(?<![\w.])\.\d+(?!\w)")
_FRACTION = re.compile(r"(?<![\w./])(\d+)/(\d+)(?![\w/])")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)[ -]*(?:%|percent)")
_PLAIN = re.compile(r"[\d.+\-*/() ]+")
_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_TWO = re.compile(r"\b(?:twice|doubl\w+|both|pairs?|couples?|alternat\w+|every other)\b", re.IGNORECASE)
_UNIT = (
    "(?:gallon|quart|pint|cup|pound|ounce|ton|kilogram|kg|gram|liter|inch|foot|yard|mile|meter|kilometer|"
    "dozen|tablespoon|teaspoon)"
)
_UNCERTAIN = {
    "a clock time or a date": r"\d:\d|\d *[ap]\.?m\b|o'clock|noon|midnight|\b(?:1[5-9]|20)\d\d\b(?!\.\d)|"
    r"\b(?:Jan|Febr)uary\b|\b(?:March|April|May|June|July|August) \d|\b(?:Septem|Octo|Novem|Decem)ber\b|"
    r"\d(?:st|nd|rd|th)\b",
    "a compound number word": r"\b(?:hundred|thousand|million|billion)|ty[- ](?:one|two|three|four|five|six|"
    r"seven|eight|nine)\b|\band a (?:half|third|quarter)|\d \d+/\d",
    "a property of a number": r"\b(?:odd|even numbers?|primes?|multiples?|factors?|divisi\w+|digits?|"
    r"remainders?|round\w*|nearest|consecutive|squared?|cubed?|averag\w+|mean|median)\b",
    "a choice of the best": r"\b(?:cheap\w*|best|maxim\w+|minim\w+|at least|at most|fewest|optimal\w*)\b",
    "a unit that the question explains": r"\b(?:penn(?:y|ies)|nickels?|dimes?|quarters?|same value|"
    rf"equals? to)\b|(?i:\b(?:an?|one|1|each|every|per) {_UNIT}\b[^.,?]{{0,30}} "
    r"(?:is|equals?|weighs?|has|contains?|makes?)\b|"
    rf"\b(?:in|to) (?:an?|one|1|each|every) {_UNIT}\b)",
    "a letter or a sign of algebra": r"(?<!['’.])\b[b-zB-HJ-Z]\b(?!['’.])|[<>≤≥]",
}
_LABELLED = re.compile(
    r"(?:\b(?:an?|grades?|sizes?|levels?|pages?|chapters?|rooms?|floors?|numbers?|days?|weeks?|months?|"
    r"years?|episodes?|class|routes?|steps?|parts?|no\.|between|from)|#|"
    r"\b[A-Z][\w'.]*|\d *(?:to|or|and|-)) *$"
)
_BOUND = re.compile(
    r"-|\.\d| *(?:%|/|percent|to \d|or \d)|"
    r" [\w ]{1,30}(?:[:(]|, [A-Z])|"
    r" (?:\w+ )?(?:legs?|wheels?|sides?|corners?|eyes|arms|fingers|toes|petals|seasons|suits|degrees)\b"
)


class LeftOut(Exception):
    """Why a problem gets no other numbers."""


@dataclass(frozen=True)
class _Step:
    """One written step: the tree of its expression, and its result."""

    tree: ast.expr
    result: Fraction


def other_numbers(problem: Problem, seed: int = 0) -> Problem:
    """The problem with other numbers in question, solution and gold. Raises `LeftOut`."""
    steps = _written_steps(problem)
    free, fixed = _roles(problem, steps)
    before, _ = _trace(steps, {})
    generator = random.Random(f"{seed} {problem.id}")
    for turn in range(DRAWS):
        drawn = {
            one: Fraction(generator.choice(_near(int(one))))
            for one in free
            if generator.random() >= turn / DRAWS
        }
        try:
            after, known = _trace(steps, drawn)
        except ZeroDivisionError:
            continue
        kept = [drawn.get(one, one) for one in free]
        if drawn and _alike([*free, *before, *fixed], [*kept, *after, *fixed]):
            gold = format_number(known[gold_number(problem.gold)])
            question, solution = (_put(text, known) for text in (problem.question, problem.solution))
            return replace(problem, question=question, solution=solution, gold=gold)
    raise LeftOut("no other numbers keep kind and order")


def certain_numbers(problem: Problem) -> set[Fraction]:
    """The numbers of the question that stand for one quantity alone. Raises `LeftOut` where none does."""
    return set(_roles(problem, _written_steps(problem))[0])


def _written_steps(problem: Problem) -> list[_Step]:
    """The annotated calculations, each exact; the last gives the gold."""
    steps = check_steps(problem.solution)
    noted = [step for step in steps if step.annotated]
    if not noted or noted[-1].value != gold_number(problem.gold):
        raise LeftOut("steps that do not give the gold")
    if len(noted) < len(steps) or not all(step.right for step in steps):
        raise LeftOut("a step that is wrong or not annotated")
    found = []
    for step in noted:
        expression = re.sub("[,$]", "", step.expression).strip()
        if not _PLAIN.fullmatch(expression) or not re.search(r"\d *[-+*/]", expression):
            raise LeftOut("a step that is no plain calculation")
        if step.value is None or evaluate(step.written) != step.value or step.value <= 0:
            raise LeftOut("a result that is rounded or not positive")
        try:
            found.append(_Step(ast.parse(expression, mode="eval").body, step.value))
        except SyntaxError as error:
            raise LeftOut("a step that is no plain calculation") from error
    return found


def _roles(problem: Problem, steps: Sequence[_Step]) -> tuple[list[Fraction], list[Fraction]]:
    """The numbers of the question that may change, and all other values that are no results."""
    question, solution = problem.question, problem.solution
    prose = re.sub(r"(?<=[\d)]) *[xX] *(?=[\d($])", " ", re.sub(r"<<.*?>>", " ", solution))
    text = f"{question}\n{prose}"
    for reason, pattern in _UNCERTAIN.items():
        if re.search(pattern, text):
            raise LeftOut(reason)
    if "=" in question or re.search(r"\d", _TOKEN.sub("", text)):
        raise LeftOut("a number that is not plain")
    tokens, parts = list(_TOKEN.finditer(question)), _parts(question)
    given = Counter(literal(token[0]) for token in tokens)
    words = mentioned(_TOKEN.sub("", text)) | ({Fraction(2)} if _TWO.search(text) else set())
    explained = {*given, *words, *parts, *_factors(text), Fraction(1)}
    results, used = _check_steps(steps, explained)
    if set(given) - used - parts - {1}:
        raise LeftOut("a number of the question that no step uses")
    stated = words | parts | set(map(Fraction, conversions(text))) | {Fraction(0), Fraction(1)}
    if results & (set(given) | stated):
        raise LeftOut("a result that equals another number")
    if {literal(token[0]) for token in _TOKEN.finditer(prose)} - explained - results:
        raise LeftOut("a number in the solution's words that is in no step")
    stated |= _addends(steps)
    free = [literal(one[0]) for one in tokens if given[literal(one[0])] == 1 and _may_change(one, stated)]
    if not free:
        raise LeftOut("no number whose role is certain")
    return free, sorted((set(given) | stated) - set(free))


def _check_steps(steps: Sequence[_Step], known: set[Fraction]) -> tuple[set[Fraction], set[Fraction]]:
    """The results, and the operands that are no results. Each operand must be known when it is used."""
    results, used = set[Fraction](), set[Fraction]()
    for step in steps:
        for node in ast.walk(step.tree):
            if isinstance(node, ast.Constant) and (value := _value(node)) not in results:
                used.add(value)
        if step.result in results:
            raise LeftOut("a result that equals another number")
        results.add(step.result)
    if used - known:
        raise LeftOut("a number in the steps that the question does not give")
    return results, used


def _addends(steps: Sequence[_Step]) -> set[Fraction]:
    """How many numbers each step adds: a number of people or days may be the length of a list."""
    sums = (sum(isinstance(node, ast.Add) for node in ast.walk(step.tree)) for step in steps)
    return {Fraction(count + 1) for count in sums if count}


def _may_change(token: re.Match[str], stated: set[Fraction]) -> bool:
    """Whether a number of the question is a whole quantity by itself, which no word or unit names too."""
    before, behind = token.string[: token.start()], token.string[token.end() :]
    plain = token[0].isdecimal() and len(token[0]) <= 6 and literal(token[0]) not in stated
    return plain and not _LABELLED.search(before) and not _BOUND.match(behind)


def _factors(text: str) -> set[Fraction]:
    """Factors between two units that are both named."""
    words = {form for word in re.findall(r"[a-z]+|[$%]", text.lower()) for form in (word, word.rstrip("s"))}
    named = {factor: words & set(units.split()) for factor, units in FACTORS.items()}
    found = {Fraction(factor) for factor, units in named.items() if len(units) > 1}
    return found | ({Fraction(100)} if "percent" in words or "%" in words else set())


def _parts(question: str) -> set[Fraction]:
    """What follows from the percentages and fractions of a question alone."""
    found = set[Fraction]()
    for match in _FRACTION.finditer(question):
        over, under = int(match[1]), int(match[2])
        if under:
            found |= {*map(Fraction, (over, under, abs(under - over))), Fraction(over, under)}
            found.add(abs(1 - Fraction(over, under)))
    for match in _PERCENT.finditer(question):
        share = literal(match[1])
        found |= {share, abs(100 - share), 100 + share, share / 100, abs(1 - share / 100), 1 + share / 100}
        found.add(Fraction(100))
    return found


def _near(number: int) -> list[int]:
    """Other numbers of about the same size that are as round."""
    unit = next(unit for unit in (1000, 500, 100, 50, 10, 5, 1) if number % unit == 0 and number > unit)
    reach = max(2, number // unit // 2) * unit
    return [one for one in range(max(unit, number - reach), number + reach + 1, unit) if one != number]


def _trace(
    steps: Sequence[_Step], drawn: Mapping[Fraction, Fraction]
) -> tuple[list[Fraction], dict[Fraction, Fraction]]:
    """The values of all parts of all steps with `drawn` numbers, and every new value by the old one."""
    known, values = dict(drawn), list[Fraction]()
    for step in steps:
        values += (found := _values(step.tree, known))
        known[step.result] = found[-1]
    return values, known


def _values(node: ast.expr, known: Mapping[Fraction, Fraction]) -> list[Fraction]:
    """The values of all parts of an expression; its own is the last."""
    if isinstance(node, ast.Constant):
        return [known.get(_value(node), _value(node))]
    if isinstance(node, ast.BinOp) and (apply := _OPERATIONS.get(type(node.op))):
        left, right = _values(node.left, known), _values(node.right, known)
        return [*left, *right, apply(left[-1], right[-1])]
    raise LeftOut("a step that is no plain calculation")


def _value(node: ast.Constant) -> Fraction:
    return Fraction(str(node.value))


def _alike(before: Sequence[Fraction], after: Sequence[Fraction]) -> bool:
    """Whether the values are in the same order, and none has more decimals than before."""
    return _ranks(before) == _ranks(after) and all(
        (new * 10 ** len(format_number(old).partition(".")[2])).denominator == 1
        for old, new in zip(before, after, strict=True)
        if "/" not in format_number(old)
    )


def _ranks(values: Iterable[Fraction]) -> list[int]:
    values = list(values)
    place = {value: number for number, value in enumerate(sorted(set(values)))}
    return [place[value] for value in values]


def _put(text: str, known: Mapping[Fraction, Fraction]) -> str:
    """The text with its numbers replaced; one that stays is written as it was."""

    def new(match: re.Match[str]) -> str:
        old = literal(match[0])
        return match[0] if known.get(old, old) == old else format_number(known[old])

    return _TOKEN.sub(new, text)
