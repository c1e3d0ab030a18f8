"""Rejection sampling, or expert iteration: supervised fine-tuning on the policy's own right solutions.

Each round draws G completions of P train problems from the policy and keeps those that the grader accepts:

    D       = {(x, y) : y ~ pi_old(. | x), r(x, y) >= min_reward, no calculation of y is wrong}
    L       = - 1/N  sum over (x, y) in D, sum over tokens t of  log pi_theta(y_t | x, y_<t)

N is the number of y tokens of the optimizer step. Of solutions of one problem with the same calculations one
is kept, because copies teach nothing new (RFT, Yuan 2023). At most `max_per_problem` are kept, so that easy
problems do not crowd out hard ones. Then the policy draws again. One round is RFT; several are expert
iteration (Anthony 2017; STaR, Zelikman 2022; ReST-EM, Singh 2023).

This is the control that reinforcement learning has to beat: it sees the same prompts and samples, and learns
from right ones alone. A wrong answer has no gradient, and neither has the baseline of a group.

Deviations: the policy goes on from the round before, where STaR and ReST-EM begin again from the start. No
rationalisation: a problem without a right completion teaches nothing. Loss at temperature 1, without dropout.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from reckoner.config import Config
from reckoner.engine.logprobs import cross_entropy
from reckoner.runs.folder import Progress, Run, silent
from reckoner.training.metrics import Sums, count_flops
from reckoner.training.rl import RolloutTraining
from reckoner.training.rollouts import Episode, RewardFn, Rollout, iter_microbatches, mini_batches


def select(episodes: Sequence[Episode], config: Config) -> list[int]:
    """Which of the completions are learned, in their order.

    Example: of `#### 7` (right), `3+4=7 #### 7`, `3 + 4 = 7 so #### 7` and `3+4=8 #### 7` the first two.
    """
    rejection, kept = config.rejection, []
    seen: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for index, episode in enumerate(episodes):
        wrong = rejection.check_steps and any(step.slip for step in episode.steps)
        if episode.reward < rejection.min_reward or wrong or episode.way in seen[episode.problem.id]:
            continue
        if len(seen[episode.problem.id]) < rejection.max_per_problem:
            seen[episode.problem.id].add(episode.way)
            kept.append(index)
    return kept


def update(training: RolloutTraining, rollout: Rollout, kept: Sequence[int], step: int) -> Sums:
    """The optimizer steps over the completions `kept`; returns sums.

    The learning rate follows its schedule from update to update, so that a single long round has one too.
    """
    policy, config = training.policy, training.config
    sums = Sums()
    a_round = config.rollout.num_mini_batches * config.rollout.num_iterations
    schedule = replace(training.schedule, steps=training.schedule.steps * a_round)
    for iteration in range(config.rollout.num_iterations):
        batches = mini_batches(kept, config.rollout.num_mini_batches, config.run.seed, step, iteration)
        first = (step - 1) * a_round + iteration * config.rollout.num_mini_batches + 1
        for number, rows in enumerate(batches, first):
            loss, tokens = 0.0, int(rollout.mask[rows].sum())
            for micro_batch, _ in iter_microbatches(policy, rollout, rows, training.max_tokens):
                with policy.autocast():
                    negative_log_likelihood, correct = cross_entropy(policy.model, micro_batch)
                (negative_log_likelihood / tokens).backward()
                loss += negative_log_likelihood.item() / tokens
                sums["correct"] += int(correct)
                sums["tokens"] += len(micro_batch.targets)
                count_flops(sums, policy.model, micro_batch)
            sums["learning_rate"] = schedule.learning_rate(config.train, number, config.train.learning_rate)
            sums["grad_norm"] += training.apply_step("policy", sums["learning_rate"], loss)
            sums["loss"] += loss
            sums["updates"] += 1
    return sums.over_ranks()


def train(
    config: Config, on_progress: Progress = silent, reward_fn: RewardFn | None = None
) -> dict[str, Any]:
    """Train the policy of `config`, or continue a killed run; returns the run's summary (docs/metrics.md).

    Raises `InputError` for settings that cannot work, `NothingToLearn` where no completion is ever right.
    """
    with Run.open(config) as run:
        if summary := run.finished("rejection"):
            return summary
        training = RolloutTraining.begin(run, on_progress, reward_fn)
        for step in training.steps():
            with training.phase("generate"):
                rollout = training.draw()
                kept = select(rollout.episodes, config)
            with training.phase("score"):
                measured, _ = training.measure(rollout, step)
            with training.phase("update"), training.stopping(step, [rollout.examples[i] for i in kept]):
                sums = update(training, rollout, kept, step)
            weights = torch.zeros_like(rollout.rewards)
            weights[kept] = 1.0
            metrics = {
                **measured,
                "kept": len(kept),
                "kept_problems": len({rollout.episodes[i].problem.id for i in kept}),
                **({"loss": sums["loss"] / sums["updates"]} if kept else {}),
                "token_accuracy": sums["correct"] / sums["tokens"] if kept else None,
            }
            training.end_rollout(rollout, weights, sums, sums["learning_rate"], metrics)
        return training.finish("rejection")
