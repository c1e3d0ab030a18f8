"""Proximal policy optimisation (Schulman 2017) with a critic and generalised advantages (GAE, Schulman 2015).

As in InstructGPT (Ouyang 2022), a completion is an episode: the state s_t is the prompt and y_<t, the
action is token y_t, the stop token is the last action, and the grader's reward r comes with it. T is the
number of actions.

    r_t      = r [t = T]  -  beta KL_t                            the second term where kl_in = "reward"
    delta_t  = r_t + gamma V(s_t+1) - V(s_t)                      V = 0 after the last action
    A_t      = sum_l (gamma lam)^l delta_t+l                      by A_t = delta_t + gamma lam A_t+1
    R_t      = A_t + V(s_t)                                       what the critic should have said
    A_t     <- (A_t - mean) / std                                 over all tokens (whiten_advantages)
    rho_t    = pi_theta(y_t | s_t) / pi_old(y_t | s_t)
    L_policy = - 1/N sum [ min(rho_t A_t, clip(rho_t, 1 - epsilon, 1 + epsilon_high) A_t)
                           - beta KL_t + c H(pi_theta | s_t) ]
                                                                  the KL here where kl_in = "loss"
    L_value  =   1/N sum  1/2 max( (V - R_t)^2,
                                   (clip(V, V_old - cliprange_value, V_old + cliprange_value) - R_t)^2 )

N is the number of tokens in the optimizer step. gamma = lam = 1 by default: the reward is one number at the
end, and with less it would be all but gone at the tokens that earned it (0.99 x 0.95 leaves 3e-4 of it
after 130). Then A_t = r - V(s_t).

The critic is a copy of the policy with a head of zeros (models/critic.py), or such a head on the policy's
own features, detached; it has its own optimizer and rate, and may learn alone first (value_warmup_steps,
VC-PPO). So there is no vf_coef. pi_old is whoever drew the tokens, with the log-probs it reported. LoRA is
a property of the policy; its reference is the policy with adapters off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reckoner.config import Config
from reckoner.engine.logprobs import completion_logprobs, completion_states
from reckoner.runs.folder import Progress, Run, silent
from reckoner.training.metrics import Sums, accumulate_stats, count_flops
from reckoner.training.rl import RolloutTraining
from reckoner.training.rollouts import Batch, RewardFn, Rollout, iter_microbatches, mini_batches


def token_rewards(rewards: Tensor, mask: Tensor, penalty: Tensor | None = None) -> Tensor:
    """r_t [B, T]: the reward [B] at the last token of its row, less `penalty` [B, T] at every token."""
    following = torch.nn.functional.pad(mask[:, 1:], (0, 1))
    paid = rewards[:, None] * (mask & ~following)
    return paid if penalty is None else paid - penalty * mask


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    """A_t [B, T] of r_t and V(s_t) [B, T]; tokens are at the left of each row, outside `mask` all is 0.

    Example: rewards 0, 0, 1 and values 0.5, 0.5, 0.5 give 0.5, 0.5, 0.5 with gamma = lam = 1, and 0, 0, 0.5
    with lam = 0.
    """
    advantages = torch.zeros_like(rewards)
    following = value_after = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * value_after - values[:, t]
        following = mask[:, t] * (delta + gamma * lam * following)
        value_after = mask[:, t] * values[:, t]
        advantages[:, t] = following
    return advantages


def whiten(advantages: Tensor, mask: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the tokens in `mask` [B, T], 0 elsewhere; 0 where all are equal."""
    tokens = advantages[mask]
    if len(tokens) == 0 or tokens.amin() == tokens.amax():
        return torch.zeros_like(advantages)
    std = (tokens - tokens.mean()).square().mean().sqrt()
    return (advantages - tokens.mean()) / std * mask


def policy_loss(
    logprobs: Tensor, old: Tensor, advantages: Tensor, epsilon: float, epsilon_high: float
) -> Tensor:
    """The clipped surrogate of N tokens: - min(rho A, clip(rho, 1 - epsilon, 1 + epsilon_high) A)."""
    ratio = (logprobs - old).exp()
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon_high)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def value_loss(values: Tensor, old: Tensor, returns: Tensor, cliprange: float) -> Tensor:
    """Half the squared error of N values, the larger of those with and without the clip (0: no clip)."""
    loss = (values - returns).square() / 2
    if not cliprange:
        return loss
    clipped = torch.maximum(torch.minimum(values, old + cliprange), old - cliprange)
    return torch.maximum(loss, (clipped - returns).square() / 2)


