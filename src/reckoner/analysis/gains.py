"""What reinforcement learning changed: each arm that learned from a reward against the arm it starts from, problem by problem.

Strict and flexible grading stand side by side with the format rate, so that learning the format cannot pass for learning
to solve.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reckoner.analysis.compare import Pair
from reckoner.analysis.findings import Findings, Result
from reckoner.analysis.mistakes import GROUPINGS, KINDS
from reckoner.analysis.readers import CompletionSet
from reckoner.analysis.statistics import Difference, paired_difference

REWARDED = ("ppo", "grpo")
"""Methods that learn from a reward."""

Groups = tuple[tuple[str, Difference], ...]
"""Groups of problems by label, in order, each with the difference on its problems."""


@dataclass(frozen=True, slots=True)
class Gain:
    """One arm minus the arm it starts from, on the problems that both answered.

    `pair` is their declared comparison, None where none was declared. `groups` has strict differences by the groupings of
    `errors`, `kinds` the wrong answers of each kind, before and after.
    """

    result: Result
    start: Result
    pair: Pair | None
    strict: Difference
    flexible: Difference
    groups: Mapping[str, Groups]
    kinds: Mapping[str, tuple[int, int]]

    @property
    def gained(self) -> bool:
        """Whether the declared test found the arm better than its start."""
        return self.pair is not None and self.pair.verdict == "better"


def gains(found: Findings) -> list[Gain]:
    """The gain of every arm of PPO or GRPO whose start has a result too, in the order of the study."""
    pairs = {(pair.a, pair.b): pair for pair in found.pairs}
    learned = ((result, found.start(result)) for result in found.results if result.arm.method in REWARDED)
    return [
        _gain(found, after, before, pairs.get((after.arm.name, before.arm.name)))
        for after, before in learned
        if before
    ]


def _gain(found: Findings, after: Result, before: Result, pair: Pair | None) -> Gain:
    profiles = [found.profiles[found.results.index(result)] for result in (before, after)]
    counts = [{kind.kind: kind.count for kind in profile.kinds} for profile in profiles]
    strict, flexible = (
        (after.source.shares(reading), before.source.shares(reading)) for reading in ("strict", "flexible")
    )
    items = [item for item in strict[1] if item in strict[0]]

    def difference(
        chosen: Sequence[str], shares: tuple[Mapping[str, float], Mapping[str, float]] = strict
    ) -> Difference:
        a, b = ([share[item] for item in chosen] for share in shares)
        return paired_difference(a, b)

    return Gain(
        result=after,
        start=before,
        pair=pair,
        strict=difference(items),
        flexible=difference(items, flexible),
        groups={
            name: tuple((label, difference(part)) for label, part in _groups(before.source, items, name))
            for name in profiles[0].groups
        },
        kinds={
            kind: (counts[0].get(kind, 0), counts[1].get(kind, 0))
            for kind in KINDS
            if any(kind in known for known in counts)
        },
    )


def _groups(source: CompletionSet, items: Sequence[str], grouping: str) -> list[tuple[str, list[str]]]:
    """Labels of one grouping of `errors` in order, each with its problems."""
    parts: dict[tuple[int, str], list[str]] = defaultdict(list)
    for item in items:
        parts[GROUPINGS[grouping](source.problems[item])].append(item)
    return [(label, parts[rank, label]) for rank, label in sorted(parts)]


def format_rate(source: CompletionSet) -> float:
    """Share of the answers with one marker and a number behind it, right or wrong."""
    return sum(
        grade.markers == 1 and grade.strict_value is not None for grade in source.grades.values()
    ) / len(source.grades)


def length(source: CompletionSet) -> float:
    """Mean tokens of an answer, the stop token included."""
    return sum(completion.token_count for completion in source.completions.values()) / len(source.completions)
