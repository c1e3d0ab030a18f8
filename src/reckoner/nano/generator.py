"""The interpreter of the embedded problems: a chain of relations, which are data, and a seed make a problem.

`relations/README.md` describes the form of a relation. A relation never writes a result: the sentence of a
step holds an expression in square brackets, which is computed exactly and written as GSM8K does, so that
`How many pens? ** She buys [{n}*3] pens.` becomes `She buys 4*3=<<4*3=12>>12 pens.` A draw that breaks a
rule is `Unsound`, and the chain is drawn again: a result that is no integer or too small, a condition that
does not hold, an answer that the question already contains. Numbers follow most GSM8K solutions: `1450` in
annotations, sentences and answers, while a question writes `1,450`.
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
_RANGE = re.compile(r"(.+)\.\.(.+?)(?: step (.+))?(?: of (.+))?")
_SIMPLE = re.compile(r"(-?\d+)([-+*/])(\d+)")
_STEP = re.compile(r"(.+\?) \*\* ([^\[]*?)(\$?)\[([^\]]+)\]([^\[\]]*)")

Compute = Callable[[Any], Any]
"""A function of the values of names."""


class Unsound(Exception):
    """A draw broke a rule."""


@dataclass(frozen=True, slots=True)
class Story:
    """A question, its steps as (sub-question, sentence), its answer, and whether a sentence distracts."""

    question: str
    steps: tuple[tuple[str, str], ...]
    answer: int
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
    """The values of names so far: numbers and texts."""

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
def _range(source: str) -> tuple[Compute, Compute, Compute, Compute | None]:
    if not (match := _RANGE.fullmatch(source)):
        raise Fault(f"{source!r} is neither a range nor a group of words")
    least, most, step, multiple = match.groups()
    divided = expression(multiple) if multiple else None
    return expression(least), expression(most), expression(step or "1"), divided


class Attempt:
    """One try to tell a chain of relations; every choice is a function of `seed` alone, on any machine.

    `x`, the quantity at hand, and `a`, its person, pass from relation to relation. A relation that draws
    another person `b` hands the story over: `p` and `y` are then the person and the quantity before.
    """

    def __init__(self, world: World, seed: str) -> None:
        digest = hashlib.sha256(seed.encode()).digest()
        self._bits = random.Random(int.from_bytes(digest[:8], "big")).getrandbits
        self._groups, self._left = world.groups, dict[str, list[Mapping[str, str]]]()
        self.values = _Values(world.tables)
        self.sentences: list[str] = []
        self.steps: list[tuple[str, str]] = []

    def below(self, n: int) -> int:
        """An integer from 0 to n - 1, from 32 bits of the Mersenne Twister, whose output Python fixes."""
        return self._bits(32) * n >> 32

    def pick(self, options: Sequence[Any]) -> Any:
        """One of the options, or `Unsound` where there is none."""
        if not options:
            raise Unsound
        return options[self.below(len(options))]

    def number(self, source: str) -> int:
        """An integer of the range `2..9`, `10..60 step 5` or `2..9 of x`, which keeps the divisors of x."""
        least, most, step, multiple = _range(source)
        numbers: Sequence[int] = range(least(self.values), most(self.values) + 1, step(self.values))
        if multiple:
            numbers = [n for n in numbers if multiple(self.values) % n == 0]
        return self.pick(numbers)

    def draw(self, names: str, source: Any) -> None:
        """Give the names (`a, b`) values: of a list, a range, or a group of words (no repetition)."""
        if isinstance(source, list):
            self.values[names] = self.pick(source)
        elif source in self._groups:
            for key in names.split(", "):
                left = self._left.setdefault(source, list(self._groups[source]))
                if not left:
                    raise Fault(f"{names}: {source} has too few words")
                word = left.pop(self.below(len(left)))
                self.values |= {key + form: text for form, text in word.items()}
        else:
            self.values[names] = self.number(source)

    def step(self, name: str, source: str, least: int) -> None:
        """Compute an integer from `least` up; a plural follows, so that it is never -1, 0 or 1."""
        ask, before, currency, calculation, after = _step(source)
        written = calculation(self.values)
        result: Any = evaluate(written)
        if result.denominator != 1 or not least <= result <= LARGEST or abs(result) < 2:
            raise Unsound
        said = f"{before(self.values)}{written}={currency}<<{written}={int(result)}>>{int(result)}"
        self.steps.append((ask(self.values), said + after(self.values)))
        self.values[name] = int(result)

    def relate(self, relation: Mapping[str, Any]) -> None:
        """Draw the values of a relation, compute its steps, and say it; its person is the next one's."""
        values = self.values
        for names, source in relation.get("draw", {}).items():
            self.draw(names, source)
        if not all(expression(source)(values) for source in relation.get("require", ())):
            raise Unsound
        if sentences := relation.get("say"):
            self.sentences.append(_writer(self.pick(sentences))(values))
        x = values.get("x")
        for name, source in relation.get("steps", {}).items():
            self.step(name, source, relation.get("least", 2))
        if "b" in relation.get("draw", {}):
            values |= {"y": x, "p": values["a"]}
            values |= {f"a{form}": values[f"b{form}"] for form in self._groups["person"][0]}


def tell(world: World, template: str, seed: str) -> Story:
    """The story of `seed` in a template: the first sound attempt. Raises `InputError` for faulty data."""
    try:
        for number in range(ATTEMPTS):
            with suppress(Unsound):
                return attempt(world, world.templates[template], f"{template}/{seed}/{number}")
        raise Fault("no draw fits its own rules")
    except Fault as fault:
        raise InputError(f"template {template}: {fault}") from fault


def attempt(world: World, path: Sequence[str], seed: str) -> Story:
    """One try, or `Unsound`. The last step's result is the answer, which the question does not contain."""
    found = Attempt(world, seed)
    values, last = found.values, world.relations[path[-1]]
    for name in path:
        found.relate(world.relations[name])
    sentences = found.sentences
    facts = next((i for i, name in enumerate(path) if not world.relations[name].get("fact")), len(path))
    if found.below(5) == 0:
        sentences[:facts] = sentences[:facts][::-1]
    kinds = [world.kinds[kind] for name in path if (kind := world.relations[name].get("to"))]
    asides = kinds[0].get("aside", ())
    if distractor := bool(asides) and found.below(7) == 0:
        aside = found.pick(asides)
        values |= {p: found.number(p) for p in _PLACEHOLDER.findall(aside) if ".." in p}
        sentences.insert(1 + found.below(len(sentences)), _writer(aside)(values))
    sentences.append(_writer(found.pick(last.get("ask") or kinds[-1]["ask"]))(values))
    question = " ".join(sentences)
    if values["x"] in numbers_in(question):
        raise Unsound
    question = _LONG.sub(lambda match: f"{int(match[0]):,}", question)
    if found.below(5) == 0:
        question = _WORDABLE.sub(_worded, question)
    return Story(question, tuple(found.steps), values["x"], distractor)


def _worded(match: re.Match[str]) -> str:
    word = list(_NUMERALS)[int(match[2]) - 2]
    return word if match[1] is None else match[1] + word.capitalize()


def numbers_in(text: str) -> list[int]:
    """The integers that a text contains, in digits or as one of the words `two` to `twelve`."""
    found = (match.lower() for match in _NUMBER.findall(text))
    return [_NUMERALS.get(word) or int(word.replace(",", "")) for word in found]