def kl_estimate(logprobs: Tensor, reference: Tensor, estimator: str) -> Tensor:
    """KL(pi_theta || pi_ref) at each token drawn from pi_theta (Schulman 2020).

    k1 = -d is unbiased but can be negative, and as a loss its mean gradient is 0; k2 = d^2 / 2 has the
    right gradient; k3 = exp(d) - d - 1 is unbiased and never negative. d = log pi_ref - log pi_theta.
    """
    d = reference - logprobs
    return {"k1": -d, "k2": d.square() / 2, "k3": d.exp() - d - 1}[estimator]


def shared_states(training: RolloutTraining, micro_batch: Batch) -> Tensor | None:
    """The policy's hidden states [N, H] where the critic reads them too: one pass serves both; else None."""
    shared = training.critic.trunk is None
    return completion_states(training.policy.model, micro_batch) if shared else None


def values_of(training: RolloutTraining, micro_batch: Batch, states: Tensor | None) -> Tensor:
    """V(s_t) [N]: the critic's expectation before each token, from `shared_states` or from its own trunk."""
    critic = training.critic
    return critic(completion_states(critic.trunk, micro_batch) if states is None else states.detach())


@torch.no_grad()
def score_values(training: RolloutTraining, rollout: Rollout) -> Tensor:
    """V_old [B, T], 0 outside the mask."""
    policy = training.policy
    values, rows = torch.zeros_like(rollout.logprobs), range(len(rollout.episodes))
    for micro_batch, index in iter_microbatches(policy, rollout, rows, training.max_tokens):
        with policy.autocast():
            states = shared_states(training, micro_batch)
            values[index] = values_of(training, micro_batch, states)
    return training.add_over_ranks(values)


def explained_variance(values: Tensor, returns: Tensor) -> float | None:
    """1 - Var(R - V) / Var(R) over N tokens: 1 for a perfect critic, 0 for a constant, None for equal R."""
    total = returns.var().item() if len(returns) > 1 else 0.0
    return 1 - (returns - values).var().item() / total if total else None


@dataclass(frozen=True)
class AdvantageBatch:
    """What is known about each token of a rollout before the first update; all [B, T]."""

    values: Tensor  # V_old
    returns: Tensor
    advantages: Tensor  # whitened where wanted
    reference: Tensor  # log pi_ref


def estimate(rollout: Rollout, values: Tensor, reference: Tensor, config: Config) -> AdvantageBatch:
    """Rewards, GAE and returns of one rollout, from V_old and log pi_ref [B, T].

    Where all rewards are equal, whitening would scale the critic's error and the KL to full size. Then the
    advantages are 0.
    """
    ppo, penalty = config.ppo, None
    if ppo.kl_coef and ppo.kl_in == "reward":
        penalty = ppo.kl_coef * kl_estimate(rollout.logprobs, reference, ppo.kl_estimator)
    rewards = token_rewards(rollout.rewards, rollout.mask, penalty)
    advantages = gae(rewards, values, rollout.mask, ppo.gamma, ppo.lam)
    returns = advantages + values
    if ppo.whiten_advantages:
        learnable = rollout.learnable(config.rollout.mask_truncated_completions)
        informative = rollout.rewards.amin() < rollout.rewards.amax()
        advantages = whiten(advantages, learnable) * informative
    return AdvantageBatch(values, returns, advantages, reference)


