"""On-policy distillation: the policy learns from a larger model's log-probs of the policy's own completions.

For each prompt draw completions from pi_old. At each token the reverse KL to the teacher pi_T is

    KL_t  = E over y_t of  log pi_theta(y_t | x, y_<t) - log pi_T(y_t | x, y_<t)

and its gradient that of L below at the drawn tokens (Agarwal 2024, GKD; Gu 2024, MiniLLM; Lu 2025):

    A_t   = log pi_T(y_t | x, y_<t) - log pi_old(y_t | x, y_<t)
    rho_t = pi_theta(y_t | x, y_<t) / pi_old(y_t | x, y_<t)
    L     = - 1/N  sum over tokens t of  rho_t A_t

No reward decides: a right answer that the teacher would not write is unlearned. Each token answers for
itself, as with a discount of 0. The teacher reads the same tokens at the temperature of sampling, so it must
have the same vocabulary.

Deviations: GKD also learns from the teacher's completions, and by other divergences.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from reckoner.config import Config
from reckoner.engine.logprobs import completion_logprobs
from reckoner.runs.folder import Progress, Run, silent
from reckoner.training.metrics import Sums, accumulate_stats, count_flops, count_reading
from reckoner.training.rl import RolloutTraining, make_teacher
from reckoner.training.rollouts import RewardFn, Rollout, Teacher, iter_microbatches, mini_batches


def distillation_loss(logprobs: Tensor, old: Tensor, teacher: Tensor) -> Tensor:
    """- rho A of N tokens."""
    return -(logprobs - old).exp() * (teacher - old)


def update(training: RolloutTraining, rollout: Rollout, teacher: Tensor, rate: float, step: int) -> Sums:
    """The optimizer steps over one rollout; `teacher` [B, T] is log pi_T. Returns sums."""
    policy, config = training.policy, training.config
    sums = Sums()
    learnable = rollout.learnable(config.rollout.mask_truncated_completions)
    rows_of = learnable.any(-1).nonzero()[:, 0].tolist()
    for iteration in range(config.rollout.num_iterations):
        for rows in mini_batches(rows_of, config.rollout.num_mini_batches, config.run.seed, step, iteration):
            weights, loss_of_step = learnable / learnable[rows].sum(), 0.0
            for micro_batch, index in iter_microbatches(policy, rollout, rows, training.max_tokens):
                with policy.autocast():
                    logprobs = completion_logprobs(
                        policy.model, micro_batch, config.rollout.temperature
                    ).logprobs
                old = rollout.logprobs[index]
                loss = (weights[index] * distillation_loss(logprobs, old, teacher[index])).sum()
                loss.backward()
                loss_of_step += loss.item()
                count_flops(sums, policy.model, micro_batch)
                change = logprobs.detach() - old
                accumulate_stats(sums, change, change, torch.zeros_like(change), 0.0, 0.0)
            sums["grad_norm"] += training.apply_step("policy", rate, loss_of_step)
            sums["policy_loss"] += loss_of_step
            sums["updates"] += 1
    return sums.over_ranks()


def train(
    config: Config, on_progress: Progress = silent, reward_fn: RewardFn | None = None
) -> dict[str, Any]:
    """Train the policy of `config`, or continue a killed run; returns the run's summary (docs/metrics.md).

    Raises `InputError` for settings that cannot work, and for a teacher with another vocabulary.
    """
    with Run.open(config) as run:
        if summary := run.finished("distill"):
            return summary
        teacher = make_teacher(config)
        training = RolloutTraining.begin(run, on_progress, reward_fn, pins=teacher.pins, rewarded=False)
        teacher.check_vocabulary(training.policy)
        for step in training.steps():
            with training.phase("generate"):
                rollout = training.draw()
            with training.phase("score"):
                measured, _ = training.measure(rollout, step)
                judged = teacher.logprobs(training.policy, rollout, training.max_tokens)
                advantages = (judged - rollout.logprobs) * rollout.mask
            with training.phase("update"), training.stopping(step, rollout.examples):
                rate = training.schedule.learning_rate(config.train, step, config.train.learning_rate)
                sums = update(training, rollout, judged, rate, step)
            if isinstance(teacher, Teacher):
                count_reading(sums, teacher.policy.model, rollout.episodes, training.schedule.generations)
            metrics = {**measured, "kl_teacher": -advantages[rollout.mask]}
            training.end_rollout(rollout, advantages, sums, rate, metrics)
        return training.finish("distill")
