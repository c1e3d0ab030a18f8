"""The vocabulary of the embedded problems: small and fixed, so that a tiny model can know all of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Person:
    """A name with the pronouns that go with it. Example: `Person("Anna", "she", "her", "her")`."""

    name: str
    he: str
    his: str
    him: str

    def __str__(self) -> str:
        return self.name

    @property
    def He(self) -> str:
        """The subject pronoun as a sentence starts with it."""
        return self.he.capitalize()

    @property
    def His(self) -> str:
        """The possessive pronoun as a sentence starts with it."""
        return self.his.capitalize()


@dataclass(frozen=True, slots=True)
class Item:
    """A countable noun. It prints as its plural, because the drawn counts start at 2. Example: `Item("pen", "pens")`."""

    one: str
    many: str

    def __str__(self) -> str:
        return self.many

    @property
    def a(self) -> str:
        """The singular with its article: "a pen", "an apple"."""
        return ("an " if self.one[0] in "aeiou" else "a ") + self.one


def _people(names: str, he: str, his: str, him: str) -> tuple[Person, ...]:
    return tuple(Person(name, he, his, him) for name in names.split())


def _items(nouns: str) -> tuple[Item, ...]:
    """Regular nouns alone, irregular ones as `singular/plural`."""
    pairs = (noun.strip().split("/") for noun in nouns.split(","))
    return tuple(Item(pair[0], pair[-1] if len(pair) == 2 else pair[0] + "s") for pair in pairs)


PEOPLE = (
    *_people(
        "Anna Beth Clara Dina Ella Grace Holly Ivy Jane Kate Lily Maria Nora Rosa Sara Tina",
        "she",
        "her",
        "her",
    ),
    *_people(
        "Adam Ben Carl Dan Eric Finn Hugo Ivan Jack Kyle Leo Mark Noah Omar Paul Tom", "he", "his", "him"
    ),
)

ITEMS = {
    "school": _items("pen, pencil, notebook, eraser, marker, folder"),
    "fruit": _items("apple, orange, pear, peach/peaches, lemon, plum"),
    "collection": _items("marble, sticker, card, stamp, shell, coin"),
    "toy": _items("doll, puzzle, kite, ball, game, toy car"),
    "baked": _items("cookie, muffin, cupcake, donut, brownie, roll"),
    "flower": _items("rose, tulip, daisy/daisies, sunflower"),
    "clothes": _items("shirt, hat, scarf/scarves, belt, sweater, jacket"),
    "bird": _items("duck, hen, turkey, chicken"),
    "beast": _items("cow, goat, horse, pig"),
}

NUMBER_WORDS = {
    2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine", 10: "ten", 11: "eleven", 12: "twelve",
}  # fmt: skip