def update(
    training: RolloutTraining, rollout: Rollout, batch: AdvantageBatch, rates: tuple[float, float], step: int
) -> Sums:
    """The optimizer steps over one rollout, at the `rates` of policy and critic; returns sums.

    Each loss is a sum over tokens, divided once by the tokens of the optimizer step, so the size of a pass
    changes nothing.
    """
    policy, critic, config, sums = training.policy, training.critic, training.config, Sums()
    learning = step > config.ppo.value_warmup_steps
    learnable = rollout.learnable(config.rollout.mask_truncated_completions)
    learnable_rows = learnable.any(-1).nonzero()[:, 0].tolist()
    for iteration in range(config.rollout.num_iterations):
        for rows in mini_batches(
            learnable_rows, config.rollout.num_mini_batches, config.run.seed, step, iteration
        ):
            weights = learnable / learnable[rows].sum()
            for micro_batch, index in iter_microbatches(policy, rollout, rows, training.max_tokens):
                with policy.autocast(), torch.set_grad_enabled(learning):
                    states = shared_states(training, micro_batch)
                with policy.autocast():
                    values = values_of(training, micro_batch, states)
                losses = value_loss(
                    values, batch.values[index], batch.returns[index], config.ppo.cliprange_value
                )
                loss = (weights[index] * losses).sum()
                loss.backward()
                sums["value_loss"] += loss.item()
                if critic.trunk or not learning:
                    count_flops(sums, critic.trunk or policy.model, micro_batch)
                if learning:
                    losses = policy_losses(training, micro_batch, states, index, rollout, batch, sums)
                    loss = (weights[index] * losses).sum()
                    loss.backward()
                    sums["policy_loss"] += loss.item()
                    count_flops(sums, policy.model, micro_batch)
            training.apply_step("critic", rates[1], sums["value_loss"])
            sums["value_updates"] += 1
            if learning:
                sums["grad_norm"] += training.apply_step("policy", rates[0], sums["policy_loss"])
                sums["updates"] += 1
    return sums.over_ranks()


def policy_losses(
    training: RolloutTraining,
    micro_batch: Batch,
    states: Tensor | None,
    index: tuple[Tensor, Tensor],
    rollout: Rollout,
    batch: AdvantageBatch,
    sums: Sums,
) -> Tensor:
    """L_policy before the mean: the loss of each of N tokens. `index` and `states`: see `update`."""
    policy, ppo, temperature = training.policy, training.config.ppo, training.config.rollout.temperature
    with policy.autocast():
        scored = completion_logprobs(policy.model, micro_batch, temperature, ppo.entropy_coef > 0, states)
    old, advantages = rollout.logprobs[index], batch.advantages[index]
    change = scored.logprobs - old
    accumulate_stats(sums, change, change, advantages, ppo.epsilon, ppo.epsilon_high)
    losses = policy_loss(scored.logprobs, old, advantages, ppo.epsilon, ppo.epsilon_high)
    if ppo.kl_coef and ppo.kl_in == "loss":
        losses = losses + ppo.kl_coef * kl_estimate(scored.logprobs, batch.reference[index], ppo.kl_estimator)
    if scored.entropy is not None:
        losses = losses - ppo.entropy_coef * scored.entropy
    return losses


def train(
    config: Config, on_progress: Progress = silent, reward_fn: RewardFn | None = None
) -> dict[str, Any]:
    """Train the policy of `config`, or continue a killed run; returns the run's summary (docs/metrics.md).

    Raises `InputError` for settings that cannot work, `NothingToLearn` where the run teaches nothing.
    """
    with Run.open(config) as run:
        if summary := run.finished("ppo"):
            return summary
        training = RolloutTraining.begin(
            run, on_progress, reward_fn, kl_coef=config.ppo.kl_coef, critic=config.ppo.critic
        )
        for step in training.steps():
            with training.phase("generate"):
                rollout = training.draw()
            with training.phase("score"):
                measured, reference = training.measure(rollout, step)
                batch = estimate(rollout, score_values(training, rollout), reference, config)
            with training.phase("update"), training.stopping(step, rollout.examples):
                rates = [
                    training.schedule.learning_rate(config.train, step, peak)
                    for peak in (config.train.learning_rate, config.ppo.critic_learning_rate)
                ]
                sums = update(training, rollout, batch, (rates[0], rates[1]), step)
            values, returns = batch.values[rollout.mask], batch.returns[rollout.mask]
            metrics = {
                **measured,
                "value": values,
                "explained_variance": explained_variance(values, returns),
                "value_loss": sums["value_loss"] / max(1, sums["value_updates"]),
            }
            rate = rates[0] if sums["updates"] else 0.0
            training.end_rollout(rollout, batch.advantages, sums, rate, metrics)
        return training.finish("ppo")
