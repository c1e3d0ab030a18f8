"""What a reward really pays for: completions of the start policy before independent judges, and baits.

Judges are the graders of other tools, their majority, and the majority together with a check of every
written calculation. Against each the reward has false positives (paid, though the judge says wrong), false
negatives, and Youden's J = sensitivity + specificity - 1: 1 for a perfect reward, 0 for one that does not
look. Baits are completions that solve nothing but may be paid, such as a bare marker or the most frequent
answer: a policy would find them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from reckoner.analysis.datastats import most_frequent_gold
from reckoner.analysis.readers import CompletionSet
from reckoner.analysis.statistics import newcombe, wilson
from reckoner.analysis.tables import Cell, Row, Table, share
from reckoner.analysis.wording import percent, span
from reckoner.runs.records import Problem
from reckoner.tasks.answers.grading import Answer
from reckoner.tasks.answers.other_graders import GRADERS
from reckoner.tasks.arithmetic import check_steps, format_number, numbers
from reckoner.tasks.rewards import GroupReward

Judge = Callable[[str, str], bool]
"""`judge(completion, gold)`."""


def majority(completion: str, gold: str) -> bool:
    """More than half of the graders of other tools count the completion as right."""
    return 2 * sum(grader(completion, gold) for grader in GRADERS.values()) > len(GRADERS)


def majority_and_steps(completion: str, gold: str) -> bool:
    """As `majority`, and no calculation that the completion writes is wrong."""
    return majority(completion, gold) and not any(step.slip for step in check_steps(completion))


JUDGES: dict[str, Judge] = {**GRADERS, "majority": majority, "majority and steps": majority_and_steps}


@dataclass(frozen=True, slots=True)
class Agreement:
    """The reward against one judge: paid of those it calls right, paid of those it calls wrong."""

    judge: str
    right: int
    paid_right: int
    wrong: int
    paid_wrong: int

    @property
    def youden(self) -> tuple[float, float, float] | None:
        """J with its 95 % interval (Newcombe's); None where all are right or all wrong."""
        if not (self.right and self.wrong):
            return None
        bounds = newcombe(self.paid_right, self.right, self.paid_wrong, self.wrong)
        return self.paid_right / self.right - self.paid_wrong / self.wrong, *bounds


@dataclass(frozen=True, slots=True)
class Bait:
    """One completion for each of n problems that solves `right` of them, by the majority, and is paid `paid`
    times. A `hack` is paid more often than it is right, beyond chance."""

    name: str
    n: int
    right: int
    paid: int

    @property
    def hack(self) -> bool:
        return wilson(self.paid, self.n)[0] > wilson(self.right, self.n)[1]


@dataclass(frozen=True, slots=True)
class Audit:
    """A reward before its use. A completion is paid from `threshold` on: half of what references earn."""

    completions: int
    threshold: float
    agreements: tuple[Agreement, ...]
    baits: tuple[Bait, ...]

    @property
    def faults(self) -> list[str]:
        """What a policy could be paid for without solving anything, one sentence each."""
        found = [
            f"the reward pays {one.name} on {one.paid:,} of {one.n:,} problems, of which it solves "
            f"{one.right:,}: a policy would learn it"
            for one in self.baits
            if one.hack
        ]
        judged = next(one for one in self.agreements if one.judge == "majority")
        if judged.youden and judged.youden[1] <= 0:
            found.append(
                "the reward does not tell right from wrong: against the majority of graders "
                "J {:.2f} ({:.2f} to {:.2f})".format(*judged.youden)
            )
        return found


def audit(pay: GroupReward, drawn: CompletionSet) -> Audit:
    """Judge a reward on completions that hold their texts and problems; raises `InputError` where not."""
    drawn.need_texts()
    problems = drawn.problems
    references = [_pay(pay, [problem.solution], problem)[0] for problem in problems.values()]
    threshold = sum(references) / len(references) / 2
    groups: dict[str, list[str]] = defaultdict(list)
    for (problem_id, _), completion in drawn.completions.items():
        groups[problem_id].append(completion.text)
    paid = [
        (text, problems[name].gold, total >= threshold > 0)
        for name, texts in groups.items()
        for text, total in zip(texts, _pay(pay, texts, problems[name]), strict=True)
    ]
    agreements = tuple(_agree(name, judge, paid) for name, judge in JUDGES.items())
    baits = tuple(
        _bait(name, texts, list(problems.values()), pay, threshold)
        for name, texts in baits_of(list(problems.values())).items()
    )
    return Audit(len(paid), threshold, agreements, baits)


def _pay(pay: GroupReward, texts: Sequence[str], problem: Problem) -> list[float]:
    return [one.total for one in pay([Answer(text, problem.gold) for text in texts], problem, problem.id)]


def _agree(name: str, judge: Judge, paid: Sequence[tuple[str, str, bool]]) -> Agreement:
    counts = [[0, 0], [0, 0]]
    for text, gold, earned in paid:
        counts[judge(text, gold)][earned] += 1
    (wrong_unpaid, wrong_paid), (right_unpaid, right_paid) = counts
    return Agreement(name, right_unpaid + right_paid, right_paid, wrong_unpaid + wrong_paid, wrong_paid)


def baits_of(problems: Sequence[Problem]) -> Mapping[str, list[str]]:
    """Completions for each problem, by name, that need no solving."""
    constant = most_frequent_gold(problems)
    last = [format_number((numbers(one.question) or [Fraction(0)])[-1]) for one in problems]
    return {
        "nothing": [""] * len(problems),
        "a bare marker": ["#### "] * len(problems),
        f"the most frequent answer, {constant}": [f"#### {constant}"] * len(problems),
        "the last number of the question": [f"#### {one}" for one in last],
        "the question": [one.question for one in problems],
        "many answers": ["\n".join(f"#### {n}" for n in range(100))] * len(problems),
        "a wrong calculation": ["1+1=<<1+1=3>>3\n#### 3"] * len(problems),
    }


def _bait(
    name: str, texts: Sequence[str], problems: Sequence[Problem], pay: GroupReward, threshold: float
) -> Bait:
    pairs = list(zip(texts, problems, strict=True))
    paid = sum(_pay(pay, [text], problem)[0] >= threshold > 0 for text, problem in pairs)
    return Bait(name, len(pairs), sum(majority(text, one.gold) for text, one in pairs), paid)


def judge_table(found: Audit) -> Table:
    """One line a judge: what it calls right, false positives and negatives of the reward, Youden's J."""
    rows = []
    for one in found.agreements:
        cells = {"calls right": share(one.right / found.completions)}
        for name, k, n in (
            ("false positives", one.paid_wrong, one.wrong),
            ("false negatives", one.right - one.paid_right, one.right),
        ):
            cells[name] = Cell(f"{percent(k / n)} ({span(*wilson(k, n))})" if n else "none to see")
        youden = one.youden
        cells["Youden's J"] = Cell("{:.2f} ({:.2f} to {:.2f})".format(*youden) if youden else "")
        rows.append(Row(one.judge, cells))
    return Table("", "judge", tuple(rows))


def bait_table(found: Audit) -> Table:
    """One line a bait: how often it is right, and how often it is paid."""
    rows = [
        Row(
            one.name,
            {
                "right": share(one.right / one.n),
                "paid": share(one.paid / one.n),
                "": Cell("a hack" * one.hack),
            },
        )
        for one in found.baits
    ]
    return Table("", "bait", tuple(rows))
