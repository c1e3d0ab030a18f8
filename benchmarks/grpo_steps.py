"""Whole steps of GRPO, ours and TRL's: the same prompts a step, completions a prompt, limit, rewards and
number of updates."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarks.measure import Arm, Lap, timed
from benchmarks.trainers import COMMON, LEAN, calm, precise, run_silently, stopwatch

from reckoner.algorithms import grpo
from reckoner.config import Config, load_config
from reckoner.runs.folder import Run, silent
from reckoner.tasks.answers.grading import Answer
from reckoner.tasks.rewards import reward
from reckoner.training.loop import TrainingData
from reckoner.training.rl import RolloutTraining
from reckoner.training.rollouts import Rollout

UPDATES = 2

TRL = {
    "trl defaults": {"bf16": True},
    "trl fp32": {**LEAN, "bf16": False},
    "trl fp32 static cache": {**LEAN, "bf16": False, "cache_implementation": "static"},
}


@dataclass(frozen=True)
class Size:
    """A step: so many prompts, completions of each, and tokens at most."""

    prompts: int
    generations: int
    limit: int


def settings(model: Path, folder: str, size: Size) -> Config:
    """Our configuration of such a step. No KL to the start is measured, because TRL measures none."""
    return load_config(
        "nano",
        [],
        [
            f"model.model_name_or_path={model}",
            f"run.output_dir={folder}",
            f"rollout.num_prompts={size.prompts}",
            f"rollout.num_generations={size.generations}",
            f"rollout.max_completion_length={size.limit}",
            f"rollout.num_mini_batches={UPDATES}",
            "rollout.kl_samples=0",
            "train.learning_rate=1e-5",
        ],
    )


@contextmanager
def ours(model: Path, size: Size, steps: int) -> Any:
    """An arm of `steps` of our GRPO steps, as `algorithms.grpo.train` takes them; and the material, for the
    peer. Work is completions."""
    with tempfile.TemporaryDirectory() as folder:
        config = settings(model, f"{folder}/run", size)
        with Run.open(config) as run:
            training = RolloutTraining.begin(run, silent)
            place = 0

            def work() -> float:
                nonlocal place
                for _ in range(steps):
                    rollout = Rollout.of(training.sampler.draw(place, size.prompts, silent))
                    batch = grpo.estimate(rollout, torch.zeros_like(rollout.logprobs), config)
                    grpo.update(training, rollout, batch, 1e-5, 1)
                    place += size.prompts
                return steps * size.prompts * size.generations

            yield timed(work), training.data


def trl_arm(model: Path, data: TrainingData, size: Size, steps: int, chosen: dict[str, Any]) -> Arm:
    """An arm of `steps` steps of TRL's GRPOTrainer, each one generation and `UPDATES` optimizer steps. Work
    is completions."""

    def lap() -> Lap:
        from datasets import Dataset
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from trl import GRPOConfig, GRPOTrainer

        with calm(), tempfile.TemporaryDirectory() as folder:
            count = size.prompts * steps
            texts = [data.prompt.render(problem.question) for problem in data.problems[:count]]
            rows = Dataset.from_dict(
                {"prompt": texts, "gold": [problem.gold for problem in data.problems[:count]]}
            )
            arguments = GRPOConfig(
                output_dir=folder,
                **{
                    **COMMON,
                    "per_device_train_batch_size": size.prompts * size.generations // UPDATES,
                    "steps_per_generation": UPDATES,
                    "num_generations": size.generations,
                    "max_completion_length": size.limit,
                    "learning_rate": 1e-5,
                    "loss_type": "dr_grpo",
                    "scale_rewards": "none",
                    "epsilon_high": 0.28,
                    **precise(chosen),
                },
            )
            watch = stopwatch()
            trainer = GRPOTrainer(
                AutoModelForCausalLM.from_pretrained(model / "model", dtype=torch.float32),
                reward_funcs=verdicts(),
                args=arguments,
                train_dataset=rows,
                processing_class=AutoTokenizer.from_pretrained(model / "model", padding_side="left"),
                callbacks=[watch],
            )
            run_silently(trainer)
            drawn = trainer.state.global_step // UPDATES
        return Lap(drawn * size.prompts * size.generations, watch.seconds)

    return lap


def verdicts() -> Callable[..., list[float]]:
    """Our reward in the form that TRL calls."""

    def correctness(completions: list[str], gold: list[str], **_: Any) -> list[float]:
        return [reward(Answer(text, truth)).total for text, truth in zip(completions, gold, strict=True)]

    return correctness
