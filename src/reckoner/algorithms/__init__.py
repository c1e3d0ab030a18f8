"""The registry of training methods: each is one readable file here and one line below.

The verbs, the methods of an arm, the planner and the study read it. It imports no torch.
Algorithm files never import one another.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One training method. `section` names the section of its own settings, if it has one.

    `like` is the method whose arm of a preset gives rate and schedule where the preset has none of this one.
    """

    name: str
    section: str
    needs_rollouts: bool  # it learns from what the policy draws, not from the reference solutions
    rewarded: bool  # a reward decides what it learns
    help: str
    module: str = ""  # by default the file here of this name
    like: str = ""

    @property
    def train(self) -> Callable[..., dict[str, Any]]:
        """`train(config, on_progress)`, which returns the summary of the run."""
        return importlib.import_module(self.module or f"{__name__}.{self.name}").train


ALGORITHMS = {
    algorithm.name: algorithm
    for algorithm in (
        Algorithm(
            "sft",
            "",
            needs_rollouts=False,
            rewarded=False,
            help="Fine-tune on the reference solutions: full weights, or LoRA with peft.method=lora.",
        ),
        Algorithm(
            "ppo",
            "ppo",
            needs_rollouts=True,
            rewarded=True,
            help="Reinforcement learning with a critic, paid for right answers, from a run that was "
            "fine-tuned.",
            like="grpo",
        ),
        Algorithm(
            "grpo",
            "grpo",
            needs_rollouts=True,
            rewarded=True,
            help="Reinforcement learning in groups of completions, paid for right answers, from a run that "
            "was fine-tuned.",
        ),
        Algorithm(
            "rejection",
            "rejection",
            needs_rollouts=True,
            rewarded=True,
            help="Rejection sampling (expert iteration): fine-tune on the policy's own right solutions, in "
            "rounds.",
            like="sft",
        ),
        Algorithm(
            "dpo",
            "dpo",
            needs_rollouts=True,
            rewarded=True,
            help="Direct preference optimisation on pairs of the policy's own completions.",
            like="grpo",
        ),
        Algorithm(
            "distill",
            "distill",
            needs_rollouts=True,
            rewarded=False,
            help="On-policy distillation: a larger model judges each token of the policy's own completions.",
            like="grpo",
        ),
    )
}
"""By name, in the order in which the command line lists them."""
