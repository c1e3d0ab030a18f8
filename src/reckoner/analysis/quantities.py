"""Which numbers a question gives: in digits, in words, as parts, and as factors between its units."""

from __future__ import annotations

import re
from fractions import Fraction

from reckoner.tasks.arithmetic import evaluate, numbers

FACTORS: dict[int, str] = {
    3: "foot feet yard",
    4: "quart gallon",
    7: "day week",
    10: "millimeter centimeter mm cm dime",
    12: "inch foot feet month year dozen",
    16: "ounce pound oz lb",
    24: "hour day",
    25: "quarter cent",
    30: "day month",
    36: "inch yard",
    52: "week year",
    60: "second minute hour",
    100: "cent dollar $ percent % centimeter meter cm",
    365: "day year",
    1000: "gram kilogram milligram meter kilometer milliliter liter kg km ml ton",
    1440: "minute day",
    3600: "second hour",
    5280: "foot feet mile",
}
"""Conversion factors, each with the units it may stand between."""

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
)
_TENS = "thirty forty fifty sixty seventy eighty ninety"
_VALUES = {
    "100": "hundred",
    "1000": "thousand",
    "1000000": "million",
    "12": "dozen",
    "20": "score",
    "1/2 2": "half halves",
    "1/3 2/3 3": "third thirds",
    "1/4 3/4 4": "quarter quarters fourth",
    "1/5 5": "fifth",
    "1/10 10": "tenth",
    "3": "triple tripled triplets thrice",
    "4": "quadruple",
    "5": "weekday weekdays",
    "2": "weekend",
}
WORDS: dict[str, tuple[Fraction, ...]] = {
    **{word: (Fraction(value),) for value, word in enumerate(_ONES.split())},
    **{word: (Fraction(value),) for value, word in zip(range(30, 100, 10), _TENS.split(), strict=True)},
    **{word: tuple(map(Fraction, v.split())) for v, words in _VALUES.items() for word in words.split()},
}
"""Numbers that a question may give in words."""


def _words(question: str) -> set[str]:
    return {
        form
        for word in re.findall(r"[a-z]+|[$%]", question.lower())
        for form in (word, word.removesuffix("s"), word.removesuffix("es"))
    }


def mentioned(text: str) -> set[Fraction]:
    """Numbers in a text, in digits or words."""
    return set(numbers(text)) | {value for word in _words(text) for value in WORDS.get(word, ())}


def conversions(question: str) -> set[int]:
    """Factors between units of which the question names at least one."""
    words = _words(question)
    return {factor for factor, units in FACTORS.items() if words & set(units.split())}


def numbers_given(question: str) -> set[Fraction]:
    """Numbers that a question gives, with their parts, per cents, complements and conversion factors."""
    written = (evaluate(token.strip(".,;:?!()$")) for token in question.split() if "/" in token)
    given = mentioned(question) | {value for value in written if value is not None}
    fractions = {value / 100 for value in given} | {1 / value for value in given if value}
    fractions |= {value for value in given if value < 1}
    given |= fractions | {1 - x for x in fractions} | {1 + x for x in fractions}
    return given | {100 * value for value in given if value < 2} | set(map(Fraction, conversions(question)))
