"""Intervals, tests and power over problems and seeds: what another training run on other problems would do.

Scores y[s, i] of S runs on the same n items have three sources of noise: the choice of items, the seeds,
and luck (a run that solves an item once). The mean over all has the variance

    V = V_items + V_runs,   V_items = max(0, MS_items - MS_rest) / (S n),   V_runs = MS_runs / (S n)

with the mean squares of the two-way table (items x runs). V_runs is the variance of the runs' means over S:
it holds the seeds and the luck, and needs no subtraction. A difference of two arms is one such table, of
y_a - y_b seed by seed, so that what both inherit from a common start cancels. V_runs has only S - 1 degrees
of freedom. Cochran's (1964) quantile weighs both parts by their variance:

    q = (V_items z + V_runs t[S - 1]) / V

Arms that do not have the same seeds share no run with each other. Their difference is that of the means over
all runs, V_runs is the sum of both arms' own, and the smaller arm gives the degrees of freedom, fewer than
Welch's.

For the interval of one accuracy the luck in V_runs, MS_rest / (S n), stands beside V_items: all S n answers
tell it, and with t it would make the interval too wide, because there luck is a small part of V. In a
difference what both arms share cancels, luck is the larger part, and only the runs' means can be trusted.

A percentile bootstrap over so few seeds covers far less than it says (benchmarks/seeds.py). Below `ENOUGH`
seeds nothing here applies: the tests of `statistics` speak of the runs that there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import exp, log, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reckoner.analysis.intervals import Interval, wilson
from reckoner.analysis.power import POWER, smallest
from reckoner.analysis.readers import CompletionSet
from reckoner.analysis.statistics import Difference, paired_difference

ENOUGH = 3
"""Seeds from which on an interval covers them, and a sentence may speak of the method."""

SMALLEST_P = 1e-300
POINTS = (np.arange(400) + 0.5) / 400
"""Quantiles over which the power is averaged."""


@dataclass(frozen=True, slots=True)
class Noise:
    """Variance of a mean over `runs` and items: what of it the items cause under every seed, and what seeds
    and luck cause."""

    items: float
    seeds: float
    runs: int

    @property
    def variance(self) -> float:
        return self.items + self.seeds

    def with_runs(self, runs: int) -> Noise:
        """What another number of seeds would leave."""
        return Noise(self.items, self.seeds * self.runs / runs, runs)

    def quantile(self, level: float = 0.05) -> float:
        """Cochran's two-sided quantile for an interval that misses with this probability."""
        tail = level / 2
        normal = -NormalDist().inv_cdf(tail)
        if not self.seeds:
            return normal
        return (self.items * normal + self.seeds * _t_quantile(self.runs - 1, tail)) / self.variance

    def p_value(self, estimate: float) -> float:
        """Two-sided: the level at which the interval of `quantile` just excludes zero."""
        if not estimate:
            return 1.0
        if not self.variance:
            return SMALLEST_P
        distance = abs(estimate) / sqrt(self.variance)
        low, high = log(SMALLEST_P), 0.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (low, middle) if self.quantile(exp(middle)) < distance else (middle, high)
        return exp(high)


@dataclass(frozen=True, slots=True)
class SeedDifference(Difference):
    """A difference whose interval and p cover problems and seeds."""

    noise: Noise

    @property
    def seeds(self) -> int:
        """Pairs of runs, or, where none belong together, the runs of the arm that has fewer."""
        return self.noise.runs


def noise(scores: ArrayLike, luck_apart: bool = False) -> Noise:
    """The parts of the variance of the mean of scores [seeds, items], at least two of each.

    What luck causes is in the part of the seeds, or with `luck_apart` in that of the items.
    """
    grid = np.asarray(scores, dtype=float)
    seeds, n = grid.shape
    rest = _luck(grid)
    lasting = max(0.0, float(grid.mean(axis=0).var(ddof=1)) - rest)
    luck = rest / n if luck_apart else 0.0
    return Noise(lasting / n + luck, max(0.0, _between_runs(grid) - luck), seeds)


