"""Proximal policy optimisation (Schulman 2017) with a critic and generalised advantages (GAE, Schulman 2015).

As in InstructGPT (Ouyang 2022), a completion is an episode: the state s_t is the prompt and y_<t, the action is token y_t,
the stop token is the last action, and the grader's reward r comes with it. T is the number of actions.

    r_t      = r [t = T]  -  beta KL_t                            the second term where kl_in = "reward"
    delta_t  = r_t + gamma V(s_t+1) - V(s_t)                      V = 0 after the last action
    A_t      = sum_l (gamma lam)^l delta_t+l                      by A_t = delta_t + gamma lam A_t+1
    R_t      = A_t + V(s_t)                                       what the critic should have said
    A_t     <- (A_t - mean) / std                                 over the tokens of the step (whiten_advantages)
    rho_t    = pi_theta(y_t | s_t) / pi_old(y_t | s_t)
    L_policy = - 1/N sum [ min(rho_t A_t, clip(rho_t, 1 - epsilon, 1 + epsilon_high) A_t) - beta KL_t + c H(pi_theta | s_t) ]
                                                                  the KL here where kl_in = "loss"
    L_value  =   1/N sum  1/2 max( (V - R_t)^2, (clip(V, V_old - cliprange_value, V_old + cliprange_value) - R_t)^2 )

N is the number of tokens in the optimizer step. gamma = lam = 1 by default: the reward is one number at the end, and with
less it would be all but gone at the tokens that earned it (0.99 x 0.95 leaves 3e-4 of it after 130). Then A_t = r - V(s_t).

The critic is a copy of the policy with a head of zeros (models/critic.py), or such a head on the policy's own features,
detached; it has its own optimizer and rate, and may learn alone first (value_warmup_steps, VC-PPO). So there is no
vf_coef. pi_old is whoever drew the tokens, with the log-probs it reported. LoRA is a property of the policy; its
reference is the policy with adapters off.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from reckoner.config import Config, PeftConfig
from reckoner.engine.batches import Batch
from reckoner.engine.logprobs import completion_logprobs, completion_states
from reckoner.engine.optim import apply_step, make_optimizer
from reckoner.machine import peak_memory_bytes
from reckoner.models.critic import Critic
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
    Reference,
    RewardFn,
    Rollout,
    Sampler,
    TokenIndex,
    iter_microbatches,
    mini_batches,
    reward,
    without_dropout,
)


def token_rewards(rewards: Tensor, mask: Tensor, penalty: Tensor | None = None) -> Tensor:
    """r_t [B, T]: the reward [B] at the last token of its row, less `penalty` [B, T] at every token."""
    following = torch.nn.functional.pad(mask[:, 1:], (0, 1))
    paid = rewards[:, None] * (mask & ~following)
    return paid if penalty is None else paid - penalty * mask


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    """A_t [B, T] of r_t and V(s_t) [B, T]; tokens are at the left of each row, and what is outside `mask` counts as 0.

    Example: rewards 0, 0, 1 and values 0.5, 0.5, 0.5 give 0.5, 0.5, 0.5 with gamma = lam = 1, and 0, 0, 0.5 with lam = 0.
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
    """Mean 0 and variance 1 over the tokens in `mask` [B, T], 0 elsewhere; all 0 where the advantages are all equal."""
    tokens = advantages[mask]
    if len(tokens) == 0 or tokens.amin() == tokens.amax():
        return torch.zeros_like(advantages)
    spread = (tokens - tokens.mean()).square().mean().sqrt()
    return (advantages - tokens.mean()) / spread * mask


def policy_loss(
    logprobs: Tensor, old: Tensor, advantages: Tensor, epsilon: float, epsilon_high: float
) -> Tensor:
    """The clipped surrogate, negated, for each of N tokens: - min(rho A, clip(rho, 1 - epsilon, 1 + epsilon_high) A)."""
    ratio = (logprobs - old).exp()
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon_high)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def value_loss(values: Tensor, old: Tensor, returns: Tensor, cliprange: float) -> Tensor:
    """Half the squared error of each of N values, the larger of those with and without the clip; `cliprange=0` never clips."""
    loss = (values - returns).square() / 2
    if not cliprange:
        return loss
    clipped = torch.maximum(torch.minimum(values, old + cliprange), old - cliprange)
    return torch.maximum(loss, (clipped - returns).square() / 2)


def kl_estimate(logprobs: Tensor, reference: Tensor, estimator: str) -> Tensor:
    """KL(pi_theta || pi_ref) at each token drawn from pi_theta (Schulman 2020), with d = log pi_ref - log pi_theta.

    k1 = -d is unbiased but can be negative, and as a loss its mean gradient is 0; k2 = d^2 / 2 has the right gradient;
    k3 = exp(d) - d - 1 is unbiased and never negative.
    """
    d = reference - logprobs
    return {"k1": -d, "k2": d.square() / 2, "k3": d.exp() - d - 1}[estimator]


