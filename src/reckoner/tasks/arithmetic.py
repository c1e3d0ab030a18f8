"""Exact arithmetic on text that a model wrote: nothing is executed and no float is used.

`evaluate` computes one expression in `Fraction`s. `check_steps` finds every calculation of a solution,
GSM8K's `<<48/2=24>>` annotations (Cobbe et al. 2021) as well as plain `48 / 2 = 24`, and says which are
right. All of the 27,998 annotations in GSM8K's own solutions are correct, so a good checker raises no alarm
there.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

MAX_CHARACTERS, MAX_NODES = 100, 50

_LITERAL = r"(?:[0-9]{1,3}(?:,[0-9]{3})++(?![0-9])|[0-9]++)(?:\.[0-9]++)?|\.[0-9]++"
_SIGNS = str.maketrans({"\u2212": "-", "\u2013": "-", "\u2014": "-", "×": "*", "÷": "/", "·": "*", "⋅": "*"})
_TOKEN = re.compile(
    rf"[\s$€£]*+(?:(?P<number>(?:{_LITERAL})(?:[eE][-+]?(?:30|[12]?[0-9])(?![0-9]))?)"
    r"|(?P<operator>//|[-+*/()%])|(?P<times>[xX]|\\times|\\cdot)|(?P<over>\\div))[\s$€£]*+"
)
_RANK = {"(": 0, "+": 1, "-": 1, "*": 2, "/": 2, "//": 2, "negate": 3}
_OPERATIONS: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": lambda left, right: Fraction(left // right),
}


def literal(token: str) -> Fraction:
    """The value of one unsigned decimal literal: "1,450", ".5", "144.00", "1.2e3"."""
    if token.isdecimal():
        return Fraction(int(token))
    mantissa, _, exponent = token.replace(",", "").lower().partition("e")
    whole, _, decimals = mantissa.partition(".")
    return Fraction(int(whole + decimals)) * Fraction(10) ** (int(exponent or 0) - len(decimals))


_WRITTEN = re.compile(rf"(?<![0-9.])(?:{_LITERAL})")


def numbers(text: str) -> list[Fraction]:
    """Every number written in digits, in order, without signs: "$1,200, 5 % and 1/2": 1200, 5, 1, 2.

    Runs of more than 64 characters are left out: no problem speaks of such numbers, and Python refuses to
    read them.
    """
    return [literal(found[0]) for found in _WRITTEN.finditer(text) if len(found[0]) <= 64]


def _tokens(expression: str) -> list[str] | None:
    tokens, at = [], 0
    while at < len(expression):
        match = _TOKEN.match(expression, at)
        if match is None:
            return None
        tokens.append(match["number"] or match["operator"] or ("*" if match["times"] else "/"))
        at = match.end()
    return tokens


def _apply(name: str, values: list[Fraction]) -> bool:
    """Replace the operands on top of `values` by their result; False for a division by zero."""
    right = values.pop()
    if name == "negate":
        values.append(-right)
        return True
    if name in ("/", "//") and not right:
        return False
    values.append(_OPERATIONS[name](values.pop(), right))
    return True


def _compute(tokens: list[str]) -> Fraction | None:
    """Operator precedence by two stacks (Dijkstra's shunting yard); "2(3)" is a product."""
    values: list[Fraction] = []
    waiting, operand_next = ["("], True
    for token in [*tokens, ")"]:
        if not waiting:
            return None
        if operand_next:
            if token[0] in "0123456789.":
                values.append(literal(token))
                operand_next = False
            elif token in ("(", "-"):
                waiting.append("(" if token == "(" else "negate")
            elif token != "+":
                return None
            continue
        if token == "%":
            values[-1] /= 100
            continue
        name = "*" if token == "(" else token
        rank = 0 if token == ")" else _RANK.get(name)
        if rank is None:
            return None
        while waiting[-1] != "(" and _RANK[waiting[-1]] >= rank:
            if not _apply(waiting.pop(), values):
                return None
        if token == ")":
            waiting.pop()
            continue
        waiting += ["*", "("] if token == "(" else [token]
        operand_next = True
    return values[0] if not waiting else None


def evaluate(expression: str) -> Fraction | None:
    """The exact value of a plain arithmetic expression, or None where it is not one; never raises.

    Knows + - * / // x × ÷ parentheses, currency signs, thousands commas and `%` (a hundredth). No powers and
    no names; at most 100 characters and 50 numbers and operators. `evaluate("$1,200/5")` is 240; "1/0" and
    "2**3" give None.
    """
    return _value(expression) if len(expression) <= MAX_CHARACTERS else None


@lru_cache(maxsize=65_536)
def _value(expression: str) -> Fraction | None:
    """`evaluate` without its limit on characters, remembered: arms write the same expressions again."""
    tokens = _tokens(expression.translate(_SIGNS))
    if tokens is None or sum(token not in ("(", ")") for token in tokens) > MAX_NODES:
        return None
    return _compute(tokens)


def format_number(value: Fraction) -> str:
    """The shortest exact text: "12", "0.2", "-3", or "1/3" where the decimal expansion does not end."""
    places, rest = 0, value.denominator
    for prime in (2, 5):
        power = 0
        while rest % prime == 0:
            rest, power = rest // prime, power + 1
        places = max(places, power)
    if rest != 1 or not places:
        return str(value)
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"


LONGEST_OPERAND = 100
"""Characters of an expression, or of its result, that a calculator works on."""

_OPEN = re.compile(rf"<<([^<>=\n]{{1,{LONGEST_OPERAND}}})=\Z")


def annotation_result(text: str) -> str:
    """What a calculator writes behind `text`: "24>>" behind "... <<48/2=", and nothing behind other texts.

    Nothing either where the exact result is no finite decimal, or longer than an expression may be.
    """
    match = _OPEN.search(text)
    value = evaluate(match[1]) if match else None
    result = "/" if value is None else format_number(value)
    return "" if "/" in result or len(result) > LONGEST_OPERAND else f"{result}>>"


@dataclass(frozen=True, slots=True)
class Step:
    """One calculation of a solution; it stands at `text[start:end]`.

    `value` is the exact value of `expression`, or None where there is none to compute (`<<x+56=86>>`).
    `right` says that `written` equals it, up to float noise or rounding to the decimals written.
    """

    start: int
    end: int
    expression: str
    written: str
    value: Fraction | None
    right: bool
    annotated: bool

    @property
    def slip(self) -> bool:
        """True where the calculation is known to be wrong; an unreadable one is neither right nor a slip."""
        return self.value is not None and not self.right


def _agrees(value: Fraction, written: str) -> bool:
    result = evaluate(written)
    if result is None:
        return False
    difference = abs(value - result)
    decimals = len(written.strip(" $%").partition(".")[2]) + 2 * written.count("%")
    unit = Fraction(1, 10**decimals)
    rounded = decimals > 0 and difference <= unit / 2
    cut = decimals > 1 and 0 <= abs(value) - abs(result) < unit
    return rounded or cut or difference <= abs(value) / 10**9


def _holds(expression: str, written: str) -> bool:
    """Do both sides agree, a per cent sign being read as a hundredth or, on both sides, as a mere unit?"""
    for left, right in ((expression, written), (expression.replace("%", ""), written.replace("%", ""))):
        value = evaluate(left)
        if value is not None and _agrees(value, right):
            return True
    return False


_ANNOTATION = re.compile(r"<<([^<>\n]{0,200}+)>>")
_WORDS = {
    "times": "*",
    "cdot": "*",
    "multiplied by": "*",
    "plus": "+",
    "minus": "-",
    "div": "/",
    "divided by": "/",
}
_WORDED = rf"\\?\b(?:{'|'.join(_WORDS)}|of)\b"
# A unit is one to four words ("snakes/jaguar", "green hard hats"). One letter alone is a variable, and " x "
# multiplies.
_UNIT = rf"(?:[ \t]?+(?:/[ \t]?)?+(?<![^\W\d_])(?!{_WORDED})(?:[^\W\d_]['’]?+){{2,30}}+\.?+){{1,4}}+"
_MIXED = r"[0-9]++ (?:and )?[0-9]++/[0-9]++(?![/\d])"
_NUMBER = rf"[$€£]?+[ \t]?+(?:{_MIXED}|{_LITERAL})(?![\d:^²³]|\*\* ?\d|\.\d)%?+(?:{_UNIT}|(?![^\W\d_]))"
_OPERAND = rf"(?:[( \t]{{0,4}}+-?+[( \t]{{0,4}}+{_NUMBER}[) \t]{{0,4}}+)"
_OPERATOR = rf"(?://|[-+*/]|[xX](?=[\s$€£]*+[\d.(])|\\?(?:{'|'.join(_WORDS)})\b|(?<=[\d%] )of\b)"
_EXPRESSION = re.compile(rf"{_OPERAND}(?:{_OPERATOR}{_OPERAND})*+")
_OPERATION = re.compile(r"(?<=[\d.)%$]) ?(?://|[-+*/xX(])")
_RESULT = re.compile(rf"-?\s*+(?:{_LITERAL})%?")
_ANNOTATED_NEXT = re.compile(r"[ \t$]*+\0")
_EQUALS = re.compile(r"[ \t]*+=[ \t]*+[*_`\\$ ]{0,4}+")
# What hides an operand from us, so that two sides that differ prove nothing: "S + 30 + 46 = 76", "half of 4 +
# 6 = 8".
_OPEN_LEFT = re.compile(
    r"(?:\d[) ]+|[-+*/^×÷(=] *|[.,\w]|\b(?:x|of|by|times|minus|plus|half|twice|double|triple) )[^ ]$"
    r"|[\w)] *-$"
)
_OPEN_RIGHT = re.compile(r"[ \t]*+(?:[-+*/^×÷(]|[xX]\b|[a-zA-Z]\b)|[/.,:]?\d|\.\.| \d{3}\b")
_MEASURES = frozenset(
    "second minute hour day week month year decade inch foot feet yard mile centimeter meter kilometer "
    "ounce pound ton gram kilogram milligram cup pint quart gallon liter milliliter teaspoon tablespoon "
    "cent penny pennies nickel dime quarter dollar dozen score pair percent $ cm km kg ml oz lb ft".split()
)


def check_steps(text: str) -> list[Step]:
    """The calculations in `text` in order, each once: `12/60 = $<<12/60=0.2>>0.2` is one annotated step.

    Units, `$` and commas are read past. A plain calculation that may be part of something larger (a variable,
    a change of unit) is listed only where it holds. Linear in the length of `text`.
    """
    return list(_steps(text))


def expressions(text: str) -> tuple[str, ...]:
    """What a solution calculates, without spaces: two solutions with the same ones take the same way."""
    return tuple("".join(step.expression.split()) for step in check_steps(text))


@lru_cache(maxsize=32_768)
def _steps(text: str) -> tuple[Step, ...]:
    """Remembered, because an analysis asks for the same completions and solutions many times."""
    steps = [_annotated(note) for note in _ANNOTATION.finditer(text)]
    masked = _ANNOTATION.sub(lambda note: "\0" * len(note[0]), text).translate(_SIGNS)
    for left, right in pairwise(_EXPRESSION.finditer(masked)):
        if _EQUALS.fullmatch(masked, left.end(), right.start()):
            steps += _plain(masked, left, right)
    return tuple(sorted(steps, key=lambda step: step.start))


def _annotated(note: re.Match[str]) -> Step:
    expression, *results = note[1].split("=")
    readable = bool(results) and all(evaluate(result) is not None for result in results)
    value = evaluate(expression) if readable else None
    right = readable and all(_holds(expression, result) for result in results)
    return Step(note.start(), note.end(), expression, results[-1] if results else "", value, right, True)


def _plain(text: str, left: re.Match[str], right: re.Match[str]) -> list[Step]:
    """The step `left = right`, or nothing: no operation, annotated just behind, or not the whole story."""
    expression, result = _bare(left[0]), _bare(right[0])
    if _OPERATION.search(expression) is None or _ANNOTATED_NEXT.match(text, right.end()):
        return []
    value, first = evaluate(expression), _RESULT.match(result)
    sides = (first[0], result) if first else (result,)
    written = next((side for side in sides if _holds(expression, side)), None)
    hidden = evaluate(result) is None or _OPERATION.search(result) or _open_ended(text, left, right)
    if value is None or (written is None and hidden):
        return []
    start = left.end() - len(left[0].lstrip())
    end = right.start() + max(right[0].rfind(character) for character in "0123456789%)") + 1
    return [Step(start, end, expression, written or result, value, written is not None, False)]


def _bare(side: str) -> str:
    """One side of an equation without units, words and unmatched parentheses, fractions in parentheses."""
    text = re.sub(_WORDED, lambda word: _WORDS.get(word[0].lstrip("\\"), "*"), side)
    text = re.sub(_UNIT, "", text)
    text = re.sub(_MIXED, lambda mixed: f"({'+'.join(re.split(r' (?:and )?', mixed[0]))})", text)
    if "/ " in text or " /" in text:
        text = re.sub(r"(?<![\d/(])([0-9]++/[0-9]++)(?![\d/])", r"(\1)", text)
    text = text.strip(" \t$€£")
    excess = text.count("(") - text.count(")")
    return text.removeprefix("(" * excess).removesuffix(")" * -excess).strip(" \t$€£")


def _open_ended(text: str, left: re.Match[str], right: re.Match[str]) -> bool:
    """May the equation be part of something larger, or change its unit on the way?"""
    start = left.end() - len(left[0].lstrip())
    words = set(re.findall(r"[a-z]+|\$", (left[0] + right[0]).lower()))
    measures = [unit for unit in _MEASURES if not words.isdisjoint((unit, unit + "s", unit + "es"))]
    before = _OPEN_LEFT.search(text[max(0, start - 12) : start + 1])
    return bool(before or _OPEN_RIGHT.match(text, right.end())) or len(measures) > 1
