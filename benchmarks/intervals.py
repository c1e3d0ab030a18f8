"""Measure the intervals and tests of reckoner.analysis: coverage, false alarms, agreement with other
libraries.

    python benchmarks/intervals.py  writes benchmarks/results/statistics.json, about two minutes on one core

Coverage and error rates of counts are exact: every possible table is listed with its probability, nothing is
drawn. Averages over seeds and families of items are simulated from seeds written below. docs/statistics.md
quotes the results.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr
from scipy.stats import binom, binomtest, fisher_exact
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from reckoner.analysis.intervals import newcombe, normal_quantile, wilson
from reckoner.analysis.power import detectable, detectable_unpaired, paired_power
from reckoner.analysis.statistics import (
    cluster_bootstrap,
    fisher,
    mcnemar,
    paired_difference,
    paired_interval,
)

RESULTS = Path(__file__).parent / "results" / "statistics.json"
SIZES = (50, 100, 256, 512, 1319)
Z = normal_quantile(0.95)
Bounds = tuple[NDArray[np.float64], NDArray[np.float64]]


def summary(coverages: list[float]) -> dict[str, float]:
    """Least, mean and greatest coverage in per cent."""
    return {
        name: round(100 * float(f(coverages)), 2)
        for name, f in (("least", np.min), ("mean", np.mean), ("greatest", np.max))
    }


def one_accuracy() -> dict:
    """Coverage of Wilson's interval and of the normal one, for every p in hundredths with n p and n (1 - p)
    at least 2."""
    found: dict = {}
    for n in SIZES:
        k = np.arange(n + 1)
        score = np.array([wilson(int(x), n) for x in k]).T
        half = Z * np.sqrt(k / n * (1 - k / n) / n)
        places = [p for p in np.arange(1, 100) / 100 if min(p, 1 - p) * n >= 2]
        for name, (low, high) in {"wilson": score, "normal": (k / n - half, k / n + half)}.items():
            found.setdefault(name, {})[n] = summary(
                [float(binom.pmf(k, n, p) @ ((low <= p) & (p <= high))) for p in places]
            )
        if n == 100:
            at = binom.pmf(k, n, 0.02)
            found["n=100, p=0.02"] = {
                "wilson": round(100 * float(at @ ((score[0] <= 0.02) & (0.02 <= score[1]))), 1),
                "normal": round(100 * float(at @ ((k / n - half <= 0.02) & (0.02 <= k / n + half))), 1),
            }
    return found


def tables(n: int, first: float, second: float) -> tuple[NDArray, NDArray, NDArray]:
    """Every (b, c) that can reasonably happen when items are won by a with `first` and by b with `second`,
    with chances."""
    b, c = (np.arange(*_window(n, p)) for p in (first, second))
    b, c = np.meshgrid(b, c, indexing="ij")
    chances = binom.pmf(b, n, first) * np.where(
        b + c <= n, binom.pmf(c, np.maximum(n - b, 0), second / (1 - first)), 0
    )
    return b, c, chances


def _window(n: int, p: float) -> tuple[int, int]:
    reach = 8 * np.sqrt(n * p * (1 - p)) + 8
    return max(0, int(n * p - reach)), min(n, int(n * p + reach)) + 1


def wald(b: NDArray, c: NDArray, n: int) -> Bounds:
    half = Z * np.sqrt(np.maximum(b + c - (b - c) ** 2 / n, 0)) / n
    return (b - c) / n - half, (b - c) / n + half


def bonett_price(b: NDArray, c: NDArray, n: int) -> Bounds:
    """The product's formula for whole arrays; `agreement` checks that it is the same."""
    centre, share = (b - c) / (n + 2), (b + c + 2) / (n + 2)
    half = Z * np.sqrt((share - centre**2) / (n + 2))
    return np.maximum(centre - half, -1), np.minimum(centre + half, 1)


def tango_covers(b: NDArray, c: NDArray, n: int, true: float) -> NDArray:
    """Is `true` inside Tango's (1998) score interval?"""
    quadratic, linear, constant = 2 * n, -b - c + (2 * n - b + c) * true, -c * true * (1 - true)
    q = (np.sqrt(np.maximum(linear**2 - 4 * quadratic * constant, 0)) - linear) / (2 * quadratic)
    return (b - c - n * true) ** 2 <= Z * Z * n * np.maximum(2 * q + true * (1 - true), 0) + 1e-9