def shared_states(critic: Critic, policy: Policy, batch: Batch) -> Tensor | None:
    """The policy's hidden states [N, H] where the critic reads them too, so that one forward pass serves both; else None."""
    return completion_states(policy.model, batch) if critic.trunk is None else None


def values_of(critic: Critic, batch: Batch, states: Tensor | None) -> Tensor:
    """V(s_t) [N]: what the critic expects before each token of the batch is drawn, from `shared_states` or its own trunk."""
    return critic(completion_states(critic.trunk, batch) if states is None else states.detach())


@torch.no_grad()
def score_values(critic: Critic, policy: Policy, rollout: Rollout, max_tokens: int) -> Tensor:
    """V_old [B, T], 0 outside the mask."""
    values = torch.zeros_like(rollout.logprobs)
    for batch, place in iter_microbatches(policy, rollout, range(len(rollout.examples)), max_tokens):
        with policy.autocast():
            values[place] = values_of(critic, batch, shared_states(critic, policy, batch))
    return values


def explained_variance(values: Tensor, returns: Tensor) -> float | None:
    """1 - Var(R - V) / Var(R) over N tokens: 1 is a perfect critic, 0 one that says a constant. None where all R are equal."""
    total = returns.var().item() if len(returns) > 1 else 0.0
    return 1 - (returns - values).var().item() / total if total else None


def make_critic(config: Config, policy: Policy) -> Critic:
    """The critic of `ppo.critic`, on the policy's device; a trunk trains all its weights, whatever the policy's adapter."""
    trunk = (
        load_policy(config.model, PeftConfig(), train=True).model if config.ppo.critic == "trunk" else None
    )
    return Critic(policy.model.config.get_text_config().hidden_size, trunk).to(policy.device)


@dataclass(frozen=True)
class AdvantageBatch:
    """What is known about each token of a rollout before the first update; all [B, T]."""

    values: Tensor  # V_old
    returns: Tensor
    advantages: Tensor  # whitened where wanted
    reference: Tensor  # log pi_ref


def estimate(rollout: Rollout, values: Tensor, reference: Tensor, config: Config) -> AdvantageBatch:
    """Rewards, GAE and returns of one rollout, from V_old and log pi_ref [B, T].

    Where all rewards are equal, whitening would blow up the critic's error and the KL to full size: then the advantages are 0.
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
    policy: Policy,
    critic: Critic,
    optimizers: tuple[Optimizer, Optimizer],
    rollout: Rollout,
    known: AdvantageBatch,
    plan: Plan,
    config: Config,
    rates: tuple[float, float],
    step: int,
) -> Counter[str]:
    """The optimizer steps over one rollout; returns sums (see `monitor`). `optimizers` and `rates`: the policy's, the critic's.

    Each loss is a sum over tokens, divided once by the tokens of the optimizer step, so that the size of a pass changes nothing.
    """
    sums, learning = Counter(), step > config.ppo.value_warmup_steps
    learnable = rollout.learnable(config.rollout.mask_truncated_completions)
    rows = learnable.any(-1).nonzero()[:, 0].tolist()
    for iteration in range(config.rollout.num_iterations):
        for part in mini_batches(rows, config.rollout.num_mini_batches, config.run.seed, step, iteration):
            weights = learnable / learnable[part].sum()
            for batch, place in iter_microbatches(policy, rollout, part, plan.max_tokens):
                with policy.autocast(), torch.set_grad_enabled(learning):
                    states = shared_states(critic, policy, batch)
                with policy.autocast():
                    values = values_of(critic, batch, states)
                losses = value_loss(
                    values, known.values[place], known.returns[place], config.ppo.cliprange_value
                )
                (weights[place] * losses).sum().backward()
                if critic.trunk or not learning:
                    count_flops(sums, critic.trunk or policy.model, batch)
                sums["value_loss"] += (weights[place] * losses.detach()).sum().item()
                if learning:
                    loss = (
                        weights[place]
                        * policy_losses(policy, batch, states, place, rollout, known, config, sums)
                    ).sum()
                    loss.backward()
                    sums["policy_loss"] += loss.item()
                    count_flops(sums, policy.model, batch)
            apply_step(
                optimizers[1], critic.parameters(), rates[1], config.train.max_grad_norm, sums["value_loss"]
            )
            sums["value_updates"] += 1
            if learning:
                sums["grad_norm"] += apply_step(
                    optimizers[0],
                    policy.model.parameters(),
                    rates[0],
                    config.train.max_grad_norm,
                    sums["policy_loss"],
                )
                sums["updates"] += 1
    return sums


def policy_losses(
    policy: Policy,
    batch: Batch,
    states: Tensor | None,
    place: TokenIndex,
    rollout: Rollout,
    known: AdvantageBatch,
    config: Config,
    sums: Counter[str],
) -> Tensor:
    """L_policy before the mean: the loss of each of the batch's N tokens, differentiable. `states`: see `shared_states`."""
    ppo = config.ppo
    with policy.autocast():
        scored = completion_logprobs(
            policy.model, batch, config.rollout.temperature, ppo.entropy_coef > 0, states
        )
    old, advantages = rollout.logprobs[place], known.advantages[place]
    accumulate_stats(sums, scored.logprobs, old, advantages, ppo.epsilon, ppo.epsilon_high)
    losses = policy_loss(scored.logprobs, old, advantages, ppo.epsilon, ppo.epsilon_high)
    if ppo.kl_coef and ppo.kl_in == "loss":
        losses = losses + ppo.kl_coef * kl_estimate(scored.logprobs, known.reference[place], ppo.kl_estimator)
    if ppo.entropy_coef:
        losses = losses - ppo.entropy_coef * scored.entropy
    return losses


