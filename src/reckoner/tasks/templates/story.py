"""How a template becomes a problem: draw names and numbers, compute each step, pick a surface form.

A template is a short function from a `Draw` to a `Story`. It never writes a result: the sentence of a step holds an
expression in square brackets, which `Draw.step` evaluates exactly and renders as GSM8K does:
`d.step("How many pens?", "She buys [4*3] pens.")` returns 12 and stores `She buys 4*3=<<4*3=12>>12 pens.`
A draw that breaks a rule (a result that is no integer, or is too small, or an answer that the question already
contains) ends with `Unsound`, and the story is drawn again.

Numbers follow the convention of most GSM8K solutions: no thousands commas after the question, so `1450` in
annotations, sentences and answers, while a question writes `1,450`.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from reckoner.tasks.arithmetic import evaluate
from reckoner.tasks.templates.words import ITEMS, NUMBER_WORDS, PEOPLE, Item, Person

LARGEST = 99_999
_WORD_VALUES = {word: value for value, word in NUMBER_WORDS.items()}
_NUMBER = re.compile(rf"\d+(?:,\d{{3}})*|\b(?:{'|'.join(_WORD_VALUES)})\b", re.IGNORECASE)
_LONG = re.compile(r"\d{4,}")
_WORDABLE = re.compile(r"(^|[.?] )?(?<![\d$:,./-])\b([2-9]|1[0-2])\b(?![\d%:/-]|[,.]\d| [ap]\.m)")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Story:
    """A question, its steps as (sub-question, sentence), the exact answer, and which of how many surface forms it has."""

    question: str
    steps: tuple[tuple[str, str], ...]
    answer: int
    form: int
    forms: int
    distractor: bool

    def solution(self, variant: str, first: int = 0) -> str:
        """The `main` or `socratic` solution in GSM8K's form from step `first` on, with its last line `#### answer`."""
        lines = [f"{ask} ** {say}" if variant == "socratic" else say for ask, say in self.steps[first:]]
        return "\n".join([*lines, f"#### {self.answer}"])


class Unsound(Exception):
    """A draw broke a rule of its story."""


class Draw:
    """One attempt to fill a template; every choice is a function of `seed` alone, on any machine."""

    def __init__(self, seed: str) -> None:
        digest = hashlib.sha256(seed.encode()).digest()
        self._bits = random.Random(int.from_bytes(digest[:8], "big")).getrandbits
        self._people = list(PEOPLE)
        self._steps: list[tuple[str, str]] = []
        self._answer = 0
        self._distractor = False

    def below(self, n: int) -> int:
        """An integer from 0 to n - 1, from 32 bits of the Mersenne Twister, whose output Python fixes."""
        return self._bits(32) * n >> 32

    def number(self, least: int, most: int, step: int = 1) -> int:
        """An integer from `least` to `most` (both included) in steps of `step`."""
        return least + step * self.below((most - least) // step + 1)

    def pick(self, *options: T) -> T:
        """One of the options."""
        return options[self.below(len(options))]

    def person(self) -> Person:
        """A person not drawn before in this problem."""
        return self._people.pop(self.below(len(self._people)))

    def people(self, n: int) -> list[Person]:
        """`n` different people."""
        return [self.person() for _ in range(n)]

    def item(self, group: str) -> Item:
        """A noun of a group of `words.ITEMS`."""
        return self.pick(*ITEMS[group])

    def items(self, group: str, n: int) -> list[Item]:
        """`n` different nouns of one group."""
        rest = list(ITEMS[group])
        return [rest.pop(self.below(len(rest))) for _ in range(n)]

    def relation(self, things: object, most: int = 9) -> tuple[str, str]:
        """A comparison and its arithmetic, such as `("4 fewer pens than", "-4")`."""
        n = self.number(3, most)
        return self.pick(
            (f"{n} more {things} than", f"+{n}"),
            (f"{n} fewer {things} than", f"-{n}"),
            (f"{min(n, 5)} times as many {things} as", f"*{min(n, 5)}"),
            (f"twice as many {things} as", "*2"),
            (f"half as many {things} as", "/2"),
        )

    def aside(self, *sentences: str) -> str:
        """Half of the time a sentence, led by a space, with a number that the solution does not need; else nothing."""
        if self.below(2):
            return ""
        self._distractor = True
        return " " + self.pick(*sentences)

    def require(self, condition: bool) -> None:
        """Raise `Unsound` unless the condition holds."""
        if not condition:
            raise Unsound

    def step(self, question: str, sentence: str, least: int = 2) -> int:
        """Add a step and return its result; `Unsound` where that is no integer from `least` up.

        The expression stands in square brackets; a dollar sign before the bracket moves before the result. Only
        `least=1` admits 1, and nothing admits 0 or -1: the noun that follows is a plural.
        """
        before, _, rest = sentence.partition("[")
        expression, _, after = rest.partition("]")
        dollar = "$" if before.endswith("$") else ""
        value = evaluate(expression)
        self.require(value is not None and value.denominator == 1)
        written = int(value)
        self.require(least <= written <= LARGEST and abs(written) >= min(2, abs(least)))
        line = f"{before.removesuffix('$')}{expression}={dollar}<<{expression}={written}>>{written}{after}"
        self._steps.append((question, line))
        self._answer = written
        return written

    def ask(self, *forms: str) -> Story:
        """Close the story: the last step's result is the answer, and one of the surface forms is the question."""
        form = self.below(len(forms))
        question = forms[form]
        self.require(self._answer not in numbers_in(question))
        question = _LONG.sub(lambda match: f"{int(match[0]):,}", question)
        if self.below(5) == 0:
            question = _WORDABLE.sub(_worded, question)
        return Story(question, tuple(self._steps), self._answer, form, len(forms), self._distractor)


@dataclass(frozen=True, slots=True)
class Template:
    """A named function that tells one kind of story."""

    id: str
    category: str
    write: Callable[[Draw], Story]

    def tell(self, seed: str) -> Story:
        """The story of `seed`: the first sound one of its attempts."""
        for attempt in range(10_000):
            with suppress(Unsound):
                return self.write(Draw(f"{self.id}/{seed}/{attempt}"))
        raise AssertionError(f"template {self.id} never fits its own rules")


REGISTRY: dict[str, Template] = {}


def template(category: str) -> Callable[[Callable[[Draw], Story]], Callable[[Draw], Story]]:
    """Register the decorated function as a template of `category`; its name becomes the template's id."""

    def register(write: Callable[[Draw], Story]) -> Callable[[Draw], Story]:
        name = write.__name__
        assert name not in REGISTRY, f"two templates are called {name}"
        REGISTRY[name] = Template(name, category, write)
        return write

    return register


def listed(parts: Sequence[str]) -> str:
    """Two parts or more as a sentence lists them: "one, two and three"."""
    return ", ".join(parts[:-1]) + " and " + parts[-1]


def _worded(match: re.Match[str]) -> str:
    word = NUMBER_WORDS[int(match[2])]
    return word if match[1] is None else match[1] + word.capitalize()


def numbers_in(text: str) -> list[int]:
    """The integers that a text contains, in digits or as one of the words `two` to `twelve`."""
    found = (match.lower() for match in _NUMBER.findall(text))
    return [_WORD_VALUES[word] if word in _WORD_VALUES else int(word.replace(",", "")) for word in found]
