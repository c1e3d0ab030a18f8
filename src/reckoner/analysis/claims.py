"""Published accuracies: their intervals, whether the percentage is possible at all, and what they can rank.

A published row is a title and k of n, or a percentage of n. Nobody outside knows which items were right, so
the tests are unpaired (`compare.compare_claims`), with Holm's correction within each group of rows that
answer the same problems. `claims.jsonl` beside this file holds rows that others have published, facts only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reckoner.analysis.compare import Claim, CountComparison, CountPair, compare_claims, parse_claim
from reckoner.analysis.intervals import wilson
from reckoner.analysis.readers import PublishedRow, read_published
from reckoner.analysis.tables import Cell, Row, Table, gap, interval, outcome, plan, share
from reckoner.errors import InputError

MOST = 10**15
PERCENT = re.compile(r"[0-9]{1,3}(\.[0-9]{1,9})?")
PUBLISHED = Path(__file__).with_name("claims.jsonl")


@dataclass(frozen=True, slots=True)
class JudgedRow:
    """A published row with its claim; `claim` is None where no n was stated."""

    row: PublishedRow
    claim: Claim | None


@dataclass(frozen=True, slots=True)
class JudgedGroup:
    """The rows of one group and the tests of all pairs of those with an n."""

    name: str
    rows: tuple[JudgedRow, ...]
    comparison: CountComparison


def judge(path: Path) -> list[JudgedGroup]:
    """Read and judge the rows of a JSONL file, group by group.

    Raises `InputError` naming file and row for one without a title or an accuracy or with two of these, an
    impossible count, what is no percentage, or a title that stands twice in its group.
    """
    rows = read_published(path)
    if not rows:
        raise InputError(f'{path}: no rows. A row is {{"title": "SFT", "percent": "31.0", "n": 256}}')
    groups: dict[str, dict[str, JudgedRow]] = {}
    for number, row in enumerate(rows, 1):
        group = groups.setdefault(row.group, {})
        try:
            if row.title in group:
                raise InputError("the title stands twice in its group")
            group[row.title] = JudgedRow(row, _claim(row))
        except InputError as error:
            raise InputError(f"{path} row {number} ({row.title!r:.80}): {error}") from error
    return [_judge_group(name, tuple(group.values())) for name, group in groups.items()]


def _judge_group(name: str, judged: tuple[JudgedRow, ...]) -> JudgedGroup:
    return JudgedGroup(name, judged, compare_claims([one.claim for one in judged if one.claim]))


def _claim(row: PublishedRow) -> Claim | None:
    if not row.title.strip():
        raise InputError("the title is empty")
    if (row.k is None) == (row.percent is None):
        raise InputError("give k or percent, one of them")
    if row.n is not None and not 0 < row.n <= MOST:
        raise InputError(f"n={row.n} is no number of problems")
    if row.percent is not None and not (PERCENT.fullmatch(str(row.percent)) and float(row.percent) <= 100):
        raise InputError(f"percent={row.percent!r:.40} is no number from 0 to 100, as 31.0")
    if row.n is None:
        if row.k is not None:
            raise InputError(f"k={row.k} needs n, the number of problems")
        return None
    if row.k is None:
        read = parse_claim(f"{row.percent}%/{row.n}")
        problem = read.problem.replace(read.name, row.title)
        return Claim(row.title, read.k, read.n, read.low, read.high, problem)
    if not 0 <= row.k <= row.n:
        raise InputError(f"{row.k:,} right of {row.n:,} is impossible")
    return Claim(row.title, row.k, row.n, *wilson(row.k, row.n), "")


def row_table(groups: Iterable[JudgedGroup]) -> Table:
    """One line a row: its count, accuracy, interval, whether the percentage is possible, and its source."""
    return Table("", "published row", tuple(_row(group.name, one) for group in groups for one in group.rows))


def _row(group: str, judged: JudgedRow) -> Row:
    row, claim = judged.row, judged.claim
    title = f"{group}: {row.title}" if group else row.title
    if claim is None:
        return Row(title, {"accuracy": Cell(f"{row.percent} %"), "possible": Cell("n not stated")})
    return Row(
        title,
        {
            "right": Cell(f"{claim.k:,}/{claim.n:,}", claim.k),
            "accuracy": share(claim.k / claim.n),
            "95 % interval": interval(claim.low, claim.high),
            "possible": Cell("no" if "impossible" in claim.problem else "yes"),
        },
    )


def pair_table(groups: Iterable[JudgedGroup]) -> Table:
    """One line a pair of a group: the difference, whether it ranks the two, and the n that could."""
    rows = [
        Row(
            f"{group.name + ': ' if group.name else ''}{pair.a} against {pair.b}",
            {"difference": gap(pair), **outcome(pair), **plan(pair)},
        )
        for group in groups
        for pair in group.comparison.pairs
    ]
    return Table("", "pair", tuple(rows))


def summary(groups: Sequence[JudgedGroup]) -> list[str]:
    """What the rows can and cannot say, in sentences, with every impossible or ambiguous percentage."""
    rows = [one for group in groups for one in group.rows]
    pairs: list[CountPair] = [pair for group in groups for pair in group.comparison.pairs]
    ranked = sum(pair.verdict != "unresolved" for pair in pairs)
    unsized = sum(one.claim is None for one in rows)
    impossible = sum("impossible" in one.claim.problem for one in rows if one.claim)
    lines = [
        f"{len(rows):,} rows: {unsized:,} without an n, {impossible:,} with an impossible percentage.",
        f"{ranked:,} of {len(pairs):,} pairs can be ranked (unpaired tests, Holm within each group).",
    ]
    return lines + [
        f"{one.claim.name}: {one.claim.problem}" for one in rows if one.claim and one.claim.problem
    ]
