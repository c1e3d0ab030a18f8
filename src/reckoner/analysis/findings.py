"""What a study found: every figure, table and sentence of the report takes its numbers from here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from reckoner.analysis import compare
from reckoner.analysis.canvas import Mark, marks
from reckoner.analysis.compare import Comparison, Pair
from reckoner.analysis.intervals import Interval
from reckoner.analysis.mistakes import GROUPINGS, KINDS, Diagnosis, Profile, diagnoses, profile
from reckoner.analysis.pairs import forgiven_grades
from reckoner.analysis.reach import Reach, reach
from reckoner.analysis.readers import CompletionSet, Key, evaluated_set, merged, sample_step
from reckoner.analysis.seeds import accuracy_interval, by_seed, counts_interval, seed_difference
from reckoner.analysis.statistics import Difference
from reckoner.analysis.study_records import ArmRecord, RunRecord, Study
from reckoner.runs.documents import SEARCHED, Evaluation, Training

Reading = Literal["strict", "flexible"]

LAST = 50
"""`final_loss` averages this many last logged steps, or the last tenth of a shorter log."""

PHASES = ("generate", "score", "update")
"""What a step of reinforcement learning does, in order."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the problems: the mean over an arm's runs of how many are right, how many there are, and the
    interval of the share, over the seeds too where they are enough.
    """

    right: float
    n: int
    bounds: Interval

    @property
    def share(self) -> float:
        return self.right / self.n


@dataclass(frozen=True, slots=True)
class Result:
    """One arm that was evaluated on test.

    `pair` is its declared comparison with the best prompt, None where there is none. `reading` is the
    grading by which the arm counts: "strict", or "flexible" for a prompt that solves more with the format
    forgiven. `source` holds the completions of all its `runs`, one a seed; `run` and `evaluation` are of the
    first.
    """

    arm: ArmRecord
    run: RunRecord
    mark: Mark
    score: compare.ArmScore
    pair: Pair | None
    evaluation: Evaluation
    source: CompletionSet
    runs: tuple[CompletionSet, ...]

    @property
    def seeds(self) -> int:
        """Runs of this arm that were evaluated."""
        return len(self.runs)

    @property
    def title(self) -> str:
        return self.arm.title

    @property
    def first_samples(self) -> dict[int, int]:
        """The sample number in `source` with which the run of each seed begins."""
        seeds = [seed for seed, run in self.arm.runs.items() if run.evaluation("test")]
        return {seed: at * sample_step(self.runs) for at, seed in enumerate(seeds)}

    @property
    def reading(self) -> Reading:
        return "flexible" if self.arm.untrained and self.score.flexible > self.score.accuracy else "strict"

    @property
    def solved(self) -> float:
        """Share of the problems solved, by `reading`."""
        return self.score.flexible if self.reading == "flexible" else self.score.accuracy

    def parts(self, grouping: str, reading: Reading = "strict") -> dict[str, Part]:
        """The problems by a grouping of `mistakes`, by label in its order."""
        items = list(self.source.shares(reading))
        at, scores = {item: index for index, item in enumerate(items)}, grid(self, items, reading)
        found = {}
        for label, members in _groups(self.source, items, grouping):
            chosen = scores[:, [at[item] for item in members]]
            right = float(chosen.mean(axis=0).sum())
            found[label] = Part(right, len(members), accuracy_interval(chosen))
        return found


@dataclass(frozen=True, slots=True)
class Gain:
    """One arm minus the arm it starts from, on the problems that both answered.

    `pair` is their declared comparison, None where none was declared. `groups` has the strict difference in
    each labelled group of problems, by the groupings of `mistakes`. `kinds` has the wrong answers of each
    kind, before and after, as means over the runs. `budget` is that of `Findings.budget`.
    """

    result: Result
    start: Result
    pair: Pair | None
    strict: Difference
    flexible: Difference
    groups: Mapping[str, tuple[tuple[str, Difference], ...]]
    kinds: Mapping[str, tuple[float, float]]
    budget: float


@dataclass(frozen=True)
class Findings:
    """A study with its comparison on test. `marks` has one for each arm; `baseline` is the best prompt.

    `comparison` is None where no arm has a result. Its scores are strict; its pairs grade every prompt by its
    `reading`, so that no trained arm is compared with less. `strict_pairs` are the same pairs without that.
    """

    study: Study
    marks: tuple[Mark, ...]
    results: tuple[Result, ...]
    comparison: Comparison | None
    strict_pairs: tuple[Pair, ...] = ()

    @property
    def n(self) -> int:
        """Problems that all arms were compared on."""
        return self.comparison.n if self.comparison else 0

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The declared comparisons, trained arms graded strictly and prompts by their better reading."""
        return self.comparison.pairs if self.comparison else ()

    @property
    def trained(self) -> list[tuple[Result, Training]]:
        """Results of arms that trained, with what that took."""
        return [(result, result.run.training) for result in self.results if result.run.training is not None]

    @property
    def baseline(self) -> Result | None:
        """The result of the best prompt on dev."""
        return self.of(self.study.baseline) if self.study.baseline else None

    @property
    def best(self) -> list[Result]:
        """The arms that solved most; only trained ones where a test compares them with the best prompt."""
        tested = {pair.a for pair in self.tested}
        arms = [result for result in self.results if not tested or result.arm.name in tested]
        most = max(result.solved for result in arms)
        return [result for result in arms if result.solved == most]

    @property
    def tested(self) -> list[Pair]:
        """The comparisons of trained arms with the best prompt."""
        return [
            result.pair
            for result in self.results
            if result.pair is not None and result.arm.method != "prompt"
        ]

    @cached_property
    def diagnoses(self) -> list[dict[Key, Diagnosis | None]]:
        """What is wrong with each completion of every result, in the order of the study."""
        return [diagnoses(result.source) for result in self.results]

    @cached_property
    def profiles(self) -> list[Profile]:
        """The errors of every result, counted."""
        return [
            profile(result.source, known) for result, known in zip(self.results, self.diagnoses, strict=True)
        ]

    def mistakes(self, result: Result) -> dict[str, float]:
        """The wrong answers of each kind in a run, the mean over the runs of an arm."""
        found = self.profiles[self.results.index(result)]
        return {kind.kind: kind.count / result.seeds for kind in found.kinds}

    @cached_property
    def gains(self) -> list[Gain]:
        """What each rewarded arm gained over its start, where that has a result too.

        Strict and flexible grading stand side by side, so that learning the format cannot pass for learning
        to solve.
        """
        rewarded = [result for result in self.results if result.arm.rewarded and not result.arm.control_of]
        return [_gain(self, after, before) for after in rewarded if (before := self.start(after))]

    @cached_property
    def reaches(self) -> list[Reach]:
        """What each reinforcement learning reaches in several tries, where `study.pass_k` drew them."""
        drawn = answered(self.study, self.study.samples) if self.study.samples else {}
        several = []
        for gain in self.gains:
            before, after = (drawn.get(one.arm.name, {}) for one in (gain.start, gain.result))
            seeds = [seed for seed in after if seed in before or gain.start.arm.seeds == 1]
            starts = before.values() if gain.start.arm.seeds == 1 else [before[seed] for seed in seeds]
            ends = [after[seed] for seed in seeds]
            if starts and ends:
                named = [[replace(run, name=gain.start.title) for run in starts]]
                named.append([replace(run, name=gain.result.title) for run in ends])
                found = reach(named[0], named[1], self.study.pass_k)
                several.append(replace(found, budget=gain.budget))
        return several

    def of(self, arm: ArmRecord) -> Result | None:
        """The result of one arm."""
        return next((result for result in self.results if result.arm is arm), None)

    def start(self, result: Result) -> Result | None:
        """The result of the arm that this one starts from, which stands before it in the study.

        What starts from the untrained model is compared with that model under the same prompt.
        """
        earlier = list(takewhile(lambda other: other is not result, self.results))
        if result.arm.after or result.arm.method == "prompt":
            return next((other for other in earlier if other.arm.name in result.arm.after), None)
        asked, prompt = [other for other in earlier if other.arm.untrained], result.evaluation.prompt_hash
        alike = [other for other in asked if other.evaluation.prompt_hash == prompt]
        # a search may end at the same prompt; the declared arm has the samples and the declared comparison
        return max(alike, key=lambda other: other.arm.name != SEARCHED, default=None)

    def spent(self, result: Result) -> float:
        """Seconds of training, those of what the arm starts from included."""
        own = result.run.training.seconds if result.run.training else 0.0
        start = self.start(result)
        return own + (self.spent(start) if start else 0.0)

    def operations(self, result: Result) -> float:
        """Floating-point operations of training, those of what the arm starts from included; 0 where one was
        not counted, and for a prompt of the base model.
        """
        training, start = result.run.training, self.start(result)
        before = self.operations(start) if start else 0.0
        uncounted = (training and not training.flops) or (start and start.run.training and not before)
        return 0.0 if uncounted else ((training and training.flops) or 0.0) + before

    def budget(self, a: str, b: str) -> float:
        """The operations of arm a over those of arm b; 0 where one trained nothing or was not counted."""
        both = {one.arm.name: self.operations(one) for one in self.results if one.arm.name in (a, b)}
        return both[a] / both[b] if all(both.values()) else 0.0

    def title(self, name: str) -> str:
        """The title of the arm called `name`."""
        return self.study.arm(name).title


