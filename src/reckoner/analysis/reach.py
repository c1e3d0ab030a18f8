"""Does RL sharpen or expand? pass@k and maj@k of the start and the end of an RL arm on the same problems.

A policy that is only sharpened gains at k = 1 and loses at large k, where the start reaches as many problems
by trying (Yue 2025, 2504.13837); one that is expanded stays above. Estimates are unbiased (Chen et al. 2021).
Samples of one problem are not independent, so intervals come from a bootstrap over problems, paired: each
draw takes the same problems of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reckoner.analysis.readers import CompletionSet
from reckoner.analysis.statistics import Interval, Sampled, pass_at_k, sampling_curve
from reckoner.analysis.tables import Cell, Row, Table, share
from reckoner.analysis.wording import both, percent, points, span
from reckoner.errors import InputError

DRAWS = 2_000
Grid = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Curve:
    """pass@k and maj@k of one policy at each k; `bounds` are the 95 % intervals of pass@k."""

    name: str
    points: tuple[Sampled, ...]
    bounds: tuple[Interval, ...]


@dataclass(frozen=True, slots=True)
class Reach:
    """Start and end on n problems with as many samples each.

    `gains` are end minus start of pass@k with intervals. `crossing` is the k from which the end is below the
    start, None where it never is up to all samples; its interval has None for the same. `gained` are problems
    that only the end solved at least once, `lost` those that only the start did.
    """

    n: int
    samples: int
    start: Curve
    end: Curve
    gains: tuple[tuple[float, float, float], ...]
    crossing: float | None
    crossing_bounds: tuple[float | None, float | None]
    gained: tuple[str, ...]
    lost: tuple[str, ...]


def reach(start: CompletionSet, end: CompletionSet, k: int = 0, seed: int = 0) -> Reach:
    """Compare two sets of samples of the same problems, up to `k` (0: all samples).

    Raises `InputError` for other problems, another number of samples, a single sample, or too large a k.
    """
    answers = [_answers(one) for one in (start, end)]
    if answers[0].keys() != answers[1].keys():
        raise InputError(f"{start.name} and {end.name} answer different problems. Sample the same ones")
    sizes = {len(drawn) for one in answers for drawn in one.values()}
    if len(sizes) > 1 or min(sizes) < 2:
        held = both([str(size) for size in sorted(sizes)])
        raise InputError(
            f"{start.name} and {end.name} have {held} samples a problem; both need the same number, above 1. "
            "Draw them with eval.num_samples=32 eval.temperature=1"
        )
    samples = sizes.pop()
    if k > samples:
        raise InputError(f"k={k} is larger than the {samples} samples a problem. Draw more, or lower it")
    items = list(answers[0])
    curves = [
        [one for one in sampling_curve([drawn[item] for item in items], "right") if one.k <= (k or samples)]
        for drawn in answers
    ]
    ks = [one.k for one in curves[0]]
    right = [[drawn[item].count("right") for item in items] for drawn in answers]
    grids = [np.array([[pass_at_k(samples, c, size) for size in ks] for c in counts]) for counts in right]
    picks = np.random.default_rng(seed).integers(0, len(items), (DRAWS, len(items)))
    means = [np.stack([grid[pick].mean(axis=0) for pick in picks]) for grid in grids]
    gains = means[1] - means[0]
    observed = grids[1].mean(axis=0) - grids[0].mean(axis=0)
    crossings = np.array([np.inf if (at := _crossing(ks, gain)) is None else at for gain in gains])
    low, high = np.quantile(crossings, (0.025, 0.975), method="nearest")
    named = zip(items, *right, strict=True)
    pairs = [(item, before, after) for item, before, after in named]
    return Reach(
        n=len(items),
        samples=samples,
        start=Curve(start.name, tuple(curves[0]), _bounds(means[0])),
        end=Curve(end.name, tuple(curves[1]), _bounds(means[1])),
        gains=tuple((float(gain), *bounds) for gain, bounds in zip(observed, _bounds(gains), strict=True)),
        crossing=_crossing(ks, observed),
        crossing_bounds=(_finite(low), _finite(high)),
        gained=tuple(item for item, before, after in pairs if after and not before),
        lost=tuple(item for item, before, after in pairs if before and not after),
    )


def _answers(one: CompletionSet) -> dict[str, list[str | None]]:
    """The answers of each problem; right ones share a name."""
    found: dict[str, list[str | None]] = {}
    for (problem, _), grade in one.grades.items():
        found.setdefault(problem, []).append("right" if grade.strict else grade.strict_value)
    return found


def _bounds(means: Grid) -> tuple[Interval, ...]:
    low, high = np.quantile(means, (0.025, 0.975), axis=0)
    return tuple(zip(low.tolist(), high.tolist(), strict=True))


def _crossing(ks: Sequence[int], gain: Grid) -> float | None:
    """The first k where a gain falls to below zero, between two k by a line over log k; None without one."""
    for index, value in enumerate(gain.tolist()):
        if value < 0:
            if not index:
                return float(ks[0])
            before = float(gain[index - 1])
            part = before / (before - value)
            return float(ks[index - 1] * (ks[index] / ks[index - 1]) ** part)
    return None


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def reach_table(found: Reach) -> Table:
    """One line a k: pass@k of both with intervals, the gain, and maj@k of both."""
    rows = []
    ends = zip(
        found.start.points, found.start.bounds, found.end.points, found.end.bounds, found.gains, strict=True
    )
    for one, bounds, other, other_bounds, (gain, low, high) in ends:
        cells = {
            f"pass@k of {found.start.name}": Cell(f"{percent(one.passed)} ({span(*bounds)})", one.passed),
            f"pass@k of {found.end.name}": Cell(
                f"{percent(other.passed)} ({span(*other_bounds)})", other.passed
            ),
            "gain": Cell(f"{points(gain)} ({100 * low:+.1f} to {100 * high:+.1f})", gain),
            "maj@k before": share(one.voted),
            "maj@k after": share(other.voted),
        }
        rows.append(Row(str(one.k), cells))
    return Table("", "k", tuple(rows))


def reach_sentences(found: Reach) -> list[str]:
    """What the curves say: where they cross, and which problems became reachable or were lost."""
    first, last = found.gains[0], found.gains[-1]
    k, name = found.end.points[-1].k, found.end.name
    low, high = ("none" if at is None else f"{at:.1f}" for at in found.crossing_bounds)
    at = "" if found.crossing is None else f"the curves cross at k = {found.crossing:.1f}"
    crossed = f"{at or f'no crossing up to k = {k}'} (95 % interval {low} to {high})"
    if first[1] > 0 and last[2] < 0:
        verdict = f"{name} is sharpened: better at k = 1, and it reaches fewer problems in {k} tries"
    elif last[1] > 0:
        verdict = f"{name} is expanded: it reaches more problems in {k} tries"
    else:
        verdict = f"whether {name} reaches more or fewer problems in {k} tries cannot be told at this n"
    return [
        f"{verdict}; {crossed}.",
        f"Of {found.n:,} problems {len(found.gained):,} are newly reachable in {found.samples} samples and "
        f"{len(found.lost):,} are lost; some of both is chance.",
    ]
