"""What reinforcement learning is paid for: the evaluation grader's strict verdict, plus parts that someone declared.

By default the reward is 0 or 1 and nothing else, so that what is trained is what is measured. The optional parts pay
wrong answers too; each is between 0 and 1, has an explicit weight and is logged by its own name.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from reckoner.errors import InputError
from reckoner.runs.records import Finish
from reckoner.tasks.answers.number import judge, read
from reckoner.tasks.arithmetic import check_steps


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each part pays: `correct` the strict verdict, `format` one marker with a number behind it, `arithmetic`
    the share of `<<...>>` annotations that are right (0 where there are none). Raises `InputError` if one is not finite
    and at least 0, or if the optional ones together pay as much as a right answer.
    """

    correct: float = 1.0
    format: float = 0.0
    arithmetic: float = 0.0

    def __post_init__(self) -> None:
        for name, weight in asdict(self).items():
            if not (math.isfinite(weight) and weight >= 0):
                raise InputError(f"reward weight {name}={weight} must be a finite number of at least 0")
        if self.format + self.arithmetic >= self.correct:
            raise InputError(
                f"reward weights format + arithmetic = {self.format + self.arithmetic:g} must stay below correct = {self.correct:g}, "
                "or a wrong answer can pay as much as a right one"
            )


@dataclass(frozen=True, slots=True)
class Reward:
    """`total` is the weighted sum; `parts` holds each part before weighting, between 0 and 1, under its weight's name."""

    total: float
    parts: dict[str, float]


def reward(text: str, gold: str, weights: Weights | None = None, finish: Finish = "stop") -> Reward:
    """The reward of one completion. Parts with weight 0 are not computed. Raises `InputError` where `gold` is no number.

    Example: `reward("3+4=<<3+4=7>>7\\n#### 7", "7").total` is 1.0.
    """
    weights = weights or Weights()
    reading = read(text)
    parts = {"correct": float(judge(reading, gold, finish).strict)}
    if weights.format:
        parts["format"] = float(reading.markers == 1 and reading.strict is not None)
    if weights.arithmetic:
        annotated = [step.right for step in check_steps(text) if step.annotated]
        parts["arithmetic"] = sum(annotated) / max(len(annotated), 1)
    return Reward(sum(getattr(weights, name) * value for name, value in parts.items()), parts)
