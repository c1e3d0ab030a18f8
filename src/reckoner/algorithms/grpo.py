"""Group relative policy optimisation (Shao 2024, DeepSeekMath), with what RLOO, Dr. GRPO and DAPO mended.

For each prompt x draw a group of G completions y_1 ... y_G from pi_old and reward each with r_i. No critic: the group is
the baseline.

    A_i     = r_i - mean(r)                     "mean"   Dr. GRPO (Liu 2025)
            = (r_i - mean(r)) / std(r)          "std"    GRPO (Shao 2024)
            = r_i - mean of the other r_j       "rloo"   RLOO (Ahmadian 2024): G / (G - 1) times the first
    rho_it  = pi_theta(y_it | x, y_i<t) / pi_old(y_it | x, y_i<t)
    L       = - sum_i sum_t  w_it  [ min(rho_it A_i, clip(rho_it, 1 - epsilon, 1 + epsilon_high) A_i) - beta KL_it ]
    w_it    = 1 / (B L)                         "dr_grpo"  B completions, L the longest that is allowed: a constant
            = 1 / (B |y_i|)                     "grpo"     each completion weighs the same, long or short
            = 1 / sum_j |y_j|                   "dapo"     each token weighs the same (Yu 2025)
    KL_it   = exp(d) - d - 1,  d = log pi_ref - log pi_theta      "k3" (Schulman 2020)

A group whose rewards are all equal says nothing and is left out; with `max_refills` others are drawn in its place (DAPO).
The KL is in the loss only: taken off the rewards, it would be all that is left of such a group after normalisation.
epsilon_high > epsilon lets unlikely tokens rise (DAPO). The stop token is an action.

pi_old is whoever drew the tokens, with the log-probs it reported: another engine or precision is then corrected by rho
itself. Deviations: none of the papers' reward models or iterated references. LoRA is a property of the policy; its
reference is the policy with adapters off.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from reckoner.config import Config
from reckoner.engine.logprobs import completion_logprobs
from reckoner.engine.optim import apply_step, make_optimizer
from reckoner.errors import InputError
from reckoner.machine import peak_memory_bytes
from reckoner.models.policy import Policy, load_policy
from reckoner.runs.folder import Progress, Run, silent, stream_seed
from reckoner.training.loop import evaluate_dev, finish, prepare, resume, save, stopping
from reckoner.training.metrics import (
    Clock,
    Guard,
    Plan,
    accumulate_stats,
    count_flops,
    describe,
    mean,
    summarise,
)
from reckoner.training.rollout_log import save_rollouts
from reckoner.training.rollouts import (
    Episode,
    Reference,
    RewardFn,
    Rollout,
    Sampler,
    iter_microbatches,
    mini_batches,
    reward,
    without_dropout,
)


def group_advantages(rewards: Tensor, kind: str = "mean") -> Tensor:
    """Advantages [P, G] of rewards [P, G]; `kind` is "mean", "std" or "rloo". Equal rewards give exactly 0.

    Example: rewards 1, 0, 0, 0 give 3/4, -1/4, -1/4, -1/4; with "rloo" 1, -1/3, -1/3, -1/3.
    """
    centred = rewards - rewards.mean(-1, keepdim=True)
    centred = torch.where(equal_rewards(rewards)[:, None], 0.0, centred)
    if kind == "std":
        return centred / rewards.std(-1, keepdim=True).clamp(min=1e-6)
    if kind == "rloo":
        return centred * rewards.shape[-1] / (rewards.shape[-1] - 1)
    return centred


def equal_rewards(rewards: Tensor) -> Tensor:
    """Which groups [P] of rewards [P, G] have nothing to teach."""
    return rewards.amax(-1) == rewards.amin(-1)


def policy_loss(
    logprobs: Tensor, old: Tensor, advantages: Tensor, epsilon: float, epsilon_high: float
) -> Tensor:
    """The clipped surrogate, negated, for each of N tokens: - min(rho A, clip(rho, 1 - epsilon, 1 + epsilon_high) A)."""
    ratio = (logprobs - old).exp()
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon_high)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def kl_estimate(logprobs: Tensor, reference: Tensor, estimator: str = "k3") -> Tensor:
    """KL(pi_theta || pi_ref) at each of N tokens drawn from pi_theta (Schulman 2020).

    k1 = -d is unbiased but can be negative, and as a loss its mean gradient is 0; k2 = d^2 / 2 has the right gradient;
    k3 = exp(d) - d - 1 is unbiased and never negative. d = log pi_ref - log pi_theta.
    """
    d = reference - logprobs
    return {"k1": -d, "k2": d.square() / 2, "k3": d.exp() - d - 1}[estimator]


def token_weights(mask: Tensor, loss_type: str, completions: int, longest: int) -> Tensor:
    """w [b, T] for the tokens of one optimizer step, 0 outside `mask` [b, T].

    `completions` is B, those that the step was planned with, and `longest` is L in tokens. Their product does not depend
    on what was drawn, so that a completion's gradient is not larger for being short or for having dull neighbours.
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


def estimate(rollout: Rollout, reference: Tensor, plan: Plan, config: Config) -> AdvantageBatch:
    """Advantages from the rewards alone; groups with equal rewards are left out."""
    rewards = rollout.rewards.view(-1, plan.generations)
    advantages = group_advantages(rewards, config.grpo.advantage).flatten()
    teaches = (~equal_rewards(rewards)).repeat_interleave(plan.generations)
    teaches &= rollout.learnable(config.rollout.mask_truncated_completions).any(-1)
    return AdvantageBatch(advantages, teaches.nonzero()[:, 0].tolist(), reference)


