"""Which figures a study has. A figure is one function that says in which section of the report it stands.

It takes `Findings` and returns a `Picture`, or None where its data are missing: no figure is drawn empty.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import combinations

from reckoner.analysis import plots
from reckoner.analysis.canvas import Count, Curve, Level, Picture, drawing, label
from reckoner.analysis.changes import Gain, gains
from reckoner.analysis.findings import Findings, Result
from reckoner.analysis.mistakes import KINDS
from reckoner.analysis.statistics import paired_difference
from reckoner.analysis.wording import points, sentence

Draw = Callable[[Findings], Picture | None]
STEPS = "calculations in the reference"
"""The grouping of `errors` that the figure of difficulty shows."""
SECTIONS: dict[str, list[Draw]] = {
    name: [] for name in ("accuracy", "learning", "reinforcement", "cost", "errors")
}
"""The sections of the report and their figures, in order."""


def figure(section: str) -> Callable[[Draw], Draw]:
    """Register a figure in a section of the report; an unknown section is a `KeyError`."""

    def register(draw_one: Draw) -> Draw:
        SECTIONS[section].append(draw_one)
        return draw_one

    return register


def draw(findings: Findings) -> dict[str, list[Picture]]:
    """All figures of a study by section, in the order of the report."""
    with drawing():
        return {
            section: [picture for one in figures if (picture := one(findings)) is not None]
            for section, figures in SECTIONS.items()
        }


@figure("accuracy")
def accuracy(findings: Findings) -> Picture | None:
    """Strict accuracy of each arm on test."""
    better, n = sum(pair.verdict == "better" for pair in findings.tested), f"{findings.n:,} test problems"
    title = f"{better} of {len(findings.tested)} trained arms do better than the best prompt on {n}"
    if not better:
        title = f"No trained arm does better than the best prompt on {n}"
    if not findings.tested:
        title = f"Accuracy on {n}"
    return plots.accuracy(_counts(findings.results), _base(findings), title) if findings.results else None


@figure("accuracy")
def differences(findings: Findings) -> Picture | None:
    """Every pair, also undeclared ones, as a family of its own; the verdict uses the declared tests."""
    if len(findings.results) < 2:
        return None
    shares = [result.source.shares() for result in findings.results]
    items = sorted(set.intersection(*map(set, shares)))
    scores = [[share[item] for item in items] for share in shares]
    gaps = {(b, a): paired_difference(scores[b], scores[a]) for a, b in combinations(range(len(scores)), 2)}
    return plots.differences([result.title for result in findings.results], gaps)


@figure("learning")
def training_loss(findings: Findings) -> Picture | None:
    """Loss of every run that logs one, in a panel for each kind of solution."""
    losses = defaultdict(list)
    for result, _ in findings.trained:
        steps, values = result.run.series("loss")
        if len(values) > 1:
            losses[result.run.variant].append(Curve(result.title, result.mark, steps, values))
    return plots.training_loss(losses) if losses else None


@figure("learning")
def dev_accuracy(findings: Findings) -> Picture | None:
    """Dev accuracy of supervised runs; those of a reward stand beside the reward."""
    supervised = [result for result, _ in findings.trained if not result.arm.rewarded]
    curves = [curve for result in supervised if (curve := _dev_curve(result))]
    return plots.dev_accuracy(curves) if curves else None


@figure("reinforcement")
def gain_groups(findings: Findings) -> Picture | None:
    """What the arms fixed and broke by template and category, else by calculations."""
    gained = gains(findings)
    if not gained:
        return None
    best = max(gained, key=lambda gain: gain.strict.estimate)
    wanted = [name for name in ("template", "category") if name in best.groups]
    wanted = wanted or [name for name in (STEPS,) if name in best.groups]
    groups = [
        (_group_label(name, group), [dict(gain.groups[name])[group] for gain in gained])
        for name in wanted
        for group, _ in best.groups[name]
    ]
    arms = [(gain.result.title, gain.result.mark) for gain in gained]
    return plots.changes(arms, groups, _groups_title(best, wanted[0])) if groups else None


@figure("reinforcement")
def gain_kinds(findings: Findings) -> Picture | None:
    """Kinds of error of the start and of every arm from it."""
    gained = gains(findings)
    best = max(gained, key=lambda gain: gain.strict.estimate, default=None)
    if best is None or not best.kinds:
        return None
    starts = {gain.start.arm.name: gain for gain in gained}.values()
    rows = [
        (
            KINDS[kind].title,
            [_kind_count(g.start, g.kinds.get(kind, (0, 0))[0]) for g in starts]
            + [_kind_count(g.result, g.kinds.get(kind, (0, 0))[1]) for g in gained],
        )
        for kind in best.kinds
    ]
    kind, (before, after) = max(best.kinds.items(), key=lambda item: abs(item[1][1] - item[1][0]))
    name, title = label(best.result.title), KINDS[kind].title
    return plots.kinds(
        rows, sentence(f"{name} changes most in {title}: from {before:,} to {after:,} answers")
    )


@figure("reinforcement")
def reward(findings: Findings) -> Picture | None:
    """Reward, and dev accuracy below it."""
    dev = [curve for result in _rewarded(findings) if (curve := _dev_curve(result))]
    curves = _curves(findings, "reward")
    return plots.reward(curves, dev) if curves else None


@figure("reinforcement")
def policy_health(findings: Findings) -> Picture | None:
    """KL, entropy, length and format of the completions in training."""
    signals = {name: lines for name in plots.SIGNALS if (lines := _curves(findings, name))}
    return plots.health(signals) if signals else None


@figure("cost")
def accuracy_by_cost(findings: Findings) -> Picture | None:
    """Accuracy on test against seconds of training."""
    timed = [result for result, training in findings.trained if training.seconds > 0]
    spent = [findings.spent(result) for result in timed]
    return plots.accuracy_by_cost(_counts(timed), spent, _base(findings)) if timed else None


@figure("cost")
def cost(findings: Findings) -> Picture | None:
    """Speed of supervised training, whose tokens mean the same in each run, and its memory."""
    timed = [
        (result, training)
        for result, training in findings.trained
        if training.seconds > 0 and not result.arm.rewarded
    ]
    if not timed:
        return None
    speeds = [Level(result.title, result.mark, t.tokens / t.seconds) for result, t in timed]
    memory = [
        Level(result.title, result.mark, t.peak_memory_bytes) for result, t in timed if t.peak_memory_bytes
    ]
    return plots.cost(speeds, memory if len(memory) == len(timed) else [])


@figure("errors")
def verdicts(findings: Findings) -> Picture | None:
    """What became of every answer."""
    shares = [
        {
            "correct": s.accuracy,
            "wrong": 1 - s.accuracy - s.no_answer - s.truncated,
            "no ####": s.no_answer,
            "truncated": s.truncated,
        }
        for s in (result.score for result in findings.results)
    ]
    return plots.verdicts([result.title for result in findings.results], shares) if shares else None


@figure("errors")
def accuracy_by_steps(findings: Findings) -> Picture | None:
    """Accuracy by the number of calculations, of trained arms and the best prompt."""
    curves = [
        {g.label: Count(result.title, result.mark, g.n - g.wrong, g.n) for g in profile.groups[STEPS]}
        for result, profile in zip(findings.results, findings.profiles, strict=True)
        if STEPS in profile.groups and (result.run.training is not None or result is findings.baseline)
    ]
    return plots.accuracy_by_steps(curves) if curves else None


def _counts(results: Sequence[Result]) -> list[Count]:
    return [Count(r.title, r.mark, round(r.score.correct), r.score.n) for r in results]


def _base(findings: Findings) -> Count | None:
    """The best prompt, by the reading by which it counts."""
    base = findings.baseline
    return Count(base.title, base.mark, round(base.solved * base.score.n), base.score.n) if base else None


def _rewarded(findings: Findings) -> list[Result]:
    return [result for result, _ in findings.trained if result.arm.rewarded]


def _curves(findings: Findings, name: str) -> list[Curve]:
    """A logged value of the arms that learned from a reward, against steps."""
    series = [(result, *result.run.series(name)) for result in _rewarded(findings)]
    return [Curve(result.title, result.mark, x, y) for result, x, y in series if len(x) > 1]


def _dev_curve(result: Result) -> Curve | None:
    """Dev accuracy of one run; the number of dev problems is the same in each of its evaluations."""
    x, solved = result.run.series("dev_strict")
    _, sizes = result.run.series("dev_n")
    if not x or len(solved) != len(sizes) or not all(sizes):
        return None
    shares = [k / n for k, n in zip(solved, sizes, strict=True)]
    return Curve(result.title, result.mark, x, shares, int(sizes[-1]))


def _group_label(grouping: str, group: str) -> str:
    if grouping == "template":
        return {"in train": "seen templates", "not in train": "unseen templates"}[group]
    return f"{group} calculations" if grouping == STEPS else group or "none"


def _groups_title(best: Gain, grouping: str) -> str:
    """What the arm that gained most did in the groups that are large enough to stand in a title."""
    gaps = {group: gap for group, gap in best.groups[grouping] if gap.n >= plots.ENOUGH}
    named = sorted(gaps, key=lambda group: -gaps[group].estimate)
    changes = " and ".join(
        f"{points(gaps[group].estimate)} on {_group_label(grouping, group)}"
        for group in (*named[:1], *named[1:][-1:])
    )
    gained = changes or points(best.strict.estimate)
    return sentence(f"{label(best.result.title)} gains {gained} (points)")


def _kind_count(result: Result, k: int) -> Count:
    return Count(result.title, result.mark, k, len(result.source.grades))
