"""The kind of a word problem that has none: declared rules over its question and reference solution.

The first rule that applies decides. How often the rules agree with a reader is stated in docs/errors.md, on
problems that were not looked at while the rules were written.
"""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction

from reckoner.runs.records import Problem
from reckoner.tasks.arithmetic import numbers

_UNIT = {
    "second": "seconds?",
    "minute": "minutes?|half an hour",
    "hour": "hours?|hourly",
    "day": "days?|daily|mondays?|tuesdays?|wednesdays?|thursdays?|fridays?|saturdays?|sundays?",
    "week": "weeks?|weekly",
    "month": "months?|monthly",
    "year": "years?|yearly|annual(?:ly)?",
    "decade": "decades?",
    "inch": 'inch(?:es)?|\\d+"',
    "foot": "foot|feet",
    "yard": "yards?",
    "mile": "miles?",
    "ounce": "ounces?|oz",
    "pound": "pounds?|lbs?",
    "ton": "tons?",
    "pint": "pints?",
    "quart": "quarts?",
    "gallon": "gallons?",
    "cm": "cm|centimeters?",
    "meter": "meters?",
    "km": "km|kilometers?",
    "gram": "grams?",
    "kg": "kg|kilograms?",
    "cent": "cents?|pennies|penny|nickels?|dimes?|quarters",
    "dollar": "dollars?",
    "dozen": "dozens?",
}
_UNITS = {unit: re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE) for unit, pattern in _UNIT.items()}
_FACTORS = {
    ("minute", "second"): {60},
    ("hour", "minute"): {60},
    ("hour", "second"): {60, 3600},
    ("day", "hour"): {24},
    ("week", "day"): {7},
    ("month", "day"): {28, 30, 31},
    ("month", "week"): {4},
    ("year", "day"): {365},
    ("year", "week"): {52},
    ("year", "month"): {12},
    ("decade", "year"): {10},
    ("foot", "inch"): {12},
    ("yard", "foot"): {3},
    ("mile", "foot"): {5280},
    ("pound", "ounce"): {16},
    ("ton", "pound"): {2000},
    ("gallon", "quart"): {4},
    ("gallon", "pint"): {8},
    ("quart", "pint"): {2},
    ("meter", "cm"): {100},
    ("km", "meter"): {1000},
    ("kg", "gram"): {1000},
    ("dollar", "cent"): {100},
}
"""What one of the first unit is in the second."""

_ASKED = re.compile(r"[^.?!]*\?\s*\Z")
_RULES = {
    "percentage": re.compile(r"%|\bper ?cent"),
    "age": re.compile(r"\byears? (?:old|older|younger)\b|\bhow old\b|\bages?\b"),
    "rate": re.compile(
        r"\b(?:per|an?|each|every) (?:second|minute|hour|day|night|week|month|year)\b"
        r"|\b(?:mph|speed|hourly|daily|weekly)\b|/hour"
    ),
    "time": re.compile(r"\bhow long\b|\bhow (?:many|much) (?:more )?(?:seconds|minutes|hours|days|time)\b"),
    "fraction": re.compile(
        r"\b(?:half|third|quarter|fourth|fifth|sixth|seventh|eighth|tenth)s?\b(?! (?:as|that|the price))"
        r"|\d/\d|\bratio\b"
    ),
    "money": re.compile(r"[$€£]|\b(?:dollars?|cents?|costs?|prices?)\b"),
    "comparison": re.compile(
        r"\b(?:twice|thrice|doubled?|triple|half (?:as|that)|times (?:as|more|the|that|bigger|faster)"
        r"|as (?:many|much|far|tall|long)|(?:more|fewer|less)\b[^.?!]{0,40}\bthan)\b"
    ),
}
CATEGORIES = ("percentage", "age", "unit conversion", *list(_RULES)[2:], "arithmetic")
"""All categories, in the order of their rules."""


def with_category(problem: Problem) -> Problem:
    """A problem of GSM8K or a relative with its category; every other one, and one that has it, as it is."""
    if problem.category or not problem.source.startswith("gsm"):
        return problem
    return replace(problem, category=category_of(problem.question, problem.solution))


def category_of(question: str, solution: str) -> str:
    """The first category whose rule applies to a question and its reference solution."""
    text = question.lower()
    for name in CATEGORIES:
        if name == "unit conversion":
            if _converts(question, solution):
                return name
        elif name == "time":
            asked = _ASKED.search(text)
            if asked and _RULES[name].search(asked[0]):
                return name
        elif name == "arithmetic" or _RULES[name].search(text):
            return name
    return "arithmetic"


def _converts(question: str, solution: str) -> bool:
    """Does the solution calculate with the factor between two units, which the question does not give?"""
    named = {unit for unit, pattern in _UNITS.items() if pattern.search(question)}
    given, used = set(numbers(question)), set(numbers(solution.partition("####")[0]))
    if "dozen" in named and Fraction(12) in used - given:
        return True
    units = named | {unit for unit, pattern in _UNITS.items() if pattern.search(solution)}
    return any(
        {large, small} <= units and {large, small} & named and not used.isdisjoint(factors - given)
        for (large, small), factors in _FACTORS.items()
    )
