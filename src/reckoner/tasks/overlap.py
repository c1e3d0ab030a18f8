"""How much of one set of questions stands in another.

Three kinds: the same words (`exact`), the same words but for their numbers (`masked`), and a question of
whose 8-word sequences at least half stand in the other set (`ngram`). Problems made from templates share
their masked text by design.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
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


@dataclass(frozen=True, slots=True)
class Known:
    """What is looked for of a set of questions, made once for all that is compared with it."""

    whole: frozenset[str]
    masked: frozenset[str]
    grams: frozenset[tuple[str, ...]]

    @classmethod
    def of(cls, questions: Iterable[str]) -> Known:
        texts = [words(question) for question in questions]
        grams = (gram for own in texts for gram in _grams(own))
        return cls(frozenset(map(" ".join, texts)), frozenset(map(_mask, texts)), frozenset(grams))

    def shares(self, own: Sequence[str]) -> bool:
        """Whether at least half of the sequences of these words, or all words, stand in the set."""
        sequences = _grams(own)
        shared = sum(gram in self.grams for gram in sequences)
        return " ".join(own) in self.whole or bool(sequences) and shared >= SHARED * len(sequences)

    def overlap(self, test: Sequence[Problem]) -> Overlap:
        """Which test questions stand in the set."""
        own_words = {problem.id: words(problem.question) for problem in test}
        kinds: tuple[Callable[[list[str]], bool], ...] = (
            lambda own: " ".join(own) in self.whole,
            self.shares,
            lambda own: _mask(own) in self.masked,
        )
        found = (tuple(one for one, own in own_words.items() if kind(own)) for kind in kinds)
        return Overlap(len(test), *found)


def overlap(test: Sequence[Problem], questions: Iterable[str]) -> Overlap:
    """Which test questions stand in a set of questions."""
    return Known.of(questions).overlap(test)


def _mask(own: Sequence[str]) -> str:
    return " ".join("0" if word[0].isdigit() else word for word in own)


def _grams(own: Sequence[str]) -> list[tuple[str, ...]]:
    return [tuple(own[at : at + NGRAM]) for at in range(len(own) - NGRAM + 1)]
