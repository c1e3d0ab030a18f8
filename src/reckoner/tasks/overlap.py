"""How much of one set of questions stands in another.

Three kinds: the same words (`exact`), the same words but for their numbers (`masked`), and a question of
whose 8-word sequences at least half stand in the other set (`ngram`). Problems made from templates share
their masked text by design.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reckoner.runs.records import Problem

NGRAM, SHARED = 8, 0.5
_WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+")


@dataclass(frozen=True, slots=True)
class Overlap:
    """Ids of the `n` test questions that stand in one set; `exact` is part of `masked` and of `ngram`."""

    n: int
    exact: tuple[str, ...]
    ngram: tuple[str, ...]
    masked: tuple[str, ...]


def words(text: str) -> list[str]:
    """The words and numbers of a text in small letters; signs and spaces do not count."""
    return _WORD.findall(text.lower())


def overlap(test: Sequence[Problem], questions: Iterable[str]) -> Overlap:
    """Which test questions stand in a set of questions."""
    whole, masked, grams = set(), set(), set()
    for question in questions:
        own = words(question)
        whole.add(" ".join(own))
        masked.add(_mask(own))
        grams.update(_grams(own))

    def same(own: list[str]) -> bool:
        return " ".join(own) in whole

    def shares(own: list[str]) -> bool:
        sequences = _grams(own)
        shared = sum(gram in grams for gram in sequences)
        return same(own) or (bool(sequences) and shared >= SHARED * len(sequences))

    own_words = {problem.id: words(problem.question) for problem in test}
    kinds = (same, shares, lambda own: _mask(own) in masked)
    return Overlap(len(test), *(tuple(one for one, own in own_words.items() if kind(own)) for kind in kinds))


def _mask(own: Sequence[str]) -> str:
    return " ".join("0" if word[0].isdigit() else word for word in own)


def _grams(own: Sequence[str]) -> list[tuple[str, ...]]:
    return [tuple(own[at : at + NGRAM]) for at in range(len(own) - NGRAM + 1)]
