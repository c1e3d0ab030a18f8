"""Which sign stands before decimals in the texts of others: a point, or a comma as in much of the world."""

from __future__ import annotations

import re
from dataclasses import dataclass

from reckoner.errors import InputError
from reckoner.machine import say_once

SIGNS = ("auto", "point", "comma")
"""`auto` is a point, refused where most golds look like `1.000`."""

_POINT_OR_COMMA = re.compile(r"(?<=[0-9])[.,](?=[0-9])")
_COMMA_STYLE = re.compile(r"[-+\u2212]?(?:[1-9][0-9]{0,2}(?:\.[0-9]{3})+(?:,[0-9]+)?|[0-9]+,[0-9]{1,2})")


def looks_like_comma(gold: str) -> bool:
    """Is a gold string written as where decimals follow a comma: `1.000`, `1.500,5`, `3,5`?"""
    return _COMMA_STYLE.fullmatch(gold.strip()) is not None


def with_points(text: str, decimal: str) -> str:
    """The text with points before decimals: points and commas between digits change places for "comma"."""
    if decimal != "comma":
        return text
    return _POINT_OR_COMMA.sub(lambda match: "," if match[0] == "." else ".", text)


@dataclass
class GoldStyle:
    """Counts of golds: all, those with a point or comma, and those where decimals seem to follow a comma."""

    golds: int = 0
    separated: int = 0
    styled: int = 0
    first: str = ""

    def add(self, gold: str) -> None:
        """Count one gold that is a number."""
        styled = looks_like_comma(gold)
        self.first = gold if styled and not self.styled else self.first
        self.golds += 1
        self.styled += styled
        self.separated += "." in gold or "," in gold

    def doubt(self, option: str) -> str:
        """What to do, where most golds look like `1.000`; else nothing."""
        if 2 * self.styled <= self.golds:
            return ""
        return (
            f"{self.styled:,} of {self.golds:,} golds look like {self.first}, with a comma for decimals. "
            f"Set {option}comma, or {option}point if 1.000 is 1"
        )

    def check(self, where: str, option: str) -> None:
        """Raise `InputError` where most golds look like `1.000`; a line tells that most with a sign do."""
        if doubt := self.doubt(option):
            raise InputError(f"{where}: {doubt}")
        if 2 * self.styled > self.separated:
            say_once(
                f"{where}: {self.styled:,} of {self.golds:,} golds look like {self.first}, and are read with "
                f"a point before decimals. Set {option}comma if a comma stands there"
            )
