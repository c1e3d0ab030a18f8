"""What a number of problems can show: the power of the tests in `statistics`, solved for n or a difference.

The exact McNemar test looks only at the items on which two runs disagree, so its power depends on their share
(`discordance`) and on the true difference between the two accuracies, both as fractions of all items.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import ceil, lgamma, log, log1p, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from reckoner.analysis.intervals import normal_quantile
from reckoner.analysis.statistics import binomial_window

POWER = 0.8
"""The probability with which a difference must be found to count as detectable or resolved."""
Z_POWER = NormalDist().inv_cdf(POWER)

EXACT_ITEMS = 50_000
"""From this many items on, the needed n is that of the normal approximation, which is within 1 %."""

EXACT_UNPAIRED = 10_000
"""Items of two separate samples together up to which their power is exact."""

_log_gamma = np.vectorize(lgamma, otypes=[float])


def paired_power(n: int, discordance: float, difference: float, alpha: float = 0.05) -> float:
    """Probability that exact McNemar rejects at level `alpha` on n items, over all discordant counts."""
    if not abs(difference) <= discordance <= 1:
        raise ValueError(
            f"a difference of {difference} needs a discordance between it and 1, not {discordance}"
        )
    if discordance == 0:
        return 0.0
    first, chances = binomial_window(n, discordance)
    limits = _critical(first, len(chances), alpha)
    share = (1 + abs(difference) / discordance) / 2
    if share == 1:
        return float(chances @ (limits >= 0))
    return float(chances @ (_at_most(limits, first, share) + _at_most(limits, first, 1 - share)))


@lru_cache(maxsize=8)
def _critical(first: int, count: int, alpha: float) -> NDArray[np.int_]:
    """Largest k with P(at most k heads of a fair coin) <= alpha / 2, or -1, for first, first + 1, ... throws.

    One more throw lowers P(at most k) by half of P(k), and raises k by one at most.
    """
    start, chances = binomial_window(first, 0.5)
    cumulated = np.cumsum(chances)
    index = int(np.searchsorted(cumulated, alpha / 2, side="right"))
    k, below, after = start + index - 1, cumulated[index - 1] if index else 0.0, chances[index]
    limits = np.empty(count, dtype=int)
    for i, thrown in enumerate(range(first, first + count)):
        if below + after <= alpha / 2:
            k, below, after = k + 1, below + after, after * (thrown - k - 1) / (k + 2)
        limits[i] = k
        below -= after * (k + 1) / (thrown - k) / 2
        after *= (thrown + 1) / (thrown - k) / 2
    return limits


def _at_most(limits: NDArray[np.int_], first: int, share: float) -> NDArray[np.float64]:
    """P(at most limits[i] heads in first + i throws) [m]; heads have the chance `share`, between 0 and 1.

    From one number of throws to the next it loses share P(limit), and gains the chance of a new limit.
    """
    start, chances = binomial_window(first, share)
    thrown = np.arange(first, first + len(limits))
    k = np.maximum(limits, 0)
    log_ways = _log_gamma(thrown + 1) - _log_gamma(k + 1) - _log_gamma(thrown - k + 1)
    chance = np.exp(log_ways + limits * log(share) + (thrown - limits) * log1p(-share))
    chance = np.where(limits < 0, 0.0, chance)
    change = chance[1:] * np.diff(limits) - share * chance[:-1]
    return np.cumsum(np.append(chances[: max(0, limits[0] + 1 - start)].sum(), change))


def smallest(power_at: Callable[[float], float], most: float, tolerance: float) -> float | None:
    """The smallest difference up to `most` that has `POWER`, to within `tolerance`; None without one."""
    if power_at(most) < POWER:
        return None
    low, high = 0.0, most
    while high - low > tolerance:
        middle = (low + high) / 2
        low, high = (low, middle) if power_at(middle) >= POWER else (middle, high)
    return high


def _enlarged(n: int, power_at: Callable[[int], float]) -> int:
    """The first number of items from `n` on, in steps of 1 %, that has `POWER`."""
    while power_at(n) < POWER:
        n += max(1, n // 100)
    return n


def detectable(n: int, discordance: float, alpha: float = 0.05) -> float | None:
    """Smallest true difference that exact McNemar on n items finds with `POWER`; None if none can be."""
    return smallest(lambda gap: paired_power(n, discordance, gap, alpha), discordance, 1e-6)


def resolving_n(difference: float, discordance: float, alpha: float = 0.05) -> int | None:
    """Items at which a true `difference` at this `discordance` is found with `POWER`; None for 0.

    The search starts from Connor's (1987) formula, which stands alone from `EXACT_ITEMS` on.
    """
    if difference == 0:
        return None
    std = sqrt(max(discordance - difference**2, 0.0))
    n = ceil(((normal_quantile(1 - alpha) * sqrt(discordance) + Z_POWER * std) / difference) ** 2)
    return _enlarged(n, lambda n: paired_power(n, discordance, difference, alpha) if n < EXACT_ITEMS else 1.0)


def detectable_mean(n: int, std: float, alpha: float = 0.05) -> float:
    """`detectable` for averages over seeds or samples; `std` is that of the item differences."""
    return (normal_quantile(1 - alpha) + Z_POWER) * std / sqrt(n)


def resolving_n_mean(difference: float, std: float, alpha: float = 0.05) -> int | None:
    """`resolving_n` for averages over seeds or samples; normal approximation."""
    return ceil((detectable_mean(1, std, alpha) / difference) ** 2) if difference else None


def unpaired_power(n_a: int, n_b: int, p_a: float, p_b: float, alpha: float = 0.05) -> float:
    """Probability that Fisher's exact test rejects at level `alpha` on two separate samples, over all tables.

    Beyond `EXACT_UNPAIRED` items in all, the normal approximation with continuity correction (Fleiss 1981,
    3.2).
    """
    if n_a + n_b > EXACT_UNPAIRED:
        pooled = (n_a * p_a + n_b * p_b) / (n_a + n_b)
        null = sqrt(pooled * (1 - pooled) * (1 / n_a + 1 / n_b))
        true = sqrt(p_a * (1 - p_a) / n_a + p_b * (1 - p_b) / n_b)
        margin = abs(p_a - p_b) - (1 / n_a + 1 / n_b) / 2 - normal_quantile(1 - alpha) * null
        return NormalDist().cdf(margin / true) if true else float(margin > 0)
    chances_a, chances_b = _chances(n_a, p_a), _chances(n_b, p_b)
    right = np.flatnonzero(chances_a)[[0, -1]] + np.flatnonzero(chances_b)[[0, -1]]
    totals = np.arange(right[0], right[1] + 1)[:, None]  # right answers in both samples
    middle, share = totals * n_a / (n_a + n_b), totals / (n_a + n_b)
    reach = 9 * np.sqrt(n_a * n_b / (n_a + n_b) * share * (1 - share)).max() + 9
    k_a = np.floor(middle - reach).astype(int) + np.arange(int(2 * reach) + 2)
    k_b = totals - k_a
    possible = (k_a >= 0) & (k_a <= n_a) & (k_b >= 0) & (k_b <= n_b)
    k_a, k_b = np.where(possible, k_a, 0), np.where(possible, k_b, 0)
    logs = np.where(possible, _log_choose(n_a)[k_a] + _log_choose(n_b)[k_b], -np.inf)
    logs -= _log_choose(n_a + n_b)[totals]
    order = np.argsort(logs, axis=1)
    ranked = np.take_along_axis(logs, order, axis=1)
    rises = ranked[:, 1:] > ranked[:, :-1] + 1e-9
    ends = np.append(rises, np.ones_like(totals, dtype=bool), axis=1)  # of ties
    p_values = np.where(ends, np.cumsum(np.exp(ranked), axis=1), np.inf)
    p_values = np.minimum.accumulate(p_values[:, ::-1], axis=1)[:, ::-1]
    tables = np.where(possible, chances_a[k_a] * chances_b[k_b], 0.0)
    kept = np.take_along_axis(tables, order, axis=1)[p_values > alpha]
    # The tables left out lie 9 standard deviations away, and are rejected.
    return max(0.0, 1 - float(kept.sum()))


def _chances(n: int, p: float) -> NDArray[np.float64]:
    """Probabilities of 0..n right answers; [n + 1]."""
    chances = np.zeros(n + 1)
    first, window = binomial_window(n, p) if 0 < p < 1 else (round(n * p), np.ones(1))
    chances[first : first + len(window)] = window
    return chances


@lru_cache(maxsize=8)
def _log_choose(n: int) -> NDArray[np.float64]:
    """Logarithms of n over 0..n; [n + 1]. Exactly symmetric, so that equal tables of equal samples tie."""
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    return logs[-1] - (logs + logs[::-1])


def detectable_unpaired(n_a: int, n_b: int, base: float, alpha: float = 0.05) -> float | None:
    """Smallest rise over an accuracy of `base`, to 0.01 points, that Fisher's test finds with `POWER`."""
    return smallest(lambda rise: unpaired_power(n_a, n_b, base, min(1, base + rise), alpha), 1 - base, 1e-4)


def resolving_n_unpaired(p_a: float, p_b: float, alpha: float = 0.05) -> int | None:
    """Items in each of two separate samples at which Fisher's test tells p_a and p_b apart with `POWER`.

    None where they are equal. The search starts from the normal approximation (Fleiss 1981, 3.2).
    """
    if p_a == p_b:
        return None
    mean = (p_a + p_b) / 2
    null, true = sqrt(2 * mean * (1 - mean)), sqrt(p_a * (1 - p_a) + p_b * (1 - p_b))
    n = ceil(((normal_quantile(1 - alpha) * null + Z_POWER * true) / (p_a - p_b)) ** 2)
    return _enlarged(n, lambda n: unpaired_power(n, n, p_a, p_b, alpha))
