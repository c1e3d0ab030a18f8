"""Invariant 12: where the best action is known, PPO, GRPO and RLOO find it, from three seeds.

One token is drawn: a digit pays 1, a letter 0.3, anything else nothing. Letters are five times as many, so
that what is found first is the second best.
"""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from .invariants import Code, Scene, problems_of

PROBLEMS = problems_of(Code("reckoner"), [str(number) for number in range(8)])


def pay(answer, *_):
    text = answer.text.strip()
    total = 1.0 if text.isdigit() else 0.3 if text.isalpha() else 0.0
    return SimpleNamespace(total=total, parts={"correct": total})


def play(tiny, method, seed, *settings, steps=25):
    """Train on the bandit; the mean reward of the first and of the last steps."""
    scene = Scene(
        Code("reckoner"),
        tiny,
        f"run.seed={seed}",
        "rollout.num_prompts=8",
        "rollout.num_generations=8",
        *settings,
        reward_fn=pay,
        problems=PROBLEMS,
    )
    scene.sampler.sampling = dataclasses.replace(scene.sampler.sampling, max_new_tokens=1)
    algorithm, optim = scene.code(f"algorithms.{method}"), scene.code("engine.optim")
    optimizer = optim.make_optimizer(scene.policy.model.named_parameters(), betas=(0.9, 0.95))
    critic = scene.code("models.critic").Critic(32)
    critic_optimizer = optim.make_optimizer(critic.named_parameters())
    rewards = []
    for step in range(1, steps + 1):
        rollout = scene.draw(8 * (step - 1))
        rewards.append(rollout.rewards.mean().item())
        reference = torch.zeros_like(rollout.logprobs)
        if method == "grpo":
            batch = algorithm.estimate(rollout, reference, scene.config)
            algorithm.update(scene.training(optimizer), rollout, batch, 3e-3, step)
        else:
            training = scene.training(optimizer, critic, critic_optimizer)
            values = algorithm.score_values(training, rollout)
            batch = algorithm.estimate(rollout, values, reference, scene.config)
            algorithm.update(training, rollout, batch, (3e-3, 3e-2), step)
    return sum(rewards[:2]) / 2, sum(rewards[-3:]) / 3


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    "method, settings",
    [("ppo", []), ("grpo", []), ("grpo", ["grpo.advantage=rloo"])],
    ids=["ppo", "grpo", "rloo"],
)
def test_finds_the_best_action(method, settings, seed, tiny):
    before, after = play(tiny, method, seed, *settings)
    assert before < 0.4
    assert after > 0.95
