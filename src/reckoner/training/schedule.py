"""The schedule of a run: all numbers of steps that its configuration and its train problems imply."""

from __future__ import annotations

import math
from dataclasses import dataclass

from reckoner.config import Config, TrainConfig
from reckoner.errors import InputError


@dataclass(frozen=True)
class Schedule:
    """A step of SFT is one update on reference solutions; a step of RL is one rollout and its updates."""

    prompts: int  # problems of one step
    generations: int  # completions of each problem; in SFT its reference solution
    updates: int  # optimizer steps in one pass over the completions of a step
    iterations: int  # passes over the completions of a step
    steps: int
    per_epoch: int  # steps that visit every train problem once
    eval_every: int
    save_every: int  # 0: only before dev is evaluated
    draws: bool = True  # whether the policy draws what it learns from, as in RL

    @classmethod
    def of(cls, config: Config, problems: int, rollouts: bool, epochs: float = 0.0) -> Schedule:
        """`rollouts`: the policy learns from what it draws (RL), not from the reference solutions (SFT).

        `epochs` of SFT, where a budget decides them and not `train.num_train_epochs`.
        """
        train, rollout = config.train, config.rollout
        if rollouts:
            prompts, generations = rollout.num_prompts, rollout.num_generations
            updates, iterations = rollout.num_mini_batches, rollout.num_iterations
        else:
            prompts = train.per_device_train_batch_size * train.gradient_accumulation_steps
            generations = updates = iterations = 1
        per_epoch = math.ceil(problems / prompts)
        return cls(
            prompts,
            generations,
            updates,
            iterations,
            steps=rollout.max_steps
            if rollouts
            else math.ceil(per_epoch * (epochs or train.num_train_epochs)),
            per_epoch=per_epoch,
            eval_every=train.eval_steps or per_epoch,
            save_every=config.run.save_steps,
            draws=rollouts,
        )

    @property
    def completions(self) -> int:
        """Completions in one step."""
        return self.prompts * self.generations

    @property
    def batch(self) -> int:
        """Completions in one optimizer step."""
        return self.completions // self.updates

    @property
    def epochs(self) -> float:
        """How often a train problem is visited on average."""
        return self.steps / self.per_epoch

    @property
    def evaluations(self) -> int:
        """How often dev is evaluated, before the first step too."""
        return 1 + math.ceil(self.steps / self.eval_every)

    def check(self, problems: int) -> None:
        """Raises `InputError` where these numbers cannot work; the message names some that can."""
        if not self.steps:
            raise InputError("train.num_train_epochs=0 trains nothing: set it above 0, or use reckon eval")
        if self.completions % self.updates:
            divisors = [n for n in range(1, 65) if self.completions % n == 0]
            raise InputError(
                f"rollout.num_mini_batches={self.updates} does not divide {self.prompts} prompts x "
                f"{self.generations} generations = {self.completions} completions. "
                f"Use one of {', '.join(map(str, divisors))}"
            )
        if self.draws and self.prompts > problems:
            raise InputError(
                f"rollout.num_prompts={self.prompts}, but there are {problems:,} train problems: "
                "set it to that or less"
            )

    def evaluates(self, step: int) -> bool:
        """Whether dev is evaluated after this step."""
        return step == self.steps or step % self.eval_every == 0

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is written after this step, besides those that precede each evaluation."""
        return bool(self.save_every and step % self.save_every == 0)

    def warmup(self, train: TrainConfig) -> int:
        """How many steps come before the first with the peak of the learning rate."""
        return math.ceil(train.warmup_ratio * self.steps)

    def learning_rate(self, train: TrainConfig, step: int, peak: float) -> float:
        """The learning rate of all updates of one step, counted from 1.

        Warm-up takes its steps in a straight line and wastes none at rate 0; the
        first step after it has the peak. Then `constant`, `linear` (towards 0), or `cosine_with_min_lr`
        (towards `min_lr_rate * peak`), equal to the schedules of transformers at as many steps.
        """
        if not 1 <= step <= self.steps:
            raise ValueError(f"step {step} is not in 1..{self.steps}")
        warmup = self.warmup(train)
        if step <= warmup:
            return peak * step / (warmup + 1)
        progress = (step - 1 - warmup) / (self.steps - warmup)
        if train.lr_scheduler_type == "constant":
            return peak
        if train.lr_scheduler_type == "linear":
            return peak * (1 - progress)
        if train.lr_scheduler_type != "cosine_with_min_lr":
            raise InputError(
                f"lr_scheduler_type={train.lr_scheduler_type}: choose cosine_with_min_lr, linear or constant"
            )
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return peak * (train.min_lr_rate + (1 - train.min_lr_rate) * cosine)
