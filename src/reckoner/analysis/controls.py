"""What a gain of reinforcement learning is made of: format, more training, own samples, the reward itself.

All arms start from the same model and spend the same measured operations. With S the start, M more SFT,
J rejection sampling and R the arm itself, each with its strict and flexible accuracy:

    R.strict - S.strict  =  [(R.strict - R.flexible) - (S.strict - S.flexible)]     format
                          + [M.flexible - S.flexible]                               more training
                          + [J.flexible - M.flexible]                               own right samples
                          + [R.flexible - J.flexible]                               the reward itself

The parts add up exactly. Where a control has no result its step falls to the next one, which then names
both. Rewards that know no gold (coin, format, majority) stand beside the sum: what they gain, right rewards
need not have given.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reckoner.analysis.findings import Findings, Gain, Reading, Result, grid
from reckoner.analysis.seeds import by_seed, seed_difference
from reckoner.analysis.statistics import Difference, holm

STAGES = {"sft": "more training", "rejection": "own right samples"}
"""The method of a control and what its step stands for, in order."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a gain; `p_holm` is over the parts of that gain."""

    title: str
    difference: Difference
    p_holm: float


@dataclass(frozen=True, slots=True)
class Ending:
    """The steps that the runs of an arm kept, by dev, of `steps`; dev's share solved there and at the end.

    An arm whose kept step is 0 is its own start, and says nothing about its reward: the end does.
    """

    kept: tuple[int, ...]
    steps: int
    dev_kept: float
    dev_last: float


@dataclass(frozen=True, slots=True)
class Split:
    """The parts of one gain, and the gains of its controls over the same start, strict, by title.

    `budgets` are the operations of each control over those of the arm, by title; 0 where they are not known.
    `endings` tell of the arm and its controls, by title, where a run kept another step than its last.
    """

    gain: Gain
    parts: tuple[Part, ...]
    placebos: tuple[Part, ...]
    budgets: dict[str, float]
    endings: dict[str, Ending]


def splits(findings: Findings) -> list[Split]:
    """The gains that have a control, split; a gain without one is left out."""
    return [split for gain in findings.gains if (split := _split(findings, gain))]


def _split(findings: Findings, gain: Gain) -> Split | None:
    controls = [one for one in findings.results if one.arm.control_of == gain.result.arm.name]
    stages = {one.arm.method: one for one in controls if one.arm.method in STAGES}
    if not controls:
        return None
    arms = [gain.start, gain.result, *controls]
    answered = [one.source.shares().keys() for one in arms]
    items = [item for item in answered[0] if all(item in one for one in answered)]
    rows, paired = by_seed(*(one.runs for one in arms))
    runs = {id(one): own for one, own in zip(arms, rows, strict=True)}

    def scores(one: Result, reading: Reading = "flexible") -> NDArray[np.float64]:
        return grid(one, items, reading)[runs[id(one)]]

    def formal(one: Result) -> NDArray[np.float64]:
        # 0 to 2: right by strict grading alone, as "#### 18" with another number after it, gives 2
        return 1 + scores(one, "strict") - scores(one)

    steps = {"format": (formal(gain.result), formal(gain.start))}
    before, owed = gain.start, ""
    for method, title in STAGES.items():
        if one := stages.get(method):
            steps[f"{owed}{title}"] = scores(one), scores(before)
            before, owed = one, ""
        else:
            owed += f"{title} and "
    steps[f"{owed}the reward itself"] = scores(gain.result), scores(before)
    placebos = {
        one.title: (scores(one, "strict"), scores(gain.start, "strict"))
        for one in controls
        if one.arm.method not in STAGES
    }
    own = _spent(gain.result)
    budgets = {one.title: _spent(one) / own if own else 0.0 for one in controls}
    endings = {one.title: ending for one in arms[1:] if (ending := _ending(one))}
    return Split(gain, _tested(steps, paired), _tested(placebos, paired), budgets, endings)


def _ending(one: Result) -> Ending | None:
    """None where every run kept its last step, or logged no dev evaluation."""
    kept, solved = [], []
    for run in one.arm.runs.values():
        steps, shares = run.series("dev_strict")
        _, sizes = run.series("dev_n")
        by_step = dict(zip(map(int, steps), np.divide(shares, sizes or 1.0), strict=True))
        best = run.training.best_step if run.training else None
        if best not in by_step:
            return None
        kept.append(best)
        solved.append((by_step[best], by_step[max(by_step)], max(by_step)))
    if all(best == last for best, (_, _, last) in zip(kept, solved, strict=True)):
        return None
    dev_kept, dev_last, _ = np.mean(solved, axis=0)
    return Ending(tuple(kept), max(last for _, _, last in solved), float(dev_kept), float(dev_last))


def _spent(one: Result) -> float:
    """Operations of the arm without its start, which it shares with its controls."""
    return (one.run.training.flops or 0.0) if one.run.training else 0.0


def _tested(
    steps: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]], paired: bool
) -> tuple[Part, ...]:
    found = {
        title: seed_difference(*scores, paired, most=2.0 if title == "format" else 1.0)
        for title, scores in steps.items()
    }
    adjusted = holm([one.p for one in found.values()])
    return tuple(Part(title, one, p) for (title, one), p in zip(found.items(), adjusted, strict=True))
