"""The calculations that pretraining practises, each with its exact result."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable

from reckoner.runs.records import Problem
from reckoner.tasks.arithmetic import evaluate, format_number

_EXPRESSION = re.compile(r"<<([^<>=]+)=")
_NUMBER = re.compile(r"\d+")


class Facts:
    """The calculations of problems."""

    def __init__(self, expressions: list[str]) -> None:
        self.expressions, self.forms = expressions, {}
        for expression in expressions:
            self.forms.setdefault(_NUMBER.sub("n", expression), []).append(expression)
        self.roots = [len(found) ** 0.5 for found in self.forms.values()]

    @classmethod
    def of(cls, problems: Iterable[Problem]) -> Facts:
        return cls([found for problem in problems for found in _EXPRESSION.findall(problem.solution)])

    def draw(self, rng: random.Random, evenly: bool) -> str:
        """One as it comes, or `evenly`: a form such as `n+n` by the root of its frequency, so that rare ones
        are practised too."""
        if not evenly:
            return rng.choice(self.expressions)
        return rng.choice(rng.choices(list(self.forms.values()), self.roots)[0])


def _long(rng: random.Random) -> str:
    """An expression of three or four terms: in one step the hardest that the problems ask for."""
    a, b, c, d = (rng.randint(2, 99) for _ in range(4))
    match rng.randrange(10):
        case 0:
            return f"{100 * rng.randint(1, 9) + a}-{b}-{c}"
        case 1:
            return f"{b + c + d}-{b}-{c}"
        case 2:
            return f"{a}+{b}-{rng.randint(2, a)}"
        case 3:
            return f"{a % 40}+{b % 40}+{c % 40}+{d % 40}"
        case 4:
            return f"{a}+{b}+{a + b + d}"
        case _:
            return f"{a}+{b}+{c}"


def equation(rng: random.Random, facts: Facts, evenly: bool) -> str:
    """One calculation with its exact result, such as `13*8=104`: half from problems, half drawn over their
    ranges; `evenly`, rare forms often."""
    while True:
        if evenly and rng.random() < 0.3:
            expression = _long(rng)
        else:
            expression = facts.draw(rng, evenly) if rng.random() < 0.5 else _drawn(rng)
        value = evaluate(expression)
        if value is not None and value.denominator == 1 and abs(value) < 100_000:
            return f"{expression}={format_number(value)}"


def _drawn(rng: random.Random) -> str:
    """An expression over the ranges in which the problems calculate."""
    a, b = rng.randint(2, 99), rng.randint(2, 99)
    match rng.randrange(16):
        case 0 | 1:
            return f"{a * rng.choice((1, 1, 1, 3, 7, 10))}+{b * rng.choice((1, 1, 1, 5, 10))}"
        case 2 | 3 | 4 | 5:
            big = rng.randint(20, 999)
            return (
                f"{big}-{rng.randint(2, big - 1)}"
                if rng.random() < 0.7
                else f"{100 * rng.randint(1, 30)}-{rng.randint(2, 99)}"
            )
        case 6 | 7:
            return "*".join(map(str, rng.sample((rng.randint(2, 12), a * rng.choice((1, 1, 1, 10))), 2)))
        case 8:
            return f"{rng.randint(10, 60)}*{rng.choice((rng.randint(10, 20), 10 * rng.randint(1, 10)))}"
        case 9 | 10:
            divisor, quotient = rng.choice((rng.randint(2, 12), 10 * rng.randint(1, 6))), rng.randint(2, 99)
            return f"{divisor * quotient}/{divisor}"
        case 11:
            return f"{20 * a}*{10 * rng.randint(1, 9)}/100"
        case 12:
            return rng.choice((f"{rng.randint(2, 40)}-{b}", f"-{a}+{b}", f"-{rng.randint(2, 9)}-{b}"))
        case 13:
            return rng.choice(
                (
                    f"{100 * rng.randint(1, 9)}-{a}-{b}",
                    f"{a + b + rng.randint(2, 99)}-{a}-{b}",
                    f"{a}+{b}-{rng.randint(2, a)}",
                )
            )
        case 14:
            return f"{a}+{b}+{rng.randint(2, 99)}+{rng.randint(2, 40)}"
        case _:
            return f"{a}+{b}+{rng.choice((rng.randint(2, 99), a + b))}"


def signed(rng: random.Random) -> str:
    """A calculation with its result where the result may be zero or below, with others of its look whose
    result is above."""
    a, b = sorted((rng.randint(1, 99), rng.randint(1, 99) * rng.choice((1, 1, 1, 5))))
    near = rng.randint(2, 120)
    match rng.randrange(16):
        case 0 | 1 | 2 | 3 | 4 | 5:
            expression = f"{a}-{b}"
        case 6 | 7:
            expression = f"{near}-{near + rng.randint(-9, 9)}"
        case 8 | 9:
            expression = "-".join([str(near * rng.choice((1, 1, 5)))] * 2)
        case 10:
            expression = rng.choice((f"-{a}+{b}", f"-{b}+{a}", f"-{b}-{a}", f"0+{b}", f"0-{a}"))
        case 11 | 12:
            expression = f"{b}-{a}"
        case _:
            expression = (
                f"{rng.randint(2, 30)}*{rng.choice((rng.randint(10, 99), 15, 25, rng.randint(10, 20)))}"
            )
    return f"{expression}={format_number(evaluate(expression))}"
