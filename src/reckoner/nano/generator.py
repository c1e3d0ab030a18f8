"""The interpreter of the embedded problems: a template, which is data, and a seed become a problem.

`templates/README.md` describes the form of a template. A template never writes a result: the sentence of a
step holds an expression in square brackets, which is computed exactly and written as GSM8K does, so that
`How many pens? ** She buys [{n}*3] pens.` becomes `She buys 4*3=<<4*3=12>>12 pens.` A draw that breaks a
rule is `Unsound`, and the template is drawn again: a result that is no integer or too small, a condition
that does not hold, an answer that the question already contains. Numbers follow most GSM8K solutions:
`1450` in annotations, sentences and answers, while a question writes `1,450`.
"""

from __future__ import annotations

import ast
import hashlib
import operator
import random
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache
from typing import Any

from reckoner.errors import InputError
from reckoner.nano.world import Fault, World

LARGEST, ATTEMPTS = 99_999, 10_000
_NUMERALS = {
    word: n for n, word in enumerate("two three four five six seven eight nine ten eleven twelve".split(), 2)
}
_NUMBER = re.compile(rf"\d+(?:,\d{{3}})*|\b(?:{'|'.join(_NUMERALS)})\b", re.IGNORECASE)
_LONG = re.compile(r"\d{4,}")
_WORDABLE = re.compile(r"(^|[.?] )?(?<![\d$:,./-])\b([2-9]|1[0-2])\b(?![\d%:/-]|[,.]\d| [ap]\.m)")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_NAME = re.compile(r"[a-z_][a-z_0-9]*(?:\.\w+)?|[^|]+\.\.[^|]+")
_RANGE = re.compile(r"(.+)\.\.(.+?)(?: step (.+))?")
_SIMPLE = re.compile(r"(-?\d+)([-+*/])(\d+)")
_STEP = re.compile(r"(.+\?) \*\* ([^\[]*?)(\$?)\[([^\]]+)\]([^\[\]]*)")

Compute = Callable[[Any], Any]
"""A function of the values of a template's names."""


class Unsound(Exception):
    """A draw broke a rule of its template."""


@dataclass(frozen=True, slots=True)
class Story:
    """A question, its steps as (sub-question, sentence), its exact answer, and which surface form it has."""

    question: str
    steps: tuple[tuple[str, str], ...]
    answer: int
    form: int
    forms: int
    distractor: bool

    def solution(self, variant: str, first: int = 0) -> str:
        """The `main` or `socratic` solution in GSM8K's form, from step `first` to its line `#### answer`."""
        lines = [f"{ask} ** {say}" if variant == "socratic" else say for ask, say in self.steps[first:]]
        return "\n".join([*lines, f"#### {self.answer}"])


def _divide(left: Any, right: Any) -> int | Fraction:
    if not right:
        raise Unsound
    return Fraction(left) / right if left % right else left // right


_OPERATORS: dict[Any, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: _divide,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Eq: operator.eq, ast.NotEq: operator.ne,
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": _divide, "min": min, "max": max,
}  # fmt: skip


@cache
def expression(source: str) -> Compute:
    """The exact function of `source`: names, integers, `+ - * / // %`, a comparison, `min`, `max`."""
    try:
        return _compute(ast.parse(source.strip(), mode="eval").body, source)
    except SyntaxError as error:
        raise Fault(f"{source!r} cannot be computed") from error


def _compute(node: ast.AST, source: str) -> Compute:
    match node:
        case ast.Constant(value=int() as number):
            return lambda values: number
        case ast.Name(id=name):
            return operator.itemgetter(name)
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            negated = _compute(inner, source)
            return lambda values: -negated(values)
        case (
            ast.BinOp(left=left, op=sign, right=right)
            | ast.Compare(left=left, ops=[sign], comparators=[right])
            | ast.Call(func=ast.Name(id=sign), args=[left, right])
        ) if apply := _OPERATORS.get(sign if isinstance(sign, str) else type(sign)):
            a, b = _compute(left, source), _compute(right, source)
            return lambda values: apply(a(values), b(values))
    raise Fault(f"{source!r} cannot be computed")