def independent_noise(a: NDArray[np.float64], b: NDArray[np.float64]) -> Noise:
    """`noise` of the mean of `a` minus that of `b`, both [seeds, items], where no run of one belongs to one
    of the other."""
    gaps = a.mean(axis=0) - b.mean(axis=0)
    lasting = max(0.0, float(gaps.var(ddof=1)) - _luck(a) - _luck(b))
    return Noise(lasting / gaps.size, _between_runs(a) + _between_runs(b), min(len(a), len(b)))


def _luck(grid: NDArray[np.float64]) -> float:
    """What luck adds to the variance of an item's mean over the runs: MS_rest / S."""
    seeds, n = grid.shape
    rest = grid - grid.mean(axis=0) - grid.mean(axis=1)[:, None] + grid.mean()
    return float((rest**2).sum()) / ((seeds - 1) * (n - 1) * seeds)


def _between_runs(grid: NDArray[np.float64]) -> float:
    """Variance of the mean of the runs: MS_runs / (S n)."""
    return float(grid.mean(axis=1).var(ddof=1)) / len(grid)


def accuracy_interval(scores: ArrayLike, confidence: float = 0.95) -> Interval:
    """Interval of an accuracy from scores [seeds, items]; over the seeds too from `ENOUGH` on.

    Wilson's, with the number of items that would give the variance found (Korn and Graubard 1998).
    """
    grid = np.asarray(scores, dtype=float)
    seeds, n = grid.shape
    mean = float(grid.mean())
    if seeds < ENOUGH or n < 2:
        return wilson(mean * n, n, confidence)
    parts = noise(grid, luck_apart=True)
    if not 0 < mean < 1 or not parts.variance:
        return wilson(mean * n, n, confidence)
    return wilson_effective(mean, mean * (1 - mean) / parts.variance, parts.quantile(1 - confidence))


def counts_interval(right: Sequence[float], n: int) -> Interval:
    """`accuracy_interval` where only the right answers of each run among the same `n` items are known.

    Luck cannot be told from the items then. It counts with both, so that the interval is too wide rather than
    too narrow.
    """
    mean = sum(right) / len(right) / n
    if len(right) < ENOUGH or not 0 < mean < 1:
        return wilson(mean * n, n)
    runs = float(np.var(np.asarray(right) / n, ddof=1)) / len(right)
    parts = Noise(mean * (1 - mean) / n, runs, len(right))
    return wilson_effective(mean, mean * (1 - mean) / parts.variance, parts.quantile())