def train(config: Config, on_progress: Progress = silent, judge: RewardFn = reward) -> dict[str, Any]:
    """Train the policy of `config`, or go on where a killed run was; returns the run's summary (docs/metrics.md).

    Raises `InputError` for settings that cannot work, `NothingToLearn` where the run teaches nothing.
    """
    with Run.open(config) as run:
        if summary := run.finished("ppo"):
            return summary
        peak_memory_bytes(reset=True)
        torch.manual_seed(stream_seed(config.run.seed, "adapter"))
        policy = load_policy(config.model, config.peft, train=True)
        material = prepare(run, policy)
        sampler = Sampler(run, policy, material, judge)
        plan = Plan.of(config, sampler)
        reference = Reference(policy, config, config.ppo.kl_coef)
        critic = make_critic(config, policy)
        betas, decay = (0.9, config.train.adam_beta2), config.train.weight_decay
        optimizer, critic_optimizer = (
            make_optimizer(module.named_parameters(), config.train.optim, decay, betas)
            for module in (policy.model, critic)
        )
        optimizers = {"policy": (policy.model, optimizer), "critic": (critic, critic_optimizer)}
        position = resume(run, optimizers, on_progress)
        guard = Guard(run, position.step, sampler.most)
        on_progress("train", position.step, plan.steps, plan.banner(config, policy, reference, critic))

        while True:
            if plan.evaluates(position.step) and not position.evaluated:
                evaluate_dev(run, policy, material, position, on_progress)
            if position.step == 0:
                save(run, optimizers, position)  # the start may remain the best
            if plan.over(config, position) or guard.solved:
                break

            clock, step = Clock(on_progress), position.step + 1
            without_dropout(policy.model), without_dropout(critic)
            with clock.phase("generate"):
                episodes = sampler.draw(position.samples, plan.prompts, on_progress)
                rollout = Rollout.of(episodes, policy.device)
            with clock.phase("score"):
                measured = guard.check_sampler(policy, rollout, step, plan.max_tokens)
                pi_ref, scored = reference.logprobs(rollout, plan.max_tokens)
                values = score_values(critic, policy, rollout, plan.max_tokens)
                known = estimate(rollout, values, pi_ref, config)
            with (
                clock.phase("update"),
                stopping(run, optimizers, step, [episode.problem.id for episode in episodes]),
            ):
                rates = (
                    plan.rate(config, step, config.train.learning_rate),
                    plan.rate(config, step, config.ppo.critic_learning_rate),
                )
                sums = update(
                    policy, critic, (optimizer, critic_optimizer), rollout, known, plan, config, rates, step
                )

            save_rollouts(
                run.folder,
                step,
                episodes,
                [row[mask].tolist() for row, mask in zip(known.advantages, rollout.mask, strict=True)],
            )
            plan.advance(position, episodes, sums, policy.model, 1 + bool(config.ppo.kl_coef), clock)
            line = {
                **position.costs,
                **describe(episodes, plan.generations),
                **measured,
                "kl_reference": mean(kl_estimate(rollout.logprobs, pi_ref, "k3")[scored]),
                "value": mean(values[rollout.mask]),
                "explained_variance": explained_variance(values[rollout.mask], known.returns[rollout.mask]),
                "value_loss": sums["value_loss"] / max(1, sums["value_updates"]),
                **summarise(sums),
                "learning_rate": rates[0] if sums["updates"] else 0.0,
                **clock.seconds,
            }
            if step % config.run.logging_steps == 0 or step == plan.steps:
                run.log(**line)
            if plan.saves(step):
                save(run, optimizers, position)
            on_progress("train", step, plan.steps, f"reward {line['reward']:.3f}")
            guard.check(line)

        return finish(run, policy, optimizers, position, "ppo")