@lru_cache(maxsize=65_536)
def evaluate(calculation: str) -> int | Fraction:
    """The exact value of a calculation with numbers alone, such as `12*5`."""
    if match := _SIMPLE.fullmatch(calculation):
        return _OPERATORS[match[2]](int(match[1]), int(match[3]))
    return expression.__wrapped__(calculation)(_Values())


class _Values(dict[str, Any]):
    """The values of a template's names so far: numbers and texts."""

    def __missing__(self, name: str) -> Any:
        raise Fault(f"{name} has no value")


@cache
def _writer(source: str) -> Compute:
    """The function that writes a text with its placeholders filled in."""
    pieces = _PLACEHOLDER.split(source)
    if len(pieces) == 1:
        return lambda values: source
    frame, places = "%s".join(piece.replace("%", "%%") for piece in pieces[::2]), pieces[1::2]
    if all(_NAME.fullmatch(place) for place in places):
        names = operator.itemgetter(*places)
        return lambda values: frame % names(values)
    shown = [_placeholder(place) for place in places]
    return lambda values: frame % tuple([show(values) for show in shown])


def _placeholder(source: str) -> Compute:
    """What stands in braces: a name, a form of a word, an expression, or a number with the words to it."""
    head, *words = source.split("|")
    if len(words) == 2:
        number = expression(head)
        return lambda values: words[number(values) != 1]
    last = words[0] if words else head
    if last[:1].isupper():
        small = _placeholder(source.removesuffix(last) + last.lower())
        return lambda values: (text := str(small(values)))[:1].upper() + text[1:]
    if words:
        number, table = expression(head), f"|{words[0]}"
        return lambda values: _words_for(number(values), values[table])
    return operator.itemgetter(head) if _NAME.fullmatch(head) else expression(head)


def _words_for(number: int, table: Mapping[Any, str]) -> str:
    if (words := table.get(number, table.get("other"))) is None:
        raise Fault(f"the table {table} has no words for {number}")
    return words.replace("#", str(number))


@cache
def _step(source: str) -> tuple[Compute, Compute, str, Compute, Compute]:
    """The sub-question; the sentence before the expression, the currency, the expression, what follows."""
    if not (match := _STEP.fullmatch(source)):
        raise Fault(f"{source!r} is not a step: 'question? ** sentence with one [expression].'")
    ask, before, currency, calculation, after = match.groups()
    return _writer(ask), _writer(before), currency, _writer(calculation), _writer(after)


@cache
def _range(source: str) -> list[Compute]:
    if not (match := _RANGE.fullmatch(source)):
        raise Fault(f"{source!r} is neither a range nor a group of words")
    return [expression(part or "1") for part in match.groups()]


