"""Direct preference optimisation (Rafailov 2023) on the policy's own completions, and IPO (Azar 2023).

Each step draws G completions of P prompts from the policy. In each group the best paid completion y_w is
paired with the worst paid y_l, the second best with the second worst, while their rewards differ. Then

    m(y)  = log pi_theta(y | x) - log pi_ref(y | x)
            over |y| with `length_normalized`, so that long ones weigh no more (Meng 2024, Lambert 2024)
    h     = m(y_w) - m(y_l)
    L     = mean over pairs of  - log sigmoid(beta h)         "dpo"
            mean over pairs of  (h - 1 / (2 beta))^2          "ipo"   stays bounded where a pair is certain

pi_ref is the policy that training began with. One step over everything is the offline method of the papers;
several are online DPO (Guo 2024), whose pairs come from the policy as it is. Log-probs are those at the
temperature of sampling, and the stop token belongs to y.

Deviations: IPO's authors and TRL's `ipo` average log-probs over tokens; here that is `length_normalized` for
either loss. No labels are smoothed, and no term keeps the likelihood of y_w up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reckoner.config import Config
from reckoner.engine.logprobs import completion_logprobs
from reckoner.runs.folder import Progress, Run, silent
from reckoner.training.metrics import Sums, count_flops
from reckoner.training.rl import RolloutTraining
from reckoner.training.rollouts import RewardFn, Rollout, iter_microbatches, mini_batches

Pair = tuple[int, int]
"""Indices of y_w and y_l in the rollout."""


def make_pairs(rollout: Rollout, config: Config) -> list[Pair]:
    """The pairs of each group, best against worst; at most `max_pairs`, and none of equal rewards or tokens.

    Example: rewards 0, 1, 1, 0, 0 give (1, 4) and (2, 3).
    """
    pairs, size = [], config.rollout.num_generations
    rewards, examples = rollout.rewards.tolist(), rollout.examples
    masked = (
        rollout.truncated.tolist() if config.rollout.mask_truncated_completions else [False] * len(rewards)
    )
    for start in range(0, len(rewards), size):
        group = [i for i in range(start, start + size) if not masked[i]]
        ranked = sorted(group, key=lambda i: -rewards[i])
        both = zip(ranked[: len(ranked) // 2], reversed(ranked), strict=False)
        differing = [
            (best, worst)
            for best, worst in both
            if rewards[best] > rewards[worst]
            and examples[best].completion_ids != examples[worst].completion_ids
        ]
        pairs += differing[: config.dpo.max_pairs]
    return pairs


def preference_loss(margins: Tensor, beta: float, kind: str = "dpo") -> Tensor:
    """The loss of each of N pairs from h [N]."""
    if kind == "ipo":
        return (margins - 1 / (2 * beta)).square()
    return -F.logsigmoid(beta * margins)


def pair_margins(
    logprobs: Tensor, reference: Tensor, rows: Tensor, pairs: Sequence[Pair], length_normalized: bool
) -> Tensor:
    """h of each pair from log pi_theta and log pi_ref of N tokens and the completion `rows` [N] of each."""
    count = rows.bincount()
    ratios = logprobs.new_zeros(len(count)).index_add(0, rows, logprobs - reference)
    if length_normalized:
        ratios = ratios / count.clamp(min=1)
    best, worst = torch.tensor(pairs, dtype=torch.int64, device=rows.device).view(-1, 2).T
    return ratios[best] - ratios[worst]


def update(
    training: RolloutTraining,
    rollout: Rollout,
    pairs: Sequence[Pair],
    reference: Tensor,
    rate: float,
    step: int,
) -> Sums:
    """The optimizer steps over the pairs of one rollout; returns sums.

    Both of a pair share a forward pass, so that the size of a pass changes no gradient.
    """
    policy, config = training.policy, training.config
    sums = Sums()
    at_once = max(1, config.train.per_device_train_batch_size // 2)
    for iteration in range(config.rollout.num_iterations):
        for chosen in mini_batches(
            range(len(pairs)), config.rollout.num_mini_batches, config.run.seed, step, iteration
        ):
            loss_of_step = 0.0
            passes = [chosen[start : start + at_once] for start in range(0, len(chosen), at_once)]
            for part in training.share_of_rank(passes):
                some = [pairs[i] for i in part]
                rows = sorted({row for pair in some for row in pair})
                (micro_batch, index), *_ = iter_microbatches(policy, rollout, rows, 10**9, shared=False)
                with policy.autocast():
                    logprobs = completion_logprobs(
                        policy.model, micro_batch, config.rollout.temperature
                    ).logprobs
                normalized = config.dpo.length_normalized
                margins = pair_margins(logprobs, reference[index], index[0], some, normalized)
                loss = preference_loss(margins, config.dpo.beta, config.dpo.loss).sum() / len(chosen)
                loss.backward()
                loss_of_step += loss.item()
                sums["margin"] += margins.sum().item()
                sums["preferred"] += int((margins > 0).sum())
                sums["tokens"] += len(logprobs)
                count_flops(sums, policy.model, micro_batch)
            sums["grad_norm"] += training.apply_step("policy", rate, loss_of_step)
            sums["loss"] += loss_of_step
            sums["pairs"] += len(chosen)
            sums["updates"] += 1
    return sums.over_ranks()


def train(
    config: Config, on_progress: Progress = silent, reward_fn: RewardFn | None = None
) -> dict[str, Any]:
    """Train the policy of `config`, or continue a killed run; returns the run's summary (docs/metrics.md).

    Raises `InputError` for settings that cannot work, `NothingToLearn` where no two completions ever differ.
    """
    with Run.open(config) as run:
        if summary := run.finished("dpo"):
            return summary
        training = RolloutTraining.begin(
            run, on_progress, reward_fn, kl_coef=config.dpo.beta, least_generations=2
        )
        for step in training.steps():
            with training.phase("generate"):
                rollout = training.draw()
                pairs = make_pairs(rollout, config)
            with training.phase("score"):
                measured, reference = training.measure(rollout, step)
            with training.phase("update"), training.stopping(step, rollout.examples):
                rate = training.schedule.learning_rate(config.train, step, config.train.learning_rate)
                sums: Any = update(training, rollout, pairs, reference, rate, step)
            preferred = torch.zeros_like(rollout.rewards)
            for best, worst in pairs:
                preferred[best], preferred[worst] = 1.0, -1.0
            metrics = {
                **measured,
                "pairs": len(pairs),
                **({"loss": sums["loss"] / sums["updates"]} if pairs else {}),
                "margin": sums["margin"] / sums["pairs"] if pairs else None,
                "preferred": sums["preferred"] / sums["pairs"] if pairs else None,
            }
            training.end_rollout(rollout, preferred, sums, rate, metrics)
        return training.finish("dpo")
