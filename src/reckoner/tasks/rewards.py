"""What reinforcement learning is paid for: the strict verdict, plus parts that someone declared.

By default the reward is 0 or 1 and nothing else, so that what is trained is what is measured. The optional
parts pay wrong answers too; each is between 0 and 1, has an explicit weight and is logged by its own name. A
further part is one function in `PARTS`; `rollout.reward_weights.NAME` switches it on.

`rollout.reward` puts another source in the place of the verdict. Those of `SOURCES` are controls: they tell
how much of a gain needs right rewards (Shao 2025, Spurious Rewards). Plug-ins: `tasks/reward_plugin.py`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from reckoner.errors import InputError
from reckoner.runs.records import Problem
from reckoner.tasks.answers.grading import Answer
from reckoner.tasks.arithmetic import check_steps
from reckoner.tasks.selection import vote


@dataclass(frozen=True, slots=True)
class Reward:
    """`total` is the weighted sum; `parts` holds each part by name, before weighting, between 0 and 1."""

    total: float
    parts: dict[str, float]


def correct(answer: Answer) -> float:
    """The strict verdict. Raises `InputError` where the gold is outside its kind."""
    return float(answer.grade.strict)


def format_rate(answer: Answer) -> float:
    """One marker with an answer behind it, right or wrong."""
    return float(answer.reading.markers == 1 and answer.reading.strict is not None)


def arithmetic(answer: Answer) -> float:
    """The share of `<<...>>` annotations that are right, 0 where there are none."""
    annotated = [step.right for step in check_steps(answer.text) if step.annotated]
    return sum(annotated) / max(len(annotated), 1)


PARTS: dict[str, Callable[[Answer], float]] = {
    "correct": correct,
    "format": format_rate,
    "arithmetic": arithmetic,
}
"""Parts of the reward by the name of their weight; each gives a number between 0 and 1."""


def check_weights(weights: Mapping[str, float]) -> dict[str, float]:
    """`weights` by the names of `PARTS`, `correct` at 1 by default, without weights of 0.

    Raises `InputError` for an unknown name, a weight that is not finite or below 0, and where the optional
    parts together pay as much as a right answer.
    """
    weights = {"correct": 1.0, **weights}
    for name, weight in weights.items():
        if name not in PARTS:
            raise InputError(f"reward weight {name}: there is no such part. Choose {', '.join(PARTS)}")
        if not (math.isfinite(weight) and weight >= 0):
            raise InputError(f"reward weight {name}={weight} must be a finite number of at least 0")
    others = {name: weight for name, weight in weights.items() if name != "correct"}
    if sum(others.values()) >= weights["correct"]:
        raise InputError(
            f"the reward weights beside correct sum to {sum(others.values()):g}. The sum must stay below "
            f"correct = {weights['correct']:g}, or a wrong answer can pay as much as a right one"
        )
    return {name: weight for name, weight in weights.items() if weight or name == "correct"}


RIGHT_OR_WRONG = {"correct": 1.0}


def reward(answer: Answer, weights: Mapping[str, float] = RIGHT_OR_WRONG) -> Reward:
    """The reward of one completion by weights that `check_weights` gave.

    Raises `InputError` where the gold is outside its kind.

    Example: `reward(Answer("3+4=<<3+4=7>>7\\n#### 7", "7")).total` is 1.0.
    """
    return combine({"correct": correct(answer)}, answer, weights)


def combine(parts: Mapping[str, float], answer: Answer, weights: Mapping[str, float]) -> Reward:
    """The weighted sum of the first of `parts`, which stands for correctness, and of the optional parts."""
    total = weights["correct"] * next(iter(parts.values()))
    optional = {name: PARTS[name](answer) for name in weights if name != "correct"}
    return Reward(
        total + sum(weights[name] * value for name, value in optional.items()), {**parts, **optional}
    )


GroupReward = Callable[[Sequence[Answer], Problem, str], list[Reward]]
"""`pay(answers, problem, key)`: what the completions of one prompt earn. Random rewards depend on `key`."""

Source = Callable[[Sequence[Answer], str], list[float]]
"""What stands where correctness does, between 0 and 1, for the completions of one prompt; `key` as above."""


def coin(answers: Sequence[Answer], key: str) -> list[float]:
    """1 with probability 1/2, whatever the completion says."""
    return [hashlib.sha256(f"{key}/{i}".encode()).digest()[0] % 2 for i in range(len(answers))]


def majority(answers: Sequence[Answer], key: str) -> list[float]:
    """1 where a completion agrees with most others of its prompt, right or not (TTRL, Zuo 2025).

    Of answers with equally many votes the one that was drawn first counts; no answer has no vote.
    """
    votes = [answer.reading.strict for answer in answers]
    winner = vote(votes, [1.0] * len(votes))
    return [float(winner is not None and one == winner) for one in votes]


SOURCES: dict[str, Source] = {
    "correct": lambda answers, key: [correct(answer) for answer in answers],
    "coin": coin,
    "format": lambda answers, key: [format_rate(answer) for answer in answers],
    "majority": majority,
}
"""The choices of `rollout.reward` besides plug-ins."""


def group_reward(name: str, weights: Mapping[str, float]) -> GroupReward:
    """What the source `name` of `SOURCES` pays, with the optional parts of `weights`."""

    def pay(answers: Sequence[Answer], problem: Problem, key: str) -> list[Reward]:
        values = SOURCES[name](answers, key)
        return [
            combine({name: value}, answer, weights) for answer, value in zip(answers, values, strict=True)
        ]

    return pay
