"""Which figures a study has, and what goes into each. A figure whose data are missing is left out, never drawn empty."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

from reckoner.analysis import cost_plots, learning_plots, plots, rollout_plots, wording
from reckoner.analysis.canvas import Picture, drawing, label, sentence
from reckoner.analysis.findings import Findings, Result, final_loss, phases
from reckoner.analysis.gains import REWARDED, Gain, gains
from reckoner.analysis.parts import Count, Curve, Level
from reckoner.analysis.statistics import paired_difference
from reckoner.analysis.taxonomy import KINDS

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
    yield from _reinforcement(found)
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
    """Every pair, also the undeclared ones, as a family of its own; the verdict stays with the declared tests."""
    shares = [result.source.shares() for result in found.results]
    items = sorted(set.intersection(*map(set, shares)))
    scores = [[share[item] for item in items] for share in shares]
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
        yield learning_plots.training_loss(losses)
        yield learning_plots.final_loss(ends, last)
    supervised = [result for result, _ in found.trained if result.arm.method not in REWARDED]
    if curves := [curve for result in supervised if (curve := _dev_curve(result, "step"))]:
        yield learning_plots.dev_accuracy(curves, "step")
    if curves := [
        _after_start(found, result, curve)
        for result, _ in found.trained
        if (curve := _dev_curve(result, "seconds"))
    ]:
        yield learning_plots.dev_accuracy(curves, "seconds")


def _after_start(found: Findings, result: Result, curve: Curve) -> Curve:
    """The curve moved to the right by the seconds of what the arm starts from."""
    start = found.start(result)
    return replace(curve, x=[x + found.spent(start) for x in curve.x]) if start else curve


def _reinforcement(found: Findings) -> Iterator[Picture]:
    """Figures of the arms that learned from a reward."""
    learned = [result for result, _ in found.trained if result.arm.method in REWARDED]

    def curves(name: str, by: str = "step") -> list[Curve]:
        return [
            Curve(r.title, r.mark, x, y) for r in learned for x, y in [r.run.series(name, by)] if len(x) > 1
        ]

    if curves("reward"):
        for by in ("step", "seconds"):
            yield rollout_plots.reward(
                curves("reward", by), [curve for r in learned if (curve := _dev_curve(r, by))], by
            )
    if signals := {name: lines for name in rollout_plots.SIGNALS if (lines := curves(name))}:
        yield rollout_plots.health(signals)
    if told := gains(found):
        yield from _gains(told)


def _gains(told: Sequence[Gain]) -> Iterator[Picture]:
    """What the arms fixed and broke by template and category (else by calculations), and by kind of error."""
    best = max(told, key=lambda gain: gain.strict.estimate)
    wanted = [name for name in ("template", "category") if name in best.groups] or [
        name for name in (STEPS,) if name in best.groups
    ]
    arms = [(gain.result.title, gain.result.mark) for gain in told]
    groups = [
        (_group_label(name, group), [dict(gain.groups[name])[group] for gain in told])
        for name in wanted
        for group, _ in best.groups[name]
    ]
    if groups:
        yield rollout_plots.changes(arms, groups, _groups_title(best, wanted[0]))
    if best.kinds:
        starts = {gain.start.arm.name: gain for gain in told}.values()
        rows = {
            kind: [_kind_count(g.start, g.kinds.get(kind, (0, 0))[0]) for g in starts]
            + [_kind_count(g.result, g.kinds.get(kind, (0, 0))[1]) for g in told]
            for kind in best.kinds
        }
        yield rollout_plots.kinds(
            [(KINDS[kind].title, counts) for kind, counts in rows.items()], _kinds_title(best)
        )


def _group_label(grouping: str, group: str) -> str:
    if grouping == "template":
        return {"in train": "seen templates", "not in train": "unseen templates"}[group]
    return f"{group} calculations" if grouping == STEPS else group or "none"


def _groups_title(best: Gain, grouping: str) -> str:
    """What the arm that gained most did in the groups that are large enough to stand in a title."""
    gaps = {group: gap for group, gap in best.groups[grouping] if gap.n >= plots.ENOUGH}
    named = sorted(gaps, key=lambda group: -gaps[group].estimate)
    told = " and ".join(
        f"{wording.points(gaps[group].estimate)} on {_group_label(grouping, group)}"
        for group in (*named[:1], *named[1:][-1:])
    )
    return sentence(
        f"{label(best.result.title)} gains {told or wording.points(best.strict.estimate)} (points)"
    )


def _kind_count(result: Result, k: int) -> Count:
    return Count(result.title, result.mark, k, len(result.source.grades))


def _kinds_title(best: Gain) -> str:
    kind, (before, after) = max(best.kinds.items(), key=lambda item: abs(item[1][1] - item[1][0]))
    return sentence(
        f"{label(best.result.title)} changes most in {KINDS[kind].title}: from {before:,} to {after:,} answers"
    )


def _dev_curve(result: Result, by: str) -> Curve | None:
    """Dev accuracy of one run; the number of dev problems is the same in each of its evaluations."""
    x, solved = result.run.series("dev_strict", by)
    _, sizes = result.run.series("dev_n", by)
    if not x or len(solved) != len(sizes) or not all(sizes):
        return None
    return Curve(
        result.title, result.mark, x, [k / n for k, n in zip(solved, sizes, strict=True)], int(sizes[-1])
    )


def _cost(found: Findings, base: Count | None) -> Iterator[Picture]:
    timed = [(result, training) for result, training in found.trained if training.seconds > 0]
    if supervised := [(result, training) for result, training in timed if result.arm.method not in REWARDED]:
        yield cost_plots.throughput(
            [Level(result.title, result.mark, t.tokens / t.seconds) for result, t in supervised],
            [Level(result.title, result.mark, t.samples / t.seconds) for result, t in supervised],
        )
    if spent := [(result.title, known) for result, _ in timed if (known := phases(result.run))]:
        yield cost_plots.phases(spent)
    if timed:
        yield cost_plots.accuracy_by_cost(
            [_count(result) for result, _ in timed], [found.spent(result) for result, _ in timed], base
        )
    if timed and all(training.peak_memory_bytes for _, training in timed):
        yield cost_plots.memory(
            [Level(result.title, result.mark, training.peak_memory_bytes) for result, training in timed]
        )


def _verdicts(found: Findings) -> Picture:
    shares = [
        {
            "correct": s.accuracy,
            "wrong": 1 - s.accuracy - s.no_answer - s.truncated,
            "no answer": s.no_answer,
            "truncated": s.truncated,
        }
        for s in (result.score for result in found.results)
    ]
    return plots.verdicts([result.title for result in found.results], shares)


def _by_steps(found: Findings) -> Iterator[Picture]:
    shown = [
        (result, profile.groups[STEPS])
        for result, profile in zip(found.results, found.profiles, strict=True)
        if STEPS in profile.groups
    ]
    curves = [
        {group.label: Count(result.title, result.mark, group.n - group.wrong, group.n) for group in groups}
        for result, groups in shown
        if result.run.training is not None or result is found.baseline
    ]
    if curves:
        yield plots.accuracy_by_steps(curves)