def find(study: Study) -> Findings:
    """Compare the arms of a study on test as it declared; `InputError` where that would be unfair."""
    return compared(study, answered(study, "test"))


def answered(study: Study, split: str) -> dict[str, dict[int, CompletionSet]]:
    """The completions of every arm that answered a split, by arm and seed."""
    sources = {
        arm.name: {
            seed: replace(evaluated_set(run, split), name=f"{arm.name}@{seed}")
            for seed, run in arm.runs.items()
            if run.evaluation(split)
        }
        for arm in study.arms
    }
    return {name: runs for name, runs in sources.items() if runs}


def compared(study: Study, sources: Mapping[str, Mapping[int, CompletionSet]]) -> Findings:
    """The findings from the completions on test, or on another set, by arm and seed.

    A prompt counts by the better of its strict and flexible score, in every comparison.
    """
    looks = marks([arm.method != "prompt" for arm in study.arms])
    if not sources:
        return Findings(study, tuple(looks), (), None)
    base = study.baseline.name if study.baseline is not None and study.baseline.name in sources else ""
    pairs = [pair for pair in study.pairs if sources.keys() >= set(pair)]
    baseline = "" if study.pairs else base
    runs = [run for each in sources.values() for run in each.values()]
    strict = compare.compare(runs, pairs, baseline, intersect=True)
    if study.pairs and not pairs:  # not the pairs of all arms, which nobody declared
        strict = replace(strict, pairs=())
    scores, comparison = {arm.name: arm for arm in strict.arms}, strict
    prompts = [name for name in sources if study.arm(name).untrained]
    forgiven = [name for name in prompts if scores[name].flexible > scores[name].accuracy]
    if forgiven and strict.pairs:
        fair = [
            run if arm not in forgiven else forgiven_grades(run)
            for arm, each in sources.items()
            for run in each.values()
        ]
        judged = compare.compare(fair, pairs, baseline, intersect=True).pairs
        comparison = replace(strict, pairs=judged)
    against = {pair.a: pair for pair in comparison.pairs if pair.b == base}
    results = []
    for arm, look in zip(study.arms, looks, strict=True):
        test = arm.run and arm.run.evaluation("test")
        if arm.run and test and arm.name in sources:
            source = merged(arm.name, list(sources[arm.name].values()))
            grid = tuple(sources[arm.name].values())
            results.append(
                Result(arm, arm.run, look, scores[arm.name], against.get(arm.name), test, source, grid)
            )
    return Findings(study, tuple(looks), tuple(results), comparison, strict.pairs)


