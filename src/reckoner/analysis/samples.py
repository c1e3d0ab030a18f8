"""Several samples or seeds an item: pass@k, maj@k, averages over seeds, and families of related items."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import comb

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reckoner.analysis.statistics import Interval
from reckoner.errors import InputError


@dataclass(frozen=True, slots=True)
class SeedAverage:
    """One arm over several seeds: each seed's accuracy, their mean and standard deviation, and each item's average.

    `std` has S - 1 in its denominator and is None for one seed, where it was not measured. `items` [n] feeds
    `statistics.paired_difference`.
    """

    values: tuple[float, ...]
    mean: float
    std: float | None
    items: NDArray[np.float64]


def average_seeds(scores: ArrayLike) -> SeedAverage:
    """Average scores [seeds, items] item by item; seeds are copies of one experiment, not more items."""
    grid = np.asarray(scores, dtype=float)
    if grid.ndim != 2 or not grid.size:
        raise ValueError(f"expected scores of shape [seeds, items], not {grid.shape}")
    values = grid.mean(axis=1)
    std = float(values.std(ddof=1)) if len(values) > 1 else None
    return SeedAverage(tuple(values.tolist()), float(values.mean()), std, grid.mean(axis=0))


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Probability that k of the samples, drawn without replacement, hold a right one (Chen et al. 2021, eq. 1).

    Exact integers, rounded once at the end. `InputError` if k is more than were drawn.
    """
    _check_draw(samples, k)
    if not 0 <= correct <= samples:
        raise ValueError(f"{correct} right of {samples} samples is impossible")
    return float(1 - Fraction(comb(samples - correct, k), comb(samples, k)))


def maj_at_k(answers: Sequence[Hashable | None], gold: Hashable, k: int) -> float:
    """Probability that `gold` wins a vote among k of the answers, over all k-subsets; exact.

    Tie rule: answers that lead together share the win equally, as a fair draw among them would. None is a
    completion without an answer: it takes a place among the k but gets no vote, and alone it never wins.
    """
    _check_draw(len(answers), k)
    votes = Counter(answers)
    silent, right = votes.pop(None, 0), votes.pop(gold, 0)
    wins = sum(
        (
            comb(right, lead) * _ways_to_lose(list(votes.values()), silent, lead, k - lead)
            for lead in range(1, min(right, k) + 1)
        ),
        Fraction(0),
    )
    return float(wins / comb(len(answers), k))


@dataclass(frozen=True, slots=True)
class Sampled:
    """Shares of items solved by k samples: `passed` if any is right (pass@k), `voted` by their vote (maj@k)."""

    k: int
    passed: float
    voted: float


def sampling_curve(answers: Sequence[Sequence[Hashable | None]], gold: Hashable) -> tuple[Sampled, ...]:
    """pass@k and maj@k averaged over items, for k = 1, 2, 4, ... and all samples; each item has as many answers [items, samples].

    A right answer is written as `gold` in every item; see `maj_at_k` for ties and missing answers.
    """
    samples = len(answers[0])
    sizes = sorted({*(2**power for power in range(samples.bit_length())), samples})
    return tuple(
        Sampled(
            k,
            float(np.mean([pass_at_k(samples, list(item).count(gold), k) for item in answers])),
            float(np.mean([maj_at_k(item, gold, k) for item in answers])),
        )
        for k in sizes
    )


def _check_draw(samples: int, k: int) -> None:
    if not 1 <= k <= samples:
        raise InputError(
            f"k={k} needs at least {max(k, 1)} samples an item and k of 1 or more; there are {samples}"
        )


def _ways_to_lose(rivals: list[int], silent: int, lead: int, left: int) -> Fraction:
    """Ways to fill `left` places so that no rival passes `lead` votes, each divided by the number of leaders."""
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
    """Percentile interval of the mean of values [n] when items of one cluster (a template, a seed item) go together.

    Whole clusters are drawn with replacement; deviations are stretched by sqrt(G / (G - 1)) because G clusters
    spread less around their own mean than around the truth. Pass paired differences to compare two runs.
    """
    scores = np.asarray(values, dtype=float)
    if scores.shape != (len(clusters),):
        raise ValueError(f"{len(clusters)} cluster labels for scores of shape {scores.shape}")
    places: dict[Hashable, int] = {}
    index = np.array([places.setdefault(label, len(places)) for label in clusters], dtype=int)
    groups = len(places)
    if groups < 2:
        raise InputError(f"a bootstrap over clusters needs at least 2 of them, found {groups}")
    sums, sizes = np.bincount(index, scores), np.bincount(index)
    generator = np.random.default_rng(seed)
    parts = [
        generator.integers(0, groups, (len(part), groups))
        for part in np.array_split(np.arange(draws), draws // 500 + 1)
    ]
    means = np.concatenate([sums[part].sum(axis=1) / sizes[part].sum(axis=1) for part in parts])
    centre = scores.mean()
    tail = (1 - confidence) / 2
    low, high = np.quantile(centre + (means - centre) * np.sqrt(groups / (groups - 1)), [tail, 1 - tail])
    return float(low), float(high)
