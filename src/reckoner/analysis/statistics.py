"""Intervals and tests for accuracies: of one run, of two on the same or on other items, of many, of repeats.

A test is exact where it can be, and no ranking stands without its interval. Nothing here reads a file or
draws a random number without a seed. docs/statistics.md holds the choices of method with their coverage and
error rates, which benchmarks/intervals.py measures. Power is in `power`.

Only `barnard` needs scipy, and imports it itself. Intervals of counts are in `intervals`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import comb, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reckoner.analysis.intervals import Interval, normal_quantile
from reckoner.errors import InputError

EXACT_RANGE = 20_000
"""Largest sum of absolute differences, in grid steps, for which `sign_flip` lists every outcome."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean score of a minus mean score of b over the same n items.

    `low` and `high` bound the difference, `p` is the two-sided exact p-value of no difference, `fixed` counts
    the items where a scores more than b, `broken` those where it scores less. `std` is the standard deviation
    of the item differences.
    """

    estimate: float
    low: float
    high: float
    p: float
    fixed: int
    broken: int
    n: int
    std: float

    @property
    def seeds(self) -> int:
        """Pairs of runs over which interval and p hold: 1 where they speak of the runs compared alone."""
        return 1

    @property
    def discordant(self) -> int:
        """Items on which the two do not agree: all that a paired test learns from."""
        return self.fixed + self.broken

    @property
    def averaged(self) -> bool:
        """True where some item scores are averages, so that differences other than -1, 0 and 1 occur."""
        return abs(self.std**2 + self.estimate**2 - self.discordant / self.n) > 1e-9


def fisher(k_a: int, n_a: int, k_b: int, n_b: int) -> float:
    """Fisher's exact two-sided p-value: the probability of all tables no likelier than the one seen.

    Ties are recognised to a relative 1e-10.
    """
    if not (0 <= k_a <= n_a and 0 <= k_b <= n_b):
        raise ValueError(f"{k_a} of {n_a} against {k_b} of {n_b} is impossible")
    right, low = k_a + k_b, max(0, k_a + k_b - n_b)
    x = np.arange(low, min(n_a, right), dtype=float)
    chances = _from_ratios((n_a - x) * (right - x) / ((x + 1) * (n_b - right + x + 1)))
    return min(1.0, float(chances[chances <= chances[k_a - low] * (1 + 1e-10)].sum()))


def barnard(k_a: int, n_a: int, k_b: int, n_b: int) -> float:
    """Barnard's unconditional exact two-sided p-value (pooled Wald), stronger and slower than Fisher's."""
    from scipy.stats import barnard_exact

    return float(barnard_exact([[k_a, k_b], [n_a - k_a, n_b - k_b]]).pvalue)


def mcnemar(b: int, c: int) -> float:
    """Exact two-sided McNemar p-value for b and c discordant items: a fair coin thrown b + c times."""
    if min(b, c) < 0:
        raise ValueError(f"discordant counts {b} and {c} cannot be negative")
    return min(1.0, 2 * float(_fair_coin(b + c)[: min(b, c) + 1].sum()))


def paired_difference(
    a: ArrayLike, b: ArrayLike, confidence: float = 0.95, seed: int = 0, most: float = 1.0
) -> Difference:
    """Compare two score vectors over the same items: right or wrong, or averages over seeds or samples.

    Scores lie between 0 and `most`; `ValueError` for any other.

    The interval is Bonett and Price's (2012): a Wald interval after adding one item won by a and one won by
    b. It never collapses to a point, holds its coverage down to n = 50, and excludes zero wherever exact
    McNemar rejects at 5 %. It may also exclude zero where the test does not reject: 5 of 5 items won give
    0.20 to 1 and p = 0.06. A verdict follows p. Averages use the same interval. The p-value is that of
    `sign_flip`, which is exact McNemar for right or wrong. `seed` matters only where that test must sample.
    """
    scores_a, scores_b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if scores_a.ndim != 1 or scores_a.shape != scores_b.shape or not scores_a.size:
        raise ValueError(
            f"paired scores need two equal lists of items, not {scores_a.shape} and {scores_b.shape}"
        )
    if not all(np.all((scores >= 0) & (scores <= most)) for scores in (scores_a, scores_b)):
        raise ValueError(f"scores must lie between 0 and {most:g}")
    difference = scores_a - scores_b
    total, squares = float(difference.sum()), float(np.square(difference).sum())
    low, high = _adjusted_wald(total, squares, difference.size, confidence, most)
    return Difference(
        estimate=float(difference.mean()),
        low=low,
        high=high,
        p=sign_flip(difference, seed=seed),
        fixed=int((difference > 0).sum()),
        broken=int((difference < 0).sum()),
        n=difference.size,
        std=float(difference.std()),
    )


def paired_interval(fixed: int, broken: int, n: int, confidence: float = 0.95) -> Interval:
    """The interval of `paired_difference` from counts: n items, `fixed` won by a only, `broken` by b only."""
    if min(fixed, broken) < 0 or fixed + broken > n:
        raise ValueError(f"{fixed} and {broken} discordant of {n} items is impossible")
    return _adjusted_wald(fixed - broken, fixed + broken, n, confidence)


def _adjusted_wald(total: float, squares: float, n: int, confidence: float, most: float = 1.0) -> Interval:
    centre = total / (n + 2)
    half = normal_quantile(confidence) * sqrt(((squares + 2) / (n + 2) - centre**2) / (n + 2))
    return max(-most, centre - half), min(most, centre + half)


def sign_flip(differences: ArrayLike, seed: int = 0, draws: int = 20_000) -> float:
    """Two-sided p-value that paired differences [n] are symmetric about zero: each sign is a fair coin.

    Averages over seeds or samples lie on a grid, and there all 2^n outcomes are counted by convolution:
    exact, and McNemar's test when every difference is -1, 0 or 1. Off any grid up to 1/64, or beyond
    `EXACT_RANGE`, `draws` random sign vectors from `seed` are used, the observed one counted among them so
    that p is never 0.
    """
    values = np.asarray(differences, dtype=float)
    values = values[values != 0]
    step = next(
        (u for u in range(1, 65) if np.abs(values * u - np.rint(values * u)).max(initial=0) < 1e-9), None
    )
    if step is not None and np.abs(values).sum() * step <= EXACT_RANGE:
        return _exact_sign_flip(np.rint(values * step).astype(int))
    generator = np.random.default_rng(seed)
    observed, extreme = abs(values.sum()) - 1e-9, 1
    for block in np.array_split(np.arange(draws), draws // 500 + 1):
        signs = 2.0 * generator.integers(0, 2, (len(block), values.size)) - 1
        extreme += int((np.abs(signs @ values) >= observed).sum())
    return extreme / (draws + 1)


def _exact_sign_flip(values: NDArray[np.int_]) -> float:
    """The sum of the positive parts W has total T under flips; the test statistic is 2W - T."""
    outcomes = np.ones(1)
    magnitudes, counts = np.unique(np.abs(values), return_counts=True)
    for magnitude, count in zip(magnitudes, counts, strict=True):
        heads = np.zeros(magnitude * count + 1)
        heads[::magnitude] = _fair_coin(int(count))
        outcomes = np.convolve(outcomes, heads)
    threshold = (len(outcomes) - 1 + abs(int(values.sum()))) // 2
    return min(1.0, 2 * float(outcomes[threshold:][::-1].sum()))


def _fair_coin(n: int) -> NDArray[np.float64]:
    """Probabilities of 0..n heads in n throws; [n + 1]."""
    x = np.arange(n, dtype=float)
    return _from_ratios((n - x) / (x + 1))


def binomial_window(n: int, p: float) -> tuple[int, NDArray[np.float64]]:
    """The first count that n throws of chance p > 0 can show, and the probabilities from it onwards.

    What lies outside, more than 9 standard deviations away, is less than 1e-15 in all.
    """
    reach = 9 * sqrt(n * p * (1 - p)) + 9
    first, last = max(0, int(n * p - reach)), min(n, int(n * p + reach) + 1)
    x = np.arange(first, last, dtype=float)
    return first, _from_ratios((n - x) / (x + 1) * p / max(1 - p, 1e-300))


def _from_ratios(ratios: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities [m + 1] of a log-concave distribution from its falling ratios p[x + 1] / p[x]; [m].

    Built outward from the mode: no factorial, no cancellation, no overflow, relative error near sqrt(m)
    rounding units.
    """
    mode = int(np.searchsorted(-ratios, -1.0))
    below = np.cumprod(1 / ratios[:mode][::-1])[::-1]
    weights = np.concatenate([below, [1.0], np.cumprod(ratios[mode:])])
    return weights / weights.sum()


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values over one family, in the order given."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted.tolist()