class Attempt:
    """One try to fill a template; every choice is a function of `seed` alone, on any machine."""

    def __init__(self, world: World, seed: str) -> None:
        digest = hashlib.sha256(seed.encode()).digest()
        self._bits = random.Random(int.from_bytes(digest[:8], "big")).getrandbits
        self._groups, self._left = world.groups, dict[str, list[Mapping[str, str]]]()
        self.values = _Values(world.tables, aside="")
        self.steps: list[tuple[Compute, Compute, str, Compute]] = []
        self.answer = 0

    def below(self, n: int) -> int:
        """An integer from 0 to n - 1, from 32 bits of the Mersenne Twister, whose output Python fixes."""
        return self._bits(32) * n >> 32

    def number(self, source: str) -> int:
        """An integer of the range `2..9` or `10..60 step 5`, both ends included."""
        least, most, step = [compute(self.values) for compute in _range(source)]
        if most < least:
            raise Fault(f"the range {source} is empty")
        return least + step * self.below((most - least) // step + 1)

    def pick(self, options: Sequence[Any]) -> Any:
        """One of the options."""
        return options[self.below(len(options))]

    def draw(self, names: str, source: Any) -> None:
        """Give the names (`a, b`) random values of a list, a range, or a group of words (no repetition)."""
        keys = names.split(", ")
        if isinstance(source, list):
            option = self.pick(source)
            parts = option if isinstance(option, list) else [option]
            if len(parts) != len(keys) or not {*map(type, parts)} <= {str, int}:
                raise Fault(f"{names}: {option!r} does not hold one text or integer for each name")
            for key, part in zip(keys, parts, strict=True):
                self.values[key] = _writer(part)(self.values) if isinstance(part, str) else part
        elif source in self._groups:
            left = self._left.setdefault(source, list(self._groups[source]))
            if len(keys) > len(left):
                raise Fault(f"{names}: {source} has too few words")
            for key in keys:
                word = left.pop(self.below(len(left)))
                self.values |= {key + form: text for form, text in word.items()}
        else:
            self.values[names] = self.number(source)

    def step(self, name: str, source: str, least: int) -> None:
        """Compute an integer from `least` up. A plural follows: only a `least` of 1 admits 1, 0 or -1."""
        ask, before, currency, calculation, after = _step(source)
        written = calculation(self.values)
        result: Any = evaluate(written)
        if result.denominator != 1 or not least <= result <= LARGEST or abs(result) < min(2, abs(least)):
            raise Unsound
        self.values[name] = self.answer = result = int(result)
        self.steps.append((ask, before, f"{written}={currency}<<{written}={result}>>{result}", after))

    def run(self, block: Mapping[str, Any], least: int) -> None:
        """Do what a template or one of its cases says: draws, values, steps, conditions, texts, a case."""
        for names, source in block.get("draw", {}).items():
            self.draw(names, source)
        for name, source in block.get("let", {}).items():
            self.values[name] = expression(source)(self.values)
        for name, source in block.get("steps", {}).items():
            self.step(name, source, least)
        if not all(expression(source)(self.values) for source in block.get("require", ())):
            raise Unsound
        for name, source in block.get("text", {}).items():
            self.values[name] = _writer(source)(self.values)
        if cases := block.get("either"):
            condition = block.get("whether")
            case = expression(condition)(self.values) if condition else self.below(len(cases))
            self.run(cases[case], least)

    def aside(self, sentences: Sequence[str]) -> bool:
        """Half of the time `{aside}` becomes a sentence with a number that the solution does not need."""
        drawn = [{p: self.number(p) for p in _PLACEHOLDER.findall(s) if ".." in p} for s in sentences]
        if not sentences or self.below(2):
            return False
        chosen = self.below(len(sentences))
        self.values |= drawn[chosen]
        self.values["aside"] = " " + _writer(sentences[chosen])(self.values)
        return True


def tell(world: World, name: str, seed: str) -> Story:
    """The story of `seed` in a template: the first sound attempt. Raises `InputError` for faulty data."""
    template = world.templates[name]
    try:
        for number in range(ATTEMPTS):
            with suppress(Unsound):
                return attempt(world, template.data, f"{name}/{seed}/{number}")
        raise Fault("no draw fits its own rules")
    except Fault as fault:
        raise InputError(f"{template.where}: template {name}: {fault}") from fault


def attempt(world: World, data: Mapping[str, Any], seed: str) -> Story:
    """One try, or `Unsound`. The last step's result is the answer, and one of the forms is the question."""
    found, forms = Attempt(world, seed), data["forms"]
    values = found.values
    found.run(data, data.get("least", 2))
    if not found.steps:
        raise Fault("it has no steps")
    distractor = found.aside(data.get("aside", ()))
    form = found.below(len(forms))
    question = _writer(forms[form])(values)
    if found.answer in numbers_in(question):
        raise Unsound
    question = _LONG.sub(lambda match: f"{int(match[0]):,}", question)
    if found.below(5) == 0:
        question = _WORDABLE.sub(_worded, question)
    steps = tuple(
        (ask(values), before(values) + said + after(values)) for ask, before, said, after in found.steps
    )
    return Story(question, steps, found.answer, form, len(forms), distractor)


def _worded(match: re.Match[str]) -> str:
    word = list(_NUMERALS)[int(match[2]) - 2]
    return word if match[1] is None else match[1] + word.capitalize()


def numbers_in(text: str) -> list[int]:
    """The integers that a text contains, in digits or as one of the words `two` to `twelve`."""
    found = (match.lower() for match in _NUMBER.findall(text))
    return [_NUMERALS.get(word) or int(word.replace(",", "")) for word in found]