def update(
    policy: Policy,
    optimizer: Optimizer,
    rollout: Rollout,
    known: AdvantageBatch,
    plan: Plan,
    config: Config,
    rate: float,
    step: int,
) -> Counter[str]:
    """The optimizer steps over one rollout; returns sums (see `monitor`).

    The weights of the tokens are known before the first forward pass, so that the size of a pass changes no gradient.
    """
    grpo, sums = config.grpo, Counter()
    learnable = rollout.learnable(config.rollout.mask_truncated_completions)
    for iteration in range(config.rollout.num_iterations):
        for part in mini_batches(
            known.rows, config.rollout.num_mini_batches, config.run.seed, step, iteration
        ):
            weights = torch.zeros_like(rollout.logprobs)
            weights[part] = token_weights(learnable[part], grpo.loss_type, plan.batch, plan.longest)
            for batch, place in iter_microbatches(policy, rollout, part, plan.max_tokens):
                with policy.autocast():
                    logprobs = completion_logprobs(policy.model, batch, config.rollout.temperature).logprobs
                old, advantages = rollout.logprobs[place], known.advantages[place[0]]
                losses = policy_loss(logprobs, old, advantages, grpo.epsilon, grpo.epsilon_high)
                if grpo.kl_coef:
                    losses = losses + grpo.kl_coef * kl_estimate(
                        logprobs, known.reference[place], grpo.kl_estimator
                    )
                loss = (weights[place] * losses).sum()
                loss.backward()
                sums["policy_loss"] += loss.item()
                count_flops(sums, policy.model, batch)
                accumulate_stats(sums, logprobs, old, advantages, grpo.epsilon, grpo.epsilon_high)
            sums["grad_norm"] += apply_step(
                optimizer, policy.model.parameters(), rate, config.train.max_grad_norm, sums["policy_loss"]
            )
            sums["updates"] += 1
    return sums


def train(config: Config, on_progress: Progress = silent, judge: RewardFn = reward) -> dict[str, Any]:
    """Train the policy of `config`, or go on where a killed run was; returns the run's summary (docs/metrics.md).

    Raises `InputError` for settings that cannot work, `NothingToLearn` where the run teaches nothing.
    """
    if config.rollout.num_generations < 2:
        raise InputError(
            "rollout.num_generations=1: a completion alone has no group to be better than. Set it to 2 or more, or use ppo"
        )
    with Run.open(config) as run:
        if summary := run.finished("grpo"):
            return summary
        peak_memory_bytes(reset=True)
        torch.manual_seed(stream_seed(config.run.seed, "adapter"))
        policy = load_policy(config.model, config.peft, train=True)
        material = prepare(run, policy)
        sampler = Sampler(run, policy, material, judge)
        plan = Plan.of(config, sampler)
        reference = Reference(policy, config, config.grpo.kl_coef)
        optimizer = make_optimizer(
            policy.model.named_parameters(),
            config.train.optim,
            config.train.weight_decay,
            (0.9, config.train.adam_beta2),
        )
        optimizers = {"policy": (policy.model, optimizer)}
        position = resume(run, optimizers, on_progress)
        guard = Guard(run, position.step, sampler.most)
        on_progress("train", position.step, plan.steps, plan.banner(config, policy, reference))

        while True:
            if plan.evaluates(position.step) and not position.evaluated:
                evaluate_dev(run, policy, material, position, on_progress)
            if position.step == 0:
                save(run, optimizers, position)  # the start may remain the best
            if plan.over(config, position) or guard.solved:
                break

            clock, step = Clock(on_progress), position.step + 1
            without_dropout(policy.model)
            with clock.phase("generate"):
                episodes = draw_informative(
                    sampler, plan, position.samples, config.grpo.max_refills, on_progress
                )
                rollout = Rollout.of(episodes, policy.device)
            with clock.phase("score"):
                measured = guard.check_sampler(policy, rollout, step, plan.max_tokens)
                pi_ref, scored = reference.logprobs(rollout, plan.max_tokens)
                known = estimate(rollout, pi_ref, plan, config)
            with (
                clock.phase("update"),
                stopping(run, optimizers, step, [episode.problem.id for episode in episodes]),
            ):
                rate = plan.rate(config, step, config.train.learning_rate)
                sums = update(policy, optimizer, rollout, known, plan, config, rate, step)

            save_rollouts(run.folder, step, episodes, known.advantages[:, None].tolist())
            plan.advance(position, episodes, sums, policy.model, bool(config.grpo.kl_coef), clock)
            line = {
                **position.costs,
                **describe(episodes, plan.generations),
                **measured,
                "kl_reference": mean(kl_estimate(rollout.logprobs, pi_ref, "k3")[scored]),
                **summarise(sums),
                "learning_rate": rate,
                **clock.seconds,
            }
            if step % config.run.logging_steps == 0 or step == plan.steps:
                run.log(**line)
            if plan.saves(step):
                save(run, optimizers, position)
            on_progress("train", step, plan.steps, f"reward {line['reward']:.3f}")
            guard.check(line)

        return finish(run, policy, optimizers, position, "grpo")


def draw_informative(
    sampler: Sampler, plan: Plan, first: int, refills: int, on_progress: Progress
) -> list[Episode]:
    """The groups of a step from place `first` of the stream; up to `refills` times, others for those with equal rewards (DAPO)."""
    episodes: list[Episode] = []
    missing = plan.prompts
    for _ in range(1 + refills):
        episodes += sampler.draw(first + len(episodes) // plan.generations, missing, on_progress)
        rewards = torch.tensor([episode.reward for episode in episodes]).view(-1, plan.generations)
        missing = plan.prompts - int((~equal_rewards(rewards)).sum())
        if not missing:
            break
    return episodes