@dataclass(frozen=True, slots=True)
class Spent:
    """What an arm took with all that it starts from, and its dev counts (right, all) at the common budget.

    The right ones are the mean of `runs` runs, each with what it had solved within the budget; `interval` is
    that of their share.
    """

    result: Result
    flops: float
    seconds: float
    dev: tuple[float, int] | None
    interval: Interval
    runs: int


def frontier(findings: Findings) -> list[Spent]:
    """The trained arms whose operations were measured, at the smallest budget that all of them reached.

    Dev is that of the last evaluation within this budget, which controls do not set; None where an arm's
    start alone took more.
    """
    totals = {
        result.arm.name: total for result, _ in findings.trained if (total := findings.operations(result))
    }
    own = [
        totals[one.arm.name] for one in findings.results if one.arm.name in totals and not one.arm.control_of
    ]
    budget = min(own, default=0.0)
    return [
        Spent(one, totals[one.arm.name], findings.spent(one), *_dev_within(findings, one, budget))
        for one in findings.results
        if one.arm.name in totals
    ]


def _dev_within(
    findings: Findings, result: Result, budget: float
) -> tuple[tuple[float, int] | None, Interval, int]:
    """Mean right and all dev problems of the runs of an arm at a budget, with interval and number of runs."""
    start = findings.start(result)
    before = findings.operations(start) if start and start.run.training else 0.0
    left = budget * (1 + 1e-9) - before
    counted = [one for run in result.arm.runs.values() if (one := _run_within(run, left))]
    if not counted:
        return None, (0.0, 1.0), 0
    right, n = [right for right, _ in counted], counted[0][1]
    return (sum(right) / len(right), n), counts_interval(right, n), len(right)