def wilson_effective(mean: float, n: float, z: float) -> Interval:
    """Wilson's interval of a share for a number of items that need not be whole."""
    centre = (n * mean + z * z / 2) / (n + z * z)
    half = z * sqrt(n) / (n + z * z) * sqrt(mean * (1 - mean) + z * z / (4 * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def seed_number(name: str) -> int:
    """The number behind the `@` of a run, -1 where there is none."""
    _, at, number = name.rpartition("@")
    return int(number) if at and number.isdecimal() else -1


def arm_name(name: str) -> str:
    """The name of a run without its seed."""
    return name.rpartition("@")[0] if seed_number(name) >= 0 else name


def by_seed(*arms: Sequence[CompletionSet]) -> tuple[list[list[int]], bool]:
    """Where the runs of each arm stand, by seed, and whether those of one seed belong together.

    They belong together where all arms have the same seeds. A single run that was not trained, as of a
    prompt, has no seed and meets all.
    """
    numbers = [[seed_number(run.name) for run in one] for one in arms]
    seeded = {
        tuple(sorted(own))
        for one, own in zip(arms, numbers, strict=True)
        if len(one) > 1 or one[0].settings.get("trained")
    }
    return [sorted(range(len(own)), key=own.__getitem__) for own in numbers], len(seeded) < 2


def seed_difference(
    a: ArrayLike,
    b: ArrayLike,
    paired: bool = True,
    confidence: float = 0.95,
    seed: int = 0,
    most: float = 1.0,
) -> Difference:
    """Compare two arms by their scores [seeds, items], over problems and seeds where both allow it.

    The estimate is always the difference of the means over all runs. `paired` runs belong together in the
    order given (`by_seed`), others do not. Paired with several, a single run meets all. Scores lie between
    0 and `most`. With fewer than `ENOUGH` runs it is `paired_difference` of the averages: of these runs.
    Raises `ValueError` for paired arms of unequal numbers above 1.
    """
    grid_a, grid_b = np.atleast_2d(np.asarray(a, dtype=float)), np.atleast_2d(np.asarray(b, dtype=float))
    averages = grid_a.mean(axis=0), grid_b.mean(axis=0)
    pairs = (max if paired else min)(len(grid_a), len(grid_b))
    if pairs < ENOUGH or averages[0].size < 2:
        return paired_difference(*averages, confidence, seed, most)
    if paired:
        gaps = grid_a - grid_b
        parts, items = noise(gaps), gaps.mean(axis=0)
    else:
        parts, items = independent_noise(grid_a, grid_b), averages[0] - averages[1]
    estimate, std = float(items.mean()), float(items.std())
    if not std:  # one item won by one run on either side, where all agree
        parts = Noise(2 / (pairs * (items.size + 2)) ** 2, 0.0, pairs)
    half = parts.quantile(1 - confidence) * sqrt(parts.variance)
    return SeedDifference(
        estimate=estimate,
        low=max(-most, estimate - half),
        high=min(most, estimate + half),
        p=parts.p_value(estimate),
        fixed=int((items > 0).sum()),
        broken=int((items < 0).sum()),
        n=items.size,
        std=std,
        noise=parts,
    )


def assumed_noise(
    n: int, seeds: int, discordance: float, seed_std: float, varying: int = 2, repeats: float = 0.5
) -> Noise:
    """The noise of a difference before anything ran.

    `discordance` is the share of n items on which a run of one arm and a run of the other disagree. `repeats`
    is the share of it that does so under every seed; the rest is luck of single runs. `seed_std` is the
    standard deviation between seeds of the true accuracy of each of the `varying` arms.
    """
    luck = discordance * (1 - repeats) / n
    return Noise(discordance * repeats / n, (varying * seed_std**2 + luck) / seeds, seeds)


def seed_power(difference: float, expected: Noise, alpha: float = 0.05) -> float:
    """Probability that `seed_difference` finds a true `difference` at level `alpha` under this noise."""
    found = expected.seeds * _chi_squares(expected.runs - 1)
    normal, t = -NormalDist().inv_cdf(alpha / 2), _t_quantile(expected.runs - 1, alpha / 2)
    limits = (expected.items * normal + found * t) / np.sqrt(expected.items + found)
    std = sqrt(expected.variance)
    return float(np.mean(_normal((difference - limits) / std) + _normal((-difference - limits) / std)))


def detectable_seeds(expected: Noise, alpha: float = 0.05) -> float | None:
    """Smallest true difference that is found with 80 % power; None if none is."""
    return smallest(lambda gap: seed_power(gap, expected, alpha), 1.0, 1e-5) if expected.variance else None


def resolving_seeds(difference: float, seen: Noise, alpha: float = 0.05, most: int = 100) -> int | None:
    """Seeds, more than now, at which a true `difference` is found with 80 % power; None beyond `most`."""
    low, high = seen.runs, most
    if not seen.variance or seed_power(difference, seen.with_runs(high), alpha) < POWER:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        enough = seed_power(difference, seen.with_runs(middle), alpha) >= POWER
        low, high = (low, middle) if enough else (middle, high)
    return high


def _t_quantile(freedom: int, tail: float) -> float:
    from scipy.special import stdtrit

    return -float(stdtrit(freedom, tail))


@lru_cache
def _chi_squares(freedom: int) -> NDArray[np.float64]:
    """Quantiles of a mean square whose expectation is 1."""
    from scipy.special import chdtri

    return np.asarray(chdtri(freedom, 1 - POINTS) / freedom)


def _normal(x: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.special import ndtr

    return np.asarray(ndtr(x))