def newcombe_paired(b: NDArray, c: NDArray, n: int, both: float) -> Bounds:
    """Newcombe's (1998b) method 10, with a share `both` of the agreeing items right in both runs."""
    e = np.round(both * (n - b - c))
    f = n - b - c - e
    p1, p2 = (e + b) / n, (e + c) / n
    margins = (e + b) * (c + f) * (e + c) * (b + f)
    product = e * f - b * c
    phi = np.divide(
        np.where(product > n / 2, product - n / 2, np.minimum(product, 0)),
        np.sqrt(margins),
        out=np.zeros(b.shape),
        where=margins > 0,
    )
    (l1, u1), (l2, u2) = (_wilson_array(p, n) for p in (p1, p2))
    down = np.sqrt(np.maximum((p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2, 0))
    up = np.sqrt(np.maximum((u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2, 0))
    return p1 - p2 - down, p1 - p2 + up


def _wilson_array(p: NDArray, n: int) -> Bounds:
    centre, half = (
        (p + Z * Z / 2 / n) / (1 + Z * Z / n),
        Z / (1 + Z * Z / n) * np.sqrt(p * (1 - p) / n + Z * Z / 4 / n / n),
    )
    return centre - half, centre + half


def paired() -> dict:
    """Coverage of four intervals of a paired difference, false alarms of exact McNemar, and where the two
    disagree."""
    methods: dict[str, Callable[..., Bounds]] = {
        "wald": wald,
        "bonett_price": bonett_price,
        "newcombe_paired": lambda b, c, n: newcombe_paired(b, c, n, 0.4),
    }
    coverage: dict = {name: {} for name in (*methods, "tango")}
    false_alarms: dict = {}
    contradictions: dict = {"bonett_price": {}, "tango": {}}
    for n in SIZES:
        shares: dict[str, list[float]] = {name: [] for name in coverage}
        alarms, unlike = [], {"bonett_price": [0.0, 0.0], "tango": [0.0, 0.0]}
        for discordance in (0.02, 0.05, 0.1, 0.2, 0.3, 0.4):
            if n * discordance < 2:
                continue
            for part in (0, 0.1, 0.25, 0.5, 0.75, 0.95):
                true = part * discordance
                b, c, chances = tables(n, (discordance + true) / 2, (discordance - true) / 2)
                for name, method in methods.items():
                    low, high = method(b, c, n)
                    shares[name].append(float(chances[(low <= true) & (true <= high)].sum() / chances.sum()))
                shares["tango"].append(float(chances[tango_covers(b, c, n, true)].sum() / chances.sum()))
                rejected = 2 * bdtr(np.minimum(b, c), b + c, 0.5) <= 0.05
                low, high = bonett_price(b, c, n)
                outside = {"bonett_price": (low > 0) | (high < 0), "tango": ~tango_covers(b, c, n, 0.0)}
                for name, excludes in outside.items():
                    now = [
                        float(chances[excludes & ~rejected].sum()),
                        float(chances[~excludes & rejected].sum()),
                    ]
                    unlike[name] = [max(pair) for pair in zip(unlike[name], now, strict=True)]
                if part == 0:
                    alarms.append(float(chances[rejected].sum()))
        for name, values in shares.items():
            coverage[name][n] = summary(values)
        false_alarms[n] = summary(alarms)
        for name, (more, fewer) in unlike.items():
            contradictions[name][n] = {
                "interval_excludes_0_but_p_above": round(100 * more, 2),
                "p_below_but_interval_holds_0": round(100 * fewer, 2),
            }
    rng = np.random.default_rng(1)
    discordant = rng.binomial(1319, 0.2, 20_000)
    won = rng.binomial(discordant, 0.5)
    drawn = float(
        np.mean([mcnemar(int(w), int(d - w)) <= 0.05 for w, d in zip(won, discordant, strict=True)])
    )
    return {
        "coverage": coverage,
        "mcnemar_false_alarms": false_alarms,
        "mcnemar_false_alarms_20000_draws_n1319": round(100 * drawn, 2),
        "contradictions": contradictions,
    }


def unpaired() -> dict:
    """Coverage of Newcombe's interval and false alarms of Fisher's test; every pair of counts is listed."""
    found: dict = {"newcombe": {}, "fisher_false_alarms": {}}
    for n in (50, 100):
        grid = np.arange(n + 1)
        bounds = np.array([[newcombe(a, n, b, n) for b in range(n + 1)] for a in range(n + 1)])
        rejected = np.array([[fisher(a, n, b, n) <= 0.05 for b in range(n + 1)] for a in range(n + 1)])
        places = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
        covered, alarms = [], []
        for first in places:
            for second in places:
                chances = np.outer(binom.pmf(grid, n, first), binom.pmf(grid, n, second))
                covered.append(
                    float(
                        chances[(bounds[..., 0] <= first - second) & (first - second <= bounds[..., 1])].sum()
                    )
                )
                if first == second:
                    alarms.append(float(chances[rejected].sum()))
        found["newcombe"][n], found["fisher_false_alarms"][n] = summary(covered), summary(alarms)
    return found


def seeds(runs: int = 2000, items: int = 400) -> dict:
    """Averages over seeds: items of Beta(0.5, 0.5) difficulty, both arms shifted by half of the true
    difference."""
    found = {}
    for count in (1, 3, 5):
        for shift in (0.0, 0.05):
            rng = np.random.default_rng(10 * count + round(100 * shift))
            covered = rejected = 0
            for _ in range(runs):
                easy = rng.beta(0.5, 0.5, items)
                chance_a, chance_b = easy * (1 - shift) + shift, easy
                a, b = (rng.binomial(count, chance) / count for chance in (chance_a, chance_b))
                result = paired_difference(a, b)
                covered += result.low <= shift * 0.5 <= result.high
                rejected += result.p <= 0.05
            found[f"{count} seeds, true difference {50 * shift:g} points"] = {
                "coverage": round(100 * covered / runs, 1),
                "rejected": round(100 * rejected / runs, 1),
            }
    return {"runs": runs, "items": items, "cases": found}


def clusters(runs: int = 3000, each: int = 10) -> dict:
    """Families of items that are solved or missed together; the bootstrap over families beside Wilson over
    items."""
    found = {}
    for families in (10, 25, 50, 100):
        rng = np.random.default_rng([families, each])
        labels = np.repeat(np.arange(families), each)
        inside = naive = 0
        for run in range(runs):
            right = rng.random(families * each) < rng.beta(0.6, 0.9, families)[labels]
            low, high = cluster_bootstrap(right, labels.tolist(), seed=run, draws=500)
            inside += low <= 0.4 <= high
            low, high = wilson(int(right.sum()), right.size)
            naive += low <= 0.4 <= high
        found[families] = {
            "bootstrap": round(100 * inside / runs, 1),
            "wilson_over_items": round(100 * naive / runs, 1),
        }
    return {"runs": runs, "items_each": each, "coverage": found}


def agreement(count: int = 10_000) -> dict:
    """Greatest absolute deviation from scipy and statsmodels over random tables."""
    rng = np.random.default_rng(7)
    n = rng.integers(1, 200, (count, 2))
    k = rng.integers(0, n + 1)
    worst = dict.fromkeys(("wilson", "mcnemar", "fisher", "newcombe", "paired_interval"), 0.0)
    for (n_a, n_b), (k_a, k_b) in zip(n.tolist(), k.tolist(), strict=True):
        both = (
            ("wilson", wilson(k_a, n_a), proportion_confint(k_a, n_a, method="wilson")),
            ("mcnemar", (mcnemar(k_a, k_b),), (binomtest(k_a, k_a + k_b).pvalue if k_a + k_b else 1.0,)),
            (
                "fisher",
                (fisher(k_a, n_a, k_b, n_b),),
                (fisher_exact([[k_a, k_b], [n_a - k_a, n_b - k_b]]).pvalue,),
            ),
            (
                "newcombe",
                newcombe(k_a, n_a, k_b, n_b),
                confint_proportions_2indep(k_a, n_a, k_b, n_b, method="newcomb", compare="diff"),
            ),
            (
                "paired_interval",
                paired_interval(k_a, k_b, n_a + n_b),
                tuple(map(float, bonett_price(np.float64(k_a), np.float64(k_b), n_a + n_b))),
            ),
        )
        for name, ours, theirs in both:
            worst[name] = max(worst[name], *(abs(x - y) for x, y in zip(ours, theirs, strict=True)))
    return {"tables": count, "greatest_deviation": worst}


def resolution() -> dict:
    """Differences in points that are found with 80 % power."""
    rows = {
        f"{share:.0%} disagree": [round(100 * (detectable(n, share) or 0), 2) for n in SIZES[1:]]
        for share in (0.1, 0.2, 0.3, 0.4)
    }
    rows["20% disagree, alpha 0.005"] = [round(100 * (detectable(n, 0.2, 0.005) or 0), 2) for n in SIZES[1:]]
    rows["unpaired, base 25%"] = [round(100 * (detectable_unpaired(n, n, 0.25) or 0), 2) for n in SIZES[1:]]
    return {
        "sizes": SIZES[1:],
        "points": rows,
        "power_of_3_points_at_20%": [round(paired_power(n, 0.2, 0.03), 3) for n in SIZES[1:]],
    }


def main() -> None:
    found = {
        f.__name__: f() for f in (one_accuracy, paired, unpaired, seeds, clusters, agreement, resolution)
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