def _run_within(run: RunRecord, flops: float) -> tuple[float, int] | None:
    """Right and all dev problems of one run at its last evaluation within these operations of its own."""
    at, right = run.series("dev_strict", "flops")
    sizes = run.series("dev_n", "flops")[1]
    within = [index for index, spent in enumerate(at) if spent <= flops]
    if not within or len(right) != len(sizes) or not sizes[within[-1]]:
        return None
    return right[within[-1]], int(sizes[within[-1]])


@dataclass(frozen=True, slots=True)
class Phases:
    """What steps of reinforcement learning took: seconds of each phase, tokens drawn and learnt from."""

    seconds: tuple[float, float, float]
    generated: float
    trained: float


def phases(run: RunRecord) -> Phases | None:
    """The phases of a run of PPO or GRPO; None for any other run."""
    lines = [line for line in run.metrics if all(f"seconds_{phase}" in line for phase in PHASES)]
    generate, score, update = (sum(line[f"seconds_{phase}"] for line in lines) for phase in PHASES)
    if not generate or not update:
        return None
    drawn = sum(line.get("completions", 0) * line.get("length", 0) for line in lines)
    return Phases((generate, score, update), drawn, sum(line.get("trained_tokens", 0) for line in lines))


def final_loss(run: RunRecord) -> tuple[float, int] | None:
    """Mean training loss of the last logged steps and how many these are; None without a log."""
    losses = run.series("loss")[1]
    last = min(LAST, max(1, len(losses) // 10))
    return (sum(losses[-last:]) / last, last) if losses else None


def lost(findings: Findings, arm: ArmRecord) -> str:
    """Why an arm has no result, empty where it has one."""
    if findings.of(arm):
        return ""
    state = "not evaluated on test" if arm.state == "done" else arm.state
    return f"{state}: {arm.reason}" if arm.reason else state


def _gain(findings: Findings, after: Result, before: Result) -> Gain:
    counts = [findings.mistakes(result) for result in (before, after)]
    names = after.arm.name, before.arm.name
    answered = after.source.shares().keys()
    items = [item for item in before.source.shares() if item in answered]
    strict, flexible = (paired_grids(after, before, items, reading) for reading in get_args(Reading))
    at = {item: index for index, item in enumerate(items)}
    return Gain(
        result=after,
        start=before,
        pair=next((pair for pair in findings.pairs if (pair.a, pair.b) == names), None),
        strict=seed_difference(*strict),
        flexible=seed_difference(*flexible),
        groups={
            grouping: tuple(
                (label, seed_difference(strict[0][:, chosen], strict[1][:, chosen], strict[2]))
                for label, members in _groups(before.source, items, grouping)
                for chosen in [[at[item] for item in members]]
            )
            for grouping in findings.profiles[findings.results.index(before)].groups
        },
        kinds={
            kind: (counts[0].get(kind, 0), counts[1].get(kind, 0))
            for kind in KINDS
            if any(kind in known for known in counts)
        },
        budget=findings.budget(*names),
    )


def grid(result: Result, items: Sequence[str], reading: Reading = "strict") -> NDArray[np.float64]:
    """The scores of each run on these items; [seeds, items]."""
    shares = [run.shares(reading) for run in result.runs]
    return np.array([[share[item] for item in items] for share in shares])


def paired_grids(
    a: Result, b: Result, items: Sequence[str], reading: Reading | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
    """The `grid` of two arms by `reading`, or each by its own, by seed, and whether the runs are paired."""
    rows, paired = by_seed(a.runs, b.runs)
    return (
        grid(a, items, reading or a.reading)[rows[0]],
        grid(b, items, reading or b.reading)[rows[1]],
        paired,
    )


def _groups(run: CompletionSet, items: Sequence[str], grouping: str) -> list[tuple[str, list[str]]]:
    """Labels of one grouping in order, each with its problems."""
    groups: dict[tuple[int, str], list[str]] = defaultdict(list)
    for item in items:
        groups[GROUPINGS[grouping](run.problems[item])].append(item)
    return [(label, groups[rank, label]) for rank, label in sorted(groups)]


def format_rate(run: CompletionSet) -> float:
    """Share of the answers with one marker and a number behind it, right or wrong."""
    grades = run.grades.values()
    return sum(grade.markers == 1 and grade.strict_value is not None for grade in grades) / len(grades)


def length(run: CompletionSet) -> float:
    """Mean tokens of an answer, the stop token included."""
    return sum(completion.token_count for completion in run.completions.values()) / len(run.completions)
