"""Group relative policy optimisation (Shao 2024, DeepSeekMath), with what RLOO, Dr. GRPO and DAPO mended.

For each prompt x draw a group of G completions y_1 ... y_G from pi_old and reward each with r_i. No critic:
the group is the baseline.

    A_i     = r_i - mean(r)                     "mean"   Dr. GRPO (Liu 2025): no division by a std
            = (r_i - mean(r)) / std(r)          "std"    GRPO (Shao 2024)
            = r_i - mean of the other r_j       "rloo"   RLOO (Ahmadian 2024): G / (G - 1) times the first
            = (r_i - mean of all) / std of all  "reinforce++"           REINFORCE++ (Hu 2025): over the batch
            = (r_i - mean(r)) / its std of all  "reinforce++_baseline"  the same, with the group's mean
    rho_it  = pi_theta(y_it | x, y_i<t) / pi_old(y_it | x, y_i<t)
    s_i     = (product of rho_it over t)^(1 / |y_i|)
    L       = - sum_i sum_t  w_it  [ J_it - beta KL_it ]
    J_it    = min(rho_it A_i, clip(rho_it, 1 - epsilon, 1 + epsilon_high) A_i)    "clip"   as PPO
            = min(s_i A_i, clip(s_i, 1 - epsilon, 1 + epsilon_high) A_i)          "gspo"   GSPO (Zheng 2025)
            = sg[min(rho_it, 1 + epsilon_high)] A_i log pi_theta(y_it)            "cispo"  CISPO (Chen 2025)
    w_it    = 1 / (B L)                         "dr_grpo"  B completions, L the longest allowed: a constant
            = 1 / (B |y_i|)                     "grpo"     each completion weighs the same, long or short
            = 1 / sum_j |y_j|                   "dapo"     each token weighs the same (Yu 2025)
    KL_it   = exp(d) - d - 1,  d = log pi_ref - log pi_theta      "k3" (Schulman 2020)

sg stops the gradient. CISPO lets no token drop out: the clip bounds a weight, and the gradient stays.
A group whose rewards are all equal says nothing and is left out; with `max_refills` others are drawn in its
place (DAPO). The KL is in the loss only: taken off the rewards, it would be all that is left of such a
group after normalisation. epsilon_high > epsilon lets unlikely tokens rise (DAPO). The stop token is an
action.

pi_old is whoever drew the tokens, with the log-probs it reported: another engine or precision is then
corrected by rho itself. Deviations: none of the papers' reward models or iterated references. LoRA is a
property of the policy; its reference is the policy with adapters off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reckoner.config import Config, GRPOConfig
from reckoner.engine.logprobs import completion_logprobs
from reckoner.runs.folder import Progress, Run, silent
from reckoner.training.metrics import Sums, accumulate_stats, count_flops
from reckoner.training.rl import RolloutTraining
from reckoner.training.rollouts import (
    Episode,
    RewardFn,
    Rollout,
    Sampler,
    iter_microbatches,
    mini_batches,
)


def group_advantages(rewards: Tensor, kind: str = "mean") -> Tensor:
    """Advantages [P, G] of rewards [P, G]; equal rewards of a group (in "reinforce++" of all) give exactly 0.

    Example: rewards 1, 0, 0, 0 give 3/4, -1/4, -1/4, -1/4; with "rloo" 1, -1/3, -1/3, -1/3.
    """
    if kind == "reinforce++":
        return group_advantages(rewards.reshape(1, -1), "std").view_as(rewards)
    centred = rewards - rewards.mean(-1, keepdim=True)
    centred = torch.where(equal_rewards(rewards)[:, None], 0.0, centred)
    if kind == "reinforce++_baseline":
        return centred / centred.std().clamp(min=1e-6)
    if kind == "std":
        return centred / rewards.std(-1, keepdim=True).clamp(min=1e-6)
    if kind == "rloo":
        return centred * rewards.shape[-1] / (rewards.shape[-1] - 1)
    return centred


def equal_rewards(rewards: Tensor) -> Tensor:
    """Which groups [P] of rewards [P, G] have nothing to teach."""
    return rewards.amax(-1) == rewards.amin(-1)


def dull_groups(rewards: Tensor, kind: str) -> Tensor:
    """Which groups [P] of rewards [P, G] have advantages of 0; with "reinforce++" all of them or none."""
    if kind == "reinforce++":
        return equal_rewards(rewards.reshape(1, -1)).expand(len(rewards))
    return equal_rewards(rewards)


def policy_loss(
    logprobs: Tensor, old: Tensor, advantages: Tensor, epsilon: float, epsilon_high: float
) -> Tensor:
    """The clipped surrogate of N tokens: - min(rho A, clip(rho, 1 - epsilon, 1 + epsilon_high) A)."""
    ratio = (logprobs - old).exp()
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon_high)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def sequence_ratio(change: Tensor, rows: Tensor) -> Tensor:
    """log s_i at each of N tokens, from log rho_it [N] and the completion `rows` [N] that each belongs to."""
    counts = rows.bincount()
    sums = change.new_zeros(len(counts)).index_add(0, rows, change)
    return (sums / counts.clamp(min=1))[rows]


def cispo_loss(logprobs: Tensor, old: Tensor, advantages: Tensor, epsilon_high: float) -> Tensor:
    """- sg[min(rho, 1 + epsilon_high)] A log pi of N tokens."""
    weight = (logprobs - old).exp().clamp(max=1 + epsilon_high).detach()
    return -weight * advantages * logprobs


def kl_estimate(logprobs: Tensor, reference: Tensor, estimator: str = "k3") -> Tensor:
    """KL(pi_theta || pi_ref) at each of N tokens drawn from pi_theta (Schulman 2020).

    k1 = -d is unbiased but can be negative, and as a loss its mean gradient is 0; k2 = d^2 / 2 has the
    right gradient; k3 = exp(d) - d - 1 is unbiased and never negative. d = log pi_ref - log pi_theta.
    """
    d = reference - logprobs
    return {"k1": -d, "k2": d.square() / 2, "k3": d.exp() - d - 1}[estimator]


def token_weights(mask: Tensor, loss_type: str, completions: int, longest: int) -> Tensor:
    """w [b, T] for the tokens of one optimizer step, 0 outside `mask` [b, T].

    `completions` is B, those that the step was planned with, and `longest` is L in tokens. Their product
    does not depend on what was drawn, so that a completion's gradient is not larger for being short or for
    having dull neighbours.
    """
    tokens = mask.float()
    if loss_type == "dr_grpo":
        return tokens / (completions * longest)
    if loss_type == "grpo":
        return tokens / (completions * tokens.sum(-1, keepdim=True).clamp(min=1))
    return tokens / tokens.sum().clamp(min=1)


@dataclass(frozen=True)
class AdvantageBatch:
    """What is known about a rollout before the first update."""

    advantages: Tensor  # [B]
    rows: list[int]  # completions of the groups that teach
    reference: Tensor  # log pi_ref [B, T]


def estimate(rollout: Rollout, reference: Tensor, config: Config) -> AdvantageBatch:
    """Advantages from the rewards alone; groups with equal rewards are left out."""
    generations = config.rollout.num_generations
    rewards = rollout.rewards.view(-1, generations)
    advantages = group_advantages(rewards, config.grpo.advantage).flatten()
    teaches = (~dull_groups(rewards, config.grpo.advantage)).repeat_interleave(generations)
    teaches &= rollout.learnable(config.rollout.mask_truncated_completions).any(-1)
    return AdvantageBatch(advantages, teaches.nonzero()[:, 0].tolist(), reference)


def update(
    training: RolloutTraining, rollout: Rollout, batch: AdvantageBatch, rate: float, step: int
) -> Sums:
    """The optimizer steps over one rollout; returns sums (see `training.metrics`).

    The weights of the tokens are known before the first forward pass, so the size of a pass changes no
    gradient.
    """
    policy, config, grpo, sums = training.policy, training.config, training.config.grpo, Sums()
    completions, longest = training.schedule.batch, training.sampler.limit
    learnable = rollout.learnable(config.rollout.mask_truncated_completions)
    for iteration in range(config.rollout.num_iterations):
        for rows in mini_batches(
            batch.rows, config.rollout.num_mini_batches, config.run.seed, step, iteration
        ):
            weights = torch.zeros_like(rollout.logprobs)
            weights[rows] = token_weights(learnable[rows], grpo.loss_type, completions, longest)
            for micro_batch, index in iter_microbatches(policy, rollout, rows, training.max_tokens):
                with policy.autocast():
                    logprobs = completion_logprobs(
                        policy.model, micro_batch, config.rollout.temperature
                    ).logprobs
                old, advantages = rollout.logprobs[index], batch.advantages[index[0]]
                losses = token_losses(logprobs, old, advantages, index[0], sums, grpo)
                if grpo.kl_coef:
                    kl = kl_estimate(logprobs, batch.reference[index], grpo.kl_estimator)
                    losses = losses + grpo.kl_coef * kl
                loss = (weights[index] * losses).sum()
                loss.backward()
                sums["policy_loss"] += loss.item()
                count_flops(sums, policy.model, micro_batch)
            sums["grad_norm"] += training.apply_step("policy", rate, sums["policy_loss"])
            sums["updates"] += 1
    return sums.over_ranks()


def token_losses(
    logprobs: Tensor, old: Tensor, advantages: Tensor, rows: Tensor, sums: Sums, grpo: GRPOConfig
) -> Tensor:
    """-J of each of N tokens by `grpo.objective`; `rows` [N] is the completion that each belongs to.

    Adds what the step reports to `sums`: of CISPO the clip holds a weight whatever the sign of the advantage.
    """
    change, low, high = logprobs - old, grpo.epsilon, grpo.epsilon_high
    if grpo.objective == "cispo":
        accumulate_stats(sums, change, change, advantages.abs(), low, high)
        return cispo_loss(logprobs, old, advantages, high)
    ratio = sequence_ratio(change, rows) if grpo.objective == "gspo" else change
    accumulate_stats(sums, change, ratio, advantages, low, high)
    return policy_loss(ratio, torch.zeros_like(ratio), advantages, low, high)


def train(
    config: Config, on_progress: Progress = silent, reward_fn: RewardFn | None = None
) -> dict[str, Any]:
    """Train the policy of `config`, or continue a killed run; returns the run's summary (docs/metrics.md).

    Raises `InputError` for settings that cannot work, `NothingToLearn` where the run teaches nothing.
    """
    with Run.open(config) as run:
        if summary := run.finished("grpo"):
            return summary
        training = RolloutTraining.begin(
            run,
            on_progress,
            reward_fn,
            kl_coef=config.grpo.kl_coef,
            least_generations=1 if config.grpo.advantage == "reinforce++" else 2,
        )
        for step in training.steps():
            with training.phase("generate"):
                episodes = draw_informative(training.sampler, config, training.state.samples, on_progress)
                rollout = Rollout.of(episodes, training.policy.device)
            with training.phase("score"):
                measured, reference = training.measure(rollout, step)
                batch = estimate(rollout, reference, config)
            with training.phase("update"), training.stopping(step, rollout.examples):
                rate = training.schedule.learning_rate(config.train, step, config.train.learning_rate)
                sums = update(training, rollout, batch, rate, step)
            training.end_rollout(rollout, batch.advantages, sums, rate, measured)
        return training.finish("grpo")


def draw_informative(sampler: Sampler, config: Config, first: int, on_progress: Progress) -> list[Episode]:
    """The groups of a step from index `first` of the stream of prompts.

    Up to `max_refills` times, more groups are drawn in place of those that teach nothing (DAPO).
    """
    prompts, generations = config.rollout.num_prompts, config.rollout.num_generations
    episodes: list[Episode] = []
    missing = prompts
    for _ in range(1 + config.grpo.max_refills):
        episodes += sampler.draw(first + len(episodes) // generations, missing, on_progress)
        rewards = torch.tensor([episode.reward for episode in episodes]).view(-1, generations)
        missing = prompts - int((~dull_groups(rewards, config.grpo.advantage)).sum())
        if not missing:
            break
    return episodes
