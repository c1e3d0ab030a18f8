"""Intervals of accuracies that are counts: of one run, and of the difference of two on other items.

They need no arrays, so that grading, which prints them, starts without numpy.
"""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

Interval = tuple[float, float]


def normal_quantile(confidence: float) -> float:
    """The two-sided standard normal quantile: 1.96 for 0.95."""
    return NormalDist().inv_cdf((1 + confidence) / 2)


def wilson(k: float, n: int, confidence: float = 0.95) -> Interval:
    """Score interval for k right of n (Wilson 1927). No items say nothing: (0, 1).

    An average over seeds or samples may be passed as a fractional k; the interval is then on the safe side,
    because an average varies no more than one answer does.
    """
    if not 0 <= k <= n:
        raise ValueError(f"{k} right of {n} is impossible")
    if n == 0:
        return 0.0, 1.0
    z = normal_quantile(confidence)
    centre = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * sqrt(k * (n - k) / n + z * z / 4)
    return (0.0 if k == 0 else centre - half), (1.0 if k == n else centre + half)


def newcombe(k_a: int, n_a: int, k_b: int, n_b: int, confidence: float = 0.95) -> Interval:
    """Interval of the difference a - b of two accuracies on different items (Newcombe 1998, method 10)."""
    a, b = k_a / n_a, k_b / n_b
    low_a, high_a = wilson(k_a, n_a, confidence)
    low_b, high_b = wilson(k_b, n_b, confidence)
    below, above = sqrt((a - low_a) ** 2 + (high_b - b) ** 2), sqrt((high_a - a) ** 2 + (b - low_b) ** 2)
    return a - b - below, a - b + above
