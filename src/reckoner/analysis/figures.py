"""Which figures a study has, and what goes into each. A figure whose data are missing is left out, never drawn empty."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import combinations

import numpy as np

from reckoner.analysis import plots, rollout_plots
from reckoner.analysis.canvas import Picture, drawing
from reckoner.analysis.findings import Findings, Result, final_loss
from reckoner.analysis.plots import Count, Curve, Level
from reckoner.analysis.statistics import paired_difference
from reckoner.analysis.study_records import Training

STEPS = "calculations in the reference"
"""The grouping of `errors` that the figure of difficulty shows."""


def draw(found: Findings) -> dict[str, Picture]:
    """All figures of a study by name, in the order of the report."""
    with drawing():
        return {picture.name: picture for picture in _pictures(found)}


def _pictures(found: Findings) -> Iterator[Picture]:
    counts = [_count(result) for result in found.results]
    base = _count(found.baseline) if found.baseline else None
    if counts:
        yield plots.accuracy(counts, base, _accuracy_title(found))
    if len(counts) > 1:
        yield _differences(found)
    yield from _learning(found)
    yield from _cost(found, base)
    if counts:
        yield _verdicts(found)
        yield from _by_steps(found)


def _count(result: Result) -> Count:
    return Count(result.title, result.mark, round(result.score.correct), result.score.n)


def _accuracy_title(found: Findings) -> str:
    better = sum(pair.verdict == "better" for pair in found.tested)
    if not found.tested:
        return f"Accuracy on {found.n:,} test problems"
    if not better:
        return f"No trained arm does better than the best prompt on {found.n:,} test problems"
    return f"{better} of {len(found.tested)} trained arms do better than the best prompt on {found.n:,} test problems"


def _differences(found: Findings) -> Picture:
    """Every pair, also the undeclared ones: intervals only, the tests stay with the declared family."""
    items = sorted(set.intersection(*({item for item, _ in result.source.grades} for result in found.results)))
    scores = []
    for result in found.results:
        right = defaultdict(list)
        for (item, _), grade in result.source.grades.items():
            right[item].append(grade.strict)
        scores.append([np.mean(right[item]) for item in items])
    gaps = {(b, a): paired_difference(scores[b], scores[a]) for a, b in combinations(range(len(scores)), 2)}
    return plots.differences([result.title for result in found.results], gaps)


def _learning(found: Findings) -> Iterator[Picture]:
    losses, ends = defaultdict(list), defaultdict(list)
    last = 0
    for result, _ in found.trained:
        (steps, values), final = result.run.series("loss"), final_loss(result.run)
        if final is not None and len(values) > 1:
            mean, last = final
            losses[result.run.variant].append(Curve(result.title, result.mark, steps, values))
            ends[result.run.variant].append(Level(result.title, result.mark, mean, values[0]))
    if losses:
        yield plots.training_loss(losses)
        yield plots.final_loss(ends, last)
    for by in ("step", "seconds"):
        if curves := [curve for result, _ in found.trained if (curve := _dev_curve(result, by))]:
            yield plots.dev_accuracy(curves, by)
    yield from _reinforcement(found)


def _reinforcement(found: Findings) -> Iterator[Picture]:
    """Figures of the arms that learned from a reward."""
    drawn = [result for result, _ in found.trained if len(result.run.series("exact_match")[0]) > 1]
    if not drawn:
        return

    def curves(name: str) -> list[Curve]:
        return [Curve(r.title, r.mark, x, y) for r in drawn for x, y in [r.run.series(name)] if len(x) > 1]

    yield rollout_plots.exact_match(curves("exact_match"), [curve for r in drawn if (curve := _dev_curve(r, "step"))])
    if signals := {name: lines for name in rollout_plots.SIGNALS if (lines := curves(name))}:
        yield rollout_plots.health(signals)


def _dev_curve(result: Result, by: str) -> Curve | None:
    """Dev accuracy of one run; the number of dev problems is the same in each of its evaluations."""
    x, solved = result.run.series("dev_strict", by)
    _, sizes = result.run.series("dev_n", by)
    if not x or len(solved) != len(sizes) or not all(sizes):
        return None
    return Curve(result.title, result.mark, x, [k / n for k, n in zip(solved, sizes, strict=True)], int(sizes[-1]))


def _cost(found: Findings, base: Count | None) -> Iterator[Picture]:
    timed = [(result, training) for result, training in found.trained if training.seconds > 0]

    def levels(value: Callable[[Training], float]) -> list[Level]:
        return [Level(result.title, result.mark, value(training)) for result, training in timed]

    if timed:
        yield plots.throughput(levels(lambda t: t.tokens / t.seconds), levels(lambda t: t.samples / t.seconds))
        yield plots.accuracy_by_cost([_count(result) for result, _ in timed], [training.seconds for _, training in timed], base)
        if all(training.peak_memory_bytes for _, training in timed):
            yield plots.memory(levels(lambda t: t.peak_memory_bytes))


def _verdicts(found: Findings) -> Picture:
    shares = [
        {"correct": s.accuracy, "wrong": 1 - s.accuracy - s.no_answer - s.truncated, "no answer": s.no_answer, "truncated": s.truncated}
        for s in (result.score for result in found.results)
    ]
    return plots.verdicts([result.title for result in found.results], shares)


def _by_steps(found: Findings) -> Iterator[Picture]:
    shown = [(result, profile.groups[STEPS]) for result, profile in zip(found.results, found.profiles, strict=True) if STEPS in profile.groups]
    curves = [
        {group.label: Count(result.title, result.mark, group.n - group.wrong, group.n) for group in groups}
        for result, groups in shown
        if result.run.training is not None or result is found.baseline
    ]
    if curves:
        yield plots.accuracy_by_steps(curves)
