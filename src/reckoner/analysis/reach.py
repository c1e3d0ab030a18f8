"""Does RL sharpen or expand? pass@k and maj@k of the start and the end of an RL arm on the same problems.

A policy that is only sharpened gains at k = 1 and loses at large k, where the start reaches as many problems
by trying (Yue 2025, 2504.13837); one that is expanded stays above. Estimates are unbiased (Chen et al. 2021).
Answers are read flexibly on both sides, so that learning the format cannot pass for reaching more problems.
Samples of one problem are not independent. Gains are compared problem by problem, as `seed_difference` does,
and the other intervals come from a bootstrap over problems, each draw the same problems of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reckoner.analysis.difficulty import Band, by_difficulty
from reckoner.analysis.intervals import Interval
from reckoner.analysis.readers import CompletionSet
from reckoner.analysis.seeds import ENOUGH, by_seed, seed_difference
from reckoner.analysis.statistics import Difference, Sampled, holm, pass_at_k, sampling_curve
from reckoner.analysis.tables import Cell, Row, Table, gap, share
from reckoner.analysis.wording import at_budget, both, percent, sentence, span
from reckoner.errors import InputError

DRAWS = 2_000
ALPHA = 0.05
Grid = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Curve:
    """pass@k and maj@k of one policy at each k, averaged over its runs; `bounds` are the 95 % intervals of
    pass@k over the choice of problems.
    """

    name: str
    points: tuple[Sampled, ...]
    bounds: tuple[Interval, ...]


@dataclass(frozen=True, slots=True)
class Reach:
    """Start and end on n problems with as many samples each, of `runs` runs of the end.

    `gains` are end minus start of pass@k at each k. `crossing` is the k from which the end is below the
    start, None where it never is up to all samples; its interval has None for the same. `gained` are problems
    that the end solved in more of its runs than the start, at least once each; `lost` those in fewer.
    `bands` part the gain by how often the start solves a problem. `budget` is the end's operations over those
    of the start, 0 where they are not known.
    """

    n: int
    samples: int
    runs: int
    start: Curve
    end: Curve
    gains: tuple[Difference, ...]
    crossing: float | None
    crossing_bounds: tuple[float | None, float | None]
    gained: tuple[str, ...]
    lost: tuple[str, ...]
    bands: tuple[Band, ...] = ()
    budget: float = 0.0


def reach(start: Sequence[CompletionSet], end: Sequence[CompletionSet], k: int = 0, seed: int = 0) -> Reach:
    """Compare samples of the same problems by the runs of two policies, up to `k` (0: all samples).

    The policies are called as their first runs. Raises `InputError` for other problems, another number of
    samples, a single sample, or too large a k.
    """
    drawn = [[_answers(one) for one in runs] for runs in (start, end)]
    first = drawn[0][0]
    if any(one.keys() != first.keys() for runs in drawn for one in runs):
        raise InputError(f"{start[0].name} and {end[0].name} answer different problems. Sample the same ones")
    sizes = {len(answers) for runs in drawn for one in runs for answers in one.values()}
    if len(sizes) > 1 or min(sizes) < 2:
        held = both([str(size) for size in sorted(sizes)])
        raise InputError(
            f"{start[0].name} and {end[0].name} have {held} samples a problem; both need the same number, "
            "above 1. Draw them with eval.num_samples=32 eval.temperature=1"
        )
    samples = sizes.pop()
    if k > samples:
        raise InputError(f"k={k} is larger than the {samples} samples a problem. Draw more, or lower it")
    curves = [_curve(runs, k or samples) for runs in drawn]
    ks = [one.k for one in curves[0]]
    chances = np.array([[pass_at_k(samples, right, size) for size in ks] for right in range(samples + 1)])
    right = [
        np.array([[[answer == "right" for answer in one[item]] for item in first] for one in runs])
        for runs in drawn
    ]
    grids = [chances[one.sum(axis=-1)] for one in right]  # [runs, problems, k]
    rows, paired = by_seed(start, end)
    before, after = grids[0][rows[0]], grids[1][rows[1]]
    gains = tuple(
        seed_difference(after[..., at], before[..., at], paired, seed=seed) for at in range(len(ks))
    )
    # how often each draw takes each problem; [draws, problems]
    picks = np.random.default_rng(seed).multinomial(len(first), [1 / len(first)] * len(first), DRAWS)
    means = [picks @ grid.mean(axis=0) / len(first) for grid in grids]
    crossings = [np.inf if (at := _crossing(ks, gain)) is None else at for gain in means[1] - means[0]]
    low, high = np.quantile(crossings, (0.025, 0.975), method="nearest")
    solved = [(grid > 0).mean(axis=0)[:, -1] for grid in grids]
    return Reach(
        n=len(first),
        samples=samples,
        runs=len(end),
        start=Curve(start[0].name, curves[0], _bounds(means[0])),
        end=Curve(end[0].name, curves[1], _bounds(means[1])),
        gains=gains,
        crossing=_crossing(ks, np.array([gain.estimate for gain in gains])),
        crossing_bounds=(_finite(low), _finite(high)),
        gained=tuple(item for item, before, after in zip(first, *solved, strict=True) if after > before),
        lost=tuple(item for item, before, after in zip(first, *solved, strict=True) if after < before),
        bands=by_difficulty(right[0][rows[0]], right[1][rows[1]], paired, seed),
    )


def _answers(one: CompletionSet) -> dict[str, list[str | None]]:
    """The answers of each problem; right ones share a name."""
    found: dict[str, list[str | None]] = {}
    for (problem, _), grade in one.grades.items():
        found.setdefault(problem, []).append("right" if grade.flexible else grade.flexible_value)
    return found


def _curve(runs: Sequence[dict[str, list[str | None]]], most: int) -> tuple[Sampled, ...]:
    """The mean of the curves of several runs at each k up to `most`."""
    curves = [sampling_curve(list(one.values()), "right", most) for one in runs]
    return tuple(
        Sampled(
            of[0].k, *(float(np.mean([getattr(one, part) for one in of])) for part in ("passed", "voted"))
        )
        for of in zip(*curves, strict=True)
    )


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
    for one, bounds, other, other_bounds, gained in ends:
        cells = {
            "pass@k before": Cell(percent(one.passed), one.passed, span(*bounds)),
            "pass@k after": Cell(percent(other.passed), other.passed, span(*other_bounds)),
            "gain": gap(gained),
            "maj@k before": share(one.voted),
            "maj@k after": share(other.voted),
        }
        rows.append(Row(str(one.k), cells))
    return Table(f"Samples of {found.end.name}, before and after", "k", tuple(rows))


def outcomes(several: Sequence[Reach]) -> list[str]:
    """What became of each: "expanded", "sharpened", "narrowed", or "" where nothing can be told.

    Claims at k = 1 and at the largest k are each a family over all of them (Holm).
    """
    p_values = [holm([found.gains[at].p for found in several]) for at in (0, -1)]
    return [_outcome(found, *p) for found, *p in zip(several, *p_values, strict=True)]


def _outcome(found: Reach, p_first: float, p_last: float) -> str:
    first, last = found.gains[0], found.gains[-1]
    if p_last >= ALPHA:
        return ""
    if last.estimate > 0:
        return "expanded"
    return "sharpened" if first.estimate > 0 and p_first < ALPHA else "narrowed"


def crossing(found: Reach) -> tuple[str, str]:
    """The k from which the end is below the start, `k = 3.2` or `no crossing`, and its 95 % interval."""
    at, low, high = (
        "no crossing" if k is None else f"k = {k:.1f}" for k in (found.crossing, *found.crossing_bounds)
    )
    return at, "" if found.crossing_bounds == (None, None) else f"{low} to {high}"


def reach_sentences(several: Sequence[Reach]) -> list[str]:
    """What the curves say of each: what was gained, where they cross, how many problems became reachable."""
    return [_sentences(found, outcome) for found, outcome in zip(several, outcomes(several), strict=True)]


def _sentences(found: Reach, outcome: str) -> str:
    k, name = found.end.points[-1].k, found.end.name
    if found.runs < ENOUGH:
        name = f"{'this run' if found.runs == 1 else 'these runs'} of {name}"
    start, tries = found.start.name, f"in {k} tries"
    verdict = {
        "expanded": f"{name} expanded: it solves more problems {tries} than {start}",
        "sharpened": f"{name} sharpened: better at k = 1 than {start}, and it solves fewer problems {tries}",
        "narrowed": f"{name} narrowed: it solves fewer problems {tries} than {start}",
        "": f"whether {name} solves more or fewer problems {tries} than {start} cannot be told at this n",
    }[outcome]
    at, interval = crossing(found)
    crossed = (
        f"the curves do not cross up to k = {k}" if found.crossing is None else f"the curves cross at {at}"
    )
    crossed += f" (95 % interval: {interval})" if interval else ""
    verdict += at_budget(found.budget, ", ")
    more = "newly reachable" if found.runs == 1 else "reached by more of the runs"
    fewer = "are lost" if found.runs == 1 else "by fewer"
    counted = (
        f"Of {found.n:,} problems {len(found.gained):,} are {more} in {found.samples} samples and "
        f"{len(found.lost):,} {fewer}; some of both is chance."
    )
    return f"{sentence(verdict)}; {crossed}. {counted}"