@dataclass(frozen=True, slots=True)
class SeedAverage:
    """One arm over several seeds: each seed's accuracy, their mean and deviation, and each item's average.

    `std` has S - 1 in its denominator and is None for one seed, where it was not measured. `items` [n] is the
    average of the `grid` [S, n].
    """

    values: tuple[float, ...]
    mean: float
    std: float | None
    items: NDArray[np.float64]
    grid: NDArray[np.float64]


def average_seeds(scores: ArrayLike) -> SeedAverage:
    """Average scores [seeds, items] item by item; seeds are copies of one experiment, not more items."""
    grid = np.asarray(scores, dtype=float)
    if grid.ndim != 2 or not grid.size:
        raise ValueError(f"expected scores of shape [seeds, items], not {grid.shape}")
    values = grid.mean(axis=1)
    std = float(values.std(ddof=1)) if len(values) > 1 else None
    return SeedAverage(tuple(values.tolist()), float(values.mean()), std, grid.mean(axis=0), grid)


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Probability that k of the samples, drawn without replacement, hold a right one (Chen et al. 2021).

    This is equation 1 there in exact integers, rounded once at the end. `InputError` if k is more than were
    drawn.
    """
    _check_draw(samples, k)
    if not 0 <= correct <= samples:
        raise ValueError(f"{correct} right of {samples} samples is impossible")
    return float(1 - Fraction(comb(samples - correct, k), comb(samples, k)))


def maj_at_k(answers: Sequence[Hashable | None], gold: Hashable, k: int) -> float:
    """Probability that `gold` wins a vote among k of the answers, over all k-subsets; exact.

    Tie rule: answers that lead together share the win equally, as a fair draw among them would. None is a
    completion without an answer: it counts among the k but has no vote, and alone it never wins.
    """
    _check_draw(len(answers), k)
    votes = Counter(answers)
    silent, right = votes.pop(None, 0), votes.pop(gold, 0)
    wins = Fraction(0)
    for lead in range(1, min(right, k) + 1):
        rivals = [count for count in votes.values() if count >= lead]
        harmless = silent + sum(count for count in votes.values() if count < lead)  # these never lead
        wins += comb(right, lead) * _ways_to_lose(rivals, harmless, lead, k - lead)
    return float(wins / comb(len(answers), k))


@dataclass(frozen=True, slots=True)
class Sampled:
    """Shares of items solved by k samples: `passed` if any is right (pass@k), `voted` by vote (maj@k)."""

    k: int
    passed: float
    voted: float


def sampling_curve(
    answers: Sequence[Sequence[Hashable | None]], gold: Hashable, most: int = 0
) -> tuple[Sampled, ...]:
    """pass@k and maj@k averaged over items, for k = 1, 2, 4, ... and `most` (0: all); answers are
    [items, samples].

    Each item has as many answers, and a right one is `gold` in every item. `maj_at_k` says what a tie is
    worth.
    """
    samples = len(answers[0])
    last = most or samples
    sizes = sorted({*(2**power for power in range(last.bit_length())), last})
    return tuple(
        Sampled(
            k,
            float(np.mean([pass_at_k(samples, list(item).count(gold), k) for item in answers])),
            float(np.mean([maj_at_k(item, gold, k) for item in answers])),
        )
        for k in sizes
    )


def sampling_errors(right: ArrayLike) -> tuple[float, float]:
    """Standard errors of the mean of right answers [items, samples]: of the items, and of the draws.

    Their squares add up to the variance of the mean over items. The second is what the samples of each item
    vary by (law of total variance; Miller 2024, 2411.00640).
    """
    grid = np.asarray(right, dtype=float)
    n, samples = grid.shape
    drawing = float(grid.var(axis=1, ddof=1).mean()) / samples / n
    whole = float(grid.mean(axis=1).var(ddof=1)) / n
    return sqrt(max(0.0, whole - drawing)), sqrt(drawing)


def _check_draw(samples: int, k: int) -> None:
    if not 1 <= k <= samples:
        needed = max(k, 1)
        raise InputError(
            f"k={k} needs at least {needed} samples an item and k of 1 or more; there are {samples}"
        )


def _ways_to_lose(rivals: list[int], silent: int, lead: int, left: int) -> Fraction:
    """Ways to cast `left` votes so that no rival passes `lead`, each divided by the number of leaders.

    `silent` are the answers that are no votes, or too few of a kind to lead.
    """
    ways = {(0, 1): 1}
    for count in rivals:
        grown: Counter[tuple[int, int]] = Counter()
        for (used, leaders), number in ways.items():
            for taken in range(min(count, lead, left - used) + 1):
                grown[used + taken, leaders + (taken == lead)] += number * comb(count, taken)
        ways = grown
    return sum(
        (Fraction(number * comb(silent, left - used), leaders) for (used, leaders), number in ways.items()),
        Fraction(0),
    )


def cluster_bootstrap(
    values: ArrayLike,
    clusters: Sequence[Hashable],
    seed: int = 0,
    draws: int = 10_000,
    confidence: float = 0.95,
) -> Interval:
    """Percentile interval of the mean of values [n] when the items of a cluster (a template) go together.

    Whole clusters are drawn with replacement. Deviations are stretched by sqrt(G / (G - 1)), because G
    clusters vary less around their own mean than around the truth. Pass paired differences to compare two
    runs.
    """
    scores = np.asarray(values, dtype=float)
    if scores.shape != (len(clusters),):
        raise ValueError(f"{len(clusters)} cluster labels for scores of shape {scores.shape}")
    numbers: dict[Hashable, int] = {}
    index = np.array([numbers.setdefault(label, len(numbers)) for label in clusters], dtype=int)
    groups = len(numbers)
    if groups < 2:
        raise InputError(f"a bootstrap over clusters needs at least 2 of them, found {groups}")
    totals = np.stack([np.bincount(index, scores), np.bincount(index)], axis=1)
    drawn = np.concatenate([times @ totals for times in _draws_of_clusters(groups, seed, draws)])
    means = drawn[:, 0] / drawn[:, 1]
    centre = scores.mean()
    tail = (1 - confidence) / 2
    low, high = np.quantile(centre + (means - centre) * np.sqrt(groups / (groups - 1)), [tail, 1 - tail])
    return float(low), float(high)


@lru_cache(maxsize=4)
def _draws_of_clusters(groups: int, seed: int, draws: int) -> tuple[NDArray[np.uint16], ...]:
    """How often each draw holds each cluster, in blocks [up to 500, groups], for a report that asks often."""
    generator, found = np.random.default_rng(seed), []
    for block in np.array_split(np.arange(draws), draws // 500 + 1):
        ids = generator.integers(0, groups, (len(block), groups)) + groups * np.arange(len(block))[:, None]
        times = np.bincount(ids.ravel(), minlength=groups * len(block))
        found.append(times.reshape(len(block), groups).astype(np.uint16))
    return tuple(found)
