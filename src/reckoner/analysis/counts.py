"""Bare counts such as `31/100` or a published `28.1%/256`: unpaired tests, labelled so, and claims that cannot be true.

Without the items nothing can be paired, so these tests see less than `compare` would. A percentage must be some k of
its n, rounded; where none exists the claim is called out and the nearest k is used.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from math import ceil, floor
from typing import Literal

from reckoner.analysis.power import detectable_unpaired, resolving_n_unpaired
from reckoner.analysis.statistics import barnard, fisher, holm, newcombe, wilson
from reckoner.errors import InputError

_DIGITS = r"[0-9][0-9,]{0,15}"
_CLAIM = re.compile(
    rf"(?:(?P<name>[^=]+)=)?\s*(?:(?P<k>{_DIGITS})|(?P<percent>[0-9]{{1,3}}(?:\.[0-9]{{1,9}})?)\s*%)\s*(?:/|of)\s*(?P<n>{_DIGITS})\s*"
)


@dataclass(frozen=True, slots=True)
class Claim:
    """`k` right of `n`, with Wilson's 95 % interval. `problem` says what is wrong with a stated percentage, if anything."""

    name: str
    k: int
    n: int
    low: float
    high: float
    problem: str


@dataclass(frozen=True, slots=True)
class CountPair:
    """a against b on different items: difference a - b with Newcombe's interval, Fisher's p, Barnard's on request.

    `needs` and `detectable` are as in `compare.Pair`, for each of two separate samples.
    """

    a: str
    b: str
    estimate: float
    low: float
    high: float
    fisher: float
    barnard: float | None
    p_holm: float
    verdict: Literal["better", "worse", "unresolved"]
    needs: int | None
    detectable: float | None


@dataclass(frozen=True, slots=True)
class CountComparison:
    """What `reckon compare --counts` prints; `paired` is always False."""

    claims: tuple[Claim, ...]
    pairs: tuple[CountPair, ...]
    notes: tuple[str, ...]
    paired: bool = False


def is_claim(text: str) -> bool:
    """Whether `text` is written as a count: 31/100, 28.1%/256, name=31/100."""
    return _CLAIM.fullmatch(text) is not None


def parse_claim(text: str) -> Claim:
    """Read `31/100`, `31.0%/256`, `31.0%of256` or `NAME=31/100`; raises `InputError` for anything else."""
    match = _CLAIM.fullmatch(text)
    if match is None:
        raise InputError(
            f"{text!r} is not a count. Write right/all, as 31/100, or a percentage, as 31.0%/256"
        )
    n = int(match["n"].replace(",", ""))
    name = (match["name"] or text).strip()
    if n == 0:
        raise InputError(f"{text!r}: nothing of nothing has no accuracy")
    if match["percent"]:
        return _from_percent(name, match["percent"], n)
    k = int(match["k"].replace(",", ""))
    if k > n:
        raise InputError(f"{text!r}: {k:,} right of {n:,} is impossible")
    return _claim(name, k, n)


def _claim(name: str, k: int, n: int, problem: str = "") -> Claim:
    return Claim(name, k, n, *wilson(k, n), problem)


def _from_percent(name: str, stated: str, n: int) -> Claim:
    """The k nearest to a percentage, called out if no k of n rounds to it, or if several do."""
    value = Fraction(stated)
    if value > 100:
        raise InputError(f"{name}: {stated} % is more than all")
    decimals = len(stated.partition(".")[2])
    half = Fraction(1, 2 * 10**decimals)
    lowest, highest = ceil((value - half) * n / 100), floor((value + half) * n / 100)
    nearest = min(n, floor(value * n / 100 + Fraction(1, 2)))
    if lowest > highest:
        below = floor(value * n / 100)
        around = " and ".join(
            f"{k}/{n} is {100 * k / n:.{decimals + 1}f} %" for k in (below, below + 1) if k <= n
        )
        return _claim(
            name,
            nearest,
            n,
            f"{stated} % of {n} is impossible: {around}. The nearest, {nearest}/{n}, is used.",
        )
    if highest > lowest:
        return _claim(
            name,
            nearest,
            n,
            f"{stated} % of {n} may be {max(0, lowest)} to {min(n, highest)} right; {nearest} is used.",
        )
    return _claim(name, nearest, n)


def compare_counts(texts: Sequence[str], with_barnard: bool = False, alpha: float = 0.05) -> CountComparison:
    """Test all pairs of claims, Holm over the family (of Fisher's p); raises `InputError` for a claim that is none."""
    claims = [parse_claim(text) for text in texts]
    if not claims:
        raise InputError("nothing to compare: give counts such as 31/100 20/100")
    if repeated := next(
        (c.name for i, c in enumerate(claims) if c.name in [d.name for d in claims[:i]]), None
    ):
        raise InputError(f"{repeated!r} is given twice. Name the counts, as base=31/100 tuned=31/100")
    family = list(combinations(claims, 2))
    p_values = [fisher(a.k, a.n, b.k, b.n) for a, b in family]
    pairs = tuple(
        _pair(a, b, p, adjusted, with_barnard, alpha, len(family))
        for (a, b), p, adjusted in zip(family, p_values, holm(p_values), strict=True)
    )
    notes = [f"{claim.name}: {claim.problem}" for claim in claims if claim.problem]
    if pairs:
        notes.append(
            "Unpaired: which items were right is not known, so these tests see less than a comparison of runs would."
        )
    return CountComparison(tuple(claims), pairs, tuple(notes))


def _pair(
    a: Claim, b: Claim, p: float, p_holm: float, with_barnard: bool, alpha: float, family: int
) -> CountPair:
    share_a, share_b, step = a.k / a.n, b.k / b.n, alpha / family
    low, high = newcombe(a.k, a.n, b.k, b.n)
    found = p_holm < alpha
    return CountPair(
        a=a.name,
        b=b.name,
        estimate=share_a - share_b,
        low=low,
        high=high,
        fisher=p,
        barnard=barnard(a.k, a.n, b.k, b.n) if with_barnard else None,
        p_holm=p_holm,
        verdict="unresolved" if not found else "better" if share_a > share_b else "worse",
        needs=None if found else resolving_n_unpaired(share_a, share_b, step),
        detectable=detectable_unpaired(a.n, b.n, min(share_a, share_b), step),
    )
