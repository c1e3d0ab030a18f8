"""Spans of text, numbers and dates, alone or as a set: exact match and F1 as DROP's authors define them.

Dua et al. 2019 (arXiv:1903.00161) and the evaluation that allennlp-models keeps: a text is cut at spaces and
hyphens; each token loses its case, articles and, unless it is a number, its punctuation; numbers are written
as floats. Spans match exactly as sets of equal size. F1 is that of the bags of words, aligned one to one, and
is 0 where the gold holds numbers and none is shared. The best of several right answers counts. A completion
writes a set with `;` between its spans.
"""

from __future__ import annotations

import json
import math
import re
import string
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

from reckoner.errors import InputError
from reckoner.tasks.answers.reading import Reading, last_line, read_slots

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
LONGEST = 2_000
"""Characters of an answer that are looked at."""


def encode_gold(value: Any, more: Any = None) -> str:
    """The gold string: a text as it is, or JSON of several right answers, each a list of spans.

    Understands DROP's `{"number": ..., "date": {...}, "spans": [...]}`, alone, in a list, or as a mapping of
    lists, which is how tables hold it. Raises `InputError` where there is no answer.
    """
    answers = list(dict.fromkeys(spans for one in (value, more) for spans in _answers(one) if any(spans)))
    if not answers:
        raise InputError("there is no gold answer")
    return answers[0][0] if len(answers) == len(answers[0]) == 1 else json.dumps(answers)


def _answers(value: Any) -> list[tuple[str, ...]]:
    match value:
        case None | bool():
            return []
        case str() | int() | float():
            return [(str(value).strip(),)]
        case {"number": list() as numbers, "date": list() as dates, "spans": list() as spans}:
            if not len(numbers) == len(dates) == len(spans):
                raise InputError("its lists of number, date and spans differ in length")
            columns = zip(numbers, dates, spans, strict=True)
            rows = [dict(zip(("number", "date", "spans"), one, strict=True)) for one in columns]
            return [one for row in rows for one in _answers(row)]
        case {
            "number": None | str() | int() | float() as number,
            "date": date,
            "spans": list() | None as spans,
        }:
            if number not in ("", None):
                return [(str(number),)]
            parts = date if isinstance(date, Mapping) else {}
            written = " ".join(str(parts[key]) for key in ("day", "month", "year") if parts.get(key))
            return [tuple(str(one) for one in spans or () if one is not None) or (written,)]
        case list() if any(isinstance(one, Mapping) for one in value):
            return [spans for one in value for spans in _answers(one)]
        case list():
            return [tuple(str(one) for one in value)]
    raise InputError("a gold of spans is a text, a list, or DROP's number, date and spans")


def gold_spans(gold: str) -> list[tuple[str, ...]]:
    """The right answers that a gold string holds, each a tuple of spans."""
    if gold.startswith("[["):
        with suppress(ValueError, TypeError, RecursionError):
            return [tuple(map(str, spans)) for spans in json.loads(gold)]
    return [tuple(gold.split(";"))]


def read(text: str | None) -> Reading:
    """The text behind the marker; without one the last line."""
    return read_slots(text, _bare, lambda whole: _bare(last_line(whole)))


def _bare(slot: str) -> str | None:
    return slot[:LONGEST].strip().strip('*_`"').rstrip(".").strip() or None


def exact(said: str, gold: str) -> bool:
    """Does `said` match one of the right answers exactly?"""
    return any(score(tuple(said.split(";")), spans)[0] == 1 for spans in gold_spans(gold))


def f1(said: str, gold: str) -> float:
    """The best F1 of `said` among the right answers, between 0 and 1."""
    return max(score(tuple(said.split(";")), spans)[1] for spans in gold_spans(gold))


@lru_cache(maxsize=4_096)
def score(said: tuple[str, ...], gold: tuple[str, ...]) -> tuple[float, float]:
    """Exact match and F1 of one set of spans against another; F1 is rounded to two places, as by DROP."""
    spoken, wanted = ([_tokens(span) for span in spans] for spans in (said, gold))
    same = {" ".join(one) for one in spoken} == {" ".join(one) for one in wanted}
    exactly = float(same and len(spoken) == len(wanted))
    scores = [[_bag_f1(frozenset(a), frozenset(b)) for a in spoken] for b in wanted]
    return exactly, round(_best_alignment(scores) / max(len(spoken), len(wanted)), 2)


def _best_alignment(scores: Sequence[Sequence[float]]) -> float:
    """The largest sum of scores that takes each row and column at most once."""
    if len(scores) == 1 or len(scores[0]) == 1:
        return max(value for row in scores for value in row)
    rows = scores if len(scores) <= len(scores[0]) else list(zip(*scores, strict=True))
    n, m = len(rows), len(rows[0])
    row_price, price, owner = [0.0] * (n + 1), [0.0] * (m + 1), [0] * (m + 1)
    for row in range(1, n + 1):  # the Hungarian method: a row more, along the cheapest alternating path
        owner[0], column = row, 0
        least, before, done = [math.inf] * (m + 1), [0] * (m + 1), [False] * (m + 1)
        while owner[column]:
            done[column], at = True, owner[column]
            for j in range(1, m + 1):
                cost = -rows[at - 1][j - 1] - row_price[at] - price[j]
                if not done[j] and cost < least[j]:
                    least[j], before[j] = cost, column
            after = min((j for j in range(1, m + 1) if not done[j]), key=least.__getitem__)
            step = least[after]
            for j in range(m + 1):
                if done[j]:
                    row_price[owner[j]] += step
                    price[j] -= step
                else:
                    least[j] -= step
            column = after
        while column:
            owner[column], column = owner[before[column]], before[column]
    return sum(rows[owner[j] - 1][j - 1] for j in range(1, m + 1) if owner[j])


def _bag_f1(said: frozenset[str], gold: frozenset[str]) -> float:
    numbers = {token for token in gold if _is_number(token)}
    if numbers and numbers.isdisjoint(said):
        return 0.0
    shared = len(said & gold)
    precision, recall = shared / len(said) if said else 1.0, shared / len(gold) if gold else 1.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _tokens(text: str) -> list[str]:
    """The tokens of one span that are compared, in order."""
    parts = (_token(part) for part in re.split(r"[ -]", text))
    return " ".join(part for part in parts if part.strip()).strip().split()


def _token(part: str) -> str:
    part = part.lower()
    bare = part if _is_number(part) else part.translate(_PUNCTUATION)
    number = str(float(bare)) if _is_number(bare) else bare
    return " ".join(_ARTICLES.sub(" ", number).split())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
